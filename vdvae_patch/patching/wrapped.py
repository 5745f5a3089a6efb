"""A patch that was made through a wrapper (`DataParallel`, `torch.compile`), as the model inside of it has it.

The wrapper has the record, with the paths that a scan of it saw (`module.encoder`). What it wraps has the same patch by
paths of its own (`encoder`): what is saved, and what is asked of the model when the wrapper is gone, are these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from vdvae_patch.attach.attachment import Attachment
from vdvae_patch.attach.sites import ActivationSite, LogSite, NormalSite, Site, TermSite
from vdvae_patch.heads import CallSite, Head, Rebinding

if TYPE_CHECKING:
    from vdvae_patch.patching.record import PatchRecord

INSIDE = "_vdvae_patch_inside"

_WRAPPERS = ("module", "_orig_mod")
_PATHS = ("path", "owner", "parameter")  # of heads, sites and attachments
_PARTS = ("calls", "rebindings", "sites", "heads", "edits")
_DESCRIBING = (Head, CallSite, Rebinding, Site, ActivationSite, NormalSite, LogSite, TermSite)


@dataclass(frozen=True)
class Inside:
    """What lies on a model that was patched through a wrapper.

    Attributes:
        prefix: its path in the wrapper.
        number: of the patch.
        record: by paths from the model on; None where a part of the patch is in the wrapper itself.
    """

    prefix: str
    number: str
    record: PatchRecord | None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch's own wrappers: `DistributedDataParallel`, `DataParallel`, `torch.compile`."""
    return _inside(model)[0]


def _inside(model: nn.Module) -> tuple[nn.Module, str]:
    path: list[str] = []
    while type(model).__module__.startswith("torch."):
        names = [name for name, _ in model.named_children()]
        if len(names) != 1 or names[0] not in _WRAPPERS:
            break
        model = model.get_submodule(names[0])
        path += names
    return model, ".".join(path)


def tell_inside(model: nn.Module, record: PatchRecord) -> nn.Module | None:
    """Let what a wrapper holds know of the wrapper's patch; gives it, or None if the model is no wrapper."""
    inner, prefix = _inside(model)
    if inner is model:
        return None
    vars(inner)[INSIDE] = Inside(prefix, record.number, _from(record, prefix))
    return inner


def is_taken_back(model: nn.Module, record: PatchRecord) -> bool:
    """Whether the patch of a wrapper was removed from the model inside of it, which cannot reach the wrapper."""
    inner, _ = _inside(model)
    known = vars(inner).get(INSIDE)
    return inner is not model and (known is None or known.number != record.number)


def _from(record: PatchRecord, prefix: str) -> PatchRecord | None:
    def path(of: str) -> str:
        if of != prefix and not of.startswith(f"{prefix}."):
            raise LookupError(of)
        return of[len(prefix) + 1 :]

    try:
        heads = type(record.heads)(replace(h, head=_moved(h.head, path)) for h in record.heads)
        return replace(record, heads=heads, attachments=_moved(record.attachments, path))
    except LookupError:
        return None


def _moved(value: Any, path: Callable[[str], str]) -> Any:
    """What describes places, with its paths changed; anything else as it is."""
    if type(value) is tuple:
        return tuple(_moved(item, path) for item in value)
    if isinstance(value, _DESCRIBING):
        own = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(value, **_changed(own, path))
    if isinstance(value, Attachment):
        new = object.__new__(type(value))  # copy.copy gives the one that is installed
        vars(new).update({**vars(value), **_changed(vars(value), path)})
        return new
    return value


def _changed(values: dict[str, Any], path: Callable[[str], str]) -> dict[str, Any]:
    changed: dict[str, Any] = {name: _moved(values[name], path) for name in _PARTS if name in values}
    # a site without a parameter has an empty one; a head's says whether its path is of one
    paths = (n for n in _PATHS if isinstance(values.get(n), str) and (n != "parameter" or values[n]))
    if values.get("method") == "":
        paths = (n for n in paths if n != "owner")  # beside the model, where there is no path
    return changed | {name: path(values[name]) for name in paths}
