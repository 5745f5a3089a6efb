"""`--compile`: the model as one graph, and on a GPU its kernels replayed without a launch from the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def compile_model(model: nn.Module, device: torch.device) -> Any:
    """`torch.compile` of a model for training.

    The noise is still drawn by torch's own generators (`fallback_random`), so that a seed means the same noise as it
    does without compilation. On a GPU the forward and the backward pass are captured as CUDA graphs.
    """
    return torch.compile(model, options=_options(device))


def _options(device: torch.device) -> dict[str, Any]:
    options: dict[str, Any] = {"fallback_random": True}
    if device.type == "cuda":
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
            self._kept[name] = torch.compile(function, options=_options(self.device))
        return self._kept[name]
