"""Random numbers of a watched call: from generators of its own, which start where the global ones stand.

The call draws what it would have drawn, and the global generators do not move, so nothing has to be put back: putting
their state back would repeat numbers for any other thread that drew meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_swapping = threading.Lock()


class PrivateDraws:
    """Runs random operations on generators of its own."""

    def __init__(self) -> None:
        self._generators: dict[torch.device, torch.Generator] = {}
        self._hosts: dict[int, tuple[torch.Generator, Tensor]] = {}

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`func(*args, **kwargs)`, a random operation."""
        given = kwargs.get("generator")
        if given is not None:  # the host's own generator, which is put back
            self._hosts.setdefault(id(given), (given, given.get_state()))
            return func(*args, **kwargs)
        device = _device(args, kwargs)
        if device.type not in ("cpu", "cuda"):
            return func(*args, **kwargs)
        own = self._generator(device)
        if any(argument.name == "generator" for argument in func._schema.arguments):
            return func(*args, **{**kwargs, "generator": own})
        with _swapping:  # dropout and its kind take no generator
            shared = _default(device)
            before = shared.get_state()
            shared.set_state(own.get_state())
            try:
                return func(*args, **kwargs)
            finally:
                own.set_state(shared.get_state())
                shared.set_state(before)

    def put_back(self) -> None:
        """The host's own generators as they were."""
        for generator, state in self._hosts.values():
            generator.set_state(state)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            own = torch.Generator(device)
            own.set_state(_default(device).get_state())
            self._generators[device] = own
        return self._generators[device]


@contextmanager
def drawn_anew(seed: int) -> Iterator[None]:
    """Other random numbers than those that come next, which stay the next."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def is_random(func: Any) -> bool:
    """Whether an operation draws random numbers."""
    return torch.Tag.nondeterministic_seeded in func.tags


def _default(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def _device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    named = kwargs.get("device")
    if named is None:
        tensor = next((a for a in args if isinstance(a, Tensor)), None)
        named = torch.device("cpu") if tensor is None else tensor.device
    device = torch.device(named)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
