"""A note in a `state_dict` that its weights were made under a patch; its keys and values stay what they are.

A state_dict carries metadata beside its weights (`state_dict._metadata`, where modules keep the version of their
format). A patched model adds the variant there, and the scale of each head with its gain and shift, by a hook of its
own, and `torch.save` keeps it. A patched model reads it again where it loads a state. An unpatched one cannot be made
to, short of changing `nn.Module` for the whole program: `load_state_dict` here reads it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from torch import nn

from vdvae_patch.patching.record import RECORD, PatchRecord, owners
from vdvae_patch.patching.wrapped import INSIDE, tell_inside, unwrapped
from vdvae_patch.torch_versions import before_load_state_dict, on_state_dict

_KEY, _SCALES = "vdvae_patch", "vdvae_patch.scales"

_TOLD: ContextVar[bool] = ContextVar("told", default=False)
"""Whether `load_state_dict` here has said it, so that the model's own does not say it again."""


def _note(module: nn.Module, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    inside = vars(module).get(INSIDE)
    record = vars(module).get(RECORD) or (inside and inside.record)
    if record is not None:
        metadata[_KEY] = str(record.variant)
        metadata[_SCALES] = _scales(record)


def _scales(record: PatchRecord) -> dict[str, str]:
    """The scale of each head, with the gain and the shift that were fitted to a batch."""
    return {f"{h.head.path}[{h.head.channels}]": str(h.scale) for h in record.heads if h.scale is not None}


def _compare(module: nn.Module, state: Any, prefix: str, metadata: Mapping[str, Any], *_: Any) -> None:
    """Before a state is loaded into a patched model: say where its weights were made under another patch."""
    inside = vars(module).get(INSIDE)
    record = vars(module).get(RECORD) or (inside and inside.record)
    if record is not None and not _TOLD.get() and (differs := _differs(metadata, record)):
        warnings.warn(differs, stacklevel=2)


def _differs(entry: Mapping[str, Any], record: PatchRecord | None) -> str:
    """A line where weights were made under another patch than a model has; empty where not, or where none is named."""
    made, scales = entry.get(_KEY), entry.get(_SCALES)
    if not isinstance(made, str):
        return ""
    then = "its σ is another function of the same weights"
    if record is None or made != str(record.variant):
        is_now = "is not patched" if record is None else f"is patched with {record.variant}"
        return (
            f"these weights were made under the patch {made}, and the model {is_now}: {then}; patch it in the same "
            "way, or load a folder that vdvae_patch.save wrote"
        )
    now = _scales(record)
    if not isinstance(scales, Mapping) or scales.keys() != now.keys():
        return ""
    others = [head for head in now if now[head] != scales[head]]
    if not others:
        return ""
    head = others[0]
    return (
        f"these weights were made with {scales[head]} for {head}, and the model has {now[head]}, as it was fitted to "
        f"another batch or to other weights, or with other noise ({len(others)} of {len(now)} heads): {then}; keep the "
        "patch beside the weights (vdvae_patch.patch_json, apply), or load a folder that vdvae_patch.save wrote"
    )


def mark(model: nn.Module) -> None:
    """Let the model's `state_dict` carry the variant in its metadata; and that of the model inside, if it wraps one."""
    unmark(model)
    inner = tell_inside(model, vars(model)[RECORD])
    for module in (model, inner) if inner is not None else (model,):
        on_state_dict(module, _note)
        before_load_state_dict(module, _compare)


def unmark(model: nn.Module) -> None:
    """Take that back."""
    inner = unwrapped(model)
    told = vars(inner).pop(INSIDE, None) is not None
    for module in (model, inner) if told else (model,):
        for key in [key for key, hook in module._state_dict_hooks.items() if hook is _note]:
            del module._state_dict_hooks[key]
        let_load(module)


def let_load(module: nn.Module) -> None:
    """Let a patched model load any state without a word, since who loads it puts the patch of that state in place."""
    hooks = module._load_state_dict_pre_hooks
    for key in [key for key, hook in hooks.items() if getattr(hook, "hook", None) is _compare]:
        del hooks[key]


def variant_of_state(state: Mapping[str, Any]) -> str | None:
    """The variant under which a state_dict was made; None if it was made without a patch, or does not say.

    The metadata goes with the `state_dict` itself, also through `torch.save`. `dict(state)`, a copy that is built key
    by key, and a file of safetensors have none.
    """
    noted = _noted(state)
    return noted[_KEY] if noted else None


def _noted(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first entry of the metadata that names a variant."""
    metadata = getattr(state, "_metadata", None)
    entries = metadata.values() if isinstance(metadata, Mapping) else ()
    return next((e for e in entries if isinstance(e, Mapping) and isinstance(e.get(_KEY), str)), {})


def load_state_dict(model: nn.Module, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
    """`model.load_state_dict(...)`, which warns if the weights were made under another patch than the model has.

    Warns:
        UserWarning: they were made under a variant, and the model is not patched, with another variant, or with other
            gains and shifts.
    """
    differs = _differs(_noted(state), next((owner.record for owner in owners(model)), None))
    if differs:
        warnings.warn(differs, stacklevel=2)
    token = _TOLD.set(bool(differs))  # of several patched models in one, another one may differ
    try:
        return model.load_state_dict(state, strict=strict, assign=assign)
    finally:
        _TOLD.reset(token)
