"""One head with its scale as data.

What a patch file gave and JSON cannot hold (its functions, a convention that is registered nowhere) is not written:
such a head is marked as given, with the name of its host where it has one, and is taken from the host when it is read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from vdvae_patch.attach.sites import ActivationSite, Site
from vdvae_patch.document.fields import Fields
from vdvae_patch.document.lines import line_of, told_apart
from vdvae_patch.document.places import PlaceReader, PlaceWriter, channels_data, channels_of
from vdvae_patch.document.values import convention_data, convention_of, is_registered, scale_data, scale_of
from vdvae_patch.errors import InvalidValueError, PatchError
from vdvae_patch.heads import ROLES, Head
from vdvae_patch.scales import Scale

Given = Callable[[str], Sequence[Head]]
"""The heads of a host by its name, or those that the caller gives where the name is empty."""

_KNOWN = ("path", "role", "channels", "convention", "scale", "parameter", "sites", "given", "size", "line")


def head_data(head: Head, scale: Scale | None, places: PlaceWriter) -> dict[str, Any]:
    """A head and the scale that it was given, None where it was left as it is.

    Raises:
        PatchError: a scale, or the text of a place, cannot be written down.
    """
    why = _is_given(head)
    data: dict[str, Any] = {
        "path": head.path,
        "role": head.role,
        "channels": channels_data(head.channel_range),
        "convention": str(head.convention) if why else convention_data(head.convention),
        "scale": None if scale is None else scale_data(scale),
    }
    if head.parameter:
        data["parameter"] = True
    if head.size is not None:
        data["size"] = head.size
    if told_apart(head) and (line := line_of(head)) in places.lines:
        data["line"] = line
    if why:
        data["given"] = {"host": _host(head), "because": why}
    elif head.sites:
        data["sites"] = [places.site(site) for site in head.sites]
    return data


def head_of(data: object, where: str, model: nn.Module, places: PlaceReader, given: Given) -> tuple[Head, Scale | None]:
    """The head and the scale of data.

    Raises:
        PatchError: a value is wrong, the model has no such place, or nobody gives a head that has to be given.
    """
    fields = Fields(data, where, _KNOWN)
    role = fields.get("role", str)
    if role not in ROLES:
        raise PatchError(f"{fields.at('role')}: must be one of {', '.join(ROLES)}, not {role!r}")
    channels = channels_of(fields.any("channels"), fields.at("channels"))
    scale = None if fields.any("scale") is None else scale_of(fields.any("scale"), fields.at("scale"))
    path = fields.get("path", str)
    if fields.any("given") is not None:
        name = Fields(fields.any("given"), fields.at("given"), ("host", "because")).get("host", str)
        wanted = (path, channels, role, fields.get("convention", str))
        first = {id(module): own for own, module in model.named_modules()}
        names = {own: first[id(module)] for own, module in model.named_modules(remove_duplicate=False)}
        for head in given(name):
            own = names.get(head.path, head.path)  # a module that is shared has several
            if (own, head.channel_range, head.role, str(head.convention)) == wanted:
                return head, scale
        raise PatchError(
            f"{where}: the head {path}[{channels}] ({role}, {wanted[3]}) is not among the heads that were given"
        )
    parameter = fields.get("parameter", bool, False)
    if parameter and path not in {name for name, _ in model.named_parameters(remove_duplicate=False)}:
        raise PatchError(f"{fields.at('path')}: the model has no parameter {path!r}")
    try:
        head = Head(
            path,
            role,
            channels.start,
            channels.stop,
            channels.dim,
            convention=convention_of(fields.any("convention"), fields.at("convention")),
            sites=tuple(places.site(item, at) for item, at in fields.items("sites", [])),
            parameter=parameter,
            step=channels.step,
            size=None if fields.any("size") is None else fields.get("size", int),
            line=fields.get("line", str, ""),
        )
    except InvalidValueError as error:
        raise PatchError(f"{where}: {error}") from None
    return head, scale


def _is_given(head: Head) -> str:
    """Why a head cannot be written down; empty if it can."""
    if head.calls or head.rebindings or any(isinstance(s, Site) and s.wrap is not None for s in head.sites):
        return "it is patched by functions of a patch file"
    conventions = [head.convention]
    for site in head.sites:
        conventions += [c for c in (site.rest, getattr(site, "reads", None)) if c is not None]
    unknown = next((c for c in conventions if not is_registered(c)), None)
    if unknown is not None:
        return f"its convention {unknown} is registered nowhere"
    if not all(isinstance(site, Site | ActivationSite) for site in head.sites):
        return "its sites are of another kind"
    return ""


def _host(head: Head) -> str:
    """The name of the host that a head is from: what it says, or the entry of the file that its functions are in."""
    if head.host:
        return head.host
    functions = [call.function for call in head.calls] + [bound.function for bound in head.rebindings]
    for function in functions:
        entry = getattr(sys.modules.get(function.__module__), "HOST", None)
        name = getattr(entry, "name", None)
        if isinstance(name, str):
            return name
    return ""
