"""`reproduce table3`: the MLP VAE on MNIST, six likelihood scales x two means, the best validation model tested."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from vdvae_patch import scales
from vdvae_patch.experiments.data import pick_device
from vdvae_patch.experiments.digits import (
    LIKELIHOODS,
    MEANS,
    Builder,
    Digits,
    Epochs,
    evaluate,
    noisy,
)
from vdvae_patch.experiments.ensemble import Ensemble, Run
from vdvae_patch.experiments.options import Table3
from vdvae_patch.experiments.report import Origin, publish
from vdvae_patch.experiments.session import Result, Session
from vdvae_patch.experiments.table3_cells import Row, Size, size_of
from vdvae_patch.experiments.table3_report import build_report, draw, report_name
from vdvae_patch.train.interrupts import EXIT_RESUME

# γ² is 0 in float32 where γ is below the root of half the smallest number: then eq. 13 is 0 / 0.
LOG_UNDERFLOW = 0.5 * math.log(2.0**-150)


class BestOnValidation:
    """Validates every few steps and after the last one, and keeps each run's best parameters."""

    def __init__(self, images: Tensor, every: int, last: int, runs: int) -> None:
        self.images, self.every, self.last = images, every, last
        self.best: list[float] = [math.inf] * runs
        self.step: list[int] = [-1] * runs
        self.flat: dict[int, Tensor] = {}

    def __call__(self, ensemble: Ensemble) -> None:
        if ensemble.step_count % self.every and ensemble.step_count != self.last:
            return
        ensemble.drop_failed()
        if not ensemble.alive:
            return
        values = evaluate(ensemble, self.images).tolist()
        for row, (index, value) in enumerate(zip(ensemble.alive, values, strict=True)):
            if value < self.best[index]:
                self.best[index], self.step[index] = value, ensemble.step_count
                self.flat[index] = ensemble.stack.flat.detach()[row].clone()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "step": self.step, "flat": {i: flat.cpu() for i, flat in self.flat.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.step = list(state["best"]), list(state["step"])
        self.flat = {index: flat.to(self.images.device) for index, flat in state["flat"].items()}


def run(options: Table3) -> int:
    """Train what is left to train, and report if all of it is done; `EXIT_RESUME` if it is not."""
    size = size_of(options.quick, options.seeds, options.epochs)
    device = pick_device(options.device)
    folder = options.folder(report_name(options))
    groups = list(_groups(together=device.type == "cuda"))
    settings = {**asdict(size), "dataset": options.dataset, "groups": len(groups)}
    session = Session(folder, settings, options.minutes)
    digits = Digits.load(options.dataset, options.data_root, device, size.train, size.valid, size.test)
    session.same_data(options.dataset, digits.train, digits.valid, digits.test)
    rows: list[Row] = []
    results: list[Result] = []
    for place, builder in enumerate(groups, 1):
        result = _train(session, builder, digits, size, f"{place}/{len(groups)}")
        if result is None:
            print(f"{place - 1} of {len(groups)} ensembles are finished; the same command goes on from here")
            return EXIT_RESUME
        rows += [Row(**row) for row in result["rows"]]
        results.append(result)
    origin = Origin.of(device, range(size.seeds), results)
    report = build_report(rows, digits.sized(size), options, origin)
    publish(report, folder, draw(rows, options.dataset), to_docs=options.publish)
    return 0


def _groups(*, together: bool) -> Iterator[Builder]:
    """What is one ensemble: a cell, or, on a GPU, all scales that are decoded for one mean."""
    decoded = tuple(name for name in LIKELIHOODS if name != "Global")
    for mean_ in MEANS:
        for names in [decoded] if together else [(name,) for name in decoded]:
            yield Builder(names, mean_)
        yield Builder(("Global",), mean_)


def _train(session: Session, builder: Builder, digits: Digits, size: Size, place: str) -> Result | None:
    batches = Epochs(digits.train, size.batch_size)
    runs = [Run(s, size.lr, index) for index in range(len(builder.likelihoods)) for s in range(size.seeds)]
    images = noisy(digits.valid, 0, "validation")
    steps = size.epochs * batches.per_epoch
    best = BestOnValidation(images, size.validate_every * batches.per_epoch, steps, len(runs))
    device = digits.train.device

    def summarize(ensemble: Ensemble) -> Result:
        return {"rows": [asdict(row) for row in judge(ensemble, builder, best, noisy(digits.test, 0, "test"))]}

    key = f"{'-'.join(builder.likelihoods)}-{builder.mean}"
    make = lambda: Ensemble(runs, builder, batches, device=device)  # noqa: E731
    return session.train(key, make, steps, summarize, observer=best, place=place)


def judge(ensemble: Ensemble, builder: Builder, best: BestOnValidation, test: Tensor) -> list[Row]:
    """The test result of every run that did not fail, and what became of the smallest scale of each."""
    values: dict[int, float] = {}
    if ensemble.alive:
        tested = [index for index in ensemble.alive if index in best.flat]
        flat = torch.stack([best.flat.get(i, ensemble.stack.flat.detach()[r]) for r, i in enumerate(ensemble.alive)])
        nll = evaluate(ensemble, test, flat).tolist()
        values = {index: value for index, value in zip(ensemble.alive, nll, strict=True) if index in tested}
    gammas = ensemble.trace("gamma_min")
    rows = []
    for index, run_ in enumerate(ensemble.runs):
        failure = ensemble.failures.get(index)
        trace = gammas[:, index] if failure is None else gammas[: failure.step, index]
        step, cause = (None, None) if failure is None else (failure.step, failure.cause)
        last = trace[torch.isfinite(trace)]
        smallest = last[-1].item() if len(last) else 0.0
        likelihood = builder.likelihoods[run_.scale]
        arrival = arrival_step(trace) if failure is None and may_underflow(likelihood) else None
        nll_ = values.get(index)
        nll_ = nll_ if nll_ is not None and math.isfinite(nll_) else None
        rows.append(Row(likelihood, builder.mean, run_.seed, nll_, best.step[index], step, cause, smallest, arrival))
    return rows


def may_underflow(likelihood: str) -> bool:
    """Whether a scale of table 3 can be too small for its square; one with a lower bound such as α cannot."""
    bound = float(getattr(scales.get(LIKELIHOODS[likelihood]).codomain, "lower_bound", 0.0))
    return bound <= 0 or math.log(bound) <= LOG_UNDERFLOW


def arrival_step(gamma_min: Tensor) -> float | None:
    """The step at which log γ, on the line through its last third, is `LOG_UNDERFLOW`; None if it does not fall."""
    start = len(gamma_min) * 2 // 3
    y = gamma_min[start:].double().clamp(min=1e-300).log()
    x = torch.arange(start, len(gamma_min), dtype=torch.float64)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum().clamp(min=1)
    if not slope < 0:
        return None
    return float(x.mean() + (LOG_UNDERFLOW - y.mean()) / slope)
