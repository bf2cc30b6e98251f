"""Growth: which absent weights are candidates, and the gradients that rank them. A file for each way to grow."""

from .by_chance import uniform, uniform_by_size, uniform_elsewhere
from .by_dense_gradient import dense_gradient
from .by_sampled_gradient import flat, gradient_bound, gradient_estimate, guided, sampled_gradient, synaptic_flow
from .growth import Growth

__all__ = [
    "Growth",
    "dense_gradient",
    "flat",
    "gradient_bound",
    "gradient_estimate",
    "guided",
    "sampled_gradient",
    "synaptic_flow",
    "uniform",
    "uniform_by_size",
    "uniform_elsewhere",
]
