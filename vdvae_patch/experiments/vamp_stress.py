"""`reproduce vamp-stress`: a VampPrior under vanilla and bounded scales, at learning rates up to where it breaks.

Its components are posteriors, so that one scale is read twice: where an image is encoded, and where a pseudo-input is.
An update whose gradient is not finite is left out and counted. A run has failed if its last bound is not finite, or has
diverged: a density that limits the distance it squares gives a finite number for any latent, however far away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product

import numpy as np
import torch

from vdvae_patch.data import load
from vdvae_patch.data.images import ImageData
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.data import pick_device
from vdvae_patch.experiments.large_vae_runs import VAMP, Kind, Run, Size
from vdvae_patch.experiments.options import LargeVae, VampStress
from vdvae_patch.experiments.report import PUBLISHED, Origin, Report, Table, number, publish
from vdvae_patch.experiments.session import By, Result, Session
from vdvae_patch.patching import Variant
from vdvae_patch.registry import format_number
from vdvae_patch.train.config import slug
from vdvae_patch.train.interrupts import EXIT_RESUME

_VALID = 1000
"""Validation images that the bound is of, the first ones."""

_DIVERGED = 10
"""A bound this many times worse than guessing each pixel is that of a run that has diverged."""


@dataclass(frozen=True)
class Cell:
    """What the runs of a cell share."""

    variant: str
    lr: float
    pseudo_lr: float

    @property
    def name(self) -> str:
        """As in file names."""
        variant = slug(str(Variant.parse(self.variant)))  # as it is written with names, so that no sign gets lost
        return f"{variant}-lr{format_number(self.lr)}-pseudo{format_number(self.pseudo_lr)}"


@dataclass(frozen=True)
class Outcome:
    """One run: updates that were left out, and the bound of validation images in nats an image, None if not finite."""

    updates: int
    skipped: int
    bound_nats: float | None

    def has_diverged(self, guess: float) -> bool:
        """Whether its bound is finite, and worse than `_DIVERGED` times the nats an image of guessing."""
        return self.bound_nats is not None and self.bound_nats < -_DIVERGED * guess


def run(options: VampStress) -> int:
    """Train what is left to train, and report if all of it is done; `EXIT_RESUME` if it is not."""
    seeds = options.seeds if options.seeds is not None else 1 if options.quick else 3
    epochs = options.epochs if options.epochs is not None else 2 if options.quick else 5
    if not (options.variants and options.lrs and options.pseudo_lrs):
        raise InvalidValueError("--variants, --lrs and --pseudo-lrs take one value or more each")
    name = "vamp-stress-quick" if options.quick else "vamp-stress"
    named = ("train", "components", "levels", "dataset")
    settings = {"epochs": epochs, **{field: getattr(options, field) for field in named}}
    device = pick_device(options.device)
    session = Session(options.folder(name), settings, options.minutes)
    data = load(options.dataset, options.data_root)
    session.same_data(options.dataset, data.train, data.valid)
    data = replace(data, valid=data.valid[:_VALID])
    cells = [Cell(*values) for values in product(options.variants, options.lrs, options.pseudo_lrs)]
    found: dict[Cell, list[Outcome]] = {cell: [] for cell in cells}
    results: list[Result] = []
    for seed, cell in product(range(seeds), cells):
        key = f"{cell.name}-seed{seed}"
        result = session.finished(key)
        if result is None and session.may_start:
            started = time.monotonic()
            outcome, by = _outcome(cell, seed, epochs, data, options, device, session)
            result = session.keep(key, time.monotonic() - started, {"outcome": asdict(outcome)}, device, by)
            session.console.print(f"{key}: {outcome}", highlight=False, soft_wrap=True)
        if result is None:
            print(f"{len(results)} of {len(cells) * seeds} runs are finished; the same command goes on from here")
            return EXIT_RESUME
        results.append(result)
        found[cell].append(Outcome(**result["outcome"]))
    values = 2 if bool(np.isin(data.valid[:], (0, 255)).all()) else 256
    guess = math.prod(data.sides) * data.channels * math.log(values)
    options = replace(options, train=min(options.train or len(data.train), len(data.train)))  # as many as there are
    report = _report(found, epochs, guess, len(data.valid), options, Origin.of(device, range(seeds), results), name)
    publish(report, session.folder, None, to_docs=options.publish, docs=PUBLISHED / "large-vae")
    return 0


def _outcome(
    cell: Cell, seed: int, epochs: int, data: ImageData, options: VampStress, device: torch.device, session: Session
) -> tuple[Outcome, By]:
    asked = LargeVae(
        epochs=epochs, warmup=1, patience=0, train=options.train, components=options.components, lr=cell.lr,
        pseudo_lr=cell.pseudo_lr, decay="none", variant=cell.variant, dataset=options.dataset,
    )  # fmt: skip
    one = Run(Kind(options.levels, VAMP), seed, data, Size.of(asked, len(data.train)), asked, device)
    state = session.folder / f"{cell.name}-seed{seed}.pt"
    one.train(replace(session, minutes=None), state)
    state.unlink(missing_ok=True)
    bound = one.progress.bounds[-1]
    return Outcome(one.progress.step, one.progress.skipped, bound if math.isfinite(bound) else None), one.by


def _report(
    found: dict[Cell, list[Outcome]],
    epochs: int,
    guess: float,
    valid: int,
    options: VampStress,
    origin: Origin,
    name: str,
) -> Report:
    rows = tuple(
        (
            cell.variant,
            format_number(cell.lr),
            format_number(cell.pseudo_lr),
            f"{sum(o.skipped > 0 for o in outcomes)} of {len(outcomes)}",
            f"{sum(o.skipped for o in outcomes)} of {sum(o.updates for o in outcomes)}",
            f"{sum(o.bound_nats is None for o in outcomes)} of {len(outcomes)}",
            f"{sum(o.has_diverged(guess) for o in outcomes)} of {len(outcomes)}",
            _bounds([o.bound_nats for o in outcomes if o.bound_nats is not None and not o.has_diverged(guess)]),
        )
        for cell, outcomes in found.items()
    )
    header = (
        "scales",
        "lr",
        "of pseudo-inputs",
        "runs with skips",
        "skipped updates",
        "not finite",
        "diverged",
        "bound",
    )
    return Report(
        name,
        "The VampPrior at rising learning rates" + (", the quick version" if options.quick else ""),
        f"`large_vae` with {options.levels} level{'s' if options.levels > 1 else ''} of latents and "
        f"vamp({options.components}), from training images, on {options.dataset}: {epochs} "
        f"epoch{'s' if epochs > 1 else ''} of {options.train:,} images in batches of 100, Adam, "
        "constant learning rate, the weight of the rate 1. The pseudo-inputs' rate is a multiple of the model's. "
        "`vanilla` leaves the host's scales and densities, "
        "but for the mixture, which is this package's. An update whose gradient is not finite is left out. Of "
        f"the first {valid:,} validation images, one draw each, a run has a bound that is not finite at the end, "
        f"or has diverged, with one below −{_DIVERGED} times the {guess:.0f} nats of guessing pixels; shown is the "
        "mean of the other runs, ± their standard deviation, nats an image.",
        (Table("runs", "Runs by scale and learning rate", header, rows),),
        origin,
        ("The runs are short: what is not finite here is so early, and what holds here may break later.",),
    )


def _bounds(values: Sequence[float]) -> str | None:
    if not values:
        return None
    mean = sum(values) / len(values)
    if len(values) == 1:
        return number(mean, 1)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{number(mean, 1)} ± {number(deviation, 1)}"
