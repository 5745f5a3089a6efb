"""Run operations so that they can be undone: what they write to, and what they draw.

Memory from before the call is copied before its first change; random numbers come from generators of the call's own.
Memory is known by its address. A weak reference to what the call makes keeps a few bytes of bookkeeping, and with them
the address, so that memory of others that comes in unseen (`from_numpy`) never passes for memory that the call made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from vdvae_patch.scanning.watching.draws import PrivateDraws, is_random
from vdvae_patch.scanning.watching.refused_values import despite_refusal

_PYTORCH = os.path.dirname(torch.__file__) + os.sep


class Undoing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets the operations of a call run, and nothing else; `put_back` undoes what they did to memory from before it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws = PrivateDraws()
        self._writes: dict[Any, tuple[bool, ...]] = {}
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._made: dict[int, StorageWeakRef] = {}
        """Memory that the call made, by its address."""
        self._codes: set[CodeType] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not to be wrapped by PyTorch's compiler, which would be imported: nothing compiled runs under this mode."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if any(self._written(func)):
            self._keep_memory(func, args, kwargs)
        out = self._run(func, args, kwargs)
        self._note_made([*args, *kwargs.values()], out)
        self._note_codes(sys._getframe(1))
        return out

    def put_back(self) -> None:
        """Write back what operations changed of memory from before the call: parameters, the batch, a history."""
        for storage, copy in self._before.values():
            storage.copy_(copy)
        self._before.clear()
        self.draws.put_back()

    def names(self, word: str) -> bool:
        """Whether a function of the host that ran names something so."""
        return any(word in code.co_names for code in self._codes)

    def _note_codes(self, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code.co_name != RUNNER:
            if frame.f_code not in self._codes and not frame.f_code.co_filename.startswith(_PYTORCH):
                self._codes.add(frame.f_code)
            frame = frame.f_back

    # --- one operation ---

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            return self.draws.run(func, args, kwargs) if is_random(func) else func(*args, **kwargs)

        try:
            return run(*args, **kwargs)
        except (RuntimeError, ValueError) as error:
            if any(self._written(func)):
                raise  # what it writes to may be half written
            given = despite_refusal(run, args, kwargs, error)
            self._note_refusal(func, error)
            return given

    def _note_refusal(self, func: Any, error: Exception) -> None:
        """Called with an operation that refused its arguments because they are not finite."""

    def _keep_memory(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Copy the memory from before the call that an operation writes to, before its first change."""
        for tensor in self._written_to(func, args, kwargs):
            key = storage_key(tensor)
            if key is not None and key not in self._before and not self._is_made(key):
                memory = tensor.untyped_storage()
                self._before[key] = memory, memory.clone()  # type: ignore[no-untyped-call]

    def _is_made(self, key: int) -> bool:
        """Whether the call made the memory at an address."""
        return key in self._made

    def _note_made(self, args: Sequence[Any], out: Any) -> None:
        """Note the memory of results that is not that of an operand."""
        given = {storage_key(tensor) for tensor in tensors_among(args)}
        for tensor in tensors_among([out]):
            key = storage_key(tensor)
            if key is not None and key not in given and key not in self._made:
                self._made[key] = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]

    def _written_to(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The tensors that an operation writes to."""
        arguments = func._schema.arguments
        given = {**dict(zip((a.name for a in arguments), args, strict=False)), **kwargs}
        writes = [a.name for a, written in zip(arguments, self._written(func), strict=True) if written]
        return tensors_among([given[name] for name in writes if name in given])

    def _written(self, func: Any) -> tuple[bool, ...]:
        known = self._writes.get(func)
        if known is None:
            arguments = func._schema.arguments
            known = tuple(a.alias_info is not None and a.alias_info.is_write for a in arguments)
            self._writes[func] = known
        return known


RUNNER = "run_watched"
"""Name of the function of this package that calls the host: frames outside it are the caller's."""


def tensors_among(values: Any) -> list[Tensor]:
    """The tensors of nested lists and tuples."""
    out: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            out.append(value)
        elif isinstance(value, list | tuple):
            out.extend(tensors_among(value))
    return out


def storage_key(tensor: Tensor) -> int | None:
    """The address of a tensor's memory; None of one that has none, as a sparse one."""
    if tensor.layout != torch.strided:
        return None
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # wrappers of torch.func have no storage
        return None
