"""One run of `reproduce geco`: a host trained by the ELBO, by an annealed σ, or by GECO, and what became of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from vdvae_patch import decoders, objectives
from vdvae_patch.decoders import Optimal, PixelGrid
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.data import CPU
from vdvae_patch.experiments.geco_sets import Pictures, Split
from vdvae_patch.experiments.noise import SuppliedNoise, generator
from vdvae_patch.experiments.options import Geco as Options
from vdvae_patch.hosts import load_host
from vdvae_patch.objectives import Objective, marginal_kl
from vdvae_patch.objectives.geco import Geco
from vdvae_patch.patching import patch
from vdvae_patch.registry import format_number

PIXELS = PixelGrid(0, 1)
CONDITIONAL = "ConvDRAW, conditional"
HOSTS = {"ConvDRAW": "convdraw", CONDITIONAL: "convdraw", "VAE+NVP": "nvp_vae"}
ELBO, ANNEALED, EQUAL = "ELBO", "annealed σ", "GECO at the ELBO's error"
GQN = (2.0, 0.7)
"""σ of the hand-made schedule, at first and from a tenth of the updates on, in shares of the pixels' range: Eslami et
al. 2018, "Neural scene representation and rendering", which "Taming VAEs" follows, in 200,000 of 2,000,000 updates."""
FALL = 0.1
POINTS = 60
SHOWN = 6
FULL_DATA = {
    "ConvDRAW": ("mnist", "color-mnist", "cifar10", "mnist-triplets"),
    CONDITIONAL: ("mnist-sum", "mnist-sum-hard", "mnist-rotate"),
    "VAE+NVP": ("mnist", "color-mnist", "cifar10"),
}
QUICK_DATA = {
    "ConvDRAW": ("mnist", "color-mnist", "cifar10"),
    "VAE+NVP": ("mnist", "color-mnist", "cifar10"),
    CONDITIONAL: ("mnist-sum", "mnist-sum-hard", "mnist-rotate"),
}


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        train, test: images; 0 is all.
        updates: of ConvDRAW and of VAE+NVP.
        lr: learning rates of the two.
        decay: whether they fall to 0 as half a cosine; the paper's are constant.
        kappas: root mean square errors that GECO is asked for, in shares of the range; of ConvDRAW, of the conditional
            one and of VAE+NVP.
        colour: the same on Color-MNIST, of all hosts; none takes the hosts' own. Three digits are harder than one: one
            mean for all images has an error of 0.26 there, and a small model has not got far below it.
        alpha: of GECO's moving average.
        pace: ν κ², of ConvDRAW and of VAE+NVP, and the largest share that one update changes λ by. So λ moves as fast
            for every κ, at most where the squared error is twice κ²; and not further in a run than it must.
        convdraw, nvp_vae: the hosts' sizes.
        marginal: images of the marginal KL, training images.
    """

    seeds: int
    updates: tuple[int, int]
    batch: int
    train: int
    test: int
    lr: tuple[float, float]
    decay: bool
    kappas: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    colour: tuple[float, ...]
    alpha: float
    pace: tuple[float, float]
    convdraw: tuple[tuple[str, int], ...]
    nvp_vae: tuple[tuple[str, int], ...]
    marginal: int

    @classmethod
    def of(cls, options: Options) -> Size:
        """What was asked for, or what the quick or the full version has.

        Raises:
            InvalidValueError: a number that makes no sense.
        """
        base = QUICK if options.quick else FULL
        chosen: dict[str, Any] = {}
        if options.seeds is not None:
            chosen["seeds"] = options.seeds
        if options.updates is not None:
            chosen["updates"] = (options.updates, options.updates)
        if options.kappa:
            chosen |= {"kappas": (tuple(options.kappa),) * 3, "colour": ()}
        size = cls(**{**vars(base), **chosen})
        for name, value in (("seeds", size.seeds), ("updates", min(size.updates))):
            if value < 1:
                raise InvalidValueError(f"--{name} must be at least 1, not {value}")
        for kappa in size.kappas[0]:
            if not 0 < kappa < 1:
                raise InvalidValueError(
                    f"--kappa must be between 0 and 1, not {kappa:g}; it is a root mean square error in shares of the "
                    "pixels' range, as 0.1"
                )
        if len(set(options.kappa)) < len(options.kappa):
            raise InvalidValueError(f"--kappa names a value twice: {', '.join(f'{k:g}' for k in options.kappa)}")
        return size

    def build(self, host: str) -> dict[str, int]:
        """What the host's model takes of it."""
        return dict(self.convdraw if host == "convdraw" else self.nvp_vae)

    def lr_of(self, host: str) -> float:
        """The host's learning rate."""
        return self.lr[0] if host == "convdraw" else self.lr[1]

    def pace_of(self, host: str) -> float:
        """How fast λ moves."""
        return self.pace[0] if host == "convdraw" else self.pace[1]

    def kappas_of(self, host: str, data: str) -> tuple[float, ...]:
        """The errors that GECO is asked for, by the host's name in the tables."""
        if data == "color-mnist" and self.colour:
            return self.colour
        return self.kappas[("ConvDRAW", CONDITIONAL, "VAE+NVP").index(host)]

    def updates_of(self, host: str) -> int:
        """How many updates its runs have."""
        return self.updates[0] if host == "convdraw" else self.updates[1]


