"""After some steps: read what waits on the device, write it down, explain and record the skipped updates."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from shlex import quote
from typing import Any

import torch

from vdvae_patch.errors import RunError
from vdvae_patch.skips import telling
from vdvae_patch.skips.audit import Audit
from vdvae_patch.train import flight
from vdvae_patch.train.aside import aside
from vdvae_patch.train.entry_agrees import disagreement
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.probe import HeadState, head_states, over_ranks, probe_rows
from vdvae_patch.train.progress import skips
from vdvae_patch.train.run import Run
from vdvae_patch.train.saving import save
from vdvae_patch.train.step import StepRecord

_USUAL = 1000
"""Of how many updates the usual norm is the median."""

SITES = ("rate", "distortion", "gradient")


def write_steps(run: Run, elapsed: Callable[[], float]) -> StepRecord:
    """Log the steps since the last time; the last one is returned. All ranks call it.

    `elapsed` gives the seconds since then. It is asked when the device has done the steps, and not when the host has
    only asked for them.

    Raises:
        RunError: too many updates in a row were skipped, or a log could not be written.
    """
    records = run.engine.drain()
    seconds = elapsed()
    run.counters.seconds += seconds
    known = {row.step for row in flight.recordable(records)}
    for record in records:
        run.counters.add(record, run.global_batch, run.config.optimization.ema_rate)
        _write_step(run, record, seconds / len(records))
        if record.skipped:
            _put_back_spoilt(run, record)
            _write_skip(run, record, exact=record.step in known and (len(records) == 1 or run.before is not None))
        if run.counters.consecutive_skips >= run.config.max_consecutive_skips:
            if all(later.skipped for later in records[records.index(record) :]):
                save(run, record.step + 1)  # the weights are still those of that step
                run.writer.wait()
            _give_up(run, record)
    run.outside_before.clear()
    if run.before is not None:
        run.before.release()
    looks = run.watch.take()
    _compare_entry(run, records)
    if run.logs is not None:
        for look in looks:
            run.logs.heads.write(look)
            if run.logs.board is not None:
                run.logs.board.heads(look)
        run.logs.flush()
    return records[-1]


def _compare_entry(run: Run, records: Sequence[StepRecord]) -> None:
    """Say, once, that a host's `latents` are not those of its `losses`, where a step was looked at."""
    if run.entry_disagrees:
        return
    dimensions = math.prod(run.images.shape[1:])
    for record in records:
        kl = run.watch.kls.get(record.step, math.nan)
        half = run.config.precision != "fp32"
        if said := disagreement(run.work.host.name, kl, record.rate, dimensions, half=half):
            run.entry_disagrees = f"step {record.step}: {said}"
            run.say(run.entry_disagrees)
            return


