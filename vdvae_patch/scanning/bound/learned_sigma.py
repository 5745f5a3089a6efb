"""A squared error that is divided by a learned σ² is a Gaussian density: the factors on it are those of −log σ.

A loop may compare with the data step by step, column by column. Then one σ may be that of all steps, whose factors it
has together, or each step has a σ of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from vdvae_patch.scanning.bound.kl_factors import LogSigmaFactor, part_of
from vdvae_patch.scanning.bound.kl_of_what import DIFFER
from vdvae_patch.scanning.bound.reconstruction import Term
from vdvae_patch.scanning.bound.replay import Changes, Tail
from vdvae_patch.scanning.bound.rows import is_of_values

_UNEVEN = (
    "the factors on the density differ between elements, and not as those on the KL do: their mean is taken, and how "
    "often the KL counts is not the same everywhere"
)
_MOVED = 0.25
"""By how much a raw value of σ is moved to see what it weighs."""


class WithSigma(NamedTuple):
    """A comparison with its σ.

    Attributes:
        term: of a Gaussian density, if a σ is learned.
        steps: how many comparisons, steps of a loop, have that σ, whose factors it has together.
        sigma: its factors; None if none is learned.
    """

    term: Term
    steps: int = 1
    sigma: LogSigmaFactor | None = None


def with_learned_sigma(tail: Tail, term: Term, factors: Sequence[LogSigmaFactor]) -> WithSigma:
    """A squared error that is divided by a learned σ², as the Gaussian density that it is; another term as it is."""
    sigma = _sigma_of(tail, term, factors)
    if sigma is None:
        return WithSigma(term)
    own = (steps := _Steps(tail, term)).that_have(sigma)
    together = max(1, len(own))
    kept, note = -sigma.factors, term.note
    if sigma.count != term.at_node:  # one σ of several errors has the sum of their factors
        used = kept[kept != 0]  # others are masked
        uneven = len(used) and float(used.max() - used.min()) > DIFFER * abs(float(used.mean()))
        if uneven and not is_of_values(tail, term, sigma):
            note = _UNEVEN
        # of more σ than values each value has its own, and a mean over a sample would be of masked ones, too
        alone = sigma.count > term.at_node and len(used) and not uneven
        values = _count(own, term) / together or term.at_node
        kept = used.mean()[None] if alone else kept.mean()[None] * sigma.count / values
    siblings = _in_other_steps(sigma, factors)
    # a look at each takes the time of a pass
    alike = _are_alike(sigma, siblings) and together * (1 + len(siblings)) >= len(steps)
    known = [] if alike else [(other, gradients) for other in siblings if (gradients := steps.that_have(other))]
    others = [together * _by_value(other, _count(gradients, term)) for other, gradients in known]
    if any(_differs(other, kept) for other in others):
        kept = torch.cat([kept, *others])
    read = together + sum(len(gradients) for _, gradients in known)
    if not alike and read < len(steps) and not note:
        note = f"of the {len(steps)} comparisons in a loop the factors of {read} alone were read, and are taken"
    return WithSigma(replace(term, kind="Gaussian density", factors=kept, note=note), together, sigma)


def _sigma_of(tail: Tail, term: Term, factors: Sequence[LogSigmaFactor]) -> LogSigmaFactor | None:
    """What the errors of a term, of the first step of a loop, are divided by; None if that is not learned."""
    if term.errors is None or term.kind == "absolute error":  # the scale of a Laplace stands there in another power
        return None
    held: Changes = {term.node.id: partial(_as_it_was, tail.base[term.node.id])}  # only its weight may change
    before = tail.adjoints([term.node])[term.node.id]

    def stays(changes: Changes) -> bool:
        after = tail.adjoints([term.node], {**changes, **held})[term.node.id]
        return torch.allclose(before, after, rtol=1e-6, atol=0)

    some = [f for f in factors if bool(f.factors.any())]
    # most have no part in it: all are moved at once, each by a distance of its own, so that a ratio of two changes, too
    if stays({
        factor.reading.raw.node.id: partial(torch.add, other=_MOVED + _MOVED * (place * math.sqrt(2) % 1))
        for place, factor in enumerate(some)
    }):  # fmt: skip
        return None
    for factor in some:
        if factor.reading.raw.node.id == term.node.id:
            continue
        if factor.reading.evidence == "q":  # of a density whose variance is a sum, the posterior's has a KL's factor
            continue
        if stays(_moved(tail, factor)):
            continue
        if -float(factor.factors.sum()) * float(term.factors.sum()) < 0:
            continue  # a posterior's: draws are weighed by its density, as in an importance-weighted bound
        return factor
    return None


class _Steps:
    """The comparisons of a loop, and which of them have a σ."""

    def __init__(self, tail: Tail, term: Term) -> None:
        self._tail = tail
        self._nodes = list({node.id: node for node, _ in term.steps}.values())
        self._gradients = tail.adjoints(self._nodes)
        self._held: Changes = {node.id: partial(_as_it_was, tail.base[node.id]) for node in self._nodes}

    def __len__(self) -> int:
        return len(self._nodes)

    def that_have(self, sigma: LogSigmaFactor) -> list[Tensor]:
        """The gradients of the steps that are weighed by it."""
        moved = self._tail.adjoints(self._nodes, {**_moved(self._tail, sigma), **self._held})
        return [g for n, g in self._gradients.items() if not torch.allclose(g, moved[n], rtol=1e-6, atol=0)]


def _count(gradients: Sequence[Tensor], term: Term) -> int:
    """How many values these steps compare: all, or those that are not masked."""
    return sum(int((g != 0).sum()) if term.masked else g.numel() for g in gradients)


def _by_value(factor: LogSigmaFactor, values: int) -> Tensor:
    """The factors on the values that have that σ, of which it has the sum."""
    used = -factor.factors[factor.factors != 0]
    return used * (-float(factor.factors.mean()) * factor.count / values / float(used.mean()))


def _in_other_steps(factor: LogSigmaFactor, factors: Sequence[LogSigmaFactor]) -> list[LogSigmaFactor]:
    """Those of the same lines, or of the same value."""
    own = factor.reading.raw.node
    return [
        f
        for f in factors
        if f is not factor and f.reading.evidence != "q" and bool(f.factors.any())
        if f.reading.raw.node is own or f.reading.raw.node.frames == own.frames
    ]


def _are_alike(factor: LogSigmaFactor, others: Sequence[LogSigmaFactor]) -> bool:
    return all(f.count == factor.count and not _differs(f.factors, factor.factors) for f in others)


def _differs(factors: Tensor, usual: Tensor) -> bool:
    """Whether any is another than those are in the mean, of those that are not masked."""
    middle = usual[usual != 0].mean()
    return bool(((factors[factors != 0] - middle).abs() > DIFFER * middle.abs()).any())


def _moved(tail: Tail, factor: LogSigmaFactor) -> Changes:
    """A change of that σ alone: a value may hold others beside it, as of columns whose densities are written one by
    one."""
    raw = factor.reading.raw
    return {raw.node.id: partial(_raised, where=part_of(tail.base[raw.node.id], raw))}


def _raised(value: Tensor, where: Tensor | None) -> Tensor:
    """A value, larger at some places, flat; at all where it is not known which."""
    if where is None:
        return value + _MOVED
    return value.flatten().index_add(0, where, torch.full(where.shape, _MOVED, dtype=value.dtype)).view(value.shape)


def _as_it_was(before: Tensor, value: Tensor) -> Tensor:
    return before
