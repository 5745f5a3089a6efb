"""`apply`: a patch that was written down, put on a model; heads of named hosts come from the hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from vdvae_patch.document.heads import Given
from vdvae_patch.errors import PatchError, UnknownNameError
from vdvae_patch.heads import Head
from vdvae_patch.hosts import HOSTS
from vdvae_patch.patching.apply import PatchHandle
from vdvae_patch.patching.restore import apply_document
from vdvae_patch.patching.wrapped import unwrapped


def apply(
    model: nn.Module, patch: str | bytes | Mapping[str, Any], *, heads: Iterable[Head] | None = None
) -> PatchHandle:
    """Patch a model as another one was: with what `handle.to_json()` or `vdvae_patch.patch_json(model)` gave.

    Every head gets exactly the scale that it had there, gain and shift included.

    Args:
        patch: the text, or its data. Reading it runs nothing that it names.
        heads: for heads that no text can hold, because a patch file gave functions of its own or a convention that is
            registered nowhere: `HOST.heads(model)`. Those of a host that vdvae_patch knows are found by its name.

    Raises:
        PatchError: the text is damaged or foreign, or the model is not the one that it was made for. The model is then
            as it was.
    """
    return apply_document(model, patch, given_heads(model, heads), "the patch")


def given_heads(model: nn.Module, heads: Iterable[Head] | None) -> Given:
    """Where heads come from that a document cannot hold: from the caller, or from the host of their name."""
    chosen = None if heads is None else list(heads)
    known: dict[str, list[Head]] = {}

    def given(name: str) -> Sequence[Head]:
        if chosen is not None:
            return chosen
        if not name:
            raise PatchError(
                "the patch has heads that no file can hold (functions of a patch file, or a convention of your own), "
                "and names no host; give them by heads=HOST.heads(model)"
            )
        if name not in known:
            try:
                entry = HOSTS.get(name)
            except UnknownNameError as error:
                raise PatchError(
                    f"the patch has heads of the host {name!r}: {error}; a file names no code that would be run, so "
                    "load its patch file first with vdvae_patch.load_entry_file, or give heads=HOST.heads(model)"
                ) from None
            try:
                known[name] = entry.heads(unwrapped(model))
            except Exception as error:  # whatever an entry raises of a model that it was not written for
                raise PatchError(
                    f"the patch has heads of the host {name!r}, whose entry does not know this {type(model).__name__}: "
                    f"{type(error).__name__}: {error}"
                ) from error
        return known[name]

    return given
