"""The shape of a VDVAE: layer strings and channel widths, read once and checked before a weight is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from .hps import Hyperparams

Side = Literal["enc_blocks", "dec_blocks"]

_LAYER = re.compile(r"\s*(?P<resolution>\d+)(?:(?P<kind>[xdm])(?P<number>\d+))?\s*")
_MEANING = {"enc_blocks": "32x11, 32d2 or 8", "dec_blocks": "32x11, 4m1 or 8"}


@dataclass(frozen=True)
class Layer:
    """One block: it works at `resolution`, then pools by `down_rate`, or first adds the trunk of resolution `mixin`."""

    resolution: int
    down_rate: int | None = None
    mixin: int | None = None

    @property
    def out_resolution(self) -> int:
        return self.resolution // (self.down_rate or 1)


def parse_layer_string(text: str, side: Side) -> list[Layer]:
    """Read comma-separated layers.

    `32x11` is 11 blocks at resolution 32 and `8` one at 8; `32d2` is one at 32 that then pools by 2 (encoder only);
    `4m1` one at 4 that first adds the trunk of resolution 1, enlarged (decoder only).

    Raises:
        ValueError: an item is none of these, or belongs to the other side.
    """
    layers: list[Layer] = []
    for item in text.split(","):
        match = _LAYER.fullmatch(item)
        if match is None or match["kind"] == ("m" if side == "enc_blocks" else "d"):
            raise ValueError(f"{side} has the layer {item!r}; write it like {_MEANING[side]}")
        resolution, number = int(match["resolution"]), int(match["number"] or 1)
        if resolution == 0 or number == 0:
            raise ValueError(f"{side} has the layer {item!r}; resolutions, counts and rates start at 1")
        if match["kind"] == "d":
            layers.append(Layer(resolution, down_rate=number))
        elif match["kind"] == "m":
            layers.append(Layer(resolution, mixin=number))
        else:
            layers.extend([Layer(resolution)] * number)
    return layers


@dataclass(frozen=True)
class Widths:
    """Channels of the trunk at each resolution: `default`, save where `custom` says otherwise."""

    default: int
    custom: dict[int, int]

    @classmethod
    def parse(cls, default: int, text: str | None) -> Widths:
        """Read `custom_width_str`, such as `512:32,256:64`.

        Raises:
            ValueError: an item is not two whole numbers with a colon between.
        """
        custom: dict[int, int] = {}
        for item in (text or "").split(",") if text else []:
            match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", item)
            if match is None:
                raise ValueError(f"custom_width_str has the item {item!r}; write it like 512:32")
            custom[int(match[1])] = int(match[2])
        return cls(default, custom)

    def at(self, resolution: int) -> int:
        return self.custom.get(resolution, self.default)


@dataclass(frozen=True)
class Layout:
    """All that is needed to build the model, consistent from the image down to 1x1 and up again."""

    image_size: int
    image_channels: int
    encoder: list[Layer]
    decoder: list[Layer]
    widths: Widths
    zdim: int
    bottleneck_multiple: float
    no_bias_above: int

    @classmethod
    def of(cls, H: Hyperparams) -> Layout:
        """Read a layout from hyperparameters.

        Raises:
            ValueError: a hyperparameter is missing, or the layers do not fit each other; the message names the layer.
        """
        layout = cls(
            image_size=_required(H, "image_size"),
            image_channels=_required(H, "image_channels"),
            encoder=parse_layer_string(_required(H, "enc_blocks"), "enc_blocks"),
            decoder=parse_layer_string(_required(H, "dec_blocks"), "dec_blocks"),
            widths=Widths.parse(_required(H, "width"), H.custom_width_str),
            zdim=_required(H, "zdim"),
            bottleneck_multiple=_required(H, "bottleneck_multiple"),
            no_bias_above=_required(H, "no_bias_above"),
        )
        layout._check_image()
        layout._check_encoder()
        layout._check_decoder()
        return layout

    @property
    def decoder_resolutions(self) -> list[int]:
        return sorted({layer.resolution for layer in self.decoder})

    @property
    def bias_resolutions(self) -> list[int]:
        """Resolutions whose trunk starts at a learned bias; the others start at zero."""
        return [resolution for resolution in self.decoder_resolutions if resolution <= self.no_bias_above]

    def bottleneck(self, resolution: int) -> int:
        """Inner width of a block."""
        return int(self.widths.at(resolution) * self.bottleneck_multiple)

    def _check_image(self) -> None:
        if self.image_channels != 3:
            raise ValueError(f"image_channels is {self.image_channels}; the pixel likelihood is made for 3")
        if self.widths.at(self.image_size) != self.widths.default:
            raise ValueError(
                f"custom_width_str gives resolution {self.image_size} {self.widths.at(self.image_size)} channels, "
                f"but at the image's own size it must be the width, {self.widths.default}"
            )

    def _check_encoder(self) -> None:
        resolution = self.image_size
        for index, layer in enumerate(self.encoder):
            if layer.resolution != resolution:
                raise ValueError(
                    f"enc_blocks: layer {index} is written for resolution {layer.resolution}, "
                    f"but what reaches it has {resolution}"
                )
            width, resolution = self.widths.at(resolution), layer.out_resolution
            if resolution == 0 or self.widths.at(resolution) < width:
                raise ValueError(
                    f"enc_blocks: layer {index} goes from {layer.resolution} ({width} channels) to {resolution} "
                    f"({self.widths.at(resolution)} channels); only zeros can be added, so widths must not shrink"
                )

    def _check_decoder(self) -> None:
        encoded = {self.image_size} | {layer.out_resolution for layer in self.encoder}
        ready = set(self.bias_resolutions)
        for index, layer in enumerate(self.decoder):
            where = f"dec_blocks: layer {index} at resolution {layer.resolution}"
            if layer.resolution not in encoded:
                raise ValueError(f"{where} has no activations to read; the encoder makes {sorted(encoded)}")
            if layer.mixin is not None and layer.mixin not in ready:
                raise ValueError(
                    f"{where} adds resolution {layer.mixin}, which has no trunk; there are {sorted(ready)}"
                )
            if layer.mixin is not None and layer.resolution % layer.mixin:
                raise ValueError(f"{where} adds resolution {layer.mixin}, which does not divide it")
            ready.add(layer.resolution)
        if self.image_size not in ready:
            raise ValueError(f"dec_blocks ends at {max(ready)}, but the image's size is {self.image_size}")


def _required(H: Hyperparams, name: str) -> Any:
    value = H.get(name)
    if value is None:
        raise ValueError(f"hyperparameter {name!r} is not set; set H.{name}, or start from a preset")
    return value
