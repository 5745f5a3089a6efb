"""Do the step of a window again, as often as it is asked: for its loss, its gradients, and where they broke.

Weights and batch are those of the step, and so are the buffers, the random states, and what the model keeps in
attributes. Gradients and all of these are afterwards what they were before.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data.dataloader import _BaseDataLoaderIter
from torch.utils.hooks import RemovableHandle

from vdvae_patch.errors import PatchError
from vdvae_patch.guarding.buffers import Buffers
from vdvae_patch.guarding.lines import Lines, Which, sum_of
from vdvae_patch.guarding.passes import Autocast, Backward, Pass, Window
from vdvae_patch.guarding.weights import Weights
from vdvae_patch.outcome import Outcome
from vdvae_patch.scanning.watching.inputs import tensors_in
from vdvae_patch.scanning.watching.outcome import loss_of, outcome_of, with_origin
from vdvae_patch.scanning.watching.quiet import without_logging
from vdvae_patch.scanning.watching.untouched import contents_kept
from vdvae_patch.skips import rule
from vdvae_patch.skips.generators import RawStates
from vdvae_patch.skips.gradient_norm import gradient_norm
from vdvae_patch.torch_versions import eagerly, takes_hooks
from vdvae_patch.trace import Tracer, shown

Loss = Callable[..., Any]


NO_CALL = (
    "no call of the model with gradients was seen since the step before; if it is compiled, guard what "
    "torch.compile gives"
)


class NoLossError(PatchError):
    """Nothing is known that computes a loss."""


@dataclass(frozen=True)
class Share:
    """One loss of a step, to be computed again.

    Attributes:
        index: which of the passes it begins with.
        compute: gives the loss.
        how: in words, what is run.
        seen: what `backward` was given in the step; None if that was not seen.
        autocast: the precision that was in force around what is run.
        data: what it reads beside the model's inputs.
        values: what it may change beside the model.
        backward: the call that it leads to.
        unsure: whether it may be no more than what follows the call of the model, see `Again.settled`.
        used: the first of the passes that has a part in the loss, which is the one that is recorded.
        call: the user's, if that is what is run, and the model had no named arguments.
    """

    index: int
    compute: Callable[[], Tensor]
    how: str
    seen: float | None
    autocast: Autocast
    data: tuple[Tensor, ...] = ()
    values: tuple[Any, ...] = ()
    backward: Backward | None = None
    unsure: bool = False
    used: int = 0
    call: Loss | None = None

    @property
    def by_grad(self) -> bool:
        """Whether `torch.autograd.grad` was called, and not `backward`."""
        return self.backward is not None and self.backward.by_grad


class Again:
    """A step that can be done again.

    Args:
        model: without the wrappers of several processes.
        call: gives the loss from the model and what the model was given, if the user said so.
        buffers: as they were before the step.
        scale: by which a loss scaler multiplies what is differentiated.
    """

    def __init__(
        self, model: nn.Module, window: Window, buffers: Buffers, call: Loss | None = None, scale: float = 1.0
    ) -> None:
        self.model = model
        self._window = window
        self._buffers = buffers
        self._call = call
        self._scale = scale
        self.inexact = _inexact(window)
        self.why_not = ""
        self._met = 0  # calls of the model while a share is computed
        self.shares = self._find_shares()

    def _find_shares(self) -> list[Share]:
        """A share for each `backward`."""
        window, found = self._window, list[Share]()
        if not window.passes:
            self.why_not = NO_CALL
            return []
        for backward in window.backwards:
            found.append(self.share_of(backward, min(backward.first, len(window.passes) - 1)))
        if not window.backwards:
            found.append(self._of_pass(0, None))
        return found

    def settled(self) -> Again:
        """This, with shares that are known to call the model.

        Lines that leave all in attributes name nothing of what they need. Those which may be too few are therefore run
        once, and more of them where the model is not called, or the loss is the one that the step had computed.
        """
        for number, share in enumerate(self.shares):
            if not share.unsure or share.backward is None:
                continue
            ways: list[Which] = ["needed", "with the call", "all"]
            tried = (self.share_of(share.backward, share.index, which) for which in ways)
            chosen = next((one for one in tried if self._is_new(one)), share)
            self.shares[number] = replace(chosen, unsure=False)
        return self

    def _is_new(self, share: Share) -> bool:
        """Whether a share, computed again, calls the model, and has a loss that was not there before."""
        old = set() if share.backward is None else {end for end in share.backward.ends if end is not None}
        try:
            with self.as_it_was(share), torch.enable_grad():
                self._met = 0
                loss = share.compute()
                return self._met > 0 and not old & {loss.grad_fn, *_parents(loss.grad_fn)}
        except Exception:  # the user's own, or there is none
            return False

    def share_of(self, backward: Backward, index: int, which: Which = "needed") -> Share:
        """By the user's call, or the lines that led to `backward`, or what the model itself gives."""
        seen = backward.roots and not backward.partial
        value = float(sum_of(backward.roots)) / self._scale if seen else None
        if self._call is None or self._window.passes[index].of:
            try:
                lines = Lines(backward, which, list(self.model.parameters()))
            except PatchError as error:
                self.why_not = str(error)
            else:
                where = f"lines {lines.first} to {lines.last} of {shown(lines.file)}"

                def compute() -> Tensor:
                    try:
                        loss = lines()
                    except Exception as error:
                        if not backward.roots:
                            raise  # the step itself ended here, too
                        self.why_not = f"{where}, run again, raise {type(error).__name__}: {error}"
                        return self._of_pass(self._window.used(backward), value).compute()
                    return loss if self._scale == 1 else loss / self._scale

                return Share(
                    index, compute, where, value, backward.autocast, tuple(lines.data), tuple(lines.values), backward,
                    not lines.calls_model and self._window.passes[index].of is not None, self._window.used(backward),
                )  # fmt: skip
        if not backward.of_error:
            index = self._window.used(backward)
        return replace(self._of_pass(index, value, backward.of_error), backward=backward)

    def _of_pass(self, index: int, value: float | None, of_error: bool = False) -> Share:
        """What the model gives, or the user's call of it."""
        one = self._window.passes[index]
        run = self.model if self._call is None else partial(self._call, self.model)
        how = "call(model, ...)" if self._call is not None else "the model's own loss"
        beside = () if self._call is None else (self._call,)
        return Share(
            index, self._computing(one, run, of_error), how, value, one.autocast, values=beside, used=index,
            call=None if one.kwargs else self._call,
        )  # fmt: skip

    def _computing(self, one: Pass, run: Callable[..., Any], of_error: bool) -> Callable[[], Tensor]:
        def compute() -> Tensor:
            loss, is_loss = (None, False) if one.of else loss_of(run(*one.args, **one.kwargs))
            if loss is None or not (is_loss or of_error):
                raise NoLossError(
                    "the model gives no loss, and what computes one from its output is not known; give the guard your "
                    f"loss, call=lambda model, *inputs: ... ({self.why_not})"
                )
            return loss

        return compute

    def through(self, share: Share, call: Loss) -> Share:
        """A share that the user's call gives, by that call with something exchanged in it."""
        one, of_error = self._window.passes[share.used], share.backward is not None and share.backward.of_error
        return replace(share, compute=self._computing(one, partial(call, self.model), of_error))

    @property
    def passes(self) -> list[Pass]:
        """The calls of the model in the step."""
        return self._window.passes

    def other_models(self, share: Share) -> list[nn.Module]:
        """Those that a share runs beside the model, such as a discriminator."""
        return _modules_in(share.values, self.model)

    @property
    def data(self) -> list[list[Tensor]]:
        """See `Window.data`."""
        return self._window.data

    def inputs(self, share: Share) -> tuple[Any, ...]:
        """What the model was given in a share, and what else its loss reads."""
        one = self._window.passes[share.used]
        if one.of:
            return share.data  # a method of the model was called, and what it was given is what its caller had
        known = {id(t) for t in one.tensors}
        return (*one.args, *one.kwargs.values(), *(t for t in share.data if id(t) not in known))

    def outcome(self, share: Share, tracer: Tracer | None = None) -> Outcome:
        """Loss and gradients of a share, computed again; an error that it raises is in the outcome."""
        parameters = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        with self.as_it_was(share), _watched(tracer):
            try:
                with nullcontext() if tracer is None else tracer:
                    loss = share.compute()
                    if tracer is not None:
                        tracer.reach([loss])
                        tracer.backward()
                    gradients = torch.autograd.grad(loss.sum(), [p for _, p in parameters], allow_unused=True)
            except NoLossError:
                raise
            except Exception as error:  # the user's own
                failed = Outcome(raised=error.with_traceback(None))
                return failed if tracer is None else with_origin(failed, tracer)
            named = [(name, g) for (name, _), g in zip(parameters, gradients, strict=True) if g is not None]
            outcome, bad = outcome_of([loss], True, named)
            if named:
                outcome = replace(outcome, norm=float(gradient_norm([g.detach() for _, g in named])))
            if outcome.finite and (largest := _overflowing(named)):
                outcome, bad = replace(outcome, bad_gradients=tuple(largest)), list(largest.values())
            if tracer is None:
                return outcome
            tracer.reach(bad)
            return with_origin(outcome, tracer)

    def follow(self, ways: Sequence[Backward], error: BaseException) -> None:
        """Take that of the ways to an error which is the step: the first that comes to a loss while
        `torch.distributions` refuses nothing, or that ends in the same kind of error, as those further out then do."""
        index = min(self._window.start, len(self.passes) - 1)
        chosen, inexact = ways[0], self.inexact
        for way in ways:
            ended = self._ended(self.share_of(replace(way, of_error=False), index))
            if ended is None or type(ended) is type(error):
                chosen = way
                break
        self.inexact, self.why_not = inexact, ""
        self.shares = [self.share_of(chosen, index)]

    def _ended(self, share: Share) -> Exception | None:
        """What a share raises while `torch.distributions` refuses nothing; None if it comes to a loss."""
        checks = torch.distributions.Distribution._validate_args
        torch.distributions.Distribution.set_default_validate_args(False)
        try:
            with self.as_it_was(share), torch.enable_grad():
                share.compute()
        except Exception as raised:  # the user's own, or there is none
            return raised
        finally:
            torch.distributions.Distribution.set_default_validate_args(checks)
        return None

    @contextmanager
    def buffers_of_before(self) -> Iterator[None]:
        """The model's buffers as they were before the step, while the block runs: one that ended in an error has left
        its own in them, as running statistics that an infinity of the batch has reached."""
        now = Buffers(self.model)
        now.take()
        self._buffers.put_back()
        try:
            yield
        finally:
            now.put_back()

    @contextmanager
    def as_it_was(self, share: Share) -> Iterator[None]:
        """Buffers, random states, training flags and precision of a share, without gradients, while the block runs.

        Calls of the model are given what they were given in the step, from the random state that they began with: a
        line that is run again may draw the batch anew.
        """
        others = _modules_in(share.values, self.model)
        gradients = [(p, p.grad) for module in (self.model, *others) for p in module.parameters()]
        device = device_of(self.model)
        states = RawStates.now(device)
        flags = [(m, m.training) for m in self.model.modules()]
        now, weights = [Buffers(module) for module in (self.model, *others)], Weights([self.model, *others])
        for buffers in now:
            buffers.take()
        undo = contents_kept(self.model, share.values)
        self._buffers.put_back()
        first = self.passes[share.index]
        if first.outside is not None:
            first.outside.put_back(self.model)
        if first.generators is not None:
            first.generators.restore(device)
        for p, _ in gradients:
            p.grad = None
        hooks = self._given_again(share.index, device)
        try:
            precision = share.autocast.again() if share.autocast.enabled else nullcontext()
            silent = redirect_stdout(StringIO())  # what the lines print was printed
            with precision, silent, without_logging(self.model), _alone(), _eager(), _without_data(), _unmoved():
                yield
        finally:
            for hook in hooks:
                hook.remove()
            for module, flag in flags:
                module.training = flag
            for buffers in now:
                buffers.put_back()
            if not weights.put_back():
                self.inexact = (
                    "what is run again writes to parameters of the model, which are too large to be put back; have the "
                    "loss compute its value alone"
                )
            states.restore(device)
            for p, gradient in gradients:
                p.grad = gradient
            undo()

    def _given_again(self, index: int, device: torch.device) -> list[RemovableHandle]:
        """Hooks by which the passes from `index` on are those of the step."""
        coming: dict[str, list[Pass]] = {}
        for one in self.passes[index:]:
            if one.of is not None:
                coming.setdefault(one.of, []).append(one)

        thread, within = threading.get_ident(), list[str]()

        def give(path: str, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
            if threading.get_ident() != thread:
                return None  # an evaluation beside the loop
            within.append(path)
            if len(within) > 1:
                return None  # a part that the model calls: it has what the model makes
            self._met += 1
            if not coming.get(path):
                return None
            one = coming[path].pop(0)
            if one.generators is not None:
                one.generators.restore(device)
            if any(t.requires_grad for t in one.tensors):
                return None  # made by what is trained, and made again now
            if not _same(tensors_in((args, kwargs)), tensors_in((one.args, one.kwargs))):
                self.inexact = (
                    "what the model is given is made in the lines that are run again; the model got what it was given "
                    "then, but what the loss compares it with may be new"
                )
            return one.args, one.kwargs

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if within and threading.get_ident() == thread:
                within.pop()

        modules = dict(self.model.named_modules())
        watched = {path: modules[path] for path in ("", *coming) if path in modules and takes_hooks(modules[path])}
        return [
            *(
                module.register_forward_pre_hook(partial(give, path), with_kwargs=True, prepend=True)
                for path, module in watched.items()
            ),
            *(module.register_forward_hook(leave, always_call=True) for module in watched.values()),
        ]


def _overflowing(gradients: list[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The gradients by which the norm of all is too large for an optimizer, although each of their elements is finite:
    one that squares them, as Adam does, never moves these parameters again."""
    norms = {name: float(gradient_norm([g.detach()])) for name, g in gradients if not g.is_sparse}
    if not norms or math.hypot(*norms.values()) < rule.LARGEST:
        return {}
    most = max(norms.values())
    return {name: g for name, g in gradients if norms.get(name) == most}


@contextmanager
def _without_data() -> Iterator[None]:
    """A loader that is asked for its next batch refuses: the loop would miss it."""

    thread = threading.get_ident()

    def refuse(self: Any) -> Any:
        if threading.get_ident() != thread:
            return own(self)
        raise PatchError("what is run again takes the next batch, which cannot be given back")

    own = _BaseDataLoaderIter.__next__
    _BaseDataLoaderIter.__next__ = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        _BaseDataLoaderIter.__next__ = own  # type: ignore[method-assign]


@contextmanager
def _unmoved() -> Iterator[None]:
    """An optimizer that is asked for a step changes nothing: it finds no gradients, and has them again afterwards."""
    thread, taken = threading.get_ident(), list[tuple[Tensor, Tensor | None]]()

    def take(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if threading.get_ident() == thread:
            own = [p for group in optimizer.param_groups for p in group["params"]]
            taken.extend((p, p.grad) for p in own)
            for p in own:
                p.grad = None

    # none behind the step: PyTorch is going through those hooks when a guard does a step again
    hook = register_optimizer_step_pre_hook(take)
    try:
        yield
    finally:
        hook.remove()
        for p, gradient in reversed(taken):
            p.grad = gradient


def _parents(node: Any) -> list[Any]:
    return [] if node is None else [parent for parent, _ in node.next_functions if parent is not None]


@contextmanager
def _eager() -> Iterator[None]:
    """What was compiled runs as it is written: what the compiler makes of it has no lines."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with eagerly():
        yield


@contextmanager
def _alone() -> Iterator[None]:
    """Calls of a wrapper of several processes are calls of what it wraps: the other ranks may not come along."""
    own = DistributedDataParallel.forward
    DistributedDataParallel.forward = lambda self, *args, **kwargs: self.module(*args, **kwargs)  # type: ignore[method-assign]
    try:
        yield
    finally:
        DistributedDataParallel.forward = own  # type: ignore[method-assign]


def _modules_in(values: Iterable[Any], but: nn.Module) -> list[nn.Module]:
    """Other models that the lines run, as a discriminator is: by themselves, as an attribute of an object, or in a
    function that they call."""
    own = {id(module) for module in but.modules()}
    held = [item for value in values for item in (value, *getattr(value, "__dict__", {}).values(), *_named_in(value))]
    found = {id(item): item for item in held if isinstance(item, nn.Module) and id(item) not in own}
    return list(found.values())


def _named_in(value: Any) -> list[Any]:
    """What a function of the user's reads from around it."""
    function = getattr(value, "__func__", value)
    if not isinstance(function, FunctionType):
        return []
    cells = [cell for cell in function.__closure__ or () if cell != CellType()]
    around = [function.__globals__.get(name) for name in function.__code__.co_names]
    return [getattr(value, "__self__", None), *(cell.cell_contents for cell in cells), *around]


def _same(values: list[Tensor], others: list[Tensor]) -> bool:
    if len(values) != len(others):
        return False
    pairs = zip(values, others, strict=True)
    return all(a is b or (a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())) for a, b in pairs)


@contextmanager
def _watched(tracer: Tracer | None) -> Iterator[None]:
    with nullcontext() if tracer is None else tracer.modules(), torch.enable_grad():
        yield


def _inexact(window: Window) -> str:
    moved = next((names for one in window.passes if one.outside and (names := one.outside.moved_unseen())), ())
    if moved:
        return f"{', '.join(moved)} of the model, too large to be copied in each step, has moved since"
    if any(one.overwritten for one in window.passes):
        return "an input was written to after the model had read it"
    return ""


def device_of(model: nn.Module) -> torch.device:
    """Of the first parameter."""
    return _first_device(model) or torch.device("cpu")


def _first_device(module: nn.Module) -> torch.device | None:
    # `parameters()` goes through four generators, and this is asked in every step
    own = next((p for p in module._parameters.values() if p is not None), None)
    if own is not None:
        return own.device
    inner = (_first_device(child) for child in module._modules.values() if child is not None)
    return next((device for device in inner if device is not None), None)
