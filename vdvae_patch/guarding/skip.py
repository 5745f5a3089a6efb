"""One skipped update, in memory, as a line of `skips.jsonl`, and as a folder from which it can be done again."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.errors import CheckpointError
from vdvae_patch.guarding.buffers import Buffers
from vdvae_patch.guarding.diagnosis import Diagnosis
from vdvae_patch.guarding.passes import Autocast, Window
from vdvae_patch.patching import is_patched, patch_json
from vdvae_patch.reading.fields import Between, require, shown
from vdvae_patch.skips import sealed
from vdvae_patch.skips.generators import RawStates, raw_states, require_states
from vdvae_patch.skips.rule import Cause
from vdvae_patch.trace import Event

WHAT = "recorded skip"
FURTHER_CALL = "further call"
"""What of a step is not recorded, in the words of `missing`."""

_REMEDY = "the training goes on without it; {mend}, or keep=0"


@dataclass(frozen=True)
class Skip:
    """An update that was not applied.

    Attributes:
        step: number of the optimizer's step, from 0.
        cause: see `Cause`.
        ranks: on which the loss, or the own share of the gradient, was not finite; empty of one process, and where it
            was not looked at.
        norm: of all gradients when the optimizer steps: before the guard clips them, and after the loop has.
        loss: the sum of what was differentiated.
        diagnosis: what doing the step again has shown; None where it was not done.
        healed: the head that was given another scale afterwards.
        folder: where it is recorded.
    """

    step: int
    cause: Cause
    ranks: tuple[int, ...]
    norm: float
    loss: float
    optimizer: str = ""
    diagnosis: Diagnosis | None = None
    healed: str = ""
    folder: Path | None = None

    @property
    def head(self) -> str | None:
        """Path of the head that is to blame."""
        return None if self.diagnosis is None or self.diagnosis.head is None else self.diagnosis.head.path

    @property
    def event(self) -> Event | None:
        """The first value that is not finite; or the first that exploded, where only the norm is infinite."""
        return None if self.diagnosis is None else self.diagnosis.event or self.diagnosis.explodes

    @property
    def operation(self) -> str | None:
        """The operation that gave it."""
        return None if self.event is None else self.event.operation

    @property
    def module(self) -> str | None:
        """The module in which that was."""
        return None if self.event is None else self.event.place.module

    @property
    def file(self) -> str | None:
        """The file in which that was."""
        return None if self.event is None or not self.event.place.line else self.event.place.file

    @property
    def line(self) -> int | None:
        """The line of that file."""
        return None if self.event is None or not self.event.place.line else self.event.place.line

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows of the batch in which it was."""
        return () if self.diagnosis is None else self.diagnosis.rows

    @property
    def outside(self) -> tuple[str, ...]:
        """What came in from outside."""
        return () if self.diagnosis is None else self.diagnosis.outside

    @property
    def holding(self) -> tuple[str, ...]:
        """The variants under which the step is finite."""
        return () if self.diagnosis is None else self.diagnosis.holding

    def record(self) -> dict[str, Any]:
        """As `skips.jsonl` has it."""
        diagnosis = self.diagnosis or Diagnosis()
        return {
            "step": self.step,
            "cause": self.cause,
            "ranks": list(self.ranks),
            "elbo": self.loss,
            "grad_norm": self.norm,
            "optimizer": self.optimizer,
            "outside": list(self.outside),
            "head": self.head,
            "module": self.module,
            "operation": self.operation,
            "file": self.file,
            "line": self.line,
            "rows": list(self.rows),
            "part": None if diagnosis.part is None else list(diagnosis.part),
            "exact": diagnosis.exact,
            "variants": {tried.variant: None if tried.outcome is None else tried.holds for tried in diagnosis.tried},
            "heads": [head.record() for head in diagnosis.heads],
            "healed": self.healed or None,
            "recorded": None if self.folder is None else self.folder.name,
        }


