"""First patterns: the dense network is scored once, before training."""
