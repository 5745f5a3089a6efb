"""Images in .npy files, memory-mapped: VDVAE's layouts of ImageNet-32/64 and FFHQ-256, and anyone's own."""

from __future__ import annotations

import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdvae_patch.data import normalization
from vdvae_patch.data.conversion import advice, in_numpy, objects
from vdvae_patch.data.images import Splits
from vdvae_patch.data.looks import black, looks
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.data.pixels import Labels, UInt8, check_pixels, select, spaced
from vdvae_patch.data.split import hold_out
from vdvae_patch.errors import DataError
from vdvae_patch.reading.fields import one_line
from vdvae_patch.reading.kinds import kind_of

MOST_CLASSES = 100_000
"""ImageNet's largest list has a fifth of that."""


def read_imagenet(root: Path | None, *, size: int) -> Splits:
    """ImageNet at 32x32 or 64x64 (van den Oord et al. 2016).

    Validation: the last 5,000 of `RandomState(42).permutation(n)` of the training file; test: the validation file.
    """
    files = [f"imagenet{size}-train.npy", f"imagenet{size}-valid.npy"]
    hint = "get the downsampled ImageNet from image-net.org and save its PNG files as uint8 arrays [N, H, W, 3]"
    folder = folder_with(root, files, f"imagenet{size}", hint)
    rows, test = (open_array(folder / name, size=size, channels=3) for name in files)
    split = hold_out(len(rows), seed=42, count=5000, end="last", source=str(folder / files[0]))
    published = normalization.IMAGENET32 if size == 32 else normalization.IMAGENET64
    train, valid = select(rows, split.train), select(rows, split.held)
    return Splits(train, valid, test, published, str(folder), split.text, tuple(black(train, valid, test)))


def read_ffhq256(root: Path | None) -> Splits:
    """FFHQ at 256x256: the last 7,000 of `RandomState(5).permutation(n)` are both validation and test, as in VDVAE."""
    hint = "https://openaipublic.blob.core.windows.net/very-deep-vaes-assets/vdvae-assets/ffhq-256.npy is a copy"
    path = folder_with(root, ["ffhq-256.npy"], "ffhq256", hint) / "ffhq-256.npy"
    rows = open_array(path, size=256, channels=3)
    split = hold_out(len(rows), seed=5, count=7000, end="last", source=str(path))
    train, held = select(rows, split.train), select(rows, split.held)
    text = f"{split.text}; test: the same images"
    return Splits(train, held, held, normalization.FFHQ256, str(path), text, tuple(black(train, held, held)))


def read_arrays(root: Path | None) -> Splits:
    """`train.npy`, `valid.npy` and `test.npy`, normalized by the training pixels' mean and standard deviation."""
    files = ["train.npy", "valid.npy", "test.npy"]
    folder = folder_with(root, files, "arrays", "save uint8 arrays [N, H, W, C] there with numpy.save")
    train, valid, test = (open_array(folder / name) for name in files)
    if (top := int(train[spaced(train)].max())) == 1:
        raise DataError(f"{folder / files[0]}: every pixel is 0 or {top}; {in_numpy(folder / files[0], 'x * 255')}")
    notes = looks(train, valid, test)
    return Splits(train, valid, test, Normalization.measured(train), str(folder), "one file each", notes)


def read_labels(root: Path | None) -> Labels:
    """`train-labels.npy`, the class of each image of `train.npy`, whole numbers from 0."""
    name = "train-labels.npy"
    path = folder_with(root, [name], "arrays", "save whole numbers [N] there with numpy.save, from 0") / name
    labels = map_array(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        raise DataError(
            f"{path}: must be whole numbers [N], the class of each image, not {labels.dtype} {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= MOST_CLASSES:
        raise DataError(
            f"{path}: classes are 0 to {MOST_CLASSES - 1:,} at most, and these go from {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int64)


def folder_with(root: Path | None, names: list[str], dataset: str, hint: str) -> Path:
    """`root`, if all of `names` are in it.

    Raises:
        DataError: no root, no such folder, or something missing; it says what was looked for, and `hint`.
    """
    wanted = " and ".join(names) or "images"
    if root is None:
        raise DataError(f"data set {dataset!r} needs --data-root, a folder with {wanted}; {hint}")
    if not root.is_dir():
        raise DataError(f"--data-root {root} is not a folder; data set {dataset!r} looks there for {wanted}; {hint}")
    missing = [name for name in names if not (root / name).exists()]
    if missing:
        raise DataError(f"--data-root {root} has no {' and no '.join(missing)} (data set {dataset!r}); {hint}")
    return root


# What numpy raises over a header that says what no array has: its text is read as Python's, its numbers as they stand.
_NO_ARRAY = (
    OSError, ValueError, EOFError, OverflowError, TypeError, KeyError, IndexError, AttributeError, SyntaxError,
    RecursionError, MemoryError, tokenize.TokenError,
)  # fmt: skip


def map_array(path: Path) -> NDArray[Any]:
    """A memory-mapped .npy, whatever is in it; a header that promises more than the file holds is refused.

    Raises:
        DataError: not a .npy file, cut off, or of Python objects.
    """
    kind = kind_of(path)
    if kind == "a zip archive":
        raise DataError(
            f'{path}: is an .npz archive; save its one array: python -c "import numpy as np; '
            f"z = np.load('{path}'); np.save('{path}', z[z.files[0]])\""
        )
    try:
        with np.errstate(over="ignore"):  # of sizes that no array has, which are refused by another rule
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except _NO_ARRAY as error:
        reason = objects(path) or (kind if kind != "a .npy array" else None) or one_line(error)
        raise DataError(f"{path}: not a whole .npy file of numbers ({reason}); save or download it again") from None
    return array


def open_array(path: Path, *, size: int | None = None, channels: int | None = None) -> UInt8:
    """A memory-mapped .npy of uint8 images `[N, H, W, C]`; a pickled array is refused unread.

    Raises:
        DataError: not a .npy file, cut off, of Python objects, or not such images.
    """
    array = map_array(path)
    try:
        check_pixels(array, str(path), size=size, channels=channels)
    except DataError as error:
        raise DataError(f"{error}{advice(array, path)}") from None
    return array
