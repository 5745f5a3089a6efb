"""A log that is read once and not kept, record by record or as columns; what is wrong with it is known at the end.

A run of a million steps has gigabytes of records as dictionaries, and 25 bytes a step of what a curve is drawn from.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdvae_patch.errors import RunError
from vdvae_patch.skips.records import (
    CHECK_NAME,
    CRC_DIGITS,
    END,
    Judge,
    in_words,
    read_text,
    short,
    split_lines,
    whole_lines,
)


@dataclass(frozen=True)
class Columns:
    """Good lines in a row that have the same of the wanted fields.

    Attributes:
        count: how many lines.
        values: of each wanted field that they have, one a line.
    """

    count: int
    values: Mapping[str, list[Any]]

    def of(self, name: str) -> list[Any]:
        """The values of a field; None for each line if they have it not."""
        found = self.values.get(name)
        return [None] * self.count if found is None else found

    def rows(self) -> Iterator[dict[str, Any]]:
        """One record a line."""
        for n in range(self.count):
            yield {name: values[n] for name, values in self.values.items()}


_BLOCK = 1 << 16
"""Bytes that are read at once."""


class Audit:
    """Reads a log once. It judges every line as `records.read_log` does, and says the same.

    Args:
        run, checked: as `read_log` has them.
    """

    def __init__(self, path: Path, run: str = "", *, checked: bool = False) -> None:
        self.path = path
        self.good = 0
        """How many lines could be read so far, and agree with their checksum if they have one."""
        self.unchecked = 0
        """How many of these are from before there were checksums."""
        self.faults: list[tuple[str, bool]] = []
        """What is wrong, in the order of the file: `line 3 is damaged: ...` with False, and with True what is missing
        between two good lines, `lacks record 3`; a damaged line has also a number that is missing."""
        self._judge = Judge(short(run), checked)
        self._unfinished: list[bytes] = []

    def records(self) -> Iterator[dict[str, Any]]:
        """What the good lines say, in their order, without the field `_check`.

        Raises:
            RunError: it cannot be opened.
        """
        return self._records_of(whole_lines(self.path, self._unfinished))

    def columns(self, only: Sequence[str]) -> Iterator[Columns]:
        """What the good lines say of some fields, in their order, many lines at once.

        Training writes the same fields in the same order a million times: such lines are read by the block, and what
        nobody wants of them is not converted. A block with any other line in it is read line by line. Of a field whose
        numbers are with and without a point, those without may come as floats.

        Args:
            only: the fields that are wanted; those that a line lacks are missing in its `Columns`, too.

        Raises:
            RunError: it cannot be opened.
        """
        shapes = _Shapes(only)
        for block in _whole_blocks(self.path, self._unfinished):
            found = shapes.read(block, self._judge)
            if found is None:
                yield from _in_columns(self._records_of(split_lines(block)), only)
            else:
                self.good += found.count
                yield found

    def _records_of(self, texts: Iterable[bytes]) -> Iterator[dict[str, Any]]:
        judge = self._judge
        for text in texts:
            before = judge.before
            place, _, record, number, _, why = judge(text)
            if record is None:
                self.faults.append((f"line {place} {why}", False))
                continue
            self.good += 1
            if number is None:
                self.unchecked += 1
            elif number > before + 1:
                self.faults.append((f"lacks {in_words(before + 1, number - 1)}", True))
            yield record

    def problems(self, expected: int | None = None) -> list[str]:
        """Everything that was wrong in what has been read, each with file and line, as `Log.problems` says it."""
        damaged = [text for text, is_gap in self.faults if not is_gap]
        gaps = [text for text, is_gap in self.faults if is_gap] + self.lost_at_the_end(expected)
        if expected is not None and self._unfinished and gaps:
            damaged.append(f"ends in the middle of line {self._judge.place + 1}")
        return [f"{self.path} {text}" for text in damaged + gaps]

    def lost_at_the_end(self, expected: int | None) -> list[str]:
        """`lacks records 8 to 9`, if there must be `expected` of them: in the file nothing shows that."""
        if expected is None or self._judge.before >= expected:
            return []
        return [f"lacks {in_words(self._judge.before + 1, expected)}"]


def _whole_blocks(path: Path, unfinished: list[bytes]) -> Iterator[bytes]:
    """The finished lines of a file, many at once; what is behind the last line break is put into `unfinished`."""
    begun: list[bytes] = []
    try:
        with path.open("rb") as file:
            while data := file.read(_BLOCK):
                end = data.rfind(b"\n") + 1
                if end:
                    yield b"".join([*begun, data[:end]])
                    begun = []
                begun.append(data[end:])
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    if rest := b"".join(begun):
        unfinished.append(rest)


def _in_columns(rows: Iterable[dict[str, Any]], only: Sequence[str]) -> Iterator[Columns]:
    wanted = ({name: row[name] for name in only if name in row} for row in rows)
    for names, alike in itertools.groupby(wanted, key=tuple):
        together = list(alike)
        yield Columns(len(together), {name: [row[name] for row in together] for name in names})


class _Shapes:
    """Reads blocks of lines that are written alike.

    What such a line is made of is one regular expression, which takes no text that is no JSON. A line that it does not
    take is looked at for what the next ones may be like.
    """

    _MOST = 16
    """How often another shape is looked for: a log whose lines differ is read in the ordinary way."""

    def __init__(self, only: Sequence[str]) -> None:
        self._only = frozenset(only)
        self._shape: _Shape | None = None
        self._left = self._MOST

    def read(self, block: bytes, judge: Judge) -> Columns | None:
        """What all the lines say, if every one is good and of one shape, and the judge has nothing to say of any; None
        leaves the judge as it was."""
        found = None if self._shape is None else self._shape.read(block, judge)
        if found is None and self._left:
            self._left -= 1
            self._shape = _Shape.of(block[: block.index(b"\n") + 1], self._only)
            found = None if self._shape is None else self._shape.read(block, judge)
        if found is not None:
            judge.checked = True
            judge.place += found.count
            judge.before += found.count
        return found


class _Shape:
    """The lines with such fields in such an order."""

    def __init__(self, names: Sequence[str], only: frozenset[str]) -> None:
        self._names = [name for name in names if name in only]
        fields = [
            re.escape(json.dumps(name).encode()) + rb": " + (rb"(%b)" if name in only else rb"%b") % _SCALAR
            for name in names
        ]
        ending = re.escape(CHECK_NAME) + rb'(\d{1,15}+)\.([0-9A-Za-z]*+)\.[0-9a-f]{8}"\}$'
        self._findall = re.compile(rb"^\{" + rb", ".join([*fields, ending]), re.MULTILINE).findall

    @classmethod
    def of(cls, text: bytes, only: frozenset[str]) -> _Shape | None:
        """What lines like this one have; None for one that is not good, or has no checksum."""
        record, number, _, _ = read_text(text)
        return None if record is None or number is None else cls(list(record), only)

    def read(self, block: bytes, judge: Judge) -> Columns | None:
        """As `_Shapes.read`."""
        found = self._findall(block)
        lines = block.split(b"\n")
        lines.pop()
        # the expression takes whole lines alone, so that as many are all of them
        if len(found) != len(lines):
            return None
        *tokens, numbers, runs = zip(*found, strict=True)
        if judge.run and not set(runs) <= {judge.run.encode(), b""}:
            return None
        following = range(judge.before + 1, judge.before + 1 + len(lines))
        if list(map(int, numbers)) != list(following) or not _agree(lines):
            return None
        return Columns(len(lines), dict(zip(self._names, map(_values, tokens), strict=True)))


_TAIL = CRC_DIGITS + len(END) - 1
"""Bytes behind what a checksum is of, in a line without its line break."""


def _agree(lines: Sequence[bytes]) -> bool:
    """Whether each line is what its checksum says."""
    said = bytes.fromhex(b"".join([line[-_TAIL : 1 - len(END)] for line in lines]).decode())
    found = map(zlib.crc32, [line[:-_TAIL] for line in lines])
    return struct.unpack(f">{len(lines)}I", said) == tuple(found)


_NUMBER = rb"-?+(?!0\d)\d{1,16}+(?:\.\d{1,30}+|)(?:[eE][+-]?\d{1,3}+|)"
_SCALAR = rb'(?:%b|null|true|false|"[ !#-\[\]-~]*+")' % _NUMBER
_CONSTANTS: dict[bytes, Any] = {
    b"null": None, b"true": True, b"false": False, b'"nan"': math.nan, b'"inf"': math.inf, b'"-inf"': -math.inf,
}  # fmt: skip


def _values(tokens: Sequence[bytes]) -> list[Any]:
    """What scalars of JSON say, as `records.decode` gives it."""
    try:
        if tokens[0].lstrip(b"-").isdigit():
            return list(map(int, tokens))
        if tokens[0][:1] in b"-0123456789":
            return list(map(float, tokens))
    except ValueError:
        pass
    known = {token: _value(token) for token in set(tokens)}
    return [known[token] for token in tokens]


def _value(token: bytes) -> Any:
    if token in _CONSTANTS:
        return _CONSTANTS[token]
    if token.startswith(b'"'):
        return token[1:-1].decode()
    return int(token) if token.lstrip(b"-").isdigit() else float(token)
