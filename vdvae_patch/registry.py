"""From a short name to a class, with arguments: `upbounded`, `upbounded(omega=2)`, `bounded(0.1, omega=1)`.

Each of the four seams has one `Registry`. Specifications are parsed, never evaluated. A package of the user's adds its
own entries through an entry point of the registry's group; they are loaded the first time that a name is not known. A
class that no decorator has named is called what its entry point is called.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from vdvae_patch.errors import InvalidValueError, UnknownNameError

T = TypeVar("T")
C = TypeVar("C", bound=type)

_SPEC = re.compile(r"\s*(?P<name>[A-Za-z_][\w.-]*)\s*(?:\((?P<arguments>[^()]*)\))?\s*", re.ASCII)
_NESTED_SPEC = re.compile(r"\s*(?P<name>[A-Za-z_][\w.-]*)\s*(?:\((?P<arguments>.*)\))?\s*", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_KEYWORD = re.compile(r"(?P<key>[A-Za-z_]\w*)\s*=\s*(?P<value>.+)", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # float() takes more: 1_0, ١, infinity


class Registry(Generic[T]):
    """A table of classes of one kind.

    Args:
        kind: what an entry is, for messages (`"scale"`).
        group: the entry point group that user packages register under (`"vdvae_patch.scales"`).
        base: gives the class that every entry subclasses; it is defined after its registry.
        nested: whether an argument may be a specification itself, as in `per_pixel(scale=bounded(0.001, 1))`; the class
            is given it as text.
    """

    def __init__(
        self, kind: str, group: str, base: Callable[[], type] = lambda: object, *, nested: bool = False
    ) -> None:
        self.kind = kind
        self.group = group
        self.nested = nested
        self._base = base
        self._classes: dict[str, Callable[..., T]] = {}
        self._aliases: dict[str, str] = {}
        self._entry_points_loaded = False

    def register(self, name: str, *aliases: str) -> Callable[[C], C]:
        """Class decorator that adds the class under `name` and its aliases, none of which depends on case.

        The class's attribute `name` becomes its name here, so that it is stated once. A class that is defined again, as
        by a cell of a notebook that is run twice or a file that was edited, takes the place of the former one.

        Raises:
            InvalidValueError: a name that no specification could have or that is taken, or not a class of this kind.
        """

        def add(cls: C) -> C:
            own, *others = (key.lower() for key in (name, *aliases))
            former = self._classes.get(own)
            for key in (own, *others):
                self._check(key, cls, "its decorator")
                holder = self._classes.get(self._aliases.get(key, key))
                if holder is not None and not (holder is former and _is_redefined(holder, cls)):
                    raise InvalidValueError(f"{self.kind} {key!r} is registered twice")
            cls.name = own  # type: ignore[attr-defined]
            self._classes[own] = cls
            self._aliases.update(dict.fromkeys(others, own))
            return cls

        return add

    def names(self) -> list[str]:
        """The names of all entries, aliases left out, in alphabetical order."""
        self._load_entry_points()
        return sorted(self._classes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def canonical(self, name: str) -> str:
        """The entry's own name for a name or an alias; raises `UnknownNameError` for anything else."""
        key = name.lower()
        if key not in self._aliases and key not in self._classes:
            self._load_entry_points()
        key = self._aliases.get(key, key)
        if key not in self._classes:
            raise UnknownNameError(self.kind, name, [*self._classes, *self._aliases])
        return key

    def get_class(self, name: str) -> Callable[..., T]:
        """The class behind a name or alias."""
        return self._classes[self.canonical(name)]

    def get(self, spec: str, **given: Any) -> T:
        """An instance from `name` or `name(arguments)`, arguments being numbers, by position or by keyword.

        `given` are arguments that no text can hold (a module, the grid of pixels), those that are None left out; a
        class without such a parameter does not get it.

        Raises:
            UnknownNameError: no such entry; the message names the nearest.
            InvalidValueError: not of the form above, an unknown or missing argument, or a value the class refuses.
        """
        name, positional, keywords = (parse_nested_spec if self.nested else parse_spec)(spec, self.kind)
        cls = self.get_class(name)
        signature = inspect.signature(cls)
        beside = {k: value for k, value in given.items() if value is not None and k in signature.parameters}
        if twice := sorted(beside.keys() & keywords.keys()):
            raise InvalidValueError(f"{self.kind} {spec!r}: {twice[0]} is given beside the text, too")
        keywords = beside | keywords
        if both := [key for key in list(signature.parameters)[: len(positional)] if key in beside]:
            many = "an argument by position is" if len(positional) == 1 else f"{len(positional)} arguments are"
            raise InvalidValueError(
                f"{self.kind} {spec!r}: {many} too many, for {both[0]} is given beside the text; its form is "
                f"{self.usage(name)}"
            )
        try:
            signature.bind(*positional, **keywords)
        except TypeError as error:
            raise InvalidValueError(f"{self.kind} {spec!r}: {error}; its form is {self.usage(name)}") from None
        if missing := _abstract(cls):
            raise InvalidValueError(f"{self.kind} {spec!r}: {_full_name(cls)} does not define {' and '.join(missing)}")
        return cls(*positional, **keywords)

    def usage(self, name: str) -> str:
        """`bounded(alpha, omega)`: the form of a specification, with defaults that one can write."""
        key = self.canonical(name)
        parameters = inspect.signature(self._classes[key]).parameters.values()
        shown = [text for text in map(_form, parameters) if text]
        return f"{key}({', '.join(shown)})" if shown else key

    def _load_entry_points(self) -> None:
        if self._entry_points_loaded:
            return
        self._entry_points_loaded = True  # now: the modules that are loaded may ask for names
        try:
            for point in entry_points(group=self.group):
                self._add_entry_point(point)
        except BaseException:
            self._entry_points_loaded = False
            raise

    def _add_entry_point(self, point: EntryPoint) -> None:
        try:
            cls = point.load()
        except Exception as error:  # whatever a user's module raises while it is imported
            said = error if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
            raise InvalidValueError(
                f"{self.kind} {point.name!r} cannot be loaded from {point.value!r}: {said}; "
                "repair or remove the package that declares it"
            ) from error
        key = point.name.lower()
        self._check(key, cls, f"entry point {point.value!r}")
        holder = self._classes.get(self._aliases.get(key, key))
        if holder is not None and holder is not cls:
            warnings.warn(
                f"{self.kind} {key!r} is {_full_name(holder)}; that of the entry point {point.value!r} is not used: "
                "give it another name",
                stacklevel=2,
            )
        elif holder is None:
            own = next((name for name, known in self._classes.items() if known is cls), None)
            if own is None:
                cls.name = key
                self._classes[key] = cls
            else:
                self._aliases[key] = own

    def _check(self, key: str, cls: object, source: str) -> None:
        if _NAME.fullmatch(key) is None:
            raise InvalidValueError(
                f"{self.kind} {key!r} of {source}: a name is of letters, digits, '_', '-' and '.', a letter first"
            )
        base = self._base()
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise InvalidValueError(f"{self.kind} {key!r} of {source} is {cls!r}, not a subclass of {_full_name(base)}")


