"""Which of a model's values outside of its `state_dict` have moved since it was built: what a checkpoint adds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from vdvae_patch.errors import CheckpointError
from vdvae_patch.outside.encoded import Decoder, Encoder, NoPlainValueError, fingerprint, named
from vdvae_patch.outside.opaque import opaque
from vdvae_patch.outside.places import NOT_THE_HOSTS, Holder, Registered, holders
from vdvae_patch.reading.fields import short

_DEEPEST = 6


@dataclass(frozen=True)
class Moved:
    """What has moved, by name.

    Attributes:
        values: encoded; what has been deleted is not among them.
        lost: what no file can hold, with what it is in words.
        computed: of the values, the tensors that a pass has computed and not let go of.
    """

    values: dict[str, Any] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)


class SinceBuilt:
    """The values of a model as they are now, to be compared with later.

    Args:
        model: as it is built: numbers, text and tensors that are the same when it is built again need no file.
        again: the same, built again; None to take that on trust.
    """

    def __init__(self, model: nn.Module, again: nn.Module | None = None) -> None:
        self._model = model
        self._kept: list[Any] = []  # what is compared by its identity, which must not become another's
        self._is_built = False
        self._objects = {holder.name: type(holder.of) for holder in holders(model)}
        self._then = {name: print_ for name, (print_, _) in self._prints(model).items()}
        anew = {} if again is None else self._prints(again)
        self.drawn_anew = frozenset(
            name
            for name, (print_, value) in anew.items()
            if not isinstance(value, NoPlainValueError) and self._then.get(name, print_) != print_
        )
        """What is another value whenever the model is built: drawn from a generator that nobody seeds."""
        self._is_built = True

    def moved(self, *, copies: bool = False, also: Collection[str] = ()) -> Moved:
        """What has moved since.

        Args:
            also: names whose values are told although they have not.
            copies: whether the values stay what they are when the model goes on.
        """
        found = Moved()
        now = self._prints(self._model, copies=copies)
        for name, (print_, value) in now.items():
            if self._then.get(name) == print_ and name not in also:
                continue
            if isinstance(value, NoPlainValueError):
                found.lost[name] = str(value)
            else:
                found.values[name] = value
        there = {holder.name for holder in holders(self._model)}
        for holder in holders(self._model):  # of an object that was made since no file can hold more than its values
            computed = [key for key, value in holder.items() if getattr(value, "grad_fn", None) is not None]
            found.computed.update(map(holder.path, computed))
            if self._objects.get(holder.name) is not type(holder.of):
                for key, _ in holder.items():
                    found.values.pop(holder.path(key), None)
                    found.lost.pop(holder.path(key), None)
                found.lost[holder.name] = named(holder.of)
        for name in self._then.keys() - now.keys():
            if name not in there and name.rpartition(".")[0] in there:
                found.lost[name] = "deleted"
        return found

    def _prints(self, model: nn.Module, *, copies: bool = False) -> dict[str, tuple[str, Any]]:
        encode = Encoder(device_of(model), Registered.of(model), copies=copies)
        objects = holders(model)
        inner = {id(holder.of) for holder in objects}
        found: dict[str, tuple[str, Any]] = {}
        for holder in objects:
            for key, value in holder.items():
                if id(value) in inner:
                    continue  # its attributes are looked at by themselves
                try:
                    encoded: Any = encode(value)
                    found[holder.path(key)] = fingerprint(encoded), encoded
                except NoPlainValueError as why:
                    if not self._is_built:
                        self._kept.append(_shallow(value))
                    found[holder.path(key)] = opaque(value, encode), why
        return found


def _shallow(value: Any, depth: int = 0) -> Any:
    """What refers to all that a container refers to now."""
    if depth < _DEEPEST and isinstance(value, (list, tuple)):
        return [value, *(_shallow(item, depth + 1) for item in value)]
    if depth < _DEEPEST and isinstance(value, dict):
        return [value, *(_shallow(item, depth + 1) for item in value.values())]
    return value


def put(model: nn.Module, values: Mapping[str, Any], where: str) -> None:
    """Give a model the values that `SinceBuilt.moved` found in one of the same build.

    Raises:
        CheckpointError: the model has no such module or object, or a value is none that was saved here.
    """
    known: dict[str, list[Holder]] = {}
    for holder in holders(model):
        known.setdefault(holder.name, []).append(holder)
    device = device_of(model)
    decode = Decoder(where, device)
    found: list[tuple[dict[str, Any], str, Any]] = []
    for name, value in values.items():
        path, _, key = name.rpartition(".")
        of = known.get(path)
        if of is None or not key.isidentifier() or key in NOT_THE_HOSTS or callable(getattr(type(of[0].of), key, None)):
            raise CheckpointError(f"{where}: {short(name)!r} is no attribute that this model can have")
        holder = next((one for one in of if one.only is not None and key in one.only), of[0])
        now = holder.values.get(key)
        decoded = decode(value, now)
        if holder.only is not None and not (decoded is None or isinstance(decoded, torch.Tensor)):
            raise CheckpointError(f"{where}: {name} must be a tensor, as it is a buffer")
        found.append((holder.values, key, decoded))
    for held, key, decoded in found:
        held[key] = decoded


def device_of(model: nn.Module) -> torch.device:
    """Of the first parameter."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
