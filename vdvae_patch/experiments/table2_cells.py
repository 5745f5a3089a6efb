"""The cells of table 2: what is tried, how much of it, what the paper found, and what becomes of one run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vdvae_patch.experiments.published import published

POSTERIORS = {"NaiveExp": "naiveexp", "Exp": "exp", "ExpLin": "explin", "UpBounded": "upbounded(1)"}
# Pixels are in [0, 1]: the bounds for 0..255, 1/√12 and 256, over 256.
DECODERS = {"NaiveExp": "naiveexp", "Exp": "exp", "Bounded": f"bounded({1 / (256 * math.sqrt(12))!r}, 1)"}
LEARNING_RATES = (0.008, 0.007, 0.006)
FACTOR = 10.0

# Failed of 10, in the order of DECODERS, by learning rate and posterior scale.
PAPER: dict[tuple[float, str], tuple[int, int, int]] = {
    (float(lr), posterior): tuple(failed)  # three decoders
    for lr, row in published()["table2"].items()
    for posterior, failed in row.items()
}


@dataclass(frozen=True)
class Size:
    """How much of the experiment is done."""

    seeds: int = 10
    steps: int = 20_000
    batch_size: int = 512


FULL = Size()
QUICK = Size(seeds=3, steps=160, batch_size=16)


def last_steps(steps: int) -> int:
    """Over how many of its steps a run's final negative ELBO is averaged."""
    return max(20, steps // 20)


@dataclass(frozen=True)
class Row:
    """What became of one run; `nelbo` in nats per image, None if it is not finite."""

    posterior: str
    decoder: str
    lr: float
    seed: int
    first: float
    nelbo: float | None
    step: int | None
    cause: str | None

    def failed(self, threshold: float) -> bool:
        """NaN, or a negative ELBO above the threshold."""
        return self.cause is not None or self.nelbo is None or self.nelbo > threshold
