"""`reproduce table2`: the convolutional VAE that overfits ten images, posterior scale x decoder scale x learning rate.

Every pair of scales is an ensemble of all learning rates and seeds. NaiveExp is eq. 7 as it is written: σ = exp(p), and
log(exp(p)) wherever eq. 8 has log σ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.data import load
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.data import Images, pick_device, ten_images
from vdvae_patch.experiments.ensemble import Batch, Ensemble, Run
from vdvae_patch.experiments.memory import largest_chunk
from vdvae_patch.experiments.noise import draws
from vdvae_patch.experiments.options import Table2
from vdvae_patch.experiments.report import Origin, publish
from vdvae_patch.experiments.session import Result, Session
from vdvae_patch.experiments.table2_cells import (
    DECODERS,
    FULL,
    LEARNING_RATES,
    POSTERIORS,
    QUICK,
    Row,
    Size,
    last_steps,
)
from vdvae_patch.experiments.table2_report import build_report, draw
from vdvae_patch.experiments.under_objective import UnderObjective
from vdvae_patch.hosts import load_host
from vdvae_patch.patching import Variant
from vdvae_patch.train.interrupts import EXIT_RESUME


def run(options: Table2) -> int:
    """Train what is left to train, and report if all of it is done; `EXIT_RESUME` if it is not."""
    size = _size(options)
    device = pick_device(options.device)
    folder = options.folder("table2-quick" if options.quick else "table2")
    session = Session(folder, asdict(size), options.minutes)
    batches = TenImages(load("cifar10", options.data_root).train, range(size.seeds), size.batch_size, device)
    session.same_data("cifar10", batches.images.pixels)
    parts = list(_parts(options, size, batches, device))
    rows: list[Row] = []
    results: list[Result] = []
    for place, part in enumerate(parts, 1):
        result = _train(session, part, batches, size.steps, device, f"{place}/{len(parts)}")
        if result is None:
            print(f"{place - 1} of {len(parts)} ensembles are finished; the same command goes on from here")
            return EXIT_RESUME
        rows += [Row(**row) for row in result["rows"]]
        results.append(result)
    report = build_report(rows, size, options, Origin.of(device, range(size.seeds), results))
    publish(report, folder, draw(rows), to_docs=options.publish)
    return 0


@dataclass(frozen=True)
class Part:
    """One ensemble: the names of its two scales, and its runs, which are those from `start` of the pair's."""

    posterior: str
    decoder: str
    start: int
    runs: tuple[Run, ...]

    @property
    def key(self) -> str:
        """Its file name. The range is in it: a piece that fits other chunks than the last one mixes nothing up."""
        decoder = re.sub(r"[^\w.=]+", "-", self.decoder)
        return f"{self.posterior}-{decoder}-{self.start}-{self.start + len(self.runs)}"


def _train(
    session: Session, part: Part, batches: TenImages, steps: int, device: torch.device, place: str
) -> Result | None:
    def make() -> Ensemble:
        return Ensemble(part.runs, Builder(part.posterior, part.decoder), batches, device=device)

    def summarize(ensemble: Ensemble) -> Result:
        return {"rows": [asdict(row) for row in judge(ensemble, part.posterior, part.decoder)]}

    return session.train(part.key, make, steps, summarize, place=place)


def _size(options: Table2) -> Size:
    base = QUICK if options.quick else FULL
    size = Size(options.seeds or base.seeds, options.steps or base.steps, options.batch_size or base.batch_size)
    if size.steps < 20 or size.seeds < 1 or size.batch_size < 2:
        raise InvalidValueError("table2 needs at least 20 steps, one seed and batches of 2 for batch normalization")
    return size


def _parts(options: Table2, size: Size, batches: TenImages, device: torch.device) -> Iterator[Part]:
    """Every ensemble: all runs of a pair of scales, or as many as one computation holds."""
    runs = tuple(Run(seed, lr) for lr in LEARNING_RATES for seed in range(size.seeds))

    def first(count: int) -> Ensemble:
        return Ensemble(runs[:count], Builder("UpBounded", "Bounded"), batches, device=device)

    chunk = options.chunk or largest_chunk(first, len(runs), device)
    for posterior in POSTERIORS:
        for decoder in (*DECODERS, *options.seams):
            for start in range(0, len(runs), chunk):
                yield Part(posterior, decoder, start, runs[start : start + chunk])


class Builder:
    """From a run to a convolutional VAE with a pair of scales, or with a decoder and an objective."""

    def __init__(self, posterior: str, decoder: str) -> None:
        scale = DECODERS.get(decoder)
        scales = f"{POSTERIORS[posterior]}/vanilla"
        self.variant = Variant.parse(f"{scales}+{decoder}" if scale is None else f"{scales}/{scale}")
        self.host = load_host("conv_vae")

    def __call__(self, run: Run) -> nn.Module:
        torch.manual_seed(run.seed)
        model = self.host.build({"channels": 3})
        # stable: the host's own functions of a raw scale are replaced, for Exp too, which its heads otherwise are
        vdvae_patch.patch(model, self.variant.of_model, heads=self.host.heads(model), arithmetic="stable")
        under = UnderObjective.of(self.variant, self.host, model)
        return InNatsAnImage(under) if isinstance(under, UnderObjective) else under


class InNatsAnImage(nn.Module):
    """A model under an objective, which takes and gives what the host does: `[B, C, H, W]` in [0, 1], nats an image."""

    def __init__(self, under: UnderObjective) -> None:
        super().__init__()
        self.under = under
        self.moved_by_updates = tuple(f"under.{name}" for name in under.moved_by_updates)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Scalars of a batch."""
        pixels = 2 * x.permute(0, 2, 3, 1) - 1
        return {name: value * x[0].numel() for name, value in self.under(pixels, pixels).items()}


class TenImages:
    """Batches drawn from each seed's own ten images, `[R, B, 3, 32, 32]` in [0, 1]."""

    def __init__(self, pixels: Any, seeds: Sequence[int], batch_size: int, device: torch.device) -> None:
        self.images = Images({seed: ten_images(pixels, seed).permute(0, 3, 1, 2) for seed in seeds}, device)
        self.batch_size, self.device = batch_size, device

    def __call__(self, seeds: Sequence[int], step: int) -> Batch:
        pixels = self.images.take(seeds, draws(seeds, step, 10, self.batch_size, self.device))
        return (pixels.float() / 255,)


def judge(ensemble: Ensemble, posterior: str, decoder: str) -> list[Row]:
    """What became of every run of a finished ensemble."""
    trace = ensemble.trace()
    final = trace[-last_steps(len(trace)) :].double().mean(0).tolist()
    first = trace[0].tolist()
    rows = []
    for index, run_ in enumerate(ensemble.runs):
        failure = ensemble.failures.get(index)
        step, cause = (None, None) if failure is None else (failure.step, failure.cause)
        nelbo = final[index] if math.isfinite(final[index]) else None
        rows.append(Row(posterior, decoder, run_.lr, run_.seed, first[index], nelbo, step, cause))
    return rows
