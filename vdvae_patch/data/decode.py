"""One image file to RGB pixels, whatever its colour mode; only the formats that are named here are ever decoded."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vdvae_patch.data.pixels import UInt8
from vdvae_patch.errors import DataError
from vdvae_patch.reading.fields import one_line
from vdvae_patch.reading.kinds import kind_of, kind_of_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    {
        ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff",
        ".gif",
    }
)  # fmt: skip
# Pillow knows many more, and starts ghostscript for one of them; a file's name says nothing of what is in it.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")

# What Pillow raises over files that are damaged.
_BROKEN = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error, OverflowError,
    AttributeError, MemoryError, RuntimeError, AssertionError, ZeroDivisionError, zlib.error,
)  # fmt: skip

_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_ORIENTATION = 0x0112
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 0x0102, 0x0106, 0

MOST_PIXELS = 2**25
"""Of one image, 5,792 x 5,792: a small file can unpack to gigabytes."""


def read_image(path: Path) -> UInt8:
    """An image file as RGB, `[H, W, 3]`, turned as its EXIF orientation says.

    Grey is repeated; 16-bit grey is scaled from 0..65535 to 0..255; of 16 bits a colour the upper eight are taken, 1
    less or more than that in a quarter of the values; an alpha channel is left out; palettes, CMYK and
    LAB are converted. Of an animation or several pages it is the first.

    Raises:
        DataError: damaged, of another format than `FORMATS`, or of 32-bit values.
    """
    return _decode(path, str(path), lambda: kind_of(path))


def pictures_in(path: Path) -> int:
    """How many pictures or pages an image file has; 1 also for one that `read_image` refuses."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            return int(getattr(image, "n_frames", 1))
    except (*_BROKEN, Image.DecompressionBombError):
        return 1


def is_transparent(path: Path) -> bool:
    """Whether any pixel of an image file is transparent, of which `read_image` takes the colour that lies below; False
    also for one that it refuses."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                return False
            if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
                return False
            alpha = image.convert("RGBA").getchannel("A")
            return bool(np.asarray(alpha).min() < 255)
    except (*_BROKEN, Image.DecompressionBombError):
        return False


def decode_image(content: bytes, name: str) -> UInt8:
    """The same for the bytes of an image file; `name` is for messages."""
    return _decode(io.BytesIO(content), name, lambda: kind_of_bytes(content[:512]))


def _decode(source: Any, name: str, kind: Any) -> UInt8:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(source, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise DataError(
                    f"{name}: {width}x{height} pixels are more than {MOST_PIXELS:,}, and would not fit in a model; "
                    "make it smaller, or remove it"
                )
            image.load()
            return _rgb(_upright(image), image.format, name)
    except DataError:
        raise
    except UnidentifiedImageError:
        is_it = kind()
        found = f"it is {is_it}" if is_it else f"none of {', '.join(FORMATS)}"
        raise DataError(f"{name}: not a whole image ({found}); replace or remove it") from None
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: not a whole image ({one_line(error)}); replace or remove it") from None


def _upright(image: Image) -> Image:
    from PIL import ImageOps

    try:
        if image.getexif().get(_ORIENTATION, 1) not in range(2, 9):
            return image  # upright, as almost all are, and `exif_transpose` would copy it
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):
        return image  # the metadata are damaged, the pixels are not


def _rgb(image: Image, format: str | None, name: str) -> UInt8:
    mode = image.mode
    if mode in ("I;16", "I;16L", "I;16B", "I;16N") or (mode == "I" and format in ("PNG", "PPM")):
        wide = np.asarray(image).astype(np.uint32)  # 65535 · 255 + 32767 fits
        if format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # type: ignore[attr-defined]
            wide = 2 ** image.tag_v2.get(_BITS, (16,))[0] - 1 - wide  # type: ignore[attr-defined]  # Pillow: 8 bits alone
        return _repeated(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if mode in ("RGB", "RGBX"):
        return np.ascontiguousarray(np.asarray(image)[:, :, :3])
    if mode in ("1", "L"):
        return _repeated(np.asarray(image.convert("L")))
    if mode in _WITH_ALPHA or (mode == "P" and "transparency" in image.info):
        return np.ascontiguousarray(np.asarray(_plain_alpha(image))[:, :, :3])
    if mode in ("P", "CMYK", "YCbCr"):
        return np.asarray(image.convert("RGB")).copy()
    if mode == "LAB":
        return _lab(image)
    raise DataError(
        f"{name}: its values are of Pillow's mode {mode!r} (32-bit integers or floats); only images of 8 bits a "
        "channel, or 16 bits grey, can be used: convert it first"
    )


def _plain_alpha(image: Image) -> Image:
    """RGBA with colours as they are under the alpha; a premultiplied mode has one way there alone."""
    return image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")


def _lab(image: Image) -> UInt8:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # it is None only where the image itself is changed
    return np.asarray(converted).copy()


def _repeated(grey: UInt8) -> UInt8:
    return np.ascontiguousarray(np.broadcast_to(grey[:, :, None], (*grey.shape, 3)))