def _is_redefined(old: Callable[..., object], new: type) -> bool:
    if old is new or old.__qualname__ != new.__qualname__:
        return False
    return old.__module__ == new.__module__ or _file(old) == _file(new) is not None


def _file(cls: Callable[..., object]) -> str | None:
    file: str | None = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return file


def _full_name(cls: Callable[..., object]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _abstract(cls: Callable[..., object]) -> list[str]:
    return [name for name in dir(cls) if getattr(getattr(cls, name, None), "__isabstractmethod__", False)]


def parse_spec(spec: str, kind: str) -> tuple[str, list[float], dict[str, float]]:
    """`"bounded(0.1, omega=1)"` to `("bounded", [0.1], {"omega": 1.0})`; nothing in it is evaluated.

    Raises:
        InvalidValueError: anything but finite decimal numbers with one comma between two, those with a name last and
            each name once.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise InvalidValueError(f"{kind} {spec!r} is not of the form name or name(argument=number, ...)")
    return match["name"], *_arguments(match["arguments"], spec, kind, _number)


def parse_nested_spec(spec: str, kind: str) -> tuple[str, list[float | str], dict[str, float | str]]:
    """As `parse_spec`, and an argument that is a specification itself is given as text.

    `"per_pixel(scale=bounded(0.1, omega=1))"` to `("per_pixel", [], {"scale": "bounded(0.1, omega=1)"})`.

    Raises:
        InvalidValueError: as `parse_spec`, or for parentheses that do not match.
    """
    match = _NESTED_SPEC.fullmatch(spec)
    if match is None or not _is_balanced(match["arguments"] or ""):
        raise InvalidValueError(f"{kind} {spec!r} is not of the form name or name(argument=value, ...)")
    return match["name"], *_arguments(match["arguments"], spec, kind, _number_or_spec)


V = TypeVar("V")


def _arguments(text: str | None, spec: str, kind: str, read: Callable[[str, str], V]) -> tuple[list[V], dict[str, V]]:
    positional: list[V] = []
    keywords: dict[str, V] = {}
    inside = (text or "").strip()
    for argument in (part.strip() for part in split_top_level(inside, ",")) if inside else ():
        if not argument:
            raise InvalidValueError(f"{kind} {spec!r}: an argument is missing beside a comma")
        keyword = _KEYWORD.fullmatch(argument)
        value = read(keyword["value"] if keyword else argument, f"{kind} {spec!r}")
        if keyword is None and keywords:
            raise InvalidValueError(f"{kind} {spec!r}: {argument!r} has no name, but follows an argument that has one")
        if keyword is None:
            positional.append(value)
        elif keyword["key"] in keywords:
            raise InvalidValueError(f"{kind} {spec!r}: argument {keyword['key']!r} is given twice")
        else:
            keywords[keyword["key"]] = value
    return positional, keywords


def _form(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is parameter.empty:
        return parameter.name
    if isinstance(default, str):
        return f"{parameter.name}={default}"
    is_number = isinstance(default, (int, float)) and not isinstance(default, bool)
    if default is None and parameter.annotation in ("float | None", "int | None"):  # a number that may be left out
        return f"{parameter.name}=..."
    return f"{parameter.name}={default:g}" if is_number else ""


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return False
    return depth == 0


def _number_or_spec(text: str, where: str) -> float | str:
    text = text.strip()
    return text if _NESTED_SPEC.fullmatch(text) else _number(text, where)


def _number(text: str, where: str) -> float:
    if _NUMBER.fullmatch(text) is None:
        raise InvalidValueError(f"{where}: {text!r} is not a number")
    value = float(text)
    if not math.isfinite(value):
        raise InvalidValueError(f"{where}: {text!r} is too large for a number in double precision")
    return value


def format_number(value: float) -> str:
    """The shortest of `256`, `0.5` and `0.28867513459481287` that is read back as the same number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def split_top_level(text: str, separator: str) -> list[str]:
    """Split at separators that are outside parentheses: `"a(1,2),b"` at `","` gives `["a(1,2)", "b"]`."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == separator and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]
