"""The data sets of "Taming VAEs", section 4.1: images alone, or images with those that they depend on.

All that are made of MNIST are made of triplets of digits (a, b, c), drawn at random. Held out are the last 10,000 of
MNIST's training images, because these have labels at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from vdvae_patch.data import load, mnist
from vdvae_patch.data.mnist_labels import read_labels
from vdvae_patch.data.pixels import select
from vdvae_patch.errors import DataError, UnknownNameError
from vdvae_patch.experiments.data import CPU
from vdvae_patch.experiments.noise import generator

DEGREES = 30
"""Of MNIST-rotate: c's digit times this."""


@dataclass(frozen=True)
class Split:
    """uint8 images `[N, C, H, W]`, and those that they depend on `[N, K, H, W]`, or None."""

    images: Tensor
    context: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor | slice, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """In [0, 1]."""
        context = None if self.context is None else self.context[rows].to(device).float() / 255
        return self.images[rows].to(device).float() / 255, context


@dataclass(frozen=True)
class Pictures:
    """A data set, split in what is trained on and what is held out."""

    name: str
    train: Split
    test: Split

    @property
    def dimensions(self) -> int:
        """Values of an image."""
        return self.train.images[0].numel()


@dataclass(frozen=True)
class _Digits:
    """MNIST's images `[N, 28, 28]` and labels `[N]`, and the rows of each digit."""

    images: Tensor
    labels: Tensor

    def of(self, digits: Tensor, draw: torch.Generator) -> Tensor:
        """A random row of each digit."""
        rows = torch.empty(len(digits), dtype=torch.long)
        for digit in range(10):
            wanted = digits == digit
            known = (self.labels == digit).nonzero().squeeze(1)
            if not len(known):
                raise DataError(f"none of the {len(self.labels)} digits is a {digit}")
            rows[wanted] = known[torch.randint(len(known), (int(wanted.sum()),), generator=draw)]
        return rows

    def any(self, count: int, draw: torch.Generator) -> Tensor:
        return torch.randint(len(self.images), (count,), generator=draw)

    def sums(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of (a, b, c) with c = (a + b) mod 10."""
        a, b = self.any(count, draw), self.any(count, draw)
        return a, b, self.of((self.labels[a] + self.labels[b]) % 10, draw)

    def stacked(self, *rows: Tensor) -> Tensor:
        return torch.stack([self.images[chosen] for chosen in rows], dim=1)


Maker = Callable[[_Digits, int, torch.Generator], Split]


def _alone(digits: _Digits, count: int, draw: torch.Generator) -> Split:
    return Split(digits.stacked(torch.randperm(len(digits.images), generator=draw)[:count]))


def _colour(digits: _Digits, count: int, draw: torch.Generator) -> Split:
    return Split(digits.stacked(*(digits.any(count, draw) for _ in range(3))))


def _triplets(digits: _Digits, count: int, draw: torch.Generator) -> Split:
    return Split(digits.stacked(*digits.sums(count, draw)))


def _sum(digits: _Digits, count: int, draw: torch.Generator) -> Split:
    a, b, c = digits.sums(count, draw)
    return Split(digits.stacked(c), digits.stacked(a, b))


def _sum_hard(digits: _Digits, count: int, draw: torch.Generator) -> Split:
    a, b, c = digits.sums(count, draw)
    return Split(digits.stacked(a, b), digits.stacked(c))


def _rotate(digits: _Digits, count: int, draw: torch.Generator) -> Split:
    a, c = digits.any(count, draw), digits.any(count, draw)
    b = digits.of(digits.labels[a], draw)
    return Split(rotated(digits.stacked(b), DEGREES * digits.labels[c]), digits.stacked(a, c))


OF_DIGITS: dict[str, Maker] = {
    "mnist": _alone,
    "color-mnist": _colour,
    "mnist-triplets": _triplets,
    "mnist-sum": _sum,
    "mnist-sum-hard": _sum_hard,
    "mnist-rotate": _rotate,
}
"""`color-mnist` has a digit in each colour; `mnist-triplets` a, b and c = (a + b) mod 10 in one image of three
channels; `mnist-sum` c, given a and b; `mnist-sum-hard` a and b, given c; `mnist-rotate` another digit of a's kind,
rotated by 30° times c's, given a and c."""
WORDS = (
    "Color-MNIST has a random digit in each colour. MNIST-sum: a digit, given two whose sum it is, modulo 10; "
    "MNIST-sum-hard: two digits, given one that is their sum; "
    f"MNIST-rotate: another digit of the first one's kind, rotated by {DEGREES}° times the second, given these two"
)


def read(name: str, root: Path | None, train: int, test: int, seed: int) -> Pictures:
    """A data set, `train` and `test` images of it or as many as there are; 0 is as many as the files have.

    Raises:
        UnknownNameError: no data set of that name.
        DataError: files that are missing or damaged.
    """
    if name == "cifar10":
        data = load(name, root)
        splits = []
        for pixels, count in ((data.train, train), (data.test, test)):
            rows = torch.arange(min(count or len(pixels), len(pixels)))
            splits.append(Split(torch.from_numpy(select(pixels, rows.numpy())[:]).permute(0, 3, 1, 2).contiguous()))
        return Pictures(name, *splits)
    if name not in OF_DIGITS:
        raise UnknownNameError("data set", name, [*OF_DIGITS, "cifar10"])
    files = mnist.read(root, download=True, name="mnist")
    labels = torch.from_numpy(read_labels(root)).long()
    made = []
    for first, pixels, count, purpose in (
        (0, files.train, train, "train"),
        (len(files.train), files.valid, test, "test"),
    ):
        digits = _Digits(torch.from_numpy(pixels[:]).squeeze(3), labels[first : first + len(pixels)])
        draw = generator(CPU, seed, 0, f"{name}-{purpose}")
        made.append(OF_DIGITS[name](digits, min(count or len(pixels), len(pixels)), draw))
    return Pictures(name, *made)


def rotated(images: Tensor, degrees: Tensor) -> Tensor:
    """uint8 images `[N, C, H, W]`, each rotated about its centre by its angle, black where nothing was."""
    angle = degrees.double() * (math.pi / 180)
    zero = torch.zeros_like(angle)
    rows = [torch.stack([angle.cos(), -angle.sin(), zero], 1), torch.stack([angle.sin(), angle.cos(), zero], 1)]
    turn = torch.stack(rows, dim=1).float()
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    turned = F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    return turned.round().clamp(0, 255).to(torch.uint8)
