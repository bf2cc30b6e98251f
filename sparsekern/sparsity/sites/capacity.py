"""How much room a layer has for weights that may come."""


def roomy(nnz: int, size: int, total: int, layers: int) -> int:
    """The capacity of a layer whose count may grow, for `total` weights in `layers` layers."""
    return min(size, int(1.125 * nnz + 0.25 * total / layers) + 1)
