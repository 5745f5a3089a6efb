"""What PyTorch does not announce by a hook, announced: calls of `backward`, `autograd.grad` and `zero_grad`, a step of
a loss scaler, a refusal of `torch.distributions`; and an error that nothing catches.

Five functions of PyTorch are replaced while anybody listens, and what shows an error that ends a script or a notebook's
cell. They are themselves again when nobody listens any more.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor


class Reached(BaseException):
    """The call of `backward` or `grad` was reached whose roots are captured."""


Site = tuple[str, int]
"""File and line from which PyTorch is called."""


def site_of(frame: FrameType | None) -> Site | None:
    """Of the innermost function that is neither PyTorch's nor this package's."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("torch", "vdvae_patch"):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


@dataclass
class Captured:
    """What a call was given, in a block of `captured`.

    Attributes:
        site: of the call that is waited for; None for any.
        by_grad: whether it is one of `torch.autograd.grad` that is waited for.
        roots: what is differentiated there, each weighted by the gradient that it was given with if it is no number.
        others: of the last call of `backward` elsewhere, which did nothing.
        parameters: of the model.
        known: a loss in a transform of `torch.func`, with its gradients by parameter: what is differentiated there
            cannot be had outside.
    """

    site: Site | None
    by_grad: bool
    parameters: Sequence[Tensor] = ()
    roots: list[Tensor] = field(default_factory=list)
    others: list[Tensor] = field(default_factory=list)
    known: tuple[Tensor, list[tuple[Tensor, Tensor]]] | None = None


class Listener(Protocol):
    """What a guard hears."""

    def on_backward(
        self,
        roots: Sequence[Tensor],
        inputs: Sequence[Tensor] | None,
        weights: Sequence[Tensor | None],
        into: Sequence[Any] = (),
    ) -> None:
        """These are about to be differentiated: by `backward`, which adds to the gradients of what was trained, or by
        `torch.autograd.grad` with respect to `inputs`, which returns them; each times its weight, 1 where it has none.

        Args:
            into: to whose gradients alone `backward` adds, as of `loss.backward(inputs=...)`; empty for all.
        """

    def on_zero(self, cleared: Any) -> None:
        """Gradients were set to zero, by an optimizer or a module."""

    def on_scaled_step(self, optimizer: torch.optim.Optimizer, step: Callable[[], Any], scale: float) -> Any:
        """A loss scaler is about to let the optimizer step, or not; `step` does it."""

    def on_refusal(self, distribution: Any, error: ValueError) -> None:
        """`torch.distributions` refuses a parameter, and will raise this error."""

    def on_error(self, error: BaseException) -> None:
        """This error ends the script, or a notebook's cell, and is about to be shown."""


_ENGINE = "_engine_run_backward"  # private; what `backward` and `grad` both call, whoever has imported these by name

_shell: Any = None
"""IPython's, while somebody listens: it shows errors by a method of its own."""

_listeners: list[weakref.ref[Listener]] = []
_originals: dict[str, Any] = {}
_captured: list[tuple[int, Captured]] = []


def listen(listener: Listener) -> None:
    """Tell it from now on."""
    if not _originals:
        _install()
    # weakly: a model that is given up takes its guard along
    _listeners.append(weakref.ref(listener, _forget))


def ignore(listener: Listener) -> None:
    """Tell it no more."""
    for reference in [one for one in _listeners if one() is listener]:
        _forget(reference)


def _forget(reference: weakref.ref[Listener]) -> None:
    _listeners.remove(reference)
    if not _listeners and _originals:
        _take_out()


def _listening() -> list[Listener]:
    return [listener for reference in _listeners if (listener := reference()) is not None]


@contextmanager
def captured(
    site: Site | None = None, *, by_grad: bool = False, parameters: Sequence[Tensor] = ()
) -> Iterator[Captured]:
    """Within the block a call of `backward` differentiates nothing. At that of the site what it is given is kept, and
    what called it ends there, with `Reached`, so that no optimizer or schedule moves.

    Raises:
        RuntimeError: nobody listens.
    """
    if not _originals:
        raise RuntimeError("nobody listens")
    found = Captured(site, by_grad, parameters)
    _captured.append((threading.get_ident(), found))
    try:
        yield found
    finally:
        _captured.pop()


