"""The remedies that are put on the stress test, each a choice of scales, arithmetic, means, penalty and update rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from vdvae_patch.errors import UnknownNameError
from vdvae_patch.heads import Arithmetic
from vdvae_patch.hosts.means import MeanReading, Means
from vdvae_patch.patching import Variant

_CLIP, _SKIP = 200.0, 400.0
"""VDVAE's own."""


@dataclass(frozen=True)
class Remedy:
    """One way to keep VDVAE from breaking.

    Attributes:
        name: in tables and on the command line.
        source: who uses it, or why it is tried; a table has some of the rows, so that none leans on the one above it.
        variant: scales as `posterior/prior`, and after a plus each a decoder and an objective.
        arithmetic: whose KL and sampling.
        reading: how the means are read.
        spectral: weight of spectral regularization, in nats per image.
        rate: whether the rate is minimised; without it the gradient is the distortion's alone. A control, no remedy.
        clip: gradient norm that is clipped to, auto for the usual norm of a run's updates; None clips none.
        skip: gradient norm from which an update is skipped, as for NaN; infinity skips for NaN alone, None applies
            every update.
    """

    name: str
    source: str
    variant: str = "vanilla"
    arithmetic: Arithmetic = "stable"
    reading: MeanReading = field(default_factory=MeanReading)
    spectral: float = 0.0
    rate: bool = True
    clip: float | Literal["auto"] | None = _CLIP
    skip: float | None = _SKIP

    @property
    def origin(self) -> str:
        """`source`, and what is clipped and skipped where that is not VDVAE's rule."""
        if (self.clip, self.skip) == (_CLIP, _SKIP):
            return self.source
        words: dict[float | str | None, str] = {None: "nothing", "auto": "at the usual norm", inf: "NaN alone"}
        clips, skips = (words.get(norm, f"at {norm}".removesuffix(".0")) for norm in (self.clip, self.skip))
        return f"{self.source}; clips {clips}, skips {skips}"

    @property
    def keeps_likelihood(self) -> bool:
        """Whether its NELBO is of VDVAE's own likelihood, and so comparable with vanilla's."""
        return Variant.parse(self.variant).decoder is None


def _means(means: Means, limit: float | None = None) -> MeanReading:
    return MeanReading(means, limit)


_FLOOR = "bounded(0.1, 1)"
# log σ_q bounded both ways, so that with a constant prior and means in 5 a latent's rate is 55 nats at most
_BOTH = "bounded(0.01, 1)/constant"
_LOG2 = "softplus(0.6931472)"
_GECO = "+optimal+geco(kappa=0.06)"
_IN_5 = MeanReading("plain", 5.0)

REMEDIES: tuple[Remedy, ...] = (
    Remedy("vanilla", "VDVAE: clips at 200, skips at 400 and NaN", arithmetic="host"),
    Remedy("clipping alone", "VDVAE without skipping", arithmetic="host", skip=None),
    Remedy("skipping alone", "VDVAE without clipping", arithmetic="host", clip=None),
    Remedy("stable KL", "the KL of eq. 10 in place of the host's"),
    Remedy("clamp", "diffusers", "clamp"),
    Remedy("softclamp", "NVAE", "softclamp"),
    Remedy("softplus log 2", "Efficient-VDVAE", _LOG2),
    Remedy("upbounded", "the paper", "upbounded"),
    Remedy("explin", "the paper", "explin"),
    Remedy("upbounded/constant", "the paper", "upbounded/constant"),
    Remedy("explin/constant", "the paper", "explin/constant"),
    Remedy("upbounded/bounded", "a prior with a floor", f"upbounded/{_FLOOR}"),
    Remedy("explin/bounded", "a prior with a floor", f"explin/{_FLOOR}"),
    Remedy("explin/constant, means in 5", "bounded means", "explin/constant", reading=_means("plain", 5.0)),
    Remedy("explin/bounded, means in 5", "floor and bounded means", f"explin/{_FLOOR}", reading=_means("plain", 5.0)),
    Remedy("residual softclamp, spectral", "NVAE", "softclamp", reading=_means("residual"), spectral=0.1),
    Remedy("relative explin", "rate free of the prior's scale", "explin", reading=_means("relative")),
    Remedy("relative upbounded", "rate free of the prior's scale", "upbounded", reading=_means("relative")),
    Remedy("relative explin/constant", "rate free of a prior's scale of 1", "explin/constant",
           reading=_means("relative")),
    Remedy("relative explin/constant, means in 5", "rate free of a prior's scale of 1, bounded means",
           "explin/constant", reading=_means("relative", 5.0)),
    Remedy("vanilla, only NaN skipped", "an update of high gradient is clipped, not lost", arithmetic="host", skip=inf),
    Remedy("explin/constant, only NaN skipped", "an update of high gradient is clipped, not lost",
           "explin/constant", skip=inf),
    Remedy("explin/constant, clipped at 5", "clipped harder", "explin/constant", clip=5.0, skip=inf),
    Remedy("explin/constant, clipped at the usual norm", "clipped near its own norms", "explin/constant", clip="auto",
           skip=inf),
    Remedy("vanilla, clipped at 5", "what clipping does by itself", arithmetic="host", clip=5.0, skip=inf),
    Remedy("vanilla, clipped at the usual norm", "what clipping does by itself", arithmetic="host", clip="auto",
           skip=inf),
    Remedy("explin/constant, clipped at 1", "below every usual norm", "explin/constant", clip=1.0, skip=inf),
    Remedy("vanilla, clipped at 1", "what clipping does by itself", arithmetic="host", clip=1.0, skip=inf),
    Remedy("bounded/constant, means in 5", "every term of the rate bounded", _BOTH, reading=_IN_5, skip=inf),
    Remedy("bounded/constant, means in 5, clipped at 1", "every term of the rate bounded, and clipped", _BOTH,
           reading=_IN_5, clip=1.0, skip=inf),
    Remedy("vanilla, optimal σ", "σ-VAE", "vanilla+optimal", arithmetic="host"),
    Remedy("explin/constant, optimal σ", "σ-VAE", "explin/constant+optimal"),
    Remedy("vanilla, a σ a pixel", "σ-VAE's heads, bounded", "vanilla+per_pixel", arithmetic="host"),
    Remedy("explin/constant, a σ a pixel", "σ-VAE's heads, bounded", "explin/constant+per_pixel"),
    Remedy("vanilla, GECO", "Taming VAEs, κ = 0.06", f"vanilla{_GECO}", arithmetic="host"),
    Remedy("explin/constant, GECO", "Taming VAEs, κ = 0.06", f"explin/constant{_GECO}"),
    Remedy("explin/constant, GECO, clipped at 5", "Taming VAEs, κ = 0.06, and clipped", f"explin/constant{_GECO}",
           clip=5.0, skip=inf),
    Remedy("distortion alone", "control: only the rate's gradient is gone", _BOTH, reading=_IN_5, rate=False,
           clip=1.0, skip=inf),
)  # fmt: skip


def find(name: str) -> Remedy:
    """The remedy of that name; raises `UnknownNameError` with the nearest."""
    for remedy in REMEDIES:
        if remedy.name == name:
            return remedy
    raise UnknownNameError("remedy", name, [remedy.name for remedy in REMEDIES])
