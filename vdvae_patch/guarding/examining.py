"""A step that was skipped, or that an error ended, done again: what came in, where it broke, which head, what holds."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from vdvae_patch.errors import PatchError
from vdvae_patch.guarding import raised, ranks
from vdvae_patch.guarding.again import Again, Loss
from vdvae_patch.guarding.buffers import Buffers
from vdvae_patch.guarding.diagnosis import Diagnosis, Diagnostician
from vdvae_patch.guarding.frames import Running, around
from vdvae_patch.guarding.passes import Window
from vdvae_patch.guarding.skip import Skip
from vdvae_patch.heads import Head
from vdvae_patch.scanning.watching.outcome import has_nan
from vdvae_patch.skips import rule

MOST = 3
"""Steps that are examined at once, and errors that are explained."""

SELDOM = 50
"""Of the skips behind these, one in so many."""


class Examiner:
    """Of one model.

    Args:
        buffers: as they were before the step under way.
        call: the loss, where the guard was given one.
        examines: whether skipped steps are done again.
    """

    def __init__(
        self,
        model: nn.Module,
        diagnostician: Diagnostician,
        buffers: Buffers,
        call: Loss | None,
        *,
        examines: bool,
    ) -> None:
        self._model, self._buffers, self._call, self._examines = model, buffers, call, examines
        self._diagnostician = diagnostician
        self._of_before = around(sys._getframe())
        self.sound: Window | None = None
        """A step that came to its end, with which others are compared."""

    def keep(self, window: Window) -> None:
        """Of a step that was applied."""
        self.sound = window.lasting()
        self._diagnostician.nan_is_ordinary = any(has_nan(t) for one in self.sound.data for t in one)

    def again(self, window: Window, scale: float = 1.0) -> Again:
        """A step as a function.

        Args:
            scale: what its losses were multiplied by.
        """
        return Again(self._model, window, self._buffers, self._call, scale)

    def find_heads(self) -> Sequence[Head]:
        """Scan the model in the step that is kept, unless its heads are known.

        Raises:
            PatchError: there is none yet.
        """
        sound = self._sound_again()
        if sound is None or not sound.settled().shares:
            raise PatchError("no step was seen yet in which the heads can be looked for")
        return self._diagnostician.find(sound, sound.shares[0])

    def is_finite(self, window: Window, scale: float) -> bool:
        """Whether a step is finite without the loss scale; true also where it cannot be done again, or shall not be."""
        if not self._examines:
            return True
        again = self.again(window, scale)
        return bool(again.why_not) or all(again.outcome(share).finite for share in again.shares)

    def diagnosed(self, skip: Skip, window: Window, scale: float, before: Sequence[Skip]) -> Skip:
        """A skip with what came in from outside, or where it was made.

        Args:
            before: the skips so far: the first ones are examined, and then one now and then.
        """
        window.drop_given_up()
        try:
            outside = tuple(self._diagnostician.came_in(window.data))
            if outside:
                return replace(skip, diagnosis=Diagnosis(outside=outside))
            by_threshold = skip.norm < rule.LARGEST and math.isfinite(skip.loss)
            if by_threshold or not self._examines or not _is_worth_the_time(before):
                return skip
            return replace(skip, diagnosis=self._examined(window, scale))
        except Exception as error:  # what watches must not end the run
            return replace(skip, diagnosis=_not_done(error))

    def explained(
        self, error: BaseException, running: Sequence[Running], window: Window, scale: float, *, refused: bool
    ) -> Diagnosis | None:
        """What is found of a step that ended in an error; None if all was finite in it.

        Args:
            running: the functions that ran then.
            refused: whether a value that is not finite is known to be behind it.
        """
        try:
            return self._of_error(error, running, window, scale, refused)
        except Exception as failed:  # what explains an error must not take its place
            return _not_done(failed) if refused else None

    def _of_error(
        self, error: BaseException, running: Sequence[Running], window: Window, scale: float, refused: bool
    ) -> Diagnosis | None:
        if why := self._not_alone():
            return Diagnosis(notes=(f"{why}",)) if refused else None
        again = self.again(window, scale)
        differentiated = bool(window.backwards) and window.start == len(window.passes)
        if not differentiated:
            again.follow(list(window.ways_to_error(running, self.sound, self._of_before)), error)
        elif not again.settled().shares:
            return None
        if not (refused or raised.names_a_number(running) or self._diagnostician.has_part_in(again)):
            return None
        found = self._diagnostician.examine(again, self._sound_again())
        return found if refused or found.event is not None or found.outside else None

    def _examined(self, window: Window, scale: float) -> Diagnosis:
        if why := self._not_alone():
            recorded = "; with out= it is recorded whole, for vdvae-patch replay" if "sharded" in why else ""
            return Diagnosis(notes=(f"{why}{recorded}",))
        sound = self._sound_again()
        found = self._diagnostician.examine(self.again(window, scale), sound)
        for past in reversed(window.past):
            if found.reproduced or found.outside or not past.passes:
                break
            if (of_past := self._diagnostician.examine(self.again(past, scale), sound)).reproduced:
                found = of_past
        return found

    def _sound_again(self) -> Again | None:
        return None if self.sound is None else self.again(self.sound)

    def _not_alone(self) -> str:
        """Why one rank cannot do a step again by itself, if it cannot."""
        if any(hasattr(p, "full_tensor") for p in self._model.parameters()):
            return "the model is sharded, so that one rank cannot do the step again by itself"
        if ranks.world() > 1 and any(isinstance(m, nn.SyncBatchNorm) for m in self._model.modules()):
            return "its batch norm is over all ranks, so that none can do the step again by itself"
        return ""


def _is_worth_the_time(before: Sequence[Skip]) -> bool:
    examined = sum(s.diagnosis is not None and not s.outside for s in before)
    real = sum(s.cause != "loss_scale" for s in before)
    return examined < MOST or real % SELDOM == 0


def _not_done(error: Exception) -> Diagnosis:
    return Diagnosis(notes=(f"the step could not be done again: {type(error).__name__}: {error}",))