def _install() -> None:
    scaler, distribution = torch.amp.GradScaler, torch.distributions.Distribution
    _originals.update(
        engine=getattr(torch.autograd, _ENGINE), step=scaler.step, init=distribution.__init__,
        zero=torch.optim.Optimizer.zero_grad, zero_of_module=torch.nn.Module.zero_grad,
    )  # fmt: skip
    engine, step, init = _originals["engine"], _originals["step"], _originals["init"]

    @functools.wraps(engine)
    def heard_engine(outputs: Any, gradients: Any, *args: Any, **kwargs: Any) -> Any:
        pairs = [(r, w) for r, w in zip(outputs, gradients, strict=True) if isinstance(r, Tensor)]
        roots = [root for root, _ in pairs]
        inputs, into = (None, args[2]) if kwargs.get("accumulate_grad") else (args[2], ())
        if _captured and _captured[-1][0] == threading.get_ident():
            waiting = _captured[-1][1]
            if _is_waited_for(waiting, outputs, gradients, inputs):
                if inputs is not None and any(map(is_transformed, roots)):
                    waiting.known = _known(
                        roots, inputs, engine(outputs, gradients, *args, **kwargs), waiting.parameters
                    )
                raise Reached
            if inputs is None:
                return None
        else:
            for listener in _listening():
                listener.on_backward(roots, inputs, [weight for _, weight in pairs], into)
        return engine(outputs, gradients, *args, **kwargs)

    @functools.wraps(step)
    def heard_step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        def do() -> Any:
            return step(self, optimizer, *args, **kwargs)

        for listener in _listening():
            do = functools.partial(listener.on_scaled_step, optimizer, do, self.get_scale())
        return do()

    @functools.wraps(init)
    def heard_init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except ValueError as error:
            for listener in _listening():
                listener.on_refusal(self, error)
            raise

    def heard_zero(own: Any) -> Any:
        @functools.wraps(own)
        def zero(self: Any, *args: Any, **kwargs: Any) -> None:
            own(self, *args, **kwargs)
            for listener in _listening():
                listener.on_zero(self)

        return zero

    _hear_of_errors()
    torch.optim.Optimizer.zero_grad = heard_zero(_originals["zero"])  # type: ignore[method-assign]
    torch.nn.Module.zero_grad = heard_zero(_originals["zero_of_module"])  # type: ignore[method-assign]
    setattr(torch.autograd, _ENGINE, heard_engine)
    scaler.step = heard_step  # type: ignore[method-assign]
    distribution.__init__ = heard_init  # type: ignore[method-assign]


def _hear_of_errors() -> None:
    global _shell
    hook = _originals["hook"] = sys.excepthook

    @functools.wraps(hook)
    def heard_hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _tell_of(error)
        hook(kind, error, trace)

    sys.excepthook = _originals["heard_hook"] = heard_hook
    ipython = sys.modules.get("IPython")
    _shell = None if ipython is None else ipython.get_ipython()
    if _shell is None:
        return
    show = _shell.showtraceback

    @functools.wraps(show)
    def heard_show(*args: Any, **kwargs: Any) -> Any:
        _tell_of(sys.exc_info()[1])
        return show(*args, **kwargs)

    _shell.showtraceback = heard_show


def _tell_of(error: BaseException | None) -> None:
    if error is not None:
        for listener in _listening():
            with suppress(Exception):  # what explains an error must not take its place
                listener.on_error(error)


def _take_out_of_errors() -> None:
    global _shell
    if sys.excepthook is _originals["heard_hook"]:  # somebody's that was set later calls ours, which then says nothing
        sys.excepthook = _originals["hook"]
    if _shell is not None:
        vars(_shell).pop("showtraceback", None)
        _shell = None


def _is_waited_for(waiting: Captured, outputs: Any, gradients: Any, inputs: Any) -> bool:
    if waiting.by_grad != (inputs is not None):
        if inputs is None:
            waiting.others = _weighted(outputs, gradients)
        return False
    of_model = inputs is None or any(same_as(one, waiting.parameters) is not None for one in inputs)
    if of_model and (waiting.site is None or waiting.site == site_of(sys._getframe(2))):
        waiting.roots = _weighted(outputs, gradients)
        return True
    if inputs is None:
        waiting.others = _weighted(outputs, gradients)
    return False


def is_transformed(tensor: Any) -> bool:
    """Whether a tensor is one of a transform of `torch.func`, and is nothing outside of it."""
    return isinstance(tensor, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def untransformed(tensor: Tensor) -> Tensor:
    """What lies in it, to be asked for inside of the transform."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def same_as(tensor: Any, parameters: Sequence[Tensor]) -> Tensor | None:
    """The parameter that a tensor is, or shares its memory with, as that does which a transform is given."""
    if not isinstance(tensor, Tensor):
        return None
    if not is_transformed(tensor):
        return next((p for p in parameters if p is tensor), None)
    own = untransformed(tensor)
    return next((p for p in parameters if p.data_ptr() == own.data_ptr() and p.shape == own.shape), None)


def _known(
    roots: Sequence[Tensor], inputs: Sequence[Tensor], gradients: Sequence[Any], parameters: Sequence[Tensor]
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    pairs: list[tuple[Tensor, Tensor]] = []
    for given, gradient in zip(inputs, gradients, strict=True):
        own = same_as(given, parameters)
        if own is not None and isinstance(gradient, Tensor):
            found = untransformed(gradient).detach()
            pairs.append((own, found if found.shape == own.shape else found.sum().expand(own.shape)))
    return torch.stack([untransformed(root).detach().sum() for root in roots]).sum(), pairs


def _weighted(outputs: Any, gradients: Any) -> list[Tensor]:
    """What has the same gradient when it is summed. The weight of a number is left out: it scales all gradients."""
    pairs = zip(outputs, gradients, strict=True)
    return [t if g is None or t.numel() == 1 else t * g.detach() for t, g in pairs if isinstance(t, Tensor)]


def _take_out() -> None:
    _take_out_of_errors()
    torch.optim.Optimizer.zero_grad = _originals["zero"]  # type: ignore[method-assign]
    torch.nn.Module.zero_grad = _originals["zero_of_module"]  # type: ignore[method-assign]
    setattr(torch.autograd, _ENGINE, _originals["engine"])
    torch.amp.GradScaler.step = _originals["step"]  # type: ignore[method-assign]
    torch.distributions.Distribution.__init__ = _originals["init"]  # type: ignore[method-assign]
    _originals.clear()