def _write_step(run: Run, record: StepRecord, seconds: float) -> None:
    if run.logs is None:
        return
    row = asdict(record) | {"epoch": record.step // run.per_epoch, "skipped": record.skipped}
    row.pop("sites")
    metrics = row.pop("metrics")
    run.logs.metrics.write(row | metrics | {"step_time": seconds})
    if run.logs.board is not None:
        run.logs.board.step(record)


def _put_back_spoilt(run: Run, record: StepRecord) -> None:
    """Means that the model follows in plain attributes: no buffer is one, and a NaN would stay in them for ever."""
    before = run.outside_before.get(record.step)
    if before is not None and (names := before.put_back_spoilt()):
        run.say_once(
            f"step {record.step}: {', '.join(names)} of the model was no longer finite, and is what it was before"
        )


def _write_skip(run: Run, record: StepRecord, *, exact: bool) -> None:
    """`exact` says that the weights of before the step are at hand; else later updates have moved them."""
    old = run.before.restored() if exact and run.before is not None else nullcontext()
    with old:
        states = _heads(run, record)
        if run.logs is not None:
            run.logs.skips.write(_explained(run, record, states, exact=exact))
            run.logs.skips.flush()
            if exact and record.cause != "loss_scale":
                _keep(run, record, states)


def _heads(run: Run, record: StepRecord) -> list[HeadState]:
    """Of a step that was skipped, posteriors and priors; all ranks have to ask."""
    seed_noise("train", run.config.seed, rank=run.world.rank, step=record.step)
    with aside(run.work.model), run.engine.autocast():
        if (before := run.outside_before.get(record.step)) is not None:
            before.put_back(run.work.model)
        x = run.work.entry.read(run.batch(record.step))
        rows = probe_rows(run.work.entry, run.work.model, run.work.latent_heads, x, run.engine.parts)
    return head_states(run.work.latent_heads, over_ranks(run.world.gather(rows)))


def _explained(run: Run, record: StepRecord, states: list[HeadState], *, exact: bool) -> dict[str, Any]:
    return {
        "step": record.step,
        "epoch": record.step // run.per_epoch,
        "cause": record.cause,
        "ranks": list(record.bad_ranks),
        "sites": _sites(record),
        "elbo": record.elbo,
        "distortion": record.distortion,
        "rate": record.rate,
        "grad_norm": record.grad_norm,
        "indices": run.global_indices(record.step).tolist(),
        "heads_exact": exact,
        "heads": [state.record() for state in states],
    }


def _keep(run: Run, record: StepRecord, states: list[HeadState]) -> None:
    kept = len(flight.recordings(run.folder.recordings))
    if kept >= run.config.record_skips:
        return
    scaler = run.engine.scaler
    info = run.work.checkpoint_info(record.step, finite=False, nelbo=None)
    recording = flight.record(
        run.folder.recordings, replace(info, run=run.id), record, run.work.model,
        torch.from_numpy(run.global_indices(record.step).copy()), config=run.config, ranks=run.world.size,
        device=run.world.device, loss_scale=None if scaler is None else float(scaler.value),
        seams=run.work.seams_state(), heads=states, outside=run.outside_before[record.step].values(),
    )  # fmt: skip
    megabytes = flight.size_on_disk(recording.path) / 1e6
    assert record.cause is not None
    said = telling.skipped(record.step, record.cause, record.elbo, record.grad_norm, sites=_sites(record))
    run.say(
        f"{said}, recorded in "
        f"{recording.path.name} ({megabytes:.1f} MB, {kept + 1} of at most {run.config.record_skips}); "
        f"look at it with: python -m vdvae_patch replay {quote(str(run.folder.path))} --skip {kept + 1}"
    )


def _sites(record: StepRecord) -> dict[str, list[int]]:
    """Where values were not finite, and on which ranks."""
    return {site: list(ranks) for site in SITES if (ranks := getattr(record.sites, site))}


def _give_up(run: Run, last: StepRecord) -> None:
    if run.logs is None:
        raise SystemExit(RunError.exit_code)
    run.logs.flush()
    counters = run.counters
    so_far = skips(counters.high_gradient, counters.nan, counters.loss_scale)
    raise RunError(
        f"{telling.in_a_row(counters.consecutive_skips)} (the last for {last.cause}, gradient norm "
        f"{last.grad_norm:g}): this run no longer learns. So far skipped: "
        f"{so_far}; the heads at each are in {run.folder.skips}. {_remedy(run, last)}"
    )


def _remedy(run: Run, last: StepRecord) -> str:
    """What to do about updates that are skipped for ever, by the cause of the last."""
    config, out = run.config, quote(str(run.folder.path))
    go_on = f"vdvae-patch train --resume --out {out}"
    if last.cause == "high_gradient" and math.isfinite(last.grad_norm):
        threshold = config.optimization.skip_threshold
        why = f"not below --skip-threshold {threshold:g}" if threshold > 0 else "so large that its square overflows"
        stuck = (
            f"The norm is {why}, and it comes back at "
            "every step, since a skipped update leaves the weights as they are: no learning rate or patience helps. "
        )
        if config.optimization.grad_clip == "auto" and math.isfinite(last.clip):
            return f"{stuck}Skip only NaN, and let it be clipped to {last.clip:.3g}: {go_on} --skip-threshold -1"
        clip, why = _usual_clip(Audit(run.folder.metrics).records())
        return (
            f"{stuck}Clip near the usual norm{why}, and skip only NaN: {go_on} --grad-clip {clip:g} --skip-threshold -1"
        )
    if last.cause == "loss_scale":
        return f"float16 does not hold these gradients: {go_on} --precision fp32 (or bf16)"
    again = "with --variant explin/constant, or a lower --lr"
    if config.variant == "explin/constant":
        again = "with a lower --lr, or with --grad-clip 5 --skip-threshold -1"
    return (
        "A skipped update leaves the weights as they are, so that this does not pass by itself. Start again in another "
        f"--out {again}; what broke first: vdvae-patch replay {out}"
    )


def _usual_clip(rows: Iterable[dict[str, Any]]) -> tuple[float, str]:
    """A norm to clip at, and its reason: the median of the updates that were applied last, rounded up to 1, 2 or 5."""
    norms = deque((row["grad_norm"] for row in rows if not row["skipped"]), maxlen=_USUAL)
    if not norms:
        return 5.0, ""
    usual = statistics.median(norms)
    power = 10.0 ** math.floor(math.log10(usual)) if usual > 0 else 1.0
    clip = next(step * power for step in (1, 2, 5, 10) if step * power >= usual * (1 - 1e-9))
    return clip, f" ({usual:.3g}, the median of {len(norms)} updates that were applied)"
