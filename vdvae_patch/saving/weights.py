"""Weights as safetensors: tensors that are shared are written once, and both names are read again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.errors import CheckpointError, did_you_mean
from vdvae_patch.reading.fields import one_line

_CHUNK = 2**20


def write(model: nn.Module, file: Path) -> str:
    """Write the model's state_dict; the SHA-256 of the file.

    Raises:
        CheckpointError: something in it is no tensor, or has no values in this process.
    """
    from safetensors.torch import save_file

    kept: dict[str, Tensor] = {}
    shared: dict[str, str] = {"format": "pt"}
    first: dict[Any, str] = {}
    for name, value in model.state_dict().items():
        tensor = _plain(name, value)
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        if tensor.numel() and place in first:
            shared[name] = first[place]
        else:
            first[place] = name
            kept[name] = tensor.detach().to("cpu", copy=True).contiguous()
    save_file(kept, file, metadata=shared)
    return digest(file)


def _plain(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise CheckpointError(
            f"{name} of the state_dict is a {type(value).__name__}, and safetensors holds tensors alone"
        )
    if type(value).__name__ == "DTensor" or value.is_meta:
        why = "has no values" if value.is_meta else "is one part of several processes"
        raise CheckpointError(f"{name} of the state_dict {why}; save a model that has all its weights in this process")
    if value.layout is not torch.strided or value.is_quantized:
        raise CheckpointError(
            f"{name} of the state_dict is {value.layout}, quantized: {value.is_quantized}; not supported"
        )
    return value


def outside(model: nn.Module) -> dict[str, str]:
    """By the path of each buffer that is in no state_dict (`persistent=False`) the SHA-256 of its values.

    A model's own code makes them anew, and what a training has made of them is not saved.
    """
    found = {}
    for path, module in model.named_modules():
        for name in sorted(module._non_persistent_buffers_set):
            value = module._buffers.get(name)
            if value is None or value.is_meta or type(value) is not Tensor or value.layout is not torch.strided:
                continue
            data = value.detach().to("cpu").contiguous().flatten().view(torch.uint8).numpy()
            found[f"{path}.{name}" if path else name] = hashlib.sha256(data.tobytes()).hexdigest()
    return found


def repeated(model: nn.Module) -> dict[str, str]:
    """By each further path of a module with weights that has several (`self.b = self.a`) its first one.

    Such a module is patched once, under one path; two in its place, with equal weights, would be another model.
    """
    first: dict[int, str] = {}
    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        known = first.setdefault(id(module), path)
        if known != path and next(module.parameters(), None) is not None:
            found[path] = known
    return found


def digest(file: Path) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def read(file: Path) -> dict[str, Tensor]:
    """What `write` wrote, by all names; raises `CheckpointError` if the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  it is no mapping
            shared = opened.metadata() or {}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{file} is damaged, or no file of safetensors: {one_line(error)}") from None
    for name, other in shared.items():
        if (name, other) == ("format", "pt"):
            continue
        if other not in state:
            raise CheckpointError(f"{file}: {name} shares the values of {other}, which is not there")
        state[name] = state[other]
    return state


def check_fits(model: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    """Raise `CheckpointError` unless names, shapes and types are those of the model, and what is one tensor of it under
    several names has one value in the file, too."""
    own = model.state_dict()
    missing, more = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or more:
        name = (missing or more)[0]
        what = "lacks" if missing else "has"
        hint = did_you_mean(name, more) if missing and more else ""
        raise CheckpointError(
            f"{file} {what} {name}, which the model {'has' if missing else 'lacks'}{hint}; it is another model"
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"{file}: {name} has the shape {tuple(state[name].shape)}, and {tuple(tensor.shape)} in the model"
            )
        if tensor.dtype != state[name].dtype:
            raise CheckpointError(
                f"{file}: {name} is {state[name].dtype}, and {tensor.dtype} in the model; build it in the type it was "
                "saved in, since another rounds differently"
            )
    for name, other in _tied(model).items():
        if not _same(state[name], state[other]):
            raise CheckpointError(
                f"{file}: {name} and {other} have other values, and are one tensor in the model, which can hold one of "
                "them; build the model as it was when it was saved, with two"
            )


def _tied(model: nn.Module) -> dict[str, str]:
    """By each further name of a parameter or buffer that has several its first one."""
    first: dict[int, str] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    own = model.state_dict(keep_vars=True)
    return {
        name: known for name, value in named if name in own and (known := first.setdefault(id(value), name)) != name
    }


def untied(model: nn.Module, state: dict[str, Tensor]) -> dict[str, str]:
    """By the name of each parameter that was another one when it was saved, and is one of its own now, that other."""
    tied, first = _tied(model), dict[int, str]()
    found = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(state.get(name)), name)
        if name in state and other != name and tied.get(name, name) != tied.get(other, other):
            found[name] = other
    return found


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all bits are."""
    return one is other or torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def put(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give the model these weights; one that was built on the meta device gets them as they are, tied as it was."""
    on_meta = any(tensor.is_meta for tensor in model.state_dict().values())
    tied = _tied(model) if on_meta else {}
    model.load_state_dict(state, strict=True, assign=on_meta)
    for name, first in tied.items():  # what is assigned is a new parameter for each name
        (path, _, attribute), (of, _, its) = name.rpartition("."), first.rpartition(".")
        setattr(model.get_submodule(path), attribute, getattr(model.get_submodule(of), its))
