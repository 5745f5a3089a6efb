"""From the tensors of a file to those of a model: under which key they lie, and under which prefix."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.errors import CheckpointError, did_you_mean
from vdvae_patch.train.weight_files import DEPTH, WeightsFile, listed, shape_of
from vdvae_patch.validation import short

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module"})
"""What torch.compile, FSDP, activation checkpointing, Fabric and DDP put into the names of a model."""

_PLAIN = ("floating point numbers", "integers", "complex numbers")
_MOST_DICTS, _LONGEST_NAME = 1_000, 1_000

_COUNTERS = frozenset({"n_averaged"})  # of torch.optim.swa_utils.AveragedModel, beside the weights
_AVERAGE = re.compile(r"(?:^|[^a-z])(?:ema|avg|averag(?:ed?|ing)|shadow|swa|polyak)(?:$|[^a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Selection:
    """The tensors of a file that are the model's, by the model's names, and what there is to say about the choice."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """Tensors in a file that may be the model's.

    Attributes:
        label: the keys on the way and the common prefix, joined by dots: what `FILE:KEY` chooses by.
        tensors: by the model's names, and where they differ from these by the file's, wrappers and prefix taken off.
        removed: what was taken off the names, for the notes.
        beside: tensors that lie beside the prefix.
        average: whether it is a moving average, by its label or its counter.
    """

    label: str
    tensors: dict[str, Tensor]
    removed: str
    beside: tuple[str, ...]
    average: bool


@dataclass(frozen=True)
class _Misfit:
    """How names and shapes of some tensors differ from the model's."""

    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    other: tuple[str, ...]

    @classmethod
    def between(cls, found: _Found, own: Mapping[str, Tensor]) -> _Misfit:
        shared = own.keys() & found.tensors
        return cls(
            tuple(sorted(own.keys() - shared)),
            tuple(sorted(found.tensors.keys() - shared)),
            tuple(sorted(name for name in shared if not _alike(own[name], found.tensors[name]))),
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unknown or self.other)


def select_weights(file: WeightsFile, own: Mapping[str, Tensor]) -> Selection:
    """The tensors of a file that have the names and shapes of `own`, a model's state_dict.

    Names are taken as they are, or after the wrappers of torch.compile, DDP and FSDP (a model may have a module of that
    name of its own), under any key to a depth of 3, and under a common prefix (Lightning's attribute). Where a moving
    average fits as well, the plain weights are taken, and the note says how to choose the other: `FILE:ema`.

    Raises:
        CheckpointError: nothing fits, several things fit that differ, what was chosen is not there, or a value is not
            finite.
    """
    found = list(_candidates(file, own))
    if not found:
        raise CheckpointError(f"weights file {file.path} does not hold a state_dict; it holds {listed(file.content)}")
    all_found = found
    if file.chosen is not None:
        found = _chosen(file, found)
    fitting = [item for item in found if not _Misfit.between(item, own)]
    if not fitting:
        raise CheckpointError(_no_fit(file, found, own))
    taken = _one_of(file, fitting)
    _require_finite(file, taken, all_found, own)
    return Selection(taken.tensors, _notes(file, taken, fitting, own))


def _candidates(file: WeightsFile, own: Mapping[str, Tensor]) -> Iterator[_Found]:
    for count, (keys, tensors) in enumerate(_state_dicts(file.content, (), set())):
        if count >= _MOST_DICTS:
            raise CheckpointError(f"weights file {file.path} holds more than {_MOST_DICTS} dictionaries of tensors")
        if (name := next((name for name in tensors if len(name) > _LONGEST_NAME), None)) is not None:
            raise CheckpointError(
                f"weights file {file.path} has a tensor whose name is {len(name):,} characters long, "
                f"{short(name, 40)!r}; no model has such names"
            )
        yield from _readings(keys, tensors, own)


