"""Images on the device, a few for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vdvae_patch.data.pixels import Pixels, select
from vdvae_patch.errors import RunError
from vdvae_patch.experiments.noise import generator

CPU = torch.device("cpu")


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or the first GPU, or the CPU; raises `RunError` for one that there is not."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # what is told no device means the current one
    except (RuntimeError, AssertionError) as error:
        raise RunError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def ten_images(pixels: Pixels, seed: int, count: int = 10) -> Tensor:
    """`count` random images of a seed, uint8 `[count, H, W, C]`."""
    order = torch.randperm(len(pixels), generator=generator(CPU, seed, 0, "images"))[:count]
    return torch.from_numpy(select(pixels, order.numpy())[:])


class Images:
    """Each seed's images, stacked on the device."""

    def __init__(self, images: Mapping[int, Tensor], device: torch.device) -> None:
        self.rows = {seed: row for row, seed in enumerate(images)}
        self.pixels = torch.stack(list(images.values())).to(device)

    def take(self, seeds: Sequence[int], draws: Tensor) -> Tensor:
        """Images `draws` `[R, B]` of each seed: `[R, B, ...]`."""
        rows = torch.tensor([self.rows[seed] for seed in seeds], device=self.pixels.device)
        return self.pixels[rows[:, None], draws]
