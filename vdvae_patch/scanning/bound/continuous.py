"""The continuous Bernoulli, whose density of grey values is a Bernoulli's with a normalizing constant.

    log p(x | l) = x l − log (1 + eˡ) + log C(l),  E[x] = 1 / (1 − e⁻ˡ) − 1 / l,  l the logit

(Loaiza-Ganem and Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders"). In a
loss it stands as a Bernoulli's cross-entropy beside something else of the same output. The gradient for a natural
parameter is E[x] − x, by which it is known, however C is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from vdvae_patch.scanning.arithmetic.graph import Node
from vdvae_patch.scanning.bound.reconstruction import Term, way_back
from vdvae_patch.scanning.bound.replay import Tail

KIND: Final = "continuous Bernoulli density"
_SAME = 1e-3
"""Difference of a mean to that of a continuous Bernoulli: hosts have a series around ½, where C is 0 / 0. A Bernoulli's
differs by up to 0.3."""
_NEAR = 0.1


def as_continuous(tail: Tail, term: Term) -> bool:
    """Whether a Bernoulli's cross-entropy is a part of a continuous Bernoulli's density."""
    if not term.kind.startswith("Bernoulli") or term.output is None or term.weighted or len(term.where) != 1:
        return False
    weights, x = term.where[0], tail.base[term.target.id].double()
    probability = _probability(term, tail.base[term.output.id].double())
    places = [node for node in way_back(tail, term.output)[0] if node.shape == term.output.shape]
    gradients = tail.adjoints(places)
    for node in places:
        for logit, gradient in _by_logit(tail.base[node.id].double(), gradients[node.id].double(), probability):
            if gradient.shape != x.shape or weights.shape != x.shape:
                continue
            mean = gradient / weights + x
            known = mean.isfinite() & logit.isfinite()
            if bool(known.any()) and torch.allclose(mean[known], mean_of(logit)[known], rtol=0, atol=_SAME):
                return True
    return False


def _probability(term: Term, value: Tensor) -> Tensor:
    if term.reads == "logit":
        return torch.sigmoid(value)
    return value.exp() if term.reads == "log mean" else value


def _by_logit(value: Tensor, gradient: Tensor, probability: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The logit, and the gradient for it, of a value that is the probability or the logit itself."""
    if torch.allclose(value, probability, atol=1e-6):
        yield torch.logit(probability), gradient * probability * (1 - probability)
    if torch.allclose(torch.sigmoid(value), probability, atol=1e-6):
        yield value, gradient


def mean_of(logit: Tensor) -> Tensor:
    """E[x] of a continuous Bernoulli."""
    near = logit.abs() < _NEAR
    far = torch.where(near, torch.ones_like(logit), logit)
    return torch.where(near, 0.5 + logit / 12 - logit**3 / 720, -1 / torch.expm1(-far) - 1 / far)


def is_of_its_output(tail: Tail, node: Node, term: Term) -> bool:
    """Whether a value is computed of a term's output, or of what that is computed of, and of no other part of a
    network: in the loss it is a part of the normalizing constant."""
    assert term.output is not None
    own = {n.id for n in way_back(tail, term.output)[0]}
    todo, seen = [node], set[int]()
    while todo:
        current = todo.pop()
        if current.id in own or current.id in seen or not current.params:
            continue
        seen.add(current.id)
        if current.id in tail.leaves or current.id not in tail.inside:
            return False
        todo.extend(current.inputs)
    return True
