"""What two methods of a host's entry say of one pass must agree: `latents`, which is looked at, and `losses`.

    Σ over the latents of their KL, nats an image = rate · dimensions

with the same images and the same noise. Where it does not hold, log σ and KL in the logs are of another pass than the
step's: of images in another range (`reads_target`), of draws in another order, or of a rate in other units.
"""

from __future__ import annotations

import math

_RELATIVE = 1e-3
_PER_DIMENSION = 1e-6
"""What rounding makes of two sums in float32: of large ones, and of terms that cancel."""


def apart(one: float, other: float) -> bool:
    """Whether two finite sums in float32, nats per dimension, differ by more than rounding."""
    both = math.isfinite(one) and math.isfinite(other)
    return both and abs(one - other) > _RELATIVE * max(abs(one), abs(other)) + _PER_DIMENSION


def disagreement(host: str, kl: float, rate: float, dims: int) -> str:
    """That the latents' KL, nats an image, is not the rate of the same step; empty where it is, or is not finite."""
    if not apart(kl / dims, rate):
        return ""
    return (
        f"`latents` of host {host!r} has a KL of {kl:.4g} nats an image and `losses` a rate of {rate * dims:.4g}, "
        "of the same images and noise: log σ and KL of the heads, in all logs, pages and recordings, are not those of "
        "the steps. Both must read the same images (`reads_target = True` where `losses` encodes its target), draw in "
        "the same order, and give nats, the rate per dimension and without a weight"
    )
