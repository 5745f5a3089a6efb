"""Do a recorded step again, and look into it.

The ranks' shares of the batch are computed one after the other, each with its rank's recorded noise, and the gradients
are averaged as the ranks would have done it. It is done on the kind of device that it was recorded on: the noise comes
from that device's generator. On a CPU the loss, the norm and every NaN come out bit for bit; on a GPU of the same model
they do with `--deterministic`, and else as far as cuDNN chooses the same algorithms.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vdvae_patch
from vdvae_patch.data.batches import rank_slice
from vdvae_patch.data.normalization import ModelBatch
from vdvae_patch.errors import CheckpointError
from vdvae_patch.hosts.preset import Losses
from vdvae_patch.outside import put
from vdvae_patch.skips.compared import Compared
from vdvae_patch.skips.generators import restore_generators, threads
from vdvae_patch.trace import Event, Tracer
from vdvae_patch.train.accumulate import backward, in_parts
from vdvae_patch.train.aside import Aside, aside
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.contents import taking_up
from vdvae_patch.train.flight import Recording
from vdvae_patch.train.folder import require_same_data
from vdvae_patch.train.head_watch import last_layer, norm_of
from vdvae_patch.train.noise import noise_seed
from vdvae_patch.train.numerics import before_cuda, numerics
from vdvae_patch.train.probe import HeadState, head_states, over_ranks, probe_rows
from vdvae_patch.train.provenance import machine
from vdvae_patch.train.setup import Workload, prepare
from vdvae_patch.train.step import LossScale, StepRecord, TrainingStep, autocast
from vdvae_patch.train.weighing import Weighed
from vdvae_patch.train.world import World, resolve_device


@dataclass(frozen=True)
class HeadReplay:
    """A head in the replayed step; `grad_norm` is of its last layer, before clipping."""

    state: HeadState
    grad_norm: float


@dataclass(frozen=True)
class Replay:
    """A step done again.

    Attributes:
        record: as the run would have logged it.
        compared: what the run recorded of the step, and what it is now.
        heads: in the order of the computation.
        first_bad: where the first value that is not finite or explodes was made; None if there is none.
        first_not_finite: where the first one that is not finite was made.
        bad_rank: the rank whose share of the batch had it.
        note: why the numbers need not be those of the run, where it was done on another device; else empty.
    """

    variant: str
    record: StepRecord
    compared: tuple[Compared, ...]
    heads: tuple[HeadReplay, ...]
    first_bad: Event | None
    first_not_finite: Event | None
    bad_rank: int | None
    note: str = ""

    @property
    def exact(self) -> bool:
        """Whether all of it is the same, bit for bit; where it was NaN, it is NaN again."""
        return all(one.same for one in self.compared)


def replay(
    config: TrainConfig[Any],
    recording: Recording,
    variant: str | None = None,
    *,
    limit: float = 1e6,
    device: str = "auto",
    seen: Mapping[str, Any] | None = None,
) -> Replay:
    """Do the step again, under its own variant or another one.

    Args:
        seen: the provenance of the data that the run saw; with it other images are refused.
        variant: another variant for the same weights, batch and noise.
        limit: a value above it explodes.
        device: auto is a device of the kind that it was recorded on; of a GPU the CPU where there is none.

    Raises:
        RunError: a device that this machine does not have, or other images.
        HostError, DataError, UnknownNameError, InvalidValueError, PatchError: as `prepare` raises them.
    """
    wanted = device if device != "auto" else "cuda" if recording.kind == "cuda" and torch.cuda.is_available() else "cpu"
    config = replace(recording.config(config), variant=variant or config.variant, weights=None, device=wanted)
    before_cuda(config)
    chosen = resolve_device(wanted)
    with numerics(chosen, config.matmul, config.deterministic):
        return _replay(config, recording, chosen, limit, seen or {})


def _replay(
    config: TrainConfig[Any], recording: Recording, device: torch.device, limit: float, seen: Mapping[str, Any]
) -> Replay:
    work = prepare(config, device)
    remedy = "put back the data that the run had: with others the step is another one"
    require_same_data(seen, asdict(work.data.provenance), recording.path.parent.parent, remedy)
    if (highest := int(recording.indices.max())) >= len(work.data.train):
        raise CheckpointError(
            f"recording {recording.path}.indices: has image {highest}, and there are {len(work.data.train)} to train "
            "on; name the data that the run had"
        )
    with taking_up(f"recording {recording.path}: its weights"):
        work.model.load_state_dict(recording.weights)
        work.load_seams(recording.seams)
    with threads(recording.threads):
        with aside(work.model):  # a step may read the buffer that it moves
            culprits, rank = _culprits(config, recording, work, device, limit)
        heads_rows = _heads(config, recording, work, device)
        record, norms = _step(config, recording, work, device)
    states = head_states(work.heads, heads_rows)
    heads = tuple(HeadReplay(state, norm) for state, norm in zip(states, norms, strict=True))
    not_finite = next((event for event in culprits if not event.finite), None)
    compared = _compared(recording, record, [state for state in states if state.role != "likelihood"])
    first = culprits[0] if culprits else None
    exact = all(one.same for one in compared)
    note = "" if exact and recording.kind == device.type else other_device(recording, device)
    return Replay(str(config.variant), record, compared, heads, first, not_finite, rank, note)


def _compared(recording: Recording, record: StepRecord, states: Sequence[HeadState]) -> tuple[Compared, ...]:
    """What a run records of a step that it skips, and the same of the step done again."""
    own = recording.record
    then, now = ((r.elbo, r.distortion, r.rate) for r in (own, record))
    found = [Compared("loss", then, now)]
    if not all(map(math.isfinite, then)):
        found = list(map(Compared, ("loss", "distortion", "rate"), then, now))
    found += [Compared("norm", own.grad_norm, record.grad_norm), Compared("cause", own.cause, record.cause)]
    if any(asdict(own.sites).values()) or any(asdict(record.sites).values()):
        found.append(Compared("what was not finite on which rank", own.sites, record.sites))
    if recording.heads:
        was, are = (tuple(astuple(state) for state in heads) for heads in (recording.heads, states))
        found.append(Compared(f"log σ and KL of {len(was)} heads", was, are))
    return tuple(found)


def other_device(recording: Recording, device: torch.device) -> str:
    """Why a replay on a device need not give the recorded numbers, in a sentence; empty if nothing is known against it.

    Weights, batch and the draws of the data are those of the step anywhere; the noise is of the device's generator.
    """
    if recording.kind != device.type:
        made = "the CPU" if recording.kind == "cpu" else f"a device of kind {recording.kind}"
        named = "" if recording.device is None else f" ({recording.device.machine})"
        none = ", as this machine has no GPU" if recording.kind == "cuda" and not torch.cuda.is_available() else ""
        return (
            f"it was recorded on {made}{named} and is done again on {device.type}{none}: weights and batch are the "
            "same, but the noise is of another generator, and sums are rounded otherwise; heads and operations can be "
            "compared, exact numbers cannot"
        )
    if device.type == "cuda" and recording.device is not None and recording.device.machine != machine(device):
        return f"it was recorded on {recording.device.machine}, whose kernels may round otherwise than those here"
    if device.type == "cuda" and not (recording.device is not None and recording.device.deterministic):
        return "without --deterministic a GPU may form sums in another order each time"
    return ""


def shares(recording: Recording, work: Workload, seed: int, device: torch.device) -> Iterator[ModelBatch]:
    """Each rank's batch, with the generators as that rank had them, and what the model keeps, in buffers and outside of
    its `state_dict`, as the first rank had it."""
    kept = Aside(work.model)
    for rank in range(recording.ranks):
        kept.put_back()
        indices = rank_slice(recording.indices.numpy(), rank, recording.ranks)
        pixels = torch.from_numpy(work.data.train[indices])
        put(work.model, recording.outside, f"recording {recording.path}.outside")
        restore_generators(recording.generators[rank], device)
        draw = noise_seed("data", seed, rank=rank, step=recording.record.step)
        yield work.data.normalization.apply(pixels.to(device), draw)


@dataclass(frozen=True)
class _PlayedWorld(World):
    """The ranks of a run that is over: what each would have said is known already."""

    said: tuple[Losses, ...] = ()
    finite: tuple[bool, ...] = ()

    def gather(self, values: Tensor) -> Tensor:
        """The rows that `TrainingStep.finish` exchanges, with each rank's losses and flags in its own."""
        rows = []
        for losses, finite in zip(self.said, self.finite, strict=True):
            bad = [~losses.rate.isfinite(), ~losses.distortion.isfinite(), torch.full_like(losses.rate, not finite)]
            rows.append(torch.cat([torch.stack([*losses]), values[3:5], torch.stack(bad).float()]))
        return torch.stack(rows)


