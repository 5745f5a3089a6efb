"""Rows, what a cell says, and the page: rows register here, and the page is made of what they give."""

from __future__ import annotations

import importlib.util
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vdvae_patch
from vdvae_patch.errors import PatchError

from .case import VARIANT, Case, Values, gradient
from .models import COLUMNS

WORKS = "works"
NOT_APPLICABLE = "–"

Measure = Callable[[Any, tuple[Tensor, ...]], Values]


class SilentlyWrongError(AssertionError):
    """A tool's result is not that of the patched model, and nothing says so."""


@dataclass(frozen=True)
class Row:
    """One thing that people do to a model.

    Attributes:
        do: does it to a fresh case, which it patches before or after; returns what is then measured, or the values.
        measure: what is compared: of what `do` returns, and of the plain model patched with the same weights.
        reference: what to compare with if that is not `measure` of the plain model.
        back: whether the result shall be that of the model that is not patched.
        tolerance: of half precision or of integers.
        restores: whether unpatching afterwards gives the vanilla model bit for bit; a reason if it cannot be asked.
        needs: packages that may be missing.
        ranks: whether it is run by two processes of a group.
        open: why a cell is not what it should be, by column; the test then expects the failure.
    """

    name: str
    theme: str
    do: Callable[[Case], Any]
    measure: Measure
    reference: Callable[[Case], Values] | None
    note: str
    back: bool
    tolerance: float
    restores: bool
    needs: tuple[str, ...]
    columns: tuple[str, ...]
    variant: str
    ranks: bool
    slow: bool
    open: dict[str, str]

    def expected(self, column: str, patching: bool, weights: dict[str, Tensor] | None) -> Values:
        """What the plain model computes, patched or not."""
        case = Case(column, self.variant, patching)
        if weights is not None:
            case.model.load_state_dict(weights)
        case.patch()
        return self.measure(case.model, case.batch) if self.reference is None else self.reference(case)

    def seen(self, case: Case) -> Values:
        """What comes out of the tool."""
        result = self.do(case)
        return result if isinstance(result, list) else self.measure(result, case.batch)

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


ROWS: dict[str, Row] = {}


def row(
    name: str,
    *,
    measure: Measure = gradient,
    reference: Callable[[Case], Values] | None = None,
    note: str = "",
    back: bool = False,
    tolerance: float = 1e-4,
    restores: bool = True,
    needs: Sequence[str] = (),
    columns: Sequence[str] = tuple(COLUMNS),
    variant: str = VARIANT,
    ranks: bool = False,
    slow: bool = False,
    open: dict[str, str] | None = None,
) -> Callable[[Callable[[Case], Any]], Callable[[Case], Any]]:
    """Register a function as a row of its file's theme; see `Row`."""

    def register(do: Callable[[Case], Any]) -> Callable[[Case], Any]:
        theme = do.__module__.rpartition(".")[2]
        assert name not in ROWS, name
        ROWS[name] = Row(
            name,
            theme,
            do,
            measure,
            reference,
            note,
            back,
            tolerance,
            restores,
            tuple(needs),
            tuple(columns),
            variant,
            ranks,
            slow,
            open or {},
        )
        return do

    return register


def cell(row: Row, column: str) -> str:
    """What the table says of a row and a column; raises `SilentlyWrongError`, or what a tool raises if patched."""
    case = Case(column, row.variant)
    torch._dynamo.reset()
    try:
        seen = row.seen(case)
    except Exception as error:
        refusal = next((e for e in _chain(error) if _is_ours(e)), None)
        if refusal is not None:
            return f"refused: {first_part(refusal)}"
        return _of_vanilla(row, column, error)
    patched = row.expected(column, True, case.weights)
    vanilla = row.expected(column, False, case.weights)
    assert not close(patched, vanilla, row.tolerance), "this row could not tell a patched model from a vanilla one"
    if not close(seen, vanilla if row.back else patched, row.tolerance):
        return _said(row, column, case, seen, patched, vanilla)
    if vdvae_patch.is_patched(case.subject):
        vdvae_patch.check_intact(case.subject)  # no false alarm
    if row.restores:
        restore(case)
    return WORKS


def restore(case: Case) -> None:
    """Unpatch, and compare with a model that never was patched."""
    if vdvae_patch.is_patched(case.subject):
        vdvae_patch.unpatch(case.subject)
    fresh = case.fresh()
    # as they lie in memory, too, which decides the order of sums
    fresh.load_state_dict({name: t.clone() for name, t in case.model.state_dict().items()}, assign=True)
    fresh.train(case.model.training)
    batch = tuple(t.to(next(fresh.parameters()).dtype) for t in case.batch)
    for one, other in zip(gradient(case.model, batch), gradient(fresh, batch), strict=True):
        assert torch.equal(one, other), "unpatching did not restore the vanilla model bit for bit"


def close(seen: Values, expected: Values, tolerance: float) -> bool:
    """Whether all values agree, to a tolerance relative to the largest of each."""
    assert len(seen) == len(expected)
    pairs = ((a.detach().double(), b.detach().double()) for a, b in zip(seen, expected, strict=True))
    return all(bool((a - b).abs().max() <= tolerance * (b.abs().max() + 1e-6)) for a, b in pairs)


def _of_vanilla(row: Row, column: str, error: Exception) -> str:
    torch._dynamo.reset()
    try:
        row.seen(Case(column, row.variant, patching=False))
    except Exception as same:
        return f"vanilla fails, too: {type(same).__name__}: {first_part(same)}"
    raise error


def _said(row: Row, column: str, case: Case, seen: Values, patched: Values, vanilla: Values) -> str:
    try:
        vdvae_patch.check_intact(case.subject)
    except PatchError as error:
        return f"said by check_intact: {first_part(error, after_headline=True)}"
    untouched = Case(column, row.variant, patching=False)
    if not close(row.seen(untouched), row.expected(column, False, untouched.weights), row.tolerance):
        return "vanilla fails, too: the result is not the eager model's"
    kind = "vanilla's" if close(seen, vanilla, row.tolerance) else "neither the patched model's nor vanilla's"
    raise SilentlyWrongError(f"{row.name}, {column}: {kind}; seen {seen}, patched {patched}, vanilla {vanilla}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_ours(error: BaseException) -> bool:
    """Whether an error was raised by a line of the package, which says what to do, and not by one that it calls."""
    if isinstance(error, PatchError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(_PACKAGE)


_PACKAGE = Path(vdvae_patch.__file__).parent
_LENGTH = 150


def first_part(error: BaseException, after_headline: bool = False) -> str:
    """The first line of a message up to a semicolon or full stop, without what differs between runs and machines."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [""]
    text = lines[1] if after_headline and len(lines) > 1 else lines[0]
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.split(r";|\. ", text)[0]
    text = re.sub(r"0x[0-9a-fA-F]+", "0x…", text)
    text = re.sub(r" id='\d+'", "", text)
    text = re.sub(r"(?<![\w.])/[\w.\-/]+", "…", text)
    text = re.sub(r"https?://\S+", "…", text)
    text = text.replace("|", "/").replace("<", "‹").replace(">", "›").strip().rstrip(".:")
    return text if len(text) <= _LENGTH else text[: _LENGTH - 1].rstrip() + "…"