def _state_dicts(
    content: Mapping[Any, Any], keys: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    if id(content) in seen:
        return  # a file can hold one mapping under a million names
    seen.add(id(content))
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield keys, tensors
    for key, value in content.items():
        # an optimizer's moments have the names and shapes of the weights
        if isinstance(key, str) and isinstance(value, Mapping) and len(keys) < DEPTH and not key.startswith("optim"):
            yield from _state_dicts(value, (*keys, short(key)), seen)


def _readings(keys: tuple[str, ...], tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[_Found]:
    """The tensors under each prefix that at least one of them needs to have a name of the model's."""
    bare_own = _without_wrappers(own)
    bare = _without_wrappers(tensors)
    if own.keys() <= tensors.keys() or len(bare_own) < len(own) or len(bare) < len(tensors):
        # as it is: names that fit already, or that wrappers tell apart
        bare_own, bare = {name: name for name in own}, {name: name for name in tensors}
    prefixes = Counter(name[: len(name) - len(tail)] for name in bare for tail in _tails(name) if tail in bare_own)
    most = max(prefixes.values(), default=0)
    likely = [prefix for prefix, count in prefixes.items() if count == most] or [""]
    for prefix in likely:
        under = {name: origin for name, origin in bare.items() if name.startswith(prefix)}
        beside = {name for name in bare if name not in under}
        counters = {name for name in under if name.removeprefix(prefix) in _COUNTERS - bare_own.keys()}
        others = tuple(p for p in likely if p != prefix and p.startswith(prefix))
        taken = {
            bare_own.get(name.removeprefix(prefix), name.removeprefix(prefix)): tensors[origin]
            for name, origin in under.items()
            if name not in counters and not (others and name.startswith(others))
        }
        label = ".".join((*keys, *filter(None, [prefix.rstrip(".")])))
        average = bool(counters or _AVERAGE.search(label))
        yield _Found(label, taken, _removed(tensors, bare, prefix), tuple(sorted(beside)), average)


def _tails(name: str) -> Iterator[str]:
    """`"net.a.b"`, `"a.b"`, `"b"`."""
    parts = name.split(".")
    return (".".join(parts[n:]) for n in range(len(parts)))


def _without_wrappers(names: Mapping[str, object]) -> dict[str, str]:
    """From each name without the wrappers' parts to the name as it is."""
    return {".".join(part for part in name.split(".") if part not in WRAPPERS): name for name in names}


def _removed(tensors: Mapping[str, Tensor], bare: Mapping[str, str], prefix: str) -> str:
    wrappers = {part for name, origin in bare.items() if name != origin for part in origin.split(".")} & WRAPPERS
    parts = [*sorted(f"{part}." for part in wrappers), *filter(None, [prefix])]
    return " and ".join(repr(part) for part in parts)


def _chosen(file: WeightsFile, found: list[_Found]) -> list[_Found]:
    """Those under the key that was asked for: its whole label, or else its beginning or its end."""
    wanted = file.chosen
    exact = [item for item in found if item.label == wanted]
    partial = [item for item in found if f".{wanted}." in f".{item.label}."]
    if not (exact or partial):
        labels = [item.label for item in found if item.label]
        raise CheckpointError(
            f"weights file {file.path} has no {wanted!r}{did_you_mean(str(wanted), labels)}; it holds "
            f"{listed(file.content)}"
        )
    return exact or partial


def _one_of(file: WeightsFile, fitting: list[_Found]) -> _Found:
    """The plain weights before a moving average; of several only if they are the same."""
    plain = [item for item in fitting if not item.average] or fitting
    first = plain[0]
    if any(not _same(first.tensors, item.tensors) for item in plain[1:]):
        labels = [item.label for item in fitting]
        raise CheckpointError(
            f"weights file {file.path} has several state_dicts that fit the model ({', '.join(map(repr, labels))}), "
            f"and they differ; choose one, such as --weights {file.path}:{next(filter(None, labels))}"
        )
    return first


def _alike(a: Tensor, b: Tensor) -> bool:
    """Of one shape, and numbers of one kind: integers in a file are not the model's floats, but quantized ones."""
    return _kind(a) == _kind(b) and a.shape == b.shape


def _kind(tensor: Tensor) -> str:
    """What a tensor is made of: one of `_PLAIN`, or why its values cannot be taken."""
    if why := why_no_weights(tensor):
        return why
    if tensor.is_complex():
        return "complex numbers"
    return "floating point numbers" if tensor.is_floating_point() else "integers"


def why_no_weights(tensor: Tensor) -> str:
    """Why the values of a tensor of a file cannot be those of a parameter; empty if they can."""
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        return f"a {type(tensor).__name__}"
    if tensor.is_meta:
        return "without values (of the meta device)"
    if tensor.is_nested or tensor.layout is not torch.strided:
        return "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
    return "quantized" if tensor.is_quantized else ""


def _type(tensor: Tensor) -> str:
    kind = _kind(tensor)
    return str(tensor.dtype) if kind in _PLAIN else f"{kind} {tensor.dtype}"


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def _not_finite(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors with NaN or infinities, except where the model has the same one when it is built: a mask."""
    bad = []
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            built = own[name].to("cpu", value.dtype)
            if not bool((value.isfinite() | (value == built)).all()):
                bad.append(name)
    return bad


def _require_finite(file: WeightsFile, taken: _Found, found: list[_Found], own: Mapping[str, Tensor]) -> None:
    bad = _not_finite(taken.tensors, own)
    if not bad:
        return
    value = taken.tensors[bad[0]]
    nans, count = int(value.isnan().sum()), int((~value.isfinite()).sum())
    others = [
        item.label
        for item in found
        if item is not taken and item.label and not _Misfit.between(item, own) and not _not_finite(item.tensors, own)
    ]
    hint = "it was saved after a run had broken; take an earlier one"
    if others:
        hint = f"its {others[0]!r} is finite: --weights {file.path}:{others[0]}"
    under = f" ({taken.label!r})" if taken.label else ""
    raise CheckpointError(
        f"weights file {file.path}{under}: not finite are {len(bad)} of {len(taken.tensors)} tensors, such as "
        f"{bad[0]!r} ({nans} NaN and {count - nans} infinite of {value.numel()} values); {hint}"
    )


def _notes(file: WeightsFile, taken: _Found, fitting: list[_Found], own: Mapping[str, Tensor]) -> tuple[str, ...]:
    said = [f"weights of {file.path}"]
    if taken.label:
        said.append(f"its {taken.label!r}{' (a moving average)' if taken.average else ''}")
    elif taken.average:
        said.append("a moving average")
    if taken.removed:
        said.append(f"names without {taken.removed}")
    types = {value.dtype for name, value in taken.tensors.items() if value.dtype != own[name].dtype}
    if types:
        said.append(f"stored as {', '.join(sorted(str(t).removeprefix('torch.') for t in types))}")
    notes = [", ".join(said)]
    if file.chosen is None:
        others = [item for item in fitting if item is not taken and not _same(item.tensors, taken.tensors)]
        for item in others:
            what = "a moving average" if item.average else "another one"
            notes.append(f"{what} fits as well: --weights {file.path}:{item.label}")
        if taken.beside and not others:
            notes.append(f"tensors in it that are not used: {len(taken.beside)}, such as {taken.beside[0]!r}")
    return tuple(notes)


def _no_fit(file: WeightsFile, found: list[_Found], own: Mapping[str, Tensor]) -> str:
    """The nearest in words: how many tensors are missing, unknown and of another shape, with an example of each."""
    misfits = [(item, _Misfit.between(item, own)) for item in found]
    nearest, misfit = min(misfits, key=lambda pair: len(pair[1].missing) + len(pair[1].other) + len(pair[1].unknown))
    examples = []
    if misfit.missing:
        examples.append(f"missing {misfit.missing[0]!r}")
    if misfit.unknown:
        examples.append(f"unknown {misfit.unknown[0]!r}")
    if misfit.other:
        name = misfit.other[0]
        there, here = nearest.tensors[name], own[name]
        kinds = (_type(there), _type(here)) if _kind(there) != _kind(here) else ("", "")
        sizes = [f"{kind} {shape_of(t)}".strip() for kind, t in zip(kinds, (there, here), strict=True)]
        examples.append(f"{name!r} is {sizes[0]} there and {sizes[1]} in the model")
    shapes = all(_kind(nearest.tensors[name]) == _kind(own[name]) for name in misfit.other)
    what = "shape" if shapes else "shape or kind"
    hint = "is it of another preset or host?"
    if any(name.endswith("flat_param") for name in misfit.unknown):
        hint = "it is of FSDP, which saved its own shards: save a full state_dict there"
    keys = "" if not nearest.label and len(found) == 1 else f" Its keys: {listed(file.content)}"
    under = f" ({nearest.label!r})" if nearest.label else ""
    return (
        f"{file.path}{under} does not fit the model: {len(misfit.missing)} tensors missing, {len(misfit.unknown)} "
        f"unknown, {len(misfit.other)} of another {what} ({'; '.join(examples)}); {hint}{keys}"
    )
