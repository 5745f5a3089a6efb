"""Skipped updates: what is said of each beside the log, and how it is done again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vdvae_patch.report.columns import number
from vdvae_patch.report.looks import HeadName, name_of, stands_out

CAUSES = {
    "nan_rate": "rate not finite",
    "nan_distortion": "distortion not finite",
    "nan_loss": "loss not finite",
    "high_gradient": "high gradient",
    "loss_scale": "loss scale of float16",
    "": "no cause written",
}
"""What each cause is called on the page."""

PER_HEAD = 24
"""The most heads that are listed of one skip."""


@dataclass(frozen=True)
class Skip:
    """One skipped update, as `skips.jsonl` has it.

    Attributes:
        step: from 0.
        cause: one of `CAUSES`, or what a later version writes.
        ranks: on which something was not finite, as text; empty where nothing is said.
        loss, norm: of a run the NELBO in nats per dimension; of a guarded loop its loss; the norm before clipping.
        head: the one to blame, or that stands out; empty if nothing is known.
        blamed: whether it was found by doing the step again; else it is the one that stands out.
        said: what else is known, a line each.
        recorded: its number for `replay`, from 1; 0 if it was not recorded.
        replay: the command that does it again; empty if it was not recorded.
        folder: where it is recorded.
        images: drawn by `replay` before.
        heads: the heads in this step, as they were written, at most `PER_HEAD`; of recorded skips alone.
        of_heads: how many there are of these.
    """

    step: int
    cause: str
    ranks: str = ""
    loss: float = float("nan")
    norm: float = float("nan")
    head: str = ""
    blamed: bool = False
    said: tuple[str, ...] = ()
    recorded: int = 0
    replay: str = ""
    folder: Path | None = None
    images: tuple[Path, ...] = ()
    heads: tuple[tuple[HeadName, Mapping[str, Any]], ...] = field(default=(), repr=False)
    of_heads: int = 0


def of_run(row: Mapping[str, Any], folder: Path, recordings: Sequence[Path]) -> Skip | None:
    """From a record of a run's `skips.jsonl`; None if it has no step."""
    step = row.get("step")
    if not isinstance(step, int):
        return None
    heads = _heads(row)
    out = stands_out(heads)
    recorded = next((n for n, path in enumerate(recordings, 1) if _step_of(path) == step), 0)
    said = [] if out is None else [out[1]]
    if row.get("heads_exact") is False:
        said.append("the heads were looked at after later updates had moved the weights")
    return Skip(
        step=step,
        cause=str(row.get("cause") or ""),
        ranks=_sites(row.get("sites")) or _ranks(row.get("ranks")),
        loss=number(row.get("elbo")),
        norm=number(row.get("grad_norm")),
        head="" if out is None else f"{out[0].text} ({out[0].role})",
        said=tuple(said),
        recorded=recorded,
        replay=shlex.join(["python", "-m", "vdvae_patch", "replay", str(folder), "--skip", str(recorded)])
        if recorded
        else "",
        folder=recordings[recorded - 1] if recorded else None,
        images=_images(recordings[recorded - 1]) if recorded else (),
        heads=tuple((name_of(head), head) for head in heads[:PER_HEAD]) if recorded else (),
        of_heads=len(heads) if recorded else 0,
    )


def of_guard(row: Mapping[str, Any], folder: Path, recorded: Mapping[str, int]) -> Skip | None:
    """From a record of a guard's `skips.jsonl`; None if it has no step.

    Args:
        recorded: the folders of the recorded skips with their numbers.
    """
    step = row.get("step")
    if not isinstance(step, int):
        return None
    heads = _heads(row)
    head = row.get("head")
    blamed = isinstance(head, str)
    said = [f"from outside: {line}" for line in _texts(row.get("outside"))]
    if row.get("operation"):
        where = f" in module {row['module']}" if row.get("module") else ""
        at = f", at {row['file']}:{row.get('line')}" if row.get("file") else ""
        in_rows = _numbers(row.get("rows"))
        of = f", in rows {in_rows} of the batch" if in_rows else ""
        said.append(f"the first bad value: {row['operation']}{where}{at}{of}")
    if len(part := _numbers(row.get("part")).split(", ")) == 2:
        said.append(f"values, rows and heads are those of backward {part[0]} of the {part[1]} in this step")
    variants = row.get("variants")
    if isinstance(variants, Mapping) and variants:
        holds = [str(name) for name, held in variants.items() if held]
        falls = [str(name) for name, held in variants.items() if held is False]
        missed = [str(name) for name, held in variants.items() if held is None]
        if holds or falls:
            said.append(f"finite under {', '.join(holds)}" if holds else f"not finite under {', '.join(falls)} either")
        if missed and not holds:
            said.append(f"not tried: {', '.join(missed)}")
    if row.get("exact") is not None:
        said.append("done again bit for bit" if row["exact"] else "done again, with another loss than the step had")
    if row.get("healed"):
        said.append(f"healed: {row['healed']}")
    name = str(row.get("recorded") or "")
    mine = recorded.get(name, 0)
    if not blamed and (out := stands_out(heads)) is not None:
        head = f"{out[0].text} ({out[0].role})"
        said.insert(0, out[1])
    return Skip(
        step=step,
        cause=str(row.get("cause") or ""),
        ranks=_ranks(row.get("ranks")),
        loss=number(row.get("elbo")),
        norm=number(row.get("grad_norm")),
        head=str(head or ""),
        blamed=blamed,
        said=tuple(said),
        recorded=mine,
        replay=shlex.join(["python", "-m", "vdvae_patch", "replay", str(folder / name)])
        + " --model PACKAGE.MODULE:FACTORY --call PACKAGE.MODULE:LOSS"
        if mine
        else "",
        folder=folder / name if mine else None,
        heads=tuple((name_of(one), one) for one in heads[:PER_HEAD]) if mine else (),
        of_heads=len(heads) if mine else 0,
    )


def cause_text(cause: str) -> str:
    """`NaN in the rate`; what is not known here stays as it is written."""
    return CAUSES.get(cause, cause)


def _heads(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    heads = row.get("heads")
    return [head for head in heads if isinstance(head, Mapping)] if isinstance(heads, list) else []


def _sites(sites: Any) -> str:
    """`rate on rank 1; gradient on ranks 0, 1`."""
    if not isinstance(sites, Mapping):
        return ""
    named = [(str(site), _ranks(ranks)) for site, ranks in sites.items() if ranks]
    return "; ".join(f"{site} on {ranks}" if ranks else site for site, ranks in named)


def _ranks(ranks: Any) -> str:
    numbers = _numbers(ranks)
    return "" if not numbers else f"rank{'s' if ', ' in numbers else ''} {numbers}"


def _numbers(values: Any) -> str:
    return ", ".join(str(v) for v in values if isinstance(v, int)) if isinstance(values, list) else ""


def _texts(values: Any) -> list[str]:
    return [str(value) for value in values] if isinstance(values, list) else []


def _step_of(path: Path) -> int | None:
    digits = path.name.removeprefix("skip-")
    return int(digits) if digits.isascii() and digits.isdigit() else None


def _images(recording: Path) -> tuple[Path, ...]:
    """What `replay` has drawn of it, beside the recording."""
    return tuple(sorted(recording.parent.glob(f"{recording.name}*.png")))
