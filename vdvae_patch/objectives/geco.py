"""GECO: the KL is minimized under constraints on the reconstruction, whose multipliers find themselves.

"Taming VAEs", Algorithm 1. With Ĉ the mean of the constraint over the batch of all ranks, at each update

    C_ma = Ĉ at first, then α C_ma + (1 − α) Ĉ
    loss = KL + λ (C + sg(C_ma − C))
    λ   ← λ · exp(ν C_ma), at most `most` and at least `least` times λ

sg stops the gradient, so that it is that of the last batch, and the value that of the average. λ > 0 by construction.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from vdvae_patch.decoders import Decoder, PixelGrid
from vdvae_patch.decoders.decoder import can_look
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.number_ranges import WEIGHT, Range
from vdvae_patch.objectives.constraints import Classification, Constraint, FeatureError, Patches, ReconstructionError
from vdvae_patch.objectives.objective import OBJECTIVES, Batch, Objective, between
from vdvae_patch.over_ranks import is_first_rank, mean_over_ranks

KAPPA = 0.06
_NU = Range(1e-9, 1e6, "the multiplier would stand still, or jump to an end at every update")
_ALPHA = Range(0, 1 - 1e-6, "in float32 the average would not move")
_LOOK_EVERY = 100
"""Batches from one look at the images' range to the next, for which a device is waited for."""
_PATIENCE = Range(1, 1e9, "it is a number of updates")
LIMITS = (1e-10, 1e10)
"""A multiplier stays between these."""


class ConstraintWarning(UserWarning):
    """A constraint that has not been met for long."""


