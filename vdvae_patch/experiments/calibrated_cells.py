"""The cells of `reproduce calibrated-decoders`: one small convolutional VAE, trained with one decoder or one β."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from vdvae_patch import decoders, normal, objectives, scales
from vdvae_patch.decoders import Decoder, Gaussian, Optimal, PixelGrid
from vdvae_patch.errors import InvalidValueError, UnknownNameError
from vdvae_patch.experiments.data import CPU, Photos
from vdvae_patch.experiments.noise import generator

PIXELS = PixelGrid(0, 1)
LATENTS = 20
POINTS = 100  # of a curve that are kept
ONE = "fixed"  # the decoder of the sweep, with σ = 1
ANALYTIC = "optimal"
DECODERS = (
    ONE, "shared", ANALYTIC, "per_image", "per_pixel", "logistic", "logistic_mixture", "categorical",
)  # fmt: skip
BETAS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


@dataclass(frozen=True)
class Size:
    """How much of the experiment is done."""

    seeds: int = 3
    epochs: int = 40
    batch_size: int = 100
    lr: float = 1e-3
    train: int = 50_000
    test: int = 10_000


FULL = Size()
QUICK = Size(seeds=1, epochs=10, batch_size=50, train=5000, test=2000)


def size_of(quick: bool, seeds: int | None, epochs: int | None) -> Size:
    """The full or the quick size, with what was asked for otherwise; raises `InvalidValueError` for none at all."""
    base = QUICK if quick else FULL
    size = replace(base, seeds=base.seeds if seeds is None else seeds, epochs=base.epochs if epochs is None else epochs)
    if size.seeds < 1 or size.epochs < 1:
        raise InvalidValueError(f"{size.seeds} seeds and {size.epochs} epochs: give at least one of each")
    return size


@dataclass(frozen=True)
class Cell:
    """One run: a decoder with β = 1, or σ = 1 with another β."""

    decoder: str
    beta: float
    seed: int

    @property
    def key(self) -> str:
        """Its name as a file."""
        return f"{self.decoder}-beta{self.beta:g}-seed{self.seed}"


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The decoders that are trained: all, or of these those that were named, and the two that are compared.

    Raises:
        UnknownNameError: no such decoder, or one that grey values are not for.
    """
    for name in names:
        if name not in DECODERS:
            raise UnknownNameError("decoder of this experiment", name, DECODERS)
    return tuple(name for name in DECODERS if not names or name in (*names, ONE, ANALYTIC))


def cells(size: Size, decoders: Sequence[str]) -> Iterator[Cell]:
    """All runs, seed by seed."""
    for seed in range(size.seeds):
        yield from (Cell(name, 1.0, seed) for name in decoders)
        yield from (Cell(ONE, beta, seed) for beta in BETAS)


@dataclass(frozen=True)
class Found:
    """What became of a run; nats are of an image of the test set, by the mass of each pixel's bin.

    Attributes:
        rate: the KL.
        nll: with the σ of training: given, learned, emitted, or √β, of which β KL + NLL with σ = 1 is the bound.
        calibrated: with one σ for all pixels, the error on the training set, as "Taming VAEs" compares (appendix D);
            None for a decoder that is not Gaussian, as the next.
        closed: as `calibrated`, the outermost bins as wide as the others.
        sigma: that error, in grey levels, or None.
        error: the root mean square error of the mean on the test set, in grey levels.
        skipped: updates whose gradient was not finite.
        errors: the same on training batches, over the run, `POINTS` means.
    """

    decoder: str
    beta: float
    seed: int
    rate: float
    nll: float
    calibrated: float | None
    closed: float | None
    sigma: float | None
    error: float
    skipped: int
    errors: list[float]


