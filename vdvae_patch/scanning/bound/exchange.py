"""Put a calibrated decoder in the place of the reconstruction term that a scan has found, and see that it is a bound.

The term's expression is compiled again as a function of output and data. What the loss multiplies it by stays, so the
likelihood gets the factor that makes its nats count as those of the KL: a / w, a the factor on the KL and w that on the
expression. Whether it is added up or averaged over the rows is told by a second call on half of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch import decoders
from vdvae_patch.attach.entry import exchanged_call
from vdvae_patch.attach.sites import TermSite
from vdvae_patch.decoders import Gaussian, PixelGrid
from vdvae_patch.decoders.gaussian import Shared
from vdvae_patch.decoders.optimal import Optimal
from vdvae_patch.patching import plan
from vdvae_patch.patching.apply import put_in
from vdvae_patch.patching.term import AROUND_A_MEAN, Reduced, Term, TermReader
from vdvae_patch.scanning.bound.elbo import LossElbo, elbo_of
from vdvae_patch.scanning.bound.replay import Keeper
from vdvae_patch.scanning.bound.term_place import TermPlace
from vdvae_patch.scanning.places.calls import CannotPlaceError, span_of, steps_between
from vdvae_patch.scanning.readings import read
from vdvae_patch.scanning.watching.recording import recorded

Call = Callable[..., Any]
_SAME = 5e-3
"""Relative difference of two σ, or factors, that are one: they are read off float64 replays."""


@dataclass(frozen=True)
class Exchange:
    """A term that can be replaced.

    Attributes:
        site: where, and by what.
        outside: whether that is beside the model, in the call that was given.
        elbo: the bound with the decoder in place.
        sigma: σ on the scanned batch, in the units of the data.
        length: of the second dimension, where the factor on the likelihood holds for this length alone; or None.
    """

    site: TermSite
    term: Term
    outside: bool
    elbo: LossElbo
    sigma: float
    length: int | None = None


class CannotExchangeError(Exception):
    """Why a term cannot be replaced."""


def exchanged(model: nn.Module, inputs: tuple[Any, ...], call: Call | None, elbo: LossElbo, decoder: str) -> Exchange:
    """The decoder for the term of a scanned loss, tried out on the scanned batch; the model is then as it was.

    Raises:
        CannotExchangeError: it cannot be, and why; also where the loss with it is no bound with β = 1.
    """
    place, term = elbo.place, elbo.reconstruction
    if not elbo or elbo.kl_factor is None or elbo.data is None or term is None:
        raise CannotExchangeError(elbo.reason)
    _require_kind(elbo)
    if place is None:
        raise CannotExchangeError("no line of the host holds it")
    if not model.training:
        raise CannotExchangeError("the model is in evaluation mode; call its train() before")
    low, high = term.extremes
    if high - low > _SAME * high:
        raise CannotExchangeError("its values have different factors")
    if place.masked:
        raise CannotExchangeError(f"{place.masked:.0%} of its values are masked, which a decoder would count")
    if place.weight is None:
        whole = " and squares the difference" if term.kind == "squared error" else ", and is the whole term"
        raise CannotExchangeError(f"no one expression compares output and data{whole}")
    made = _made(decoder, elbo, place)
    if place.steps > 1 and isinstance(made, Optimal):
        raise CannotExchangeError(
            f"it runs {place.steps} times in one call, and each time its σ would be that of these errors alone; "
            "compare all at once, along a dimension of their own"
        )
    reduced, factor = _factor(model, inputs, call, elbo, place)
    images = max(place.images, len(place.shape)) if reduced == "rows" else place.images
    # of a difference to be squared, of two of one shape, the order is all one
    ordered = place.reads != "mean" or place.mixing is not None or images > 1
    found = Term(made, reduced, factor, place.reads, place.data_first and ordered, place.mixing, images)
    found.tracking = False
    site, outside = _site(place, TermReader(found))
    now = _tried(model, inputs, call, elbo, found, site, outside)
    length = _only_length(model, inputs, call, elbo, place)
    return Exchange(site, found, outside, now, found.seen / place.units, length)


_EXCHANGED = (
    "squared error",
    "absolute error",
    "smooth absolute error",
    "Bernoulli cross-entropy",
    "Bernoulli cross-entropy with logits",
)


def _require_kind(elbo: LossElbo) -> None:
    """Raise `CannotExchangeError` unless a Gaussian around the mean that the host computes makes sense."""
    term, place = elbo.reconstruction, elbo.place
    assert term is not None
    if place is not None and (place.mixing is not None or place.of_distribution):
        if place.why_not:
            raise CannotExchangeError(place.why_not)
        return
    if term.kind not in _EXCHANGED:
        raise CannotExchangeError(f"the term is a {term.kind}")
    if place is None or not term.kind.startswith("Bernoulli"):
        return
    low, high = place.extremes
    if not place.is_grey:
        raise CannotExchangeError("the data are 0 and 1 alone, of which a Bernoulli is the likelihood itself")
    if low < 0 or high > 1:
        raise CannotExchangeError(
            f"a Bernoulli's mean is between 0 and 1, and the data that it is compared with go from {low:.3g} to "
            f"{high:.3g}: bring them to [0, 1] first"
        )
    if place.weighted:
        raise CannotExchangeError("its values have weights (weight= or pos_weight=), which no one σ can stand for")
    if not math.isfinite(place.own):
        raise CannotExchangeError("output and data are no pairs of one shape")


def _made(decoder: str, elbo: LossElbo, place: TermPlace) -> Gaussian:
    """The decoder in the units of what is compared."""
    assert elbo.data is not None
    span = (elbo.data.high - elbo.data.low) * place.units
    if not (math.isfinite(span) and span > 0):
        raise CannotExchangeError(f"the data are {elbo.data.words}")
    made = decoders.get(decoder, PixelGrid(0.0, span))
    if not isinstance(made, AROUND_A_MEAN):
        raise CannotExchangeError(
            f"decoder {made.name} reads decoder.channels(C) channels of parameters; optimal, shared and "
            "fixed(sigma=...) need no more than a mean"
        )
    if isinstance(made, Shared) and math.isfinite(place.own):
        own = made.scale.inverse(torch.tensor(max(place.own, made.pixels.noise), dtype=torch.float64))
        with torch.no_grad():
            made.raw.copy_(torch.where(own.isfinite(), own, made.raw.double()))
    return made


def _factor(
    model: nn.Module, inputs: tuple[Any, ...], call: Call | None, elbo: LossElbo, place: TermPlace
) -> tuple[Reduced, float]:
    """How the likelihood is to be reduced, and the factor on it."""
    assert elbo.kl_factor is not None
    assert place.weight is not None
    sign = math.copysign(1.0, place.weight)  # of a log likelihood, which the loss subtracts, the weight is negative
    reduced, times = _reduced(model, inputs, call, elbo, place, _times(elbo, place))
    return reduced, sign * times


def _times(elbo: LossElbo, place: TermPlace) -> float:
    """What each image's nats are to be multiplied by."""
    assert elbo.kl_factor is not None
    assert place.weight
    return elbo.kl_factor / abs(place.weight) / place.draws.in_all


