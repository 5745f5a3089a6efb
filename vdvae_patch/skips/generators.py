"""What numbers depend on beside the code: the states of every random generator of a process, and its threads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vdvae_patch.errors import CheckpointError
from vdvae_patch.validation import checked, one_line, require, shown

_WORDS = 624  # of a Mersenne twister


@dataclass(frozen=True)
class RawStates:
    """The states as their libraries give them, which costs little; `plain` makes of them what a file holds."""

    torch_state: torch.Tensor
    numpy_state: Any
    python_state: Any
    cuda_state: torch.Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RawStates:
        """Of torch on the CPU and on `device`, of numpy and of Python."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), np.random.get_state(legacy=True), random.getstate(), cuda)

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        name, keys, position, has_gauss, gauss = self.numpy_state
        numpy = [str(name), torch.from_numpy(np.asarray(keys, np.int64)), int(position), int(has_gauss), float(gauss)]
        states = {"torch": self.torch_state, "numpy": numpy, "python": _plain(self.python_state)}
        return states if self.cuda_state is None else {**states, "cuda": self.cuda_state}

    def restore(self, device: torch.device) -> None:
        """Undo whatever was drawn since."""
        torch.set_rng_state(self.torch_state)
        np.random.set_state(self.numpy_state)
        random.setstate(self.python_state)
        if device.type == "cuda" and self.cuda_state is not None:
            torch.cuda.set_rng_state(self.cuda_state, device)


def generator_states(device: torch.device) -> dict[str, Any]:
    """Of torch on the CPU and on `device`, of numpy and of Python."""
    return RawStates.now(device).plain()


def require_states(states: object, where: str) -> None:
    """Refuse what `generator_states` did not give: each state is tried on a generator of its own.

    Raises:
        CheckpointError: which state, and what is wrong with it.
    """
    wanted = {"torch": torch.Tensor, "numpy": list[Any], "python": list[Any], "cuda": torch.Tensor | None}
    found = require(states, wanted, where, CheckpointError)
    numpy = checked(found["numpy"], tuple[str, torch.Tensor, int, int, float], f"{where}.numpy", CheckpointError)
    python = checked(found["python"], tuple[int, list[int], float | None], f"{where}.python", CheckpointError)
    name, keys, position = numpy[:3]
    # numpy does not look where its own state says that it stands
    if name != "MT19937" or keys.dtype != torch.int64 or keys.shape != (_WORDS,) or not 0 <= position <= _WORDS:
        raise CheckpointError(f"{where}.numpy: is no state of a Mersenne twister ({shown(keys)} at {shown(position)})")
    if len(python[1]) != _WORDS + 1:
        raise CheckpointError(f"{where}.python: is no state of a Mersenne twister (a list of {len(python[1])})")
    for part, take in (
        ("torch", lambda: torch.Generator().set_state(found["torch"])),
        ("numpy, or of Python", lambda: _try(raw_states(found))),
    ):
        try:
            take()
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise CheckpointError(f"{where}: is no state of {part}: {one_line(error)}") from None


def _try(states: RawStates) -> None:
    np.random.RandomState().set_state(states.numpy_state)
    random.Random().setstate(states.python_state)


def raw_states(states: dict[str, Any]) -> RawStates:
    """The inverse of `RawStates.plain`."""
    name, keys, position, has_gauss, gauss = states["numpy"]
    version, words, gauss_next = states["python"]
    return RawStates(
        states["torch"], (name, keys.numpy().astype(np.uint32), position, has_gauss, gauss),
        (version, tuple(words), gauss_next), states.get("cuda"),
    )  # fmt: skip


def restore_generators(states: dict[str, Any], device: torch.device) -> None:
    """Undo whatever was drawn since `generator_states`; a GPU's state is left alone on a machine without one."""
    raw_states(states).restore(device)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of the processor: the order in which sums are taken depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
