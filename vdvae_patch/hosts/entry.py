"""What a file in `patches/` says about one host: which modules it needs, how a model is built, where its heads are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from vdvae_patch.heads import Head


class HostEntry(ABC):
    """One host. A file in `patches/`, or a file of the user's, subclasses this and defines `HOST = MyHost()`.

    The file must not import torch, nor the host, when it is imported: names are needed long before a model is. What it
    needs of the host it takes from the `modules` that it is handed, never by an import.

    Attributes:
        name: the short name; a code base of the same name in the manifest pins this host's files.
        modules: dotted names of the host's modules that are imported, as the host's own scripts would write them.
        embedded: the package that holds modules of the same names, if one is kept with the project.
    """

    name: str
    modules: tuple[str, ...]
    embedded: str | None = None

    @abstractmethod
    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """A freshly initialized model, on the CPU in float32, from the host's modules by name."""

    @abstractmethod
    def heads(self, model: nn.Module) -> list[Head]:
        """Every Normal head of a model that `build` made."""
