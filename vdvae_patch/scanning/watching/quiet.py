"""What a framework, PyTorch or Python would do beside a call that is only watched."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def without_logging(model: nn.Module) -> Iterator[None]:
    """`self.log` and `self.log_dict` of every LightningModule in a model do nothing: its trainer, before a fit or after
    it, has no loop that they could log to, and they raise."""
    names = ("log", "log_dict")
    modules = [m for m in model.modules() if any(cls.__name__ == "LightningModule" for cls in type(m).__mro__)]
    before = [{name: vars(module)[name] for name in names if name in vars(module)} for module in modules]
    for module in modules:
        vars(module).update(dict.fromkeys(names, _nothing))
    try:
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            for name in names:
                vars(module).pop(name, None)
            vars(module).update(own)


@contextmanager
def without_hook_warning() -> Iterator[None]:
    """PyTorch warns of global hooks when a compiled module is called: those of a scan are its own affair."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Using `torch.compile\(module\)` when there are global hooks")
        yield


@contextmanager
def without_collection() -> Iterator[None]:
    """Python's collector of cycles does not run. A scan makes a hundred thousand objects that all stay, and it would go
    through them again and again: a fifth of a scan of 200 heads. What is in cycles is found after it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass
