"""The flight recorder: of a skipped update, what is needed to do that step again.

The batch's indices, the random states of all ranks, and the weights as they were before the step. A skipped update
leaves the weights alone, so where the log is written after each step they are at hand. Where many steps go by between
two writes, a second copy on the device follows the weights, and stops at the first skipped update.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.errors import CheckpointError, RunError
from vdvae_patch.hosts.preset import Optimization
from vdvae_patch.reading.fields import record as typed
from vdvae_patch.skips.generators import generator_states, kind_of, raw_states
from vdvae_patch.skips.sealed import numbered
from vdvae_patch.train import checkpoint
from vdvae_patch.train.checkpoint import CheckpointInfo
from vdvae_patch.train.config import Precision, TrainConfig
from vdvae_patch.train.contents import Generator, RecordedDevice, device_of, of_recording
from vdvae_patch.train.noise import noise_seed, seed_noise
from vdvae_patch.train.probe import HeadState
from vdvae_patch.train.provenance import machine
from vdvae_patch.train.step import BadRanks, StepRecord

MADE_BY = "train with --record-skips N (N > 0) and, for a finished run, again from its seed in another --out"


@dataclass(frozen=True)
class Recording:
    """One skipped update.

    Attributes:
        info: variant and host that it was skipped under.
        record: what the run logged.
        weights: the `state_dict` of before.
        indices: the global batch.
        generators: the random states of every rank.
        threads: of the processor, which decide the order in which sums are taken.
        optimization, precision: of that step, which a continuation of the run may change; None of older recordings.
        seams: the states of its decoder and its objective, see `Workload.seams_state`.
        device: what the step was done on; None of older recordings, whose random states say the kind alone.
        heads: posteriors and priors, as they were in the step; none of older recordings.
        outside: what the model kept outside of its `state_dict` before the step, of rank 0; empty of older recordings.
    """

    path: Path
    info: CheckpointInfo
    record: StepRecord
    weights: dict[str, Tensor]
    indices: Tensor
    generators: list[dict[str, Any]]
    threads: int
    loss_scale: float | None
    optimization: Optimization | None = None
    precision: Precision | None = None
    seams: dict[str, Any] = field(default_factory=dict)
    device: RecordedDevice | None = None
    heads: tuple[HeadState, ...] = ()
    outside: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Of the device that the step was done on, such as cpu or cuda."""
        return kind_of(self.generators[0])

    def config(self, config: TrainConfig[Any]) -> TrainConfig[Any]:
        """The run's configuration as it was at that step."""
        precision, optimization = self.precision or config.precision, self.optimization or config.optimization
        config = replace(config, precision=precision, optimization=optimization)
        if self.device is None:
            return config
        return replace(config, matmul=self.device.matmul, deterministic=self.device.deterministic)

    @property
    def ranks(self) -> int:
        """How many ranks shared the batch."""
        return len(self.generators)


class WeightsBefore:
    """A copy of the weights on the device that follows every update and stops at the first one that is skipped.

    Args:
        parameters: the weights, or the storages in which they lie.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self._copy = [p.detach().clone() for p in parameters]
        self._stopped = torch.zeros((), dtype=torch.bool, device=parameters[0].device)

    @torch.no_grad()
    def __call__(self, skip: Tensor) -> None:
        """For `TrainingStep.before_update`; one pass over the weights, and no wait for the host."""
        for parameter, copy in zip(self.parameters, self._copy, strict=True):
            torch.where(self._stopped, copy, parameter, out=copy)
        self._stopped.logical_or_(skip)

    def release(self) -> None:
        """Follow the weights again."""
        self._stopped.fill_(False)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """The weights of before in the model, while the block runs."""
        now = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self._copy)
            try:
                yield
            finally:
                torch._foreach_copy_(self.parameters, now)


def record(
    folder: Path,
    info: CheckpointInfo,
    row: StepRecord,
    model: nn.Module,
    indices: Tensor,
    *,
    config: TrainConfig[Any],
    ranks: int,
    device: torch.device,
    loss_scale: float | None,
    seams: dict[str, Any] | None = None,
    heads: Sequence[HeadState] = (),
    outside: Mapping[str, Any] | None = None,
) -> Recording:
    """Write a recording; `model` has the weights of before. Rank 0 knows every rank's noise: it is made of seeds."""
    generators = []
    for rank in range(ranks):
        seed_noise("train", config.seed, rank=rank, step=row.step)
        generators.append(generator_states(device))
    state = {
        "record": asdict(row) | {"sites": [list(site) for site in asdict(row.sites).values()]},
        "model": {key: value.detach().cpu() for key, value in model.state_dict().items()},
        "indices": indices,
        "generators": generators,
        "threads": torch.get_num_threads(),
        "loss_scale": loss_scale,
        "optimization": asdict(config.optimization),
        "precision": config.precision,
        "device": asdict(_device(config, row.step, generators, device)),
        "heads": [asdict(head) for head in heads],
        **({"outside": dict(outside)} if outside else {}),
        **(seams or {}),
    }
    path = checkpoint.save(folder, info, state, name=_name(row.step))
    return _recording(path, info, state)


