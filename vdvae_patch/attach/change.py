"""What is to be changed in a function: which expressions a patch replaces, and by what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vdvae_patch.attach.source import Span

TERM = -1000
"""Operand of a change that replaces the expression by reader(output, data), the two that `first` compares."""

VALUE = -999
"""Operand of a change that reads what the expression at `first` itself comes to, with what stands in its place."""


class Change(NamedTuple):
    """Replace the expression at `last` by reader(p), p the operand of the expression at `first`."""

    first: Span
    last: Span
    operand: int
    reader: Any
    parameter: str = ""
    also: tuple[tuple[Span, int], ...] = ()
    """Further expressions and operands, whose raw parameters are added to the first."""
    drops: tuple[Span, ...] = ()
    """In-place operations on the way to the last expression that are left out, so that the raw parameter lasts."""
    inplace: bool = False
    """Whether the last expression changes its operand in place, which then gets the value."""
    several: bool = False
    """Whether the last expression calls a function of the host, which may return more than the scale."""


class Names(NamedTuple):
    """What names mean in a function beside the model.

    Attributes:
        model: from which parameters are named.
        given: arguments whose values are known.
    """

    model: Any
    given: Mapping[str, Any]


class LocalFunction(NamedTuple):
    """Changes of a function, or a lambda, that is defined in the function which calls it, for this call alone."""

    changes: Sequence[Change]
    callees: Mapping[Span, Any]
