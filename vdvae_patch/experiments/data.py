"""Images on the device, a few for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vdvae_patch.data import DATASETS, mnist
from vdvae_patch.data.images import Splits
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


def read_splits(name: str, root: Path | None) -> Splits:
    """A data set as its files have it: MNIST and Fashion-MNIST in 28x28, and not padded as the hosts take them.

    Raises:
        UnknownNameError: no data set of that name.
        DataError: files that are missing or damaged, and that cannot be downloaded.
    """
    if name in mnist.SOURCES:
        return mnist.read(root, download=True, name=name)
    return DATASETS.get(name).read(root, download=True)


@dataclass(frozen=True)
class Photos:
    """Images to train on and to test with, on the device: uint8 `[N, C, H, W]`."""

    train: Tensor
    test: Tensor

    @classmethod
    def load(cls, name: str, root: Path | None, device: torch.device, train: int, test: int) -> Photos:
        """The first `train` and `test` images of a data set, or as many as there are; raises as `read_splits`."""
        splits = read_splits(name, root)
        parts = (select(pixels, np.arange(min(count, len(pixels))))[:]
                 for pixels, count in ((splits.train, train), (splits.test, test)))  # fmt: skip
        return cls(*(torch.from_numpy(part).permute(0, 3, 1, 2).contiguous().to(device) for part in parts))

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H and W."""
        channels, rows, columns = self.train.shape[1:]
        return channels, rows, columns


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
