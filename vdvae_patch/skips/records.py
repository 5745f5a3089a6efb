"""The lines of a run's logs, and the log files: one JSON object a line, whole or not at all.

Each line ends with `"_check": "17.3f2a91c0.9a0b1c2d"`: its number from 1 in its log, which run wrote it (the first
eight digits of the run's identity, empty for a log that is of no run), and the CRC-32 of all of the line before the
last point. It is per line and not chained, so that a damaged line takes no other with it; the numbers show what is
missing between two good lines, also after a damaged one was taken out. To every other reader it is one more field.

What is cut off the end shows in no line: how many there were stands in the checkpoints and in `summary.json`.

Logs of before have no such field. They are read, and said to be unchecked.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vdvae_patch.errors import RunError
from vdvae_patch.skips.disks import discard, mend, reason

CHECK = "_check"
"""The last field of a line: its number, its run and its checksum."""

CRC_DIGITS = 8
_RUN_DIGITS = 8


class JsonLines:
    """An append-only log. A line that a killed process left unfinished is cut off when the log is opened again.

    Args:
        run: the identity of the run whose log it is.
        after: how many lines there were once, if more than there are: the numbers go on behind them.
        remedy: what is said where it cannot be written, with `{mend}` for what helps.
    """

    def __init__(
        self,
        path: Path,
        *,
        run: str = "",
        after: int = 0,
        remedy: str = "the checkpoints are whole: {mend}, and --resume",
    ) -> None:
        self.path, self._remedy = path, remedy
        self.run = short(run)
        self.repaired = repair(path)
        self.count = max(after, last_number(path))
        """The number of the last line, also of lines that are lost."""
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; NaN and infinities are written as the strings `"nan"`, `"inf"`, `"-inf"`."""
        with self._explained():
            text = json.dumps({k: encode(v) for k, v in record.items()}, allow_nan=False)
            self._file.write(checked_line(text, self.count + 1, self.run))
            self.count += 1

    def flush(self) -> None:
        """Hand what was written to the operating system; raises `RunError` if there is no space left."""
        with self._explained():
            self._file.flush()

    def sync(self) -> None:
        """Wait until it is on the disk; raises `RunError` if there is no space left."""
        with self._explained():
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close."""
        with self._explained():
            self._file.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"log {self.path} could not be written ({reason(error)}); {self._remedy.format(mend=mend(error))}"
            ) from error


def short(run: str) -> str:
    """The digits of a run's identity that its logs carry."""
    return run[:_RUN_DIGITS]


def checked_line(text: str, number: int, run: str) -> str:
    """A line of a log from the text of a JSON object."""
    separator = "" if text == "{}" else ", "
    body = f'{text[:-1]}{separator}"{CHECK}": "{number}.{run}.'
    return f'{body}{zlib.crc32(body.encode()):08x}"}}\n'


