"""Stand-ins for modules that a host imports, and that no package index has or that its model does not need.

A stand-in is served to one imported host, under the name that the host's code writes; no other code sees it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NoReturn

from vdvae_patch.errors import HostError


def unused(name: str, *attributes: str) -> ModuleType:
    """A module whose classes exist and refuse to be used, for what only a host's scripts need.

    Calling one raises `HostError` with the package to install.
    """
    module = ModuleType(name)

    def refuse(attribute: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> NoReturn:
            raise HostError(f"{name}.{attribute} is used, but {name} is not installed; pip install {name}")

        return call

    for attribute in attributes:
        setattr(module, attribute, refuse(attribute))
    return module