FULL = Size(
    seeds=3, updates=(1_000_000, 1_000_000), batch=32, train=0, test=0, lr=(1e-5, 1e-6), decay=False,
    kappas=((0.06, 0.08, 0.1, 0.125, 0.175),) * 3, colour=(), alpha=0.99, pace=(1e-3, 1e-3),
    convdraw=(("hidden", 128), ("latents", 4), ("steps", 12), ("canvas", 16)),
    nvp_vae=(("hidden", 512), ("latents", 64), ("couplings", 8)), marginal=5000,
)  # fmt: skip
QUICK = Size(
    seeds=1, updates=(400, 700), batch=32, train=5000, test=500, lr=(2e-3, 3e-3), decay=True,
    kappas=((0.1, 0.14, 0.2), (0.1, 0.2), (0.16, 0.2, 0.25)), colour=(0.22, 0.235, 0.25), alpha=0.9, pace=(0.02, 0.01),
    convdraw=(("hidden", 24), ("latents", 2), ("steps", 3), ("canvas", 8)),
    nvp_vae=(("hidden", 128), ("latents", 32), ("couplings", 4)), marginal=500,
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run; `kappa` is None for the objectives that ask for no error, and where the ELBO's run says it."""

    host: str
    data: str
    method: str
    seed: int
    kappa: float | None = None

    @property
    def key(self) -> str:
        """Its name as a file."""
        method = {ELBO: "elbo", ANNEALED: "annealed", EQUAL: "equal"}.get(self.method, f"geco{self.kappa}")
        kind = "conditional" if self.host == CONDITIONAL else HOSTS[self.host]
        return f"{kind}-{self.data}-{method}-seed{self.seed}"

    @property
    def is_geco(self) -> bool:
        """Whether it has a constraint."""
        return self.method not in (ELBO, ANNEALED)


def cells(size: Size, data: dict[str, tuple[str, ...]]) -> Iterator[Cell]:
    """All runs; those whose error is the ELBO's come behind it."""
    for seed in range(size.seeds):
        for host, names in data.items():
            for name in names:
                yield Cell(host, name, ELBO, seed)
                yield Cell(host, name, ANNEALED, seed)
                yield from (
                    Cell(host, name, f"GECO {format_number(kappa)}", seed, kappa)
                    for kappa in size.kappas_of(host, name)
                )
                if host != CONDITIONAL:
                    yield Cell(host, name, EQUAL, seed)


@dataclass(frozen=True)
class Found:
    """What became of a run.

    Attributes:
        rate: the KL on held-out images, nats an image.
        nll: of them, nats per dimension, by the mass of each pixel's bin with the σ of the training images (appendix
            D).
        sigma: that σ, the root mean square error on the training images that were judged, in shares of the range.
        error: the same of held-out images.
        multiplier: λ at the end; None without a constraint.
        beta: the equivalent β at the end, by the error on training images.
        steps, rates, errors, betas: over the run, means of equal parts of it; of `errors` the root mean square.
        marginal: value, standard error, mean KL, count and whether it is saturated, of the marginal KL; or None.
    """

    host: str
    data: str
    method: str
    seed: int
    kappa: float | None
    dimensions: int
    rate: float
    nll: float
    sigma: float
    error: float
    multiplier: float | None
    beta: float
    skipped: int
    steps: list[int]
    rates: list[float]
    errors: list[float]
    betas: list[float]
    marginal: list[float] | None

    @property
    def met(self) -> bool:
        """Whether the training images' error is what was asked for, up to one part in fifty."""
        return self.kappa is None or self.sigma <= 1.02 * self.kappa


def objective_of(cell: Cell, kappa: float | None, size: Size, dimensions: int) -> Objective | None:
    """The objective of a run; None for the annealed σ, whose loss is `annealed`.

    GECO's λ starts where its σ is that of the end of the hand-made schedule, and is held from rising while a batch
    meets the constraint.
    """
    if cell.method == ELBO:
        return objectives.get("elbo")
    if kappa is None:
        return None
    start, pace = dimensions / (2 * GQN[1] ** 2), size.pace_of(HOSTS[cell.host])
    return Geco(
        kappa, nu=pace / kappa**2, alpha=size.alpha, start=start, most=1 + pace, least=1 - pace, hold=1,
        patience=10 * size.updates_of(HOSTS[cell.host]), pixels=PIXELS,
    )  # fmt: skip


def annealed(step: int, updates: int) -> float:
    """σ of the hand-made schedule at a step."""
    first, last = GQN
    return max(last, first + (last - first) * step / max(FALL * updates, 1))


class Trained:
    """A host's model, patched, and its pass in parts."""

    def __init__(
        self, host: str, pictures: Pictures, size: Size, seed: int, variant: str, device: torch.device
    ) -> None:
        self.name, self.device = HOSTS[host], device
        entry = load_host(self.name)
        _, channels, height, _ = pictures.train.images.shape
        hparams: dict[str, Any] = {"channels": channels, "size": height, **size.build(self.name)}
        if pictures.train.context is not None:
            hparams["context"] = pictures.train.context.shape[1]
        torch.manual_seed(seed)
        self.model: Any = entry.build(hparams).to(device)
        patch(self.model, variant, heads=entry.heads(self.model))
        latents = size.build(self.name)["latents"]
        grid = (height // 4) ** 2 * size.build(self.name)["steps"] if self.name == "convdraw" else 1
        self.values = latents * grid  # random numbers of an image

    def parts(self, x: Tensor, context: Tensor | None, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """The KL, `[B]` in nats, and the mean images."""
        with self._noise(len(x), draw):
            if self.name == "nvp_vae":
                z, log_q = self.model.infer(x)
                return log_q - self.model.log_prior(z), self.model.decode(z)
            _, rates, canvas = self.model.infer(x, context)
        return torch.stack(list(rates.values())).sum(dim=0), self.model.emit(canvas)

    def sample(self, count: int, context: Tensor | None, draw: torch.Generator) -> Tensor:
        """Mean images of latents of the prior."""
        with self._noise(count, draw):
            mean: Tensor = self.model.sample(count) if context is None else self.model.sample(count, context=context)
        return mean

    def _noise(self, count: int, draw: torch.Generator) -> SuppliedNoise:
        return SuppliedNoise(torch.randn(count * self.values, generator=draw).to(self.device))


def train(
    cell: Cell, kappa: float | None, pictures: Pictures, size: Size, variant: str, device: torch.device
) -> tuple[Found, Tensor]:
    """A run, and its pictures: `SHOWN` reconstructions of held-out images above as many samples, uint8."""
    made = Trained(cell.host, pictures, size, cell.seed, variant, device)
    objective = objective_of(cell, kappa, size, pictures.dimensions)
    decoder = decoders.get("optimal", PIXELS).to(device)
    if objective is not None:
        objective.to(device)
    updates = size.updates_of(made.name)
    optimizer = torch.optim.Adam(made.model.parameters(), lr=size.lr_of(made.name))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates) if size.decay else None
    seen, skipped = [], 0
    for step, rows in enumerate(_rows(len(pictures.train), updates, size.batch, cell.seed)):
        x, context = pictures.train.batch(rows, device)
        rate, mean = made.parts(x, context, generator(CPU, cell.seed, step, "latents"))
        nll = decoder.nll(x, mean)
        error = (mean - x).square().flatten(1).mean(dim=1)
        beta = 1.0
        if objective is None:
            sigma = annealed(step, updates)
            loss = (rate + pictures.dimensions * error / (2 * sigma**2)).mean()
            beta = sigma**2 / float(error.detach().mean())
        else:
            weighed = objective(rate, nll, reconstruction=mean, target=x)
            loss = weighed.loss
            beta = float(weighed.metrics.get("equivalent_beta", torch.ones(())))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        bad = not all(bool(p.grad.isfinite().all()) for p in made.model.parameters() if p.grad is not None)
        if not bad:
            optimizer.step()
        skipped += bad
        decoder.step(skipped=bad)
        if objective is not None:
            objective.step(skipped=bad)
        if schedule is not None:
            schedule.step()
        seen.append((float(rate.detach().mean()), float(error.detach().mean()), beta))
    made.model.eval()
    multiplier = float(objective.multipliers[0]) if isinstance(objective, Geco) else None
    found = judge(cell, kappa, made, pictures, size, multiplier, skipped, seen)
    return found, shown(made, pictures.test, cell.seed)


def _rows(count: int, updates: int, batch: int, seed: int) -> Iterator[Tensor]:
    done, epoch = 0, 0
    while done < updates:
        order = torch.randperm(count, generator=generator(CPU, seed, epoch, "order"))
        whole = max(count - batch + 1, 1)
        for start in range(0, whole, batch):
            if done == updates:
                return
            yield order[start : start + batch]
            done += 1
        epoch += 1


@torch.no_grad()
def judge(
    cell: Cell,
    kappa: float | None,
    made: Trained,
    pictures: Pictures,
    size: Size,
    multiplier: float | None,
    skipped: int,
    seen: list[tuple[float, float, float]],
) -> Found:
    """The numbers of a trained model: σ of training images, KL and NLL of held-out ones."""
    after = Optimal(PIXELS).to(made.device).eval()
    known = pictures.train if not size.test else Split(
        pictures.train.images[: size.test],
        None if pictures.train.context is None else pictures.train.context[: size.test],
    )  # fmt: skip
    sigma = after.calibrate((x, mean) for x, _, mean in _passes(made, known))
    sums = torch.zeros(3, dtype=torch.float64)
    for x, rate, mean in _passes(made, pictures.test):
        parts = [rate, after.mass_nll(x, mean), (mean - x).square().flatten(1).mean(dim=1)]
        sums += torch.stack(parts).double().sum(dim=1).cpu()
    rate, nll, squared = (sums / len(pictures.test)).tolist()
    beta = 1.0
    if multiplier is not None:
        beta = pictures.dimensions / (2 * multiplier) / sigma**2
    elif cell.method == ANNEALED:
        beta = GQN[1] ** 2 / sigma**2
    edges = torch.linspace(0, len(seen), min(POINTS, len(seen)) + 1).long().tolist()
    pieces = [torch.tensor(seen[a:b]).double().mean(dim=0).tolist() for a, b in pairwise(edges)]
    return Found(
        cell.host, cell.data, cell.method, cell.seed, kappa, pictures.dimensions, rate, nll / pictures.dimensions,
        sigma, math.sqrt(squared), multiplier, beta, skipped, edges[1:], [p[0] for p in pieces],
        [math.sqrt(p[1]) for p in pieces], [p[2] for p in pieces], _marginal(cell, made, pictures, size),
    )  # fmt: skip


def _passes(made: Trained, split: Split, batch: int = 250) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for start in range(0, len(split), batch):
        x, context = split.batch(slice(start, start + batch), made.device)
        yield x, *made.parts(x, context, generator(CPU, start, 0, "judged"))


@dataclass(frozen=True)
class FlowPosterior:
    """The posteriors of images by their codes `[N, hidden]`, as `marginal_kl` takes them."""

    model: Any
    images: Tensor
    codes: Tensor
    values: int

    def __len__(self) -> int:
        return len(self.codes)

    def sample(self, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(len(self) * self.values, generator=generator).to(self.codes)
        with SuppliedNoise(noise):
            z: Tensor = self.model.infer(self.images)[0]
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        rows = [
            self.model.log_posterior(one.expand(len(self), -1), self.codes)  # one z under every posterior
            for one in z
        ]
        return torch.stack(rows).double()


def _marginal(cell: Cell, made: Trained, pictures: Pictures, size: Size) -> list[float] | None:
    """Of the posterior that is a flow, whose z is small enough."""
    if made.name != "nvp_vae":
        return None
    # the layers backwards, in float64: where a scale is small they enlarge what rounding left
    model = copy.deepcopy(made.model).double()
    images = pictures.train.batch(slice(0, size.marginal), made.device)[0].double()
    posterior = FlowPosterior(model, images, model.encoder(images), made.values)
    draw = generator(CPU, cell.seed, 0, "marginal")
    found = marginal_kl(posterior, model.log_prior, samples=2, generator=draw)
    return [found.value, found.standard_error, found.mean_kl, float(found.count), float(found.is_saturated)]


@torch.no_grad()
def shown(made: Trained, split: Split, seed: int) -> Tensor:
    """Reconstructions, then samples; uint8 `[2 SHOWN, C, H, W]`."""
    x, context = split.batch(slice(0, SHOWN), made.device)
    _, mean = made.parts(x, context, generator(CPU, seed, 0, "shown"))
    samples = made.sample(len(x), context, generator(CPU, seed, 1, "shown"))
    return (torch.cat([mean, samples]).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
