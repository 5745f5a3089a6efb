"""One skipped update, in memory, as a line of `skips.jsonl`, and as a folder from which it can be done again."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.errors import CheckpointError
from vdvae_patch.guarding.diagnosis import Diagnosis
from vdvae_patch.guarding.passes import Autocast, Buffers, Window
from vdvae_patch.patching import is_patched, patch_json
from vdvae_patch.skips import sealed
from vdvae_patch.skips.generators import RawStates, raw_states
from vdvae_patch.skips.rule import Cause
from vdvae_patch.trace import Event

WHAT = "recorded skip"


@dataclass(frozen=True)
class Skip:
    """An update that was not applied.

    Attributes:
        step: number of the optimizer's step, from 0.
        cause: see `Cause`.
        ranks: on which the loss, or the own share of the gradient, was not finite; empty of one process, and where it
            was not looked at.
        norm: of all gradients, before clipping.
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
            "exact": diagnosis.exact,
            "variants": {tried.variant: tried.holds for tried in diagnosis.tried},
            "heads": [head.record() for head in diagnosis.heads],
            "healed": self.healed or None,
            "recorded": None if self.folder is None else self.folder.name,
        }


@dataclass(frozen=True)
class Recorded:
    """What a folder holds of a skipped update.

    Attributes:
        info: the line of `skips.jsonl`, with versions.
        weights: the `state_dict` of before, with the buffers of before.
        args, kwargs: what the model was given; of several passes, the first one's.
        missing: what could not be kept, in words.
        patch: the document of the patch that the model had; empty if it had none.
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


def write(
    folder: Path, skip: Skip, model: nn.Module, window: Window, buffers: Buffers, inputs: tuple[Any, ...] = ()
) -> Skip:
    """Record a skip in a folder of its own, and give it with that folder.

    Args:
        inputs: what the loss reads, where the model itself was not called.

    Raises:
        RunError: no space left, or the folder cannot be written.
    """
    missing: list[str] = []
    one = window.passes[0]
    weights = {key: value.detach().cpu() for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    weights |= {key: value.cpu() for key, value in buffers.state().items() if key in weights}
    given = (inputs, {}) if one.of else (one.args, one.kwargs)
    args, kwargs = plain(given[0], "input", missing), plain(given[1], "input", missing)
    if len(window.passes) > 1:
        missing.append(f"the inputs of {len(window.passes) - 1} further calls of the model in this step")
    state = {
        "model": weights,
        "args": list(args),
        "kwargs": dict(kwargs),
        "generators": (one.generators or RawStates.now(torch.device("cpu"))).plain(),
        "autocast": [one.autocast.device, one.autocast.enabled, str(one.autocast.dtype).removeprefix("torch.")],
        "training": one.training,
        "threads": torch.get_num_threads(),
        "patch": patch_json(model) if is_patched(model) else "",
        "missing": missing,
    }
    info = skip.record() | {
        "vdvae_patch": vdvae_patch.__version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "model_class": type(model).__name__,
    }
    remedy = "the training goes on without it; free space, or keep=0"
    return replace(skip, folder=sealed.write(folder, info, state, what=WHAT, remedy=remedy))


def read(path: Path) -> Recorded:
    """Read a recorded skip, every byte checked; no code in it runs.

    Raises:
        CheckpointError: damaged, or something else.
    """
    info, state = sealed.read(path, what=WHAT)
    if "args" not in state:
        raise CheckpointError(f"{path} is not a skip that a guard recorded")
    device, enabled, dtype = state["autocast"]
    return Recorded(
        path, info, state["model"], tuple(state["args"]), state["kwargs"], raw_states(state["generators"]),
        Autocast(device, enabled, getattr(torch, dtype)), state["training"], state["threads"], state["patch"],
        tuple(state["missing"]),
    )  # fmt: skip


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


def size_of(window: Window) -> int:
    """Bytes of the first pass's inputs."""
    return sum(t.numel() * t.element_size() for t in window.passes[0].tensors) if window.passes else 0
