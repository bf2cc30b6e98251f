"""The model as its user holds it: in wrappers, and called with batches of any structure."""
