"""What a recorded skip holds, and every sealed folder of a run, checked field by field before any of it is used.

A checksum says that a file is what somebody wrote. Whether it is what a run writes is seen here, once: whoever uses a
checkpoint or a recording afterwards finds every field there, of its type and within bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from vdvae_patch.errors import CheckpointError, VdvaePatchError
from vdvae_patch.hosts.preset import MOST_IMAGES, Optimization
from vdvae_patch.reading.fields import Between, checked, one_line, record, require, shown
from vdvae_patch.skips.generators import kind_of, require_states
from vdvae_patch.train.config import Matmul, Precision
from vdvae_patch.train.probe import HeadState
from vdvae_patch.train.weights import why_no_weights

Generator = Literal["philox", "mt19937"]

MOST_RANKS, MOST_THREADS = 2**16, 2**12
"""Of a run, of a process."""


def require_tensors(state: Mapping[str, Any], path: Path, *names: str) -> None:
    """Refuse a state whose fields `names` are no dictionaries of tensors with values.

    Raises:
        CheckpointError: the field, and the tensor.
    """
    for name in names:
        where = f"checkpoint {path}.{name}"
        if name not in state:
            raise CheckpointError(f"checkpoint {path}: the field {name!r} is missing")
        for key, value in checked(state[name], dict[str, Any], where, CheckpointError).items():
            if isinstance(value, Tensor) and (why := why_no_weights(value)):
                raise CheckpointError(f"{where}.{key}: must be a tensor with values, not one that is {why}")
            if not isinstance(value, Tensor) and not key.endswith("_extra_state"):
                raise CheckpointError(f"{where}.{key}: must be a tensor, not {shown(value)}")


@dataclass(frozen=True)
class RecordedDevice:
    """What a step was done on.

    Attributes:
        kind: such as cpu or cuda.
        machine: its name, as `config.toml` has it.
        generator: of the model's noise: philox on a GPU, mt19937 on a CPU.
        seeds, offsets: of the noise of each rank; a Philox generator is wholly known by them. An offset of a CPU is 0.
        matmul, deterministic: see `TrainConfig`.
    """

    kind: str
    machine: str
    generator: Generator
    seeds: list[Annotated[int, Between(0, 2**64 - 1)]]
    offsets: list[Annotated[int, Between(0, 2**64 - 1)]]
    matmul: Matmul
    deterministic: bool


@dataclass(frozen=True)
class SavedRecording:
    """The fields of a recorded skip beside its weights and its record, typed."""

    model: dict[str, Any]
    record: dict[str, Any]
    sites: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    indices: Tensor
    generators: list[dict[str, Any]]
    threads: Annotated[int, Between(1, MOST_THREADS)]
    loss_scale: float | None = None
    optimization: Optimization | None = None
    precision: Precision | None = None
    seams: dict[str, Any] | None = None
    device: dict[str, Any] | None = None
    heads: list[HeadState] | None = None
    outside: dict[str, Any] | None = None


def of_recording(state: Mapping[str, Any], path: Path) -> SavedRecording:
    """The state of a recorded skip, checked.

    Raises:
        CheckpointError: a field is missing, of another type, or out of bounds.
    """
    where = f"recording {path}"
    values = dict(checked(state, dict[str, Any], where, CheckpointError))
    row = dict(require(values.get("record"), {"sites": list[list[int]]}, f"{where}.record", CheckpointError))
    values |= {"record": row, "sites": row.pop("sites")}
    with taking_up(f"{where}.optimization"):  # whose own bounds it says in words of the command line
        saved = record(SavedRecording, values, where, CheckpointError)
    require_tensors(values, path, "model")
    indices = saved.indices
    if why_no_weights(indices) or indices.dtype != torch.int64 or indices.ndim != 1:
        raise CheckpointError(f"{where}.indices: must be integers in a row, not {shown(indices)} of {indices.dtype}")
    ranks = len(saved.generators)
    if not 1 <= len(indices) <= MOST_IMAGES or not 1 <= ranks <= MOST_RANKS or len(indices) % ranks:
        raise CheckpointError(
            f"{where}.indices: must be a number of images that {ranks} ranks can share, not {len(indices)}"
        )
    if int(indices.min()) < 0:
        raise CheckpointError(f"{where}.indices: must not be negative, and {int(indices.min())} is")
    for rank, of_rank in enumerate(saved.generators):
        require_states(of_rank, f"{where}.generators[{rank}]")
    if saved.device is not None:
        device_of(saved, f"{where}.device")
    return saved


def device_of(saved: SavedRecording, where: str) -> RecordedDevice | None:
    """What a recording says of its device; None of one that was made before they did.

    Raises:
        CheckpointError: a field is missing, or contradicts the random states.
    """
    if saved.device is None:
        return None
    device = record(RecordedDevice, saved.device, where, CheckpointError)
    kinds = {kind_of(states) for states in saved.generators}
    if kinds != {device.kind}:
        raise CheckpointError(
            f"{where}.kind: is {device.kind!r}, and the random states are of {' and of '.join(kinds)}"
        )
    if not len(device.seeds) == len(device.offsets) == len(saved.generators):
        raise CheckpointError(f"{where}: must have a seed and an offset for each of {len(saved.generators)} ranks")
    return device


@contextmanager
def taking_up(what: str) -> Iterator[None]:
    """What torch or an object raises over a state that is not its own is said in one line, with the field's name.

    Raises:
        CheckpointError: in the place of it.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (VdvaePatchError, KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{what} does not fit: {one_line(error)}") from error
