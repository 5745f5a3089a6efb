"""Judges the scan on public code: `PYTHONPATH=tests/hosts python -m public [NAME ...]` prints the table.

A head is found if its path and channels are right; its role and convention are counted apart. Then all that was found
is patched, once with each scale, the package verifies σ on the scanned batch, and the patched model trains some steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from held_out import described, match, same_sigma

from public import PublicCase
from vdvae_patch.heads import Head
from vdvae_patch.patching import patch

SCALES = ("explin", "upbounded(omega=2)")
STEPS = 3


@dataclass(frozen=True)
class Verdict:
    """What a scan made of one model: see the columns of `table`."""

    case: PublicCase
    found: int
    roles: int
    conventions: int
    missed: tuple[str, ...]
    false: tuple[str, ...]
    patched: bool
    trained: bool
    errors: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether every head is found with its role, and nothing else."""
        return not self.missed and not self.false and self.roles == len(self.case.heads)


def judge(case: PublicCase, scales: Sequence[str] = SCALES) -> Verdict:
    """Scan, compare with the truth, patch with each scale, verify, train."""
    errors: list[str] = []
    pairs, left, heads = [], [], []
    try:
        _, heads = case.scanned()
        pairs, left = match(case.heads, heads)
        errors += [f"`{t.path}` called {h.role}, is {t.role}" for t, h in pairs if t.role != h.role]
        errors += [f"σ of `{t.path}` is read as {h.convention}" for t, h in pairs if not _same(t, h)]
    except Exception as problem:
        errors.append(f"scan raised {_text(problem)}")
    patched = trained = bool(heads)
    for scale in scales if heads else ():
        try:
            model, now = case.scanned()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                handle = patch(model, heads=now, **dict.fromkeys({head.role for head in now}, scale))
        except Exception as problem:
            patched = trained = False
            errors.append(f"patch {scale} raised {_text(problem)}")
            continue
        try:
            _train(model, case, handle.loss)
        except Exception as problem:
            trained = False
            errors.append(f"training as {scale} raised {_text(problem)}")
    seen = {id(t) for t, _ in pairs}
    return Verdict(
        case,
        len(pairs),
        sum(t.role == h.role for t, h in pairs),
        sum(_same(t, h) for t, h in pairs),
        tuple(described(t) for t in case.heads if id(t) not in seen),
        tuple(sorted(map(described, left))),
        patched,
        trained,
        tuple(dict.fromkeys(errors)),
    )


def _same(true: Any, head: Head) -> bool:
    return true.sigma is None or same_sigma(true, head)


def _train(model: torch.nn.Module, case: PublicCase, call: Any) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    for step in range(STEPS):
        torch.manual_seed(step)
        optimizer.zero_grad()
        result = model(*case.inputs()) if call is None else call(model, *case.inputs())
        if not isinstance(result, torch.Tensor):
            raise TypeError(f"the case's call returns a {type(result).__name__}; training needs a loss")
        loss = result.sum()
        if not loss.isfinite():
            raise ArithmeticError(f"loss {loss.item()} in step {step}")
        loss.backward()
        optimizer.step()


def _text(problem: Exception) -> str:
    return f"{type(problem).__name__}: " + " ".join(str(problem).split())[:300]


def table(verdicts: Sequence[Verdict]) -> str:
    """One row a model, and precision and recall over all of them, in Markdown."""
    lines = [
        "| model | code | heads there | found | false | roles right | σ(v) right | patched | trained | what is wrong |",
        "| :-- | :-- | --: | --: | --: | --: | --: | :-- | :-- | :-- |",
    ]
    for v in verdicts:
        remarks = [*(f"missed `{m}`" for m in v.missed), *(f"false `{f}`" for f in v.false), *v.errors]
        counts = (len(v.case.heads), v.found, len(v.false), v.roles, v.conventions)
        yes = [("yes" if done else "no") if v.case.heads or v.false else "" for done in (v.patched, v.trained)]
        cells = (v.case.name, str(v.case.source), *map(str, counts), *yes, "; ".join(remarks).replace("|", "\\|"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_totals(verdicts)])


def _totals(verdicts: Sequence[Verdict]) -> Iterable[str]:
    true, found = sum(len(v.case.heads) for v in verdicts), sum(v.found for v in verdicts)
    false, roles = sum(len(v.false) for v in verdicts), sum(v.roles for v in verdicts)
    for name, right in (("Path and channels", found), ("With the role", roles)):
        yield (
            f"{name}: precision {right}/{found + false} = {right / max(1, found + false):.3f}, "
            f"recall {right}/{true} = {right / max(1, true):.3f}.\n"
        )
    with_heads = [v for v in verdicts if v.case.heads]
    without = [v for v in verdicts if not v.case.heads]
    yield (
        f"Of {len(with_heads)} models with heads, {sum(v.exact for v in with_heads)} have exactly their heads and "
        f"roles, {sum(v.patched for v in with_heads)} are patched and verified, {sum(v.trained for v in with_heads)} "
        f"train; of {len(without)} without, {sum(not v.false for v in without)} raise no false alarm."
    )
