"""What numbers depend on beside the code: the states of every random generator of a process, and its threads."""

from __future__ import annotations

import ctypes
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vdvae_patch.errors import CheckpointError
from vdvae_patch.reading.fields import checked, one_line, require, shown

_WORDS = 624  # of a Mersenne twister
_PHILOX_BYTES = 16  # of a CUDA generator: its seed and its offset, 64 bits each
_KINDS = ("cuda", "mps", "xpu")
"""The kinds of device beside the CPU whose generators torch keeps."""


class _NumpyState:
    """The state of numpy's generator, which takes 0.1 ms to ask for: only if it has moved since it was last asked for.

    Numbers are drawn from the words of the twister and its place in them, 2,500 bytes whose address numpy tells. Beside
    them stands one thing more: the second number of a pair of Normals, if it is still to be given out. It comes to be
    there by a draw, which moves the place, and may be gone without one; so a state that has it is asked for anew. (What
    is not seen is `set_state` with such a number and the very words and place that the state had without it.)
    """

    def __init__(self) -> None:
        self._of: Any = None  # the bit generator that was asked; another may be set in its place
        self._address = 0
        self._bytes = b""
        self._known: Any = None
        self._lock = threading.Lock()

    def now(self) -> Any:
        """As `numpy.random.get_state()` gives it."""
        with self._lock:
            own = np.random.get_bit_generator()  # type: ignore[attr-defined]
            if own is not self._of:
                twister = type(own) is np.random.MT19937
                self._of, self._address = own, own.ctypes.state_address if twister else 0
                self._known = None
            if not self._address:
                return np.random.get_state(legacy=False)
            found = ctypes.string_at(self._address, 4 * _WORDS + 4)
            if self._known is None or found != self._bytes:
                self._bytes, self._known = found, np.random.get_state(legacy=True)
            known = self._known
            if known[3]:  # a number of a pair is kept
                self._known = None
            return known


_numpy_state = _NumpyState()


@dataclass(frozen=True)
class RawStates:
    """The states as their libraries give them, which costs little; `plain` makes of them what a file holds.

    Attributes:
        device_state: of torch's generator on an accelerator; None of a CPU, which `torch_state` is of.
        kind: of that accelerator, such as cuda; else cpu.
    """

    torch_state: torch.Tensor
    numpy_state: Any
    python_state: Any
    device_state: torch.Tensor | None = None
    kind: str = "cpu"

    @classmethod
    def now(cls, device: torch.device) -> RawStates:
        """Of torch on the CPU and on `device`, of numpy and of Python."""
        own = _state_of(device) if device.type in _KINDS else None
        kind = device.type if own is not None else "cpu"
        return cls(torch.get_rng_state(), _numpy_state.now(), random.getstate(), own, kind)

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        name, keys, position, has_gauss, gauss = self.numpy_state
        numpy = [str(name), torch.from_numpy(np.asarray(keys, np.int64)), int(position), int(has_gauss), float(gauss)]
        states = {"torch": self.torch_state, "numpy": numpy, "python": _plain(self.python_state)}
        return states if self.device_state is None else {**states, self.kind: self.device_state}

    def restore(self, device: torch.device) -> None:
        """Undo whatever was drawn since; what was drawn on a device of another kind is left alone."""
        torch.set_rng_state(self.torch_state)
        np.random.set_state(self.numpy_state)
        random.setstate(self.python_state)
        if device.type == self.kind and self.device_state is not None:
            of_kind = getattr(torch, self.kind)
            if self.kind == "mps":  # there is one device, which its functions do not take
                of_kind.set_rng_state(self.device_state)
            else:
                of_kind.set_rng_state(self.device_state, device)

    @property
    def philox(self) -> tuple[int, int] | None:
        """Seed and offset of a CUDA generator, of which its numbers are a function; None of another."""
        if self.kind != "cuda" or self.device_state is None or self.device_state.numel() != _PHILOX_BYTES:
            return None
        seed, offset = self.device_state.cpu().contiguous().view(torch.int64).tolist()
        return seed % 2**64, offset


def generator_states(device: torch.device) -> dict[str, Any]:
    """Of torch on the CPU and on `device`, of numpy and of Python."""
    return RawStates.now(device).plain()


def require_states(states: object, where: str) -> None:
    """Refuse what `generator_states` did not give: each state is tried on a generator of its own.

    Raises:
        CheckpointError: which state, and what is wrong with it.
    """
    wanted = {"torch": torch.Tensor, "numpy": list[Any], "python": list[Any]}
    found = require(states, wanted | dict.fromkeys(_KINDS, torch.Tensor | None), where, CheckpointError)
    kinds = [kind for kind in _KINDS if found.get(kind) is not None]
    if len(kinds) > 1:
        raise CheckpointError(f"{where}: is of {' and of '.join(kinds)}, and a process has one device")
    for kind in kinds:
        state = found[kind]
        plain = type(state) is torch.Tensor and state.layout is torch.strided and state.device.type == "cpu"
        if not plain or state.dtype != torch.uint8 or state.ndim != 1 or not len(state):
            raise CheckpointError(f"{where}.{kind}: is no state of a generator, which is bytes in a row")
        if kind == "cuda" and len(state) != _PHILOX_BYTES:
            raise CheckpointError(f"{where}.cuda: must be a seed and an offset, 16 bytes, not {len(state)}")
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
        (version, tuple(words), gauss_next), *next(_of_devices(states), (None, "cpu")),
    )  # fmt: skip


def _of_devices(states: dict[str, Any]) -> Iterator[tuple[torch.Tensor, str]]:
    return ((states[kind], kind) for kind in _KINDS if states.get(kind) is not None)


def kind_of(states: dict[str, Any]) -> str:
    """The kind of device, such as cuda, that plain states are of: that of the generator of the model's noise."""
    return raw_states(states).kind


def restore_generators(states: dict[str, Any], device: torch.device) -> None:
    """Undo whatever was drawn since `generator_states`; the state of another kind of device than this is left alone."""
    raw_states(states).restore(device)


def _state_of(device: torch.device) -> torch.Tensor:
    of_kind = getattr(torch, device.type)
    state: torch.Tensor = of_kind.get_rng_state() if device.type == "mps" else of_kind.get_rng_state(device)
    return state.cpu()


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
