"""Scales in which several are merged: experts, branches of a condition, steps that were joined."""

from __future__ import annotations

import math

from vdvae_patch.composition import Step
from vdvae_patch.scanning.chain import Chain, descend, power_of
from vdvae_patch.scanning.cuts import Cut, argument
from vdvae_patch.scanning.graph import Node
from vdvae_patch.scanning.replay import Expression, Spot, pieces, settle

_MOST_EXPERTS = 16


def merged(chain: Chain, suffix: tuple[Step, ...]) -> tuple[list[Spot], tuple[Step, ...]] | None:
    """For a scale in which several are merged, these, and the steps from each to a σ of its own; else None.

    Precisions or variances are added up, one by one or along a dimension in which they were stacked, or a condition
    chooses between two.
    """
    begin, node = chain.begin, chain.begin.node
    if chain.end in ("precisions", "variances"):
        learned = [n for n in node.inputs if n.params]
        exponent = -0.5 if chain.end == "precisions" else 0.5
        return [Spot(n, Expression.cuts_for(begin, n)) for n in learned], (Step("pow", (exponent,)),)
    if node.op == "where" and chain.end == "several":
        branches = [Spot(n, Expression.cuts_for(begin, n)) for n in node.args[1:] if isinstance(n, Node) and n.params]
        read = [key for branch in branches for key, leaf in Expression(branch).leaves.items() if leaf.node.params]
        if len(branches) == 2 and len(read) == len(set(read)):  # else it is one function, in two pieces
            return branches, (*chain.steps, *suffix)
    if node.op == "sum" and chain.end == "raw":
        if math.prod(node.shape) == math.prod(node.inputs[0].shape):  # of one expert
            return [Spot(node.inputs[0])], (*chain.steps, *suffix)
        return _stacked_experts(chain)
    if node.op in ("cat", "stack") and chain.end == "raw":
        parts = pieces(begin)
        return (parts, (*chain.steps, *suffix)) if 1 < len(parts) <= _MOST_EXPERTS else None
    if node.op == "add" and chain.end == "sum":
        blended = [_masked(Spot(n, Expression.cuts_for(begin, n))) for n in node.inputs if n.params]
        known = [spot for spot in blended if spot is not None]
        return (known, (*chain.steps, *suffix)) if len(known) == 2 else None
    return None


def _masked(spot: Spot) -> Spot | None:
    """What is multiplied by a mask, as one branch of (1 − t) a + t b is; else None."""
    spot = settle(spot)
    if spot.node.op not in ("mul", "multiply") or len(spot.node.inputs) != 2:
        return None
    learned = [n for n in spot.node.inputs if n.params]
    masks = [n for n in spot.node.inputs if not n.params and not n.noise and math.prod(n.shape) > 1]
    return Spot(learned[0], Expression.cuts_for(spot, learned[0])) if len(learned) == len(masks) == 1 else None


def _stacked_experts(chain: Chain) -> tuple[list[Spot], tuple[Step, ...]] | None:
    source = chain.begin.node.inputs[0]
    dims = argument(chain.begin.node, 1, "dim", None)
    exponent = power_of(chain.steps)
    if not isinstance(dims, list | tuple) or len(dims) != 1 or exponent is None:
        return None
    if not math.isclose(abs(exponent), 0.5, rel_tol=1e-4):
        return None
    dim = dims[0] % len(source.shape)
    size = source.shape[dim]
    if not 1 < size <= _MOST_EXPERTS:
        return None
    experts = [Spot(source, (Cut(dim, place, 1, size),)) for place in range(size)]
    learned = [e for e in experts if descend(e).end != "constant"]
    if len({descend(e).begin.key for e in learned}) < 2:
        return None
    return learned, (Step("pow", (math.copysign(0.5, exponent),)),)
