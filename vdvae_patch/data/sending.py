"""From main memory to a device, without a wait for what the device has still to do."""

from __future__ import annotations

import torch


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of main memory on a device; the host goes on at once.

    A copy from memory that is not pinned would wait until a GPU has done all that it was asked for before.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor if tensor.is_pinned() else tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