@dataclass(frozen=True)
class Line:
    """One line of a log.

    Attributes:
        place: which line of the file it is, from 1.
        text: its bytes, with the line break if it has one.
        record: what it says; None if it is damaged.
        number, run: as its field `_check` says; None for a line of before there was one.
        why: what is wrong with it.
    """

    place: int
    text: bytes
    record: dict[str, Any] | None
    number: int | None = None
    run: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Log:
    """A log as it was found: what is good in it, and all that is not.

    Attributes:
        lines: all of them, damaged ones too; an unfinished last line is left out.
        unfinished: the bytes behind the last line break: what a killed process had begun to write, or a file was cut.
    """

    path: Path
    lines: tuple[Line, ...]
    unfinished: bytes = b""

    @property
    def records(self) -> list[dict[str, Any]]:
        """What the good lines say, in their order, without the field `_check`."""
        return [line.record for line in self.lines if line.record is not None]

    @property
    def good(self) -> list[Line]:
        """The lines that can be read and, where they have a checksum, agree with it."""
        return [line for line in self.lines if line.record is not None]

    @property
    def damaged(self) -> list[Line]:
        """The lines that cannot be trusted."""
        return [line for line in self.lines if line.record is None]

    @property
    def unchecked(self) -> int:
        """How many lines are from before there were checksums."""
        return sum(line.number is None for line in self.good)

    @property
    def count(self) -> int:
        """The number of the last line: how many there have been, unless the end is missing."""
        return _count(self.lines)

    @property
    def runs(self) -> tuple[str, ...]:
        """The first digits of the identities of all runs that wrote in it."""
        return tuple(dict.fromkeys(line.run for line in self.good if line.run is not None))

    def missing(self, expected: int | None = None) -> list[tuple[int, int]]:
        """The numbers, first and last of each gap, of lines that are not there, or are there and damaged.

        Args:
            expected: how many lines there must be; what is missing at the end shows in nothing else.
        """
        gaps = []
        before = 0
        for line in self.good:
            number = before + 1 if line.number is None else line.number
            if number > before + 1:
                gaps.append((before + 1, number - 1))
            before = max(before, number)
        if expected is not None and before < expected:
            gaps.append((before + 1, expected))
        return gaps

    def problems(self, expected: int | None = None) -> list[str]:
        """Everything that is wrong, each with file and line; a line from before checksums is no problem."""
        said = [f"{self.path} line {line.place} {line.why}" for line in self.damaged]
        lost = [f"{self.path} lacks {in_words(*gap)}" for gap in self.missing(expected)]
        if expected is not None and self.unfinished and lost:
            said.append(f"{self.path} ends in the middle of line {len(self.lines) + 1}")
        return said + lost

    def remarks(self) -> list[str]:
        """What is no fault, and should be known: how many lines no checksum vouches for."""
        if not self.unchecked:
            return []
        which = "" if self.unchecked == len(self.lines) else f"{self.unchecked} of {len(self.lines)} lines of "
        return [f"{which}{self.path} cannot be checked: written by a version without checksums"]


def read_log(path: Path, run: str = "", *, checked: bool = False) -> Log:
    """Read a log, whatever state it is in; one that is not there is empty.

    Args:
        run: the identity of the run that it must be of; lines of another run count as damaged. Empty for any.
        checked: whether every line must have a checksum, as all have of a run that was begun with an identity.

    Raises:
        RunError: it cannot be opened.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Log(path, ())
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    texts = data.splitlines(keepends=True) if b"\r" not in data else split_lines(data)
    unfinished = texts.pop() if texts and not texts[-1].endswith(b"\n") else b""
    return Log(path, tuple(map(_line, map(Judge(short(run), checked), texts))), unfinished)


def stream(path: Path, run: str = "", *, checked: bool = False) -> Iterator[Line]:
    """The lines of a log as `read_log` has them, one after the other, without keeping them; an unfinished last line is
    left out.

    Raises:
        RunError: it cannot be opened.
    """
    yield from map(_line, map(Judge(short(run), checked), whole_lines(path, [])))


def whole_lines(path: Path, unfinished: list[bytes]) -> Iterator[bytes]:
    """The finished lines of a file; what is behind the last line break is put into `unfinished`."""
    try:
        with path.open("rb") as file:  # which ends its lines at a line feed alone
            for text in file:
                if text.endswith(b"\n"):
                    yield text
                else:
                    unfinished.append(text)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None


def split_lines(data: bytes) -> list[bytes]:
    """Lines that end with a line feed; `bytes.splitlines` would also end them at a carriage return."""
    parts = [part + b"\n" for part in data.split(b"\n")]
    last = parts.pop()[:-1]
    return [*parts, last] if last else parts


Judged = tuple[int, bytes, dict[str, Any] | None, int | None, str | None, str]
"""The fields of a `Line`. A log of a million lines is read in seconds because none is made of the good ones."""


def _line(judged: Judged) -> Line:
    return Line(*judged)


Found = tuple[dict[str, Any] | None, int | None, str | None, str]
"""What a line says, its number, its run, and what is wrong with it."""


class Judge:
    """What is wrong with each line of a log, also among the others: its run, and that numbers rise.

    Called with the lines in their order.

    Attributes:
        run: the first digits of the identity of the run that they must be of; empty for any.
        checked: whether a line must have a checksum: all must from the first one that has.
        place: how many lines there have been.
        before: the number of the last good one.
    """

    def __init__(self, run: str, checked: bool, read: Callable[[bytes], Found] | None = None) -> None:
        self.run, self.checked = run, checked
        self.place = self.before = 0
        self._read = read or read_text

    def __call__(self, text: bytes) -> Judged:
        self.place += 1
        record, number, of, why = self._read(text)
        if number is None:
            if record is not None and self.checked:
                # the field stands in every line from the first one that has it
                record, why = None, "is damaged: it has no checksum, and the others have"
            self.before += record is not None
        elif of and self.run and of != self.run:
            record, number, of, why = None, None, None, f"is of another run ({of}, not {self.run})"
        else:
            self.checked = True
            if number > self.before:
                self.before = number
            else:  # a line that comes a second time is none of the log
                record, number, of, why = None, None, None, f"is out of order: it says that it is line {number}"
        return self.place, text, record, number, of, why


def parse_line(text: bytes, place: int = 0) -> Line:
    """One line, whole, checked against its checksum."""
    return Line(place, text, *read_text(text))


_MOST_DIGITS = 15
"""Of a line's number; Python refuses to read very long ones, and none is."""

