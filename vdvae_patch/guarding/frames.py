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


def is_called_for_a_step(frame: FrameType, at: Frame, of_before: Around) -> bool:
    """Whether the line that called a function may be run again, to do the step again that the function led to.

    Not where the function is a file, or a cell of a notebook; where it was running before there was a guard, whose
    model it may have made; or where it does steps in a loop.

    Args:
        at: where it called what led to the step.
        of_before: the functions that ran when the guard was put on.
    """
    code = frame.f_code
    if not code.co_flags & inspect.CO_NEWLOCALS or (id(frame), code) in of_before:
        return False
    return not any(
        back.argval <= at.instruction < back.offset for back in dis.get_instructions(code) if back.opname in _BACKWARD
    )


_BACKWARD = {name for name in dis.opmap if "JUMP_BACKWARD" in name}


def common_to(frames: Iterable[Frame], running: Iterable[Running]) -> Iterator[tuple[FrameType, Frame, Frame]]:
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
