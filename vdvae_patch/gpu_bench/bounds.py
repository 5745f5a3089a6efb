"""What a step needs at least: operations and bytes, counted; and what the device does in a second.

A step of B images takes at least F·B / (operations a second) and M(B) / (bytes a second). F is counted by torch's own
counter of matrix products and convolutions, forward and backward. M(B) is what cannot stay in caches: all that the
backward pass needs is written once and read once, and of each parameter twelve values of 4 bytes: the weight is read
three times (forward, backward, update) and written once, its gradient written and read, both moments and the average
read and written. Whatever an operation reads and writes beyond that is time over the bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vdvae_patch.benchmark import synchronize
from vdvae_patch.data.batches import DeviceImages, batch_indices
from vdvae_patch.gpu_bench.cells import ARITHMETICS, Arithmetic
from vdvae_patch.gpu_bench.settings import words_of
from vdvae_patch.hosts.preset import Losses
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.numerics import numerics
from vdvae_patch.train.setup import Workload, prepare
from vdvae_patch.train.step import autocast
from vdvae_patch.train.weighing import Weighed

STATE_BYTES_A_PARAMETER = 48
_NVIDIA = "NVIDIA's data sheet; TF32 and bf16 are half of its numbers, which are with sparsity"


@dataclass(frozen=True)
class Peaks:
    """Operations a second by arithmetic, and bytes a second of the memory."""

    ieee: float
    tf32: float
    bf16: float
    bandwidth: float
    source: str

    def operations(self, arithmetic: Arithmetic) -> float:
        """Operations a second."""
        rate: float = getattr(self, arithmetic)
        return rate


PEAKS: Mapping[str, Peaks] = {
    "NVIDIA H200": Peaks(67e12, 494.7e12, 989.4e12, 4.8e12, _NVIDIA),
    "NVIDIA H100 80GB HBM3": Peaks(67e12, 494.7e12, 989.4e12, 3.35e12, _NVIDIA),
    "NVIDIA A100-SXM4-80GB": Peaks(19.5e12, 156e12, 312e12, 2.039e12, _NVIDIA),
    "NVIDIA A100-SXM4-40GB": Peaks(19.5e12, 156e12, 312e12, 1.555e12, _NVIDIA),
}
"""By the name that torch gives the device."""


@dataclass(frozen=True)
class Work:
    """What a step of B images needs: `operations · B`, and `fixed + each · B` bytes saved for the backward pass.

    Attributes:
        operations: of an image, forward and backward.
        saved_fixed, saved_each: bytes by arithmetic, of a step and of an image.
    """

    operations: float
    parameters: int
    saved_fixed: dict[str, float]
    saved_each: dict[str, float]

    def bytes_moved(self, arithmetic: Arithmetic, batch: int) -> float:
        """The least that a step moves, see the module."""
        saved = self.saved_fixed[arithmetic] + self.saved_each[arithmetic] * batch
        return 2 * saved + STATE_BYTES_A_PARAMETER * self.parameters

    def bounds(self, arithmetic: Arithmetic, batch: int, peaks: Peaks) -> tuple[float, float]:
        """Seconds that a step takes at least, by its operations and by its bytes."""
        computing = self.operations * batch / peaks.operations(arithmetic)
        return computing, self.bytes_moved(arithmetic, batch) / peaks.bandwidth

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def count_work(config: TrainConfig[Any], device: torch.device) -> Work:
    """Count a vanilla step of one image and one of two; both grow by the same for each further image."""
    work = prepare(replace(config, variant="vanilla"), device)
    images = DeviceImages(work.data.train, device)
    operations: list[float] = []
    fixed: dict[str, float] = {}
    each: dict[str, float] = {}
    for arithmetic in ARITHMETICS:
        found = []
        for size in (1, 2):
            x, target = work.data.normalization.apply(images.take(batch_indices(len(images), size, 0, config.seed)))
            with numerics(device, words_of(arithmetic)[1], False), FlopCounterMode(display=False) as counter:
                found.append(_saved_bytes(work, config, arithmetic, x, target))
            operations.append(float(counter.get_total_flops()))
        each[arithmetic] = found[1] - found[0]
        fixed[arithmetic] = max(0.0, found[0] - each[arithmetic])
    parameters = sum(p.numel() for p in work.model.parameters())
    return Work(operations[1] - operations[0], parameters, fixed, each)


def _saved_bytes(work: Workload, config: TrainConfig[Any], arithmetic: Arithmetic, x: Tensor, target: Tensor) -> float:
    """Bytes that the forward pass keeps for the backward pass, of the parameters themselves aside; does both."""
    own = {p.untyped_storage().data_ptr() for p in work.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    seed_noise("train", config.seed)
    work.model.zero_grad(set_to_none=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with autocast(words_of(arithmetic)[0], x.device):
            found: Losses | Weighed = work.losses(x, target)
        loss, _, _ = Weighed.of(found)
        loss.backward()  # type: ignore[no-untyped-call]
    return float(sum(kept.values()))


def peaks_of(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> Peaks:
    """Of the data sheet where the device is in `PEAKS`, else measured: one large matrix product, one large copy."""
    if device.type == "cuda" and (known := PEAKS.get(torch.cuda.get_device_name(device))) is not None:
        return known
    side, length = (8192, 2**30) if device.type == "cuda" else (512, 2**24)
    rates = {}
    for arithmetic in ARITHMETICS:
        kind = torch.bfloat16 if arithmetic == "bf16" else torch.float32
        a = torch.randn(side, side, device=device).to(kind)
        with numerics(device, words_of(arithmetic)[1], False):
            rates[arithmetic] = 2 * side**3 / _shortest(lambda a=a: a @ a, device, clock)  # type: ignore[misc]
    source = torch.ones(length, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * length / _shortest(lambda: target.copy_(source), device, clock)
    return Peaks(**rates, bandwidth=bandwidth, source="measured: one matrix product, one copy")


def _shortest(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(6):
        synchronize(device)
        began = clock()
        call()
        synchronize(device)
        times.append(clock() - began)
    return min(times[1:])
