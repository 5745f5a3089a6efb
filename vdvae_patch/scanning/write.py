"""Write what a scan found as a patch file: an entry that anybody can read, correct and keep."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from types import FunctionType
from typing import Any

from torch import nn

from vdvae_patch.attach.graft import host_class
from vdvae_patch.attach.sites import ActivationSite, LogSite, NormalSite, Site
from vdvae_patch.attach.source import method_function
from vdvae_patch.attach.written import entered, text_at
from vdvae_patch.composition import Composition, Measured
from vdvae_patch.conventions import Convention
from vdvae_patch.heads import Head

_TEMPLATE = '''"""Patch entry of {factory}, written by a scan; correct it where you know better.

    heads = vdvae_patch.load_entry_file("this_file.py").heads(model)
    vdvae_patch.patch(model, "explin", heads=heads)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vdvae_patch.heads import Head
from vdvae_patch.hosts.entry import HostEntry

if TYPE_CHECKING:
    from torch import nn


class {class_name}(HostEntry):
    name = "{name}"
    modules = ("{module}",)

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        model: nn.Module = modules["{module}"].{attribute}(**hparams)
        return model

    def heads(self, model: nn.Module) -> list[Head]:
{imports}{places}        heads = [
{heads}
        ]
        return {returned}


HOST = {class_name}()
'''


def entry_file(factory: str, heads: Sequence[Head], model: nn.Module) -> str:
    """The text of a patch file for `PACKAGE.MODULE:FACTORY` with these heads.

    Places in the host's source are named by their text, so that the file survives edits around them.

    Args:
        model: the one in which the heads were found, by whose source their places are read.

    Raises:
        PatchError: a place cannot be read there.
    """
    module, _, attribute = factory.partition(":")
    name = re.sub(r"\W", "_", f"{module}_{attribute}".lower())
    class_name = "".join(part.capitalize() for part in name.split("_"))
    places = _Places(model)
    body = "\n".join(_written_head(head, places) for head in heads)
    normals = dict.fromkeys(site for head in heads if head.scan is not None for site in head.scan.normals)
    returned = "heads"
    if normals:
        texts = "".join(f"                {places.any(site)},\n" for site in normals)
        returned = f"at.with_normals(\n            heads,\n            [\n{texts}            ],\n        )"
    uses_places = "at." in body + returned
    imports = ""
    for names, source in _IMPORTS.items():
        used = [n for n in names.split() if re.search(rf"\b{n}\(", body + returned) or (n == "Places" and uses_places)]
        if used:
            imports += f"        from {source} import {', '.join(used)}\n"
    return _TEMPLATE.format(
        factory=factory, class_name=class_name, name=name, module=module, attribute=attribute,
        imports=f"{imports}\n" if imports else "", heads=body, returned=returned,
        places="        at = Places(model)\n" if uses_places else "",
    )  # fmt: skip


_IMPORTS = {
    "ActivationSite": "vdvae_patch.attach.sites",
    "Places": "vdvae_patch.attach.written",
    "Composition Measured Step": "vdvae_patch.composition",
    "get": "vdvae_patch.conventions",
    "ChannelRange": "vdvae_patch.heads",
}


def is_left_out(head: Head) -> bool:
    """Whether a file cannot have a head: its σ is computed beside the model, and can be had there alone."""
    return _is_beside(head) and (head.found is None or not head.found.at_output)


def _is_beside(head: Head) -> bool:
    return any(isinstance(site, Site) and site.in_call for site in head.sites)


def _written_head(head: Head, places: _Places) -> str:
    """A line of the list; of a head that is left out a comment."""
    if is_left_out(head):
        return (
            f"            # {head}: its σ is computed beside the model, in the call that was scanned, and a "
            "file holds no call; patch the heads of a scan"
        )
    if _is_beside(head):
        head = replace(head, sites=())
    return f"            {_head(head, places)},"


def _head(head: Head, places: _Places) -> str:
    arguments = [repr(head.path), repr(head.role)]
    if head.start:
        arguments.append(f"start={head.start}")
    if head.stop is not None:
        arguments.append(f"stop={head.stop}")
    if head.step != 1:
        arguments.append(f"step={head.step}")
    if head.dim != 1:
        arguments.append(f"dim={head.dim}")
    if head.size is not None:
        arguments.append(f"size={head.size}")
    arguments.append(f"convention={_convention(head.convention)}")
    if head.parameter:
        arguments.append("parameter=True")
    if head.sites:
        sites = (f"\n                    {places.site(site)}," for site in head.sites)
        arguments.append(f"\n                sites=({''.join(sites)}\n                ),\n            ")
    return f"Head({', '.join(arguments)})".replace(", \n", ",\n")


def _convention(convention: Convention) -> str:
    return _object(convention) if isinstance(convention, Composition | Measured) else repr(str(convention))


class _Places:
    """Sites, written by the texts of their places."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))

    def site(self, site: Any) -> str:
        """A site as the call that makes it."""
        if isinstance(site, ActivationSite):
            beside = "" if site.beside is None else f", {site.beside!r}"
            return f"ActivationSite({site.path!r}, {_object(site.rest)}{beside})"
        calls, function = self._followed(site)
        arguments = [f"first={text_at(function, site.first)!r}", f"last={text_at(function, site.last)!r}"]
        arguments.append(f"rest={_object(site.rest)}")
        if site.operand:
            arguments.append(f"operand={site.operand}")
        arguments += calls
        if site.also:
            also = tuple((text_at(function, span), number) for span, number in site.also)
            arguments.append(f"also={also!r}")
        if site.drops:
            arguments.append(f"drops={tuple(text_at(function, span) for span in site.drops)!r}")
        for name in ("parameter", "inplace", "channels", "beside"):
            if getattr(site, name):
                arguments.append(f"{name}={getattr(site, name)!r}")
        if site.reads is not None:
            arguments.append(f"reads={_object(site.reads)}")
        return f"at.site({site.owner!r}, {site.method!r}, {', '.join(arguments)})"

    def normal(self, site: NormalSite) -> str:
        """The place of a Normal as the call that finds it."""
        calls, function = self._followed(site)
        return (
            f"at.normal({', '.join([repr(site.owner), repr(site.method), repr(text_at(function, site.span)), *calls])})"
        )

    def any(self, site: NormalSite | LogSite) -> str:
        """Either of the following two."""
        return self.log(site) if isinstance(site, LogSite) else self.normal(site)

    def log(self, site: LogSite) -> str:
        """The place of a σ that carries its logarithm, as the call that finds it."""
        calls, function = self._followed(site)
        arguments = [f"first={text_at(function, site.first)!r}", f"last={text_at(function, site.last)!r}"]
        arguments.append(f"convention={_object(site.convention)}")
        arguments += [f"{name}={getattr(site, name)!r}" for name in ("operand", "parameter") if getattr(site, name)]
        return f"at.log({site.owner!r}, {site.method!r}, {', '.join([*arguments, *calls])})"

    def _followed(self, site: Site | NormalSite | LogSite) -> tuple[list[str], FunctionType]:
        instance: Any = self._modules[site.owner]
        function = method_function(host_class(instance), site.method)
        calls = []
        for step in site.calls:
            calls.append((text_at(function, step.span), step.module, step.qualname))
            function, instance = entered(function, step, instance)
        return [f"calls={tuple(calls)!r}"] if calls else [], function


def _object(convention: Convention | None) -> str:
    if convention is None:
        return "None"
    if isinstance(convention, Composition | Measured):
        return re.sub(r"\binf\b", "float('inf')", repr(convention))  # of a clamp that has one end
    return f"get({str(convention)!r})"
