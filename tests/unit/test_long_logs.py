"""Logs are read once, record by record: judged as when they are read whole, and kept as columns of numbers."""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "long"))

import long_logs
import numpy as np
import pytest
from compare_samples import make_plan, write_run

from vdvae_patch.compare.curves import cumulated
from vdvae_patch.compare.results import Curves, collect
from vdvae_patch.report.columns import read_log as read_columns
from vdvae_patch.skips import audit as auditing
from vdvae_patch.skips.audit import Audit
from vdvae_patch.skips.records import JsonLines, checked_line, read_log, stream

pytestmark = pytest.mark.medium

RUN = "0123456789abcdef"
OTHER = "fedcba9876543210"


def small_log(path: Path, count: int = 7) -> bytes:
    log = JsonLines(path, run=RUN)
    for step in range(count):
        log.write({"step": step, "elbo": float("nan") if step == 2 else 3.5, "name": 'ä "inf"', "more": ["-inf", {}]})
    log.close()
    return path.read_bytes()


def said_of(path: Path, run: str, checked: bool, expected: int | None) -> tuple[Any, ...]:
    found = read_log(path, run, checked=checked)
    return repr(found.records), found.problems(expected), found.unchecked, len(found.good)


def audited(path: Path, run: str, checked: bool, expected: int | None) -> tuple[Any, ...]:
    audit = Audit(path, run, checked=checked)
    rows = list(audit.records())
    return repr(rows), audit.problems(expected), audit.unchecked, audit.good


def harms(data: bytes) -> list[bytes]:
    """The log with every byte changed, cut at every byte, and with lines taken out, doubled, moved, and of others."""
    lines = data.splitlines(keepends=True)
    old = [
        json.dumps({"step": 9}).encode() + b"\n",
        b'{"step": 9} \n',
        b" {}\n",
        b"[1]\n",
        b"\n",
        b'{"a": 1} {"b": 2}\n',
    ]
    strange = [
        b'{"step": "\\u006ean"}\n', "{'ä': 1}\n".encode(), b'{"a": NaN, "b": "x-inf"}\n', b'{"a": "\xff"}\n',
        b"\0" * 40,
        b'{"a": 1}\r\n', b'{"_check": 3}\n', ("[" * 5000 + "\n").encode(), b'{"a": 1}}\n', b'{"a": 1},{"b": 2}\n',
    ]  # fmt: skip
    of_others = [
        checked_line('{"step": 3}', number, run).encode()
        for number in (1, 4, 9, 10**20)
        for run in (RUN[:8], OTHER[:8])
    ]
    forged = [checked_line('{"step": 3}, {"step": 4}', 8, RUN[:8]).encode(), checked_line('{"step": ]', 8, "").encode()]
    changed = [data[:i] + bytes([data[i] ^ 4]) + data[i + 1 :] for i in range(0, len(data), 5)]
    cut = [data[:i] for i in range(0, len(data), 9)]
    moved = [b"".join(lines[:i] + lines[i + 1 :] + extra) for i in range(len(lines)) for extra in ([], [lines[i]])]
    mixed = [b"".join([*lines[:3], line, *lines[3:]]) for line in (*old, *strange, *of_others, *forged)]
    return [data, b"", *changed, *cut, *moved, *mixed, *old, *strange]


@pytest.mark.parametrize("checked", [False, True])
def test_read_record_by_record_a_log_is_judged_as_when_it_is_read_whole(tmp_path: Path, checked: bool) -> None:
    path = tmp_path / "metrics.jsonl"
    for harmed in harms(small_log(path)):
        path.write_bytes(harmed)
        for run in ("", RUN):
            assert [repr(line) for line in stream(path, run, checked=checked)] == [
                repr(line) for line in read_log(path, run, checked=checked).lines
            ], harmed
            for expected in (None, 7, 9):
                assert audited(path, run, checked, expected) == said_of(path, run, checked, expected), harmed


ONLY = ("elbo", "step", "cause", "no such field")


def plain_log(path: Path, count: int = 9) -> bytes:
    log = JsonLines(path, run=RUN)
    for step in range(count):
        cause = "nan_rate" if step == 2 else None
        more = {"a decoder's": 1e-300} if step == 6 else {}
        elbo = float("nan") if cause else -float("inf") if step == 4 else 12 if step == 5 else -3.5e-07
        log.write({"step": step, "elbo": elbo, "lr": 0.00015, "cause": cause, "skipped": bool(cause)} | more)
    log.close()
    return path.read_bytes()


