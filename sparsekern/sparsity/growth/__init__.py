"""Growth: which absent weights are candidates, and the gradients that rank them."""
