"""What is given as a model, and how its loss may be called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from vdvae_patch.errors import PatchError, VdvaePatchError


def require_module(model: Any, taker: str, error: type[VdvaePatchError] = PatchError) -> None:
    """Refuse what is no `torch.nn.Module`: a class, or several modules without one that holds them.

    Raises:
        PatchError: or the `error` that is given.
    """
    if isinstance(model, type):
        raise error(f"{model.__name__} is a class; give {taker} an instance of it")
    if isinstance(model, nn.Module):
        return
    kind = type(model).__name__
    parts = model.values() if isinstance(model, Mapping) else model if isinstance(model, Iterable) else ()
    if isinstance(model, list | tuple | Mapping) and any(isinstance(part, nn.Module) for part in parts):
        holder = "ModuleDict" if isinstance(model, Mapping) else "ModuleList"
        raise error(
            f"{taker} takes one torch.nn.Module, and a {kind} was given; give torch.nn.{holder}(...) of its modules, "
            "which are then reached where they are, and as call= your loss of them"
        )
    own = [name for name, value in getattr(model, "__dict__", {}).items() if isinstance(value, nn.Module)]
    these = ", ".join(f"{name!r}: it.{name}" for name in own)
    holds = f"; of its modules, torch.nn.ModuleDict({{{these}}}) can be given" if own else ""
    raise error(f"{taker} takes a torch.nn.Module, and not a {kind}{holds}")


def call_for_loss(model: nn.Module) -> str:
    """How the loss of a model may be called, as a `call=`."""
    # a step that optimizes by hand would change the model
    if hasattr(model, "training_step") and getattr(model, "automatic_optimization", True):
        return "lambda model, batch: model.training_step(batch, 0)"
    if callable(getattr(model, "loss", None)):
        return "lambda model, batch: model.loss(batch)"
    return "lambda model, batch: your_loss(model, batch)"
