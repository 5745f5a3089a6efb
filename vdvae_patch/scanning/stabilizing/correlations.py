"""Push the correlation of two values to where its density breaks: a scale of σ mends nothing there.

With ρ = tanh(v), |ρ| is 1 from |v| = 9 on in float32, and in the density of two correlated values

    −log N = (Δ₁²/σ₁² + Δ₂²/σ₂² − 2 ρ Δ₁ Δ₂/(σ₁ σ₂)) / 2 (1 − ρ²) + log σ₁ + log σ₂ + ½ log(1 − ρ²) + log 2π

1 − ρ² is zero. So beside the raw values of σ (`probing.py`) those of ρ are set to values that an optimizer reaches, and
the user's own call runs, backward pass included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from vdvae_patch.heads import Correlation
from vdvae_patch.outcome import Outcome
from vdvae_patch.patching.record import PatchedHead
from vdvae_patch.scanning.stabilizing.outlets import can_be_held
from vdvae_patch.scanning.stabilizing.probing import Probe
from vdvae_patch.scanning.watching.outcome import with_origin
from vdvae_patch.trace import Tracer, shown

LEVELS = (3.0, 10.0, 30.0, 1000.0)
"""Raw values, of both signs: where tanh has few digits left, where it is 1 in float32 and in float64, and what steps of
an optimizer can reach."""


@dataclass(frozen=True)
class Pushed:
    """What pushing a correlation showed.

    Attributes:
        correlation: whose raw values were set.
        raw: the value in the first call that was not finite; None if all held, or if nothing could be pushed.
        level: the log σ to which all heads were pushed in that call, too; None for the batch as it is.
        outcome: of that call, with where the first such value was made.
    """

    correlation: Correlation
    raw: float | None = None
    level: float | None = None
    outcome: Outcome | None = None

    def __str__(self) -> str:
        name, line = named(self.correlation), f"{shown(self.correlation.file)}:{self.correlation.line}"
        if self.correlation.raw is None:
            return f"note: {name} was not pushed, since its raw value is no module's output; at {line}, {ADVICE}"
        if self.raw is None or self.outcome is None:
            return f"holds: {name}: loss and gradients stay finite wherever its raw value is pushed"
        origin = f"; {self.outcome.origin}" if self.outcome.origin is not None else ""
        beside = "" if self.level is None else f", and those of σ to log σ = {self.level:g}"
        said = f"NOT cured: {name}, its raw value pushed to {self.raw:g}{beside}: {self.outcome.headline}{origin}"
        return f"{said.rstrip('.')}. No scale of σ mends that. At {line}, {ADVICE}"


ADVICE = "keep ρ away from ±1, as 0.99 * torch.tanh(v) does in the place of torch.tanh(v)"


def named(correlation: Correlation) -> str:
    """The correlation as it is called in what is printed."""
    return "the correlation" + ("" if correlation.raw is None else f" {correlation.raw}")


def pushed(model: nn.Module, probe: Probe, heads: Sequence[PatchedHead], cured: bool) -> list[Pushed]:
    """Push each correlation that the heads' densities have, by itself, and together with all σ at their ends.

    Args:
        heads: with the scales that they have now; the model is without its patch, see `apply.lifted`.
        cured: whether all heads hold by themselves, so that what breaks at their ends is the correlation's fault.
    """
    known = dict.fromkeys(h.head.found.correlation for h in heads if h.head.found and h.head.found.correlation)
    return [_pushed(model, probe, heads, correlation, cured) for correlation in known if correlation is not None]


def _pushed(
    model: nn.Module, probe: Probe, heads: Sequence[PatchedHead], correlation: Correlation, cured: bool
) -> Pushed:
    outlet = correlation.raw
    if outlet is None or outlet.parameter or not can_be_held(model, outlet):
        return Pushed(Correlation(None, correlation.file, correlation.line, correlation.reaches_one))
    ends = (min(probe.levels), max(probe.levels)) if cured else ()
    tried = [(level, None) for level in LEVELS] + [(LEVELS[-1], end) for end in ends]
    for level, end in ((sign * level, end) for level, end in tried for sign in (1, -1)):
        if probe.outcome_at(heads, end, held={outlet: level}).finite:
            continue
        tracer = Tracer(model)
        outcome = with_origin(probe.outcome_at(heads, end, tracer, {outlet: level}), tracer)
        return Pushed(correlation, level, end, outcome)
    return Pushed(correlation)
