"""What newer versions of torch have and older ones lack: the library half runs on both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)
"""Whether `torch.export` traces; a torch before 2.7 cannot be asked."""


def takes_hooks(module: nn.Module) -> bool:
    """Whether a module can be given hooks and children. Those of TorchScript, scripted and traced, take none: a network
    for a perceptual loss that was loaded with `torch.jit.load` stands in many a model."""
    return not isinstance(module, torch.jit.ScriptModule)


def eagerly() -> AbstractContextManager[object]:
    """Compiled modules and functions run as they are written."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is not None:
        stance: AbstractContextManager[object] = set_stance("force_eager")
        return stance
    # before torch 2.6; nothing was compiled where the compiler was not even imported
    compiler = sys.modules.get("torch._dynamo")
    return nullcontext() if compiler is None else compiler.config.patch(disable=True)


@contextmanager
def quiet_vmap() -> Iterator[None]:
    """Without the line that torch writes to standard error, past Python's warnings, of an operation that `vmap` does
    one by one: whoever scans a model did not call it. Afterwards it is as torch has it by default; it cannot be asked.
    """
    show = getattr(getattr(torch._C, "_functorch", None), "_set_vmap_fallback_warning_enabled", lambda enabled: None)
    show(False)
    try:
        yield
    finally:
        show(True)


def on_state_dict(module: nn.Module, hook: Callable[..., None]) -> None:
    """Call a hook with each `state_dict` of a module; before torch 2.5 the way there had no public name."""
    getattr(module, "register_state_dict_post_hook", module._register_state_dict_hook)(hook)


def before_load_state_dict(module: nn.Module, hook: Callable[..., None]) -> None:
    """Call a hook, with the module first, before each state is loaded; before torch 2.5 the way had no public name."""
    module._register_load_state_dict_pre_hook(hook, with_module=True)  # type: ignore[no-untyped-call]
