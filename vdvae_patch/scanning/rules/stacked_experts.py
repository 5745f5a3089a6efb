"""Precisions that lie behind each other along a dimension, and are added up there, are experts.

    logs = torch.stack([torch.zeros_like(a), a, b])
    sigma = torch.exp(-logs).sum(0) ** -0.5
    log_var = -torch.logsumexp(-logs, 0)        # or so

Each of the stacked log variances is a head of its own; the zeros are the prior's, and a constant. So is each variance
of an ensemble's networks, of which a mean is taken, `torch.stack(variances).mean(0)`. A sum of stacked raw values,
`torch.exp(torch.stack([a, b]).sum(0))`, is one scale, and the sum its raw value. A sum of squares is a norm of what a
network puts out, whatever its sign, and no sum of variances. `chain.HALF` has the tolerance within which σ counts as a
root of the sum, or of its inverse.
"""

from __future__ import annotations

import itertools
import math

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import HALF, Chain, descend, power_of
from vdvae_patch.scanning.arithmetic.cuts import Cut, argument
from vdvae_patch.scanning.arithmetic.expression import Spot
from vdvae_patch.scanning.rules.stages import Merged, merges

MOST_EXPERTS = 16
"""A limit of work: each piece is walked back from by itself. Experts are modalities, of which models have a handful; a
dimension of more than 16 is one of places, time steps or features, whose pieces come from one output anyway."""


@merges.rule()
def stacked_experts(chain: Chain, suffix: tuple[Step, ...]) -> Merged | None:
    """Take a sum of precisions or variances apart along the dimension in which they were stacked."""
    node = chain.begin.node
    if node.op == "logsumexp":
        return _of_logarithms(chain, suffix)
    if node.op not in ops.TOTALS or chain.end != "raw" or math.prod(node.shape) == math.prod(node.inputs[0].shape):
        return None
    source = node.inputs[0]
    # an eps, as gaussian_nll_loss has it, before the root is taken
    limits = tuple(itertools.takewhile(lambda step: step.name == "clip", chain.steps))
    dims, exponent = argument(node, 1, "dim", None), power_of([*chain.steps[len(limits) :], *suffix])
    if not isinstance(dims, list | tuple) or len(dims) != 1 or exponent is None:
        return None
    if not math.isclose(abs(exponent), 0.5, rel_tol=HALF):
        return None
    dim = dims[0] % len(source.shape)
    size = source.shape[dim]
    if not 1 < size <= MOST_EXPERTS:
        return None
    experts = [Spot(source, (Cut(dim, place, 1, size),)) for place in range(size)]
    learned = [expert for expert in experts if descend(expert).end != "constant"]
    if any(_is_magnitude(descend(expert)) for expert in learned):
        return None
    if len({descend(expert).begin.key for expert in learned}) < 2:
        return None
    return Merged(learned, (*limits, Step("pow", (math.copysign(0.5, exponent),))))


def _of_logarithms(chain: Chain, suffix: tuple[Step, ...]) -> Merged | None:
    """Take `-torch.logsumexp(-logs, 0)` apart, the log variance of a product, or that of a sum of variances."""
    node = chain.begin.node
    source, dims = node.inputs[0], argument(node, 1, "dim", None)
    dims = dims if isinstance(dims, list | tuple) else [dims]
    log = (Step("log"), *chain.steps, *suffix)
    exponent = power_of(log)
    if chain.end != "raw" or len(dims) != 1 or exponent is None or not isinstance(dims[0], int):
        return None
    dim = dims[0] % len(source.shape)
    size = source.shape[dim]
    if not math.isclose(abs(exponent), 0.5, rel_tol=HALF) or not 1 < size <= MOST_EXPERTS:
        return None
    experts = [Spot(source, (Cut(dim, place, 1, size),)) for place in range(size)]
    learned = [expert for expert in experts if descend(expert).end != "constant"]
    # steps of time or places of one output are pooled, and what comes of them is the raw value
    if not learned or len({descend(expert).begin.node.id for expert in learned}) < len(learned):
        return None
    return Merged(learned, (Step("mul", (math.copysign(0.5, exponent),)), Step("exp")))


def _is_magnitude(chain: Chain) -> bool:
    """Whether one addend is a square of a value that is computed by nothing that is positive."""
    return bool(chain.steps) and power_of(chain.steps) is not None
