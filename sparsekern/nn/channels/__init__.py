"""Channels of a network: which are one and the same, which are constant, and how they are removed."""
