"""Which images make up which batch: a pure function of the step, so a resumed or replayed run needs nothing saved."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vdvae_patch.data.pixels import Indices
from vdvae_patch.errors import InvalidValueError


def batch_indices(n: int, global_batch: int, step: int, seed: int) -> Indices:
    """The images of step `step` (from 0), `[global_batch]` positions in 0..n-1, over all ranks.

    An epoch is a permutation cut into `n // global_batch` batches; what is left over is dropped. With fewer images than
    `global_batch` there is no such epoch: then every batch is drawn with replacement, as when training on 10 images
    with a batch of 16.

    Raises:
        InvalidValueError: no images, an empty batch, or a negative step or seed.
    """
    if n < 1 or global_batch < 1:
        raise InvalidValueError(f"no batches of {global_batch} from {n} images: both must be at least 1")
    if n < global_batch:
        return _stream(seed, step).randint(0, n, size=global_batch, dtype=np.int64)
    epoch, position = divmod(step, n // global_batch)
    start = position * global_batch
    return epoch_indices(n, seed, epoch)[start : start + global_batch].copy()


def steps_per_epoch(n: int, global_batch: int) -> int:
    """Steps after which each image was seen once, but for those dropped; 1 with fewer images than `global_batch`."""
    return max(1, n // global_batch)


def told_steps_per_epoch(step: Indices, epoch: Indices) -> int | None:
    """The same, told by a log: from the steps that it has, and the epoch of each; None if none is behind the first.

    Step s of epoch e is at least e times as many, and as many where it begins one. That some records are missing
    changes nothing as long as one that begins an epoch is there.
    """
    later = epoch >= 1
    return max(1, int((step[later] // epoch[later]).min())) if later.any() else None


@lru_cache(maxsize=4)
def epoch_indices(n: int, seed: int, epoch: int) -> Indices:
    """A permutation of 0..n-1 that depends on `(n, seed, epoch)` alone; read-only, since it is shared between calls."""
    permutation = _stream(seed, epoch).permutation(n).astype(np.int64)
    permutation.setflags(write=False)
    return permutation


def rank_slice(indices: Indices, rank: int, world_size: int) -> Indices:
    """The share of rank `rank` in a global batch: contiguous, so that all ranks' shares in order are the batch.

    Raises:
        InvalidValueError: a rank outside 0..world_size-1, or a batch that does not divide by `world_size`.
    """
    if not 0 <= rank < world_size:
        raise InvalidValueError(f"rank {rank} is not between 0 and {world_size - 1} (world size {world_size})")
    share, left_over = divmod(len(indices), world_size)
    if left_over:
        raise InvalidValueError(
            f"a global batch of {len(indices)} does not divide among {world_size} ranks; "
            f"take {share * world_size or world_size} or {(share + 1) * world_size}"
        )
    return indices[rank * share : (rank + 1) * share]


def _stream(seed: int, counter: int) -> np.random.RandomState:
    # Philox is a keyed counter: any two keys give independent streams, without a walk through those before. RandomState
    # on top, because numpy promises never to change what it draws.
    if not (0 <= seed < 2**64 and 0 <= counter < 2**64):
        raise InvalidValueError(f"seed {seed} and step or epoch {counter} must be between 0 and 2**64 - 1")
    return np.random.RandomState(np.random.Philox(key=np.array([seed, counter], dtype=np.uint64)))
