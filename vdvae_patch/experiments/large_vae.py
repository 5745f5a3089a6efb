"""`reproduce large-vae`: one and two levels of latents, N(0, 1) and a VampPrior, on one data set.

All four differ in levels and prior alone: the VampPrior is put into the host from outside.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict

from vdvae_patch.data import load
from vdvae_patch.experiments.data import pick_device
from vdvae_patch.experiments.large_vae_runs import MODELS, Found, Size, train
from vdvae_patch.experiments.options import LargeVae
from vdvae_patch.experiments.published import published
from vdvae_patch.experiments.report import Cell, Origin, Report, Table, number, publish
from vdvae_patch.experiments.session import Result, Session
from vdvae_patch.train.interrupts import EXIT_RESUME

REFERENCES: dict[str, tuple[str, ...]] = {
    dataset: tuple(values) for dataset, values in published()["exemplar_vae"].items()
}
"""Log likelihoods of these four with 500 pseudo-inputs and 5,000 samples, as the table of "Exemplar
VAE" (Norouzi et al. 2020) gives them, in the order of `MODELS`."""

LARGE_VAE: dict[str, tuple[float | None, ...]] = {
    dataset: (*values, None)  # it has no second level with a standard prior
    for dataset, values in published()["large_vae"].items()
}
"""Table 1 of "Large VAE", which is no target: see `_REMARK`."""

_REMARK = (
    'The values of "Large VAE" are no target. Its public code gives the Bernoulli its arguments exchanged, which makes '
    "it an L1 loss, and its warm-up never ends: every model of its table was trained without a KL."
)


def run(options: LargeVae) -> int:
    """Train what is left to train, and report if all of it is done; `EXIT_RESUME` if it is not."""
    size = Size.of(options)
    device = pick_device(options.device)
    name = "large-vae-quick" if options.quick else "large-vae"
    settings = {**asdict(size), "dataset": options.dataset, "lr": options.lr, "variant": options.variant}
    session = Session(options.folder(name), settings, options.minutes)
    data = load(options.dataset, options.data_root)
    todo = [(levels, prior, seed) for seed in range(size.seeds) for levels, prior in MODELS]
    results: list[Result] = []
    for place, (levels, prior, seed) in enumerate(todo, 1):
        key = f"{levels}-{'vamp' if MODELS.index((levels, prior)) % 2 else 'standard'}-seed{seed}"
        result = session.finished(key)
        if result is None:
            if not session.may_start:
                print(f"{place - 1} of {len(todo)} runs are finished; the same command goes on from here")
                return EXIT_RESUME
            started = time.monotonic()
            found = train(levels, prior, seed, data, size, options, device)
            result = session.keep(key, time.monotonic() - started, {"found": asdict(found)})
            session.console.print(f"{key} {place}/{len(todo)}: {result['seconds']:.0f} s", highlight=False)
        results.append(result)
    rows = [Found(**result["found"]) for result in results]
    report = build_report(rows, size, options, Origin.of(device, range(size.seeds), results), name)
    publish(report, session.folder, None, to_docs=options.publish)
    return 0


def build_report(rows: Sequence[Found], size: Size, options: LargeVae, origin: Origin, name: str) -> Report:
    """A row a model, with what others have found."""
    references = REFERENCES.get(options.dataset, (None,) * len(MODELS))
    papers = LARGE_VAE.get(options.dataset, (None,) * len(MODELS))
    table = tuple(
        _row([r for r in rows if (r.levels, r.prior) == model], reference, paper)
        for model, reference, paper in zip(MODELS, references, papers, strict=True)
    )
    return Report(
        name,
        "Gated dense VAEs" + (", the quick version" if options.quick else ""),
        f"One and two levels of 40 latents, gated dense layers of 300 units, scales `{options.variant}`, on "
        f"{options.dataset}: {size.epochs} epochs of {f'{size.train:,}' if size.train else 'all'} training images in "
        f"batches of 100, the weight of the rate rising over {size.warmup} of them, Adam at {options.lr:g}; the "
        f"VampPrior has {size.components} pseudo-inputs. The last weights are tested: no epoch is chosen. The bound is "
        f"of all test images, the log likelihood by {size.samples:,} importance samples of "
        f"{f'the first {rows[0].images:,}' if size.images else 'all'} test images, in nats an image. A unit is active "
        "where its posterior mean varies over the test images by more than 0.01. Levels from the upper one down.",
        (
            Table(
                "models",
                "Bounds and log likelihoods",
                ("levels", "prior", "lower bound", "log likelihood", "bits/dim", "rates", "active units", "s/epoch",
                 "skipped", "reference", "Large VAE"),
                table,
            ),
        ),
        origin,
        (
            _REMARK,
            *(["One seed: how much of a difference is the seed's is not known."] if size.seeds == 1 else []),
        ),
    )  # fmt: skip


def _row(here: Sequence[Found], reference: Cell, paper: Cell) -> tuple[Cell, ...]:
    first = here[0]
    per_bit = first.dimensions * math.log(2)
    levels = range(first.levels)
    return (
        first.levels,
        first.prior,
        _spread([r.lower_bound_nats for r in here]),
        _spread([r.log_likelihood_nats for r in here]),
        _spread([-r.log_likelihood_nats / per_bit for r in here], 4),
        ", ".join(_spread([r.rates[level] for r in here], 1) for level in levels),
        ", ".join(_spread([float(r.active_units[level]) for r in here], 0) for level in levels),
        _spread([r.epoch_seconds for r in here], 1),
        sum(r.skipped for r in here),
        reference,
        paper,
    )


def _spread(values: Sequence[float], digits: int = 2) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return number(mean, digits)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{number(mean, digits)} ± {number(deviation, digits)}"