@OBJECTIVES.register("geco")
class Geco(Objective):
    """KL + Σ λ C under one or more constraints: `geco(kappa=0.06)`, `geco(re=0.06, pncc=0.9)`.

    The likelihood is no part of it; a distortion is only reported. C is per dimension, and so λ of order D / (2 σ²).

    Metrics: `constraint` (this batch's, over all ranks), `constraint_average`, `lambda`, each with `/name` of the
    constraint if there are several. With `re` also `sigma`, the σ of the Gaussian decoder whose ELBO the loss is,
    range √(D / 2λ) in the units of the data, and `equivalent_beta`, how many times more the KL counts than beside the
    Gaussian whose σ is the error itself: sigma² / mean((x − x̂)²), by the average.

    Args:
        kappa, re: the reconstruction error, a root mean square in shares of the pixels' range; 0.06 if no constraint is
            named.
        nu: ν. With a κ of 0.06 C is at least −0.0036, so λ comes down by at most 0.36% an update with the default.
        alpha: of the moving average, in [0, 1).
        start: λ at the start.
        most, least: what one update may multiply λ by. Without them λ runs away in the first hundred updates, where C
            is largest; 0 and a large number leave them away.
        hold: 1 keeps λ from rising while the batch itself meets the constraint, 0 is Algorithm 1. The average stays
            positive for some hundred updates after the batches have met it, and λ rises all that time: a model that is
            trained for few thousand updates may end with a λ a thousand times too large.
        patience: after so many updates with an unmet constraint a warning says by how far, and again after as many.
        fre, cla, pncc: kappas of the other constraints, see `constraints`.
        constraints: constraints made by hand, beside these.
        pixels, features, classifier: for the constraints.
    """

    needs_distortion: ClassVar[bool] = False
    needs_reconstruction: ClassVar[bool] = True
    has_state: ClassVar[bool] = True
    state_ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "multipliers": LIMITS,
        "averages": (-math.inf, math.inf),
    }

    multipliers: Tensor
    averages: Tensor
    updates: Tensor
    unmet: Tensor

    def __init__(
        self,
        kappa: float | None = None,
        nu: float = 1.0,
        alpha: float = 0.99,
        start: float = 1.0,
        most: float = 1.1,
        least: float = 0.9,
        hold: float = 0,
        patience: float = 2000,
        *,
        re: float | None = None,
        fre: float | None = None,
        cla: float | None = None,
        pncc: float | None = None,
        constraints: Sequence[Constraint] = (),
        pixels: PixelGrid | None = None,
        features: Callable[[Tensor], Tensor] | None = None,
        classifier: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if kappa is not None and re is not None:
            raise InvalidValueError(f"{self._who}: kappa and re are two names of one number; give one")
        for what, network in (("features", features), ("classifier", classifier)):
            if network is not None and not callable(network):
                raise InvalidValueError(f"{self._who}: {what} is a network or a function, not {network!r}")
        if not all(isinstance(c, Constraint) for c in (constraints if isinstance(constraints, Sequence) else [None])):
            raise InvalidValueError(f"{self._who}: constraints is a list of constraints, not {constraints!r}")
        re = kappa if re is None else re
        if all(value is None for value in (re, fre, cla, pncc)) and not constraints:
            re = KAPPA
        chosen: list[Constraint] = []
        if re is not None:
            chosen.append(ReconstructionError(re, pixels))
        if fre is not None:
            chosen.append(FeatureError(fre, features, pixels))
        if cla is not None:
            chosen.append(Classification(cla, classifier))
        if pncc is not None:
            chosen.append(Patches(pncc, pixels=pixels))
        self.constraints = [*chosen, *constraints]
        names = [constraint.name for constraint in self.constraints]
        if len(set(names)) < len(names):
            raise InvalidValueError(f"{self._who}: a constraint is there twice: {', '.join(names)}")
        self.kappa, self.re, self.fre, self.cla, self.pncc = None, re, fre, cla, pncc
        self.nu = _NU.check(self._who, "nu", nu)
        self.alpha = _ALPHA.check(self._who, "alpha", alpha)
        self.start = between(self._who, "start", start, *LIMITS, "the multiplier at first")
        self.least, self.most = WEIGHT.check(self._who, "least", least), WEIGHT.check(self._who, "most", most)
        if not self.least < 1 < self.most:
            raise InvalidValueError(
                f"{self._who}: least must be below 1 and most above, factors of the multiplier, not {least:g} and "
                f"{most:g}"
            )
        if hold not in (0, 1):
            raise InvalidValueError(f"{self._who}: hold is 1 or 0, not {hold}")
        self.hold = int(hold)
        self.patience = int(_PATIENCE.check(self._who, "patience", patience))
        count = len(self.constraints)
        self.register_buffer("multipliers", torch.full((count,), self.start))
        self.register_buffer("averages", torch.zeros(count))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("unmet", torch.zeros(count, dtype=torch.int64))
        self._staged: tuple[Tensor, int] | None = None
        self._since_look = 0
        self._batches = 0

    def arguments(self) -> dict[str, float]:
        found = super().arguments()
        if found.keys() & {"re", "fre", "cla", "pncc"} == {"re"}:
            found = {"kappa": found.pop("re"), **found}
        return found

    def check(self, decoder: Decoder) -> None:
        if not decoder.has_mean:
            raise InvalidValueError(
                f"{self._who} constrains the mean of the reconstruction, and decoder {decoder.name} has none; take "
                "optimal"
            )
        if decoder.learns_scale:
            raise InvalidValueError(
                f"{self._who} has no likelihood in its loss, so the scale of decoder {decoder.name} would not learn; "
                "take "
                "optimal, whose σ is the error itself, or fixed"
            )

    def _weigh(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        reconstruction, target = batch.reconstruction, batch.target
        assert reconstruction is not None
        assert target is not None
        if self._batches % _LOOK_EVERY == 0:
            self.look(target)
        else:
            self._batches += 1
        images = torch.stack([c.of(reconstruction, target, batch.labels) for c in self.constraints], dim=1)
        now = images.mean(dim=0)
        # in evaluation ranks need not come by here alike
        common = mean_over_ranks(images) if self.training else now.detach()
        average = common
        if self.training:
            average = self._averaged(common)
            if self._is_trained:
                self._stage(common)
            # the value of the average, the gradient of this batch
            now = now + (average - now).detach()
        elif self.updates > 0:
            average = self.averages
        loss = batch.rate.mean() + (self.multipliers.detach().clone() * now).sum()
        return loss, self._metrics(common, average, target)

    def look(self, target: Tensor) -> None:
        """Refuse images of another range than kappa's."""
        if not can_look(target):
            return
        if bool(target.isfinite().all()):  # others are the skip rule's
            for constraint in self.constraints:
                if constraint.grid is not None:
                    constraint.grid.check(target, f"constraint {constraint.name}", on_grid=False)
        self._batches += 1

    def _stage(self, value: Tensor) -> None:
        # batches whose gradients are added up are one update
        total, count = (0.0, 0) if self._staged is None else self._staged
        self._staged = (total + value, count + 1)

    def _averaged(self, value: Tensor) -> Tensor:
        value = value.to(self.averages.dtype)
        return torch.where(self.updates == 0, value, self.alpha * self.averages + (1 - self.alpha) * value)

    @torch.no_grad()
    def _move(self) -> None:
        assert self._staged is not None
        total, count = self._staged
        average = self._averaged(total / count)
        factor = torch.exp(self.nu * average).clamp(self.least, self.most)
        if self.hold:
            factor = torch.where(total <= 0, factor.clamp(max=1), factor)
        good = average.isfinite().all()
        self.averages.copy_(torch.where(good, average, self.averages))
        moved = (self.multipliers * factor).clamp(*LIMITS)
        self.multipliers.copy_(torch.where(good, moved, self.multipliers))
        unmet = torch.where(self.averages > 0, self.unmet + 1, 0)
        self.unmet.copy_(torch.where(good, unmet, self.unmet))
        self.updates.add_(good)
        self._since_look += 1
        if self._since_look >= self.patience:
            self._since_look = 0
            self._warn()

    def _forget(self) -> None:
        self._staged = None

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        given = state_dict.get(f"{prefix}multipliers")
        if isinstance(given, Tensor) and given.shape != self.multipliers.shape:
            raise InvalidValueError(
                f"{self._who}: this state is of {given.numel()} constraints, and {self.specification()} has "
                f"{self.multipliers.numel()}; make the objective as it was trained"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _warn(self) -> None:
        if not is_first_rank():
            return
        for constraint, unmet, average, multiplier in zip(
            self.constraints, self.unmet.tolist(), self.averages.tolist(), self.multipliers.tolist(), strict=True
        ):
            if unmet >= self.patience:
                warnings.warn(
                    f"{self._who}: constraint {constraint.name} has not been met for {unmet} updates: "
                    f"{constraint.describe(average)}; its multiplier is {multiplier:.3g}. If that no longer falls, "
                    "the model "
                    "cannot do better: ask for less by another kappa, or give it more capacity",
                    ConstraintWarning,
                    stacklevel=4,
                )

    def _metrics(self, now: Tensor, average: Tensor, target: Tensor) -> dict[str, Tensor]:
        metrics = {}
        for index, constraint in enumerate(self.constraints):
            suffix = f"/{constraint.name}" if len(self.constraints) > 1 else ""
            multiplier = self.multipliers[index].clone()
            metrics[f"constraint{suffix}"] = now[index]
            metrics[f"constraint_average{suffix}"] = average[index].clone()
            metrics[f"lambda{suffix}"] = multiplier
            if isinstance(constraint, ReconstructionError):
                variance = target[0].numel() / (2 * multiplier)  # in squares of the range
                metrics["sigma"] = constraint.pixels.range * variance.sqrt()
                metrics["equivalent_beta"] = variance / (average[index] + constraint.kappa**2)
        return metrics
