"""A likelihood in the place of a reconstruction term, as data, with the σ that it has for evaluation.

{"at": {"owner": "", "method": "forward", "calls": [], "first": "F.mse_loss(out, x)", "last": "F.mse_loss(out, x)"},
 "decoder": "optimal", "pixels": [0.0, 1.0], "reduced": "mean", "factor": 1.0, "reads": "mean", "data_first": false,
 "state": {"mean_squared_error": 0.0123, "updates": 4000}}
"""

from __future__ import annotations

import math
from typing import Any, get_args

import torch

from vdvae_patch import decoders
from vdvae_patch.attach.sites import TermSite
from vdvae_patch.decoders import Gaussian, Optimal, PixelGrid
from vdvae_patch.decoders.gaussian import Fixed, Shared
from vdvae_patch.document.fields import Fields, number, of_kind, to_number
from vdvae_patch.document.places import PlaceReader, PlaceWriter
from vdvae_patch.errors import InvalidValueError, PatchError, UnknownNameError
from vdvae_patch.patching.term import AROUND_A_MEAN, Mixing, Reads, Reduced, Term, TermReader

_FIELDS = ("at", "decoder", "pixels", "reduced", "factor", "reads", "data_first", "mixing", "images", "state")
_STATES: dict[type[Gaussian], tuple[str, ...]] = {
    Optimal: ("mean_squared_error", "updates"),
    Shared: ("raw",),
    Fixed: (),
}
"""The decoders that a term may have, and the numbers that each has learned."""


def term_data(site: TermSite, term: Term, places: PlaceWriter) -> dict[str, Any]:
    """A term and its place, for `term_of`.

    Raises:
        PatchError: its place cannot be read, or its σ is not finite.
    """
    decoder, mixing = term.decoder, term.mixing
    state: dict[str, Any] = {}
    if isinstance(decoder, Optimal):
        error = float(decoder.mean_squared_error)
        if not math.isfinite(error):
            raise PatchError(f"the σ of evaluation is not finite (a mean squared error of {error}); calibrate it again")
        state = {"mean_squared_error": error, "updates": int(decoder.updates)}
    elif isinstance(decoder, Shared):
        raw = float(decoder.raw.detach())
        if not math.isfinite(raw):
            raise PatchError(f"the σ of decoder shared is not finite (its raw value is {raw})")
        state = {"raw": raw}
    return {
        "at": places.term(site),
        "decoder": decoder.specification(),
        "pixels": [to_number(decoder.pixels.low), to_number(decoder.pixels.high)],
        "reduced": term.reduced,
        "factor": to_number(term.factor),
        "reads": term.reads,
        "data_first": term.data_first,
        **({} if mixing is None else {"mixing": [mixing.components, mixing.means, mixing.logarithmic]}),
        **({} if term.images == 1 else {"images": term.images}),
        "state": state,
    }


def term_of(data: object, where: str, places: PlaceReader) -> tuple[TermSite, Term]:
    """The term of data, and its place in the model.

    Raises:
        PatchError: a value that no term has, or a place that the model has not.
    """
    fields = Fields(data, where, _FIELDS)
    decoder = _decoder(fields)
    reduced, reads = _one_of(fields, "reduced", Reduced), _one_of(fields, "reads", Reads)
    factor = number(fields.any("factor"), fields.at("factor"))
    if not (math.isfinite(factor) and factor):
        raise PatchError(f"{fields.at('factor')}: a term is multiplied by a finite number that is not 0, not {factor}")
    images = 1 if fields.any("images") is None else fields.get("images", int)
    if not 1 <= images < 64:
        raise PatchError(f"{fields.at('images')}: a number of dimensions from 1 to 63, not {images}")
    term = Term(decoder, reduced, factor, reads, fields.get("data_first", bool), _mixing(fields), images)
    _load(decoder, Fields(fields.get("state", dict), fields.at("state"), ("mean_squared_error", "updates", "raw")))
    return places.term(fields.any("at"), fields.at("at"), TermReader(term)), term


def _mixing(fields: Fields) -> Mixing | None:
    given, where = fields.any("mixing"), fields.at("mixing")
    if given is None:
        return None
    parts = of_kind(given, list, where)
    if len(parts) != 3:
        raise PatchError(f"{where}: two dimensions and whether the weights are logarithms, not {len(parts)} parts")
    components, means = (of_kind(part, int, where) for part in parts[:2])
    if not (0 <= components < 64 and 0 <= means < 64):
        raise PatchError(f"{where}: a dimension is between 0 and 63, not {components} and {means}")
    return Mixing(components, means, of_kind(parts[2], bool, where))


def _decoder(fields: Fields) -> Gaussian:
    pair = [number(item, where) for item, where in fields.items("pixels")]
    if len(pair) != 2:
        raise PatchError(f"{fields.at('pixels')}: the lowest and the highest value of a pixel, not {len(pair)} numbers")
    try:
        found = decoders.get(fields.get("decoder", str), PixelGrid(pair[0], pair[1]))
    except (UnknownNameError, InvalidValueError) as error:
        raise PatchError(f"{fields.where}: {error}") from None
    if not isinstance(found, AROUND_A_MEAN):
        raise PatchError(f"{fields.at('decoder')}: a term's is optimal, shared or fixed(sigma=...), not {found.name}")
    return found


def _load(decoder: Gaussian, fields: Fields) -> None:
    own = next(names for kind, names in _STATES.items() if isinstance(decoder, kind))
    if any(fields.any(name) is not None for names in _STATES.values() for name in names if name not in own):
        has = f"{' and '.join(own)} alone" if own else "no state"
        raise PatchError(f"{fields.where}: decoder {decoder.name} has {has}")
    if isinstance(decoder, Shared):
        raw = number(fields.any("raw"), fields.at("raw"))
        if not math.isfinite(raw):
            raise PatchError(f"{fields.at('raw')}: must be a finite number, not {raw}")
        with torch.no_grad():
            decoder.raw.fill_(raw)
    if not isinstance(decoder, Optimal):
        return
    error = number(fields.any("mean_squared_error"), fields.at("mean_squared_error"))
    updates = fields.get("updates", int)
    if not (math.isfinite(error) and error >= 0):
        raise PatchError(f"{fields.at('mean_squared_error')}: must be a finite number of at least 0, not {error}")
    if not 0 <= updates < 2**63:
        raise PatchError(f"{fields.at('updates')}: must be a number of updates, not {updates}")
    with torch.no_grad():
        decoder.mean_squared_error.fill_(error)
        decoder.updates.fill_(updates)


def _one_of(fields: Fields, name: str, kinds: Any) -> Any:
    found, known = of_kind(fields.any(name), str, fields.at(name)), get_args(kinds)
    if found not in known:
        raise PatchError(f"{fields.at(name)}: must be one of {', '.join(known)}, not {found!r}")
    return found
