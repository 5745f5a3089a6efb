"""`reproduce large-vae`: one and two levels of latents, N(0, 1) and a VampPrior, on one data set.

All four differ in levels and prior alone: the VampPrior is put into the host from outside.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from vdvae_patch.data import load
from vdvae_patch.data.images import ImageData
from vdvae_patch.experiments.data import pick_device
from vdvae_patch.experiments.large_vae_figures import draw_bounds, draw_pictures
from vdvae_patch.experiments.large_vae_measures import Found, measure, read_pictures, write_pictures
from vdvae_patch.experiments.large_vae_runs import BY_PRESET, MODELS, Kind, Progress, Run, Size
from vdvae_patch.experiments.options import LargeVae
from vdvae_patch.experiments.published import published
from vdvae_patch.experiments.report import PUBLISHED, Cell, Origin, Report, Table, number, publish
from vdvae_patch.experiments.session import Result, Session
from vdvae_patch.train.config import slug
from vdvae_patch.train.interrupts import EXIT_RESUME

REFERENCES: dict[str, tuple[str, ...]] = {
    dataset: tuple(values) for dataset, values in published()["exemplar_vae"].items()
}
"""Log likelihoods of these four with 500 pseudo-inputs and 5,000 samples, as the table of "Exemplar
VAE" (Norouzi et al. 2020) gives them, in the order of `MODELS`."""

LARGE_VAE: dict[str, tuple[float | None, ...]] = {
    dataset: (*values, None)  # its two-level model has a standard prior
    for dataset, values in published()["large_vae"].items()
}
"""Table 1 of "Large VAE", which is no target: see `_REMARK`."""

_REMARK = (
    'The values of "Large VAE" are no target. Its public code gives the Bernoulli its arguments exchanged, which makes '
    "it an L1 loss, and its warm-up never ends: every model of its table was trained without a KL."
)


def run(options: LargeVae) -> int:
    """Train what is left to train, and report if all of it is done; `EXIT_RESUME` if it is not."""
    device = pick_device(options.device)
    size_name = "-quick" if options.quick else "-night" if options.night else ""
    name = f"large-vae-{slug(options.dataset)}{size_name}"
    data = load(options.dataset, options.data_root)
    size = Size.of(options, len(data.train))
    decided = ("dataset", "variant", "pseudo_inputs", "unit_gradients")
    settings = {**asdict(size), **{field: getattr(options, field) for field in decided}}
    settings.pop("seeds")  # another command may add more of them, as it may add other models
    session = Session(options.folder(name), settings, options.minutes)
    session.same_data(options.dataset, data.train, data.valid, data.test)
    asked = [kind for preset, kind in BY_PRESET.items() if preset in options.models]
    todo = [(kind, seed) for seed in range(size.seeds) for kind in asked]
    for place, (kind, seed) in enumerate(todo, 1):
        key = f"{kind.name}-seed{seed}"
        result = session.finished(key)
        if result is None and session.may_start:
            result = _trained(session, key, f"{place}/{len(todo)}", kind, seed, data, size, options, device)
        if result is None:
            print(f"{place - 1} of {len(todo)} runs are finished; the same command goes on from here")
            return EXIT_RESUME
    results = {key: result for kind in MODELS for key, result in _of(session, kind).items()}
    rows = [Found(**result["found"]) for result in results.values()]
    seeds = sorted({row.seed for row in rows})
    size = replace(size, train=min(size.train, len(data.train)))  # of a set that has fewer
    report = build_report(rows, size, options, Origin.of(device, seeds, list(results.values())), name)
    pictures = {
        kind: read_pictures(_pictures_of(session, f"{kind.name}-seed0")) for kind in MODELS if _of(session, kind)
    }
    publish(
        report, session.folder, draw_pictures(pictures), to_docs=options.publish,
        of_tables={"models": draw_bounds(rows)}, docs=PUBLISHED / "large-vae",
    )  # fmt: skip
    return 0


def _of(session: Session, kind: Kind) -> dict[str, Result]:
    """What the folder holds of a model, by this command and earlier ones: its seeds from 0 on."""
    keys = (f"{kind.name}-seed{seed}" for seed in itertools.count())
    found = itertools.takewhile(lambda pair: pair[1] is not None, ((key, session.finished(key)) for key in keys))
    return {key: result for key, result in found if result is not None}


