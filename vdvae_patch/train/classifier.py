"""The classifier of GECO's constraint `cla`: a small one, trained on the labels of a run's data set before the run.

It is part of the objective: checkpoints and recordings have its weights, and a run goes on with the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vdvae_patch.data import DATASETS
from vdvae_patch.data.binarized import draw
from vdvae_patch.decoders import PixelGrid
from vdvae_patch.errors import DataError

EPOCHS = 3
LARGEST_SIDE = 64
_BATCH = 50


class Classifier(nn.Module):
    """Logits `[B, K]` of images `[B, C, H, W]` or `[B, C · H · W]`, in the values of `pixels`.

    Two convolutions of 5x5 and stride 2 with 8 and 16 channels, and a linear layer.
    """

    def __init__(self, channels: int, height: int, width: int, classes: int, pixels: PixelGrid) -> None:
        super().__init__()
        self.pixels = pixels
        smaller = -(-height // 4) * -(-width // 4)
        self.network = nn.Sequential(
            nn.Unflatten(1, (channels, height, width)), nn.Conv2d(channels, 8, 5, 2, 2), nn.ReLU(),
            nn.Conv2d(8, 16, 5, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * smaller, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network((x.flatten(1) - self.pixels.low) / self.pixels.range)
        return scores


def fit(
    network: nn.Module, images: Tensor, labels: Tensor, epochs: int, order: Callable[[int], torch.Generator]
) -> float:
    """Train by cross-entropy with Adam at 2e-3, 50 images an update; then no weight asks for a gradient any more.

    Args:
        images: as the network takes them; the last tenth is not trained on.
        labels: `[N]`, from 0.
        order: the generator of an epoch's order.

    Returns:
        The share of that tenth whose most probable class is its label.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    count = len(images) - max(1, len(images) // 10)
    for epoch in range(epochs):
        for rows in torch.randperm(count, generator=order(epoch)).split(_BATCH):  # type: ignore[no-untyped-call]
            loss = F.cross_entropy(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    network.eval().requires_grad_(False)
    kept = images[count:].split(1000)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        found = torch.cat([network(part).argmax(dim=1) for part in kept])
    return float((found == labels[count:]).float().mean())


def of_data(name: str, root: Path | None, pixels: PixelGrid, epochs: int = EPOCHS) -> tuple[Classifier, float]:
    """A classifier of a data set's training images, and its accuracy on the last tenth of them.

    Of a data set that is drawn anew in every batch they are drawn once. The same for every run: neither its first
    weights nor the order of the images depend on a run's seed. Nothing of torch's own generator is moved.

    Args:
        name: as of `data.load`.
        pixels: the values of the images that it will be shown.

    Raises:
        DataError: the data set has no labels, or images that are too large for so small a network.
    """
    dataset = DATASETS.get(name)
    try:
        labels = torch.from_numpy(dataset.labels(root))
    except DataError as error:
        raise DataError(
            f"objective geco: the constraint cla needs a classifier, which `train` makes of the labels of --data "
            f"{name}: {error}. MNIST and Fashion-MNIST have labels; beside --data arrays save train-labels.npy; in a "
            "loop of your own give a network, objectives.get(..., classifier=network)"
        ) from None
    splits = dataset.read(root, download=True)
    train = splits.train
    if splits.normalization.drawn:  # grey ones that a run sees in black and white
        train = draw(train, np.random.RandomState(0))
    count, height, width, channels = (int(length) for length in train.shape)
    if len(labels) != count:
        raise DataError(f"data set {name!r} has {len(labels):,} labels for {count:,} training images")
    if max(height, width) > LARGEST_SIDE:
        raise DataError(
            f"objective geco: images of {height}x{width} are too large for the small classifier that `train` makes for "
            f"the constraint cla, which takes up to {LARGEST_SIDE}x{LARGEST_SIDE}; use a network of your own in a loop "
            "of your own, objectives.get(..., classifier=network)"
        )
    images = torch.from_numpy(np.array(train[:])).permute(0, 3, 1, 2).flatten(1).float() / 255
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Classifier(channels, height, width, int(labels.max()) + 1, pixels)
    accuracy = fit(made.network, images, labels, epochs, lambda epoch: torch.Generator().manual_seed(epoch))
    return made, accuracy
