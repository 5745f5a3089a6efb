"""What numbers depend on beside the code: the states of every random generator of a process, and its threads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


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
