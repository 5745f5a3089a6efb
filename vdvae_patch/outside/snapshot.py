"""All that may move in a step outside of a model's `state_dict`, as it was before one: so that it can be done again.

It is taken before every pass that may have to be done again, and so must cost little: of modules of torch's own there
are the floats alone (`p`, `eps`), since the rest are settings; what a pass has computed, with its graph, is none of the
next one's; and what is large is not copied, but known to have moved.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vdvae_patch.outside.encoded import Decoder, Encoder, NoPlainValueError
from vdvae_patch.outside.moved import device_of
from vdvae_patch.outside.places import Holder, Registered, holders

_AGAIN = 500  # snapshots between two looks at which modules and objects there are
_LARGE = 2**20  # bytes of a tensor that is copied
_LONG = 1000  # items of a container that is copied
_PLAIN = frozenset({int, float, bool, str, type(None)})
_TENSORS = (Tensor, getattr(nn, "Buffer", Tensor))
_CONTAINERS = (list, dict, set, deque, OrderedDict, Counter, tuple)
_GENERATORS = ("Generator", "RandomState", "Random")


@dataclass(frozen=True)
class _Place:
    """Where a value is."""

    name: str
    values: dict[str, Any]
    key: str


@dataclass(frozen=True)
class _Looked:
    """Where the values of a model are that may move.

    Attributes:
        sizes: the dictionaries that were looked through, with how many values they had.
        numbers, others: numbers, text and what else never changes itself, which are most and cost least; tensors,
            containers and generators.
    """

    sizes: list[tuple[dict[str, Any], int]]
    numbers: list[_Place]
    others: list[_Place]
    encoder: tuple[torch.device, Registered]

    @classmethod
    def through(cls, model: nn.Module) -> _Looked:
        """All of a model."""
        kept = holders(model)
        found = cls([(h.values, len(h.values)) for h in kept], [], [], (device_of(model), Registered.of(model)))
        for holder in kept:
            for key, value in holder.items():
                place, kind = _Place(holder.path(key), holder.values, key), type(value)
                if _is_torchs(holder) and kind is not float:
                    continue
                if _is_immutable(value):
                    found.numbers.append(place)
                elif kind in _TENSORS or kind in _CONTAINERS or kind is np.ndarray or kind.__name__ in _GENERATORS:
                    found.others.append(place)
        return found

    @property
    def holds(self) -> bool:
        """Whether there are no more values, and no fewer, than when it was looked."""
        return all(len(values) == size for values, size in self.sizes)


@dataclass(frozen=True)
class Snapshot:
    """What a pass found.

    Attributes:
        large: what was not copied, with what tells whether it has moved.
    """

    _looked: _Looked
    _numbers: list[Any]
    _others: list[tuple[_Place, Any]]
    large: list[tuple[_Place, tuple[Any, ...]]]

    def values(self) -> dict[str, Any]:
        """Encoded, by name, as `put` takes them."""
        encode = Encoder(*self._looked.encoder)
        numbers = zip(self._looked.numbers, self._numbers, strict=True)
        found = {}
        for place, value in numbers:
            if not isinstance(value, str):  # names of devices and files
                with suppress(NoPlainValueError):
                    found[place.name] = encode(value)
        return found | {place.name: value for place, value in self._others}

    def put_back(self, model: nn.Module) -> None:
        """Give the attributes what they had; with other objects in their places, so that what stands there now is
        as it is when it is put back in its turn."""
        for place, value in zip(self._looked.numbers, self._numbers, strict=True):
            place.values[place.key] = value
        decode = Decoder("the state of the step", device_of(model))
        for place, value in self._others:
            place.values[place.key] = decode(value, place.values.get(place.key))

    def put_back_spoilt(self) -> tuple[str, ...]:
        """Give back the numbers and tensors that are not finite any more and were: a mean that follows the data would
        keep a NaN for ever. Their names; counts go on, and so does all else.

        A tensor that is still the same one gets its values back, so that whoever shares it has them, too.
        """
        found = []
        numbers = zip(self._looked.numbers, self._numbers, strict=True)
        for place, value in numbers:
            if isinstance(value, float) and math.isfinite(value) and not is_finite(place.values.get(place.key)):
                place.values[place.key] = value
                found.append(place.name)
        for place, value in self._others:
            now = place.values.get(place.key)
            if value[0] != "tensor" or is_finite(now) or not is_finite(value[1]) or getattr(now, "grad_fn", None):
                continue
            if isinstance(now, Tensor) and now.shape == value[1].shape and now.dtype == value[1].dtype:
                now.data.copy_(value[1])
                found.append(place.name)
        return tuple(found)

    def moved_unseen(self) -> tuple[str, ...]:
        """What has moved since, of all that was too large to be copied."""
        return tuple(place.name for place, told in self.large if _told(place.values.get(place.key)) != told)


class Snapshots:
    """Takes them of one model."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._taken = 0
        self._looked: _Looked | None = None

    def take(self) -> Snapshot:
        """As all is now."""
        looked, again = self._looked, self._taken % _AGAIN == 0
        self._taken += 1
        if looked is None or again or not looked.holds:
            looked = self._looked = _Looked.through(self._model)
        numbers = [place.values.get(place.key) for place in looked.numbers]
        if not all(type(value) in _PLAIN or _is_immutable(value) for value in numbers):  # one has become something else
            looked = self._looked = _Looked.through(self._model)
            numbers = [place.values[place.key] for place in looked.numbers]
        others: list[tuple[_Place, Any]] = []
        large: list[tuple[_Place, tuple[Any, ...]]] = []
        encode = Encoder(*looked.encoder, copies=True)
        for place in looked.others:
            value = place.values.get(place.key)
            if told := _told(value):
                large.append((place, told))
            elif getattr(value, "grad_fn", None) is None:
                with suppress(NoPlainValueError):
                    others.append((place, encode(value)))
        return Snapshot(looked, numbers, others, large)


def _is_immutable(value: Any) -> bool:
    """Whether it can be kept as it is, since only another one can take its place."""
    if type(value) in _PLAIN or isinstance(value, complex | bytes | Enum | np.generic):
        return True
    return isinstance(value, tuple) and len(value) < _LONG and all(map(_is_immutable, value))


def is_finite(value: Any) -> bool:
    """Whether a number, or each value of a tensor, is finite; of anything else true."""
    if isinstance(value, Tensor):
        return not (value.is_floating_point() or value.is_complex()) or bool(value.detach().isfinite().all())
    return not isinstance(value, float) or math.isfinite(value)


def _told(value: Any) -> tuple[Any, ...]:
    """Of what is too large, what tells whether it has moved; empty of all else."""
    if isinstance(value, Tensor):
        if value.numel() * value.element_size() < _LARGE:
            return ()
        return (id(value), 0 if value.is_inference() else value._version)
    if isinstance(value, np.ndarray):
        return (id(value), "an array") if value.nbytes >= _LARGE else ()
    return (id(value), len(value)) if isinstance(value, _CONTAINERS) and len(value) >= _LONG else ()


def _is_torchs(holder: Holder) -> bool:
    return holder.only is None and type(holder.of).__module__.startswith("torch.")
