"""The variational mixture of posteriors: the encoder's posteriors of learned pseudo-inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.number_ranges import Range, as_float
from vdvae_patch.scales.arithmetic import wide
from vdvae_patch.top_priors.density import NormalMixture
from vdvae_patch.top_priors.prior import TOP_PRIORS, Encode, TopPrior, count, shape_of

_STD = Range(1e-30, 10, "images lie in [0, 1], into which more is only folded", zero=True)
_ANSWER = "it must take images in [0, 1], [K, *images], to a mean and a log sigma, both [K, *latents]"


@TOP_PRIORS.register("vamp", "vampprior")
class Vamp(TopPrior):
    """p(z) = 1/K Σ_k q(z given u_k), u_k learned pseudo-inputs in [0, 1] ("VAE with a VampPrior", eq. 9).

    What is learned is free, and folded into [0, 1] by `reflect`. It starts from images, with noise, or as N(mean, std).

    Args:
        components: K, the number of pseudo-inputs.
        from_data: 1 to start from images, each another one as long as there are enough; 0 to start at random.
        mean: of the random start; without, the mean of the images if there are any, and else 0.5.
        std: of the random start, or of the noise on images.
        lr_factor: see `TopPrior`.
    """

    needs_encoder: ClassVar[bool] = True

    def __init__(
        self,
        components: float = 500,
        from_data: float = 0,
        mean: float | None = None,
        std: float = 0.01,
        lr_factor: float = 1,
    ) -> None:
        super().__init__(lr_factor)
        self.components = count(self._who, "components", components)
        if from_data not in (0, 1):
            raise InvalidValueError(f"{self._who}: from_data is 1 to start from images or 0, not {from_data}")
        self.from_data = int(from_data)
        if mean is not None and not 0 <= (-1.0 if (number := as_float(mean)) is None else number) <= 1:
            raise InvalidValueError(f"{self._who}: mean must be in [0, 1], where images are, not {mean}")
        self.mean = mean
        self.std = _STD.check(self._who, "std", std)

    def _prepare(self, images: Sequence[int] | None, data: Tensor | None, generator: torch.Generator | None) -> None:
        if data is not None:
            _check_data(self._who, data, images)
            images = data.shape[1:] if images is None else images
        elif self.from_data:
            raise InvalidValueError(f"{self._who}: from_data=1 starts from images; give data=, [N, *images] in [0, 1]")
        shape = shape_of(self._who, "images", images, "(1, 28, 28)")
        self._require_memory(self.components, math.prod(shape), "pseudo-inputs")
        start = self.std * torch.randn((self.components, *shape), generator=generator)
        if self.from_data and data is not None:
            start += data[_chosen(self.components, len(data), generator)].to(start)
        elif self.mean is not None:
            start += self.mean
        else:
            start += 0.5 if data is None else float(wide(data).mean())
        self.raw = nn.Parameter(start)

    @property
    def pseudo_inputs(self) -> Tensor:
        """u, `[K, *images]`, in [0, 1].

        Raises:
            InvalidValueError: it is not prepared.
        """
        if "raw" not in self._parameters:
            raise InvalidValueError(f"{self._who} has no pseudo-inputs yet: call prepare(images=...) first")
        return reflect(self.raw)

    def at(self, encode: Encode | None = None) -> NormalMixture:
        inputs = self.pseudo_inputs
        if encode is None:
            raise InvalidValueError(f"{self._who} needs the encoder, as in log_prob(z, model.encode); {_ANSWER}")
        mean, log_sigma = self._answer(encode(inputs), len(inputs))
        return NormalMixture(mean, log_sigma)

    @torch.no_grad()
    def check(self, encode: Encode | None) -> None:
        inputs = self.pseudo_inputs[:2]
        if encode is None:
            raise InvalidValueError(f"{self._who} needs the encoder; {_ANSWER}")
        answers = []
        with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
            for seed in range(2):
                torch.manual_seed(seed)
                try:
                    found = encode(inputs)
                except Exception as error:  # whatever a host's own code raises
                    raise InvalidValueError(
                        f"{self._who}: the encoder cannot be called on pseudo-inputs {list(inputs.shape)} "
                        f"({type(error).__name__}: {error}); {_ANSWER}"
                    ) from error
                answers.append(self._answer(found, len(inputs)))
        # within what kernels of a GPU differ by from call to call
        if not all(torch.allclose(a, b, rtol=1e-2, atol=1e-3, equal_nan=True) for a, b in zip(*answers, strict=True)):
            raise InvalidValueError(
                f"{self._who}: the encoder gives another posterior of the same image at every call, so that this "
                "posterior depends on a draw, as that of a latent below another one does; components are posteriors of "
                "the image alone: take the latent that nothing stands above, and its mean and log sigma before a draw"
            )

    def _answer(self, found: object, size: int) -> tuple[Tensor, Tensor]:
        if not (isinstance(found, (tuple, list)) and len(found) == 2 and all(isinstance(v, Tensor) for v in found)):
            raise InvalidValueError(f"{self._who}: the encoder gave {_described(found)}; {_ANSWER}")
        mean, log_sigma = found
        fits = self.latents is None or tuple(mean.shape[1:]) == self.latents
        if mean.shape != log_sigma.shape or mean.dim() < 2 or len(mean) != size or not fits:
            wanted = "" if self.latents is None else f", latents being {list(self.latents)}"
            raise InvalidValueError(
                f"{self._who}: of {size} images the encoder gave a mean {list(mean.shape)} and a log sigma "
                f"{list(log_sigma.shape)}; {_ANSWER}{wanted}"
            )
        return mean, log_sigma


def reflect(v: Tensor) -> Tensor:
    """Any number into [0, 1], by reflection at both ends: v in [0, 1] stays, −0.1 is 0.1, and 1.1 is 0.9.

    The derivative is 1 or −1 everywhere, so that what has reached an end comes back: that of a sigmoid dies near the
    ends, and that of a clamp beyond them.
    """
    folded = torch.remainder(v, 2.0)
    return torch.where(folded > 1, 2 - folded, folded)


def _chosen(components: int, images: int, generator: torch.Generator | None) -> Tensor:
    """Positions of images, none twice before all were taken once."""
    rounds = [torch.randperm(images, generator=generator) for _ in range(-(-components // images))]
    return torch.cat(rounds)[:components]


def _check_data(who: str, data: Tensor, images: Sequence[int] | None) -> None:
    if not data.is_floating_point():
        raise InvalidValueError(f"{who}: data are {data.dtype}; give numbers in [0, 1], such as bytes / 255")
    if data.dim() < 2 or not len(data) or (images is not None and tuple(data.shape[1:]) != tuple(images)):
        wanted = "[N, *images]" if images is None else f"[N, {', '.join(map(str, images))}]"
        raise InvalidValueError(f"{who}: data are {list(data.shape)}, not {wanted}")
    low, high = float(data.min()), float(data.max())
    if not (low >= 0 and high <= 1):  # also for NaN
        raise InvalidValueError(
            f"{who}: data go from {low:.6g} to {high:.6g}, and pseudo-inputs lie in [0, 1]; map the images there "
            "(bytes / 255, or (x + 1) / 2 of [-1, 1]) and let encode undo it"
        )


def _described(found: object) -> str:
    if isinstance(found, Tensor):
        return f"one tensor {list(found.shape)}"
    if isinstance(found, (tuple, list)):
        return f"{len(found)} values ({', '.join(type(value).__name__ for value in found)})"
    return f"a {type(found).__name__}"
