"""What a file in `patches/` says about one host: which modules it needs, how a model is built, where its heads are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from vdvae_patch.errors import HostError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vdvae_patch.heads import Head
    from vdvae_patch.hosts.means import MeanReading
    from vdvae_patch.seams import DecoderSeam, TopPriorSeam


class Example(NamedTuple):
    """A small model of a host with a batch and a loss, `loss(model, *inputs)`: for a benchmark, or a first scan."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    loss: Callable[..., Tensor]


class HostEntry(ABC):
    """One host. A file in `patches/`, or a file of the user's, subclasses this and defines `HOST = MyHost()`.

    The file must not import torch, nor the host, when it is imported: names are needed long before a model is. What it
    needs of the host it takes from the `modules` that it is handed, never by an import.

    Attributes:
        name: the short name; a code base of the same name in the manifest pins this host's files.
        modules: dotted names of the host's modules that are imported, as the host's own scripts would write them.
        embedded: the package that holds modules of the same names, if one is kept with the project.
        installed: the host is what `import` finds, such as a package that pip installed; its modules are imported under
            their own names.
        file: the file that defines it, of an entry of the user's; the host's modules may lie beside it.
        no_decoder: why no decoder can take the place of the host's likelihood, for an entry without `decoder_seam`.
        no_top_prior: why no top prior can take the place of the host's own, for an entry without `top_prior_seam`.
    """

    name: str
    modules: tuple[str, ...]
    embedded: str | None = None
    installed: bool = False
    file: Path | None = None
    no_decoder: str = "its entry does not say where the likelihood is; it can define `decoder_seam`"
    no_top_prior: str = "its entry does not say how its encoder is called; it can define `top_prior_seam`"

    def stand_ins(self, root: Path) -> Mapping[str, ModuleType]:
        """Modules to serve to the imported code instead of what it imports by these names; see `hosts.stand_ins`.

        Args:
            root: the folder that the host's scripts would be started in.
        """
        return {}

    def adapt(self, modules: Mapping[str, ModuleType]) -> None:  # noqa: B027 - most hosts presume nothing
        """Change what the imported code presumes of its surroundings, such as a GPU; must bear being called again.

        No file is touched: it changes the modules of this one import, and must leave alone what they compute.
        """

    @abstractmethod
    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """A freshly initialized model, on the CPU in float32, from the host's modules by name."""

    @abstractmethod
    def heads(self, model: nn.Module) -> list[Head]:
        """Every Normal head of a model that `build` made."""

    def heads_reading(self, model: nn.Module, reading: MeanReading) -> list[Head]:
        """The heads, with the means that belong to them read in another way.

        Raises:
            HostError: the entry does not say where the host reads its means.
        """
        raise HostError(
            f"host {self.name!r} cannot have its means read in another way; its entry can define `heads_reading`"
        )

    def decoder_seam(self, model: nn.Module) -> DecoderSeam:
        """Where the likelihood of a model that `build` made is computed, and its pass in parts.

        Raises:
            HostError: there is no such place, and why.
        """
        raise HostError(f"host {self.name!r} takes no decoder and no objective: {self.no_decoder}")

    def top_prior_seam(self, model: nn.Module) -> TopPriorSeam:
        """Where the prior of the top latent is read, and how the encoder of a model that `build` made is called.

        Raises:
            HostError: the encoder cannot be called on an image, and why.
        """
        raise HostError(f"host {self.name!r} takes no top prior: {self.no_top_prior}")

    def example(self, modules: Mapping[str, ModuleType]) -> Example:
        """A small model with a batch and a loss; raises `HostError` where an entry gives none."""
        raise HostError(f"host {self.name!r} gives no example to measure; its entry can define `example`")
