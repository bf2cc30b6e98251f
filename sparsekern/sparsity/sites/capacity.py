"""Decides how much room a layer has for weights that may grow."""


def capacity_for_growth(nnz: int, size: int, total: int, layers: int) -> int:
    """Returns the capacity of a layer whose nonzeros may become more: an eighth more than `nnz`, and a quarter of the
    average layer, but not more than `size`.

    Args:
        total: nonzeros of all `layers` layers.
    """
    return min(size, int(1.125 * nnz + 0.25 * total / layers) + 1)
