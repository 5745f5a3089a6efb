"""Differentiable operations that `torch.func` can transform, and that cost little where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd import forward_ad as _forward_ad

from vdvae_patch.torch_versions import is_exporting

# Private, and so looked up: where a later torch lacks it, every call takes the way that is right for all.
transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def is_forward_mode() -> bool:
    """Whether derivatives are carried along (`torch.func.jvp`, `jacfwd`, `hessian`, dual numbers)."""
    return bool(_forward_ad._current_level >= 0)


def _forward_levels() -> int:
    """How many forward-mode transforms are around each other, as in `jacfwd(jacfwd(f))`."""
    functorch = getattr(torch._C, "_functorch", None)
    stack = getattr(functorch, "get_interpreter_stack", lambda: None)() or ()
    return sum(interpreter.key() == functorch.TransformType.Jvp for interpreter in stack)  # type: ignore[union-attr]


_proxy_mode = getattr(getattr(torch._C, "_TorchDispatchModeKey", None), "PROXY", None)
_is_tracing: Callable[[], bool] = getattr(torch._C, "_is_tracing", torch.jit.is_tracing)  # type: ignore[attr-defined]
_PLAIN = (Tensor, torch.nn.Parameter)


def can_look_at(*tensors: Tensor) -> bool:
    """Whether a value of tensors may decide what is computed: it is there at no wait, and no tracer writes along."""
    if torch.compiler.is_compiling():
        return False
    for tensor in tensors:
        if type(tensor) not in _PLAIN or not tensor.is_cpu:
            return False
    return (
        not (transforms_active() or _is_tracing() or _forward_ad._current_level >= 0)
        and _proxy_mode is not None
        and torch._C._get_dispatch_mode(_proxy_mode) is None
    )


def applied(function: type[Function]) -> Callable[..., Any]:
    """What `function.apply` ends in where no transform is active, without its look for what transforms have left."""
    apply: Callable[..., Any] = super(Function, function).apply  # type: ignore[misc]
    return apply


class Operation(Function):
    """An autograd function with a `setup_context`, as `torch.func` and its `vmap` need it; call it by `run`.

    `Function.apply` binds the arguments of such a function to its signature at every call, and looks for what
    transforms have left in them, which takes longer than the arithmetic on a small tensor. Outside a transform `run`
    takes a twin with `forward(ctx, ...)`, by the call that `Function.apply` itself ends in.

    A subclass may define `tangent(ctx, *tangents)`, its forward-mode derivative, of what `ctx.save_for_forward` kept.
    It is called `jvp` in a third class alone, since a compiler refuses any function that has one.
    """

    generate_vmap_rule = True
    results: ClassVar[int | None] = None
    """How many outputs are results; None: all. What stands behind them is kept for the backward pass, and is an output
    because a transform asks for that. The twin has the first of it alone as an output, for each costs as much as an
    operation; see `tied`."""
    _apply_twin: ClassVar[Callable[..., Any]]
    _apply_forward_mode: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

        def forward(ctx: Any, *args: Any) -> Any:
            output = cls.forward(*args)
            cls.setup_context(ctx, args, output)
            return output if cls.results is None else output[: cls.results + 1]

        body = {"forward": staticmethod(forward), "backward": staticmethod(cls.backward), "__doc__": cls.__doc__}
        cls._apply_twin = applied(type(cls.__name__, (Function,), body))
        cls._apply_forward_mode = cls.apply
        if hasattr(cls, "tangent"):
            parts = {name: staticmethod(getattr(cls, name)) for name in ("forward", "setup_context", "backward")}
            named = {**parts, "jvp": staticmethod(cls.tangent), "generate_vmap_rule": True, "__doc__": cls.__doc__}
            cls._apply_forward_mode = type(cls.__name__, (Function,), named).apply  # type: ignore[attr-defined]

    @staticmethod
    def tied(gradients: tuple[Tensor | None, ...], kept: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, of a graph in which each comes from a kept tensor that is an output of the operation.

        What is kept otherwise has no graph: a second derivative would be taken for zero, and here it comes by the
        operation's own backward pass, which can refuse it.
        """
        if not torch.is_grad_enabled():
            return gradients
        nothing = kept.flatten()[:0].sum()
        return tuple(gradient if gradient is None else gradient + nothing for gradient in gradients)

    @classmethod
    def run(cls, *args: Any) -> Any:
        """What `apply` gives."""
        if is_exporting():
            # a strict export runs a function in Python without its gradient, and says nothing
            return cls.forward(*args)
        if torch.compiler.is_compiling():
            return cls.apply(*args)  # type: ignore[no-untyped-call]
        if is_forward_mode():
            if _forward_levels() > 1:
                # PyTorch takes the derivative of a `jvp` that is written in Python for zero, and says nothing
                return cls.forward(*args)
            return cls._apply_forward_mode(*args)
        if transforms_active():
            return cls.apply(*args)  # type: ignore[no-untyped-call]
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return cls.forward(*args)  # a function in Python cannot be saved with a trace; its operations can
        return cls._apply_twin(*args)
