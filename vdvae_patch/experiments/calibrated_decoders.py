"""`reproduce calibrated-decoders`: every decoder on the same model, and beside the analytic σ a sweep of β.

The paper's question: does the analytic σ find what a sweep of β finds, at the price of one run? All are compared by the
mass of each pixel's bin.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vdvae_patch.experiments.calibrated_cells import (
    ANALYTIC,
    BETAS,
    DECODERS,
    ONE,
    Found,
    Size,
    cells,
    chosen,
    row_of,
    size_of,
    train,
)
from vdvae_patch.experiments.data import Photos, pick_device
from vdvae_patch.experiments.options import CalibratedDecoders
from vdvae_patch.experiments.report import Cell, Origin, Report, Table, note_of_seeds, number, publish
from vdvae_patch.experiments.session import Result, Session
from vdvae_patch.train.interrupts import EXIT_RESUME

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(options: CalibratedDecoders) -> int:
    """Train what is left to train, and report if all of it is done; `EXIT_RESUME` if it is not."""
    size = size_of(options.quick, options.seeds, options.epochs)
    device = pick_device(options.device)
    kind = "" if options.dataset == "mnist" else f"-{options.dataset}"
    name = f"calibrated-decoders{kind}{'-quick' if options.quick else ''}"
    session = Session(options.folder(name), {**asdict(size), "dataset": options.dataset}, options.minutes)
    photos = Photos.load(options.dataset, options.data_root, device, size.train, size.test)
    session.same_data(options.dataset, photos.train, photos.test)
    results: list[Result] = []
    names = chosen(options.decoders)
    todo = list(cells(size, names))
    for place, cell in enumerate(todo, 1):
        result = session.finished(cell.key)
        if result is None:
            if not session.may_start:
                print(f"{place - 1} of {len(todo)} runs are finished; the same command goes on from here")
                return EXIT_RESUME
            started = time.monotonic()
            found, images = train(cell, photos, size)
            session.write_state(session.folder / f"{cell.key}.pt", {"images": images})
            result = session.keep(cell.key, time.monotonic() - started, {"found": row_of(found)}, device)
            session.console.print(f"{cell.key} {place}/{len(todo)}: {result['seconds']:.0f} s", highlight=False)
        results.append(result)
    rows = [Found(**result["found"]) for result in results]
    seconds = [float(result["seconds"]) for result in results]
    size = replace(size, train=len(photos.train), test=len(photos.test))  # of a set that has fewer
    origin = Origin.of(device, range(size.seeds), results)
    report = build_report(rows, seconds, size, options, origin, name, math.prod(photos.shape))
    figure = draw(rows, load_pictures(session, names), photos.test[:8].cpu() / 255)
    publish(report, session.folder, figure, to_docs=options.publish)
    return 0


def load_pictures(session: Session, names: Sequence[str]) -> dict[str, Tensor]:
    """Seed 0's pictures, by decoder."""
    return {name: session.kept(f"{name}-beta1-seed0")["images"] for name in names}


def build_report(
    rows: Sequence[Found],
    seconds: Sequence[float],
    size: Size,
    options: CalibratedDecoders,
    origin: Origin,
    name: str,
    dimensions: int = 784,
) -> Report:
    """Every decoder, the sweep, and whether the analytic σ is as good as the best of it."""
    per_bit = dimensions * math.log(2)
    names = chosen(options.decoders)
    left = [name for name in DECODERS if name not in names]
    missing = f" So {'is' if len(left) == 1 else 'are'} {', '.join(left)}, by --decoders." if left else ""
    decoders = tuple(
        (decoder, _spread([r.rate + r.nll for r in here]), _spread([(r.rate + r.nll) / per_bit for r in here], 3),
         _closed_cell(here), _spread([r.rate for r in here]), _spread([r.error for r in here]), _sigma(here))
        for decoder in names
        for here in [[r for r in rows if (r.decoder, r.beta) == (decoder, 1.0)]]
    )  # fmt: skip
    sweep = tuple(
        (f"{beta:g}", 255 * math.sqrt(beta), _spread([r.rate + r.nll for r in here]),
         _spread([_calibrated(r) for r in here]), _closed_cell(here), _spread([r.rate for r in here]),
         _spread([r.error for r in here]))
        for beta in (1.0, *BETAS)
        for here in [[r for r in rows if (r.decoder, r.beta) == (ONE, beta)]]
    )  # fmt: skip
    return Report(
        name,
        "Calibrated decoders" + (", the quick version" if options.quick else ""),
        f"A small convolutional VAE with 20 latents on 8-bit {options.dataset}: {size.train:,} training images, "
        f"{size.epochs} epochs of batches of {size.batch_size}, Adam at {size.lr:g}, tested on {size.test:,} images "
        "with one "
        "sample of z each. The bound is KL + NLL in nats an image, the NLL by the mass of each pixel's bin, so that "
        "densities and discrete likelihoods are comparable. *One σ*: the root mean square error on the training set, "
        "put "
        "in after training. *Closed bins*: the bins of black and white as wide as the others; open ones, which the "
        "discrete likelihoods have too, give a Gaussian all that it puts beyond black and white, which most "
        "pixels of digits are. The paper's tables are not at hand, and no value of it "
        "stands "
        f"here. Bernoulli is left out: these are grey values.{missing}",
        (
            Table(
                "decoders",
                "Every decoder, β = 1",
                ("decoder", "bound", "bits/dim", "one σ, closed bins", "KL", "error, grey levels", "σ, grey levels"),
                decoders,
            ),
            Table(
                "sweep",
                "σ = 1 and a sweep of β",
                ("β", "√β, grey levels", "bound, σ = √β", "one σ", "one σ, closed bins", "KL", "error, grey levels"),
                sweep,
            ),
        ),
        origin,
        (
            f"With open bins: {_answer(rows, seconds, _calibrated)}",
            f"With closed bins: {_answer(rows, seconds, _closed)}",
            _skipped(rows),
            note_of_seeds(len({row.seed for row in rows})),
        ),
    )


