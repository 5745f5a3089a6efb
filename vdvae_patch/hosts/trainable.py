"""A host that this package trains, evaluates and samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from vdvae_patch.errors import HostError, UnknownNameError
from vdvae_patch.hosts.entry import HostEntry
from vdvae_patch.hosts.preset import Latent, Losses, Preset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from vdvae_patch.data.normalization import ModelBatch
    from vdvae_patch.heads import Head


class TrainableEntry(HostEntry):
    """An entry with presets, a loss and samples.

    Attributes:
        architecture: a frozen dataclass of the host's architecture; each field is a flag of `train`.
        reads_target: whether `latents` takes the images as the likelihood has them, in [-1, 1], and not about zero mean
            and unit variance.
        takes_rectangles: whether `hyperparameters` takes `image_width`, too, of images that are not square.
        rates_of_draws: whether the rates of its decoder seam's terms are log q − log p of what was drawn, and no closed
            form: then the log likelihood can be estimated from them by importance sampling.
    """

    architecture: ClassVar[type]
    reads_target: ClassVar[bool] = False
    takes_rectangles: ClassVar[bool] = False
    rates_of_draws: ClassVar[bool] = False

    @abstractmethod
    def presets(self) -> Mapping[str, Preset]:
        """The presets by name; must not import torch."""

    @abstractmethod
    def hyperparameters(
        self, architecture: Any, *, image_size: int, image_channels: int, data: str
    ) -> Mapping[str, Any]:
        """What `build` takes, for an architecture and a data set."""

    def check_data(self, model: nn.Module, target: Tensor) -> None:
        """Refuse images `[B, H, W, C]`, as `losses` takes its target, that the host's own likelihood is not made for.

        Raises:
            InvalidValueError: what was seen, and what to take.
        """

    @abstractmethod
    def losses(self, model: nn.Module, x: Tensor, target: Tensor) -> Losses:
        """One pass with its loss; `x` and `target` are float `[B, H, W, C]`, results in nats per dimension."""

    @abstractmethod
    def latents(self, model: nn.Module, x: Tensor) -> list[Latent]:
        """What each pair of posterior and prior drew, in the order of the computation."""

    def posterior_means(self, model: nn.Module, x: Tensor) -> list[Tensor] | None:
        """The means of the latents' posteriors, `[B, ...]` each, in the order of `latents`; None if it does not say.

        Those of the images alone, whatever else passes through the same layers. One that depends on what a latent above
        drew is that of this draw.
        """
        return None

    def latent_of(self, model: nn.Module, heads: Sequence[Head], count: int) -> list[int | None]:
        """For each head, which of the `count` latents its Normal is the posterior or the prior of; None of neither.

        By default the n-th head of a role is of the n-th latent, where the role has a head for each. Where it has
        fewer, as with a latent whose prior is N(0, 1), order does not tell, and None is all that is known: such a host
        says it here.
        """
        of_role = {role: [head for head in heads if head.role == role] for role in ("posterior", "prior")}
        told = {
            id(head): place for those in of_role.values() if len(those) == count for place, head in enumerate(those)
        }
        return [told.get(id(head)) for head in heads]

    def read(self, batch: ModelBatch) -> Tensor:
        """What `latents` takes of a batch."""
        return batch.target if self.reads_target else batch.input

    @abstractmethod
    def sample(self, model: nn.Module, n: int, temperature: float, latents: Sequence[Tensor] = ()) -> NDArray[np.uint8]:
        """uint8 `[n, H, W, C]` from the prior at a temperature; the first latents may be given."""

    def preset(self, name: str) -> Preset:
        """A preset by name; raises `UnknownNameError` with the nearest."""
        presets = self.presets()
        if name not in presets:
            raise UnknownNameError("preset", name, presets)
        return presets[name]


def trainable(entry: HostEntry) -> TrainableEntry:
    """The entry, if it says how its host is trained; raises `HostError` if not."""
    if isinstance(entry, TrainableEntry):
        return entry
    raise HostError(
        f"host {entry.name!r} can be patched but not trained here: its entry has no loss; subclass TrainableEntry"
    )
