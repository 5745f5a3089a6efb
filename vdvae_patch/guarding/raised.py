"""Errors that end a step: which of them a value that is not finite may be behind, and where the step was by then.

An error may come from anywhere: `torch.distributions`, a binary cross-entropy that is given NaN, a Cholesky
factorization, an assertion of the user's. What was running is known by its traceback, also when it has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.errors import VdvaePatchError
from vdvae_patch.guarding.frames import Running, running_in
from vdvae_patch.scanning.watching.outcome import refusal

_DEPTH = 8  # functions that are looked at, from where the error was raised outwards

_OTHERS: tuple[type[BaseException], ...] = (
    VdvaePatchError, MemoryError, torch.OutOfMemoryError, StopIteration, SyntaxError, ImportError, OSError,
)  # fmt: skip


def may_be_of_a_value(error: BaseException) -> bool:
    """Whether the values of a step may be behind an error, and it was not told of yet."""
    return isinstance(error, Exception) and not isinstance(error, _OTHERS) and not is_told(error)


def is_told(error: BaseException) -> bool:
    """Whether a guard has seen this error, or one that it was raised from."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        if getattr(now, "_vdvae_patch", False):
            return True
        seen.add(id(now))
        now = now.__cause__ or now.__context__
    return False


def tell(error: BaseException, text: str = "") -> None:
    """Mark it, and say so below it."""
    error._vdvae_patch = True  # type: ignore[attr-defined]
    if text:
        error.add_note(text)


def running(error: BaseException) -> list[Running]:
    """The functions that ran when it was raised, and at which instruction each was, the innermost first."""
    found: list[Running] = []
    trace = error.__traceback__
    outer = None if trace is None else trace.tb_frame.f_back
    while trace is not None:
        found.append((trace.tb_frame, trace.tb_lasti))
        trace = trace.tb_next
    return [*found[::-1], *running_in(outer)]


def names_a_number(running: Sequence[Running]) -> bool:
    """Whether a variable of the functions that ran is a number, as a loss is, that is not finite."""
    values = (value for frame, _ in running[:_DEPTH] for value in frame.f_locals.values())
    return any(isinstance(v, Tensor) and v.numel() == 1 and not v.is_meta and not bool(v.isfinite()) for v in values)


def said(error: BaseException) -> str:
    """Its kind, and its first line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__} was raised: {first}" if first else f"{type(error).__name__} was raised"


def refused(distribution: Any, where: str, rows: int | None = None) -> str:
    """What a distribution has against its parameters, in words; `rows` are those of the batch."""
    name = type(distribution).__name__
    for parameter in ("loc", "scale"):  # as PyTorch asks of them
        value = getattr(distribution, parameter, None)
        if isinstance(value, Tensor) and (text := refusal(parameter, value, where, rows)):
            return text
    return f"{where}: PyTorch refuses the parameters of a {name}"


def is_raised_in(error: BaseException, module: nn.Module) -> bool:
    """Whether an error comes from a call of a module that is just ending, and is not one that was there before."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_locals.get("self") is module:
            return True
        trace = trace.tb_next
    return False
