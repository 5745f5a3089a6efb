"""Steps under way whose gradients a guard has taken away: other guards of the same optimizer skip them, too.

A guard that comes by later finds no gradients; one that came by before has counted a step that is then never done.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass

from torch.optim import Optimizer

from vdvae_patch.guarding.skip import Skip


@dataclass
class _Held:
    skip: Skip
    untold: weakref.WeakSet[object]


_held: weakref.WeakKeyDictionary[Optimizer, _Held] = weakref.WeakKeyDictionary()


def hold(optimizer: Optimizer, skip: Skip, others: Iterable[object]) -> None:
    """Of a step that is held back, note that these guards are to hear of it."""
    if untold := weakref.WeakSet(others):
        _held[optimizer] = _Held(skip, untold)


def held(optimizer: Optimizer) -> Skip | None:
    """The skip of the step under way; None where nobody holds it back."""
    found = _held.get(optimizer)
    return None if found is None else found.skip


def heard(optimizer: Optimizer, guard: object) -> Skip | None:
    """What a guard has to hear of the step that has just ended, once; None where there is nothing."""
    found = _held.get(optimizer)
    if found is None or guard not in found.untold:
        return None
    found.untold.discard(guard)
    if not found.untold:
        del _held[optimizer]
    return found.skip


def forget(optimizer: Optimizer) -> None:
    """Of an optimizer whose step raised before it came to an end."""
    _held.pop(optimizer, None)