def _trained(
    session: Session,
    key: str,
    place: str,
    kind: Kind,
    seed: int,
    data: ImageData,
    size: Size,
    options: LargeVae,
    device: torch.device,
) -> Result | None:
    """The result of one run, kept in the session's folder; None if its time is over before the run's end."""
    going = Run(kind, seed, data, size, options, device)
    said = [session.clock()]

    def say(at: Progress) -> None:
        if session.clock() - said[0] >= session.say_seconds:
            said[0] = session.clock()
            session.console.print(
                f"{key} {place}: epoch {at.epoch}/{size.epochs}, validation bound {at.bounds[-1]:.2f}, "
                f"best {at.bounds[at.best_epoch - 1]:.2f}, {at.seconds / at.epoch:.1f} s/epoch",
                highlight=False, soft_wrap=True,
            )  # fmt: skip

    state = session.folder / f"{key}.pt"
    if not going.train(session, state, say):
        return None
    started = time.monotonic()
    found, pictures = measure(going)
    write_pictures(_pictures_of(session, key), pictures)
    seconds = going.progress.seconds + time.monotonic() - started
    result = session.keep(key, seconds, {"found": asdict(found)}, device, going.by)
    state.unlink(missing_ok=True)
    session.console.print(
        f"{key} {place}: log likelihood {found.log_likelihood_nats:.2f}, {result['seconds']:.0f} s",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return result


def _pictures_of(session: Session, key: str) -> Path:
    return session.folder / f"{key}.npz"


def build_report(rows: Sequence[Found], size: Size, options: LargeVae, origin: Origin, name: str) -> Report:
    """A row a model, with what others have found."""
    references = REFERENCES.get(options.dataset, (None,) * len(MODELS))
    papers = LARGE_VAE.get(options.dataset, (None,) * len(MODELS))
    table = tuple(
        _row(its, reference, paper)
        for model, reference, paper in zip(MODELS, references, papers, strict=True)
        if (its := [r for r in rows if Kind(r.levels, r.prior) == model])
    )
    tier = "the quick version" if options.quick else "a night's settings" if options.night else ""
    return Report(
        name,
        f"Gated dense VAEs on {options.dataset}" + (f", {tier}" if tier else ""),
        _introduction(rows, size, options),
        (
            Table(
                "models",
                "Bounds and log likelihoods",
                ("levels", "prior", "seeds", "lower bound", "log likelihood", "bits/dim", "rates", "active units",
                 "s/epoch", "tested epoch", "skipped", "reference", "Large VAE"),
                table,
            ),
        ),
        origin,
        _notes(rows, size, options),
    )  # fmt: skip


def _introduction(rows: Sequence[Found], size: Size, options: LargeVae) -> str:
    rates = f"{size.lr:g}" + (f", {size.vamp_lr:g} with a VampPrior" if size.vamp_lr != size.lr else "")
    rates += "" if size.pseudo_lr == 1 else f", pseudo-inputs {size.pseudo_lr:g} times that"
    rates += ", falling to 0 as a cosine" if size.decay == "cosine" else ", constant"
    rates += ", each tensor's gradient divided by its norm" if options.unit_gradients else ""
    tested = (
        f"The weights with the best bound of the validation images are tested; training ends {size.patience} epochs "
        "after them at the latest."
        if size.patience
        else "The last weights are tested: no epoch is chosen."
    )
    start = "training images" if options.pseudo_inputs == "images" else "noise about the images' mean"
    return (
        f"One and two levels of 40 latents, gated dense layers of 300 units, scales `{options.variant}`, on "
        f"{options.dataset}: at most {size.epochs} epochs of {f'{size.train:,}' if size.train else 'all'} training "
        f"images in batches of 100, the weight of the rate rising over {size.warmup} of them, Adam at {rates}; the "
        f"VampPrior has {size.components} pseudo-inputs, which start from {start}. {tested} The bound is of all test "
        f"images, the log likelihood by {size.samples:,} importance samples of "
        f"{f'{rows[0].images:,}, evenly spread,' if size.images else 'all'} test images, in nats an image. A unit is "
        "active where its posterior mean varies over the test images by more than 0.01. Levels from the upper one down."
    )


def _notes(rows: Sequence[Found], size: Size, options: LargeVae) -> tuple[str, ...]:
    notes = [_REMARK]
    if options.dataset in REFERENCES:
        notes.append(
            'The reference is the table of "Exemplar VAE" (Norouzi et al. 2020) for these four: 500 pseudo-inputs, up '
            "to 2,000 epochs, 5,000 importance samples, all test images."
        )
    if size.samples < 5000:
        notes.append(
            f"An estimate by {size.samples:,} importance samples is below one by 5,000; by how much was not measured."
        )
    if min(Counter(Kind(row.levels, row.prior) for row in rows).values()) == 1:
        notes.append("Where a model has one seed, how much of a difference is the seed's is not known.")
    if len({row.seed for row in rows}) > 1:
        notes.append("The pictures are of seed 0.")
    return tuple(notes)


def _row(here: Sequence[Found], reference: Cell, paper: Cell) -> tuple[Cell, ...]:
    first = here[0]
    per_bit = first.dimensions * math.log(2)
    levels = range(first.levels)
    return (
        first.levels,
        first.prior,
        len(here),
        _spread([r.lower_bound_nats for r in here]),
        _spread([r.log_likelihood_nats for r in here]),
        _spread([-r.log_likelihood_nats / per_bit for r in here], 4),
        ", ".join(_spread([r.rates[level] for r in here], 1) for level in levels),
        ", ".join(_spread([float(r.active_units[level]) for r in here], 0) for level in levels),
        _spread([r.epoch_seconds for r in here], 1),
        ", ".join(f"{r.tested_epoch} of {r.epochs}" for r in here),
        sum(r.skipped for r in here),
        reference,
        paper,
    )


def _spread(values: Sequence[float], digits: int = 2) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return number(mean, digits)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{number(mean, digits)} ± {deviation:.{digits}f}"
