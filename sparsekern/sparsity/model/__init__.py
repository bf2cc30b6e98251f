"""The model as its user holds it: what wraps it, and how it is called."""
