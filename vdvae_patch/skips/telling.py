"""A skipped update in words: what a run of `train` and a guard of somebody else's loop both say of it.

Cause, ranks, the first bad value with its operation and its line, the head, and what would have held. Who ran the step
is not known here; what only one of them knows (rate and distortion, or the lines that were run again) it says itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vdvae_patch.skips.rule import LARGEST, Cause
from vdvae_patch.trace import Event

_SHOWN = 5


def number(value: float) -> str:
    """Four digits, or NaN."""
    return "NaN" if math.isnan(value) else f"{value:.4g}"


def on_ranks(ranks: Sequence[int]) -> str:
    """`" on rank 1"`, `" on ranks 0, 2"`; empty if none is named."""
    return f" on rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}" if ranks else ""


def skipped(
    step: int,
    cause: Cause,
    loss: float,
    norm: float,
    ranks: Sequence[int] = (),
    sites: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """That an update was skipped, and why, in a line.

    Args:
        loss: in whatever unit; `norm` is before clipping.
        ranks: on which something was not finite.
        sites: the same by what it was (rate, distortion, gradient), where that is told apart.
    """
    return f"step {step}: update skipped, {_why(cause, loss, norm, ranks)}{_sites(sites or {})}"


def _why(cause: Cause, loss: float, norm: float, ranks: Sequence[int]) -> str:
    where = f",{on_ranks(ranks)}" if ranks else ""
    if cause == "loss_scale":
        return f"the scaled gradients overflowed, which is ordinary in float16; the scaler lowers its scale{where}"
    if cause == "high_gradient":
        limit = " is not below the threshold" if math.isfinite(norm) else ""
        if LARGEST <= norm < math.inf:
            limit = ", whose square overflows in float32"
        # with a NaN that was seen, the loss would be the cause
        seen = "the loss was not seen" if math.isnan(loss) else f"loss {loss:.4g}"
        return f"{seen}, gradient norm {number(norm)}{limit}{where}"
    part = cause.removeprefix("nan_")
    if part != "loss":
        return f"the {part} is not finite{where}"
    return f"the loss is {number(loss)}{where}" if not math.isfinite(loss) else f"a NaN loss{where}"


def _sites(sites: Mapping[str, Sequence[int]]) -> str:
    text = "; ".join(f"{site}{on_ranks(ranks)}" for site, ranks in sites.items() if ranks)
    return f" (not finite: {text})" if text else ""


def in_a_row(count: int) -> str:
    """So many that the training ends."""
    return f"{count} updates in a row were skipped"


def values(explodes: Event | None, event: Event | None, rank: int | None = None) -> list[str]:
    """The first bad values, a line each.

    Args:
        explodes: the first value that is finite and too large, on the way to what is not finite.
        event: the first that is not finite.
        rank: whose share of the batch it is, where that is known.
    """
    if event is not None:
        text = [f"the first value that is not finite: {described(event, rank)}"]
        return text if explodes is None else [*text, f"before it a value exploded: {described(explodes, rank)}"]
    return [] if explodes is None else [f"a value exploded: {described(explodes, rank)}"]


def described(event: Event, rank: int | None = None) -> str:
    """An event with its rows and its rank."""
    rows = ""
    if event.rows:
        named = ", ".join(map(str, event.rows[:_SHOWN]))
        more = f" and {len(event.rows) - _SHOWN} more" if len(event.rows) > _SHOWN else ""
        rows = f", in row{'s' if len(event.rows) > 1 else ''} {named}{more} of the batch"
    return f"{event}{rows}{'' if rank is None else f',{on_ranks([rank])}'}"


def head(path: str, channels: str, role: str, seen: str = "") -> str:
    """The head that is to blame.

    Args:
        channels: of its module's output; empty where the host's entry does not say.
        seen: what was seen of it, such as the extremes of log σ.
    """
    name = f"{path or '(the model itself)'}{f'[{channels}]' if channels else ''}"
    return f"head: {name} ({role}){f', {seen}' if seen else ''}"


def log_sigma(low: float, high: float) -> str:
    """The extremes of a head."""
    return f"log σ from {low:.4g} to {high:.4g}"


def under(variant: str, said: str) -> str:
    """The same step and weights, under another variant."""
    return f"the same step under {variant}: {said}"


def holding(holds: Sequence[str], fallen: Sequence[str], all_tried: bool = True) -> str:
    """Which variants make the step finite, and which do not; that the heads are not to blame is said only where all
    were tried."""
    if holds:
        text = f"the same step is finite under {', '.join(holds)}"
        return f"{text}, and not under {', '.join(fallen)}" if fallen else text
    if not all_tried:
        return f"the step is not finite under {', '.join(fallen)}; others could not be tried"
    tried = ", ".join(fallen)
    return f"no scale of the heads that were found makes this step finite (tried {tried}): they are not what breaks it"
