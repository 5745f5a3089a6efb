"""What an array that is not uint8 `[N, H, W, C]` looks like, and numpy's command that makes it so: for messages."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LOOK = 2**22  # values that are looked at for their range


def advice(array: NDArray[Any], path: Path) -> str:
    """`"; found ...: convert it with ..."`: what was found in a file, and the command to convert it; else nothing.

    A range that says nothing by itself is told and left to the user: no guess is made.
    """
    layout, layout_step = _layout(array.shape)
    values, value_step = _values(array)
    found = ", ".join(part for part in (layout, values) if part)
    if not found:
        return ""
    if value_step is None or layout_step is None:
        return f"; found {found}"
    expression = layout_step.format("x")
    expression = value_step.format(expression)
    return f"; found {found}: {in_numpy(path, expression)}" if expression != "x" else f"; found {found}"


def in_numpy(path: Path, expression: str) -> str:
    """The command that replaces the array x of a file by an expression of it."""
    return f"convert it with python -c \"import numpy as np; x = np.load('{path}'); np.save('{path}', {expression})\""


def objects(path: Path) -> str | None:
    """What to say of an array of Python objects, which is never read; None for any other file."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            head = io.BytesIO(file.read(2**16))
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(head)
    except Exception:  # of a header that says what no array has numpy raises a dozen types; this is for a message
        return None
    if not dtype.hasobject:
        return None
    return (
        f"an array of Python objects of shape {list(shape)}, which is not read, since reading it can run code; if you "
        f"made it yourself: python -c \"import numpy as np; x = np.load('{path}', allow_pickle=True); "
        f"np.save('{path}', np.stack(list(x)))\""
    )


def _layout(shape: tuple[int, ...]) -> tuple[str, str | None]:
    """What the shape looks like, and the step that makes it `[N, H, W, C]`; a step of None is not known."""
    if len(shape) == 4:
        _, a, b, c = shape
        if a in (1, 3) and b == c and c not in (1, 3):
            return "channels first [N, C, H, W]", "{}.transpose(0, 2, 3, 1)"
        if c == 4 and a == b:
            return "an alpha channel", "{}[..., :3]"
        return ("", "{}") if a == b and c in (1, 3) else ("images of another shape", None)
    if len(shape) == 3:
        if shape[2] in (1, 3, 4) and shape[0] == shape[1]:
            return "one image [H, W, C] and not many", None
        if shape[1] == shape[2]:
            return "grey images without a channel [N, H, W]", "{}[..., None]"
    if len(shape) == 2:
        for channels in (3, 1):
            side = round((shape[1] / channels) ** 0.5)
            if side > 1 and side * side * channels == shape[1]:
                if channels == 1:
                    return f"rows of {shape[1]:,} values", f"{{}}.reshape(-1, {side}, {side}, 1)"
                return (
                    f"rows of {shape[1]:,} values; if they lie channel by channel, as in CIFAR-10",
                    f"{{}}.reshape(-1, 3, {side}, {side}).transpose(0, 2, 3, 1)",
                )
    return "", None


def _values(array: NDArray[Any]) -> tuple[str, str | None]:
    """What the values look like, and the step that makes them uint8 0..255."""
    if array.dtype == np.uint8:
        return "", "{}"
    if array.dtype == np.bool_:
        return "True and False", "({} * 255).astype('uint8')"
    if array.dtype.kind not in "fiu" or not array.size:
        return "", None
    step = max(1, len(array) * _LOOK // array.size) if array.ndim else 1
    part = np.asarray(array[:: max(1, len(array) // step)] if array.ndim else array)
    if part.dtype.kind == "f" and not np.isfinite(part).all():
        return f"{int((~np.isfinite(part)).sum()):,} values that are NaN or infinite", None
    low, high = float(part.min()), float(part.max())
    said = f"values from {low:g} to {high:g}"
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return said, "({} * 255).round().astype('uint8')"
    if array.dtype.kind == "f" and -1 <= low < 0 and high <= 1:
        return said, "(({} + 1) * 127.5).round().astype('uint8')"
    if low >= 0 and 1 < high <= 255:
        return said, "{}.round().astype('uint8')" if array.dtype.kind == "f" else "{}.astype('uint8')"
    if array.dtype == np.uint16:
        return said, "({} / 257).round().astype('uint8')"
    return said, None
