"""Frey Faces (Roweis): 1,965 grey frames of a face, 28 rows and 20 columns, from an array of numpy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vdvae_patch.data.arrays import map_array
from vdvae_patch.data.images import Splits
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.errors import DataError

FILE = "freyfaces.npy"
COUNT, ROWS, COLUMNS = 1965, 28, 20
TRAIN, VALID = 1565, 200
_HOW = (
    "save the frames as uint8 [1965, 28, 20] there: of frey_rawface.mat, from https://cs.nyu.edu/~roweis/data.html, "
    "numpy.save('freyfaces.npy', scipy.io.loadmat('frey_rawface.mat')['ff'].T.reshape(-1, 28, 20))"
)


def read(root: Path | None) -> Splits:
    """uint8 `[N, 28, 20, 1]`: 1,565 for training, 200 for validation, 200 for the test, of `RandomState(0)`'s order.

    The film is shuffled first, as in "VAE with a VampPrior": what is a frame of the test has neighbours in training.

    Raises:
        DataError: no file, or one that holds something else.
    """
    if root is None:
        raise DataError(f"data set 'frey-faces' needs --data-root, a folder with {FILE}; {_HOW}")
    path = next((path for path in (root / "freyfaces" / FILE, root / FILE) if path.is_file()), None)
    if path is None:
        raise DataError(f"--data-root {root} has no {FILE}, nor a folder freyfaces with it; {_HOW}")
    try:
        frames = np.asarray(map_array(path))
    except DataError as error:
        raise DataError(f"{error}; {_HOW}") from None
    if frames.dtype != np.uint8 or frames.size != COUNT * ROWS * COLUMNS or frames.shape[:3] != (COUNT, ROWS, COLUMNS):
        raise DataError(f"{path}: {frames.dtype} of shape {list(frames.shape)}; {_HOW}")
    order = np.random.RandomState(0).permutation(COUNT)
    images = frames.reshape(COUNT, ROWS, COLUMNS, 1)[order]
    train, valid, test = np.split(images, [TRAIN, TRAIN + VALID])
    split = "RandomState(0).permutation(1965): 1,565 train, 200 valid, 200 test"
    return Splits(train, valid, test, Normalization.measured(train), str(path), split, width=COLUMNS)