def as_said(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Its fields in any order, a number as a float: in a column with both kinds they are of one."""
    return sorted(
        (name, repr(float(value) if type(value) is int and name != "step" else value)) for name, value in row.items()
    )


@pytest.mark.parametrize("block", [1, 300, 1 << 16], ids=["a line at a time", "two or three lines", "the whole file"])
def test_of_a_log_some_fields_are_read_as_when_all_are(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "_BLOCK", block)
    path = tmp_path / "metrics.jsonl"
    data = plain_log(path)
    texts = [
        "01",
        "+1",
        "1.",
        ".5",
        "1e",
        "-",
        "1_0",
        "tru",
        '"\t"',
        '"\\u0041"',
        "[1]",
        "NaN",
        "1" * 30,
        '"ä"',
        "1e999",
    ]
    texts += [
        '"inf"',
        "-0",
        "1E-05",
        '"-inf "',
        "null",
        "true",
        '"',
        '"a"b"',
        '1, "step": 7',
        '1, "cause": "x"',
        "-0.0e+1",
    ]
    lines = data.splitlines(keepends=True)
    forged = [
        b"".join([*lines[:3], checked_line(f'{{"step": 3, "elbo": {text}, "lr": {other}, "cause": null, '
                                           '"skipped": false}', 4, RUN[:8]).encode(), *lines[4:]])
        for text in texts for other in (1, text)
    ]  # fmt: skip
    for harmed in [*harms(data), *forged]:
        path.write_bytes(harmed)
        for checked in (False, True):
            audit, whole = Audit(path, RUN, checked=checked), Audit(path, RUN, checked=checked)
            parts, rows = list(audit.columns(ONLY)), list(whole.records())
            found = [row for part in parts for row in part.rows()]
            wanted = [{name: row[name] for name in ONLY if name in row} for row in rows]
            assert list(map(as_said, found)) == list(map(as_said, wanted)), harmed
            assert (audit.problems(9), audit.unchecked, audit.good) == (
                whole.problems(9), whole.unchecked, whole.good,
            ), harmed  # fmt: skip


def test_a_log_that_is_not_there_is_empty_and_lacks_what_is_expected(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "metrics.jsonl")
    assert list(audit.records()) == []
    assert audit.problems(2) == [f"{audit.path} lacks records 1 to 2"]


def peak(read: Callable[[], Any]) -> int:
    """Bytes beyond those of before, at the worst moment."""
    gc.collect()
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


COUNT = 20_000
CAUSES = [None if step % 100 else "nan_rate" for step in range(COUNT)]


@pytest.mark.parametrize("nelbo", [4.0, None], ids=["finished", "unfinished"])
def test_compare_keeps_columns_of_a_long_run_and_no_records(tmp_path: Path, nelbo: float | None) -> None:
    made = make_plan(tmp_path, "vanilla", "0")
    write_run(made.runs[0], CAUSES, nelbo=nelbo, per_epoch=500)
    collect(made.runs)  # what is imported and cached the first time
    used = peak(lambda: collect(made.runs))
    assert used < 100 * COUNT, f"{used / COUNT:.0f} bytes a record"
    (result,) = collect(made.runs)
    assert (result.steps, result.nan, int(result.curves.skipped.sum())) == (COUNT, COUNT // 100, COUNT // 100)
    assert result.curves.epoch[-1] == (COUNT - 1) // 500


def test_report_keeps_columns_of_a_long_run_and_no_records(tmp_path: Path) -> None:
    made = make_plan(tmp_path, "vanilla", "0")
    write_run(made.runs[0], CAUSES, per_epoch=500)
    log = made.runs[0].folder / "metrics.jsonl"
    used = peak(lambda: read_columns(log, []))
    assert used < 200 * COUNT, f"{used / COUNT:.0f} bytes a record"


def test_a_number_that_no_column_holds_refuses_the_run_and_is_no_crash(tmp_path: Path) -> None:
    made = make_plan(tmp_path, "vanilla", "0,1")
    for run, field in zip(made.runs, ("epoch", "elbo"), strict=True):
        write_run(run)
        log = run.folder / "metrics.jsonl"
        lines = log.read_text().splitlines()
        row = json.loads(lines[3])
        row.pop("_check")
        lines[3] = checked_line(json.dumps(row | {field: 10**400}), 4, "").rstrip()
        log.write_text("\n".join(lines) + "\n")
    for result in collect(made.runs):
        assert result.outcome == "refused"
        assert "record 4 has a number beyond 64 bits" in result.problems[0]


def test_the_count_of_skipped_updates_is_drawn_where_it_changes() -> None:
    skipped = np.zeros(1_000_000, np.bool_)
    skipped[[3, 4, 900_000]] = True
    steps = np.arange(len(skipped))
    curves = Curves(steps, steps, np.zeros(len(skipped)), skipped)
    x, count = cumulated(curves)
    assert x.tolist() == [0, 4, 5, 900_001, 1_000_000]
    assert count.tolist() == [0, 1, 2, 3, 3]
    many, counts = cumulated(Curves(steps, steps, np.zeros(len(skipped)), ~skipped), limit=50)
    assert len(many) == 52
    assert counts[-1] == len(skipped) - 3
    exact = np.cumsum(~skipped)
    assert counts[1:].tolist() == [int(exact[int(step) - 1]) for step in many[1:]]


def test_of_no_step_at_all_the_count_is_zero() -> None:
    empty = np.zeros(0, np.int64)
    x, count = cumulated(Curves(empty, empty, np.zeros(0), np.zeros(0, np.bool_)))
    assert (x.tolist(), count.tolist()) == ([0], [0])


@pytest.mark.slow
@pytest.mark.parametrize(("what", "megabytes", "of_json"), [("compare", 200, 2.0), ("report", 400, 4.0)])
def test_a_million_records_take_little_more_than_reading_them(
    tmp_path: Path, what: str, megabytes: float, of_json: float
) -> None:
    long_logs.write_long(tmp_path / "small", 6)
    long_logs.write_long(tmp_path / "long", 1_000_000)
    found = long_logs.apart(what, tmp_path / "small", tmp_path / "long")
    assert found["megabytes"] < megabytes, found
    assert found["seconds"] < of_json * found["parse"], found  # the machine may be slow, but both are read on it
