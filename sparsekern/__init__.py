"""Sparse training of neural networks that saves time and memory."""

__version__ = "0.1.0"
