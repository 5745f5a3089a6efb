"""`reproduce figure1`: the smallest decoded scale of NaiveExp with the identity mean, going on at two learning rates.

One run is trained as for table 3; two copies of it, optimizer and all, then go on for as long, one at the same learning
rate and one at a tenth of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vdvae_patch.errors import RunError
from vdvae_patch.experiments.data import pick_device
from vdvae_patch.experiments.digits import Builder, Digits, Epochs
from vdvae_patch.experiments.ensemble import Batch, Ensemble, Run
from vdvae_patch.experiments.options import Figure1
from vdvae_patch.experiments.report import Cell, Origin, Report, Table, publish
from vdvae_patch.experiments.session import Result, Session
from vdvae_patch.experiments.table3_cells import FULL, Size, size_of
from vdvae_patch.train.interrupts import EXIT_RESUME

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 0
QUICK_EPOCHS = 60
POINTS = 1000  # of a curve that are kept
_WEIGHTS = "pretrained-weights.pt"
BUILDER = Builder(("NaiveExp",), "identity")


@dataclass(frozen=True)
class _Later:
    """The batches of the steps after `offset`."""

    batches: Epochs
    offset: int

    def __call__(self, seeds: Sequence[int], step: int) -> Batch:
        return self.batches(seeds, self.offset + step)


def run(options: Figure1) -> int:
    """Train what is left to train, and report if all of it is done; `EXIT_RESUME` if it is not."""
    size = size_of(options.quick, 1, options.epochs or (QUICK_EPOCHS if options.quick else None))
    device = pick_device(options.device)
    folder = options.folder("figure1-quick" if options.quick else "figure1")
    session = Session(folder, asdict(size), options.minutes)
    digits = Digits.load("mnist", options.data_root, device, size.train, size.valid, size.test)
    session.same_data("mnist", digits.train, digits.valid, digits.test)
    batches = Epochs(digits.train, size.batch_size)
    steps = size.epochs * batches.per_epoch
    rates = (size.lr, size.lr / 10)
    first = _pretrain(session, batches, size, steps, device)
    second = None
    if first is not None:
        second = session.train(
            "continued", lambda: _forked(session, batches, rates, steps, device), steps, _curves, place="2/2"
        )
    if first is None or second is None:
        print("not finished; the same command goes on from here")
        return EXIT_RESUME
    origin = Origin.of(device, (SEED,), [first, second])
    report = build_report(first, second, digits.sized(size), steps, rates, options, origin)
    publish(report, folder, draw(second, steps, rates), to_docs=options.publish)
    return 0


def _pretrain(session: Session, batches: Epochs, size: Size, steps: int, device: torch.device) -> Result | None:
    def summarize(ensemble: Ensemble) -> Result:
        session.write_state(session.folder / _WEIGHTS, ensemble.state_dict())
        return _curves(ensemble)

    make = lambda: Ensemble([Run(SEED, size.lr)], BUILDER, batches, device=device)  # noqa: E731
    return session.train("pretrained", make, steps, summarize, place="1/2")


def _forked(session: Session, batches: Epochs, rates: Sequence[float], steps: int, device: torch.device) -> Ensemble:
    ensemble = Ensemble([Run(SEED, lr) for lr in rates], BUILDER, _Later(batches, steps), device=device)
    path = session.folder / _WEIGHTS
    state = session.read_state(path)
    if state is None:
        raise RunError(f"{path} is gone; delete {session.folder / 'pretrained.json'} to train it again")
    ensemble.fork(state)
    return ensemble


def _curves(ensemble: Ensemble) -> Result:
    """The smallest scale of the batches, thinned out to `POINTS` minima, and the last tenth's median, a run each."""
    trace = ensemble.trace("gamma_min")
    width = max(1, len(trace) // POINTS)
    blocks = trace[: len(trace) // width * width].view(-1, width, trace.shape[1])
    tail = trace[-max(1, len(trace) // 10) :]
    return {
        "block": width,
        "curves": [_finite(column) for column in blocks.amin(1).T],
        "last_median": [None if column.isnan().any() else median(column.tolist()) for column in tail.T],
        "failed": {str(index): failure.step for index, failure in ensemble.failures.items()},
    }


def _finite(values: Tensor) -> list[float | None]:
    return [value if value == value else None for value in values.tolist()]


def build_report(
    first: Result, second: Result, size: Size, steps: int, rates: Sequence[float], options: Figure1, origin: Origin
) -> Report:
    """The median of the smallest scale over the last tenth of each part."""
    rows: list[tuple[Cell, ...]] = [(f"before, lr {size.lr:g}", _scientific(first["last_median"][0]))]
    for lr, value in zip(rates, second["last_median"], strict=True):
        rows.append((f"after, lr {lr:g}", _scientific(value)))
    kept, tenth = second["last_median"]
    note = (
        "The paper prints no numbers here; its axis ends at 0.00025, and it says that the limit which the smallest "
        "scale seems to reach depends heavily on the learning rate."
    )
    if kept and tenth:
        note += f" Here the scale at a tenth of the learning rate is {tenth / kept:.2f} times the other."
    part = "" if replace(size, seeds=FULL.seeds) == FULL else (
        f" The paper: 1,000 epochs, 30,000 iterations, before and after, at 1e-4. Here {size.epochs} "
        f"epoch{'s' if size.epochs > 1 else ''} of {size.train:,} images, {steps:,} iterations, at {size.lr:g}."
    )  # fmt: skip
    name = "figure1-quick" if options.quick else "figure1"
    return Report(
        name,
        "Figure 1: the smallest decoded scale" + (", the quick version" if options.quick else ""),
        "The MLP VAE of section 7.2 with NaiveExp and the identity mean, going on from one trained model at two "
        f"learning rates; the smallest scale of all pixels of a batch.{part}",
        (Table("scale", "Median over the last tenth of the iterations", ("part", "smallest scale"), tuple(rows)),),
        origin,
        (note,),
    )


def _scientific(value: float | None) -> str:
    return "NaN" if value is None else f"{value:.2e}"


def draw(second: Result, steps: int, rates: Sequence[float]) -> Figure:
    """Both curves over the iterations of the second part."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6))
    axis = figure.subplots()
    for lr, curve, color in zip(rates, second["curves"], ("#ef8a62", "#2166ac"), strict=True):
        x = [steps + second["block"] * index for index in range(len(curve))]
        y = [float("nan") if value is None else value for value in curve]
        axis.plot(x, y, color=color, lw=0.8, label=f"learning rate {lr:g}")
    axis.set(xlabel="iteration", ylabel="smallest scale γ(z)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    return figure
