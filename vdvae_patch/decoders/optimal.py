"""The σ-VAE's decoder: the standard deviation for which the likelihood of the data is largest, in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vdvae_patch import normal
from vdvae_patch.decoders.decoder import DECODERS, _sum, can_look, trains
from vdvae_patch.decoders.gaussian import Gaussian
from vdvae_patch.decoders.masses import log_normal_mass
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.over_ranks import Total, total_over_ranks
from vdvae_patch.pixel_grid import PixelGrid
from vdvae_patch.scales.arithmetic import wide

MOMENTUM = 0.99
"""How much of the running mean squared error stays at each step."""
_FEW = 0.05
"""Share of the first batch's error in the running mean from which it is said: it may be ten times the last one's."""


@DECODERS.register("optimal")
class Optimal(Gaussian):
    """σ² = max(mean((x − μ)²), noise²): analytic, no parameter, no channel.

    In training the mean is that of the batch, over all ranks, and the gradient goes through it. With all images
    weighted alike, the batch's loss is ½ D log σ² + ½ D (1 + log 2π) an image, and its gradient (μ − x) / σ² a value,
    at most √(B D) / noise for a batch: where the floor is reached σ stands still, and the gradient to μ goes on.

    In evaluation it is that of the training set: a running mean (the first value as it is, then 0.99 old + 0.01 new),
    kept in the buffers `mean_squared_error` and `updates`, or the exact one, by `calibrate`. A bound that used the test
    batch's own σ would be no bound. A batch that is not finite does not move the running mean, nor does one without
    gradients, nor a skipped one, if the training loop says so: it calls `step(skipped=...)` once an update.

    The floor is the quantization noise, range / (256 √12) for 8 bits, and hard: above it σ is exact. (The public code's
    −6 + softplus(log σ + 6) is biased: it doubles σ at log σ = −6.)

    Attributes:
        total: from a rank's values to their sum over ranks.
    """

    state_ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"mean_squared_error": (0.0, math.inf)}

    mean_squared_error: Tensor
    updates: Tensor

    def __init__(self, pixels: PixelGrid | None = None) -> None:
        super().__init__(pixels)
        self.register_buffer("mean_squared_error", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.total: Total = total_over_ranks
        self._before: tuple[Tensor, Tensor] | None = None

    def log_sigma(self, parameters: Tensor) -> Tensor:
        """log σ of the training set.

        Raises:
            InvalidValueError: there was no training yet.
        """
        if can_look(self.updates) and not self.updates:
            raise InvalidValueError(
                f"{self._who} does not know the training set's σ yet, and must not take it from the data that it shall "
                "evaluate: train a step, load a checkpoint of a training, or call decoder.calibrate(pairs of training "
                "images and their parameters)"
            )
        # a compiled model cannot raise
        return self._log_sigma_of(torch.where(self.updates == 0, torch.nan, wide(self.mean_squared_error)))

    def batch_log_sigma(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log σ of this batch over all ranks, with its gradient."""
        return self._log_sigma_of(self._mean_squared_error(x, parameters))

    @torch.no_grad()
    def step(self, skipped: bool | Tensor = False) -> None:
        if self._before is not None and (isinstance(skipped, Tensor) or skipped):
            taken_back = torch.as_tensor(skipped, device=self.updates.device).bool()
            for buffer, before in zip((self.mean_squared_error, self.updates), self._before, strict=True):
                buffer.copy_(torch.where(taken_back, before, buffer))
        self._before = None

    def first_share(self) -> float:
        """How much of the running mean is still the first batch's, if that is more than 5%; else 0."""
        count = int(self.updates)
        share = MOMENTUM ** (count - 1)
        return share if count and share > _FEW else 0.0

    def lag(self) -> str:
        """That the running σ is still the first batch's to more than 5%; empty if not."""
        count, share = int(self.updates), self.first_share()
        if not share:
            return ""
        enough = math.ceil(math.log(_FEW) / math.log(MOMENTUM)) + 1
        return (
            f"after {count:,} update{'s' if count > 1 else ''} the σ of decoder {self.name} that a test takes, a "
            f"running mean of the training error, is still the first batch's to {share:.0%}: a test NELBO, also by "
            f"mass, may be far above these weights' own. Train for {enough} updates or more before it is compared"
        )

    @torch.no_grad()
    def calibrate(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Set σ from a pass over the training set, `(x, parameters)` a batch, on every rank its part; returns σ.

        Raises:
            InvalidValueError: no batch, or an error that is not finite, which leaves σ as it was.
        """
        sums = torch.zeros(2, dtype=torch.float64)
        for x, parameters in pairs:
            self._check(x, parameters)
            sums += self._sums(x, parameters).cpu()
        on_device = sums.to(self.mean_squared_error)
        squared, count = self.total(on_device).tolist()
        if not count > 0:
            raise InvalidValueError(f"{self._who}: calibrate was given no batch")
        error = torch.tensor(squared / count)
        if not error.isfinite():
            raise InvalidValueError(f"{self._who}: the mean squared error over these batches is {error.item()}")
        self.mean_squared_error.copy_(error)
        self.updates.clamp_(min=1)
        self._before = None
        return self._log_sigma_of(error).exp().item()

    def _log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        if not self.training:
            return super()._log_prob(x, parameters)
        error = self._mean_squared_error(x, parameters)
        if trains(self, self._who, "σ is that of these data, with which the likelihood is no bound"):
            self._move(error.detach())
        return normal.log_prob(x, self.mean(parameters), self._log_sigma_of(error))

    def _log_mass(self, x: Tensor, parameters: Tensor) -> Tensor:
        log_sigma = self.batch_log_sigma(x, parameters) if self.training else self.log_sigma(parameters)
        return log_normal_mass(x, self.mean(parameters), log_sigma, self.pixels)

    def _log_sigma_of(self, error: Tensor) -> Tensor:
        return 0.5 * torch.log(error.clamp(min=self.pixels.noise**2))

    def _sums(self, x: Tensor, parameters: Tensor) -> Tensor:
        difference = wide(x) - wide(self.mean(parameters))
        squared = _sum(difference * difference).sum()
        return torch.stack([squared, torch.full_like(squared, x.numel())])

    def _mean_squared_error(self, x: Tensor, parameters: Tensor) -> Tensor:
        squared, count = self.total(self._sums(x, parameters)).unbind()
        return squared / count

    @torch.no_grad()
    def _move(self, error: Tensor) -> None:
        old, updates = self.mean_squared_error, self.updates
        if self._before is None:
            self._before = (old.clone(), updates.clone())
        error = error.to(old.dtype)
        moved = torch.where(updates == 0, error, MOMENTUM * old + (1 - MOMENTUM) * error)
        good = error.isfinite()
        old.copy_(torch.where(good, moved, old))
        updates.add_(good)
