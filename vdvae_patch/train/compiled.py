"""`--compile`: the model as one graph, and on a GPU its kernels replayed without a launch from the host."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def compile_model(model: nn.Module, device: torch.device) -> Any:
    """`torch.compile` of a model for training.

    The noise is still drawn by torch's own generators (`fallback_random`), so that a seed means the same noise as it
    does without compilation. On a GPU the forward and the backward pass are captured as CUDA graphs.
    """
    options: dict[str, Any] = {"fallback_random": True}
    if device.type == "cuda":
        options["triton.cudagraphs"] = True
    return torch.compile(model, options=options)
