"""Averages of a model's weights that hold a NaN: what is averaged once stays in them for ever."""

from __future__ import annotations

import gc

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vdvae_patch.outcome import some


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


def _spoilt(model: nn.Module) -> list[str]:
    own = _tensors(model)
    found: list[str] = []
    averaged: set[int] = set()
    modules = [m for m in gc.get_objects() if issubclass(type(m), nn.Module)]  # isinstance asks the object
    for module in sorted(modules, key=lambda m: not isinstance(m, AveragedModel)):
        copy = module.module if isinstance(module, AveragedModel) else module
        if copy is model or id(copy) in averaged or type(copy) is not type(model):
            continue
        tensors = _tensors(copy)
        if tensors.keys() != own.keys() or any(tensors[name] is tensor for name, tensor in own.items()):
            continue
        trained = copy is module and any(p.requires_grad for p in copy.parameters())
        if trained and copy.training:
            continue  # another model, which has its own loop
        averaged.add(id(copy))
        bad = tuple(name for name, t in tensors.items() if not _finite(t) and _finite(own[name]))
        if bad:
            found.append(_said(model, module, bad))
    return found


def _said(model: nn.Module, module: nn.Module, bad: tuple[str, ...]) -> str:
    """Of an average, or a copy, with values that are not finite; of another model of its class it may be one, too."""
    average = isinstance(module, AveragedModel)
    kind, name = "an AveragedModel" if average else "a copy", type(model).__name__
    held = f"{kind} of a {name} holds values that are not finite ({some(bad)})"
    if average and not module.use_buffers and not set(bad) & set(dict(model.named_parameters())):
        # PyTorch copies buffers that are not averaged, in each update
        return f"{held}, and has them until its next update_parameters, which copies the model's buffers"
    return (
        f"{held}, and no later average takes them out: if it is of this model, make it anew of the weights of now, "
        "such as average.module.load_state_dict(model.state_dict())"
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@torch.no_grad()
def _finite(tensor: Tensor) -> bool:
    own = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return not own.is_floating_point() or bool(own.isfinite().all())
