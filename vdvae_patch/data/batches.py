"""Batches by index from images that stay on the device, so that a step waits for no data worker."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from vdvae_patch.data.order import batch_indices, epoch_indices, rank_slice, steps_per_epoch
from vdvae_patch.data.pixels import Indices, Pixels
from vdvae_patch.data.sending import sent

__all__ = ["DeviceImages", "Placement", "batch_indices", "epoch_indices", "rank_slice", "steps_per_epoch"]

Placement = Literal["device", "host"]

_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class _Ahead:
    indices: Indices
    batch: Future[torch.Tensor]


class DeviceImages:
    """Images as uint8, on the device if they fit, else read from the host a batch at a time.

    Args:
        pixels: uint8 `[N, H, W, C]`, in memory, mapped or read on demand.
        device: where batches are wanted.
        fraction: of the device's free memory that the images may take; the rest is the model's.
        placement: decide it for yourself; None keeps images on an accelerator if they fit. In the processor's own
            memory they are never copied a second time.
    """

    def __init__(
        self, pixels: Pixels, device: torch.device | str, *, fraction: float = 0.25, placement: Placement | None = None
    ) -> None:
        self.device = torch.device(device)
        self.shape = tuple(int(length) for length in pixels.shape)
        fits = self.device.type != "cpu" and pixels.nbytes <= fraction * _free_bytes(self.device)
        self.placement: Placement = placement or ("device" if fits else "host")
        self._pixels = pixels
        self._resident = _upload(pixels, self.device) if self.placement == "device" else None
        self._reader: ThreadPoolExecutor | None = None
        self._ahead: _Ahead | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, indices: Indices) -> torch.Tensor:
        """uint8 `[len(indices), H, W, C]` on the device, in the order of `indices`.

        Raises:
            IndexError: a position outside 0..N-1; checked here, since an accelerator would stop the whole process.
        """
        self._check(indices)
        if self._resident is not None:
            return self._resident.index_select(0, sent(torch.from_numpy(np.array(indices, np.int64)), self.device))
        if self._ahead is not None and np.array_equal(self._ahead.indices, indices):
            batch = self._ahead.batch.result()
            self._ahead = None
        else:
            batch = self._gather(indices)
        return sent(batch, self.device)

    def prefetch(self, indices: Indices) -> None:
        """Begin to read the batch that the next `take` will ask for; images on the device need no reading."""
        self._check(indices)
        if self._resident is None:
            self._reader = self._reader or ThreadPoolExecutor(max_workers=1, thread_name_prefix="images")
            self._ahead = _Ahead(indices, self._reader.submit(self._gather, indices))

    def _gather(self, indices: Indices) -> torch.Tensor:
        batch = torch.from_numpy(np.ascontiguousarray(self._pixels[indices]))
        # Pinned memory is what lets the copy run while the device computes.
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def _check(self, indices: Indices) -> None:
        if len(indices) and (np.min(indices) < 0 or np.max(indices) >= len(self)):
            raise IndexError(f"batch positions {np.min(indices)}..{np.max(indices)} are outside 0..{len(self) - 1}")


def _upload(pixels: Pixels, device: torch.device) -> torch.Tensor:
    resident = torch.empty(tuple(map(int, pixels.shape)), dtype=torch.uint8, device=device)
    step = max(1, _CHUNK_BYTES * len(pixels) // pixels.nbytes)
    for start in range(0, len(pixels), step):  # by chunks: a mapped file need not fit in the host's memory
        resident[start : start + step].copy_(torch.from_numpy(np.array(pixels[start : start + step])))
    return resident


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return 0  # other accelerators do not tell; their images are sent a batch at a time
