"""What a checkpoint of a run holds, checked field by field before any of it is used, see `contents`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from vdvae_patch.errors import CheckpointError
from vdvae_patch.hosts.preset import MOST_IMAGES
from vdvae_patch.reading.fields import Between, checked, record, require, shown
from vdvae_patch.skips.generators import require_states
from vdvae_patch.train.contents import MOST_RANKS, require_tensors, taking_up
from vdvae_patch.train.run import Counters
from vdvae_patch.train.weights import why_no_weights

_COUNT = Annotated[int, Between(0, 2**53)]


@dataclass(frozen=True)
class SavedPosition:
    """The field `position` of a checkpoint."""

    step: _COUNT
    global_batch: Annotated[int, Between(1, MOST_IMAGES)]
    ranks: Annotated[int, Between(1, MOST_RANKS)]


@dataclass(frozen=True)
class Contents:
    """A checkpoint of a run.

    Attributes:
        state: as the file has it; the others are fields of it, typed.
    """

    path: Path
    state: Mapping[str, Any]
    position: SavedPosition
    counters: Counters
    generators: list[dict[str, Any]]

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """What goes wrong while a field is taken up is said as being of it."""
        with taking_up(f"{self.path}: {name}"):
            yield


def of_checkpoint(state: Mapping[str, Any], path: Path, step: int) -> Contents:
    """The state of a checkpoint, checked.

    Args:
        step: what its manifest says.

    Raises:
        CheckpointError: a field is missing, of another type, or out of bounds.
    """
    where = f"checkpoint {path}"
    wanted = {
        "optimizer": dict[str, Any], "counters": dict[str, Any], "generators": list[dict[str, Any]],
        "position": dict[str, Any], "seams": dict[str, Any] | None, "loss_scale": dict[str, Tensor] | None,
        "usual_norm": dict[str, Tensor] | None,
    }  # fmt: skip
    found = require(state, wanted, where, CheckpointError)
    require_tensors(state, path, "model", "ema")
    position = record(SavedPosition, found["position"], f"{where}.position", CheckpointError)
    if position.step != step:
        raise CheckpointError(f"{where}.position.step: must be {step}, as its manifest says, not {position.step}")
    states = found["generators"]
    if len(states) != position.ranks:
        raise CheckpointError(f"{where}.generators: must be those of {position.ranks} ranks, not of {len(states)}")
    for rank, of_rank in enumerate(states):
        require_states(of_rank, f"{where}.generators[{rank}]")
    for name, value in (found.get("loss_scale") or {}).items():
        if value.numel() != 1 or not bool(value.isfinite()) or float(value) < (name == "value"):
            raise CheckpointError(f"{where}.loss_scale.{name}: must be a positive number, not {shown(value)}")
    counters = record(Counters, found["counters"], f"{where}.counters", CheckpointError)
    for name in ("high_gradient", "nan", "loss_scale", "consecutive_skips", "images", "clipped"):
        checked(getattr(counters, name), _COUNT, f"{where}.counters.{name}", CheckpointError)
    share = counters.initial_share
    checked(share, Annotated[float, Between(0, 1)] | None, f"{where}.counters.initial_share", CheckpointError)
    return Contents(path, state, position, counters, states)


def require_weights_of(model: nn.Module, state: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Refuse weights of other shapes or types than a model has: what is copied would be converted without a word.

    Raises:
        CheckpointError: which tensor.
    """
    for key, own in model.state_dict().items():
        found = state.get(key)
        if not isinstance(own, Tensor) or not isinstance(found, Tensor):
            continue  # what is missing is said by `load_state_dict`
        if found.shape != own.shape or found.dtype != own.dtype:
            raise CheckpointError(
                f"checkpoint {path}.{name}.{key}: must be {own.dtype} {list(own.shape)}, not {found.dtype} "
                f"{list(found.shape)}"
            )