class PictureVAE(nn.Module):
    """Two convolutions down and up, the posterior UpBounded(1) and the prior N(0, 1); `emitted` channels come out.

    `shape` is the images' C, H and W.
    """

    def __init__(self, emitted: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        colours, rows, columns = shape
        if rows % 4 or columns % 4:
            raise InvalidValueError(f"images of {rows}x{columns}: both sides must be multiples of 4")
        grid = (rows // 4, columns // 4)
        flat = 32 * grid[0] * grid[1]
        self.encoder = nn.Sequential(
            nn.Conv2d(colours, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(flat, 128), nn.ReLU(), nn.Linear(128, 2 * LATENTS),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(LATENTS, 128), nn.ReLU(), nn.Linear(128, flat), nn.ReLU(), nn.Unflatten(1, (32, *grid)),
            nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ReLU(),
        )  # fmt: skip
        self.emit = nn.Conv2d(16, emitted, 1)
        self._scale = scales.get("upbounded")

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The KL `[B]` in nats and the decoder's parameters `[B, channels, H, W]`."""
        mean, raw = self.encoder(x).chunk(2, dim=1)
        z, kl = normal.sample_kl(mean, raw, noise=noise, scale_q=self._scale)
        return kl.sum(dim=1), self.decode(z)

    def decode(self, z: Tensor) -> Tensor:
        """The decoder's parameters of latents `[B, LATENTS]`."""
        result: Tensor = self.emit(self.decoder(z))
        return result


def train(cell: Cell, photos: Photos, size: Size) -> tuple[Found, Tensor]:
    """A run, and its pictures: eight reconstructions of the test set, then eight samples, `[16, C, H, W]` in [0, 1]."""
    device = photos.train.device
    torch.manual_seed(cell.seed)
    decoder = decoders.get(cell.decoder, PIXELS).to(device)
    model = PictureVAE(decoder.channels(photos.shape[0]), photos.shape).to(device)
    objective = objectives.get(f"beta({cell.beta!r})")
    learned = [*model.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(learned, lr=size.lr)
    errors, skipped = [], 0
    for step, images in enumerate(_batches(photos.train, cell.seed, size)):
        x = _floats(images)
        rate, parameters = model(x, _noise(len(x), cell.seed, step, device))
        result = objective(rate, decoder.nll(x, parameters))
        optimizer.zero_grad()
        result.loss.backward()
        bad = not all(p.grad is None or bool(p.grad.isfinite().all()) for p in learned)
        if not bad:
            optimizer.step()
        skipped += bad
        decoder.step(skipped=bad)
        objective.step(skipped=bad)
        errors.append((decoder.mean(parameters.detach()) - x).square().mean())
    model.eval()
    curve = [_grey(part.mean().item()) for part in torch.stack(errors).chunk(POINTS)]
    found = judge(cell, model, decoder, photos, skipped, curve)
    return found, pictures(model, decoder, photos.test[:8])


@torch.no_grad()
def judge(cell: Cell, model: PictureVAE, decoder: Decoder, photos: Photos, skipped: int, errors: list[float]) -> Found:
    """The test set's bound, with the σ of training and, for a Gaussian, with the error on the training set."""
    after = Optimal(PIXELS).to(photos.test.device).eval()
    closed = Optimal(replace(PIXELS, open_ends=False)).to(photos.test.device).eval()
    sigma = None
    if isinstance(decoder, Gaussian):
        sigma = after.calibrate((x, decoder.mean(p)) for x, _, p in _passes(model, photos.train))
        closed.load_state_dict(after.state_dict())
        if isinstance(decoder, Optimal):
            decoder = after
        elif cell.decoder == ONE:
            decoder = decoders.get(f"fixed({math.sqrt(cell.beta)!r})", PIXELS)
    decoder.eval()
    sums = torch.zeros(3 if sigma is None else 5, dtype=torch.float64)
    for x, rate, parameters in _passes(model, photos.test):
        mean = decoder.mean(parameters)
        parts = [rate, decoder.mass_nll(x, parameters), (mean - x).square().flatten(1).mean(dim=1)]
        if sigma is not None:
            parts += [after.mass_nll(x, mean), closed.mass_nll(x, mean)]
        sums += torch.stack(parts).double().sum(dim=1).cpu()
    rate, nll, squared, *one_sigma = (sums / len(photos.test)).tolist()
    calibrated, closed_ = one_sigma or (None, None)
    grey = None if sigma is None else PIXELS.grey_levels(sigma)
    return Found(
        cell.decoder, cell.beta, cell.seed, rate, nll, calibrated, closed_, grey, _grey(squared), skipped, errors
    )


@torch.no_grad()
def pictures(model: PictureVAE, decoder: Decoder, images: Tensor) -> Tensor:
    """Means of reconstructions, and of samples of the prior."""
    device = images.device
    _, parameters = model(_floats(images), _noise(len(images), 0, 0, device))
    samples = model.decode(_noise(len(images), 1, 0, device))
    both = torch.cat([decoder.mean(parameters), decoder.mean(samples)])
    return both.clamp(0, 1).cpu()


def row_of(found: Found) -> dict[str, object]:
    """As plain values for a JSON file."""
    return asdict(found)


def _passes(model: PictureVAE, images: Tensor, batch_size: int = 250) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for start in range(0, len(images), batch_size):
        x = _floats(images[start : start + batch_size])
        yield x, *model(x, _noise(len(x), -1, start, images.device))


def _batches(images: Tensor, seed: int, size: Size) -> Iterator[Tensor]:
    for epoch in range(size.epochs):
        order = torch.randperm(len(images), generator=generator(CPU, seed, epoch, "order")).to(images.device)
        for start in range(0, len(images) - size.batch_size + 1, size.batch_size):
            yield images[order[start : start + size.batch_size]]


def _floats(images: Tensor) -> Tensor:
    return images.float() / 255


def _noise(count: int, seed: int, step: int, device: torch.device) -> Tensor:
    return torch.randn(count, LATENTS, generator=generator(CPU, seed, step, "latents")).to(device)


def _grey(squared: float) -> float:
    return PIXELS.grey_levels(math.sqrt(squared)) if squared >= 0 else math.nan
