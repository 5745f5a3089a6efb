"""Reading JSON with care: every value has a kind, every object its known fields, every error its place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, TypeVar

from vdvae_patch.errors import PatchError
from vdvae_patch.validation import one_line, require_shallow, short, shown

T = TypeVar("T")
_NEEDED: Any = object()
_MOST = 64 * 2**20  # bytes; a patch of a thousand heads has about one
_LARGEST = 2**1023  # of the integers that are numbers in double precision
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}


class Fields:
    """One object of a document, read field by field.

    Args:
        data: what should be the object.
        where: its place in the document, for errors.
        known: the fields that it may have.

    Raises:
        PatchError: it is no object, or has a field that nobody knows.
    """

    def __init__(self, data: object, where: str, known: Iterable[str]) -> None:
        self.where = where
        self._data = of_kind(data, dict, where)
        unknown = sorted(map(str, set(self._data) - set(known)))
        if unknown:
            raise PatchError(f"{where}: unknown field {short(unknown[0])!r}")

    def get(self, name: str, kind: type[T], default: T = _NEEDED) -> T:
        """A field of a kind; raises `PatchError` if it is another, or absent without a default."""
        if name not in self._data:
            if default is _NEEDED:
                raise PatchError(f"{self.where}: the field {name!r} is missing")
            return default
        return of_kind(self._data[name], kind, self.at(name))

    def any(self, name: str) -> Any:
        """A field of any kind; None if it is absent."""
        return self._data.get(name)

    def at(self, name: str) -> str:
        """The place of a field."""
        return f"{self.where}.{name}"

    def items(self, name: str, default: list[Any] = _NEEDED) -> list[tuple[Any, str]]:
        """The items of a list, each with its place."""
        found: list[Any] = self.get(name, list, default)
        return [(item, f"{self.at(name)}[{index}]") for index, item in enumerate(found)]


def of_kind(value: object, kind: type[T], where: str) -> T:
    """The value, if it is of the kind; `True` is no number."""
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST:
        return float(value)  # type: ignore[return-value]
    raise PatchError(f"{where}: must be {_KINDS.get(kind, kind.__name__)}, not {shown(value)}")


def number(value: object, where: str) -> float:
    """A number; infinities are the texts that `to_number` writes."""
    if value in ("inf", "-inf"):
        return float(str(value))
    found = of_kind(value, float, where)
    if not math.isfinite(found):
        raise PatchError(f"{where}: {found} is no number that a patch has")
    return found


def to_number(value: float) -> float | str:
    """A number for JSON, which has no infinities; raises `PatchError` for NaN."""
    if math.isnan(value):
        raise PatchError("NaN cannot be written")
    return float(value) if math.isfinite(value) else str(float(value))


def parse(text: str | bytes, where: str) -> Any:
    """The data of a JSON text.

    Raises:
        PatchError: it is no JSON, names a field twice, has numbers that JSON lacks, or is too long or too deep.
    """
    if len(text) > _MOST:
        raise PatchError(f"{where}: {len(text)} bytes are more than a patch can have")
    try:
        data = json.loads(text, object_pairs_hook=_once, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise PatchError(f"{where} is damaged, or no JSON: {one_line(error)}") from None
    require_shallow(data, where, PatchError)
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is there twice")
    return found


def _refused(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
