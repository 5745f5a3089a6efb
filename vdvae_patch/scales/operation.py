"""Differentiable operations that `torch.func` can transform, and that cost little where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch.autograd import Function

# Private, and so looked up: where a later torch lacks it, every call takes the way that is right for all.
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


class Operation(Function):
    """An autograd function with a `setup_context`, as `torch.func` and its `vmap` need it; call it by `run`.

    `Function.apply` binds the arguments of such a function to its signature at every call, and looks for what
    transforms have left in them, which takes longer than the arithmetic on a small tensor. Outside a transform `run`
    takes a twin with `forward(ctx, ...)`, by the call that `Function.apply` itself ends in.
    """

    generate_vmap_rule = True
    _apply_twin: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

        def forward(ctx: Any, *args: Any) -> Any:
            output = cls.forward(*args)
            cls.setup_context(ctx, args, output)
            return output

        body = {"forward": staticmethod(forward), "backward": staticmethod(cls.backward), "__doc__": cls.__doc__}
        cls._apply_twin = super(Function, type(cls.__name__, (Function,), body)).apply  # type: ignore[misc]

    @classmethod
    def run(cls, *args: Any) -> Any:
        """What `apply` gives."""
        if _transforms_active() or torch.compiler.is_compiling():
            return cls.apply(*args)  # type: ignore[no-untyped-call]
        return cls._apply_twin(*args)
