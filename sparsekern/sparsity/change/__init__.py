"""A change of pattern is all or nothing: the transaction, and what it moves through the optimizer."""
