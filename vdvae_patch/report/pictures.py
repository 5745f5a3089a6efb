"""Sample grids as data of the page: few enough, small enough, and only what is an image."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vdvae_patch.train.samples import DEPTHS, TEMPERATURES

BUDGET = 16_000_000
"""The most bytes that all images of a page may have."""

_WIDEST = 1024
_PIXELS = 40_000_000
"""An image with more is left out: it would take the memory of the machine that opens it."""

_ROWS = 1 + DEPTHS + len(TEMPERATURES)


@dataclass(frozen=True)
class Picture:
    """An image of the page. `rows` is how many rows of images it is a grid of, 1 for one that is no sample grid."""

    uri: str
    width: int
    height: int
    rows: int


def picture(path: Path, *, of_grid: bool = False) -> Picture | None:
    """Read an image file and make it small enough; None if it is no image."""
    try:
        with Image.open(path, formats=["PNG", "JPEG", "WEBP"]) as opened:
            if opened.width * opened.height > _PIXELS:
                return None
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    rows = _ROWS if of_grid and image.height % _ROWS == 0 else 1
    if image.width > _WIDEST:
        height = max(rows, round(image.height * _WIDEST / image.width) // rows * rows)
        image = image.resize((_WIDEST, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90)  # a grid of grainy samples takes a fifth of its PNG
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/webp;base64,{data}", image.width, image.height, rows)


def chosen(count: int, limit: int) -> Sequence[int]:
    """Positions of at most `limit` of `count`, evenly spread, the first and the last among them."""
    if count <= limit:
        return range(count)
    if limit <= 1:
        return [count - 1]
    return sorted({round(k * (count - 1) / (limit - 1)) for k in range(limit)})
