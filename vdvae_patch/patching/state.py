"""A note in a `state_dict` that its weights were made under a patch; its keys and values stay what they are.

A state_dict carries metadata beside its weights (`state_dict._metadata`, where modules keep the version of their
format). A patched model adds the variant there, by a hook of its own, and `torch.save` keeps it. An unpatched model
cannot be made to read it, short of changing `nn.Module` for the whole program: `load_state_dict` here reads it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from vdvae_patch.patching.record import RECORD, owners
from vdvae_patch.patching.wrapped import INSIDE, tell_inside, unwrapped
from vdvae_patch.torch_versions import on_state_dict

_KEY = "vdvae_patch"


def _note(module: nn.Module, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    inside = vars(module).get(INSIDE)
    record = vars(module).get(RECORD) or (inside and inside.record)
    if record is not None:
        metadata[_KEY] = str(record.variant)


def mark(model: nn.Module) -> None:
    """Let the model's `state_dict` carry the variant in its metadata; and that of the model inside, if it wraps one."""
    unmark(model)
    inner = tell_inside(model, vars(model)[RECORD])
    for module in (model, inner) if inner is not None else (model,):
        on_state_dict(module, _note)


def unmark(model: nn.Module) -> None:
    """Take that back."""
    inner = unwrapped(model)
    told = vars(inner).pop(INSIDE, None) is not None
    for module in (model, inner) if told else (model,):
        for key in [key for key, hook in module._state_dict_hooks.items() if hook is _note]:
            del module._state_dict_hooks[key]


def variant_of_state(state: Mapping[str, Any]) -> str | None:
    """The variant under which a state_dict was made; None if it was made without a patch, or does not say.

    The metadata goes with the `state_dict` itself, also through `torch.save`. `dict(state)`, a copy that is built key
    by key, and a file of safetensors have none.
    """
    metadata = getattr(state, "_metadata", None)
    entries = metadata.values() if isinstance(metadata, Mapping) else ()
    found = [entry[_KEY] for entry in entries if isinstance(entry, Mapping) and isinstance(entry.get(_KEY), str)]
    return found[0] if found else None


def load_state_dict(model: nn.Module, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
    """`model.load_state_dict(...)`, which warns if the weights were made under another patch than the model has.

    Warns:
        UserWarning: they were made under a variant, and the model is not patched, or with another variant.
    """
    made = variant_of_state(state)
    now = next((str(owner.record.variant) for owner in owners(model)), None)
    if made is not None and made != now:
        is_now = "is not patched" if now is None else f"is patched with {now}"
        warnings.warn(
            f"these weights were made under the patch {made}, and the model {is_now}: its σ is another function of the "
            "same weights; patch it in the same way, or load a folder that vdvae_patch.save wrote",
            stacklevel=2,
        )
    return model.load_state_dict(state, strict=strict, assign=assign)
