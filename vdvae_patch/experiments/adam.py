"""Adam over a matrix of runs: each row has its own learning rate, its own step count and its own skipped updates.

The arithmetic is that of `torch.optim.Adam` and `AdamW`, in their order (Kingma and Ba 2015; Loshchilov and Hutter
2019): decay, both moments, bias correction, update.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        """Update `flat` `[R, N]` in place; `lr` is `[R]`. Rows that `applied` `[R]` leaves out stay as they are."""
        s = self.settings
        if applied is None:
            self.updates += 1
        else:
            self.updates += applied
            # a row that is left out gets a gradient of zeros, and then everything back
            grad = torch.where(applied[:, None], grad, 0.0)
            before = [t.clone() for t in (flat, self.mean, self.square)] if not bool(applied.all()) else []
        if s.wd:
            flat.mul_((1 - lr.double() * s.wd).to(flat.dtype)[:, None])
        self.mean.lerp_(grad, 1 - s.beta1)
        self.square.mul_(s.beta2).addcmul_(grad, grad, value=1 - s.beta2)
        # in float64, like the numbers that torch's own computes in Python; max: a run without an update divides by it
        count = self.updates.clamp(min=1)
        size = (lr.double() / (1 - s.beta1**count)).to(flat.dtype)
        root = (1 - s.beta2**count).sqrt().to(flat.dtype)
        flat.sub_(size[:, None] * self.mean / ((self.square.sqrt() / root[:, None]).add_(s.eps)))
        if applied is not None and before:
            for tensor, old in zip((flat, self.mean, self.square), before, strict=True):
                tensor.copy_(torch.where(applied[:, None], tensor, old))

    def keep(self, rows: Tensor) -> StackedAdam:
        """The optimizers of these rows."""
        return StackedAdam(self.settings, self.mean[rows], self.square[rows], self.updates[rows])