def _reduced(
    model: nn.Module, inputs: tuple[Any, ...], call: Call | None, elbo: LossElbo, place: TermPlace, times: float
) -> tuple[Reduced, float]:
    if place.shape != ():
        if place.shape == place.compared:
            return "values", times
        if place.shape == place.compared[: len(place.shape)]:
            return "rows", times
        raise CannotExchangeError(f"its values are {list(place.shape)}, of {list(place.compared)} that are compared")
    fewer = elbo.rows // 2
    if fewer:
        with suppress(Exception):  # a call of another number of rows need not be possible
            half = _elbo(model, _first(inputs, elbo.rows, fewer), call)
            if half.kl_factor is not None and half.place is not None and half.place.weight and half.rows == fewer:
                other = _times(half, half.place)
                if math.isclose(other, times, rel_tol=_SAME):
                    return "sum", times
                if math.isclose(other * half.place.rows, times * place.rows, rel_tol=_SAME):
                    return "mean", times * place.rows
    if math.isclose(times, 1, rel_tol=_SAME):
        return "sum", 1.0
    if math.isclose(times * place.rows, 1, rel_tol=_SAME):
        return "mean", 1.0
    raise CannotExchangeError("how the KL is averaged over a batch could not be told")


def _only_length(
    model: nn.Module, inputs: tuple[Any, ...], call: Call | None, elbo: LossElbo, place: TermPlace
) -> int | None:
    """The length of the second dimension, if the factor is another one for others: it is of time that is averaged over,
    or of the batch behind the time. Told by a call on half of it, too."""
    length = place.compared[1] if len(place.compared) == 3 else 0
    if length < 2:
        return None  # and no call for nothing
    with suppress(Exception):  # channels cannot be halved
        half = _elbo(model, _first(inputs, length, length // 2, dim=1), call)
        if half.kl_factor is not None and half.place is not None and half.place.compared[1] == length // 2:
            return None if math.isclose(_times(half, half.place), _times(elbo, place), rel_tol=_SAME) else length
    return None


def _elbo(model: nn.Module, inputs: tuple[Any, ...], call: Call | None) -> LossElbo:
    graph = recorded(model, inputs, call, recorder_of=Keeper)
    return elbo_of(graph, read(graph))


def _first(value: Any, length: int, fewer: int, dim: int = 0) -> Any:
    """The first rows of every tensor of a batch, or what comes first in another dimension."""
    if isinstance(value, Tensor):
        return value.narrow(dim, 0, fewer) if value.dim() > dim and value.shape[dim] == length else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_first(item, length, fewer, dim) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(_first(item, length, fewer, dim) for item in value)
    if isinstance(value, dict):
        return {key: _first(item, length, fewer, dim) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _first(getattr(value, f.name), length, fewer, dim) for f in fields(value)})
    return value


def _site(place: TermPlace, reader: TermReader) -> tuple[TermSite, bool]:
    """Where the term stands, and whether that is beside the model."""
    frames = [frame for frame in reversed(place.frames) if frame.host]
    owner = next((i for i in range(len(frames) - 1, -1, -1) if frames[i].path is not None and frames[i].method), None)
    outside = owner is None
    if owner is None:
        owner = next((i for i, frame in enumerate(frames) if frame.entry), None)
        if owner is None:
            raise CannotExchangeError("no function that was given, and no method of the model, leads to it")
    try:
        steps = steps_between(frames, owner, len(frames) - 1)
        first = span_of(frames[-1])
    except CannotPlaceError as error:
        raise CannotExchangeError(_reason(error)) from None
    if None in place.span:
        raise CannotExchangeError("its code carries no positions")
    last: Any = place.span
    path, method = ("", "") if outside else (frames[owner].path or "", frames[owner].method)
    return TermSite(path, method, steps, place.first or first, last, reader, weights=place.weights), outside


def _reason(error: Exception) -> str:
    """Why code cannot be reached, without what would be done of a head: what to write here follows."""
    return " ".join(str(error).split()).split("; write a patch file")[0]


def _tried(
    model: nn.Module,
    inputs: tuple[Any, ...],
    call: Call | None,
    before: LossElbo,
    term: Term,
    site: TermSite,
    outside: bool,
) -> LossElbo:
    """The bound with the decoder in place, on the scanned batch."""
    try:
        if outside:
            assert call is not None
            elbo = _elbo(model, inputs, exchanged_call(call, [(site, None)]).function)
        else:
            take_out = put_in(model, plan.term_attachments(model, [site]))
            try:
                elbo = _elbo(model, inputs, call)
            finally:
                take_out()
    except CannotExchangeError:
        raise
    except Exception as error:  # whatever the host's code is, the model stays without the decoder
        raise CannotExchangeError(_reason(error) or type(error).__name__) from None
    _require_bound(before, elbo, term)
    return elbo


def _require_bound(before: LossElbo, now: LossElbo, term: Term) -> None:
    """Raise `CannotExchangeError` unless the loss is the bound of the decoder's Gaussian with β = 1."""
    assert before.kl_factor is not None
    assert before.place is not None
    if not now or now.kl_factor is None or now.beta is None or now.reconstruction is None:
        raise CannotExchangeError(f"the loss with it is no bound that can be read: {now.reason or 'no factor'}")
    if not math.isclose(now.kl_factor, before.kl_factor, rel_tol=_SAME):
        raise CannotExchangeError(
            f"the factor on the KL would be {now.kl_factor:.4g} in place of {before.kl_factor:.4g}"
        )
    units, seen = before.place.units, term.seen
    if isinstance(term.decoder, Optimal) and not before.place.of_distribution:  # whose mean is its own
        wanted = max(before.place.own, term.decoder.pixels.noise)
        if not math.isclose(seen, wanted, rel_tol=_SAME):
            raise CannotExchangeError(f"its σ would be {seen / units:.4g}, and the optimal one is {wanted / units:.4g}")
    # of a density whose σ is seen to be learned β is a / b; of a squared error its factor says which σ is meant
    beta = now.beta if now.sigma is None else (now.sigma * units / seen) ** 2
    if not math.isclose(beta, 1, rel_tol=2 * _SAME):
        raise CannotExchangeError(f"the KL would count {beta:.4g} times")
