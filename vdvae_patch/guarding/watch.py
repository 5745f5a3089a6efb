"""`guard`: watch a training loop that somebody else wrote, keep a bad update out, and say what was wrong."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from vdvae_patch.errors import GuardError
from vdvae_patch.given import require_module
from vdvae_patch.guarding import held_back, judging, raised, ranks, signals
from vdvae_patch.guarding.again import NO_CALL, Loss, device_of
from vdvae_patch.guarding.averages import spoilt, unlike
from vdvae_patch.guarding.buffers import Buffers
from vdvae_patch.guarding.clipping import ClippedBefore, Clipping
from vdvae_patch.guarding.counting import SkipCounts, StepCounts
from vdvae_patch.guarding.deferred import Undecided, can_be_deferred
from vdvae_patch.guarding.diagnosis import Diagnosis, Diagnostician
from vdvae_patch.guarding.evaluations import Evaluations, is_of_torch
from vdvae_patch.guarding.examining import MOST, SELDOM, Examiner
from vdvae_patch.guarding.folder import open_folder
from vdvae_patch.guarding.frames import callers
from vdvae_patch.guarding.guardable import (
    Policy,
    check,
    divides_by_zero,
    inner,
    optimizers,
    refuse_flat_shards,
)
from vdvae_patch.guarding.healing import Healer
from vdvae_patch.guarding.hooks import Hooks, steps_around
from vdvae_patch.guarding.judging import CAUSES, Bounds, Look
from vdvae_patch.guarding.passes import Window
from vdvae_patch.guarding.recorder import Recorder
from vdvae_patch.guarding.report import lines, report, told
from vdvae_patch.guarding.skip import Skip
from vdvae_patch.guarding.uninterrupted import uninterrupted
from vdvae_patch.guarding.voice import Tracker, Voice
from vdvae_patch.heads import Head
from vdvae_patch.outcome import some
from vdvae_patch.outside import Snapshots
from vdvae_patch.skips import rule, telling
from vdvae_patch.skips.rule import Cause

_guarded: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_all: weakref.WeakSet[Guard] = weakref.WeakSet()


class _Doing(threading.local):
    """Whether a guard does a step again in this thread."""

    again = False


_doing = _Doing()


def guard(
    model: nn.Module,
    *,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    heads: Sequence[Head] | None = None,
    call: Loss | None = None,
    policy: Policy = "skip",
    clip: float | Literal["auto"] | None = None,
    threshold: float | None = None,
    max_consecutive: int = 200,
    diagnose: bool = True,
    keep: int = 5,
    max_batch_mib: float = 256.0,
    every: int = 100,
    out: Path | str | None = None,
    tracker: Tracker | None = None,
    file: TextIO | None = None,
) -> Guard:
    """Watch the training of a model in whatever loop it is trained.

        guard = vdvae_patch.guard(model, out="guard")     # then your own loop, unchanged
        print(guard.report())
        guard.remove()

    Before each step of an optimizer that holds parameters of the model, loss and gradient norm are looked at. If one is
    not finite, the gradients are taken away, so that the optimizer leaves weights, moments and step counts as they are,
    and the buffers (running statistics) are put back: bit for bit, the step was never done. What the model keeps in
    plain attributes is put back where it is no longer finite; a count of its calls goes on. Then the step is done again
    with every operation watched, to say where the first bad value was made, and with other scales, to say which head is
    to blame and what would hold. Nothing of this costs anything as long as all is finite, but one norm a step.

    Args:
        optimizer: which to watch; None for all that hold parameters of the model, also those made later.
        heads: as `scan` gives them; without it the model is scanned in the first step that has to be examined.
        call: your loss as a function of the model and what the model is given, `call(model, *inputs)`. It is not needed
            where one function of yours calls both the model and `backward`, or where the model gives the loss.
        policy: `skip`: go on; `raise`: end with a `GuardError`; `heal`: go on, and give a head that was to blame twice
            another scale, explin if that holds.
        clip: the gradient norm is brought down to this; `"auto"` to twice the median of the norms of the last 100
            updates of that optimizer, after 20 of them.
        threshold: an update whose norm is not below it is skipped, too; None for those that are not finite alone. It
            is the norm when the optimizer steps: what your loop has clipped itself is below its limit by then.
        max_consecutive: so many skips in a row end the training with a `GuardError`.
        diagnose: whether to do skipped steps again. The first of each kind is examined at once.
        keep: how many skips are recorded in `out`, with weights and batch, for `vdvae-patch replay`.
        max_batch_mib: a larger batch is not recorded.
        every: how often the tracker is called, in steps.
        out: a folder for `skips.jsonl` and recorded skips; without it nothing is written.
        tracker: called with `step, loss, grad_norm, clip, skipped` as numbers; one that raises is not called again. Of
            several ranks the loss is each rank's own, and the norm that of all.
        file: where a skip is told of, standard error if left out.

    Returns:
        The guard; as a context manager it is removed when the block ends.

    Raises:
        GuardError: the model has a guard already, or a guard's folder of another model is in `out`.
        InvalidValueError: an argument out of its range.
    """
    return Guard(
        model, optimizer=optimizer, heads=heads, call=call, policy=policy, clip=clip, threshold=threshold,
        max_consecutive=max_consecutive, diagnose=diagnose, keep=keep, max_batch_mib=max_batch_mib, every=every,
        out=out, tracker=tracker, file=file,
    )  # fmt: skip


class Guard:
    """Made by `guard`, which explains the arguments."""

    _deferring: tuple[str, ...] = ("cuda",)
    """The kinds of devices on which a step may be decided without a wait: elsewhere a read is no wait."""

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Optimizer | Iterable[Optimizer] | None,
        heads: Sequence[Head] | None,
        call: Loss | None,
        policy: Policy,
        clip: float | Literal["auto"] | None,
        threshold: float | None,
        max_consecutive: int,
        diagnose: bool,
        keep: int,
        max_batch_mib: float,
        every: int,
        out: Path | str | None,
        tracker: Tracker | None,
        file: TextIO | None,
    ) -> None:
        check(policy, clip, threshold, max_consecutive, keep, every)
        require_module(model, "guard", GuardError)
        self.model = inner(model)
        if self.model in _guarded:
            raise GuardError("the model has a guard already; remove that first (guard.remove())")
        refuse_flat_shards(self.model)
        self.call, self.policy, self.threshold = call, policy, math.inf if threshold is None else threshold
        self.max_consecutive = max_consecutive
        self._skips: list[Skip] = []
        self._refusals: list[tuple[str, Diagnosis]] = []
        self._steps = 0
        self._skip_counts = SkipCounts()
        self._undecided: Undecided | None = None
        folder = None if out is None else open_folder(Path(out).expanduser().absolute(), self.model)
        self.out = None if folder is None else folder.path
        self._only = None if optimizer is None else optimizers(optimizer)
        self._clipping, self._voice = Clipping(clip), Voice(file, tracker, every)
        self._clipped_before, self._said_clipped = ClippedBefore(clip, threshold), False
        self._recorder = Recorder(self.model, folder, keep, max_batch_mib, self._voice)
        self._diagnostician = Diagnostician(self.model, heads)
        self._healer = Healer(self.model, self._diagnostician, self._voice)
        self._window, self._buffers, self._snapshots = Window(), Buffers(self.model), Snapshots(self.model)
        self._examiner = Examiner(self.model, self._diagnostician, self._buffers, call, examines=diagnose)
        self._judged = self._window  # what of it is in the gradients of the optimizer that steps
        self._buffers.take()
        self._stepped = True  # the next pass begins a new step
        self._counts = StepCounts()
        self._holds: weakref.WeakKeyDictionary[Optimizer, bool] = weakref.WeakKeyDictionary()
        self._taken: list[tuple[Tensor, Tensor | None]] = []
        self._begun: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # whose steps began, and may have raised
        self._pending: weakref.WeakKeyDictionary[Optimizer, Skip] = weakref.WeakKeyDictionary()
        self._consecutive = self._consecutive_before = 0
        self._scale = 1.0
        self._inside: dict[int, int] = {}
        self._asked = 0
        self._shown: float | None = None
        self._traceable: bool | None = None  # whether a loss can be followed to its parameters: not through a wrapper
        self.shows_last_loss = False
        """Whether a loss that is not finite is overwritten by the last one that was: some trainers end at a NaN."""
        self._announced = False
        self._was_called = False
        self._is_busy = False
        self._ended = False  # by an error
        self._parts_begin = False  # whether a step was seen that began with a part of the model, as a discriminator's
        self._unheard = False  # whether the step under way began with a call that was not heard
        self._evaluations: Evaluations | None = None  # of the step under way, of an optimizer that is not a plain one
        self._plain: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # whose closure was evaluated once, at the weights
        self._hooks = Hooks(self, self.model, model)
        signals.listen(self)
        _guarded.add(self.model)
        _all.add(self)

    @property
    def skips(self) -> list[Skip]:
        """The updates that were skipped, those for the loss scale of float16 among them."""
        self._settle()
        return self._skips

    @property
    def steps(self) -> int:
        """How many steps were looked at, and were not skipped."""
        self._settle()
        return self._steps

    def remove(self) -> None:
        """Stop watching; hooks and replaced functions are as they were. A head that was healed keeps its patch."""
        try:
            self._settle()
        finally:
            self._remove()

    def _remove(self) -> None:
        self._hooks.remove()
        signals.ignore(self)
        _guarded.discard(self.model)
        _all.discard(self)
        self._window.clear()
        self._judged = self._window
        self._recorder.close()

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.explain(error)
        self.remove()

    def report(self) -> str:
        """What was skipped, why, by which head, and what would have held."""
        if not (self.steps or self.skips or self._refusals):
            return self._nothing_yet()
        ended = ["\n".join([text, *(f"  {line}" for line in lines(found))]) for text, found in self._refusals]
        averages = [*spoilt(self.model), *(unlike(self.model) if self._healer.healed else ())]
        heads = "\n".join([part for part in (self._healer.said(), *map("note: {}".format, averages)) if part])
        found = [s.diagnosis for s in self.skips if s.diagnosis is not None]
        cure = self._healer.cure(found + [diagnosis for _, diagnosis in self._refusals])
        counted = self._skip_counts.of(self.skips)
        behind = self._skip_counts.behind(self.skips)
        return report(
            self.skips, ended, self.steps + counted.total(), heads, cure, counted, self._skip_counts.before, behind,
            len(self._counts),
        )  # fmt: skip

    def say_count(self) -> None:
        """Tell at the end of a training how many of its steps were skipped, if any were."""
        if self in _all and any(skip.cause != "loss_scale" for skip in self.skips):
            self._voice.say(f"{self.report().splitlines()[0]}; the guard's report() says why")

    def _nothing_yet(self) -> str:
        if self._only is not None:
            return "0 steps: no optimizer that was given as optimizer= has taken a step"
        text = f"0 steps: no optimizer that holds parameters of this {type(self.model).__name__} has taken a step"
        if not self._was_called:
            return f"{text}, and it was not called with gradients"
        return (
            f"{text}, though it was called with gradients; an optimizer of another copy of it, and a loop that moves "
            "the weights itself, are not guarded"
        )

    def __repr__(self) -> str:
        steps, counted = self.steps, self._skip_counts.of(self.skips)
        skipped = counted.total() - counted["loss_scale"]
        ordinary = f", {counted['loss_scale']} more for the loss scale" if counted["loss_scale"] else ""
        name = type(self.model).__name__
        return f"Guard({name}, {steps + counted.total()} steps, {skipped} of them skipped{ordinary})"

    @property
    def healed(self) -> dict[Head, str]:
        """The heads that were given another scale, with its name."""
        return self._healer.healed

    @property
    def heads(self) -> Sequence[Head] | None:
        """The heads that were given or found; None before a step had to be examined."""
        return self._diagnostician.heads

    def find_heads(self) -> Sequence[Head]:
        """Scan the model in the first step that was finite, unless its heads are known.

        Raises:
            PatchError: there was no such step yet.
        """
        with self._quiet():
            return self._examiner.find_heads()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of the loop may keep: counters, and of each optimizer, in the order of their first steps,
        how many steps it has come to, and the norms of its last updates. The patch is the model's."""
        return {
            "steps": self.steps,
            "consecutive": self._consecutive,
            "norms": self._clipping.norms(),
            "counts": self._counts.state(),
            "skipped": dict(self._skip_counts.of(self.skips)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._settle()
        self._steps, self._consecutive = int(state["steps"]), int(state["consecutive"])
        self._counts.take_up(state.get("counts", ()))  # of a version that did not keep them they begin at 0
        self._skip_counts.take_up(state.get("skipped", {}), self.skips, self._counts.latest)
        norms = state["norms"]
        if norms and not isinstance(norms[0], list):
            norms = [norms]  # of a guard that had one list for all optimizers
        self._clipping.remember(norms)

    # --- what is heard ------------------------------------------------------------------------------------------------

    def on_batch(self, *args: Any, **kwargs: Any) -> None:
        """A framework's batch, announced before its training step; from then on calls of the model are not looked at,
        and `call` is given what is announced.
        """
        self._announced = True
        self._begin(self.model, args, kwargs, None)

    def on_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See `hooks.Ear`."""
        if torch.compiler.is_compiling():
            return
        thread = threading.get_ident()  # another one may evaluate the model
        self._inside[thread] = self._inside.get(thread, 0) + 1
        if self._inside[thread] == 1 and not self._announced:
            self._begin(module, args, kwargs, "")

    def after_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        """See `hooks.Ear`."""
        if torch.compiler.is_compiling():
            return
        thread = threading.get_ident()
        self._inside[thread] = max(0, self._inside.get(thread, 0) - 1)
        if _in_backward():  # a pass that is done again ends in an error of PyTorch's own, as soon as all is there
            return
        error = sys.exc_info()[1] if output is None else None  # it may also be one that the loop handles right now
        if error is not None and not self._inside[thread] and not self._busy and raised.is_raised_in(error, module):
            hooks = module._forward_hooks
            module._forward_hooks = hooks.copy()  # PyTorch is going through them, and a trace adds some
            try:
                self.explain(error)
            finally:
                module._forward_hooks = hooks

    def on_part(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module of the model is called, and not by the model's forward: of a step, the first such call counts."""
        if torch.compiler.is_compiling():
            return
        if (
            self._inside.get(threading.get_ident())
            or self._announced
            or (not self._stepped and self._window.passes and not self._fresh())
        ):
            return
        self._begin(module, args, kwargs, path)

    def _fresh(self) -> bool:
        """Whether a backward pass came after the last call that was kept."""
        return bool(self._window.backwards) and self._window.backwards[-1].passes == len(self._window.passes)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], of: str | None) -> None:
        if self._busy or not torch.is_grad_enabled() or _in_backward():
            return
        self._settle()
        if not self._was_called:
            refuse_flat_shards(self.model)  # it may have been wrapped since
        self._was_called = True
        if self._ended:
            self._ended = False
            self._window.give_up()
            self._buffers.take()  # a loop that goes on may have set them, as from a checkpoint
        self._unheard = False
        self._parts_begin |= bool(of)
        if self._stepped:
            self._stepped = False
            for optimizer in list(self._begun):
                held_back.forget(optimizer)
            self._begun.clear()
            self._window.clear()
            self._judged = self._window  # the graphs of the step before are needed no longer
            self._buffers.take()
        self._window.forward(module, args, kwargs, device_of(self.model), of, self._snapshots)

    def on_backward(
        self,
        roots: Sequence[Tensor],
        inputs: Sequence[Tensor] | None,
        weights: Sequence[Tensor | None],
        into: Sequence[Any] = (),
    ) -> None:
        """See `signals.Listener`."""
        if self._busy or not self._window.passes or _in_backward():  # as reentrant checkpoints call it
            return
        if inputs is not None and not self._has_some_of(inputs):  # a penalty on the gradient of what a model is given
            return
        self._settle()
        device = torch.device(self._window.passes[-1].autocast.device)
        if self._window.backwards:
            gone = {id(p) for p in self.model.parameters() if p.grad is None}
            self._window.cleared(lambda: gone)
        if self._stepped:  # no call was heard since: of a part, or none
            self._unheard = self._parts_begin = True
            self._hooks.hear_parts(True)
        if not self._stepped:
            if inputs is None:
                self._forget_what_was_cleared()
        elif inputs is not None or self._is_cleared():  # a second loss of passes whose first one had its step
            self._window.backwards = []
        if self._window.passes:  # else it is another model's, behind a step that the loop has given up
            self._window.backward(roots, device, weights=weights, by_grad=inputs is not None, into=into)

    def _has_some_of(self, tensors: Sequence[Any]) -> bool:
        own = list(self.model.parameters())
        known = set(map(id, own))
        return any(
            id(t) in known or (signals.is_transformed(t) and signals.same_as(t, own) is not None) for t in tensors
        )

    def on_zero(self, cleared: Any) -> None:
        """See `signals.Listener`. A loop may give a loss up after `backward`, without a step."""
        if self._busy or not self._window.backwards:
            return
        of_optimizer = isinstance(cleared, Optimizer)

        @functools.cache
        def own() -> set[int]:
            groups = [group["params"] for group in cleared.param_groups] if of_optimizer else [cleared.parameters()]
            return {id(p) for group in groups for p in group}

        self._window.cleared(own)
        if self._taken:  # an optimizer's step, its own
            self._taken = [(p, gradient) for p, gradient in self._taken if id(p) not in own()]
        if of_optimizer and not self._watches(cleared):
            return
        if not self._stepped:
            self._forget_what_was_cleared()

    def _forget_what_was_cleared(self) -> None:
        """Gradients may be cleared by hand, too."""
        if self._window.sums and self._is_cleared():
            own = {id(p) for p in self.model.parameters()} if self._traceable is not False else None
            self._window.discard(own)

    def _is_cleared(self) -> bool:
        return all(_is_clear(p.grad) for p in self.model.parameters())

    def on_scaled_step(self, optimizer: Optimizer, step: Callable[[], Any], scale: float) -> Any:
        """See `signals.Listener`."""
        own = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        if self._busy or not isinstance(own, Optimizer) or not self._watches(own):
            return step()
        self._scale, count = scale, self._counts.of(own)
        try:
            result = step()
            if self._counts.of(own) == count:  # the scaler found an infinity, and let the optimizer not step
                self._judge_part([p for group in own.param_groups for p in group["params"]])
                device = device_of(self.model)
                loss, _ = judging.losses(self._judged, self._scale, device)
                self._counts.add(own)
                gradients = [p.grad for group in own.param_groups for p in group["params"] if p.grad is not None]
                self._overflow(own, count, judging.norm_of_all(gradients, device), loss)
            return result
        finally:
            self._scale = 1.0

    def on_refusal(self, distribution: Any, error: ValueError) -> None:
        """See `signals.Listener`."""
        running = self._inside.get(threading.get_ident()) or torch.is_grad_enabled()
        if self._busy or self._stepped or not self._window.passes or not running:
            return  # of no step of this loop, as of a validation
        where, rows = str(callers(sys._getframe(1))[0]), self._window.passes[-1].rows
        self._note(error, lambda: raised.refused(distribution, where, rows), "torch.distributions raised", refused=True)

    def on_error(self, error: BaseException) -> None:
        """See `signals.Listener`."""
        self.explain(error)

    def explain(self, error: BaseException) -> bool:
        """Say below an error what was not finite in the step that it ended: PyTorch refuses NaN in many places, and so
        do assertions of a loop.

        It is called by itself where the guard has a hand: for an error in the model's forward, for one that leaves a
        `with` block of the guard, and for one that nothing catches, as a script or a notebook shows it. A loop that
        catches its errors calls it:

            except Exception as error:
                guard.explain(error)

        Returns:
            Whether the error has such a note.
        """
        if self._busy or not raised.may_be_of_a_value(error):
            return raised.is_told(error)
        if self._stepped:  # the step had come to an end, and was skipped or applied
            last = self._skips[-1] if self._skips else None
            if last is None or last.cause == "loss_scale" or last.step != self._counts.latest - 1:
                return False
            raised.tell(error, f"seen by vdvae_patch.guard: {told(last)}")
            return True
        if not self._window.passes:
            return False
        return self._note(error, lambda: "not all values were finite before this was raised", raised.said(error))

    def _note(self, error: BaseException, text: Callable[[], str], said: str, *, refused: bool = False) -> bool:
        """Do the step again that ended in an error, and say below it what was found.

        Args:
            refused: whether a value that is not finite is known to be behind it.
        """
        self._ended = True
        if raised.is_told(error) or len(self._refusals) >= MOST:  # a loop may catch it and go on
            self._put_back_what_an_error_left()
            return raised.is_told(error)
        with self._quiet():
            diagnosis = self._examiner.explained(
                error, raised.running(error), self._window, self._scale, refused=refused
            )
        self._put_back_what_an_error_left()
        if diagnosis is None:
            return False
        step = self._counts.latest
        raised.tell(error, "\n".join([f"step {step}, seen by vdvae_patch.guard: {text()}", *lines(diagnosis)]))
        self._refusals.append((f"step {step}: {said}: {text()}", diagnosis))
        return True

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """See `hooks.Ear`."""
        if self._busy or not self._watches(optimizer):
            return None
        self._inside.clear()  # Ctrl-C in a forward pass is not told of by PyTorch's hooks
        if any(map(self._watches, steps_around(optimizer))):
            return None
        self._begun.add(optimizer)
        self._evaluations = None
        self._settle(may_look=False)
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._judge(optimizer)
            return None
        heard = self._heard(optimizer, closure)
        if "closure" in kwargs:
            return args, {**kwargs, "closure": heard}
        return (args[0], heard, *args[2:]), kwargs

    def _heard(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, after which the gradients that it made are looked at."""
        if isinstance(optimizer, LBFGS) or not (is_of_torch(optimizer) or optimizer in self._plain):
            return self._heard_by_all(optimizer, closure)
        evaluated = False

        def heard() -> Any:
            nonlocal evaluated
            result = closure()
            if evaluated:
                self._plain.discard(optimizer)
            else:
                evaluated = True
                self._judge(optimizer)
            return result

        return heard

    # --- one step -----------------------------------------------------------------------------------------------------

    def _judge(self, optimizer: Optimizer) -> None:
        """Gradients are there; apply the update, or keep it out."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        step = self._counts.of(optimizer)
        self._judge_part(parameters)
        if optimizer not in self._counts and (warning := divides_by_zero(optimizer)):
            self._voice.say(warning)
        if self._may_wait(optimizer, parameters):
            row = judging.row(self._judged, parameters, parameters[0].device)
            self._counts.add(optimizer)
            self._stepped = True
            self._undecided = Undecided.of(optimizer, step, row, self.threshold, self._buffers.modules)
            return
        limit = self._clipping.limit(optimizer)
        seen = self._look(parameters, optimizer, limit)
        loss, cause, norm = seen.loss, seen.cause, seen.norm
        self._counts.add(optimizer)
        self._stepped = True
        if (held := held_back.held(optimizer)) is not None:
            self._put_buffers_back()
            self._pending[optimizer] = replace(held, step=step)
            return
        if cause is None:
            self._applied(optimizer, step, loss, norm, parameters, limit)
            return
        if getattr(optimizer, "found_inf", None) is not None and cause == "high_gradient" and not math.isfinite(norm):
            self._overflow(optimizer, step, norm, loss)  # of a fused optimizer, which is called with scaled gradients
            return
        self._keep_out(parameters)
        if not is_of_torch(optimizer):  # what it moves without a gradient
            self._evaluations = Evaluations(self.model, optimizer)
        # PyTorch is iterating over its hooks now, and a scan adds one: what takes long waits until the step is over
        skip = self._pending[optimizer] = Skip(step, cause, seen.ranks, norm, loss, type(optimizer).__name__)
        held_back.hold(optimizer, skip, (other for other in _all if other is not self and other._watches(optimizer)))

    def _applied(
        self, optimizer: Optimizer, step: int, loss: float, norm: float, parameters: Sequence[Tensor], limit: float
    ) -> None:
        """Clip the gradient of an update that is applied, and note it."""
        self._clipping.apply(optimizer, parameters, norm, limit)
        self._note_applied(step, loss, norm, limit)

    def _note_applied(self, step: int, loss: float, norm: float, limit: float) -> None:
        self._consecutive_before, self._consecutive = self._consecutive, 0
        self._steps += 1
        self._shown = loss
        if not self._window.passes:  # no call was seen, before which they would be taken
            self._buffers.take()
            self._hooks.hear_compiled()
        self._hooks.hear_parts(self._parts_begin or not self._window.passes)
        if self._examiner.sound is None and self._recorder.fits(self._judged):
            self._examiner.keep(self._judged)
        self._voice.track(step, loss, norm, limit, skipped=False, unseen="" if self._judged.passes else NO_CALL)
        if not self._said_clipped and (text := self._clipped_before.said(norm)):
            self._said_clipped = True
            self._voice.say(f"note: {text}")

    # --- decided on the device ----------------------------------------------------------------------------------------

    def _may_wait(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> bool:
        """Whether this step can be decided on the device, and read later, with the same outcome.

        Not where the read has to come before the update (a norm to clip by, an error to raise, a head to heal, a loss
        to show), where others decide, too (ranks, another guard, another optimizer that steps in between), or where it
        is not sure that all that was differentiated is a loss of these parameters.
        """
        if not parameters or parameters[0].device.type not in self._deferring:
            return False
        if self.policy != "skip" or self._clipping.clip is not None or self.shows_last_loss or self._scale != 1:
            return False
        if ranks.world() > 1 or len(_guarded) > 1 or self._counts.alive != 1 or not self._traceable:
            return False
        if not self._window.passes or not self._window.backwards or self._examiner.sound is None:
            return False
        if self._unheard or not is_of_torch(optimizer):  # after a skip, what it moves without a gradient is put back
            return False
        if not can_be_deferred(optimizer, parameters, self._deferring) or not self._buffers.in_place:
            return False
        own = {id(p) for p in parameters}
        return (
            len(self._judged.backwards) == len(self._window.backwards)
            and not self._judged.partial
            and all(backward.is_of(own) for backward in self._judged.backwards)
        )

    def _settle(self, *, may_look: bool = True) -> None:
        """Read what the device has decided of the last step, and do what is to be done after it.

        Args:
            may_look: whether the step may be done again now.
        """
        undecided = self._undecided
        if undecided is None or self._busy:
            return
        self._undecided = None
        optimizer, step = undecided.optimizer, undecided.step
        if not undecided.applied:  # the step raised before it came to an end
            undecided.over()
            return
        *losses, norm = undecided.row.tolist()
        loss = sum(losses)
        code = rule.decided((not math.isfinite(loss),), False, norm, undecided.threshold)
        if not code:
            self._applied(optimizer, step, loss, norm, [], math.inf)
            return
        skip = Skip(step, CAUSES[code - 1], (), norm, loss, type(optimizer).__name__)
        if may_look:
            with undecided.attributes.again():
                skip = self._diagnosed(skip)
        else:
            why = "another optimizer's step came before it could be done again"
            skip = replace(skip, diagnosis=Diagnosis(notes=(why,)))
        self._skipped(skip)

    def _look(self, parameters: Sequence[Tensor], optimizer: Optimizer, limit: float = math.inf) -> Look:
        scaled = self._scale if getattr(optimizer, "grad_scale", None) is not None else 1.0
        bounds = Bounds(self.threshold, limit, self._scale, scaled)
        return judging.look(self._judged, parameters, device_of(self.model), bounds)

    def _judge_part(self, parameters: Sequence[Tensor]) -> None:
        """Of what was differentiated, take what is in the gradients of these parameters."""
        own = {id(p) for p in parameters}
        if self._traceable is None and self._window.sums and own:
            self._traceable = any(backward.is_of(own) for backward in self._window.backwards)
        self._judged = self._window.part_of(own, traceable=self._traceable is True)

    def _keep_out(self, parameters: Iterable[Tensor]) -> None:
        """Without gradients the optimizer changes nothing; the loop finds them again behind the step."""
        self._taken = [(p, p.grad) for p in parameters]
        for p, _ in self._taken:
            p.grad = None
        self._put_buffers_back()
        self._put_back_spoilt()

    def _put_buffers_back(self) -> None:
        """Those of before the step. Where that began with a call that was not heard, they are those of before another
        one, which was applied, and only what is no longer finite is put back."""
        if self._unheard:
            self._buffers.put_back_spoilt()
        else:
            self._buffers.put_back()

    def _put_back_spoilt(self) -> None:
        """Means that the model follows in plain attributes, which no buffer is."""
        for one in self._window.passes[:1]:
            if one.outside is not None and (names := one.outside.put_back_spoilt()):
                self._voice.say_once(f"{', '.join(names)} of the model was no longer finite, and is what it was before")

    def _put_back_what_an_error_left(self) -> None:
        """Running statistics that a step has made infinite before it ended: a loop that catches the error goes on."""
        if names := self._buffers.put_back_spoilt():
            self._voice.say_once(f"{some(tuple(names))} of the model was no longer finite, and is what it was before")
        self._put_back_spoilt()

    def _give_back(self) -> None:
        for p, gradient in self._taken:
            if p.grad is None:
                p.grad = gradient
        self._taken = []

    def _overflow(self, optimizer: Optimizer, step: int, norm: float, loss: float) -> None:
        """Scaled gradients are not finite: because of the scale, or by themselves?"""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._judged.drop_given_up()
        self._stepped = True
        device = device_of(self.model)
        ordinary = not judging.losses(self._judged, self._scale, device)[1]
        if ordinary:
            with self._quiet():
                ordinary = self._examiner.is_finite(self._judged, self._scale)
        if not judging.any_rank(not ordinary, device):
            self._skips.append(Skip(step, "loss_scale", (), norm, loss, type(optimizer).__name__))
            self._voice.track(step, loss, norm, math.inf, skipped=True)
            return
        self._keep_out(parameters)
        bad = ranks.everyone(torch.tensor([float(not math.isfinite(loss))], device=device))[:, 0].tolist()
        cause: Cause = "nan_loss" if any(bad) else "high_gradient"  # the same on all
        on = tuple(rank for rank, flag in enumerate(bad) if flag) if ranks.world() > 1 else ()
        self._skipped(self._diagnosed(Skip(step, cause, on, norm, loss, type(optimizer).__name__)))

    def _diagnosed(self, skip: Skip) -> Skip:
        """With what came in from outside, or where it was made."""
        with self._quiet():
            return self._examiner.diagnosed(skip, self._judged, self._scale, self._skips)

    def _skipped(self, skip: Skip) -> None:
        """Record, tell, and what the policy says."""
        self._consecutive += 1
        self._put_back_spoilt()
        loss = skip.loss  # of this rank
        if ranks.world() > 1:
            skip = ranks.of_all_ranks(skip)
        if self.policy == "heal":
            with self._quiet():
                skip = self._healer.heal(skip, self._skips, self._examiner.again(self._judged, self._scale))
        with uninterrupted():  # else a Ctrl-C could leave it in the log and not in the count
            skip = self._recorder.record(skip, loss, self._judged, self._buffers, self.call)
            self._skips.append(skip)
        self._voice.track(skip.step, skip.loss, skip.norm, math.inf, skipped=True)
        if skip.diagnosis is not None or len(self.skips) <= _TOLD:
            self._voice.say(told(skip))
        else:
            self._voice.say_once("from here on few skips are told; the guard's report() has all of them")
        if len(self._counts) > 1:
            self._voice.say_once(
                f"note: {len(self._counts)} optimizers have taken steps so far, and each counts its own from 0"
            )
        self._recorder.say_size(skip)
        if skip.diagnosis is not None and not skip.outside:
            for text in spoilt(self.model):
                self._voice.say_once(text)
        if self.policy == "raise":
            raise GuardError(told(skip))
        if self._consecutive >= self.max_consecutive:
            raise GuardError(
                f"{telling.in_a_row(self._consecutive)}: the weights stay as they are, and so does what "
                f"breaks.\n{self.report()}"
            )

    @contextlib.contextmanager
    def _quiet(self) -> Any:
        """What happens in the block is the guard's own doing: no other guard takes it for a step of the loop's."""
        own, self._is_busy, _doing.again = (self._is_busy, _doing.again), True, True
        try:
            yield
        finally:
            self._is_busy, _doing.again = own

    @property
    def _busy(self) -> bool:
        """Whether this guard, or another one in this thread, does a step again."""
        return self._is_busy or _doing.again

    # --- optimizers ---------------------------------------------------------------------------------------------------

    def _watches(self, optimizer: Optimizer) -> bool:
        if self._only is not None:
            return any(optimizer is one for one in self._only)
        held = self._holds.get(optimizer)
        if not held:
            self._asked += 1
        if held is None or (not held and self._asked % SELDOM == 0):  # layers may be made, or added to it, later
            own = {id(p) for p in self.model.parameters()}
            held = any(id(p) in own for group in optimizer.param_groups for p in group["params"])
            self._holds[optimizer] = held
        return held

    def _heard_by_all(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        """LBFGS evaluates its closure many times in one step, and others do so at weights that they have moved; so all
        is copied, and put back after a step in which one evaluation was not finite."""
        self._evaluations = kept = Evaluations(self.model, optimizer)
        by_lines = isinstance(optimizer, LBFGS)  # whose search along a line needs the gradient as it is
        if by_lines and self._clipping.clip is not None:
            clip = f"clip={self._clipping.clip!r}"
            self._voice.say_once(f"note: {clip} does nothing in a step of LBFGS, which needs its gradients as they are")

        def heard() -> Any:
            kept.begins()
            result = closure()
            parameters = [p for p, _ in kept.weights if p.grad is not None]
            self._judge_part(parameters)
            limit = math.inf if by_lines else self._clipping.limit(optimizer)
            seen = self._look(parameters, optimizer, limit)
            if kept.first is None:
                kept.first, kept.limit = seen, limit
            if seen.cause is None:
                if not by_lines:
                    self._clipping.apply(optimizer, parameters, seen.norm, limit)
            elif kept.bad is None:
                step, name = self._counts.of(optimizer), type(optimizer).__name__
                skip = Skip(step, seen.cause, seen.ranks, seen.norm, seen.loss, name)
                kept.bad = self._diagnosed(skip)
            if seen.cause is not None and not by_lines:
                self._keep_out(parameters)
            self._stepped = True
            return result

        return heard

    def _hear_of_others(self, optimizer: Optimizer) -> None:
        """Another guard may have held a step back that this one had let through before: it was never done."""
        skip = held_back.heard(optimizer, self)
        if skip is None or optimizer in self._pending or not self._watches(optimizer):
            return
        self._put_buffers_back()
        self._steps, self._consecutive = self._steps - 1, self._consecutive_before
        self._clipping.forget_last(optimizer)
        self._pending[optimizer] = replace(skip, step=self._counts.of(optimizer) - 1)

    def after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """See `hooks.Ear`."""
        if self._busy:
            return
        if any(map(self._watches, steps_around(optimizer))):
            return
        self._begun.discard(optimizer)
        kept, self._evaluations = self._evaluations, None
        if kept is not None and kept.optimizer is optimizer and (optimizer in self._pending or kept.bad is not None):
            kept.put_back()
        self._give_back()
        self._hear_of_others(optimizer)
        pending = self._pending.pop(optimizer, None)
        if (undecided := self._undecided) is not None and undecided.optimizer is optimizer:
            undecided.over()
            self._buffers.put_back_where(undecided.held_back)
        elif pending is not None:
            diagnosed = self._diagnosed(pending)
            roots = [root for backward in self._judged.in_gradients for root in backward.roots]
            if self.shows_last_loss and len(roots) == 1:
                with torch.no_grad():
                    roots[0].fill_(self._shown or 0.0)
            self._skipped(diagnosed)
        elif kept is not None and kept.optimizer is optimizer:
            self._evaluated(optimizer, kept)

    def _evaluated(self, optimizer: Optimizer, kept: Evaluations) -> None:
        """A step whose evaluations were all looked at has come to its end."""
        step = self._counts.of(optimizer)
        self._counts.add(optimizer)
        if kept.plain and not isinstance(optimizer, LBFGS):
            self._plain.add(optimizer)
        if kept.bad is not None:
            for p, _ in kept.weights if isinstance(optimizer, LBFGS) else ():
                p.grad = None
            self._skipped(kept.bad)
        else:
            first = kept.first or Look(math.nan, None, math.nan)
            self._note_applied(step, first.loss, first.norm, kept.limit)


_TOLD = 5


def _is_clear(gradient: Tensor | None) -> bool:
    if gradient is None:
        return True
    own = gradient.coalesce().values() if gradient.is_sparse else gradient
    return not bool(own.any())


def _in_backward() -> bool:
    """Whether this is a forward pass that activation checkpointing does again."""
    return torch._C._current_graph_task_id() != -1
