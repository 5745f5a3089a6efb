"""The ELBO, and the ELBO with a weight on its KL, fixed or rising."""

from __future__ import annotations

import torch
from torch import Tensor

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.number_ranges import Range
from vdvae_patch.objectives.objective import OBJECTIVES, Batch, Objective, at_least_zero, distortion_of, scalar

_EPOCHS = Range(1e-6, 1e9, "the weight would be 1 at once, or 0 for good")


@OBJECTIVES.register("elbo")
class Elbo(Objective):
    """KL + NLL: the negative evidence lower bound."""

    @property
    def is_bound(self) -> bool:
        return True

    def _weigh(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return (batch.rate + distortion_of(batch)).mean(), {}


@OBJECTIVES.register("beta")
class Beta(Objective):
    """β KL + NLL (β-VAE). The metric `nelbo` stays the one with β = 1."""

    def __init__(self, beta: float = 4.0) -> None:
        super().__init__()
        self.beta = at_least_zero(self._who, "beta", beta)

    @property
    def is_bound(self) -> bool:
        return self.beta == 1

    def _weigh(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (self.beta * batch.rate + distortion_of(batch)).mean()
        return loss, {"beta": scalar(self.beta, loss)}


@OBJECTIVES.register("warmup")
class Warmup(Objective):
    """β KL + NLL with β = min(1, updates / (epochs · updates an epoch)); in evaluation β = 1, which is the bound.

    The number of updates is the buffer `updates`: a skipped one does not count, and a resumed run goes on with it.

    Attributes:
        steps_per_epoch: updates an epoch; to be set before the first training batch.
    """

    has_state = True
    updates: Tensor

    def __init__(self, epochs: float = 100.0, steps_per_epoch: int | None = None) -> None:
        super().__init__()
        self.epochs = _EPOCHS.check(self._who, "epochs", epochs)
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise InvalidValueError(f"{self._who}: an epoch has at least one step, not {steps_per_epoch}")
        self.steps_per_epoch = steps_per_epoch
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def beta(self) -> Tensor:
        """The weight of the KL at this update, in training.

        Raises:
            InvalidValueError: how long an epoch is was not said.
        """
        if self.steps_per_epoch is None:
            raise InvalidValueError(
                f"{self._who} counts updates: say how many an epoch has, objective.steps_per_epoch = len(loader)"
            )
        return (self.updates / (self.epochs * self.steps_per_epoch)).clamp(max=1)

    def arguments(self) -> dict[str, float]:
        return {} if self.epochs == 100 else {"epochs": self.epochs}

    def _weigh(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        beta = self.beta if self.training else torch.ones((), device=self.updates.device)
        return (beta * batch.rate + distortion_of(batch)).mean(), {"beta": beta.detach()}

    @torch.no_grad()
    def _move(self) -> None:
        self.updates.add_(1)