def require_seams(
    state: Mapping[str, Any],
    known: Mapping[str, Mapping[str, Tensor]],
    ranges: Mapping[str, tuple[float, float]],
    path: Path,
) -> None:
    """Refuse the states of another decoder, objective or top prior than a run has, and numbers that none can have.

    Without this the σ of a decoder or the multiplier of GECO would begin anew, or go on from a number that no training
    has found. Parameters may be NaN, as those of the model may.

    Args:
        known: by part (the model, its average, the objective) the state that the run begins with; empty without any.
        ranges: by the last part of a name between which numbers its value lies, both ends included.

    Raises:
        CheckpointError: which field.
    """
    where = f"checkpoint {path}.seams"
    saved = checked(state.get("seams") or {}, dict[str, dict[str, Tensor]], where, CheckpointError)
    _require_names(saved, known, where)
    for part, tensors in known.items():
        require_tensors(saved, path, part)
        _require_names(saved[part], tensors, f"{where}.{part}")
        for name, own in tensors.items():
            value, at = saved[part][name], f"{where}.{part}.{name}"
            if value.shape != own.shape or value.dtype != own.dtype:
                raise CheckpointError(
                    f"{at}: must be {own.dtype} {list(own.shape)}, not {value.dtype} {list(value.shape)}"
                )
            counts = None if own.is_floating_point() else (0, math.inf)
            ends = ranges.get(name.rpartition(".")[2], counts)
            if ends is not None:
                bad = value[~((value >= ends[0]) & (value <= ends[1]) & value.isfinite())]
                if bad.numel():
                    says = "a finite number" + (f" from {ends[0]:g} to {ends[1]:g}" if ends[0] > -math.inf else "")
                    raise CheckpointError(f"{at}: must be {says}, not {shown(bad.flatten()[0].item())}")


def _require_names(found: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    for name in sorted({*found} ^ {*known}):
        says = "is missing" if name in known else "is of another decoder, objective or top prior than this run has"
        raise CheckpointError(f"{where}: the field {name!r} {says}")


def require_moments(state: Mapping[str, Any], optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Refuse the state of another optimizer than this one: other groups, other settings, moments of other shapes.

    Learning rate, betas and weight decay may differ: a continuation may be told others.

    Raises:
        CheckpointError: which field.
    """
    where = f"checkpoint {path}.optimizer"
    wanted = {"state": dict[int, dict[str, Any]], "param_groups": list[dict[str, Any]]}
    found = require(state, wanted, where, CheckpointError)
    own = optimizer.state_dict()["param_groups"]
    groups = found["param_groups"]
    if len(groups) != len(own):
        raise CheckpointError(f"{where}.param_groups: must be {len(own)} of them, not {len(groups)}")
    for index, (group, mine) in enumerate(zip(groups, own, strict=True)):
        for name in (set(group) & set(mine)) - {"lr", "betas", "weight_decay", "initial_lr"}:
            if type(group[name]) is not type(mine[name]) or group[name] != mine[name]:
                at = f"{where}.param_groups[{index}].{name}"
                raise CheckpointError(f"{at}: must be {shown(mine[name])}, not {shown(group[name])}")
        if "params" not in group:
            raise CheckpointError(f"{where}.param_groups[{index}]: the field 'params' is missing")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, moments in found["state"].items():
        if not 0 <= index < len(parameters):
            raise CheckpointError(f"{where}.state: has parameter {index}, and there are {len(parameters)}")
        shape = list(parameters[index].shape)
        for name, value in require(
            moments,
            {"step": Tensor, "exp_avg": Tensor, "exp_avg_sq": Tensor},
            f"{where}.state.{index}",
            CheckpointError,
        ).items():
            expected = [] if name == "step" else shape
            if not isinstance(value, Tensor) or why_no_weights(value) or list(value.shape) != expected:
                at = f"{where}.state.{index}.{name}"
                raise CheckpointError(f"{at}: must be a tensor with values, of shape {expected}, not {shown(value)}")