def _device(
    config: TrainConfig[Any], step: int, generators: list[dict[str, Any]], device: torch.device
) -> RecordedDevice:
    known = [raw_states(states).philox for states in generators]
    philox = [one for one in known if one is not None]
    if len(philox) == len(known):
        seeds, offsets = [seed for seed, _ in philox], [offset for _, offset in philox]
    else:
        seeds = [noise_seed("train", config.seed, rank=rank, step=step) for rank in range(len(known))]
        offsets = [0] * len(known)
    generator: Generator = "philox" if len(philox) == len(known) else "mt19937"
    kind = kind_of(generators[0])
    return RecordedDevice(kind, machine(device), generator, seeds, offsets, config.matmul, config.deterministic)


def read(path: Path) -> Recording:
    """Read a recording; raises `CheckpointError` if it is damaged."""
    return _recording(path, *checkpoint.load(path))


def recordings(folder: Path) -> list[Path]:
    """The recordings of a run, the first skipped update first."""
    return [path for path in numbered(folder, "skip") if path.is_dir()]


def choose(folder: Path, number: int) -> Path:
    """Recording `number`, from 1.

    Raises:
        RunError: the run has none, or not as many.
    """
    paths = recordings(folder)
    if not paths:
        raise RunError(f"{folder.parent} has no recorded skips; to get them, {MADE_BY}")
    if not 1 <= number <= len(paths):
        listed = ", ".join(f"{n} (step {int(path.name[5:])})" for n, path in enumerate(paths, 1))
        raise RunError(f"{folder.parent} has no skip {number}; it recorded {listed}")
    return paths[number - 1]


def drop_from(folder: Path, step: int) -> None:
    """Delete the recordings of steps from `step` on: the resumed run does those steps again."""
    for path in recordings(folder):
        if int(path.name[5:]) >= step:
            checkpoint.delete(path)


def size_on_disk(path: Path) -> int:
    """Bytes."""
    return sum(file.stat().st_size for file in path.iterdir())


def recordable(rows: list[StepRecord]) -> list[StepRecord]:
    """The skipped updates of these steps whose weights are known: the first, and those right after it."""
    first = next((n for n, row in enumerate(rows) if row.skipped), len(rows))
    end = next((n for n in range(first, len(rows)) if not rows[n].skipped), len(rows))
    return rows[first:end]


def _name(step: int) -> str:
    return f"skip-{step:08d}"


def _recording(path: Path, info: CheckpointInfo, state: dict[str, Any]) -> Recording:
    saved = of_recording(state, path)
    values = saved.record | {"sites": BadRanks(*saved.sites)}
    row = typed(StepRecord, values, f"recording {path}.record", CheckpointError)
    return Recording(
        path, info, row, saved.model, saved.indices, saved.generators, saved.threads, saved.loss_scale,
        saved.optimization, saved.precision, saved.seams or {}, device_of(saved, f"recording {path}.device"),
        tuple(saved.heads or ()), saved.outside or {},
    )  # fmt: skip