CHECK_NAME = f'"{CHECK}": "'.encode()
END = b'"}\n'
DAMAGED = "is damaged: its checksum does not match"


def read_text(text: bytes) -> Found:
    """One line: what it says, and what is wrong with it alone."""
    start = text.rfind(CHECK_NAME, 0, -len(END))
    if start >= 0 and text.endswith(END):
        number, _, rest = text[start + len(CHECK_NAME) : -len(END)].partition(b".")
        run, _, crc = rest.rpartition(b".")
        if b"%08x" % zlib.crc32(text[: -len(END) - CRC_DIGITS]) != crc:
            return None, None, None, DAMAGED
        record = _parsed(text)
        if record is None or not number.isdigit() or len(number) > _MOST_DIGITS:
            return None, None, None, "is damaged: it is no record"
        record.pop(CHECK, None)
        return record, int(number), run.decode(errors="replace"), ""
    record = _parsed(text)
    if record is None or CHECK in record:
        return None, None, None, f"is damaged: {_shown(text)}"
    return record, None, None, ""


_DECODER = json.JSONDecoder()


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        if text.startswith(b'{"') and text.endswith(b"}\n"):  # as we write it: half of the time of `json.loads`
            content = text.decode("utf-8", "surrogatepass")
            value, end = _DECODER.raw_decode(content)
            if end != len(content) - 1:
                return None
        else:
            value = json.loads(text)
        if b'"nan"' in text or b'inf"' in text or b"\\" in text:
            value = _decoded(value)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


_NO_NUMBERS = frozenset({str, dict, list})


def _decoded(value: Any) -> Any:
    """As `decode`; the record itself is changed, and numbers, of which most of it are, are not looked at."""
    if not isinstance(value, dict):
        return decode(value)
    for name, inner in value.items():
        if inner.__class__ in _NO_NUMBERS:
            value[name] = decode(inner)
    return value


def _shown(text: bytes) -> str:
    """The beginning of it, with nothing that would steer a terminal."""
    return f"no JSON object: {text[:40]!r}" + ("..." if len(text) > 40 else "")


def in_words(first: int, last: int) -> str:
    """`record 3`, or `records 3 to 5`."""
    return f"record {first}" if first == last else f"records {first} to {last}"


def _count(lines: Sequence[Line]) -> int:
    """The number of the last good line, and the damaged ones behind it, which have numbers of their own."""
    behind = 0
    for line in reversed(lines):
        if line.record is not None:
            return behind + (line.number if line.number is not None else line.place)
        behind += 1
    return behind


