"""One run of `reproduce large-vae`: the model, its training, and where it goes on after an interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vdvae_patch.data.images import ImageData
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.options import LargeVae
from vdvae_patch.experiments.session import By, Session, damaged
from vdvae_patch.hosts import load_host
from vdvae_patch.hosts.trainable import trainable
from vdvae_patch.patching import patch
from vdvae_patch.patching.top_prior import TOP_PRIOR, prepared
from vdvae_patch.seams import Terms
from vdvae_patch.train.noise import noise_seed, seed_noise

BATCH = 100
STANDARD, VAMP = "N(0, 1)", "VampPrior"
Pass = Callable[[Tensor], Terms]
"""A model's pass on targets `[B, H, W, 1]` in [-1, 1]."""

_AT_A_TIME = 500
"""Images of a pass that is not for training."""


@dataclass(frozen=True)
class Kind:
    """Levels of latents, and the prior of the upper one."""

    levels: int
    prior: str

    @property
    def name(self) -> str:
        """As in file names."""
        return f"{self.levels}-{'vamp' if self.prior == VAMP else 'standard'}"


BY_PRESET = {
    "standard": Kind(1, STANDARD),
    "vamp": Kind(1, VAMP),
    "hvae": Kind(2, STANDARD),
    "hvae-vamp": Kind(2, VAMP),
}
"""The models by the presets of the host that they are like."""

MODELS = tuple(BY_PRESET.values())


