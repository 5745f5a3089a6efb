"""`guard`: watch a training loop that somebody else wrote, keep a bad update out, and say what was wrong."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO, get_args

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from vdvae_patch.errors import GuardError, InvalidValueError, PatchError, RunError, tell
from vdvae_patch.guarding import raised, ranks, signals
from vdvae_patch.guarding import skip as skips
from vdvae_patch.guarding.again import Again, Loss, Share, device_of
from vdvae_patch.guarding.averages import spoilt
from vdvae_patch.guarding.deferred import Undecided, can_be_deferred
from vdvae_patch.guarding.diagnosis import Diagnosis, Diagnostician, cure_of
from vdvae_patch.guarding.evaluations import Evaluations
from vdvae_patch.guarding.folder import open_folder
from vdvae_patch.guarding.passes import Buffers, Running, Window, callers, reaches
from vdvae_patch.guarding.report import lines, report, told
from vdvae_patch.guarding.skip import Skip
from vdvae_patch.heads import Head
from vdvae_patch.patching import PatchHandle, is_patched, patch, unpatch
from vdvae_patch.scanning.outcome import has_nan, refusal
from vdvae_patch.skips import rule, telling
from vdvae_patch.skips.gradient_norm import gradient_norm
from vdvae_patch.skips.rule import Cause
from vdvae_patch.skips.usual_norm import UsualNorm
from vdvae_patch.torch_versions import takes_hooks

Policy = Literal["skip", "raise", "heal"]
Tracker = Callable[[Mapping[str, float]], object]

_guarded: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_all: weakref.WeakSet[Guard] = weakref.WeakSet()
_held_back: weakref.WeakKeyDictionary[Optimizer, _Held] = weakref.WeakKeyDictionary()
"""Steps under way whose gradients a guard has taken away; the other guards of the same optimizer then skip, too."""
_CAUSES: tuple[Cause, ...] = ("nan_loss", "high_gradient")
_YOUR_LOSS = "(loss(model, batch) is your loss; no call= if model(batch) returns it)"


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
    and the buffers (running statistics) are put back: bit for bit, the step was never done. Then the step is done again
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
        threshold: an update whose norm is not below it is skipped, too; None for those that are not finite alone.
        max_consecutive: so many skips in a row end the training with a `GuardError`.
        diagnose: whether to do skipped steps again. The first of each kind is examined at once.
        keep: how many skips are recorded in `out`, with weights and batch, for `vdvae-patch replay`.
        max_batch_mib: a larger batch is not recorded.
        every: how often the tracker is called, in steps.
        out: a folder for `skips.jsonl` and recorded skips; without it nothing is written.
        tracker: called with `step, loss, grad_norm, clip, skipped` as numbers; one that raises is not called again.
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
    """Made by `guard`, which explains the arguments.

    Attributes:
        healed: the heads that were given another scale, with its name.
    """

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
        _check(policy, clip, threshold, max_consecutive, keep, every)
        self.model = inner(model)
        if self.model in _guarded:
            raise GuardError("the model has a guard already; remove that first (guard.remove())")
        _refuse_flat_shards(self.model)
        self.call, self.policy, self.threshold = call, policy, math.inf if threshold is None else threshold
        self.clip = clip
        # an adversarial autoencoder has two optimizers, whose usual norms have nothing to do with each other
        self._usual: weakref.WeakKeyDictionary[Optimizer, UsualNorm] = weakref.WeakKeyDictionary()
        self._usual_before: list[list[float]] = []
        self.max_consecutive, self.diagnose, self.keep = max_consecutive, diagnose, keep
        self.max_batch_mib, self.every, self.tracker, self.file = max_batch_mib, every, tracker, file
        self._skips: list[Skip] = []
        self._refusals: list[tuple[str, Diagnosis]] = []
        self._steps = 0
        self._undecided: Undecided | None = None
        self.healed: dict[Head, str] = {}
        self._folder = None if out is None else open_folder(Path(out), self.model)
        self.out = None if self._folder is None else self._folder.path
        self._log = None if self._folder is None or not ranks.is_main() else self._folder.log()
        self._only = None if optimizer is None else _optimizers(optimizer)
        self._diagnostician = Diagnostician(self.model, heads)
        self._window, self._buffers = Window(), Buffers(self.model)
        self._buffers.take()
        self._stepped = True  # the next pass begins a new step
        self._counts: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._holds: weakref.WeakKeyDictionary[Optimizer, bool] = weakref.WeakKeyDictionary()
        self._taken: list[tuple[Tensor, Tensor | None]] = []
        self._steps_in: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
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
        self._told_once: set[str] = set()
        self._sound: Window | None = None
        self._busy = False
        self._ended = False  # by an error
        self._handle: PatchHandle | None = None
        self._lbfgs: Evaluations | None = None
        self._install(model)

    def _install(self, outer: nn.Module) -> None:
        # what torch.compile made is called from outside; a hook on what lies in it would be compiled, too
        target = outer if hasattr(outer, "_orig_mod") else self.model
        self._hooks: list[Any] = [
            target.register_forward_pre_hook(_Hook(self._forward), with_kwargs=True, prepend=True),
            target.register_forward_hook(_Hook(self._after_forward), always_call=True),
            register_optimizer_step_pre_hook(_weakly(self._before_step)),
            register_optimizer_step_post_hook(_weakly(self._after_step)),
        ]
        # those of the process are not the model's, and would outlive a guard that nobody removes
        weakref.finalize(self, _remove_all, self._hooks[2:])
        self._of_parts: list[Any] = []
        self._watch_parts(True)
        self._watch_compiled()
        signals.listen(self)
        _guarded.add(self.model)
        _all.add(self)

    def _watch_compiled(self) -> None:
        """A model that was compiled in place (`model.compile()`) has its hooks compiled with it: what it calls is
        wrapped instead."""
        own, reference = getattr(self.model, "_compiled_call_impl", None), weakref.ref(self)
        if own is None or hasattr(own, "_of_guard"):
            return

        def called(*args: Any, **kwargs: Any) -> Any:
            guard = reference()
            if guard is None or not guard._hooks:
                return own(*args, **kwargs)
            guard._forward(guard.model, args, kwargs)
            try:
                return own(*args, **kwargs)
            finally:
                guard._after_forward(guard.model, args, None)

        called._of_guard = own  # type: ignore[attr-defined]
        self.model._compiled_call_impl = called

    def _watch_parts(self, needed: bool) -> None:
        """Whether calls of the model's parts are looked at: as long as the model itself is called they tell nothing,
        and a hook makes each of them slower."""
        if needed and not self._of_parts:
            self._of_parts = [
                module.register_forward_pre_hook(_Hook(partial(self._part, path)), with_kwargs=True, prepend=True)
                for path, module in _parts(self.model)
            ]
        elif not needed:
            for hook in self._of_parts:
                hook.remove()
            self._of_parts = []

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
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if (compiled := getattr(self.model, "_compiled_call_impl", None)) is not None:
            self.model._compiled_call_impl = getattr(compiled, "_of_guard", compiled)
        self._watch_parts(False)
        signals.ignore(self)
        _guarded.discard(self.model)
        _all.discard(self)
        self._window.clear()
        if self._log is not None:
            self._log.close()
            self._log = None

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
        heads = ""
        if self.healed:
            named = "; ".join(f"{head} got {scale}" for head, scale in self.healed.items())
            heads = f"healed: {named}"
        if not (self.steps or self.skips or self._refusals):
            return self._nothing_yet()
        ended = ["\n".join([text, *(f"  {line}" for line in lines(found))]) for text, found in self._refusals]
        heads = "\n".join([part for part in (heads, *map("note: {}".format, spoilt(self.model))) if part])
        return report(self.skips, ended, self.steps + len(self.skips), heads, self._cure())

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
        return f"Guard({type(self.model).__name__}, {self.steps} steps, {len(self.skips)} skipped)"

    @property
    def heads(self) -> Sequence[Head] | None:
        """The heads that were given or found; None before a step had to be examined."""
        return self._diagnostician.heads

    def find_heads(self) -> Sequence[Head]:
        """Scan the model in the first step that was finite, unless its heads are known.

        Raises:
            PatchError: there was no such step yet.
        """
        again = self._sound_again()
        if again is None or not again.settled().shares:
            raise PatchError("no step was seen yet in which the heads can be looked for")
        with self._quiet():
            return self._diagnostician.find(again, again.shares[0])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of the loop may keep: counters, and the norms of the last updates, a list an optimizer in
        the order of their first steps. The patch is the model's."""
        norms = [usual.norms() for usual in self._usual.values()] + self._usual_before
        return {"steps": self.steps, "consecutive": self._consecutive, "norms": norms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._settle()
        self._steps, self._consecutive = int(state["steps"]), int(state["consecutive"])
        norms = state["norms"]
        if norms and not isinstance(norms[0], list):
            norms = [norms]  # of a guard that had one list for all optimizers
        self._usual_before = [list(map(float, known)) for known in norms]
        for usual in self._usual.values():
            usual.remember(self._usual_before.pop(0) if self._usual_before else [])

    # --- what is heard ------------------------------------------------------------------------------------------------

    def on_batch(self, *args: Any, **kwargs: Any) -> None:
        """A framework's batch, announced before its training step; from then on calls of the model are not looked at,
        and `call` is given what is announced.
        """
        self._announced = True
        self._begin(self.model, args, kwargs, None)

    def _forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        thread = threading.get_ident()  # another one may evaluate the model
        self._inside[thread] = self._inside.get(thread, 0) + 1
        if self._inside[thread] == 1 and not self._announced:
            self._begin(module, args, kwargs, "")

    def _after_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        thread = threading.get_ident()
        self._inside[thread] = max(0, self._inside.get(thread, 0) - 1)
        error = sys.exc_info()[1] if output is None else None  # it may also be one that the loop handles right now
        if error is not None and not self._inside[thread] and not self._busy and _is_raised_in(error, module):
            hooks = module._forward_hooks
            module._forward_hooks = hooks.copy()  # PyTorch is going through them, and a trace adds some
            try:
                self.explain(error)
            finally:
                module._forward_hooks = hooks

    def _part(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
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
            _refuse_flat_shards(self.model)  # it may have been wrapped since
        self._was_called = True
        if self._ended:
            self._ended = False
            self._window.give_up()
        if self._stepped:
            self._stepped = False
            for optimizer in list(self._steps_in):  # of a step that raised
                _held_back.pop(optimizer, None)
            self._steps_in.clear()
            self._window.clear()
            self._buffers.take()
        self._window.forward(module, args, kwargs, device_of(self.model), of)

    def on_backward(self, roots: Sequence[Tensor], inputs: Sequence[Tensor] | None) -> None:
        """See `signals.Listener`."""
        if self._busy or not self._window.passes or _in_backward():  # as reentrant checkpoints call it
            return
        if inputs is not None and not self._has_some_of(inputs):  # a penalty on the gradient of what a model is given
            return
        self._settle()
        if not self._stepped:
            if inputs is None:
                self._forget_what_was_cleared()
        elif inputs is not None or self._is_cleared():  # a second loss of passes whose first one had its step
            self._window.backwards = []
        self._window.backward(roots, torch.device(self._window.passes[-1].autocast.device), by_grad=inputs is not None)

    def _has_some_of(self, tensors: Sequence[Any]) -> bool:
        own = list(self.model.parameters())
        known = set(map(id, own))
        return any(
            id(t) in known or (signals.is_transformed(t) and signals.same_as(t, own) is not None) for t in tensors
        )

    def on_zero(self, cleared: Any) -> None:
        """See `signals.Listener`. A loop may give a loss up after `backward`, without a step."""
        if self._busy or self._stepped or not self._window.backwards:
            return
        if isinstance(cleared, Optimizer) and not self._watches(cleared):
            return
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
        self._scale, count = scale, self._counts.get(own, 0)
        try:
            result = step()
            if self._counts.get(own, 0) == count:  # the scaler found an infinity, and let the optimizer not step
                loss, _ = self._losses()
                self._counts[own] = count + 1
                self._overflow(own, count, math.inf, loss)
            return result
        finally:
            self._scale = 1.0

    def on_refusal(self, distribution: Any, error: ValueError) -> None:
        """See `signals.Listener`."""
        if self._busy or not self._window.passes:
            return
        where = str(callers(sys._getframe(1))[0])
        self._note(error, lambda: _refused(distribution, where), "torch.distributions raised", refused=True)

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
            if last is None or last.cause == "loss_scale" or last.step != max(self._counts.values(), default=0) - 1:
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
        if raised.is_told(error) or len(self._refusals) >= _EXAMINED:  # a loop may catch it and go on
            return raised.is_told(error)
        running = raised.running(error)
        try:
            with self._quiet():
                diagnosis = self._of_error(error, running, refused)
        except Exception as failed:  # what explains an error must not take its place
            diagnosis = None
            if refused:
                diagnosis = Diagnosis(notes=(f"the step could not be done again: {type(failed).__name__}: {failed}",))
        if diagnosis is None:
            return False
        step = max(self._counts.values(), default=0)
        raised.tell(error, "\n".join([f"step {step}, seen by vdvae_patch.guard: {text()}", *lines(diagnosis)]))
        self._refusals.append((f"step {step}: {said}: {text()}", diagnosis))
        return True

    def _of_error(self, error: BaseException, running: Sequence[Running], refused: bool) -> Diagnosis | None:
        """What is found of a step that ended in an error; None if all was finite in it."""
        if why := self._not_alone():
            return Diagnosis(notes=(f"{why}",)) if refused else None
        again = Again(self.model, self._window, self._buffers, self.call, self._scale)
        differentiated = bool(self._window.backwards) and self._window.start == len(self._window.passes)
        if not differentiated:
            again.follow(list(self._window.ways_to_error(running, self._sound)), error)
        elif not again.settled().shares:
            return None
        if not (refused or raised.names_a_number(running) or self._diagnostician.has_part_in(again)):
            return None
        found = self._diagnostician.examine(again, self._sound_again())
        return found if refused or found.event is not None or found.outside else None

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if self._busy or not self._watches(optimizer):
            return None
        self._inside.clear()  # Ctrl-C in a forward pass is not told of by PyTorch's hooks
        depth = self._steps_in.get(optimizer, 0)
        self._steps_in[optimizer] = depth + 1
        if depth:
            return None
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
        if isinstance(optimizer, LBFGS):
            return self._heard_by_lbfgs(optimizer, closure)

        def heard() -> Any:
            result = closure()
            self._judge(optimizer)
            return result

        return heard

    # --- one step -----------------------------------------------------------------------------------------------------

    def _judge(self, optimizer: Optimizer) -> None:
        """Gradients are there; apply the update, or keep it out."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        step = self._counts.get(optimizer, 0)
        if not step and (warning := _divides_by_zero(optimizer)):
            self._say(warning)
        if self._may_wait(optimizer, parameters):
            row = self._row(parameters)
            self._counts[optimizer] = step + 1
            self._stepped = True
            self._undecided = Undecided.of(optimizer, step, row, self.threshold, self._buffers.modules)
            return
        limit = self._limit(optimizer)
        loss, cause, norm, bad = self._look(parameters, optimizer, limit)
        self._counts[optimizer] = step + 1
        self._stepped = True
        if (held := _held_back.get(optimizer)) is not None:
            self._buffers.put_back()
            self._pending[optimizer] = replace(held.skip, step=step)
            return
        if cause is None:
            self._applied(optimizer, step, loss, norm, parameters, limit)
            return
        if getattr(optimizer, "found_inf", None) is not None and cause == "high_gradient" and not math.isfinite(norm):
            self._overflow(optimizer, step, norm, loss)  # of a fused optimizer, which is called with scaled gradients
            return
        self._keep_out(parameters)
        # PyTorch is iterating over its hooks now, and a scan adds one: what takes long waits until the step is over
        skip = self._pending[optimizer] = Skip(step, cause, bad, norm, loss, type(optimizer).__name__)
        untold = weakref.WeakSet(guard for guard in _all if guard is not self and guard._watches(optimizer))
        if untold:
            _held_back[optimizer] = _Held(skip, untold)

    def _applied(
        self, optimizer: Optimizer, step: int, loss: float, norm: float, parameters: Sequence[Tensor], limit: float
    ) -> None:
        """What is noted of an update that is applied."""
        self._consecutive_before, self._consecutive = self._consecutive, 0
        self._steps += 1
        if self._traceable is None and self._window.backwards:
            own = {id(p) for p in parameters}
            self._traceable = any(reaches(end, own) for b in self._window.backwards for end in b.ends)
        self._shown = loss
        if not self._window.passes:  # no call was seen, before which they would be taken
            self._buffers.take()
            self._watch_compiled()
        self._watch_parts(not self._window.passes or any(one.of for one in self._window.passes))
        if self._sound is None and skips.size_of(self._window) <= self.max_batch_mib * 2**20:
            self._sound = self._window.lasting()
            self._diagnostician.nan_is_ordinary = any(has_nan(t) for one in self._sound.data for t in one)
        self._clip(optimizer, parameters, norm, limit)
        self._track(step, loss, norm, limit, skipped=False)

    # --- decided on the device ----------------------------------------------------------------------------------------

    def _may_wait(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> bool:
        """Whether this step can be decided on the device, and read later, with the same outcome.

        Not where the read has to come before the update (a norm to clip by, an error to raise, a head to heal, a loss
        to show), where others decide, too (ranks, another guard, another optimizer that steps in between), or where it
        is not sure that all that was differentiated is a loss of these parameters.
        """
        if not parameters or parameters[0].device.type not in self._deferring:
            return False
        if self.policy != "skip" or self.clip is not None or self.shows_last_loss or self._scale != 1:
            return False
        if ranks.world() > 1 or len(_guarded) > 1 or len(self._counts) != 1 or not self._traceable:
            return False
        if not self._window.passes or not self._window.backwards or self._sound is None:
            return False
        if not can_be_deferred(optimizer, parameters, self._deferring) or not self._buffers.in_place:
            return False
        own = {id(p) for p in parameters}
        return all(any(reaches(end, own) for end in backward.ends) for backward in self._window.backwards)

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
        skip = Skip(step, _CAUSES[code - 1], (), norm, loss, type(optimizer).__name__)
        if may_look:
            with undecided.attributes.again():
                skip = self._diagnosed(skip)
        else:
            why = "another optimizer's step came before it could be done again"
            skip = replace(skip, diagnosis=Diagnosis(notes=(why,)))
        self._skipped(skip)

    @torch.no_grad()
    def _row(self, parameters: Sequence[Tensor]) -> Tensor:
        """All that was differentiated, and the gradient norm, on the device."""
        device = parameters[0].device if parameters else device_of(self.model)
        norm = gradient_norm([p.grad for p in parameters if p.grad is not None], device)
        return _stacked([*(_wide(root).to(device).sum() for root in self._window.losses), norm], device)

    @torch.no_grad()
    def _look(
        self, parameters: Sequence[Tensor], optimizer: Optimizer, limit: float = math.inf
    ) -> tuple[float, Cause | None, float, tuple[int, ...]]:
        """Loss, cause of a skip, norm, and the ranks whose loss is not finite; one wait for the device.

        Args:
            limit: what the norm is clipped to, if the update is applied.
        """
        device = parameters[0].device if parameters else device_of(self.model)
        scale = self._scale if getattr(optimizer, "grad_scale", None) is not None else 1.0
        if ranks.world() == 1:
            *losses, size = self._numbers(parameters, device)
            if self._traceable and not all(map(math.isfinite, losses)):  # whose loss is it?
                self._window.keep_those_of({id(p) for p in parameters})
                losses = [float(_wide(root).sum()) for root in self._window.losses]
            loss, size = sum(losses) / self._scale, size / scale
            code = rule.decided((not math.isfinite(loss),), False, size, self.threshold, limit)
            loss = loss if losses else math.nan  # it was not seen
            return loss, _CAUSES[code - 1] if code else None, size, ()
        row = self._row(parameters)
        norm = row[-1]
        if self._traceable and len(row) > 1 and not bool(row[:-1].isfinite().all()):
            self._window.keep_those_of({id(p) for p in parameters})
            kept = [_wide(root).to(device).sum() for root in self._window.losses]
            row = _stacked([*kept, norm], device)
        total = row[:-1].sum() if len(row) > 1 else torch.zeros((), device=device)
        row = torch.stack([total / self._scale, norm / scale])
        rows = ranks.everyone(row)
        row = torch.stack([row[0], rows[:, 1].amax()])  # one norm, so that all clip to the same limit
        bad = ~rows[:, 0].isfinite()
        found = rule.code((bad.any(),), (~rows[:, 1].isfinite()).any(), row[1], self.threshold, limit)
        values = torch.cat([row, found[None], bad.float()]).tolist()
        cause = None if values[2] == 0 else _CAUSES[int(values[2]) - 1]
        return (
            values[0] if self._window.losses else math.nan,
            cause,
            values[1],
            tuple(n for n, flag in enumerate(values[3:]) if flag),
        )

    def _numbers(self, parameters: Sequence[Tensor], device: torch.device) -> list[float]:
        """The same as numbers: one read of an accelerator; on a CPU, where a read is no wait, without the row."""
        if device.type != "cpu":
            return list(map(float, self._row(parameters).tolist()))
        norm = gradient_norm([p.grad for p in parameters if p.grad is not None], device)
        return [*(float(_wide(root).sum()) for root in self._window.losses), float(norm)]

    def _losses(self) -> tuple[float, bool]:
        """The sum of what was differentiated, without the loss scale; and whether it is NaN on some rank."""
        values = [float(_wide(root).sum()) for root in self._window.losses]
        loss = sum(values) / self._scale
        rows = ranks.everyone(torch.tensor([float(math.isnan(loss))], device=device_of(self.model)))
        return loss, bool(rows.any())

    def _keep_out(self, parameters: Iterable[Tensor]) -> None:
        """Without gradients the optimizer changes nothing; the loop finds them again behind the step."""
        self._taken = [(p, p.grad) for p in parameters]
        for p, _ in self._taken:
            p.grad = None
        self._buffers.put_back()

    def _give_back(self) -> None:
        for p, gradient in self._taken:
            if p.grad is None:
                p.grad = gradient
        self._taken = []

    def _overflow(self, optimizer: Optimizer, step: int, norm: float, loss: float) -> None:
        """Scaled gradients are not finite: because of the scale, or by themselves?"""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._window.drop_given_up()
        self._stepped = True
        ordinary = not self._losses()[1]
        diagnosis = None
        if ordinary and self.diagnose:
            with self._quiet():
                again = Again(self.model, self._window, self._buffers, self.call, self._scale)
                outcomes = [again.outcome(share) for share in again.shares] if not again.why_not else []
            ordinary = all(outcome.finite for outcome in outcomes)
        ordinary = not bool(ranks.everyone(torch.tensor([float(not ordinary)], device=device_of(self.model))).any())
        if ordinary:
            self._skips.append(Skip(step, "loss_scale", (), norm, loss, type(optimizer).__name__, diagnosis))
            self._track(step, loss, norm, math.inf, skipped=True)
            return
        self._keep_out(parameters)
        bad = ranks.everyone(torch.tensor([float(not math.isfinite(loss))], device=device_of(self.model)))[
            :, 0
        ].tolist()
        cause: Cause = "nan_loss" if any(bad) else "high_gradient"  # the same on all
        on = tuple(rank for rank, flag in enumerate(bad) if flag) if ranks.world() > 1 else ()
        self._skipped(self._diagnosed(Skip(step, cause, on, norm, loss, type(optimizer).__name__)))

    def _diagnosed(self, skip: Skip) -> Skip:
        """With what came in from outside, or where it was made."""
        self._window.drop_given_up()
        try:
            return self._looked_into(skip)
        except Exception as error:  # what watches must not end the run
            why = f"the step could not be done again: {type(error).__name__}: {error}"
            return replace(skip, diagnosis=Diagnosis(notes=(why,)))

    def _looked_into(self, skip: Skip) -> Skip:
        outside = tuple(self._diagnostician.came_in(self._window.data))
        if outside:
            return replace(skip, diagnosis=Diagnosis(outside=outside))
        by_threshold = skip.norm < rule.LARGEST and math.isfinite(skip.loss)
        if by_threshold or not self.diagnose or not self._is_new(skip):
            return skip
        with self._quiet():
            return replace(skip, diagnosis=self._examined())

    def _skipped(self, skip: Skip) -> None:
        """Record, tell, and what the policy says."""
        self._consecutive += 1
        loss = skip.loss  # of this rank
        if ranks.world() > 1:
            skip = ranks.of_all_ranks(skip)
        if self.policy == "heal":
            skip = self._heal(skip)
        skip = self._record(skip, loss)
        self._skips.append(skip)
        self._track(skip.step, skip.loss, skip.norm, math.inf, skipped=True)
        if skip.diagnosis is not None or len(self.skips) <= _TOLD:
            self._say(told(skip))
        if skip.folder is not None:
            size = sum(path.stat().st_size for path in skip.folder.rglob("*") if path.is_file()) / 2**20
            self._say(f"{skip.folder} takes {size:.3g} MiB; at most {self.keep} are kept")
        if skip.diagnosis is not None and not skip.outside:
            for text in spoilt(self.model):
                self._say_once(text)
        if self.policy == "raise":
            raise GuardError(told(skip))
        if self._consecutive >= self.max_consecutive:
            raise GuardError(
                f"{telling.in_a_row(self._consecutive)}: the weights stay as they are, and so does what "
                f"breaks.\n{self.report()}"
            )

    def _is_new(self, skip: Skip) -> bool:
        """Whether a skip is worth the time: the first ones, and then now and then."""
        examined = sum(s.diagnosis is not None and not s.outside for s in self.skips)
        real = sum(s.cause != "loss_scale" for s in self.skips)
        return examined < _EXAMINED or real % _SELDOM == 0

    def _sound_again(self) -> Again | None:
        return None if self._sound is None else Again(self.model, self._sound, self._buffers, self.call)

    def _not_alone(self) -> str:
        """Why one rank cannot do a step again by itself, if it cannot."""
        if any(hasattr(p, "full_tensor") for p in self.model.parameters()):
            return "the model is sharded, so that one rank cannot do the step again by itself"
        if ranks.world() > 1 and any(isinstance(m, nn.SyncBatchNorm) for m in self.model.modules()):
            return "its batch norm is over all ranks, so that none can do the step again by itself"
        return ""

    def _examined(self) -> Diagnosis:
        if why := self._not_alone():
            recorded = "; with out= it is recorded whole, for vdvae-patch replay" if "sharded" in why else ""
            return Diagnosis(notes=(f"{why}{recorded}",))
        again, sound = Again(self.model, self._window, self._buffers, self.call, self._scale), self._sound_again()
        found = self._diagnostician.examine(again, sound)
        for past in reversed(self._window.past):
            if found.reproduced or found.outside or not past.passes:
                break
            before = Again(self.model, past, self._buffers, self.call, self._scale)
            if (of_past := self._diagnostician.examine(before, sound)).reproduced:
                found = of_past
        return found

    @contextlib.contextmanager
    def _quiet(self) -> Any:
        """What happens in the block is the guard's own doing."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _usual_of(self, optimizer: Optimizer) -> UsualNorm:
        if optimizer not in self._usual:
            self._usual[optimizer] = usual = UsualNorm()
            if self._usual_before:
                usual.remember(self._usual_before.pop(0))
        return self._usual[optimizer]

    def _limit(self, optimizer: Optimizer) -> float:
        """What the gradient's norm is brought down to."""
        if isinstance(self.clip, str):
            return float(self._usual_of(optimizer).limit)
        return math.inf if self.clip is None else self.clip

    def _clip(self, optimizer: Optimizer, parameters: Sequence[Tensor], norm: float, limit: float) -> None:
        """Of an update that is applied: bring its gradient down to the limit."""
        if isinstance(self.clip, str):
            self._usual_of(optimizer).add(torch.tensor(norm, dtype=torch.float64), torch.tensor(True))
        if norm > limit:
            gradients = [p.grad for p in parameters if p.grad is not None]
            torch._foreach_mul_(gradients, limit / norm)

    # --- heal ---------------------------------------------------------------------------------------------------------

    def _heal(self, skip: Skip) -> Skip:
        """The head that is to blame for the second time gets the first scale that holds."""
        diagnosis = skip.diagnosis
        head = None if diagnosis is None else diagnosis.head
        chosen = None if diagnosis is None else diagnosis.cure
        if head is None or chosen is None:
            return skip
        head = next((known for known in self._diagnostician.heads or () if known == head), head)  # with its scan
        before = sum(s.head == head.path and s.diagnosis is not None for s in self.skips)
        if before < 1 or head in self.healed or (is_patched(self.model) and self._handle is None):
            return skip
        from vdvae_patch.guarding.diagnosis import for_heads

        variant = for_heads([head], chosen)
        wanted = {**self.healed, head: str(variant.for_role(head.role))}
        if self._handle is not None:
            unpatch(self.model)
        self._handle = None
        try:
            with self._quiet(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._handle = _patched(self.model, wanted)
        except PatchError as error:
            if self.healed:
                self._handle = _patched(self.model, self.healed)
            self._say(f"step {skip.step}: {head} could not be healed: {error}")
            return skip
        self.healed = wanted
        healed = f"{head.path}[{head.channels}] ({head.role}) has {wanted[head]} from now on"
        return replace(skip, healed=healed + self._moved(head, diagnosis))

    def _moved(self, head: Head, diagnosis: Diagnosis | None) -> str:
        """How much another scale changes what a head gives, in the step at hand."""
        again = Again(self.model, self._window, self._buffers, self.call, self._scale).settled()
        same = (head.path, head.channels, head.role)
        before = next((h for h in (diagnosis.heads if diagnosis else ()) if (h.path, h.channels, h.role) == same), None)
        with self._quiet():
            found = self._diagnostician.extremes(again, again.shares[-1], [head]) if again.shares else []
        if before is None or before.log_sigma is None or not found or found[0].log_sigma is None:
            return ""
        spans = [telling.log_sigma(span.low, span.high) for span in (before.log_sigma, found[0].log_sigma)]
        return f": its {spans[0]} in this step, and now {spans[1].removeprefix('log σ ')}"

    def _cure(self) -> str:
        """The lines that make it permanent."""
        of_skips = [s.diagnosis for s in self.skips if s.diagnosis is not None]
        chosen = cure_of(of_skips + [diagnosis for _, diagnosis in self._refusals])
        if self.healed:
            paths = " or ".join(f"path == {head.path!r}" for head in self.healed)
            roles = ", ".join(
                f"{role}={scale!r}" for role, scale in {h.role: s for h, s in self.healed.items()}.items()
            )
            return (
                f"what was healed, for good {_YOUR_LOSS}:\n"
                f"  heads = vdvae_patch.scan(model, batch, call=loss).select(path=lambda path: {paths})\n"
                f"  vdvae_patch.patch(model, heads=heads, {roles})"
            )
        if chosen is None or self._handle is not None:
            return ""
        return (
            f"the cure, in two lines before the training {_YOUR_LOSS}:\n"
            "  heads = vdvae_patch.scan(model, batch, call=loss)\n"
            f"  vdvae_patch.patch(model, {chosen!r}, heads=heads)"
        )

    # --- write and tell -----------------------------------------------------------------------------------------------

    def _record(self, skip: Skip, loss: float) -> Skip:
        """Write what is needed to do the step again: rank 0 the weights, and every rank its own share of the batch.

        All ranks come by here together.

        Args:
            loss: of this rank alone.
        """
        number = self._number(skip)
        try:
            if number:
                skip = self._written(skip, number, loss)
            if self._log is not None:
                self._log.write(skip.record())
                self._log.flush()
        except RunError as error:  # a full disk must not end somebody's training
            self._say(f"step {skip.step}: {error}", of_all=True)
        return skip

    def _number(self, skip: Skip) -> int:
        """Which recording this is, from 1, the same on all ranks; 0 if it is not kept."""
        kept = self.keep if self._log is None or self.out is None else len(list(self.out.glob("skip-*")))
        number = kept + 1 if kept < self.keep else 0
        size = skips.size_of(self._window) / 2**20 if self._window.passes else -1.0
        row = torch.tensor([float(number), size], device=device_of(self.model))
        rows = ranks.everyone(row).tolist()
        largest = max(size for _, size in rows)
        number = int(rows[0][0])
        if not number and self.out is not None and self.keep:
            self._say_once(f"{self.out} holds {kept} recorded skips, of this training or one before; no more are kept")
        if not number or min(size for _, size in rows) < 0:
            return 0
        if largest > self.max_batch_mib:
            self._say(f"step {skip.step}: a batch of {largest:.0f} MiB is not kept")
            return 0
        return number

    def _written(self, skip: Skip, number: int, loss: float) -> Skip:
        again = Again(self.model, self._window, self._buffers, self.call)
        kept = self._to_blame(again, skip)
        inputs = () if kept is None else again.inputs(kept)
        if kept is not None and kept.seen is not None:
            loss = kept.seen  # of several micro-batches, that of the one that is kept
        index = 0 if kept is None else kept.index
        share = skips.Share.of(self._window, self._buffers, inputs, loss, ranks.rank(), ranks.world(), index)
        weights = skips.weights_of(self.model)  # of a sharded model, what all ranks have to ask for together
        folder, failed = None if self.out is None else self.out / f"skip-{number:04d}", None
        if ranks.is_main() and folder is not None:
            try:
                skip = skips.write(folder, skip, self.model, weights, share, self._place_in_log())
            except RunError as error:
                failed = error
        if ranks.world() > 1:
            written = ranks.everyone(torch.tensor([float(skip.folder is not None)], device=device_of(self.model)))
            if not ranks.is_main() and folder is not None and bool(written[0]):
                skips.write_share(folder, share)
                skip = replace(skip, folder=folder)
        if failed is not None:
            raise failed
        return skip

    def _place_in_log(self) -> dict[str, Any]:
        """Of which guard a recording is, and which line of its log says the same."""
        if self._folder is None or self._log is None:
            return {}
        return {"guard": self._folder.id, "log_line": self._log.count + 1}

    def _to_blame(self, again: Again, skip: Skip) -> Share | None:
        """Of the micro-batches of a step, the one that was examined and not finite; else one whose loss or data are
        not; else the first."""
        found = skip.diagnosis
        if found is not None and found.reproduced:
            return next((s for s in again.shares if s.index == found.index), None)
        bad = [s for s in again.shares if s.seen is not None and not math.isfinite(s.seen)]
        return next(iter(bad or again.shares), None)

    def _track(self, step: int, loss: float, norm: float, limit: float, *, skipped: bool) -> None:
        if self.tracker is None or (not skipped and step % self.every):
            return
        values = {"step": step, "loss": loss, "grad_norm": norm, "clip": limit, "skipped": float(skipped)}
        try:
            self.tracker(values)
        except Exception as error:  # it is not ours, and must not end the training
            self.tracker = None
            self._say(f"the tracker raised {type(error).__name__}: {error}; it is not called again")

    def _say_once(self, text: str) -> None:
        if text not in self._told_once:
            self._told_once.add(text)
            self._say(text)

    def _say(self, text: str, *, of_all: bool = False) -> None:
        """`of_all`: what one rank alone may know."""
        if not ranks.is_main() and not of_all:
            return
        with contextlib.suppress(OSError, ValueError):  # a file that was closed must not end somebody's training
            tell(f"vdvae_patch guard: {text}", self.file or sys.stderr)

    # --- optimizers ---------------------------------------------------------------------------------------------------

    def _watches(self, optimizer: Optimizer) -> bool:
        if self._only is not None:
            return any(optimizer is one for one in self._only)
        held = self._holds.get(optimizer)
        if not held:
            self._asked += 1
        if held is None or (not held and self._asked % _SELDOM == 0):  # layers may be made, or added to it, later
            own = {id(p) for p in self.model.parameters()}
            held = any(id(p) in own for group in optimizer.param_groups for p in group["params"])
            self._holds[optimizer] = held
        return held

    def _heard_by_lbfgs(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        """LBFGS evaluates its closure many times in one step; so all is copied, and put back after a step in which one
        evaluation was not finite."""
        self._lbfgs = kept = Evaluations(self.model, optimizer)

        def heard() -> Any:
            result = closure()
            loss, cause, norm, bad = self._look([p for p, _ in kept.weights if p.grad is not None], optimizer)
            if cause is not None and kept.bad is None:
                skip = Skip(self._counts.get(optimizer, 0), cause, bad, norm, loss, type(optimizer).__name__)
                kept.bad = self._diagnosed(skip)
            self._stepped = True
            return result

        return heard

    def _hear_of_others(self, optimizer: Optimizer) -> None:
        """Another guard may have held a step back that this one had let through before: it was never done."""
        held = _held_back.get(optimizer)
        if held is None or self not in held.untold:
            return
        held.untold.discard(self)
        if not held.untold:
            del _held_back[optimizer]
        if optimizer in self._pending or not self._watches(optimizer):
            return
        self._buffers.put_back()
        self._steps, self._consecutive = self._steps - 1, self._consecutive_before
        if optimizer in self._usual:
            self._usual[optimizer].forget_last()
        self._pending[optimizer] = replace(held.skip, step=self._counts[optimizer] - 1)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._busy:
            return
        depth = self._steps_in.pop(optimizer, 1) - 1
        if depth > 0:  # a step within a step, of a subclass that calls its base's
            self._steps_in[optimizer] = depth
            return
        self._give_back()
        self._hear_of_others(optimizer)
        if (undecided := self._undecided) is not None and undecided.optimizer is optimizer:
            undecided.over()
            self._buffers.put_back_where(undecided.held_back)
            return
        kept, pending = self._lbfgs, self._pending.pop(optimizer, None)
        if kept is not None and kept.optimizer is optimizer:
            self._lbfgs = None
            self._counts[optimizer] = self._counts.get(optimizer, 0) + 1
            if kept.bad is None:
                self._consecutive = 0
                self._steps += 1
                return
            kept.put_back()
            self._skipped(kept.bad)
        elif pending is not None:
            diagnosed = self._diagnosed(pending)
            if self.shows_last_loss and len(self._window.losses) == 1:
                with torch.no_grad():
                    self._window.losses[0].fill_(self._shown or 0.0)
            self._skipped(diagnosed)


@dataclass
class _Held:
    """A step that a guard has held back, and the other guards of that optimizer that have not come by since."""

    skip: Skip
    untold: weakref.WeakSet[Guard]


def _is_raised_in(error: BaseException, module: nn.Module) -> bool:
    """Whether an error comes from a call of a module that is just ending, and is not one that was there before."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_locals.get("self") is module:
            return True
        trace = trace.tb_next
    return False


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A hook of the whole process, which must not keep a guard and its model."""
    reference = weakref.WeakMethod(method)

    def hook(*args: Any) -> Any:
        own = reference()
        return None if own is None else own(*args)

    return hook


def _remove_all(hooks: Sequence[Any]) -> None:
    for hook in hooks:
        hook.remove()


class _Hook:
    """A hook of one model: a copy of the model, as an average of its weights is, and a pickle have one that does
    nothing."""

    def __init__(self, function: Callable[..., None] | None = None) -> None:
        self._function = function

    def __call__(self, *args: Any) -> None:
        if self._function is not None:
            self._function(*args)

    def __deepcopy__(self, memo: Any) -> _Hook:
        return _Hook()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, ()


_EXAMINED, _SELDOM, _TOLD = 3, 50, 5


def _refused(distribution: Any, where: str) -> str:
    """What a distribution has against its parameters, in words."""
    name = type(distribution).__name__
    for parameter in ("scale", "loc"):
        value = getattr(distribution, parameter, None)
        if isinstance(value, Tensor) and (text := refusal(parameter, value, where)):
            return text
    return f"{where}: PyTorch refuses the parameters of a {name}"


def _check(
    policy: str, clip: float | str | None, threshold: float | None, consecutive: int, keep: int, every: int
) -> None:
    if policy not in get_args(Policy):
        raise InvalidValueError(f"policy must be one of {', '.join(get_args(Policy))}, not {policy!r}")
    if isinstance(clip, str):
        if clip != "auto":
            raise InvalidValueError(f'clip must be a norm or "auto", not {clip!r}')
    elif clip is not None and not clip > 0:
        raise InvalidValueError(f"clip must be above 0, not {clip}")
    if threshold is not None and not threshold > 0:
        raise InvalidValueError(f"threshold must be above 0, not {threshold}; None for none")
    for name, value, least in (("max_consecutive", consecutive, 1), ("keep", keep, 0), ("every", every, 1)):
        if value < least:
            raise InvalidValueError(f"{name} must be at least {least}, not {value}")


def inner(model: nn.Module) -> nn.Module:
    """Without the wrappers of torch.compile, of several devices and of several processes."""
    while True:
        wrapped = getattr(model, "_orig_mod", None)
        if wrapped is None and type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            wrapped = model.module
        if not isinstance(wrapped, nn.Module):
            return model
        model = wrapped


def _refuse_flat_shards(model: nn.Module) -> None:
    """Refuse what FSDP1 has wrapped: it replaces parameters by shards of one flat vector, of which neither a layer's
    gradient nor the norm of all can be told on one rank. (FSDP2 marks its modules, too; its shards are DTensors.)"""
    managed = any(getattr(m, "_is_fsdp_managed_module", False) for m in model.modules())
    if managed and not all(hasattr(p, "full_tensor") for p in model.parameters()):
        raise GuardError(
            f"{type(model).__name__} is sharded by FullyShardedDataParallel (FSDP1), whose flat parameters hide the "
            "layers; shard it with torch.distributed.fsdp.fully_shard (FSDP2), which a guard knows"
        )


def _parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of the model that a method of it, or a training loop, may call by themselves: its own, and theirs."""
    found: list[tuple[str, nn.Module]] = []
    todo = [(path, child, 0) for path, child in model.named_children()]
    while todo:
        path, module, depth = todo.pop()
        if not takes_hooks(module):
            continue
        listed = type(module).forward is nn.Module.forward  # a list of modules is never called
        if not listed:
            found.append((path, module))
        if listed or depth == 0:
            todo += [(f"{path}.{name}", child, depth + (not listed)) for name, child in module.named_children()]
    return found


def _optimizers(given: Optimizer | Iterable[Optimizer]) -> list[Optimizer]:
    found: list[Any] = [given] if hasattr(given, "param_groups") else list(given)
    own = [getattr(one, "optimizer", one) for one in found]  # accelerate's, Lightning's
    wrong = [one for one in own if not isinstance(one, Optimizer)]
    if wrong:
        raise GuardError(
            f"{type(wrong[0]).__name__} is no torch.optim.Optimizer: an engine that owns its step cannot be guarded"
        )
    return own


def _divides_by_zero(optimizer: Optimizer) -> str:
    """What is said of an optimizer whose update may not be finite although the gradients are."""
    for group in optimizer.param_groups:
        eps = group.get("eps")
        if not isinstance(eps, float) or group.get("fused"):
            continue
        for dtype in {p.dtype for p in group["params"] if p.is_floating_point()}:
            if eps > 0 and not torch.tensor(eps, dtype=dtype):
                return (
                    f"{type(optimizer).__name__} has eps={eps:g}, which is 0 in {str(dtype).removeprefix('torch.')}, "
                    "as the weights are: where the square of a gradient underflows, an update divides by 0 and spoils "
                    "the weights although loss and gradients are finite, which no look at these can show; give "
                    "eps=1e-4, or keep the weights in float32 (mixed precision) or bfloat16"
                )
    return ""


def _patched(model: nn.Module, scales: Mapping[Head, str]) -> PatchHandle:
    """The heads with their scales; of one role, all have the same."""
    by_role: dict[str, str] = {head.role: scale for head, scale in scales.items()}
    return patch(model, heads=list(scales), verify=False, **by_role)  # type: ignore[arg-type]


def _is_clear(gradient: Tensor | None) -> bool:
    if gradient is None:
        return True
    own = gradient.coalesce().values() if gradient.is_sparse else gradient
    return not bool(own.any())


def _wide(value: Tensor) -> Tensor:
    """In float32, or float64 where it is that."""
    return value if value.dtype == torch.float64 else value.float()


def _stacked(values: Sequence[Tensor], device: torch.device) -> Tensor:
    """One row, of the widest of their types."""
    dtype = torch.float64 if any(value.dtype == torch.float64 for value in values) else torch.float32
    return torch.stack([value.to(device, dtype) for value in values])


def _in_backward() -> bool:
    """Whether this is a forward pass that activation checkpointing does again."""
    return torch._C._current_graph_task_id() != -1
