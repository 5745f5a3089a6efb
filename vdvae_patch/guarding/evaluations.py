"""What a step changes beside what its gradients say, undone.

An optimizer may evaluate its closure many times, as LBFGS does, or at weights that it has moved, as SAM does; and one
may move weights without a gradient, as Lookahead does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vdvae_patch.guarding.buffers import Buffers
from vdvae_patch.guarding.judging import Look
from vdvae_patch.guarding.skip import Skip


class Evaluations:
    """What a step may change, copied; and its evaluations.

    Attributes:
        first: what was seen at the first evaluation.
        limit: what its gradient's norm was brought down to.
        bad: the first evaluation that was not finite.
        plain: whether the closure was evaluated once, at the weights of before, as far as was seen.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.first: Look | None = None
        self.limit = math.inf
        self.bad: Skip | None = None
        self.plain = True
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.weights: list[tuple[Tensor, Tensor]] = [(p, p.detach().clone()) for p in parameters]
        # not by its state_dict: an optimizer around another one may share its groups with that one
        self._state = {p: _copied(value) for p, value in optimizer.state.items()}
        self._groups = [{k: _copied(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        self._buffers = Buffers(model)
        self._buffers.take()

    @torch.no_grad()
    def begins(self) -> None:
        """The closure is about to be evaluated."""
        self.plain = self.plain and self.first is None and all(torch.equal(p, before) for p, before in self.weights)

    @torch.no_grad()
    def put_back(self) -> None:
        """Undo the step."""
        for p, before in self.weights:
            p.copy_(before)
        self.optimizer.state.clear()
        self.optimizer.state.update(self._state)
        for group, before_it in zip(self.optimizer.param_groups, self._groups, strict=True):
            group.update(before_it)
        self._buffers.put_back()


def is_of_torch(optimizer: Optimizer) -> bool:
    """Whether it is one of `torch.optim`, which are known: without a gradient they change nothing, and but for LBFGS
    they evaluate a closure once, before all else."""
    return type(optimizer).__module__.startswith("torch.optim.")


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
