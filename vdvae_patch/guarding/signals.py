"""What PyTorch does not announce by a hook, announced: calls of `backward` and `zero_grad`, a step of a loss scaler,
and a refusal of `torch.distributions`.

Five functions of PyTorch are replaced while anybody listens, and are themselves again when nobody does any more.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor


class Reached(BaseException):
    """A call of `backward` was reached while what it is given is captured."""


class Listener(Protocol):
    """What a guard hears."""

    def on_backward(self, roots: Sequence[Tensor]) -> None:
        """These are about to be differentiated."""

    def on_zero(self, cleared: Any) -> None:
        """Gradients were set to zero, by an optimizer or a module."""

    def on_scaled_step(self, optimizer: torch.optim.Optimizer, step: Callable[[], Any], scale: float) -> Any:
        """A loss scaler is about to let the optimizer step, or not; `step` does it."""

    def on_refusal(self, distribution: Any, error: ValueError) -> None:
        """`torch.distributions` refuses a parameter, and will raise this error."""


_listeners: list[weakref.ref[Listener]] = []
_originals: dict[str, Any] = {}
_captured: list[tuple[int, list[Tensor]]] = []


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
def captured() -> Iterator[list[Tensor]]:
    """Within the block a call of `backward` differentiates nothing: what it is given is put into the list, and what
    called it ends there, with `Reached`, so that no optimizer or schedule moves.

    Raises:
        RuntimeError: nobody listens.
    """
    if not _originals:
        raise RuntimeError("nobody listens")
    roots: list[Tensor] = []
    _captured.append((threading.get_ident(), roots))
    try:
        yield roots
    finally:
        _captured.pop()


def _install() -> None:
    scaler, distribution = torch.amp.GradScaler, torch.distributions.Distribution
    _originals.update(
        backward=torch.autograd.backward, step=scaler.step, init=distribution.__init__,
        zero=torch.optim.Optimizer.zero_grad, zero_of_module=torch.nn.Module.zero_grad,
    )  # fmt: skip
    backward, step, init = _originals["backward"], _originals["step"], _originals["init"]

    @functools.wraps(backward)
    def heard_backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        if _captured and _captured[-1][0] == threading.get_ident():
            _captured[-1][1].extend(roots)
            raise Reached
        for listener in _listening():
            listener.on_backward(roots)
        return backward(tensors, *args, **kwargs)

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

    torch.optim.Optimizer.zero_grad = heard_zero(_originals["zero"])  # type: ignore[method-assign]
    torch.nn.Module.zero_grad = heard_zero(_originals["zero_of_module"])  # type: ignore[method-assign]
    torch.autograd.backward = heard_backward
    scaler.step = heard_step  # type: ignore[method-assign]
    distribution.__init__ = heard_init  # type: ignore[method-assign]


def _take_out() -> None:
    torch.optim.Optimizer.zero_grad = _originals["zero"]  # type: ignore[method-assign]
    torch.nn.Module.zero_grad = _originals["zero_of_module"]  # type: ignore[method-assign]
    torch.autograd.backward = _originals["backward"]
    torch.amp.GradScaler.step = _originals["step"]  # type: ignore[method-assign]
    torch.distributions.Distribution.__init__ = _originals["init"]  # type: ignore[method-assign]
    _originals.clear()
