"""What is kept of a step while it is under way, so that it can be undone and done again.

A forward pre-hook keeps references to the inputs, the states of the random generators, a copy of the buffers, and
which lines called the model; the call of `backward`, or of `torch.autograd.grad`, adds the losses and, for the frame
that called both, its variables. None of it is a copy of a batch.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vdvae_patch.guarding.frames import (
    DEPTH,
    Around,
    Frame,
    Running,
    callers,
    calls_in,
    common_to,
    running_in,
    within_a_step,
)
from vdvae_patch.guarding.graphs import next_number, numbers_in, reaches
from vdvae_patch.guarding.signals import Site, is_transformed, site_of, untransformed
from vdvae_patch.outside import Snapshot, Snapshots
from vdvae_patch.scanning.watching.inputs import tensors_in
from vdvae_patch.skips.generators import RawStates

_KNOWN = 4  # passes in front of a call of `backward` of which random states and callers are kept
_PAST = 4  # windows of a step that were given up by setting gradients to zero, which are still known
_MOST = 256  # passes of a step whose inputs are kept; more are counted


@dataclass(frozen=True)
class Autocast:
    """The precision of a forward pass."""

    device: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: torch.device) -> Autocast:
        """That which is in force."""
        kind = device.type
        return cls(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))

    def again(self) -> torch.autocast:
        """The context that has it in force."""
        return torch.autocast(self.device, dtype=self.dtype, enabled=self.enabled)


@dataclass
class Pass:
    """One call of the model with gradients.

    Attributes:
        args, kwargs: what it was given, by reference.
        versions: of the tensors in them; one that is written to afterwards has another.
        generators: the random states before it; None of one behind several others, whose draws come behind theirs.
        frames: the callers, the innermost first; none of such a one.
        began: autograd's number of the next operation, when it began.
        training: whether the model was in training mode.
        outside: what the model kept outside of its `state_dict` before it; None where the states are.
        of: path of the module that was called; of a method of the model that is not its forward, the first module that
            the method called. None of a batch that a framework's callback announced.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: tuple[int, ...]
    generators: RawStates | None
    autocast: Autocast
    frames: tuple[Frame, ...]
    training: bool
    of: str | None = ""
    began: int = 0
    outside: Snapshot | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that it was given."""
        return _tensors(self.args, self.kwargs)

    @property
    def rows(self) -> int | None:
        """How many rows its batch has, by the first tensor that has any."""
        return next((len(tensor) for tensor in self.tensors if tensor.dim()), None)

    @property
    def overwritten(self) -> bool:
        """Whether an input was written to since."""
        return _versions(self.tensors) != self.versions


@dataclass
class Backward:
    """One call of `backward`, or of `torch.autograd.grad` with respect to parameters of the model.

    Attributes:
        roots: the numbers that were differentiated, by their value.
        ends: where its graph begins; what it was computed from is known by it.
        frame: the function that called both the model and this, where there is one, at this line.
        variables: of that function at this moment.
        called_at: that function when it called the model.
        passes: how many passes came before it.
        autocast: the precision that was in force.
        site: where it was called.
        by_grad: whether it was `grad`, which adds nothing to gradients: what the loop does with them is not seen.
        partial: whether something was differentiated that is no number, as by `loss.backward(gradient)`.
        of_error: whether the step did not come that far: what can be computed of it stands for a loss.
        weights: what each of the roots was multiplied by, as in `loss.backward(weight)`.
        first: which of the passes it begins with.
        used: the first of them that has a part in it, where the graphs are not kept.
        cleared: gives the parameters, by their id, whose gradients were cleared since: nothing of it is in them. They
            are asked for where a step has something that was cleared before it, and looking through a model takes time.
        into: those to whose gradients alone it was added, by `loss.backward(inputs=...)`; None for all.
    """

    roots: list[Tensor]
    ends: list[Any]
    frame: Frame | None
    variables: dict[str, Any]
    module_variables: dict[str, Any]
    called_at: Frame | None
    passes: int
    autocast: Autocast
    site: Site | None = None
    by_grad: bool = False
    partial: bool = False
    of_error: bool = False
    weights: list[Tensor] = field(default_factory=list)
    first: int = 0
    used: int | None = None
    cleared: list[Callable[[], set[int]]] = field(default_factory=list)
    into: frozenset[int] | None = None

    def is_of(self, parameters: set[int]) -> bool:
        """Whether it was added to the gradients of some of these parameters, by their id, which had a part in it."""
        if self.into is not None:
            parameters = parameters & self.into
        return any(reaches(end, parameters) for end in self.ends)

    @property
    def values(self) -> list[Tensor]:
        """The numbers that were differentiated, each times its weight, in float32 or float64."""
        if not self.weights:
            return [_wide(root).sum() for root in self.roots]
        return [_wide(root).sum() * _wide(w).sum() for root, w in zip(self.roots, self.weights, strict=True)]


@dataclass
class Window:
    """The passes since an optimizer's last step, with what undoes them.

    Attributes:
        past: what was differentiated in the same step before gradients were set to zero: a loop may have kept them
            elsewhere (one gradient a loss, combined by hand), or moved the weights along them for a second look.
    """

    passes: list[Pass] = field(default_factory=list)
    backwards: list[Backward] = field(default_factory=list)
    uncounted: int = 0
    past: list[Window] = field(default_factory=list)

    def clear(self) -> None:
        """Begin a new step."""
        self.passes, self.backwards, self.uncounted, self.past = [], [], 0, []

    def forward(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        device: torch.device,
        of: str | None,
        snapshots: Snapshots | None = None,
    ) -> None:
        """Keep what a call of the model is given; called before it.

        Args:
            snapshots: of what the model keeps outside of its `state_dict`.
        """
        if len(self.passes) >= _MOST:
            self.uncounted += 1
            return
        args, kwargs = tuple(map(_kept, args)), {name: _kept(value) for name, value in kwargs.items()}
        versions = _versions(_tensors(args, kwargs))
        began, since = next_number(), len(self.passes) - self.start
        frames = tuple(callers(sys._getframe(1)))
        calls = calls_in(frames)
        # of a call elsewhere, as behind the batches of an evaluation, all is known
        if since >= _KNOWN and any(calls_in(one.frames) == calls for one in self.passes[-since:]):
            autocast = self.passes[-1].autocast
            self.passes.append(Pass(args, kwargs, versions, None, autocast, (), module.training, of, began))
            return
        states = RawStates.now(device)
        autocast = Autocast.now(device)
        outside = None if snapshots is None else snapshots.take()
        self.passes.append(Pass(args, kwargs, versions, states, autocast, frames, module.training, of, began, outside))

    def backward(
        self,
        roots: Sequence[Tensor],
        device: torch.device,
        *,
        weights: Sequence[Tensor | None] | None = None,
        by_grad: bool = False,
        into: Sequence[Any] = (),
    ) -> None:
        """Keep what a call of `backward`, or of `grad`, is given; called before it.

        Args:
            weights: what each root's gradient begins with, where it is not 1.
            into: tensors, or edges of the graph, to whose gradients alone it adds; empty for all.
        """
        frame = sys._getframe(1)
        self._drop_other_turns([None if is_transformed(root) else root.grad_fn for root in roots], frame)
        pairs = list(zip(map(untransformed, roots), weights or [None] * len(roots), strict=True))
        # of what is no number the gradients alone say whether it is finite where it counts
        numbers = [(root.detach(), weight) for root, weight in pairs if root.numel() == 1]
        known = [untransformed(w).detach() if isinstance(w, Tensor) else torch.ones_like(root) for root, w in numbers]
        ends = [None if is_transformed(root) else root.grad_fn for root in roots]
        common, now, called_at = next(iter(common_to(self._began, running_in(frame))), (None, None, None))
        found = Backward(
            [root for root, _ in numbers], ends, now, {} if common is None else dict(common.f_locals),
            {} if common is None else common.f_globals, called_at, len(self.passes), Autocast.now(device),
            site_of(frame), by_grad, len(numbers) < len(roots), weights=known, first=self._first,
            into=frozenset(id(getattr(getattr(one, "node", None), "variable", one)) for one in into) if into else None,
        )  # fmt: skip
        self.backwards = [*self.backwards[-_MOST:], found]

    def _drop_other_turns(self, ends: Sequence[Any], frame: FrameType) -> None:
        """Forget passes since the last call of `backward` that another turn of the loop has made, or a function that
        has ended, and that have no part in what is differentiated, as those of an evaluation with gradients on."""
        start = self.start
        since = self.passes[start:]
        if len(since) < 2 or not since[-1].frames:
            return
        running = {id(f): (f.f_code, instruction) for f, instruction in islice(running_in(frame), 2 * DEPTH)}
        here = next((f for f in since[-1].frames if running.get(f.identity, (None, 0))[0] is f.code), None)
        if here is None:
            return
        now, count = running[here.identity][1], 0
        for one in since[:-1]:
            then = next((f for f in one.frames if f.identity == here.identity and f.code is here.code), None)
            if one.frames and then is not None and then.instruction <= now:
                break
            count += 1
        if count:
            count = min(count, self._used(ends, start, len(self.passes)) - start)
            self.passes = self.passes[:start] + self.passes[start + count :]

    def _used(self, ends: Sequence[Any], start: int, end: int) -> int:
        """The first of these passes whose operations are in a graph; the first of all where none is."""
        begun = [one.began for one in self.passes[start:end]]
        return min((start + bisect_right(begun, n) - 1 for n in numbers_in(ends) if n >= begun[0]), default=start)

    def used(self, backward: Backward) -> int:
        """The first pass that has a part in what was differentiated: others may come before it in the same lines."""
        if backward.used is not None:
            return backward.used
        first, end = min(backward.first, len(self.passes) - 1), min(backward.passes, len(self.passes))
        return first if end - first < 2 else self._used(backward.ends, first, end)

    @property
    def _first(self) -> int:
        """The pass with which what is differentiated now begins: a second loss of the same passes begins where the
        first one did."""
        if self.backwards and self.backwards[-1].passes == len(self.passes):
            return self.backwards[-1].first
        return self.start

    @property
    def _began(self) -> tuple[Frame, ...]:
        """The callers of the pass with which what comes now begins."""
        passes = self.passes[self.start :] or self.passes
        return passes[0].frames if passes else ()

    @property
    def start(self) -> int:
        """How many passes there were before the last call of `backward`."""
        return self.backwards[-1].passes if self.backwards else 0

    def ways_to_error(self, running: Sequence[Running], sound: Window | None, of_before: Around) -> Iterator[Backward]:
        """The same where an error was raised: to where `backward` was called in a step before, since what would have
        come behind the error is needed to say what would have held; else to where it was raised.

        Args:
            running: the functions that ran then.
            sound: a step that came to its end.
            of_before: the functions that ran when the guard was put on.
        """
        passes = self.passes[self.start :] or self.passes
        autocast = passes[0].autocast if passes else Autocast("cpu", False, torch.bfloat16)
        ended = {b.frame.code: b for b in (sound.backwards if sound else ()) if b.frame is not None}
        ways = list(common_to(self._began, running))
        for common, now, called_at in ways:
            variables = dict(common.f_locals)
            if (known := ended.get(common.f_code)) is not None and known.frame is not None:
                yield Backward(
                    [], [], replace(known.frame, identity=now.identity), variables, common.f_globals, called_at,
                    len(self.passes), known.autocast, site=known.site, by_grad=known.by_grad, of_error=True,
                )  # fmt: skip
        for common, now, called_at in within_a_step(ways, of_before):
            variables = dict(common.f_locals)
            yield Backward(
                [], [], now, variables, common.f_globals, called_at, len(self.passes), autocast, of_error=True
            )
        yield Backward([], [], None, {}, {}, None, len(self.passes), autocast, of_error=True)

    def give_up(self) -> None:
        """The pass under way ended in an error; if the loop goes on, it has no part in what comes."""
        self.passes = self.passes[: self.start]

    @property
    def data(self) -> list[list[Tensor]]:
        """What the model was given and nothing trained has made; not of a part of it, whose input the rest makes."""
        return [[t for t in one.tensors if not t.requires_grad] for one in self.passes if not one.of]

    @property
    def sums(self) -> bool:
        """Whether gradients were added up by `backward`."""
        return any(not backward.by_grad for backward in self.backwards)

    @property
    def in_gradients(self) -> list[Backward]:
        """What may be in the gradients: what `backward` was given; or, where gradients come from `grad` alone, the last
        loss of each place, since a loop may have given the one before up."""
        if self.sums:
            return [backward for backward in self.backwards if not backward.by_grad]
        return list({backward.site: backward for backward in self.backwards}.values())

    @property
    def values(self) -> list[Tensor]:
        """The losses among that, each times the weight that `backward` was given."""
        return [value for backward in self.in_gradients for value in backward.values]

    @property
    def partial(self) -> bool:
        """Whether something among that is no number, so that the sum of the losses is not all of it."""
        return any(backward.partial for backward in self.in_gradients)

    def cleared(self, parameters: Callable[[], set[int]]) -> None:
        """The gradients of these parameters, by their id, were cleared, or are not there."""
        for backward in self.backwards:
            backward.cleared.append(parameters)

    def part_of(self, parameters: set[int], *, traceable: bool) -> Window:
        """What is in the gradients of these parameters, by their id: a loss of another model, or of another optimizer's
        parameters alone, is not, and neither is one whose gradients were cleared since. What `grad` was given is known
        to be of parameters of the model.

        Args:
            traceable: whether a loss can be followed to parameters, as it cannot through some wrappers; where not, all
                are taken for theirs.
        """
        kept, over = list[Backward](), list[Backward]()
        for backward in self.backwards:
            if backward.into is not None and not parameters & backward.into:
                continue
            if not traceable or backward.by_grad:
                kept.append(backward)
            elif backward.is_of(parameters):
                cleared = parameters.intersection(set[int]().union(*(those() for those in backward.cleared)))
                (kept if not cleared or backward.is_of(parameters - cleared) else over).append(backward)
        past = [*self.past, Window(list(self.passes), over)] if over else self.past
        return Window(list(self.passes), kept, self.uncounted, past)

    def drop_given_up(self) -> None:
        """Forget passes that a loop has given up before `backward`, as one does that checks its loss: such a batch has
        no part in the step.

        Its operations are not in the graph of what was differentiated, and a later pass of the same call is. Of a pass
        whose result is detached the same is true, but that is called elsewhere in the loop.
        """
        ends = [0, *(backward.passes for backward in self.backwards)]
        given_up: set[int] = set()
        for backward, start, end in zip(self.backwards, ends, ends[1:], strict=False):
            if end - start > 1:
                given_up |= self._not_in(backward, start, end)
        if given_up:
            self.backwards = [
                replace(
                    b,
                    passes=b.passes - sum(n < b.passes for n in given_up),
                    first=b.first - sum(n < b.first for n in given_up),
                )
                for b in self.backwards
            ]
            self.passes = [one for n, one in enumerate(self.passes) if n not in given_up]

    def _not_in(self, backward: Backward, start: int, end: int) -> set[int]:
        begun = [one.began for one in self.passes[start:end]]
        used = {start + bisect_right(begun, number) - 1 for number in numbers_in(backward.ends) if number >= begun[0]}
        calls = {n: calls_in(self.passes[n].frames) for n in range(start, end) if self.passes[n].frames}
        return {n for n in calls if n not in used and any(later > n and calls.get(later) == calls[n] for later in used)}

    def discard(self, parameters: set[int] | None = None) -> None:
        """Gradients were set to zero: what was differentiated before is no part of the next step.

        Args:
            parameters: those of the model, by their id, where it is known that a loss can be followed to them: a pass
                is still needed if nothing was differentiated through it, as of a discriminator's loss, which is of a
                detached result.
        """
        self.past = [*self.past[-_PAST:], Window(list(self.passes), self.backwards)]
        through = self.backwards
        if parameters is not None:
            through = [b for b in through if any(reaches(end, parameters) for end in b.ends)]
        self.passes = self.passes[max((b.passes for b in through), default=0) :]
        self.backwards = []

    def lasting(self) -> Window:
        """The same without what the step computed, so that it may be kept: inputs and data, and no graph, no loader.

        Nor what the model kept in attributes then: heads are looked for in it, which shall be those of the model as it
        is.
        """
        passes = [replace(one, outside=None) for one in self.passes]
        backwards = [
            replace(b, roots=[], ends=[], cleared=[], used=self.used(b), variables=_given(b.variables))
            for b in self.backwards
        ]
        return Window(passes, backwards, self.uncounted)


def _given(variables: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in variables.items()
        if not hasattr(value, "__next__")
        and not isinstance(value, DataLoader)
        and not any(t.grad_fn is not None for t in tensors_in(value) if not isinstance(value, nn.Module))
    }


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    if not kwargs and all(isinstance(a, Tensor) for a in args):
        return list(args)  # nothing to look through, which is the rule, and takes time
    return tensors_in((args, kwargs))


def _wide(value: Tensor) -> Tensor:
    """In float32, or float64 where it is that."""
    return value if value.dtype == torch.float64 else value.float()


def _kept(value: Any) -> Any:
    """A list or a dictionary as it is now: a loop may take out of it what the model has read."""
    return value.copy() if type(value) in (dict, list) else value


def _versions(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(t._version for t in tensors if not t.is_inference())  # which have none