def _step(
    config: TrainConfig[Any], recording: Recording, work: Workload, device: torch.device
) -> tuple[StepRecord, list[float]]:
    """The step's record, and for each head the gradient norm of its last layer before clipping."""
    scaler = _scaler(config, recording, device)
    said: list[Losses] = []
    parts: list[list[Tensor | None]] = []
    for x, target in shares(recording, work, config.seed, device):
        work.model.zero_grad(set_to_none=True)
        losses, metrics = backward(
            work.losses, x, target, parts=config.accumulate, precision=partial(autocast, config.precision, device),
            scale=None if scaler is None else scaler.scale,
        )  # fmt: skip
        said.append(losses)
        parts.append([p.grad for p in work.model.parameters()])
    finite = [all(bool(g.isfinite().all()) for g in part if g is not None) for part in parts]
    for parameter, *own in zip(work.model.parameters(), *parts, strict=True):
        parameter.grad = _average([g for g in own if g is not None], recording.ranks)
    world = _PlayedWorld(device, 0, recording.ranks, said=tuple(said), finite=tuple(finite))
    engine = TrainingStep(work.model, work.ema, work.losses, config.optimization, world, precision=config.precision)
    engine.scaler = scaler
    norms: list[float] = []
    layers = [last_layer(dict(work.model.named_modules()).get(head.path)) for head in work.heads]
    engine.before_clip = lambda: norms.extend(float(norm_of(layer, world.device)) for layer in layers)
    engine.finish(recording.record.step, recording.record.lr, said[0], metrics=metrics)
    return engine.drain()[0], norms


