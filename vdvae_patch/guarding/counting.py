"""How many steps a guard has seen, and how many it skipped, also before its training was taken up again."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping, Sequence

from torch.optim import Optimizer

from vdvae_patch.guarding.skip import Skip


class StepCounts:
    """Of each optimizer how many steps it has come to, skipped ones too; an optimizer is known from its first step on.

    A training that is taken up again makes its optimizers anew: they get the counts of before in the order of their
    first steps, as `Clipping` gives them their norms.
    """

    def __init__(self) -> None:
        self._counts: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._before: list[int] = []
        self._known = 0

    def __len__(self) -> int:
        """How many optimizers have stepped in this process, those that are there no longer among them."""
        return self._known

    @property
    def alive(self) -> int:
        """How many of these are still there."""
        return len(self._counts)

    def __contains__(self, optimizer: Optimizer) -> bool:
        return optimizer in self._counts

    def of(self, optimizer: Optimizer) -> int:
        """The number of its next step, from 0."""
        if optimizer in self._counts:
            return self._counts[optimizer]
        return self._before[0] if self._before else 0

    def add(self, optimizer: Optimizer) -> None:
        """It has come to a step."""
        following = self.of(optimizer) + 1
        self._known += optimizer not in self._counts
        if optimizer not in self._counts and self._before:
            self._before.pop(0)
        self._counts[optimizer] = following

    @property
    def latest(self) -> int:
        """The number of the next step of the one that has come to most."""
        return max(self.state(), default=0)

    def state(self) -> list[int]:
        """For a checkpoint, in the order of their first steps."""
        return [*self._counts.values(), *self._before]

    def take_up(self, counts: Sequence[int]) -> None:
        """Go on from what `state` gave."""
        self._before = [int(count) for count in counts]
        for optimizer in self._counts:
            self._counts[optimizer] = self._before.pop(0) if self._before else 0


class SkipCounts:
    """How many updates each cause has skipped, those of the state that was taken up among them.

    Attributes:
        before: of these, the ones of earlier processes.
    """

    def __init__(self) -> None:
        self.before: Counter[str] = Counter()
        self._behind: set[int] = set()

    def of(self, skips: Sequence[Skip]) -> Counter[str]:
        """By cause, from the skips that this process has seen."""
        return self.before + Counter(skip.cause for n, skip in enumerate(skips) if n not in self._behind)

    def behind(self, skips: Sequence[Skip]) -> int:
        """How many of these, the loss scale's aside, came behind a state that was taken up later, and are undone."""
        return sum(skips[n].cause != "loss_scale" for n in self._behind)

    def take_up(self, counted: Mapping[str, int], skips: Sequence[Skip], steps: int) -> None:
        """Go on from what `of` gave when `steps` steps had been done, as in a loop that goes back to a checkpoint."""
        self._behind |= {n for n, skip in enumerate(skips) if skip.step >= steps}
        own: Counter[str] = Counter(skip.cause for n, skip in enumerate(skips) if n not in self._behind)
        self.before = Counter({cause: int(count) for cause, count in counted.items()}) - own
