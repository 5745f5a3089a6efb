"""One typed reader for whatever comes from a file: each value is of the type that its field has, or a line says why.

A type is what an annotation says: `int`, `str | None`, `list[float]`, `dict[str, Tensor]`, `Literal[...]`, a dataclass,
or any class; `Annotated[int, Between(1, 10)]` has bounds, too. Nothing here imports torch.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar

from vdvae_patch.errors import VdvaePatchError, did_you_mean

T = TypeVar("T")

DEEPEST = 64
"""How many lists and objects may lie in one another; the deepest document of this package has about ten."""

_SHOWN = 40
_NAMES = {
    dict: "a dictionary", list: "a list", tuple: "a tuple", str: "a text", bool: "true or false", int: "an integer",
    float: "a number", type(None): "nothing",
}  # fmt: skip


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both of them allowed; NaN lies in none."""

    low: float = -math.inf
    high: float = math.inf


def checked(value: Any, hint: Any, where: str, error: type[VdvaePatchError]) -> Any:
    """The value, as the type has it: an integer where a number is wanted becomes one.

    Args:
        hint: the type, as an annotation.
        where: the file and the field, for the message.
        error: what is raised.

    Raises:
        VdvaePatchError: of the class `error`: file and field, what was expected, and what is there.
    """
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return value
    if origin is typing.Annotated:
        found = checked(value, options[0], where, error)
        bounds = next((item for item in options[1:] if isinstance(item, Between)), None)
        if bounds is not None and found is not None and not bounds.low <= found <= bounds.high:
            raise error(f"{where}: must be {_within(bounds)}, not {shown(value)}")
        return found
    if origin in (types.UnionType, typing.Union):
        return _one_of(value, options, hint, where, error)
    if origin is Literal:
        if not any(type(value) is type(option) and value == option for option in options):
            raise error(f"{where}: must be {expected(hint)}, not {shown(value)}")
        return value
    if origin is list:
        items = _instance(value, list, where, error)
        return [checked(item, options[0], f"{where}[{n}]", error) for n, item in enumerate(items)]
    if origin is tuple and options[-1:] == (Ellipsis,):
        items = _instance(value, (list, tuple), where, error)
        return tuple(checked(item, options[0], f"{where}[{n}]", error) for n, item in enumerate(items))
    if origin is tuple:
        items = _instance(value, (list, tuple), where, error)
        if len(items) != len(options):
            raise error(f"{where}: must be a list of {len(options)}, not {shown(value)}")
        pairs = enumerate(zip(items, options, strict=True))
        return tuple(checked(item, option, f"{where}[{n}]", error) for n, (item, option) in pairs)
    if origin is not None and issubclass(origin, Mapping):
        items = _instance(value, Mapping, where, error)
        of_key, of_value = options
        return {
            checked(key, of_key, f"a key of {where}", error): checked(item, of_value, f"{where}.{short(key)}", error)
            for key, item in items.items()
        }
    if is_dataclass(hint) and isinstance(hint, type) and not isinstance(value, hint):
        return record(hint, value, where, error)
    return _instance(value, hint if origin is None else origin, where, error)


