"""`save` and `load`: a patched model as a folder of two files, weights and patch.

folder/model.safetensors    the state_dict, which a vanilla model loads as well
folder/patch.json           the patch, the SHA-256 of the weights, and a checksum of itself
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import nn

from vdvae_patch.document.fields import Fields, of_kind, parse
from vdvae_patch.document.seal import with_checksum
from vdvae_patch.errors import CheckpointError, PatchError
from vdvae_patch.heads import Head
from vdvae_patch.outside import differences, settings
from vdvae_patch.patching.apply import unpatch
from vdvae_patch.patching.record import is_patched
from vdvae_patch.patching.restore import apply_document, patch_document
from vdvae_patch.patching.wrapped import unwrapped
from vdvae_patch.saving import weights
from vdvae_patch.saving.files import new_folder
from vdvae_patch.saving.given import given_heads

WEIGHTS, PATCH = "model.safetensors", "patch.json"

_NAMED = 5

Model = TypeVar("Model", bound=nn.Module)


def save(model: nn.Module, folder: Path | str, *, overwrite: bool = False) -> Path:
    """Write a patched model to a folder: its weights and its patch, whole or not at all.

    The source of the model is not written: it is built by its own code, and the patch names places by their text. What
    that code sets, and what a training has made of it, is not written either, as in torch: a folder is of weights that
    a vanilla model loads as well, and attributes are settings of whoever builds the model. Their values are noted, so
    that `load` tells which are others then. (A run of `train` keeps them, since it has to go on from them.)

    Args:
        overwrite: replace a folder that `save` wrote before.

    Returns:
        The folder.

    Raises:
        PatchError: the model is not patched, or a part of the patch cannot be written down.
        CheckpointError: the folder is there already, cannot be written, or a weight is no tensor with values.
    """
    _check_order(model, folder, "save")
    model, target = unwrapped(model), Path(folder).expanduser()
    document = patch_document(model)
    with new_folder(target, frozenset((WEIGHTS, PATCH)), overwrite) as made:
        document["weights"] = {"file": WEIGHTS, "sha256": weights.write(model, made / WEIGHTS)}
        if outside := settings(model) | weights.outside(model):
            document["weights"]["outside"] = outside
        if repeated := weights.repeated(model):
            document["weights"]["repeated"] = repeated
        text = json.dumps(with_checksum(document), indent=1, allow_nan=False, ensure_ascii=False)
        (made / PATCH).write_text(text + "\n", encoding="utf-8")
    return target


def load(model: Model | Callable[[], Model], folder: Path | str, *, heads: Iterable[Head] | None = None) -> Model:
    """A model with the weights and the patch of a folder that `save` wrote.

    Reading runs no code: JSON and safetensors, every value checked, nothing imported that a file names.

    Args:
        model: what builds the model, such as `VAE` or `lambda: VAE(latents=8)`; or one that is there, which is changed.
        heads: as of `vdvae_patch.apply`, for heads that no file can hold.

    Returns:
        The patched model. `vdvae_patch.unpatch` makes it the vanilla one with the same weights.

    Raises:
        CheckpointError: a file is missing, damaged or foreign, or the weights are of another model.
        PatchError: the patch is damaged, or the model's source is no longer what it was made for.

    A model that was given is as it was if anything is raised. A `UserWarning` tells of a buffer that is in no
    state_dict, and is not what it was when the model was saved; of numbers and tensors in attributes of the model that
    are not (a count of steps, a weight of the KL, the slope of an activation); and of parameters that were one then,
    and are two now.
    """
    _check_order(model, folder, "load")
    source = Path(folder).expanduser()
    document = _document(source)
    outside, repeated = _check_weights(source, document)
    state = weights.read(source / WEIGHTS)
    built: Any = model if isinstance(model, nn.Module) else model()
    if not isinstance(built, nn.Module):
        raise PatchError(f"load builds the model by calling what it is given, and got a {type(built).__name__}")
    if is_patched(built):
        raise PatchError("the model is patched already; unpatch it first, or give load what builds it")
    bare = unwrapped(built)
    weights.check_fits(bare, state, source / WEIGHTS)
    _check_repeated(weights.repeated(bare), repeated, source)
    apply_document(built, document, given_heads(built, heads), PATCH)
    try:
        weights.put(bare, state)
    except BaseException:
        unpatch(built)
        raise
    now = weights.outside(bare)
    for name in [name for name, digest in outside.items() if name in now and now[name] != digest]:
        warnings.warn(
            f"the buffer {name} is in no state_dict (persistent=False), so that it is not saved, and it is not what it "
            "was when the model was saved: set it as it was, or what the model computes is something else",
            stacklevel=2,
        )
    of_buffers = weights.outside(bare).keys()
    changed = differences({name: text for name, text in outside.items() if name not in of_buffers}, settings(bare))
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        warnings.warn(
            f"the model keeps {', '.join(changed[:_NAMED])}{more} in attributes, which no state_dict has and save does "
            "not write, and they are not what they were when it was saved: build it with what it had, or set them, "
            "unless it makes them anew in each call",
            stacklevel=2,
        )
    for name, other in weights.untied(bare, state).items():
        warnings.warn(
            f"{name} was one parameter with {other} when the model was saved, and is one of its own now: it has the "
            "same values, and a training would move the two apart; tie them as they were",
            stacklevel=2,
        )
    return cast(Model, built)


def _check_order(model: object, folder: object, verb: str) -> None:
    """Raise `PatchError` if model and folder are given the other way round, or the folder is no path."""
    if isinstance(model, str | Path) or not isinstance(folder, str | Path):
        raise PatchError(
            f"{verb} takes the model first and then the folder, {verb}(model, 'folder'), and got a "
            f"{type(model).__name__} and a {type(folder).__name__}"
        )


def _document(folder: Path) -> dict[str, object]:
    file = folder / PATCH
    try:
        text = file.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{folder} is no folder that vdvae_patch.save wrote: {PATCH} cannot be read ({error.strerror})"
        ) from None
    data = parse(text, str(file))
    if not isinstance(data, dict):
        raise PatchError(f"{file} is no patch of vdvae_patch: it is no object")
    return data


def _check_repeated(now: dict[str, str], then: dict[str, str], folder: Path) -> None:
    """Raise `CheckpointError` if a module that was one under two paths is two now."""
    for path, first in then.items():
        if now.get(path) != first:
            raise CheckpointError(
                f"{folder}: {path} was the same module as {first} when the model was saved, and is another one in this "
                "model, which the patch would not reach; build the model as it was"
            )


def _check_weights(folder: Path, document: dict[str, object]) -> tuple[dict[str, str], dict[str, str]]:
    """Of the buffers that are not saved, what they were; and the modules that had several paths."""
    if "weights" not in document:
        raise CheckpointError(f"{folder / PATCH} names no weights; it is a patch alone, for vdvae_patch.apply")
    fields = Fields(document["weights"], f"{folder / PATCH}: weights", ("file", "sha256", "outside", "repeated"))
    if fields.get("file", str) != WEIGHTS:
        raise CheckpointError(f"{fields.at('file')}: must be {WEIGHTS!r}")
    file = folder / WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"{file} is missing")
    if weights.digest(file) != fields.get("sha256", str):
        raise CheckpointError(
            f"{file} is not the file that was saved with {PATCH}: its SHA-256 is another; it is damaged, or "
            "was replaced"
        )
    outside, repeated = (
        {name: of_kind(value, str, f"{fields.at(key)}.{name}") for name, value in fields.get(key, dict, {}).items()}
        for key in ("outside", "repeated")
    )
    return outside, repeated
