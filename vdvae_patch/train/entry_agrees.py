"""What a host's entry says of one pass must agree: `losses` with itself, and with `latents`, which is looked at.

    elbo = distortion + rate
    Σ over the latents of their KL, nats an image = rate · dimensions

with the same images and the same noise. Where the second does not hold, log σ and KL in the logs are of another pass
than the step's: of images in another range (`reads_target`), of draws in another order, or of a rate in other units.
"""

from __future__ import annotations

import math

_OF_SUMS, _OF_PASSES = 1e-5, 5e-3
"""What rounding makes relatively, in float32, of one sum written in two ways, and (in tf32, too) of two passes."""
_PER_DIMENSION = 1e-6
"""And of terms that cancel, in nats per dimension."""
_OF_HALF_PASSES, _PER_DIMENSION_HALF = 0.1, 1e-3
"""The same of passes in bfloat16 or float16, of whose KL three digits are left, and of a small one none."""


def apart(one: float, other: float, relative: float, per_dimension: float = _PER_DIMENSION) -> bool:
    """Whether two finite numbers, nats per dimension, differ by more than rounding."""
    both = math.isfinite(one) and math.isfinite(other)
    return both and abs(one - other) > relative * max(abs(one), abs(other)) + per_dimension


def disagreement(host: str, kl: float, rate: float, dims: int, *, half: bool = False) -> str:
    """That the latents' KL, nats an image, is not the rate of the same step; empty where it is, or is not finite.

    Args:
        half: whether they were computed in bfloat16 or float16.
    """
    bounds = (_OF_HALF_PASSES, _PER_DIMENSION_HALF) if half else (_OF_PASSES, _PER_DIMENSION)
    if not apart(kl / dims, rate, *bounds):
        return ""
    return (
        f"`latents` of host {host!r} has a KL of {kl:.4g} nats an image and `losses` a rate of {rate * dims:.4g}, "
        "of the same images and noise: log σ and KL of the heads, in all logs, pages and recordings, are not those of "
        "the steps. Both must read the same images (`reads_target = True` where `losses` encodes its target), draw in "
        "the same order, and give nats, the rate per dimension and without a weight"
    )


def no_bound(loss: float, distortion: float, rate: float) -> str:
    """That a tested loss is not distortion + rate, which is what a NELBO is; empty where it is, or is not finite."""
    if not apart(loss, distortion + rate, _OF_SUMS):
        return ""
    return (
        f"the host's loss of the test images is {loss:.6g} nats per dimension, and its distortion + rate "
        f"{distortion + rate:.6g}: what is called NELBO here is that loss, and not the bound, which is the sum. "
        "`losses` gives it as `elbo`"
    )
