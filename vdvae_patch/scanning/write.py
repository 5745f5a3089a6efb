"""Write what a scan found as a patch file: an entry that anybody can read, correct and keep."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

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
{imports}        return [
{heads}
        ]


HOST = {class_name}()
'''


def entry_file(factory: str, heads: Sequence[Head]) -> str:
    """The text of a patch file for `PACKAGE.MODULE:FACTORY` with these heads."""
    module, _, attribute = factory.partition(":")
    name = re.sub(r"\W", "_", f"{module}_{attribute}".lower())
    class_name = "".join(part.capitalize() for part in name.split("_"))
    body = "\n".join(f"            {_head(head)}," for head in heads)
    imports = ""
    for names, source in _IMPORTS.items():
        used = [n for n in names.split() if re.search(rf"\b{n}\(", body)]
        if used:
            imports += f"        from {source} import {', '.join(used)}\n"
    return _TEMPLATE.format(
        factory=factory, class_name=class_name, name=name, module=module, attribute=attribute,
        imports=f"{imports}\n" if imports else "", heads=body,
    )  # fmt: skip


_IMPORTS = {
    "Composition Measured Step": "vdvae_patch.composition",
    "get": "vdvae_patch.conventions",
    "ChannelRange": "vdvae_patch.heads",
    "ActivationSite CallStep Site": "vdvae_patch.attach.sites",
}


def _head(head: Head) -> str:
    arguments = [repr(head.path), repr(head.role)]
    if head.start:
        arguments.append(f"start={head.start}")
    if head.stop is not None:
        arguments.append(f"stop={head.stop}")
    if head.step != 1:
        arguments.append(f"step={head.step}")
    if head.dim != 1:
        arguments.append(f"dim={head.dim}")
    arguments.append(f"convention={_convention(head.convention)}")
    if head.parameter:
        arguments.append("parameter=True")
    if head.sites:
        arguments.append(f"sites=({', '.join(_site(site) for site in head.sites)},)")
    return f"Head({', '.join(arguments)})"


def _convention(convention: Convention) -> str:
    return repr(convention) if isinstance(convention, Composition | Measured) else repr(str(convention))


def _site(site: Any) -> str:
    fields = {name: getattr(site, name) for name in site.__dataclass_fields__}
    written = (
        f"{name}={_object(value) if isinstance(value, Convention) else repr(value)}" for name, value in fields.items()
    )
    return f"{type(site).__name__}({', '.join(written)})"


def _object(convention: Convention) -> str:
    if isinstance(convention, Composition | Measured):
        return repr(convention)
    return f"get({str(convention)!r})"
