"""A change of pattern is all or nothing. Momentum and other optimizer state move with the weights."""
