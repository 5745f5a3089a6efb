"""Which evidence lower bound does a loss optimize?

A loss that puts the factor a on each element's KL and b on each squared error is, divided by a,

    KL + (b / a) Σ (x − x̂)²,  and a Gaussian of standard deviation σ has  KL + Σ (x − x̂)² / 2σ² + const:

it is that Gaussian's bound, with σ = √(a / 2b). Beside the Gaussian whose σ is the error itself, σ*, its KL counts
(σ / σ*)² times. With a cross-entropy, or any other log likelihood, which has no σ to take up the factor, β = a / b.

Examples, D values an image: KL summed and the squared error averaged over pixels, a = 1 and b = 1 / D: σ = √(D / 2).
Both averaged over the batch alone: σ = √½. `½ Σ (x − x̂)² + KL`: σ = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.pixel_grid import PixelGrid

Kind = Literal["squared error", "cross-entropy", "log likelihood"]
Reduction = Literal["sum", "mean", "mean over the batch", "unknown"]

CALIBRATED = 1.1
"""Between 1 / 1.1 and 1.1 times is called calibrated."""


@dataclass(frozen=True)
class Reconstruction:
    """The reconstruction term of a loss.

    Attributes:
        kind: `squared error` has a σ; the others are likelihoods of their own.
        reduced: how the term's values become one number.
        factor: b, what the loss multiplies each value of the term by, reductions and constants taken together.
        file, line: where it stands, if that is known.

    Raises:
        InvalidValueError: a term of another kind, of which a / b says nothing; `scan` reads more of them.
    """

    kind: Kind
    reduced: Reduction
    factor: float
    file: str | None = None
    line: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InvalidValueError(
                f"a reconstruction term is a {', a '.join(get_args(Kind))}, not {self.kind!r}; vdvae_patch.scan(model, "
                "batch, call=loss).elbo reads others, such as an absolute error, off the loss itself"
            )

    def __str__(self) -> str:
        place = "" if self.file is None else f" at {self.file}" + ("" if self.line is None else f":{self.line}")
        return f"{self.kind}{place}, reduced by {self.reduced}, {self.factor:.4g} on each value"


@dataclass(frozen=True)
class ImpliedElbo:
    """The bound that a loss is.

    Attributes:
        reconstruction: the term that was found.
        sigma: the standard deviation of the implied Gaussian in the units of the data; None where there is none.
        beta: how many times the KL counts: beside the Gaussian of `optimal_sigma`, or in a likelihood a / b; None where
            neither is known.
        optimal_sigma: σ*, the root mean square error of the reconstructions, in the units of the data.
        pixels: the range of the data.
    """

    reconstruction: Reconstruction
    sigma: float | None
    beta: float | None
    optimal_sigma: float | None = None
    pixels: PixelGrid = field(default_factory=PixelGrid)

    def words(self) -> str:
        """One sentence: what the loss takes for the pixels' deviation, and what follows for its KL."""
        if self.sigma is None:
            assert self.beta is not None
            return f"{consequence(self.beta)} beside the {self.reconstruction.kind}"
        grey = self.pixels.grey_levels(self.sigma)
        text = f"as if pixels had a standard deviation of {grey:.3g} grey levels"
        if self.optimal_sigma is None or self.beta is None:
            return text
        own = self.pixels.grey_levels(self.optimal_sigma)
        return f"{text}; the reconstructions' own is {own:.3g}: {consequence(self.beta)}"


def implied_elbo(
    kl_factor: float,
    reconstruction: Reconstruction,
    *,
    optimal_sigma: float | None = None,
    pixels: PixelGrid | None = None,
) -> ImpliedElbo:
    """The bound of a loss with the factor a = `kl_factor` on each element's KL and b = `reconstruction.factor`.

    Args:
        optimal_sigma: the root mean square error of the reconstructions, in the units of the data.

    Raises:
        InvalidValueError: factors that are not positive: a loss without one of its terms, or with a wrong sign.
    """
    for what, factor in (("KL", kl_factor), ("reconstruction term", reconstruction.factor)):
        if not (math.isfinite(factor) and factor > 0):
            raise InvalidValueError(f"the loss puts the factor {factor:g} on its {what}, which makes no bound of it")
    if optimal_sigma is not None and not optimal_sigma >= 0:
        raise InvalidValueError(f"the root mean square error is no negative number or NaN, as {optimal_sigma:g} is")
    pixels = PixelGrid.of(pixels)
    ratio = kl_factor / reconstruction.factor
    if reconstruction.kind != "squared error":
        return ImpliedElbo(reconstruction, None, ratio, pixels=pixels)
    sigma = math.sqrt(ratio / 2)
    beta = None if optimal_sigma is None else (sigma / optimal_sigma) ** 2 if optimal_sigma else math.inf
    return ImpliedElbo(reconstruction, sigma, beta, optimal_sigma, pixels)


def consequence(beta: float) -> str:
    """What a factor on the KL means: too much, too little, or once."""
    if 1 / CALIBRATED <= beta <= CALIBRATED:
        return "the KL counts once, as in the bound"
    if beta > 1:
        return f"the KL counts {_times(beta)} times too much"
    return f"the KL counts {_times(1 / beta)} times too little" if beta > 0 else "the KL does not count"


def _times(factor: float) -> str:
    return f"{factor:.2g}" if factor < 10 else f"{factor:,.0f}"