@dataclass(frozen=True)
class Recorded:
    """What a folder holds of a skipped update, and of one of the ranks that did it.

    Attributes:
        info: the line of `skips.jsonl`, with versions.
        weights: the `state_dict` of before, with the buffers of before.
        args, kwargs: what the model was given; of several passes, that which was to blame, or the first one's.
        missing: what could not be kept, in words.
        patch: the document of the patch that the model had; empty if it had none.
        rank, loss: whose share of the batch this is, and the loss that it had.
        there: the ranks whose shares were found.
        outside: what the model kept outside of its `state_dict`, see `vdvae_patch.outside`; empty of older recordings.
    """

    path: Path
    info: dict[str, Any]
    weights: dict[str, Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    generators: RawStates
    autocast: Autocast
    training: bool
    threads: int
    patch: str
    missing: tuple[str, ...]
    rank: int = 0
    loss: float = math.nan
    there: tuple[int, ...] = (0,)
    outside: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Of the device that it was done on, such as cpu or cuda: that of the generator that it drew from."""
        return self.generators.kind

    @property
    def world(self) -> int:
        """How many ranks there were."""
        return int(self.info.get("world", 1))


@dataclass(frozen=True)
class Share:
    """What one rank had of a step: its part of the batch, its random states, its buffers.

    Attributes:
        state: as `state.pt` has it.
        loss: of this rank alone.
    """

    rank: int
    world: int
    loss: float
    state: dict[str, Any]

    @classmethod
    def of(
        cls,
        window: Window,
        buffers: Buffers,
        inputs: tuple[Any, ...],
        loss: float,
        rank: int = 0,
        world: int = 1,
        index: int = 0,
    ) -> Share:
        """Of the step under way.

        Args:
            inputs: what the loss reads, where the model itself was not called.
            index: of the call of the model that is kept: that of the micro-batch that was to blame.
        """
        missing: list[str] = []
        one = window.passes[index]
        given = (inputs, {}) if one.of else (one.args, one.kwargs)
        args, kwargs = plain(given[0], "input", missing), plain(given[1], "input", missing)
        if len(window.passes) > 1:
            more = len(window.passes) - 1
            missing.append(f"the inputs of {more} {FURTHER_CALL}{'s' if more > 1 else ''} of the model in this step")
        outside = {} if one.outside is None else one.outside.values()
        if one.outside is not None:
            missing += [f"{name} of the model, which is large" for name in one.outside.moved_unseen()]
        state = {
            "args": list(args),
            "kwargs": dict(kwargs),
            "buffers": {key: value.cpu().clone() for key, value in buffers.state().items()},
            "generators": (one.generators or RawStates.now(torch.device(one.autocast.device))).plain(),
            "autocast": [one.autocast.device, one.autocast.enabled, str(one.autocast.dtype).removeprefix("torch.")],
            "training": one.training,
            "threads": torch.get_num_threads(),
            "missing": missing,
            **({"outside": {name: moved(value) for name, value in outside.items()}} if outside else {}),
        }
        return cls(rank, world, loss, state)

    @property
    def info(self) -> dict[str, Any]:
        """As a manifest has it."""
        return {"rank": self.rank, "world": self.world, "loss": self.loss}


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The `state_dict`, on the CPU. Of a sharded model all ranks have to call it, which gives each the whole."""
    found: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        if isinstance(value, Tensor):
            whole = value.full_tensor() if hasattr(value, "full_tensor") else value
            found[key] = whole.detach().cpu()
    return found


def write(
    folder: Path, skip: Skip, model: nn.Module, weights: dict[str, Tensor], share: Share, of: Mapping[str, Any]
) -> Skip:
    """Record a skip in a folder of its own, with the share of the rank that does so, and give it with that folder.

    Args:
        of: the identity of the guard's folder, and the line of its log in which the skip will stand.

    Raises:
        RunError: no space left, or the folder cannot be written.
    """
    state = {**share.state, "model": weights, "patch": patch_json(model) if is_patched(model) else ""}
    info = (
        skip.record()
        | share.info
        | dict(of)
        | {
            "vdvae_patch": vdvae_patch.__version__,
            "torch": torch.__version__,
            "python": sys.version.split()[0],
            "model_class": type(model).__name__,
        }
    )
    return replace(skip, folder=sealed.write(folder, info, state, what=WHAT, remedy=_REMEDY))


def write_share(folder: Path, share: Share) -> None:
    """Add the share of another rank to the folder of a skip.

    Raises:
        RunError: no space left, or the folder cannot be written.
    """
    sealed.write(_of_rank(folder, share.rank), share.info, share.state, what=WHAT, remedy=_REMEDY)


def read(path: Path, rank: int | None = None) -> Recorded:
    """Read a recorded skip, every byte checked; no code in it runs.

    Args:
        rank: whose share; that of the first rank that was to blame if left out.

    Raises:
        CheckpointError: damaged, or something else, or without a share of that rank.
    """
    info, state = sealed.read(path, what=WHAT)
    where = f"{WHAT} {path}"
    if "args" not in state or "model" not in state:
        inside = f"; that is {path.parent}, with --rank {info['rank']}" if "rank" in info else ""
        raise CheckpointError(f"{path} is not a skip that a guard recorded{inside}")
    _require_info(info, where)
    own, world = info.get("rank") or 0, info.get("world") or 1
    there = tuple(k for k in range(world) if k == own or (_of_rank(path, k) / sealed.MANIFEST).exists())
    wanted = next(iter(info["ranks"]), own) if rank is None else rank
    if wanted not in there:
        known = f"there are those of ranks {', '.join(map(str, there))}" if world > 1 else "one process recorded it"
        elsewhere = "; where ranks share no disk, it lies in the same folder on that rank's machine, to be copied here"
        raise CheckpointError(
            f"{path} has no share of rank {wanted}: {known}{elsewhere if own <= wanted < world else ''}"
        )
    loss = float(info["elbo"] if info.get("loss") is None else info["loss"])
    share = state
    if wanted != own:
        of_rank, share = sealed.read(_of_rank(path, wanted), what=WHAT)
        where = f"{WHAT} {_of_rank(path, wanted)}"
        loss = require(of_rank, {"loss": float}, f"{where}: info", CheckpointError)["loss"]
    _require_share(share, where)
    require(state, {"model": dict[str, Tensor], "patch": str}, f"{WHAT} {path}", CheckpointError)
    weights = state["model"] | {k: v for k, v in share.get("buffers", {}).items() if k in state["model"]}
    device, enabled, dtype = share["autocast"]
    return Recorded(
        path, info, weights, tuple(share["args"]), share["kwargs"], raw_states(share["generators"]),
        Autocast(device, enabled, getattr(torch, dtype)), share["training"], share["threads"], state["patch"],
        tuple(share["missing"]), wanted, loss, there, share.get("outside") or {},
    )  # fmt: skip


_THREADS, _RANKS = 2**12, 2**16


def _require_info(info: dict[str, Any], where: str) -> None:
    """What is read of the line of `skips.jsonl`; raises `CheckpointError`."""
    wanted = {
        "step": Annotated[int, Between(0, 2**53)], "cause": Cause, "elbo": float, "grad_norm": float,
        "ranks": list[Annotated[int, Between(0, _RANKS)]], "loss": float | None, "model_class": str | None,
        "rank": Annotated[int, Between(0, _RANKS)] | None, "world": Annotated[int, Between(1, _RANKS)] | None,
    }  # fmt: skip
    require(info, wanted, f"{where}: info", CheckpointError)


def _require_share(share: dict[str, Any], where: str) -> None:
    """What `Share.of` writes; raises `CheckpointError`."""
    wanted = {
        "args": list[Any], "kwargs": dict[str, Any], "buffers": dict[str, Tensor] | None,
        "generators": dict[str, Any], "autocast": tuple[str, bool, str], "training": bool,
        "threads": Annotated[int, Between(1, _THREADS)], "missing": list[str], "outside": dict[str, Any] | None,
    }  # fmt: skip
    found = require(share, wanted, where, CheckpointError)
    require_states(found["generators"], f"{where}.generators")
    device, _, dtype = found["autocast"]
    if not isinstance(getattr(torch, dtype, None), torch.dtype) or device not in _DEVICES:
        raise CheckpointError(
            f"{where}.autocast: must be a device and a type of torch, not {shown(device)}, {shown(dtype)}"
        )


_DEVICES = ("cpu", "cuda", "mps", "xpu", "meta")


def _of_rank(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:04d}"


def plain(value: Any, name: str, missing: list[str]) -> Any:
    """Tensors and plain values, in nested lists and mappings; what is neither is left out and named in `missing`."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [plain(item, f"{name}[{n}]", missing) for n, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{name}.{key}", missing) for key, item in value.items()}
    missing.append(f"{name}, a {type(value).__name__}")
    return None


def moved(value: Any) -> Any:
    """An encoded value with its tensors in main memory."""
    if isinstance(value, Tensor):
        return value.cpu()
    return [moved(item) for item in value] if isinstance(value, list) else value


def size_of(window: Window) -> int:
    """Bytes of the first pass's inputs."""
    return sum(t.numel() * t.element_size() for t in window.passes[0].tensors) if window.passes else 0
