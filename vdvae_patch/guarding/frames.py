"""Which functions were running: where the model was called, and where `backward` was."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import CodeType, FrameType

from vdvae_patch.trace import shown

DEPTH = 24
"""Frames above the model's call that are looked at; a framework has a dozen."""


@dataclass(frozen=True)
class Frame:
    """A function that was running: which, and at which instruction."""

    identity: int
    code: CodeType
    instruction: int

    @classmethod
    def of(cls, frame: FrameType) -> Frame:
        """Where a function is now."""
        return cls(id(frame), frame.f_code, frame.f_lasti)

    def __str__(self) -> str:
        return f"{shown(self.code.co_filename)}:{self.position[0]}"

    @property
    def position(self) -> tuple[int, int]:
        """Line, and the column in it in bytes, where what it was doing begins; several statements may share a line."""
        found = next(islice(self.code.co_positions(), self.instruction // 2, None), None)
        line, _, column, _ = found or (None, None, None, None)
        return line or self.code.co_firstlineno, column or 0


def callers(frame: FrameType | None) -> list[Frame]:
    """The functions around a call, the innermost first; PyTorch's own are left out."""
    found: list[Frame] = []
    while frame is not None and len(found) < DEPTH:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("torch", "vdvae_patch"):
            found.append(Frame.of(frame))
        frame = frame.f_back
    return found


def calls_in(frames: Sequence[Frame]) -> list[tuple[CodeType, int]]:
    """At which instruction of which function each of them was: equal for two turns of one loop."""
    return [(frame.code, frame.instruction) for frame in frames]


Running = tuple[FrameType, int]
"""A function that runs, or ran when an error was raised, and the instruction that it was at."""


def running_in(frame: FrameType | None) -> Iterator[Running]:
    """The functions that run now, from this one outwards."""
    while frame is not None:
        yield frame, frame.f_lasti
        frame = frame.f_back


Around = frozenset[tuple[int, CodeType]]
"""Functions that run, each by its frame's identity and its code."""


def around(frame: FrameType | None) -> Around:
    """The functions that run now, from this one outwards."""
    return frozenset((id(running), running.f_code) for running, _ in running_in(frame))


def within_a_step(ways: Iterable[Way], of_before: Around) -> Iterator[Way]:
    """Of the functions around a call of the model, the innermost first, those whose lines may be run again to do the
    step again that the call belongs to.

    What a line calls is run again with it, from its beginning. So the last of them is a file, or a cell of a notebook;
    one that was running before there was a guard, and may have made its model; one that steps, or evaluates, in a loop;
    or the second with a loop around: the first may be over parts of a batch, or over time, and is wholly so where it is
    a comprehension.

    Args:
        of_before: the functions that ran when the guard was put on.
    """
    loops = 0
    for way in ways:
        yield way
        frame, _, at = way
        code = frame.f_code
        if not code.co_flags & inspect.CO_NEWLOCALS or (id(frame), code) in of_before:
            return
        if code.co_name not in _COMPREHENSIONS and _is_in_a_loop(code, at.instruction):
            loops += 1
            if loops > 1 or not _STEPPING.isdisjoint(code.co_names):
                return


def _is_in_a_loop(code: CodeType, instruction: int) -> bool:
    return any(
        back.argval <= instruction < back.offset
        for back in dis.get_instructions(code)
        if "JUMP_BACKWARD" in back.opname
    )


_COMPREHENSIONS = {"<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>"}
_STEPPING = {"backward", "zero_grad", "step", "eval", "no_grad", "inference_mode"}
"""What is named in a function that trains, or evaluates."""

Way = tuple[FrameType, Frame, Frame]
"""A function that runs, where it is, and where it was when it called what led to the model."""


def common_to(frames: Iterable[Frame], running: Iterable[Running]) -> Iterator[Way]:
    """Of the functions that run those that ran then, with where they are, and where they were.

    Args:
        frames: of then, such as the callers of a pass.
        running: those of now, from the innermost outwards.
    """
    then = {f.identity: f for f in frames}
    for frame, instruction in islice(running, 2 * DEPTH):
        before = then.get(id(frame))
        if before is not None and before.code is frame.f_code:
            yield frame, Frame(id(frame), frame.f_code, instruction), before
