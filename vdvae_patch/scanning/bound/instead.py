"""What to write in the place of a reconstruction term, so that the loss is a bound with β = 1."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vdvae_patch import decoders
from vdvae_patch.decoders.gaussian import Shared
from vdvae_patch.patching.term import AROUND_A_MEAN
from vdvae_patch.scanning.bound.reconstruction import TermKind
from vdvae_patch.trace import short

if TYPE_CHECKING:
    from vdvae_patch.scanning.bound.elbo import LossElbo
    from vdvae_patch.scanning.bound.term_place import TermPlace

_STAYS: dict[TermKind, str] = {
    "mixture density": ", of several means and scales for each value, and the host computes no one mean of them",
    "Gaussian density": ", whose σ is learned already; likelihood= gives it another scale",
    "continuous Bernoulli density": ", of the grey values themselves, and its mean is not what the host computes",
    "categorical cross-entropy": ", which gives every level a probability, and has no mean that the host computes",
    "Poisson likelihood": ", of counts, whose variance is their mean",
    "log likelihood": ", of a mixture or by another formula, with no one mean that the host computes in its place",
}
"""Why no Gaussian takes a term's place."""
_SAME = 1e-4


def written_instead(elbo: LossElbo, decoder: str) -> str:
    """The line: the factor a of the KL stays, and the likelihood's nats get the same one."""
    term, place = elbo.reconstruction, elbo.place
    if term is None or not elbo or elbo.kl_factor is None or elbo.data is None:
        return f"the likelihood cannot be exchanged: {elbo.reason}"
    made = _made(elbo, decoder)
    if place is not None and place.lines is not None:
        line, where = place.lines
        return (
            f"`{line}` is the mean of the mixture; in the place of what the loss makes of {where} write "
            f"`{elbo.kl_factor:.6g} * decoder.nll(data, mean).sum()`, {made}"
        )
    grey = place is not None and place.is_grey and term.kind.startswith("Bernoulli")
    if not (term.kind in ("squared error", "absolute error", "smooth absolute error") or grey):
        why = "" if place is not None and not place.is_grey else _STAYS.get(term.kind, "")
        return f"the likelihood stays: a {term.kind} is one of its own{why}"
    if place is not None and place.masked:
        return (
            f"the likelihood stays: {place.masked:.0%} of the values are masked, and a decoder's is of whole images; "
            f"for this batch it is calibrated {elbo.beta:.4g} times as large"
        )
    text = f"`{term.expression}`" if term.expression else f"the {term.kind}"
    where = f"{text} at {short(term.file)}:{term.line}" if term.file else f"{text}, whose code has no file"
    whole = place is None or place.weight is None or math.prod(place.shape) != 1  # of the whole loss
    factor, sums, more = _reduced(elbo, place, whole)
    data, output = _pairs(elbo, place, decoder)
    return (
        f"in the place of {'what the loss makes of ' if whole else ''}{where} write "
        f"`{factor}decoder.nll({data}, {output}).{sums}()`{more}, {made}"
    )


def _reduced(elbo: LossElbo, place: TermPlace | None, whole: bool) -> tuple[str, str, str]:
    """The factor on the likelihood, how it is reduced, and what holds for another number of rows."""
    assert elbo.kl_factor is not None
    draws = 1 if place is None else place.draws.in_all
    weight = 1.0 if whole or place is None or place.weight is None else place.weight
    rows = elbo.rows if place is None else place.rows
    times = elbo.kl_factor / weight / draws  # of each image's nats
    if math.isclose(times * rows, 1, rel_tol=_SAME):
        return "", "mean", ""
    if math.isclose(times, 1, rel_tol=_SAME):
        return "", "sum", ""
    mean = f"{times * rows:.6g} * decoder.nll(...).mean()"
    more = "" if rows < 2 else f" (of {rows} rows; where the KL is averaged over them, `{mean}` for any number)"
    return f"{times:.6g} * ", "sum", more


def _pairs(elbo: LossElbo, place: TermPlace | None, decoder: str) -> tuple[str, str]:
    """What the decoder is given: data and output, draws one after the other."""
    data, output = "data", "output"
    if not _takes_a_mean(decoder):
        return data, "parameters"
    if place is not None and place.reads == "logit":
        output = "torch.sigmoid(output)"
    if place is not None and place.images == 2:
        in_front = place.compared[1] == elbo.rows
        same = f"data.expand(len({output}), *data.shape)" if in_front else f"data.unsqueeze(1).expand_as({output})"
        data, output = f"{same}.flatten(0, 1)", f"{output}.flatten(0, 1)"
    return data, output


def _takes_a_mean(decoder: str) -> bool:
    return isinstance(decoders.get(decoder), AROUND_A_MEAN)


def _made(elbo: LossElbo, decoder: str) -> str:
    assert elbo.data is not None
    low, high = elbo.compared or (elbo.data.low, elbo.data.high)
    made = f'decoder = vdvae_patch.decoders.get("{decoder}", PixelGrid({low:g}, {high:g}))'
    found = decoders.get(decoder)
    if isinstance(found, Shared):
        return f"{made}, whose σ is a parameter that the optimizer must have, too"
    if isinstance(found, AROUND_A_MEAN):
        return made
    return f"{made}, and parameters what the network puts out, which must be decoder.channels(C) for C of the data"
