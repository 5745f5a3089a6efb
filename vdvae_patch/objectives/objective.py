"""What an objective is: from rate and distortion to a loss, with a state that moves once an update."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vdvae_patch.decoders import Decoder, PixelGrid
from vdvae_patch.decoders.decoder import WideBuffers, trains
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.number_ranges import WEIGHT, as_float
from vdvae_patch.objectives.rate import Rate, by_group, check_images, total
from vdvae_patch.over_ranks import mean_over_ranks
from vdvae_patch.registry import Registry, format_number
from vdvae_patch.scales.arithmetic import wide

OBJECTIVES: Registry[Objective] = Registry("objective", "vdvae_patch.objectives")

_UNSETTLED = 100
"""After so many forward passes in training without a `step`, one is missing rather than accumulating gradients."""


@dataclass(frozen=True)
class Result:
    """loss: a scalar in nats an image, of this rank's batch; metrics: detached scalars, by their names in a record."""

    loss: Tensor
    metrics: dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """What an objective weighs: rate by groups `{name: [B]}`, `rate` their sum, and what else it asked for."""

    groups: dict[str, Tensor]
    given: Rate
    distortion: Tensor | None
    reconstruction: Tensor | None
    target: Tensor | None
    labels: Tensor | None

    @property
    def rate(self) -> Tensor:
        """[B]."""
        return total(self.groups)


def get(
    spec: str | Objective,
    *,
    pixels: PixelGrid | None = None,
    steps_per_epoch: int | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    classifier: Callable[[Tensor], Tensor] | None = None,
) -> Objective:
    """The objective of a specification: `elbo`, `beta(4)`, `warmup(epochs=100)`, `geco(re=0.06, cla=0.9)`.

    Args:
        pixels: the values that a pixel may have, for constraints in its range; 8 bits in [0, 1] by default.
        steps_per_epoch: updates an epoch, for `warmup`.
        features: for GECO's `fre`.
        classifier: for GECO's `cla`.

    Raises:
        UnknownNameError: no such objective; the message names the nearest.
        InvalidValueError: an argument that the objective refuses.
    """
    if isinstance(spec, Objective):
        return spec
    return OBJECTIVES.get(
        spec, pixels=pixels, steps_per_epoch=steps_per_epoch, features=features, classifier=classifier
    )


