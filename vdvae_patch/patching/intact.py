"""Is a patch still in force? Wrappers, quantizers, adapters and replaced modules may take it away or move it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from vdvae_patch.attach.attachment import Attachment
from vdvae_patch.errors import PatchError
from vdvae_patch.patching.record import Owner, not_patched, owners, parts

# Attributes by which wrappers of PyTorch's own hold a module whose output they hand on as it is.
_TRANSPARENT = frozenset({"module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"})


def check_intact(model: nn.Module) -> None:
    """Make sure that every part of a patch is where it was put, and is what a call comes by.

    Cheap (it walks the modules once); call it after anything that changes a model: adapters (LoRA), quantization,
    pruning tools, replaced layers. `train` calls it before each evaluation.

    Raises:
        PatchError: the model is not patched; or a part of the patch is gone, lies behind something that was put over
            it, or inside a module that was put around it. The message names each place, and what to do.
    """
    found = owners(model)
    if not found:
        raise PatchError(not_patched(model))
    troubles = [line for owner in found for line in _troubles(owner)]
    if troubles:
        raise PatchError(
            "the patch is not in force everywhere any more:\n  " + "\n  ".join(troubles) + "\nTake the change back, or "
            "unpatch the model, change it, and patch it again"
        )


def _troubles(owner: Owner) -> Iterator[str]:
    modules = dict(owner.model.named_modules(remove_duplicate=False))
    there: dict[tuple[str, str], dict[str, Attachment]] = {}
    for path, _, attachment in parts(owner.model, owner.record.number):
        there.setdefault((attachment.path, attachment.method), {})[path] = attachment
    for attachment in owner.record.attachments:
        paths = there.get((owner.installed(attachment.path), attachment.method), {})
        name = owner.named(attachment.path) or "the model"
        if not paths:
            now = modules.get(attachment.path)
            what = "nothing is there" if now is None else f"a {type(now).__name__} is there that it was not made for"
            yield f"{name}.{attachment.method}: the patch is gone; {what}"
        elif all(_without_wrappers(path) != _without_wrappers(attachment.path) for path in paths):
            around = modules.get(attachment.path)
            kind = "another module" if around is None else f"a {type(around).__name__}"
            yield (
                f"{name}.{attachment.method}: the patched module is now {owner.named(next(iter(paths)))}, inside "
                f"{kind}; what that adds to its output comes behind the scale, so that σ is another one than promised"
            )
        else:
            at = next(path for path in paths if _without_wrappers(path) == _without_wrappers(attachment.path))
            trouble = paths[at].intact(modules[at]) if owner.prefix else attachment.intact(modules[at])
            if trouble:
                yield trouble


def _without_wrappers(path: str) -> str:
    return ".".join(name for name in path.split(".") if name not in _TRANSPARENT)
