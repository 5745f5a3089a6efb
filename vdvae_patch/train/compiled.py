"""`--compile`: the model as one graph, and on a GPU its kernels replayed without a launch from the host."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vdvae_patch.machine import cache_folder

_FOLDER = "TORCHINDUCTOR_CACHE_DIR"


def compile_model(model: nn.Module, device: torch.device, *, graphs: bool = True) -> Any:
    """`torch.compile` of a model for training.

    The noise is still drawn by torch's own generators (`fallback_random`), so that a seed means the same noise as it
    does without compilation. On a GPU the forward and the backward pass are captured as CUDA graphs of their
    own, unless `graphs` says that the whole step will be one.
    """
    keep_compiled_code()
    return torch.compile(model, options=_options(device, graphs))


def keep_compiled_code() -> Path | None:
    """Keep the compiler's code in the user's cache folder, where the next run finds it, unless torch was told another.

    Torch's own choice is a folder for temporary files, which it writes into the environment, too, as soon as its
    compiler is imported. None if that of the user cannot be made.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    chosen = os.environ.get(_FOLDER)
    if chosen and chosen != default_cache_dir():
        return Path(chosen)
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    os.environ[_FOLDER] = str(folder)
    return folder


def _options(device: torch.device, graphs: bool = True) -> dict[str, Any]:
    options: dict[str, Any] = {"fallback_random": True}
    if graphs and device.type == "cuda":
        options["triton.cudagraphs"] = True
    return options


class KeptFunctions:
    """Functions of tensors, each compiled when it is first called under its name, and kept from then on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._kept: dict[str, Callable[..., Any]] = {}

    def compiled(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The compiled function of that name, which is made of `function` if there is none yet."""
        if name not in self._kept:
            keep_compiled_code()
            self._kept[name] = torch.compile(function, options=_options(self.device))
        return self._kept[name]
