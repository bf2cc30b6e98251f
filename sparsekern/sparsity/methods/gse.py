"""Always-sparse training by guided stochastic exploration: growth by gradients of a sampled subset (Heddes et al.)."""

from dataclasses import replace

from .. import growth
from ..method import Method
from ..parts.distributions import Distribution
from ..parts.schedules import constant, cosine
from ..scoring.start import drawn
from .registry import listed, variant_of
from .request import Request

# The paper's number of changes, kept where a run is too short for the paper's period.
CHANGES = 46
COST = 2  # of a change, in training steps


@listed(
    "Memory-efficient DST, GraBo",
    paper="Heddes et al.",
    year=2024,
    changes="every 1000 steps until the second learning rate drop",
    gradient="active weights; a sampled subset at changes",
)
def gse_grabo(
    request: Request,
    *,
    multiplier: float = 10,
    batches: int = 1,
    rate: float = 0.2,
    every: int | None = None,
    stop: float = 0.6,
    share: str | Distribution = "uniform",
    initialize: str = "fan_in",
) -> Method:
    """Memory Efficient Dynamic Sparse Training, with the gradient bound as guide (Heddes et al.; later Always-Sparse
    Training by Growing Connections with Guided Stochastic Exploration, 2024, arXiv 2401.06898).

    At a change K = floor(rate_t |A|), rate_t = rate / 2 (1 + cos(pi t / T_end)). Each layer draws its share,
    proportional to its size, of `multiplier` K absent weights with probability proportional to
    sum_i |h_ia| * sum_i |delta_ib|; the K smallest |w| of the network are dropped and the K largest |dL/dw| of the
    subset grown at value 0. Nothing of the dense layers' size is ever made. What was dropped cannot return in the same
    round; the optimizer steps first, on the same batch.

    In a convolution channels take the part of units: sums run over space, too, and the positions of the kernel are
    alike (appendix C).

    The paper is followed where the official code differs. The code draws with replacement, tells the positions of the
    kernel apart, sizes a layer's subset by its active weights, takes all of a layer of half sparsity or less, computes
    dense gradients, changes the pattern before the training step on samples of its own, and grows before it prunes,
    which chooses the same weights if those just grown are protected. Draws that hit an active or a drawn weight are
    repeated 32 times at most, then chance supplies the rest, as many as the report calls `sampled_uniformly`.

    Args:
        multiplier: mu, the subset's size in units of K; the paper sweeps 1 to 10.
        batches: what sums over samples and gradients run over: 1, the step's own backward pass; more, passes of their
            own after the step over so many of `Sparsifier(batches=, loss=)`, two for each (one for the distributions,
            one for the gradients), their activations never alive at once. The official code has ceil(10 classes / 128):
            1 for CIFAR-10, 8 for CIFAR-100; the paper does not say.
        rate: the fraction exchanged at the first change.
        every: steps between changes, 1000 in the paper; shorter runs scale it to the paper's 46 changes, down to 20.
        stop: fraction of the run after which the pattern is frozen, the second learning rate drop (120 of 200 epochs).
        share: how the layers share the weights of the first pattern: "uniform", "er", "erk", "global".
        initialize: "fan_in" draws new weights for the pattern, uniform with variance 1 / fan-in of the row, as the
            official code; "evci" with variance 2 / fan-in (Evci et al. 2022, arXiv 2010.03533); "keep" keeps those of
            the model.
    """
    end = request.end(stop)
    return Method(
        request.name,
        constant(request.sparsity),
        request.paced(every, 1000, end, CHANGES, COST),
        start=drawn(share, initialize),
        grow=growth.sampled_gradient(growth.gradient_bound, multiplier, batches, cosine(rate, end)),
    )


@variant_of(gse_grabo, "Memory-efficient DST, random subset")
def gse_random(base: Method) -> Method:
    """Changes `gse_grabo` (arXiv 2401.06898): the subset is drawn uniformly over the absent weights of each layer."""
    return replace(base, grow=growth.guided(base.grow, growth.flat))


@variant_of(gse_grabo, "Memory-efficient DST, SynFlow")
def gse_synflow(base: Method) -> Method:
    """Changes `gse_grabo` (arXiv 2401.06898): the subset is drawn with probability proportional to the synaptic flow
    of absolute weights through the network (eq. 3), g_b f_a, the efferent flow of row b times the afferent flow of
    column a, when every input is 1.

    The network is linearised in float64 (`sparsity.scoring.linearised` says how each layer takes part), holding
    nonzeros only. Activations are left out, which the paper does not say. The shape of its input is that of what the
    model is called with in the step, or of the growth batches; only floating-point inputs can flow.
    """
    return replace(base, grow=growth.guided(base.grow, growth.synaptic_flow))


@variant_of(gse_grabo, "Memory-efficient DST, GraEst")
def gse_graest(base: Method) -> Method:
    """Changes `gse_grabo`: the subset is drawn with probability proportional to
    |sum_i xi_i h_ia| * |sum_i xi_i delta_ib|, with random signs xi_i = +-1 for the rows of the batch, shared by a
    layer's inputs and output gradients. Without the bars its expectation is dL/dw (Always-Sparse Training by Growing
    Connections with Guided Stochastic Exploration, Heddes et al. 2024, arXiv 2401.06898).

    Every layer and change draws signs of its own. A row of a convolution is an output position of a sample, and its
    columns are exact, per channel and position of the kernel, where the bound of `gse_grabo` takes the positions of the
    kernel for alike (appendix C). The official code's signs see the first position only.
    """
    return replace(base, grow=growth.guided(base.grow, growth.gradient_estimate))
