"""A σ that a density or a KL has times a number of each row, as a precision ω beside the variances:

    squares / (2 * torch.exp(log_var) / omega) + 0.5 * (log_var - torch.log(omega))

The KL is that of σ / √ω, and no layer emits ω. Over the raw value it is σ times a factor, so that σ is what is left
without it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from vdvae_patch.composition import Composition, Step
from vdvae_patch.scanning.arithmetic.chain import Chain, descend
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Node
from vdvae_patch.scanning.evidence.reading import Reading

_SAME = 1e-9
"""How far the factor may vary over the raw values, relative to it: in float64 it varies by rounding alone."""


def without_weight(reading: Reading) -> Reading:
    """The reading of σ without the number of each row by which the host divides it or multiplies it; the reading as it
    is where there is none."""
    weight = weight_of(reading)
    if reading.chain.end != "several" or reading.term is None or weight is None:
        return reading
    chain = _past(reading.term.node, reading.raw, weight)
    if chain is None:
        return reading
    expression = Expression(reading.term.node)
    grid = torch.linspace(-4, 4, 17, dtype=torch.float64)
    own = Composition((*chain.steps, *reading.suffix)).sigma(grid)
    for tried in (0.25, 1.5):
        values = {key: torch.full_like(grid, tried) for key in expression.leaves} | {reading.raw.key: grid}
        sigma = expression.value(values)
        for step in reading.suffix:
            sigma = step.forward(sigma)
        factor = sigma / own
        if not torch.allclose(factor, factor[:1].expand_as(factor), rtol=_SAME, atol=0):
            return reading
    return replace(reading, chain=chain)


def weight_of(reading: Reading) -> Spot | None:
    """The number of each row that alone takes part in a density's σ beside the raw value; None if there is none."""
    if reading.term is None or reading.parts:
        return None
    leaves = Expression(reading.term.node).leaves
    others = [leaf for key, leaf in leaves.items() if key != reading.raw.key and leaf.node.params]
    is_one = reading.raw.key in leaves and len(others) == 1 and _is_of_rows(others[0], reading.raw)
    return others[0] if is_one else None


def _is_of_rows(weight: Spot, raw: Spot) -> bool:
    """Whether a value is a number of each row, where a raw value has several; no layer's output is one."""
    return weight.node.kind == "reduction" and len(weight.node.shape) < len(raw.node.shape)


def _past(end: Spot, raw: Spot, weight: Spot) -> Chain | None:
    """The way back from σ to its raw value, past the operations that bring in the weight."""
    steps: list[Step] = []
    nodes: list[Node] = []
    by_node: list[tuple[Step, ...]] = []
    spot = end
    for _ in range(_MOST):
        part = descend(spot)
        steps[:0], nodes[:0], by_node[:0] = part.steps, part.nodes, part.by_node
        spot = settle(part.begin)
        if spot.key == raw.key:
            return Chain(raw, "product", tuple(steps), tuple(nodes), tuple(by_node))
        operands = [Spot(n, Expression.cuts_for(spot, n)) for n in spot.node.inputs if n.params]
        own = [o for o in operands if weight.key not in Expression(o).leaves]
        if part.end in ("raw", "constant") or len(operands) != 2 or len(own) != 1:
            return None
        spot = own[0]
    return None


_MOST = 4
"""How often a weight is brought in on the way to one σ, at most: once in its log, or twice where it is a square."""