def last_number(path: Path) -> int:
    """How many lines a log has had, from its end alone; 0 if it is not there."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        length = 4096
        while True:
            file.seek(-min(length, size), os.SEEK_END)
            lines = file.read().split(b"\n")[:-1]
            found = [parse_line(line + b"\n") for line in (lines if length >= size else lines[1:])]
            if length >= size or any(line.number is not None for line in found):
                break
            length *= 8
    places = [Line(n, line.text, line.record, line.number) for n, line in enumerate(found, 1)]
    return _count(places)


def encode(value: Any) -> Any:
    """JSON has no NaN: floats that are not finite become strings, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    return value


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, str):
        return float(value) if value in ("nan", "inf", "-inf") else value
    if isinstance(value, dict):
        return {k: decode(v) for k, v in value.items()}
    return [decode(v) for v in value] if isinstance(value, list) else value


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a log that is whole; an unfinished last line is left out.

    Raises:
        RunError: a line is damaged; the message names it.
    """
    log = read_log(path)
    if log.damaged:
        line = log.damaged[0]
        raise RunError(f"{path} cannot be read: line {line.place} {line.why}")
    yield from log.records


def repair(path: Path) -> bool:
    """Cut an unfinished last line off; whether there was one."""
    if not path.exists():
        return False
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole == len(data):
        return False
    os.truncate(path, whole)
    return True


@dataclass(frozen=True)
class Cut:
    """What became of a log that a continuation took up.

    Attributes:
        redone: the steps of records that were dropped, since they are done again.
        kept_aside: the damaged lines that were put into the file beside.
        problems: what is lost or damaged, each with file and line.
        count: how many lines there were, also of those that are lost.
        remarks: what no checksum vouches for.
    """

    redone: tuple[int, ...] = ()
    kept_aside: int = 0
    problems: tuple[str, ...] = ()
    count: int = 0
    remarks: tuple[str, ...] = ()


def aside(path: Path) -> Path:
    """Where the damaged lines of a log are kept."""
    return path.with_name(f"{path.name}.damaged")


def truncate_after(path: Path, step: int, *, run: str = "", expected: int | None = None, checked: bool = False) -> Cut:
    """Drop the records of steps from `step` on: the resumed run does those steps again.

    A damaged line among those that stay takes no other with it: it goes into the file beside, `aside`. What stays is
    never changed. A line that cannot be read behind all of them is of a step that is done again, and is dropped too.

    Args:
        run, checked: as `read_log` has them.
        expected: how many lines there were when `step` steps had been done; None if nobody knows.

    Raises:
        RunError: it cannot be read or written.
    """
    log = read_log(path, run, checked=checked)
    last = max(
        (n for n, line in enumerate(log.lines) if line.record is not None and _is_before(line, step)), default=-1
    )
    first = next(
        (n for n, line in enumerate(log.lines) if line.record is not None and not _is_before(line, step)), None
    )
    if first is not None and first < last:
        last = first - 1  # steps go up; what comes behind one that is done again is done again, too
    kept = [line for line in log.lines[: last + 1] if line.record is not None]
    had = _count(log.lines[: last + 1])
    rest = log.lines[last + 1 :]
    # lines that cannot be read right behind those that stay, as far as lines are missing
    lost = 0 if expected is None else max(0, expected - had)
    if expected is None:
        behind = list(rest) if all(line.record is None for line in rest) and any(map(_says_much, rest)) else []
    else:
        behind = [line for line in rest[:lost] if line.record is None]
    bad = [line for line in log.lines[: last + 1] if line.record is None] + behind
    unfinished = log.unfinished if lost > len(behind) and expected is not None else b""
    whole = Log(path, (*kept, *bad), unfinished)
    problems = tuple(whole.problems(expected))
    if expected is not None and had > expected:
        problems += (f"{path} has {had} records of the first {step} steps, and the checkpoint counted {expected}",)
    if bad or unfinished:
        _keep_aside(path, [line.text for line in bad] + ([unfinished + b"\n"] if unfinished else []))
    _rewrite(path, kept, log)
    redone = tuple(int(line.record["step"]) for line in rest if line.record is not None)
    return Cut(redone, len(bad) + bool(unfinished), problems, max(had, expected or 0), tuple(log.remarks()))


def _says_much(line: Line) -> bool:
    """Whether a damaged line is more than what a crash of the machine leaves: a block of zeros."""
    return bool(line.text.strip(b"\0\n"))


def _is_before(line: Line, step: int) -> bool:
    assert line.record is not None
    found = line.record.get("step")
    return isinstance(found, int) and found < step


def _keep_aside(path: Path, texts: Sequence[bytes]) -> None:
    try:
        with aside(path).open("ab") as file:
            file.writelines(texts)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"{aside(path)} could not be written: {error.strerror}") from error


def _rewrite(path: Path, kept: Sequence[Line], log: Log) -> None:
    """Leave the lines `kept` in the file; if they are its beginning, nothing is written."""
    data = b"".join(line.text for line in kept)
    if not log.lines and not log.unfinished:
        return
    if kept == list(log.lines[: len(kept)]):
        os.truncate(path, len(data))
        return
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        discard(part)
        raise RunError(f"{path} could not be written: {error.strerror}") from error