class Objective(WideBuffers, ABC):
    """A loss from rate and distortion; `objective(rate, distortion, ...)` gives a `Result`."""

    name: ClassVar[str] = ""
    state_ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Of its buffers, by name, between which finite numbers the values lie: others in a checkpoint are refused."""

    needs_distortion: ClassVar[bool] = True
    needs_reconstruction: ClassVar[bool] = False
    has_state: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._unsettled = 0
        self._sound: Tensor | None = None

    @property
    def is_bound(self) -> bool:
        """Whether the loss is the negative ELBO, now and not only at the end."""
        return False

    def forward(
        self,
        rate: Rate,
        distortion: Tensor | None = None,
        *,
        reconstruction: Tensor | None = None,
        target: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Result:
        """The loss of a batch, and metrics: `rate`, `distortion` and `nelbo` in nats an image, and the objective's own.

        Args:
            rate: KL in nats an image, `[B]`, by groups where they are known.
            distortion: negative log likelihood in nats an image, `[B]`.
            reconstruction, target: images `[B, ...]`, for an objective that needs them.
            labels: classes `[B]` or one-hot `[B, K]`, for a constraint that needs them.

        Raises:
            InvalidValueError: shapes that do not fit, or something that the objective needs and was not given.
        """
        batch = self._checked(rate, distortion, reconstruction, target, labels)
        loss, metrics = self._weigh(batch)
        mean_rate = batch.rate.detach().mean()
        common = {"rate": mean_rate}
        if batch.distortion is not None:
            mean_distortion = batch.distortion.detach().mean()
            common |= {"distortion": mean_distortion, "nelbo": mean_rate + mean_distortion}
        if self._is_trained:
            self._count()
            # of all ranks: where one of them has a NaN, none of them moves
            sound = mean_over_ranks(loss.detach()[None]).isfinite()
            self._sound = sound if self._sound is None else self._sound & sound
        return Result(loss, common | metrics)

    @torch.no_grad()
    def step(self, skipped: bool | Tensor = False) -> None:
        """Once after each update of the weights: move the state, or with `skipped` leave it alone.

        A loss that was not finite leaves it alone, too. A tensor on the device, true or not 0 for a skipped one, makes
        nobody wait.
        """
        sound, self._sound, self._unsettled = self._sound, None, 0
        if sound is not None and (isinstance(skipped, Tensor) or not skipped):
            before = [buffer.clone() for buffer in self.buffers()]
            self._move()
            left = ~sound | torch.as_tensor(skipped, device=sound.device).bool()
            for buffer, old in zip(self.buffers(), before, strict=True):
                buffer.copy_(torch.where(left, old, buffer))
        self._forget()

    def check(self, decoder: Decoder) -> None:
        """Refuse a decoder with which this objective makes no sense.

        Raises:
            InvalidValueError: with what to take instead.
        """

    def look(self, target: Tensor) -> None:
        """Refuse images that the objective is not made for; done before a training it is a wait less in its first step.

        Args:
            target: `[B, C, ...]`, what is reconstructed.

        Raises:
            InvalidValueError: with the values that were seen, and what to take.
        """

    def specification(self) -> str:
        """The text that `get` makes this objective of, what no text can hold left out."""
        parts = [f"{key}={format_number(value)}" for key, value in self.arguments().items()]
        return f"{self.name}({', '.join(parts)})" if parts else self.name

    def arguments(self) -> dict[str, float]:
        """The numbers of a specification that differ from their defaults."""
        parameters = inspect.signature(type(self)).parameters.values()
        found = {p.name: vars(self).get(p.name, p.default) for p in parameters if vars(self).get(p.name) != p.default}
        return {name: value for name, value in found.items() if isinstance(value, (int, float))}

    def extra_repr(self) -> str:
        return self.specification()

    @property
    def _who(self) -> str:
        return f"objective {self.name}"

    @property
    def _is_trained(self) -> bool:
        """Whether an update follows this batch, which moves the state."""
        instead = "the loss is that of training, and not what it is in evaluation"
        return self.training and self.has_state and trains(self, self._who, instead)

    @abstractmethod
    def _weigh(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the metrics that are this objective's own. In training it may stage what `_move` needs."""

    def _move(self) -> None:
        """Move the state by what was staged since the last step, if that is finite."""

    def _forget(self) -> None:
        """Drop what was staged."""

    def _count(self) -> None:
        self._unsettled += 1
        if self._unsettled == _UNSETTLED:
            warnings.warn(
                f"{self._who}: {_UNSETTLED} batches in training without an update: call objective.step(skipped=...) "
                "after "
                "each optimizer step, or its state never moves",
                UserWarning,
                stacklevel=3,
            )

    def _checked(
        self,
        rate: Rate,
        distortion: Tensor | None,
        reconstruction: Tensor | None,
        target: Tensor | None,
        labels: Tensor | None,
    ) -> Batch:
        groups = by_group(rate)
        size = len(next(iter(groups.values())))
        if distortion is None and self.needs_distortion:
            raise InvalidValueError(f"{self._who} needs the distortion, in nats an image, [B]")
        if distortion is not None:
            check_images("the distortion", distortion)
            if len(distortion) != size:
                raise InvalidValueError(f"the rate is of {size} images and the distortion of {len(distortion)}")
            distortion = wide(distortion)
        if self.needs_reconstruction:
            if reconstruction is None or target is None:
                raise InvalidValueError(
                    f"{self._who} needs reconstruction= (the decoder's mean) and target= (the images)"
                )
            if reconstruction.shape != target.shape or len(target) != size or target.dim() < 2:
                raise InvalidValueError(
                    f"{self._who}: reconstructions {list(reconstruction.shape)} and targets {list(target.shape)} "
                    "must have "
                    f"one shape, [{size}, ...]"
                )
        return Batch(groups, rate, distortion, reconstruction, target, labels)


def distortion_of(batch: Batch) -> Tensor:
    """The distortion of a batch that was checked to have one."""
    assert batch.distortion is not None
    return batch.distortion


def at_least_zero(who: str, key: str, value: float) -> float:
    """A weight of a term of the loss, or a floor under it: 0, or a number that float32 can multiply a loss by.

    Raises:
        InvalidValueError: anything else.
    """
    return WEIGHT.check(who, key, value)


def between(who: str, key: str, value: float, low: float, high: float, meaning: str) -> float:
    """A number strictly between two others.

    Raises:
        InvalidValueError: anything else, with what the number means.
    """
    number = as_float(value)
    if number is None or not low < number < high:
        raise InvalidValueError(f"{who}: {key} must be between {low:g} and {high:g}, not {value}; it is {meaning}")
    return number


def scalar(value: float, like: Tensor) -> Tensor:
    """A metric that is a number."""
    return torch.full((), float(value), device=like.device)
