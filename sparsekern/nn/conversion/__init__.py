"""Conversion of models: layers are found, exchanged, and accounted for."""
