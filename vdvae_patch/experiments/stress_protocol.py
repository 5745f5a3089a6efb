"""The stress test's three sizes, and the one that is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.lowering import Lowering
from vdvae_patch.experiments.options import Stress

HIGH_NORM = 400.0
LAST = 20  # steps that the final NELBO is averaged over


@dataclass(frozen=True)
class Protocol:
    """Size of the model and of the test; the rest is as in VDVAE's cifar10 preset.

    Attributes:
        how: the way that an ensemble is computed on a CPU; None takes the fastest of a few steps.
    """

    image_size: int
    width: int
    enc_blocks: str
    dec_blocks: str
    batch_size: int
    steps: int
    seeds: int
    lr: tuple[float, ...]
    warmup: int = 100
    how: Lowering | None = None


FULL = Protocol(
    image_size=32,
    width=64,
    enc_blocks="32x2,32d2,16x2,16d2,8x2,8d2,4x1,4d4,1x1",
    dec_blocks="1x1,4m1,4x1,8m4,8x2,16m8,16x2,32m16,32x2",
    batch_size=16,
    steps=300,
    seeds=10,
    lr=(1e-2, 1.5e-2, 2e-2),
)
# Images pooled to 16x16: a fifth of the cost, and what breaks at 32x32 breaks here at the same learning rate.
MIDDLE = replace(
    FULL,
    image_size=16,
    enc_blocks="16x2,16d2,8x2,8d2,4x1,4d4,1x1",
    dec_blocks="1x1,4m1,4x1,8m4,8x2,16m8,16x2",
    batch_size=8,
    steps=200,
    lr=(1e-2, 2e-2),
    how="grouped",
)
# Pooled to 8x8 and half the width: 30 times cheaper, and it breaks at about twice the learning rate.
QUICK = Protocol(
    image_size=8,
    width=32,
    enc_blocks="8x2,8d2,4x2,4d4,1x1",
    dec_blocks="1x1,4m1,4x2,8m4,8x2",
    batch_size=8,
    steps=100,
    seeds=5,
    lr=(1e-2, 5e-2),
    warmup=50,
    how="grouped",
)
SIZES = {protocol.image_size: protocol for protocol in (FULL, MIDDLE, QUICK)}


def chosen(options: Stress) -> Protocol:
    """The protocol of the options.

    Raises:
        InvalidValueError: no such size, or too little of something.
    """
    size = options.image_size or (QUICK if options.quick else FULL).image_size
    if size not in SIZES:
        raise InvalidValueError(f"--image-size must be one of {', '.join(map(str, SIZES))}, not {size}")
    given: dict[str, Any] = {"seeds": options.seeds, "steps": options.steps, "lr": options.lr or None}
    protocol = replace(SIZES[size], **{name: value for name, value in given.items() if value is not None})
    if protocol.steps <= LAST or protocol.seeds < 1 or options.jobs < 1:
        raise InvalidValueError(f"stress needs more than {LAST} steps, a seed and a job at least")
    return protocol
