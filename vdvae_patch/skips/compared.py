"""A step that was done again, beside what was recorded of it: what is the same, and of what nothing can be said.

A number that was NaN, and is NaN again, agrees with any other NaN: that it is one is all that was compared. An infinity
says as little. So both are named by themselves, and "bit for bit" is said of finite numbers, and of names and places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Compared:
    """One thing that was recorded.

    Attributes:
        what: its name, such as loss.
        then, now: numbers, names, or tuples of them.
    """

    what: str
    then: object
    now: object

    @property
    def same(self) -> bool:
        """Whether all of it is equal, NaN where it was NaN."""
        return same(self.then, self.now)

    @property
    def telling(self) -> bool:
        """Whether that says something: not of numbers none of which is finite."""
        return any(not isinstance(value, float) or math.isfinite(value) for value in _flat(self.then))


def same(then: object, now: object) -> bool:
    """Equal, or both NaN; of tuples every part."""
    if isinstance(then, tuple) and isinstance(now, tuple):
        return len(then) == len(now) and all(map(same, then, now))
    if isinstance(then, float) and isinstance(now, float) and math.isnan(then):
        return math.isnan(now)
    return then == now


def again(compared: Sequence[Compared], why_not: str = "") -> str:
    """What doing a step again gave, in a line.

    Args:
        compared: all that was, at least one.
        why_not: why it need not be the same, where that is known.
    """
    differ = [one.what for one in compared if not one.same]
    if differ:
        return (
            f"done again: {_are(differ)} NOT {'that' if len(differ) == 1 else 'those'} of the step "
            f"({why_not or 'another machine, torch, precision or loss?'})"
        )
    equal = [one.what for one in compared if one.telling]
    empty = [one for one in compared if not one.telling]
    said = []
    if equal:
        said.append(f"{_are(equal)} the same, bit for bit")
    if empty:
        values = sorted({str(value).replace("nan", "NaN") for one in empty for value in _flat(one.then)})
        said.append(
            f"{_are([one.what for one in empty])} {' or '.join(values)} again, of which no more can be compared"
        )
    return f"done again: {'; '.join(said)}" + (f" ({why_not})" if why_not else "")


def _are(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"the {names[0]} is"
    return f"{', '.join(names[:-1])} and {names[-1]} are"


def _flat(value: object) -> list[object]:
    return [part for item in value for part in _flat(item)] if isinstance(value, tuple) else [value]
