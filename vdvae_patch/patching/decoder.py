"""A decoder in the place of a host's likelihood, and the layer beside the host's own that emits what it needs besides.

Both are modules of the model, so that they are optimized, averaged, moved, copied and wrapped with it, and both stand
apart from its `state_dict`, whose keys stay the host's. `apart` and `load_apart` are their own section of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.attach.attachment import Attachment
from vdvae_patch.decoders import Decoder, Gaussian, Optimal
from vdvae_patch.decoders import get as get_decoder
from vdvae_patch.errors import PatchError
from vdvae_patch.over_ranks import mean_over_ranks
from vdvae_patch.seams import DecoderSeam, Instead
from vdvae_patch.torch_versions import takes_hooks

LIKELIHOOD = "vdvae_patch_decoder"
BESIDE = "vdvae_patch_beside"
TERM = "vdvae_patch_term"
"""By these names they are children of the host's modules."""


class Apart(nn.Module):
    """A module whose parameters and buffers are not part of the `state_dict` around it."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing, as a part of another module; what it holds is in `apart`."""
        return kwargs.get("destination", args[0] if args else {})

    def apart(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        state: dict[str, Tensor] = super().state_dict()
        return dict(state)

    def load_apart(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `apart` gave."""
        own = self.apart()
        if own.keys() != state.keys():
            raise PatchError(f"the decoder's state has {sorted(state)} and the decoder {sorted(own)}")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # what is below finds its own values there: a strict load misses nothing
        state_dict.update({prefix + name: value for name, value in self.apart().items()})


class Beside(Apart):
    """A layer that reads what the host's layer reads, and whose output follows that one's."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """As the host's layer has it."""
        out: Tensor = self.layer(x)
        return out


class Likelihood(Apart):
    """The decoder of a host, which reads what the host's layer and the one beside it emit.

    A decoder that takes means first gets the host's own means there; any other the channels as they are. What the host
    emits too much is not read.
    """

    def __init__(self, decoder: Decoder, seam: DecoderSeam, frozen: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.decoder = decoder
        self.image_channels = seam.image_channels
        self.own_channels = seam.channels
        self.size = seam.size
        self.means: Callable[[Tensor], Tensor] | None = seam.means if decoder.means_first else None
        self.frozen = frozen

    def parameters_of(self, emitted: Tensor) -> Tensor:
        """`[B, channels(C), ...]`, what the decoder takes, from what the layers emit."""
        emitted = self.as_images(emitted)
        own, more = emitted[:, : self.own_channels], emitted[:, self.own_channels :]
        if self.means is not None:
            own = self.means(own)
        return torch.cat([own, more], dim=1)[:, : self.decoder.channels(self.image_channels)]

    def as_images(self, emitted: Tensor) -> Tensor:
        """Flat lists with the size of the image."""
        return emitted if self.size is None else emitted.reshape(len(emitted), -1, *self.size)

    def nll(self, x: Tensor, emitted: Tensor) -> Tensor:
        """−log p(x), nats an image, `[B]`."""
        return self.decoder.nll(x, self.parameters_of(emitted))

    def mean(self, emitted: Tensor) -> Tensor:
        """The mean image, `[B, C, ...]`."""
        return self.decoder.mean(self.parameters_of(emitted))

    @torch.no_grad()
    def images(self, emitted: Tensor) -> Tensor:
        """uint8 `[B, C, ...]` to look at: the means of a density, draws of a discrete likelihood."""
        parameters = self.parameters_of(emitted)
        density = self.decoder.is_density
        values = self.decoder.mean(parameters) if density else self.decoder.sample(parameters)
        pixels = self.decoder.pixels
        index = pixels.index(pixels.round(values))
        return (index * (256 // pixels.levels if pixels.levels <= 256 else 1)).clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def sigma(self, x: Tensor, parameters: Tensor) -> Tensor | None:
        """The geometric mean of a Gaussian's σ over the batch of all ranks, in the units of the data."""
        decoder = self.decoder
        if not isinstance(decoder, Gaussian):
            return None
        if isinstance(decoder, Optimal) and self.training:
            return decoder.batch_log_sigma(x, parameters).exp()
        log_sigma = decoder.log_sigma(parameters)
        each = log_sigma.flatten(1).mean(dim=1) if log_sigma.dim() > 1 else log_sigma.expand(len(x))
        return mean_over_ranks(each).exp()


class InsteadAttachment(Attachment):
    """Runs a function of an entry, with the decoder, in the place of a method that reads the host's likelihood."""

    def __init__(self, instead: Instead) -> None:
        super().__init__(instead.owner, instead.method)
        self.function = instead.function

    def run(self, module: Any, host: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return self.function(module, likelihood_at(module), *args, **kwargs)


class BesideAttachment(Attachment):
    """Joins the output of a layer and of the one beside it, along the channels."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "forward")

    def run(self, module: Any, host: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Tensor:
        own, more = host(module, *args, **kwargs), module._modules[BESIDE](*args, **kwargs)
        return torch.cat([own, more], dim=1)


class Placement:
    """A decoder that is to be put into a model: its modules, and what stands in for the host's methods.

    Raises:
        InvalidValueError: the decoder refuses its arguments, or images of this kind.
        PatchError: the layer is of a kind that none can be put beside; or the decoder is made for other pixels.
    """

    def __init__(self, model: nn.Module, seam: DecoderSeam, decoder: str | Decoder) -> None:
        self.seam = seam
        self.decoder = get_decoder(decoder, seam.pixels)
        if self.decoder.pixels != seam.pixels:
            raise PatchError(
                f"decoder {self.decoder.name} is for {self.decoder.pixels}, and this host's images are "
                f"{seam.pixels}; give its name, or make it with pixels=seam.pixels"
            )
        known = dict(model.named_modules())
        owners = {instead.owner for instead in seam.instead}
        self.home = known[next(iter(owners))] if owners else model
        self.layer = known[seam.layer]
        needed = self.decoder.channels(seam.image_channels)
        there = seam.image_channels + seam.spare if self.decoder.means_first else seam.channels
        self.extra = max(0, needed - there)
        self.attachments: list[Attachment] = [InsteadAttachment(instead) for instead in seam.instead]
        if self.extra:
            self.attachments.append(BesideAttachment(seam.layer))

    def put(self, model: nn.Module) -> None:
        """Add the modules; no random number of the program is used up by the new layer's weights."""
        named = dict(model.named_parameters())
        frozen = tuple(name for name in self.seam.unused if named[name].requires_grad)
        like = next(self.layer.parameters())
        flat = 1
        for length in self.seam.size or ():
            flat *= length
        if self.extra:
            with torch.random.fork_rng(devices=[]):
                layer = (self.seam.added or beside)(self.layer, self.extra * flat)
            made = Beside(layer).to(like.device, like.dtype).train(self.layer.training)
            self.layer.add_module(BESIDE, made.requires_grad_(like.requires_grad))
        likelihood = Likelihood(self.decoder, self.seam, frozen).to(like.device, like.dtype)
        likelihood.train(model.training)
        if not like.requires_grad:
            likelihood.requires_grad_(False)
        self.home.add_module(LIKELIHOOD, likelihood)
        for name in frozen:
            named[name].requires_grad_(False)


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def beside(layer: nn.Module, channels: int) -> nn.Module:
    """A layer of torch's own with the same geometry and another number of outputs.

    Raises:
        PatchError: another kind of layer.
    """
    known: Any = layer
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, channels)
    kind: Any = next((cls for cls in (*_CONVOLUTIONS, *_TRANSPOSED) if isinstance(layer, cls)), None)
    if kind is not None:
        geometry = {name: getattr(known, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        if kind in _TRANSPOSED:
            geometry["output_padding"] = known.output_padding
        made: nn.Module = kind(known.in_channels, channels, padding_mode=known.padding_mode, **geometry)
        return made
    raise PatchError(
        f"no layer can be put beside a {type(layer).__name__}; its entry can say how, by `added` of its DecoderSeam"
    )


def likelihood_at(module: Any) -> Any:
    """The decoder at the module whose methods read it; None without one."""
    return module._modules.get(LIKELIHOOD)


def likelihood_in(model: nn.Module) -> Likelihood | None:
    """The decoder of a model, or of one that it wraps; None without one."""
    return next((module for module in model.modules() if isinstance(module, Likelihood)), None)


def take_away(model: nn.Module) -> None:
    """Take the modules away again; the parameters that were put aside learn as before."""
    named = dict(model.named_parameters())
    for module in filter(takes_hooks, list(model.modules())):
        likelihood = module._modules.pop(LIKELIHOOD, None)
        module._modules.pop(BESIDE, None)
        module._modules.pop(TERM, None)
        if isinstance(likelihood, Likelihood):
            for name in likelihood.frozen:
                named[name].requires_grad_(True)


def _aparts(model: nn.Module) -> Iterator[tuple[str, Apart]]:
    return ((path, module) for path, module in model.named_modules() if isinstance(module, Apart))


def apart_state(model: nn.Module) -> dict[str, Tensor]:
    """What stands apart from a model's `state_dict`: a decoder's tensors and those of the layer beside, by name."""
    return {f"{path}.{name}": value for path, module in _aparts(model) for name, value in module.apart().items()}


def load_apart_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take up what `apart_state` gave.

    Raises:
        PatchError: the state is of another decoder.
    """
    known = apart_state(model)
    if known.keys() != state.keys() or any(known[name].shape != state[name].shape for name in known):
        raise PatchError("the state of the decoder is of another decoder, or of another size of the model")
    for path, module in _aparts(model):
        module.load_apart({name: state[f"{path}.{name}"] for name in module.apart()})