def _calibrated(row: Found) -> float:
    assert row.calibrated is not None
    return row.rate + row.calibrated


def _closed(row: Found) -> float:
    assert row.closed is not None
    return row.rate + row.closed


def _closed_cell(rows: Sequence[Found]) -> Cell:
    return None if any(r.closed is None for r in rows) else _spread([_closed(r) for r in rows])


def _sigma(rows: Sequence[Found]) -> Cell:
    """The one σ that a decoder has."""
    if rows[0].decoder == ONE:
        return "255"
    return _spread([r.sigma for r in rows if r.sigma is not None]) if rows[0].decoder == ANALYTIC else None


def _spread(values: Sequence[float], digits: int = 1) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return number(mean, digits)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{number(mean, digits)} ± {number(deviation, digits)}"


def _answer(rows: Sequence[Found], seconds: Sequence[float], bound: Callable[[Found], float]) -> str:
    """How the analytic σ compares with the best β, chosen by the test bound itself, which favours the sweep."""

    def mean(decoder: str, beta: float) -> float:
        values = [bound(r) for r in rows if (r.decoder, r.beta) == (decoder, beta)]
        return sum(values) / len(values)

    betas = (1.0, *BETAS)
    best = min(betas, key=lambda beta: mean(ONE, beta))
    optimal, swept = mean(ANALYTIC, 1.0), mean(ONE, best)
    cost = sum(s for r, s in zip(rows, seconds, strict=True) if r.decoder == ONE)
    once = sum(s for r, s in zip(rows, seconds, strict=True) if r.decoder == ANALYTIC)
    place = " It is at the end of the sweep, which may not hold the best." if best in (betas[0], betas[-1]) else ""
    return (
        f"Of the sweep β = {best:g} is best, {swept:.1f} nats with the σ of the training set put in "
        f"afterwards.{place} The "
        f"analytic σ has {optimal:.1f}, {abs(optimal - swept):.1f} nats {'more' if optimal > swept else 'fewer'}, in "
        f"{once:.0f} s where the sweep of {len(betas)} took {cost:.0f} s."
    )


def _skipped(rows: Sequence[Found]) -> str:
    skipped = sum(row.skipped for row in rows)
    return f"Updates whose gradient was not finite, and that were skipped: {skipped} in {len(rows)} runs."


def draw(rows: Sequence[Found], images: dict[str, Tensor], originals: Tensor) -> Figure:
    """The sweep with the analytic σ beside it, the error over training, and pictures of every decoder."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2 + 0.45 * 2 * (len(images) + 1)))
    halves: Any = figure.subfigures(2, 1, height_ratios=(3.2, 0.9 * (len(images) + 1)))
    top, bottom = halves
    left, right = top.subplots(1, 2)
    betas = sorted((1.0, *BETAS))
    first = [r for r in rows if r.seed == 0]
    swept = {r.beta: r for r in first if r.decoder == ONE}
    left.plot(betas, [_calibrated(swept[b]) for b in betas], "o:", color="#2166ac", label="one σ, open bins")
    left.plot(betas, [_closed(swept[b]) for b in betas], "o-", color="#2166ac", label="one σ, closed bins")
    optimal = next(r for r in first if r.decoder == ANALYTIC)
    left.axhline(_calibrated(optimal), color="#ef8a62", ls=":")
    left.axhline(_closed(optimal), color="#ef8a62", label="analytic σ, β = 1")
    left.set(xscale="log", xlabel="β, with σ = 1", ylabel="test bound, nats an image")
    for name, color in ((ONE, "#999999"), ("shared", "#2166ac"), (ANALYTIC, "#ef8a62")):
        if name not in images:
            continue
        curve = next(r for r in first if (r.decoder, r.beta) == (name, 1.0)).errors
        right.plot([100 * (i + 1) / len(curve) for i in range(len(curve))], curve, color=color, label=name)
    right.set(xlabel="% of training", ylabel="error of a batch, grey levels", ylim=(0, None))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes = bottom.subplots(len(images) + 1, 1)
    strips = {"originals": torch.cat([originals, torch.ones_like(originals)]), **images}
    for axis, (name, strip) in zip(axes, strips.items(), strict=True):
        joined = torch.cat(list(strip), dim=2).permute(1, 2, 0)
        axis.imshow(joined.squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    axes[-1].set_xlabel("eight reconstructions, eight samples: means", fontsize=8)
    return figure