def _average(gradients: list[Tensor], ranks: int) -> Tensor | None:
    """As the ranks form it: each divides its own, then they are summed in the order of ranks."""
    if not gradients or ranks == 1:
        return gradients[0] if gradients else None
    total = gradients[0] / ranks
    for gradient in gradients[1:]:
        total = total + gradient / ranks
    return total


def _heads(config: TrainConfig[Any], recording: Recording, work: Workload, device: torch.device) -> Tensor:
    rows = []
    for batch in shares(recording, work, config.seed, device):
        with autocast(config.precision, device):
            rows.append(probe_rows(work.entry, work.model, work.heads, work.entry.read(batch), config.accumulate))
    return over_ranks(torch.stack(rows))


def _culprits(
    config: TrainConfig[Any], recording: Recording, work: Workload, device: torch.device, limit: float
) -> tuple[list[Event], int | None]:
    """The bad values of the first rank that has any which count."""
    package = Path(vdvae_patch.__file__).parent
    entry = Path(inspect.getfile(type(work.entry))).parent
    sources = [work.host.origin.path, entry, package / "normal.py", package / "scales"]
    scaler = _scaler(config, recording, device)
    for rank, (x, target) in enumerate(shares(recording, work, config.seed, device)):
        work.model.zero_grad(set_to_none=True)
        for part in in_parts(x, target, config.accumulate):
            tracer = Tracer(work.model, sources, limit)
            with tracer.modules(), tracer:
                with autocast(config.precision, device):
                    loss, losses, _ = Weighed.of(work.losses(*part))
                tracer.reach(losses if loss is losses.elbo else (loss, *losses))
                if not tracer.trace.reached:
                    tracer.backward()
                    share = loss if config.accumulate == 1 else loss / config.accumulate
                    (share if scaler is None else scaler.scale(share)).backward()  # type: ignore[no-untyped-call]
                    tracer.reach([p.grad for p in work.model.parameters() if p.grad is not None])
            if tracer.trace.reached:
                return tracer.trace.culprits, rank
    return [], None


def _scaler(config: TrainConfig[Any], recording: Recording, device: torch.device) -> LossScale | None:
    if config.precision != "fp16" or recording.loss_scale is None:
        return None
    return LossScale(device, initial=recording.loss_scale)
