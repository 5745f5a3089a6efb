"""What a guard has seen, in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from vdvae_patch.guarding.diagnosis import Diagnosis, outside_of_model
from vdvae_patch.guarding.extremes import table
from vdvae_patch.guarding.skip import Skip
from vdvae_patch.tables import columns
from vdvae_patch.trace import Event

_SHOWN = 5


def told(skip: Skip) -> str:
    """One skip, a few lines."""
    text = [f"step {skip.step}: update skipped, {why(skip)}"]
    if skip.diagnosis is not None:
        text += [f"  {line}" for line in lines(skip.diagnosis)]
    if skip.healed:
        text.append(f"  healed: {skip.healed}")
    if skip.folder is not None:
        text.append(f"  recorded: {skip.folder}")
    return "\n".join(text)


def why(skip: Skip) -> str:
    """Cause, loss and norm."""
    ranks = f", on rank{'s' if len(skip.ranks) > 1 else ''} {', '.join(map(str, skip.ranks))}" if skip.ranks else ""
    if skip.cause == "loss_scale":
        return f"the scaled gradients overflowed, which is ordinary in float16; the scaler lowers its scale{ranks}"
    if skip.cause == "nan_loss":
        return f"the loss is {_number(skip.loss)}{ranks}" if not math.isfinite(skip.loss) else f"a NaN loss{ranks}"
    limit = " is not below the threshold" if math.isfinite(skip.norm) else ""
    return f"loss {skip.loss:.4g}, gradient norm {_number(skip.norm)}{limit}{ranks}"


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.4g}"


def lines(diagnosis: Diagnosis) -> list[str]:
    """What a diagnosis says, a line each."""
    text = [f"from outside: {line}" for line in diagnosis.outside]
    if not text:
        if diagnosis.event is not None:
            text.append(f"the first value that is not finite: {described(diagnosis.event)}")
            if diagnosis.explodes is not None:
                text.append(f"before it a value exploded: {described(diagnosis.explodes)}")
        elif diagnosis.explodes is not None:
            text.append(f"a value exploded, so that the norm is infinite: {described(diagnosis.explodes)}")
        elif diagnosis.how and not diagnosis.reproduced:
            text.append(f"done again ({diagnosis.how}), the step is finite: what is random in it may differ")
        if diagnosis.head is not None:
            text.append(f"head: {_blamed(diagnosis)}")
        if diagnosis.tried:
            text.append(_holding(diagnosis))
    return text + [f"note: {note}" for note in diagnosis.notes if note]


def described(event: Event) -> str:
    """An event with its rows."""
    rows = ""
    if event.rows:
        named = ", ".join(map(str, event.rows[:_SHOWN]))
        more = f" and {len(event.rows) - _SHOWN} more" if len(event.rows) > _SHOWN else ""
        rows = f", in row{'s' if len(event.rows) > 1 else ''} {named}{more} of the batch"
    return f"{event}{rows}"


def _blamed(diagnosis: Diagnosis) -> str:
    head = diagnosis.head
    assert head is not None
    own = next(
        (h for h in diagnosis.heads if (h.path, h.channels, h.role) == (head.path, head.channels, head.role)), None
    )
    text = f"{head.path or '(the model itself)'}[{head.channels}] ({head.role})"
    if own is not None and own.described:
        text += f", {own.described}"
    with_others = ", together with others" if diagnosis.with_others else ""
    return f"{text}: with another scale there the step is finite{with_others}"


def _holding(diagnosis: Diagnosis) -> str:
    holding, fallen = diagnosis.holding, [t.variant for t in diagnosis.tried if not t.holds]
    if holding:
        text = f"the same step is finite under {', '.join(holding)}"
        return f"{text}, and not under {', '.join(fallen)}" if fallen else text
    return f"no scale of the heads makes this step finite (tried {', '.join(fallen)}): they are not what breaks it"


def report(skips: Sequence[Skip], raised: Sequence[str], steps: int, heads: str, cure: str) -> str:
    """All of it.

    Args:
        raised: what `torch.distributions` refused, which ends a loop that does not catch it.
    """
    if not skips:
        ended = [f"{steps} steps, no update was skipped", *raised, cure]
        return "\n\n".join(part for part in ended if part)
    ordinary = sum(skip.cause == "loss_scale" for skip in skips)
    real = [skip for skip in skips if skip.cause != "loss_scale"]
    lines = [f"{steps} steps, {len(real)} of them skipped"]
    if ordinary:
        lines[0] += f", and {ordinary} more for the loss scale of float16, which is ordinary"
    blamed = Counter((skip.head or _place_of(skip), skip.cause) for skip in real)
    if len(real) > 1:
        rows = [(str(count), cause, what) for (what, cause), count in blamed.most_common()]
        lines += ["", columns(("skips", "cause", "head or place"), rows)]
    seen: set[tuple[object, ...]] = set()
    for skip in real:
        if skip.diagnosis is not None and (key := (skip.head, skip.operation, skip.line, skip.outside)) not in seen:
            seen.add(key)
            lines += ["", told(skip)]
            if skip.diagnosis.heads:
                lines += [
                    "  " + line for line in ["the heads in this step:", *table(skip.diagnosis.heads).splitlines()]
                ]
    if real and not seen:
        lines += ["", *(told(skip) for skip in real[:_SHOWN])]
    for text in raised:
        lines += ["", text]
    if heads:
        lines += ["", heads]
    if cure:
        lines += ["", cure]
    return "\n".join(lines)


def _place_of(skip: Skip) -> str:
    if skip.outside:
        return "from outside"
    event = skip.event
    if event is None:
        return "not looked at" if skip.diagnosis is None else "unknown"
    if outside_of_model(event):
        return f"{event.place.file}:{event.place.line}"
    return f"module {event.place.module}" if event.place.module else "the model itself"
