"""Averages of a model's weights that hold a NaN, for what is averaged once stays in them for ever; or that have not the
scales that the model was given while it trained, whose σ is then another function of the averaged weights."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vdvae_patch.attach.graft import host_class
from vdvae_patch.outcome import some
from vdvae_patch.patching import patched_heads


def spoilt(model: nn.Module) -> list[str]:
    """What is said of each `AveragedModel`, and each copy of the model that is not trained, whose weights or buffers
    are not finite while the model's are.

    A guard keeps the model finite, and so what is averaged from then on; but an average that took in a NaN before, or
    was loaded with one, never loses it.
    """
    if not _spoilt(model):
        return []
    gc.collect()  # one that was given up is none any more
    return _spoilt(model)


def unlike(model: nn.Module) -> list[str]:
    """What is said of each such average, or copy, whose heads have other scales than the model's."""
    gc.collect()
    wanted = _scales(model)
    return [
        f"{_named(model, module)} was made before and has not the scales of now, so that its σ is another function of "
        "these weights: if it is of this model, give it the same patch, such as vdvae_patch.apply(average.module, "
        "vdvae_patch.patch_json(model)), and unpatch it before if it has one"
        for module, copy in _averages(model)
        if _scales(copy) != wanted
    ]


def _scales(model: nn.Module) -> set[tuple[str, str]]:
    return {(str(patched.head), str(patched.scale)) for patched in patched_heads(model)}


def _spoilt(model: nn.Module) -> list[str]:
    own = _tensors(model)
    found: list[str] = []
    for module, copy in _averages(model):
        bad = tuple(name for name, t in _tensors(copy).items() if not _finite(t) and _finite(own[name]))
        if bad:
            found.append(_said(model, module, bad))
    return found


def _averages(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each, and the module with its weights."""
    own = _tensors(model)
    averaged: set[int] = set()
    modules = [m for m in gc.get_objects() if issubclass(type(m), nn.Module)]  # isinstance asks the object
    for module in sorted(modules, key=lambda m: not isinstance(m, AveragedModel)):
        copy = module.module if isinstance(module, AveragedModel) else module
        if copy is model or id(copy) in averaged or host_class(copy) is not host_class(model):
            continue
        tensors = _tensors(copy)
        if tensors.keys() != own.keys() or any(tensors[name] is tensor for name, tensor in own.items()):
            continue
        trained = copy is module and any(p.requires_grad for p in copy.parameters())
        if trained and copy.training:
            continue  # another model, which has its own loop
        averaged.add(id(copy))
        yield module, copy


def _said(model: nn.Module, module: nn.Module, bad: tuple[str, ...]) -> str:
    """Of an average, or a copy, with values that are not finite; of another model of its class it may be one, too."""
    held = f"{_named(model, module)} holds values that are not finite ({some(bad)})"
    if (
        isinstance(module, AveragedModel)
        and not module.use_buffers
        and not set(bad) & set(dict(model.named_parameters()))
    ):
        # PyTorch copies buffers that are not averaged, in each update
        return f"{held}, and has them until its next update_parameters, which copies the model's buffers"
    return (
        f"{held}, and no later average takes them out: if it is of this model, make it anew of the weights of now, "
        "such as average.module.load_state_dict(model.state_dict())"
    )


def _named(model: nn.Module, module: nn.Module) -> str:
    return f"{'an AveragedModel' if isinstance(module, AveragedModel) else 'a copy'} of a {type(model).__name__}"


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@torch.no_grad()
def _finite(tensor: Tensor) -> bool:
    own = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return not own.is_floating_point() or bool(own.isfinite().all())
