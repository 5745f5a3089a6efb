"""What a guard has seen, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from vdvae_patch.guarding.diagnosis import Diagnosis, outside_of_model
from vdvae_patch.guarding.extremes import table
from vdvae_patch.guarding.folder import near
from vdvae_patch.guarding.skip import Skip
from vdvae_patch.skips import telling
from vdvae_patch.tables import columns
from vdvae_patch.trace import shown

_SHOWN = 5


def told(skip: Skip) -> str:
    """One skip, a few lines."""
    text = [telling.skipped(skip.step, skip.cause, skip.loss, skip.norm, skip.ranks)]
    if skip.diagnosis is not None:
        text += [f"  {line}" for line in lines(skip.diagnosis)]
    if skip.healed:
        text.append(f"  healed: {skip.healed}")
    if skip.folder is not None:
        text.append(f"  recorded: {near(skip.folder)}")
    return "\n".join(text)


def lines(diagnosis: Diagnosis) -> list[str]:
    """What a diagnosis says, a line each."""
    text = [f"from outside: {line}" for line in diagnosis.outside]
    if not text:
        text = telling.values(diagnosis.explodes, diagnosis.event)
        if not text and diagnosis.how and not diagnosis.reproduced:
            text.append(f"done again ({diagnosis.how}), the step is finite: what is random in it may differ")
        if diagnosis.head is not None:
            text.append(_blamed(diagnosis))
        fallen = [t.variant for t in diagnosis.tried if not t.holds and t.outcome is not None]
        if diagnosis.holding or fallen:
            missed = {t.variant: t.why_not for t in diagnosis.tried if t.outcome is None}
            text.append(telling.holding(diagnosis.holding, fallen, all_tried=not missed))
            if missed and not diagnosis.holding:
                text.append(f"note: not tried: {', '.join(missed)}: {next(iter(missed.values()))}")
        elif diagnosis.tried:
            text.append(f"note: no other scale could be tried: {diagnosis.tried[0].why_not}")
    if diagnosis.part is not None and (diagnosis.rows or diagnosis.heads or diagnosis.outside):
        text.append(f"note: values, rows and heads are those of {diagnosis.of_part}")
    return text + [f"note: {note}" for note in diagnosis.notes if note]


def _blamed(diagnosis: Diagnosis) -> str:
    head = diagnosis.head
    assert head is not None
    own = next(
        (h for h in diagnosis.heads if (h.path, h.channels, h.role) == (head.path, head.channels, head.role)), None
    )
    text = telling.head(head.path, head.channels, head.role, "" if own is None else own.described)
    with_others = ", together with others" if diagnosis.with_others else ""
    return f"{text}: with another scale there the step is finite{with_others}"


def report(
    skips: Sequence[Skip],
    raised: Sequence[str],
    steps: int,
    heads: str,
    cure: str,
    counted: Mapping[str, int],
    before: Mapping[str, int],
    behind: int = 0,
    optimizers: int = 1,
) -> str:
    """All of it.

    Args:
        raised: what `torch.distributions` refused, which ends a loop that does not catch it.
        steps: of all sessions, the skipped ones among them.
        counted: by cause how many were skipped, in all sessions.
        before: of these, those of earlier sessions.
        behind: how many of `skips` came behind a state that was taken up again, and are counted no more.
        optimizers: how many have taken these steps, each its own in every turn of the loop.
    """
    real = [skip for skip in skips if skip.cause != "loss_scale"]
    skipped, known = (sum(n for cause, n in found.items() if cause != "loss_scale") for found in (counted, before))
    ordinary = counted.get("loss_scale", 0)
    all_steps = f"{steps} steps" + (f" of {optimizers} optimizers" if optimizers > 1 else "")
    if not (real or skipped or ordinary):
        ended = [f"{all_steps}, no update was skipped", *raised, cure]
        return "\n\n".join(part for part in ended if part)
    lines = [f"{all_steps}, {skipped} of them skipped"]
    if known:
        lines[0] += f" ({known} before the training was taken up again)"
    if behind:
        lines[0] += f", and {behind} in steps behind the state that was taken up again"
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
                where = skip.diagnosis.of_part or "this step"
                lines += ["  " + line for line in [f"the heads in {where}:", *table(skip.diagnosis.heads).splitlines()]]
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
        return f"{shown(event.place.file)}:{event.place.line}"
    return f"module {event.place.module}" if event.place.module else "the model itself"
