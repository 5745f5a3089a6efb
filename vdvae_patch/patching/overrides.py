"""Overrides: callables that stand in for one method of one module.

An override lies in the instance's `__dict__`, where Python finds it before the class's method: the class, other
instances, parameters, buffers and `state_dict` stay as they are, and removing it restores the module exactly. It is an
ordinary picklable object that refers to its module, so a deep copy or a pickle of the model carries its own.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.errors import PatchError
from vdvae_patch.heads import CallSite, Head, Rebinding, Role
from vdvae_patch.scales import Scale


class Override:
    """Stands in for `module.method` between `install` and `remove`."""

    def __init__(self, module: nn.Module, method: str) -> None:
        self.module = module
        self.method = method
        if not callable(getattr(type(module), method, None)):
            raise PatchError(f"{type(module).__name__} has no method {method!r} that a patch could stand in for")
        self.original = self._bind_original()

    def install(self) -> None:
        """Put this object in the place of the method; refuses if something else is there already."""
        if self.method in vars(self.module):
            raise PatchError(
                f"{type(self.module).__name__}.{self.method} of this instance is replaced already "
                f"(by {vars(self.module)[self.method]!r}); remove that first"
            )
        vars(self.module)[self.method] = self

    def remove(self) -> None:
        """Give the method back to the class; refuses if another replacement was put over this one."""
        self.require_in_place()
        del vars(self.module)[self.method]

    def require_in_place(self) -> None:
        """Raise `PatchError` unless this object is what stands in for the method."""
        if vars(self.module).get(self.method) is not self:
            raise PatchError(
                f"{type(self.module).__name__}.{self.method} was replaced after it was patched; remove that first"
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def _bind_original(self) -> Any:
        return types.MethodType(getattr(type(self.module), self.method), self.module)

    def __getstate__(self) -> dict[str, Any]:
        # a bound method is pickled by its name, which would find this very override
        return {key: value for key, value in vars(self).items() if key != "original"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.original = self._bind_original()


_observers: list[Callable[[nn.Module, Any], None]] = []


@contextmanager
def outputs_observed(observe: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    """Call `observe(module, output)` with what patched modules return before it is replaced, as a hook cannot."""
    _observers.append(observe)
    try:
        yield
    finally:
        _observers.remove(observe)


class OutputOverride(Override):
    """Replaces the raw channels in what a module returns by the pre-images of their new scales."""

    def __init__(self, module: nn.Module, path: str, heads: Sequence[tuple[Head, Scale]]) -> None:
        super().__init__(module, "forward")
        self.path = path
        self.heads = tuple(heads)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.original(*args, **kwargs)
        for observe in _observers:
            observe(self.module, output)
        for head, scale in self.heads:
            output = replace_raw(output, head, scale)
        return output


def replace_raw(output: Tensor, head: Head, scale: Scale) -> Tensor:
    """`output` with the head's channels replaced by the pre-image of the new scale.

    Only the slice is computed and written, in place where the output is known to be nobody else's: of an operation that
    does not keep its result for the backward pass. Elsewhere the output is copied once.
    """
    if not isinstance(output, Tensor):
        raise PatchError(
            f"head {head}: the module returns a {type(output).__name__}, not a tensor; "
            "name the module that emits the raw parameter itself"
        )
    if head.start == 0 and head.stop is None and head.step == 1:
        return head.convention.preimage(scale, output)
    size = output.shape[head.dim]
    if (head.start if head.stop is None else head.stop - 1) >= size:
        raise PatchError(f"head {head}: the module's output has {size} channels along dimension {head.dim}")
    if head.start == 0 and head.stop == size and head.step == 1:
        return head.convention.preimage(scale, output)
    # a copy of the slice alone: what is kept for the backward pass must not keep the whole output alive
    channels = head.channel_range
    raw = channels.of(output).clone(memory_format=torch.contiguous_format)
    value = head.convention.preimage(scale, raw)
    if _is_unshared(output):
        channels.of(output).copy_(value)
        return output
    return torch.slice_scatter(output, value, head.dim, head.start, head.stop, head.step)


# Operations whose result autograd does not keep, and which is a new tensor that only the module's caller holds.
_FRESH = frozenset({"ConvolutionBackward0", "AddmmBackward0", "MkldnnConvolutionBackward0"})


def _is_unshared(output: Tensor) -> bool:
    if torch.compiler.is_compiling() or output.grad_fn is None:
        return False
    return output.grad_fn.name() in _FRESH


class CallOverride(Override):
    """Runs a function of ours in the place of a host's method that reads raw parameters."""

    def __init__(self, module: nn.Module, site: CallSite, scales: Mapping[Role, Scale]) -> None:
        super().__init__(module, site.method)
        self.function = site.function
        self.scales = dict(scales)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.module, self.scales, *args, **kwargs)


class RebindOverride(Override):
    """Runs the host's own method, line by line as it is written, with some of its global names bound to ours."""

    def __init__(self, module: nn.Module, method: str, rebindings: Sequence[Rebinding]) -> None:
        self.functions = {r.name: r.function for r in rebindings}
        super().__init__(module, method)

    def _bind_original(self) -> Any:
        host = getattr(type(self.module), self.method)
        missing = [name for name in self.functions if name not in host.__code__.co_names]
        if missing:
            raise PatchError(f"{type(self.module).__name__}.{self.method} does not call {', '.join(missing)}")
        # no __name__: torch.compile would look the globals of a named module up in that module
        names = {key: value for key, value in host.__globals__.items() if key != "__name__"}
        copy = types.FunctionType(
            host.__code__, {**names, **self.functions}, host.__name__, host.__defaults__, host.__closure__
        )
        copy.__kwdefaults__ = host.__kwdefaults__
        return types.MethodType(copy, self.module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.original(*args, **kwargs)
