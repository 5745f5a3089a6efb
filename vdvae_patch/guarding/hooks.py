"""The hooks by which a guard hears of a loop: on the model, on its parts, and on every optimizer of the process."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from vdvae_patch.guarding.guardable import parts


class Ear(Protocol):
    """Who is called."""

    def on_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The model is called."""

    def after_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        """Its call has ended, with an error if there is no output."""

    def on_part(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module of it is called."""

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Some optimizer steps; the arguments it shall get, None for those that it has."""

    def after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """It has stepped."""


class Hooks:
    """Installed when made, until `remove`.

    Args:
        ear: who is called; the hooks of the process, which are not the model's, do not keep it alive.
        model: without wrappers.
        outer: as it was given, maybe compiled.
    """

    def __init__(self, ear: Ear, model: nn.Module, outer: nn.Module) -> None:
        self.model, self._ear = model, weakref.ref(ear)
        # what torch.compile made is called from outside; a hook on what lies in it would be compiled, too
        target = outer if hasattr(outer, "_orig_mod") else model
        of_process = [
            register_optimizer_step_pre_hook(_weakly(ear.before_step)),
            register_optimizer_step_post_hook(_weakly(ear.after_step)),
        ]
        weakref.finalize(ear, _remove_all, of_process)
        self._hooks: list[Any] = [
            target.register_forward_pre_hook(_Hook(ear.on_forward), with_kwargs=True, prepend=True),
            target.register_forward_hook(_Hook(ear.after_forward), always_call=True),
            *of_process,
        ]
        self._of_parts: list[Any] = []
        self.hear_parts(True)
        self.hear_compiled()

    def hear_compiled(self) -> None:
        """A model that was compiled in place (`model.compile()`) has its hooks compiled with it: what it calls is
        wrapped instead."""
        own, reference = getattr(self.model, "_compiled_call_impl", None), weakref.ref(self)
        if own is None or hasattr(own, "_of_guard"):
            return

        def called(*args: Any, **kwargs: Any) -> Any:
            hooks = reference()
            ear = None if hooks is None or not hooks._hooks else hooks._ear()
            if hooks is None or ear is None:
                return own(*args, **kwargs)
            ear.on_forward(hooks.model, args, kwargs)
            try:
                return own(*args, **kwargs)
            finally:
                ear.after_forward(hooks.model, args, None)

        called._of_guard = own  # type: ignore[attr-defined]
        self.model._compiled_call_impl = called

    def hear_parts(self, needed: bool) -> None:
        """Whether calls of the model's parts are looked at: as long as the model itself is called they tell nothing,
        and a hook makes each of them slower."""
        ear = self._ear()
        if needed and not self._of_parts and ear is not None:
            self._of_parts = [
                module.register_forward_pre_hook(_Hook(partial(ear.on_part, path)), with_kwargs=True, prepend=True)
                for path, module in parts(self.model)
            ]
        elif not needed:
            _remove_all(self._of_parts)
            self._of_parts = []

    def remove(self) -> None:
        """Hooks and replaced functions are as they were."""
        _remove_all(self._hooks)
        self._hooks = []
        if (compiled := getattr(self.model, "_compiled_call_impl", None)) is not None:
            self.model._compiled_call_impl = getattr(compiled, "_of_guard", compiled)
        self.hear_parts(False)


def _remove_all(hooks: Sequence[Any]) -> None:
    for hook in hooks:
        hook.remove()


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A hook of the whole process, which must not keep a guard and its model."""
    reference = weakref.WeakMethod(method)

    def hook(*args: Any) -> Any:
        own = reference()
        return None if own is None else own(*args)

    return hook


def steps_around(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizers that have called the step of this one, whose hook is running, as a part of theirs: itself, where a
    step calls that of its base class, or one that wraps it, as Lookahead does.

    They are read from the stack: a step that has raised has no hook behind it, and would stay in any list.
    """
    found: list[Optimizer] = []
    frame = sys._getframe(1)
    while (outer := frame.f_back) is not None:
        frame = outer
        if frame.f_code.co_name == "wrapper" and frame.f_globals.get("__name__") == Optimizer.__module__:
            given = frame.f_locals.get("args")
            if isinstance(given, tuple) and given and isinstance(given[0], Optimizer):
                found.append(given[0])
    around = found[1:]  # the first is this step itself
    if not around:
        return []
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [one for one in around if any(id(p) in own for group in one.param_groups for p in group["params"])]


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