def record(cls: type[T], values: Any, where: str, error: type[VdvaePatchError]) -> T:
    """A dataclass from a mapping of its fields.

    Raises:
        VdvaePatchError: it is no mapping, has a field that nobody knows, lacks one, or one is of another type.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    table = _instance(values, Mapping, where, error)
    known = [item.name for item in fields(cls)]  # type: ignore[arg-type]
    if unknown := [key for key in table if key not in known]:
        raise error(f"{where}: unknown field {short(unknown[0])!r}{did_you_mean(short(unknown[0]), known)}")
    for item in fields(cls):  # type: ignore[arg-type]
        if item.default is MISSING and item.default_factory is MISSING and item.name not in table:
            raise error(f"{where}: the field {item.name!r} is missing")
    read = {name: checked(value, hints[name], f"{where}.{name}", error) for name, value in table.items()}
    return cls(**read)


def require(table: Any, wanted: Mapping[str, Any], where: str, error: type[VdvaePatchError]) -> dict[str, Any]:
    """A mapping with at least these fields, each of its type; a type that takes None says that a field may be absent.

    Other fields stay as they are: a later version may have written them.

    Raises:
        VdvaePatchError: it is no mapping, or lacks a field, or one is of another type.
    """
    found = dict(_instance(table, Mapping, where, error))
    for name, hint in wanted.items():
        if name in found:
            found[name] = checked(found[name], hint, f"{where}.{name}", error)
        elif not _takes_none(hint):
            raise error(f"{where}: the field {name!r} is missing")
    return found


def parse_json(data: bytes | str, where: str, error: type[VdvaePatchError], *, most: int = 64 * 2**20) -> Any:
    """The data of a JSON text.

    Raises:
        VdvaePatchError: it is no JSON, is longer than `most` bytes, or nested deeper than `DEEPEST`.
    """
    if len(data) > most:
        raise error(f"{where}: {len(data):,} bytes are more than such a file can have ({most:,})")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as damage:
        raise error(f"{where} is damaged, or no JSON ({one_line(damage)})") from None
    require_shallow(found, where, error)
    return found


def require_shallow(value: Any, where: str, error: type[VdvaePatchError]) -> None:
    """Refuse data with lists and dictionaries that are nested deeper than `DEEPEST`: readers call themselves.

    Raises:
        VdvaePatchError: it is.
    """
    level: list[Any] = [value]
    for _ in range(DEEPEST + 1):
        level = [item for outer in level for item in _inside(outer)]
        if not level:
            return
    raise error(f"{where}: is nested deeper than {DEEPEST} levels, and nothing of ours is")


def expected(hint: Any) -> str:
    """`"a text or nothing"`: what a type is called."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = next((item for item in options[1:] if isinstance(item, Between)), None)
        return expected(options[0]) if bounds is None else _within(bounds)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(expected(option) for option in options)
    if origin is Literal:
        return f"one of {', '.join(map(repr, options))}" if len(options) > 1 else repr(options[0])
    if isinstance(hint, tuple):
        return " or ".join(map(expected, hint))
    kind = origin or hint
    if kind in _NAMES:
        return _NAMES[kind]
    if isinstance(kind, type) and (issubclass(kind, Mapping) or is_dataclass(kind)):
        return "a dictionary"
    name = getattr(kind, "__name__", str(kind))
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name.lower()}"


def shown(value: Any) -> str:
    """A value in few words, whatever it is: its text if that is short, else what it is and of what size."""
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= 128 else f"an integer of {value.bit_length():,} bits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}... ({len(value):,} long)"
    if isinstance(value, list | tuple):
        return f"a {'list' if isinstance(value, list) else 'tuple'} of {len(value):,}"
    if isinstance(value, Mapping):
        return f"a dictionary of {len(value):,}"
    name = type(value).__name__
    try:
        shape = getattr(value, "shape", None)
    except RuntimeError:  # a nested tensor has none, and says so in this way
        return f"a nested {name.lower()}"
    return f"a {name.lower()} of shape {list(shape)}" if isinstance(shape, tuple) else f"an object of {name}"


def short(key: Any, most: int = 200) -> str:
    """A name from a file, not longer than `most` characters."""
    text = key if isinstance(key, str) else shown(key)
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def one_line(error: BaseException, most: int = 300) -> str:
    """What an exception says, in one line that is not too long; its class if it says nothing."""
    return short(" ".join(str(error).split()) or type(error).__name__, most)


def _inside(value: Any) -> Iterable[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [item for item in inner if isinstance(item, dict | list | tuple)]


def _one_of(value: Any, options: tuple[Any, ...], hint: Any, where: str, error: type[VdvaePatchError]) -> Any:
    exact = [option for option in options if isinstance(option, type) and type(value) is option]
    for option in [*exact, *options]:
        try:
            return checked(value, option, where, error)
        except error:
            continue
    real = [option for option in options if option is not type(None)]
    if len(real) == 1:
        return checked(value, real[0], where, error)  # what is wrong inside of it says more
    raise error(f"{where}: must be {expected(hint)}, not {shown(value)}")


def _instance(value: Any, kind: Any, where: str, error: type[VdvaePatchError]) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and is_number and value.bit_length() <= 1023:
        return float(value)
    if isinstance(value, kind) and not (isinstance(value, bool) and kind in (int, float)):
        return value
    raise error(f"{where}: must be {expected(kind)}, not {shown(value)}")


def _takes_none(hint: Any) -> bool:
    return hint is Any or type(None) in typing.get_args(hint)


def _within(bounds: Between) -> str:
    if math.isinf(bounds.high):
        return f"at least {bounds.low:,}"
    if math.isinf(bounds.low):
        return f"at most {bounds.high:,}"
    return f"from {bounds.low:,} to {bounds.high:,}"