@dataclass(frozen=True)
class Size:
    """How much is done; see `LargeVae`."""

    seeds: int
    epochs: int
    warmup: int
    patience: int
    samples: int
    images: int
    train: int
    components: int
    lr: float
    vamp_lr: float
    pseudo_lr: float
    decay: Literal["cosine", "none"]

    @classmethod
    def of(cls, options: LargeVae, images: int) -> Size:
        """What was asked for, or what the version has that was asked for, of a data set's training images.

        Raises:
            InvalidValueError: a number that makes no sense.
        """
        if not options.models:
            raise InvalidValueError(f"--models names none; take some of {', '.join(BY_PRESET)}")
        if options.quick and options.night:
            raise InvalidValueError("--quick and --night are two sizes; choose one")
        quick, night = options.quick, options.night
        train = _or(options.train, 10_000 if quick else 0)
        steps_per_epoch = -(-min(train or images, images) // BATCH)
        updates = 500 if quick else 200_000 if night else 10_000
        epochs = _or(options.epochs, max(1, min(2000, round(updates / max(1, steps_per_epoch)))))
        lr = 5e-4 if night else 3e-3
        if options.lr is not None:
            lr = options.lr
        size = cls(
            seeds=_or(options.seeds, 1),
            epochs=epochs,
            warmup=_or(options.warmup, 100 if night else max(1, epochs // 10)),
            patience=options.patience,
            samples=_or(options.samples, 5000 if night else 500),
            images=_or(options.images, 100 if quick else 1000 if night else 500),
            train=train,
            components=_or(options.components, 500 if night else 100),
            lr=lr,
            vamp_lr=lr if options.vamp_lr is None else options.vamp_lr,
            pseudo_lr=options.pseudo_lr,
            decay=options.decay or ("none" if night else "cosine"),
        )
        for name in ("seeds", "epochs", "samples", "components"):
            if getattr(size, name) < 1:
                raise InvalidValueError(f"--{name} must be at least 1, not {getattr(size, name)}")
        for name in ("warmup", "patience", "images", "train"):
            if getattr(size, name) < 0:
                raise InvalidValueError(f"--{name} must not be negative, not {getattr(size, name)}")
        for name in ("lr", "vamp_lr", "pseudo_lr"):
            value = getattr(size, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidValueError(f"--{name.replace('_', '-')} must be a number above 0, not {value:g}")
        return size


@dataclass
class Progress:
    """Where a run stands, after an epoch.

    Attributes:
        bounds: of the validation images after each epoch, nats an image; the rate has its full weight.
        best_epoch: with the best of them, counted from 1; 0 before there is one.
        skipped: updates whose gradient was not finite.
        seconds: of training, validation left out.
    """

    epoch: int = 0
    step: int = 0
    skipped: int = 0
    seconds: float = 0.0
    bounds: list[float] = field(default_factory=list)
    best_epoch: int = 0

    def is_over(self, size: Size) -> bool:
        """Whether all epochs are done, or none has been better for too long."""
        if self.epoch >= size.epochs:
            return True
        return size.patience > 0 and self.epoch - max(self.best_epoch, size.warmup) >= size.patience


class Run:
    """A model that is trained by a seed, which decides weights, order, noise and pseudo-inputs."""

    def __init__(
        self, kind: Kind, seed: int, data: ImageData, size: Size, options: LargeVae, device: torch.device
    ) -> None:
        self.kind, self.seed, self.data, self.size = kind, seed, data, size
        self.device, self.unit_gradients = device, options.unit_gradients
        self.model, self.terms = build(kind, seed, data, size, options, device)
        self.values = dict(self.model.named_parameters())
        lr = size.vamp_lr if kind.prior == VAMP else size.lr
        of_prior = [value for name, value in self.values.items() if TOP_PRIOR in name]
        of_model = [value for name, value in self.values.items() if TOP_PRIOR not in name]
        groups = [{"params": of_model, "usual": lr}, {"params": of_prior, "usual": lr * size.pseudo_lr}]
        self.optimizer = torch.optim.Adam([group for group in groups if group["params"]], lr=lr)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.by = By()
        self.pixels = torch.tensor(data.train[: size.train or None])  # a copy: what is read may not be writable

    def train(self, session: Session, path: Path, say: Callable[[Progress], None] = lambda at: None) -> bool:
        """Go on to the end, or to the end of the session's time; whether it is the end. The state is kept at `path`."""
        self._load(session, path)
        session.add_here(self.by, self.device)
        saved = session.clock()
        while not self.progress.is_over(self.size):
            self._epoch()
            say(self.progress)
            now, over = session.clock(), session.out_of_time and not self.progress.is_over(self.size)
            if over or now - saved >= session.save_seconds:
                self._save(session, path)
                saved = now
            if over:
                return False
        if self.size.patience:
            self._set(self.best)
        self.model.eval()
        return True

    def _epoch(self) -> None:
        at, size = self.progress, self.size
        started = time.monotonic()
        beta = min(1.0, (at.epoch + 1) / size.warmup) if size.warmup else 1.0
        order = torch.Generator().manual_seed(noise_seed("train", self.seed, rank=1, step=at.epoch))
        batches = torch.randperm(len(self.pixels), generator=order).split(BATCH)  # type: ignore[no-untyped-call]
        for rows in batches:
            if size.decay == "cosine":
                for group in self.optimizer.param_groups:
                    done = at.step / (size.epochs * len(batches))
                    group["lr"] = group["usual"] * 0.5 * (1 + math.cos(math.pi * done))
            else:
                for group in self.optimizer.param_groups:
                    group["lr"] = group["usual"]
            self._step(self.pixels[rows].to(self.device), beta)
        at.seconds += time.monotonic() - started
        at.epoch += 1
        bound = float(self._bounds(self.data.valid[:]).double().mean())
        at.bounds.append(bound)
        if not at.best_epoch or bound > at.bounds[at.best_epoch - 1] or math.isnan(at.bounds[at.best_epoch - 1]):
            at.best_epoch = at.epoch
            self.best = {name: value.detach().clone() for name, value in self.values.items()}

    def _step(self, pixels: Tensor, beta: float) -> None:
        at = self.progress
        target = self.data.normalization.apply(pixels, noise_seed("data", self.seed, step=at.step)).target
        seed_noise("train", self.seed, step=at.step)
        found = self.terms(target)
        assert found.distortion is not None
        loss = (found.distortion + beta * torch.stack(list(found.rates.values())).sum(dim=0)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        at.step += 1
        gradients = [value.grad for value in self.values.values() if value.grad is not None]
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            at.skipped += 1
            return
        if self.unit_gradients:
            for gradient in gradients:
                gradient.div_(gradient.norm() + 1e-7)
        self.optimizer.step()

    @torch.no_grad()
    def _bounds(self, images: Any) -> Tensor:
        """The bound of images by one draw each, always the same draws; nats, `[N]`."""
        seed_noise("evaluate", self.seed)
        target = self.data.normalization.apply(torch.tensor(images)).target.to(self.device)
        return torch.cat([-cost(self.terms(batch)) for batch in target.split(_AT_A_TIME)])  # type: ignore[no-untyped-call]

    def _set(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.values.items():
                value.copy_(values[name])

    def _save(self, session: Session, path: Path) -> None:
        state = {
            "progress": asdict(self.progress),
            "values": {name: value.detach() for name, value in self.values.items()},
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            **self.by.state(),
        }
        session.write_state(path, state)

    def _load(self, session: Session, path: Path) -> None:
        state = session.read_state(path)
        if state is None:
            return
        try:
            self.progress = Progress(**state["progress"])
            self._set(state["values"])
            self.best = {name: value.to(self.device) for name, value in state["best"].items()}
            self.optimizer.load_state_dict(state["optimizer"])
            self.by = By.of(state)
        except Exception as error:  # of a state of something else, half a dozen types are raised
            raise damaged(path, error) from None


def cost(found: Terms) -> Tensor:
    """The negative bound of each image, nats, `[B]`."""
    assert found.distortion is not None
    return found.distortion + torch.stack(list(found.rates.values())).sum(dim=0)


def build(
    kind: Kind, seed: int, data: ImageData, size: Size, options: LargeVae, device: torch.device
) -> tuple[nn.Module, Pass]:
    """The patched model, and its pass on targets `[B, H, W, 1]`."""
    host = load_host("large_vae")
    entry = trainable(host.entry)
    architecture = entry.preset("standard" if kind.levels == 1 else "hvae").architecture
    height, width = data.sides
    seed_noise("init", seed)
    sizes: dict[str, Any] = {"image_size": height, "image_channels": data.channels, "image_width": width}
    model = host.build(entry.hyperparameters(architecture, data=data.name, **sizes)).to(device)
    seam, made = host.decoder_seam(model), None
    if kind.prior == VAMP:
        top = host.top_prior_seam(model)
        few = torch.tensor(data.train[: max(1000, size.components)])
        images = top.read(data.normalization.apply(few).target).clamp(0, 1)
        generator = torch.Generator().manual_seed(noise_seed("top_prior", seed))
        from_data = int(options.pseudo_inputs == "images")
        made = prepared(f"vamp(components={size.components}, from_data={from_data})", top, images, generator)
    patch(model, options.variant, heads=host.heads(model), top_prior=made)
    return model, lambda target: seam.terms(model, target, target)


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value
