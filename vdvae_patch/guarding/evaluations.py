"""An optimizer that evaluates its closure many times in one step, as LBFGS does, undone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vdvae_patch.guarding.passes import Buffers
from vdvae_patch.guarding.skip import Skip


class Evaluations:
    """What a step of LBFGS may change, copied; and the first evaluation that was not finite."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.bad: Skip | None = None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.weights: list[tuple[Tensor, Tensor]] = [(p, p.detach().clone()) for p in parameters]
        self._state = _copied(optimizer.state_dict())
        self._buffers = Buffers(model)
        self._buffers.take()

    @torch.no_grad()
    def put_back(self) -> None:
        """Undo the step."""
        for p, before in self.weights:
            p.copy_(before)
            p.grad = None
        self.optimizer.load_state_dict(self._state)
        self._buffers.put_back()


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
