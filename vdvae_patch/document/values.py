"""Scales and conventions as data: by specification where they have a name, by steps or points where they were measured.

"log_variance"    "softplus(beta=2)"    {"steps": [["mul", 0.5], ["exp"], ["add", 0.001]]}    {"points": [[0, 1], ...]}
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from vdvae_patch import scales
from vdvae_patch.composition import Composition, Measured, Step
from vdvae_patch.conventions import CONVENTIONS, Convention
from vdvae_patch.document.fields import Fields, number, of_kind, to_number
from vdvae_patch.errors import InvalidValueError, PatchError, UnknownNameError
from vdvae_patch.scales import Scale

_MOST = 10_000  # steps, or points, of a convention; a measured one has some hundred
_CONSTANTS = 16


def scale_data(scale: Scale) -> str:
    """A scale's specification; raises `PatchError` if that would not give the same scale again."""
    text = str(scale)
    try:
        again: Scale | None = scales.get(text)
    except (UnknownNameError, InvalidValueError):
        again = None
    if again != scale:
        raise PatchError(
            f"scale {text!r} ({type(scale).__name__}) cannot be written down: its name does not give it back; register "
            'its class with @SCALES.register("name"), with numbers for arguments'
        )
    return text


def scale_of(data: object, where: str) -> Scale:
    """The scale of a specification."""
    try:
        return scales.get(of_kind(data, str, where))
    except UnknownNameError as error:
        raise PatchError(f"{where}: {error}; if it is of your own, import the module that registers it first") from None
    except InvalidValueError as error:
        raise PatchError(f"{where}: {error}") from None


def is_registered(convention: Convention | None) -> bool:
    """Whether a convention can be written down."""
    if convention is None or isinstance(convention, Composition | Measured):
        return True
    try:
        return CONVENTIONS.get(str(convention)) == convention
    except (UnknownNameError, InvalidValueError):
        return False


def convention_data(convention: Convention) -> Any:
    """A convention, for `convention_of`."""
    if isinstance(convention, Composition):
        return {"steps": [[step.name, *map(to_number, step.constants)] for step in convention.steps]}
    if isinstance(convention, Measured):
        return {"points": [[to_number(v), to_number(sigma)] for v, sigma in convention.points]}
    return str(convention)


def convention_of(data: object, where: str) -> Convention:
    """The convention of data."""
    if isinstance(data, str):
        try:
            return CONVENTIONS.get(data)
        except UnknownNameError as error:
            raise PatchError(
                f"{where}: {error}; if it is of your own, import the module that registers it first"
            ) from None
        except InvalidValueError as error:
            raise PatchError(f"{where}: {error}") from None
    fields = Fields(data, where, ("steps", "points"))
    if fields.any("points") is not None:
        points = [_point(item, at) for item, at in _few(fields, "points")]
        if len(points) < 2 or any(later[0] <= before[0] for before, later in pairwise(points)):
            raise PatchError(f"{fields.at('points')}: must be two or more, their raw values in ascending order")
        return Measured(points)
    return Composition([_step(item, at) for item, at in _few(fields, "steps")])


def _few(fields: Fields, name: str) -> list[tuple[Any, str]]:
    found = fields.items(name)
    if not 1 <= len(found) <= _MOST:
        raise PatchError(f"{fields.at(name)}: must be from 1 to {_MOST:,}, not {len(found):,}")
    return found


def _step(data: object, where: str) -> Step:
    name, *constants = of_kind(data, list, where)[:_CONSTANTS] or [None]
    try:
        step = Step(of_kind(name, str, where), tuple(number(constant, where) for constant in constants))
    except InvalidValueError as error:
        raise PatchError(f"{where}: {error}") from None
    wanted = step.constants_of(step.name)
    if len(step.constants) != wanted:
        raise PatchError(f"{where}: a step {step.name} has {wanted} constants, not {len(step.constants)}")
    if any(bad(constant) for bad, constant in zip(_CANNOT.get(step.name, ()), step.constants, strict=False)):
        raise PatchError(f"{where}: {step.name} with {step.constants} cannot be undone")
    return step


def _is_no_factor(value: float) -> bool:
    return value == 0 or math.isinf(value)


def _is_not_positive(value: float) -> bool:
    return not value > 0 or math.isinf(value)


_CANNOT = {
    "add": (math.isinf,),
    "mul": (_is_no_factor,),
    "pow": (_is_no_factor,),
    "softplus": (_is_not_positive,),
    "elu": (_is_not_positive,),
    "leaky": (_is_not_positive,),
}


def _point(data: object, where: str) -> tuple[float, float]:
    pair = of_kind(data, list, where)
    if len(pair) != 2:
        raise PatchError(f"{where}: a point is a raw value and its σ, not {len(pair)} numbers")
    return number(pair[0], where), number(pair[1], where)
