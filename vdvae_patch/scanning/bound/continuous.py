"""The continuous Bernoulli, whose density of grey values is a Bernoulli's with a normalizing constant.

    log p(x | l) = x l − log (1 + eˡ) + log C(l),  E[x] = 1 / (1 − e⁻ˡ) − 1 / l,  l the logit

(Loaiza-Ganem and Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders"). In a
loss it stands as a Bernoulli's cross-entropy beside something else of the same output. The gradient for a natural
parameter is E[x] − x, by which it is known, however C is written.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from vdvae_patch.scanning.arithmetic.graph import Node
from vdvae_patch.scanning.bound.reconstruction import Term, way_back
from vdvae_patch.scanning.bound.replay import Tail

KIND: Final = "continuous Bernoulli density"
_SAME = 1e-6
"""Difference of a mean to that of a continuous Bernoulli, where it is looked at; a Bernoulli's differs by 0.15."""
_APART = 0.2
"""How far from zero logits are moved: at zero both means are ½."""
_SERIES = 0.25
"""Below this logit hosts have a series for C, which is 0 / 0 there, and which of its two forms is taken is held."""
_SHARE = 0.1
"""What such a series may be off by, of the distance to a Bernoulli's mean: 0.01 where it is the usual one."""
_NEAR = 0.1


def as_continuous(tail: Tail, term: Term) -> bool:
    """Whether a Bernoulli's cross-entropy is a part of a continuous Bernoulli's density."""
    if not term.kind.startswith("Bernoulli") or term.output is None or term.weighted or len(term.where) != 1:
        return False
    weights, x = term.where[0], tail.base[term.target.id].double()
    probability = _probability(term, tail.base[term.output.id].double())
    for node in way_back(tail, term.output)[0]:
        value = tail.base[node.id].double()
        if node.shape != term.output.shape or not x.shape == weights.shape == value.shape:
            continue
        if torch.allclose(torch.sigmoid(value), probability, atol=1e-6):  # a logit
            gradient = tail.adjoints([node], {node.id: _moved_apart})[node.id].double()
            logit = _moved_apart(value)
            off = (gradient / weights + x - mean_of(logit)).abs()
            allowed = torch.where(value.abs() < _SERIES, _SHARE * (torch.sigmoid(logit) - mean_of(logit)).abs(), _SAME)
            known = off.isfinite()
            if bool(known.any()) and bool((off <= allowed)[known].all()):
                return True
    return False


def _moved_apart(logit: Tensor) -> Tensor:
    return torch.where(logit < 0, logit - _APART, logit + _APART)


def _probability(term: Term, value: Tensor) -> Tensor:
    if term.reads == "logit":
        return torch.sigmoid(value)
    return value.exp() if term.reads == "log mean" else value


def mean_of(logit: Tensor) -> Tensor:
    """E[x] of a continuous Bernoulli."""
    near = logit.abs() < _NEAR
    far = torch.where(near, torch.ones_like(logit), logit)
    return torch.where(near, 0.5 + logit / 12 - logit**3 / 720, -1 / torch.expm1(-far) - 1 / far)


def is_of_its_output(tail: Tail, node: Node, term: Term) -> bool:
    """Whether a value is computed of a term's output, or of what that is computed of, and of no other part of a
    network: in a loss whose gradient for the output is this density's it is a part of the normalizing constant."""
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
