"""A factor that each row of the data has for itself, on its KL and on its reconstruction alike.

A loss that divides each sequence by its own length, or weighs its rows, is a weighted sum of bounds,

    Σ_r w_r (Σ_i b (x_ri − x̂_ri)² + Σ_j a KL_rj),

and how often the KL counts, by a and b, is the same in all rows, whatever w is. A median of w_r b over values and one
of w_r a over latents are of different rows, since rows have different numbers of values: w is taken out of both first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vdvae_patch.scanning.bound.kl_factors import LogSigmaFactor
from vdvae_patch.scanning.bound.kl_of_what import DIFFER
from vdvae_patch.scanning.bound.reconstruction import Term, input_of
from vdvae_patch.scanning.bound.replay import Tail


@dataclass(frozen=True)
class WithoutRows:
    """A term, and the posteriors' factors, without what each row has on both.

    Attributes:
        extremes: the smallest and the largest w, of a mean of 1.
    """

    term: Term
    posteriors: list[LogSigmaFactor]
    extremes: tuple[float, float]

    @property
    def note(self) -> str:
        """What is to be known of it."""
        low, high = self.extremes
        return (
            f"rows of the data have factors of their own, {low:.3g} to {high:.3g} times their mean, as where each is "
            "divided by its own length: KL and reconstruction have them alike, and they are left out"
        )


def without_rows(
    tail: Tail, term: Term, posteriors: Sequence[LogSigmaFactor], of_sigma: LogSigmaFactor | None
) -> WithoutRows | None:
    """Both without w; None where there is none, or where KL and reconstruction do not share it.

    Args:
        term: the comparison; where it is divided by a learned σ², with the factors of that.
        posteriors: the factors on the log σ of all that have a KL.
        of_sigma: the factors on the log σ that it is divided by, if it is.
    """
    if not any(_uneven(factor.factors[factor.factors != 0]) for factor in posteriors) or not _of_one_shape(term.where):
        return None
    values = list(_of_values(term))
    for weights in _candidates(tail, term, values, of_sigma):
        if not _uneven(weights[weights.isfinite()]):
            continue
        left = [_divided(tail, factor, weights, term) for factor in posteriors]
        others = [factor for factor in left if factor is not None]
        plain = _term_without(tail, term, weights, values, of_sigma)
        if plain is not None and len(others) == len(posteriors):
            low, high = weights[weights.isfinite()].aminmax()
            return WithoutRows(plain, others, (float(low), float(high)))
    return None


def is_of_values(tail: Tail, term: Term, of_sigma: LogSigmaFactor) -> bool:
    """Whether factors on a learned log σ differ because rows have different numbers of values with that σ."""
    if not _of_one_shape(term.where):
        return False
    return any(
        not _uneven(each[each.isfinite()]) for each, _ in _by_values(tail, term, list(_of_values(term)), of_sigma)
    )


def _candidates(tail: Tail, term: Term, values: Sequence[Tensor], of_sigma: LogSigmaFactor | None) -> Iterator[Tensor]:
    """What w may be."""
    placed = [*values, *([] if of_sigma is None else _of_latents(tail, of_sigma, term))]
    for factors in placed:
        for dim in range(1, factors.dim()):
            weights = _along(factors, dim)
            if weights is not None:
                yield weights
    if of_sigma is not None and len(of_sigma.places) == of_sigma.count:  # no sample of them
        for each, dim in _by_values(tail, term, values, of_sigma):
            weights = each.movedim(dim, 0).flatten(1).nansum(1)
            yield torch.where(weights != 0, weights / weights[weights != 0].mean(), torch.nan)


def _by_values(
    tail: Tail, term: Term, values: Sequence[Tensor], of_sigma: LogSigmaFactor
) -> Iterator[tuple[Tensor, int]]:
    """The factors on a learned log σ, by how many values each row has, and the dimension of the rows."""
    for latents in _of_latents(tail, of_sigma, term):
        for dim in range(1, latents.dim()):
            for factors in values:
                for place in range(1, factors.dim()):
                    if latents.shape[dim] == factors.shape[place] > 1:
                        counts = factors.movedim(place, 0).flatten(1).isfinite().sum(1).double()
                        yield latents / _spread_along(counts, dim, latents.dim()), dim


def _uneven(factors: Tensor) -> bool:
    return len(factors) > 1 and float(factors.max() - factors.min()) > DIFFER * abs(float(factors.mean()))


def _of_one_shape(where: Sequence[Tensor]) -> bool:
    return len({each.shape for each in where}) == 1


def _of_values(term: Term) -> Iterator[Tensor]:
    """The factors on the values `[steps, ...]`, in the shape of the data, whose rows are apart there, and as they are
    compared."""
    factors = torch.stack(term.where)
    for shape in _shapes(term)[:1]:
        if math.prod(shape) == factors[0].numel() and shape != factors.shape[1:]:
            yield factors.view(len(factors), *shape)
    yield factors


def _of_latents(tail: Tail, factor: LogSigmaFactor, term: Term) -> Iterator[Tensor]:
    """The factors on a log σ `[1, ...]`, in the shape of its layer, and with the rows of the data apart, of which a
    layer may have joined several dimensions into one."""
    base = tail.base[factor.reading.raw.node.id]
    flat = torch.full((base.numel(),), torch.nan, dtype=torch.float64)
    flat[factor.places] = torch.where(factor.factors != 0, factor.factors.double(), torch.nan)
    yield flat.view(1, *base.shape)
    rows = dict.fromkeys(shape[:count] for shape in _shapes(term) for count in range(2, len(shape) + 1))
    for shape in rows:
        if base.dim() and base.shape[0] == math.prod(shape):
            yield flat.view(1, *shape, *base.shape[1:])


def _shapes(term: Term) -> list[tuple[int, ...]]:
    """That of the data, if they are seen, and that of what is compared."""
    source = input_of(term.target)
    return [*([] if source is None else [source.shape]), tuple(term.where[0].shape)]


def _along(factors: Tensor, dim: int) -> Tensor | None:
    """w of factors that are w along a dimension times something else, with a mean of 1, NaN where nothing has a factor;
    None of others."""
    rows = factors.movedim(dim, 0).flatten(1)
    known = rows.isfinite()
    if len(rows) < 2 or not bool(known.any()):
        return None
    fullest = rows[int(known.sum(1).argmax())]
    for ratios in (rows, rows / fullest):
        weights = ratios.nanmedian(dim=1).values
        apart = (ratios - weights[:, None]).abs() > DIFFER * weights[:, None].abs()
        if not bool(apart.any()) and bool((weights.isfinite() == known.any(1)).all()):
            return weights / weights.nanmean()
    return None


def _divided(tail: Tail, factor: LogSigmaFactor, weights: Tensor, term: Term) -> LogSigmaFactor | None:
    """A log σ's factors without w; None if they have another along all of their dimensions."""
    for factors in _of_latents(tail, factor, term):
        for dim in range(1, factors.dim()):
            if factors.shape[dim] != len(weights):
                continue
            left = factors / _spread_along(weights, dim, factors.dim())
            if bool((left.isfinite() != factors.isfinite()).any()):
                continue  # it has a factor where the term has none
            own = _along(left, dim)
            if own is not None and not _uneven(own[own.isfinite()]):
                return replace(factor, factors=left.flatten()[factor.places].nan_to_num(0.0))
    return None


def _term_without(
    tail: Tail, term: Term, weights: Tensor, values: Sequence[Tensor], of_sigma: LogSigmaFactor | None
) -> Term | None:
    for factors in values:
        for dim in range(1, factors.dim()):
            if factors.shape[dim] != len(weights):
                continue
            along = _spread_along(weights, dim, factors.dim())
            left = factors / along
            if bool((left.isfinite() != factors.isfinite()).any()):
                continue
            if of_sigma is None:
                own = _along(left, dim)
                if own is None or _uneven(own[own.isfinite()]):
                    continue
                where = list(left.view(len(factors), *term.where[0].shape))
                return replace(term, factors=left[left.isfinite()], where=where)
            if len(term.factors) > 1:  # σ of each value
                plain = _divided(tail, of_sigma, weights, term)
                return None if plain is None else replace(term, factors=-plain.factors)
            # a σ that values share has the sum of their factors, of which the mean was taken: w has one over values
            mean = float(along.expand_as(factors)[factors.isfinite()].mean())
            return replace(term, factors=term.factors / mean, note="")
    return None


def _spread_along(weights: Tensor, dim: int, dims: int) -> Tensor:
    return weights.view(*(-1 if place == dim else 1 for place in range(dims)))
