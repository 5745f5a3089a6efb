"""Adam over a matrix of runs: each row has its own learning rate, its own step count and its own skipped updates.

The arithmetic is that of `torch.optim.Adam` and `AdamW`, in their order (Kingma and Ba 2015; Loshchilov and Hutter
2019): decay, both moments, bias correction, update.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdamSettings:
    """Decays of the two moments, the epsilon beside the root of the second, and the decoupled weight decay."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    wd: float = 0.0


@dataclass
class StackedAdam:
    """The state of R optimizers of N parameters.

    Attributes:
        mean, square: `[R, N]`, moving averages of the gradient and of its square.
        updates: `[R]`, updates that were applied.
    """

    settings: AdamSettings
    mean: Tensor
    square: Tensor
    updates: Tensor

    @classmethod
    def of(cls, flat: Tensor, settings: AdamSettings) -> StackedAdam:
        """Fresh optimizers of the rows of `flat`."""
        zeros = torch.zeros_like(flat, requires_grad=False)
        return cls(settings, zeros, zeros.clone(), torch.zeros(len(flat), dtype=torch.float64, device=flat.device))

    @torch.no_grad()
    def step(self, flat: Tensor, grad: Tensor, lr: Tensor, applied: Tensor | None = None) -> None:
        """Update `flat` `[R, N]` in place; `lr` is `[R]`. Rows that `applied` `[R]` leaves out stay as they are.

        Nothing waits for the device to say whether there are any: each row has decays and a step size of its own, which
        leave it as it is.
        """
        s = self.settings
        weight1: Any = 1 - s.beta1
        decay2: Any = s.beta2
        wd, lr = lr.double() * s.wd, lr.double()
        if applied is None:
            self.updates += 1
        else:
            self.updates += applied
            grad = torch.where(applied[:, None], grad, 0.0)
            weight1, decay2 = (
                torch.where(applied, new, old).to(flat.dtype)[:, None] for new, old in ((weight1, 0.0), (decay2, 1.0))
            )
            lr, wd = lr * applied, wd * applied
        if s.wd:
            flat.mul_((1 - wd).to(flat.dtype)[:, None])
        self.mean.lerp_(grad, weight1)
        self.square.mul_(decay2).addcmul_(grad, grad, value=1 - s.beta2)
        # in float64, like the numbers that torch's own computes in Python; max: a run without an update divides by it
        count = self.updates.clamp(min=1)
        size = (lr / (1 - s.beta1**count)).to(flat.dtype)
        root = (1 - s.beta2**count).sqrt().to(flat.dtype)
        flat.sub_(size[:, None] * self.mean / ((self.square.sqrt() / root[:, None]).add_(s.eps)))

    def keep(self, rows: Tensor) -> StackedAdam:
        """The optimizers of these rows."""
        return StackedAdam(self.settings, self.mean[rows], self.square[rows], self.updates[rows])
