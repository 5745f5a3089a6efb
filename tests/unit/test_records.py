"""A log's lines vouch for themselves, and what is damaged takes nothing else with it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from vdvae_patch.errors import RunError
from vdvae_patch.skips.records import CHECK, JsonLines, aside, last_number, read, read_log, truncate_after
from vdvae_patch.skips.whole import comment_agrees, json_record, json_text, with_comment

RUN = "3f2a91c0" * 4


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Ten records."""
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path, run=RUN)
    for step in range(10):
        lines.write({"step": step, "elbo": math.inf if step == 3 else 0.1 * step, "cause": None})
    lines.close()
    return path


def damage(path: Path, line: int, text: bytes = b"\0\0\0") -> bytes:
    """Put `text` into the middle of a line, from 1; what the line was before."""
    lines = path.read_bytes().splitlines(keepends=True)
    before = lines[line - 1]
    middle = len(before) // 2
    lines[line - 1] = before[:middle] + text + before[middle + len(text) :]
    path.write_bytes(b"".join(lines))
    return before


def test_every_flip_of_every_bit_is_noticed(log: Path) -> None:
    data = log.read_bytes()
    whole = read_log(log).records
    for place in range(len(data)):
        for bit in range(8):
            harmed = bytearray(data)
            harmed[place] ^= 1 << bit
            log.write_bytes(harmed)
            found = read_log(log)
            assert found.problems(expected=10) or found.remarks(), (place, bit)
            assert all({key: row.get(key) for key in whole[0]} in whole for row in found.records)


def test_any_reader_of_json_lines_reads_it(log: Path) -> None:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(10))
    assert {key for row in rows for key in row} == {"step", "elbo", "cause", CHECK}


def test_what_was_written_is_read(log: Path) -> None:
    rows = list(read(log))
    assert [row["step"] for row in rows] == list(range(10))
    assert rows[3]["elbo"] == math.inf
    assert all(CHECK not in row for row in rows)


def test_a_damaged_line_is_named_and_the_others_are_read(log: Path) -> None:
    damage(log, 4)
    found = read_log(log)
    assert [row["step"] for row in found.records] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert found.problems() == [f"{log} line 4 is damaged: its checksum does not match", f"{log} lacks record 4"]
    with pytest.raises(RunError, match=r"metrics.jsonl cannot be read: line 4 is damaged"):
        list(read(log))


def test_lines_that_were_cut_off_the_end_are_missed_by_whoever_knows_how_many_there_were(log: Path) -> None:
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:7]))
    assert read_log(log).problems() == []
    assert read_log(log).problems(expected=10) == [f"{log} lacks records 8 to 10"]


def test_lines_that_come_twice_or_of_another_run_are_none_of_the_log(log: Path, tmp_path: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:5], lines[2], *lines[5:]]))
    assert "line 6 is out of order: it says that it is line 3" in read_log(log).problems()[0]
    other = JsonLines(tmp_path / "other.jsonl", run="91c0")
    other.write({"step": 0})
    other.close()
    assert read_log(tmp_path / "other.jsonl", RUN).problems() == [
        f"{tmp_path / 'other.jsonl'} line 1 is of another run (91c0, not 3f2a91c0)"
    ]


def test_a_log_of_before_is_read_and_said_to_be_unchecked(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n')
    log = JsonLines(path, run=RUN)
    log.write({"step": 2})
    log.close()
    found = read_log(path, RUN)
    assert [row["step"] for row in found.records] == [0, 1, 2]
    assert found.problems(expected=3) == []
    assert found.remarks() == [f"2 of 3 lines of {path} cannot be checked: written by a version without checksums"]


@pytest.mark.parametrize("text", ["17", "[1, 2]", '"text"', "null", "[" * 20_000, '{"step": 1', "{}}", '{"step": 1} x'])
def test_what_is_no_record_is_damage_and_no_traceback(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 0}}\n{text}\n{{"step": 2}}\n')
    found = read_log(path)
    assert [row["step"] for row in found.records] == [0, 2]
    assert [line.place for line in found.damaged] == [2]


def test_what_would_steer_a_terminal_is_shown_as_text(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\x1b[2Jgone\n")
    assert "\x1b" not in read_log(path).problems()[0]


def test_at_a_resume_a_damaged_line_goes_beside_and_the_others_stay(log: Path) -> None:
    damage(log, 4)
    harmed = log.read_bytes().splitlines(keepends=True)
    cut = truncate_after(log, 7, run=RUN, expected=7)
    assert cut.redone == (7, 8, 9)
    assert cut.problems == (f"{log} line 4 is damaged: its checksum does not match", f"{log} lacks record 4")
    assert aside(log).read_bytes() == harmed[3]
    assert log.read_bytes() == b"".join([*harmed[:3], *harmed[4:7]])
    after = JsonLines(log, run=RUN, after=cut.count)
    after.write({"step": 7})
    after.close()
    assert read_log(log, RUN).problems(expected=8) == [f"{log} lacks record 4"]


def test_at_a_resume_lines_that_are_gone_are_missed_and_the_numbers_go_on_behind_them(log: Path) -> None:
    log.write_bytes(log.read_bytes()[: log.read_bytes().index(b'"step": 6') + 20])
    cut = truncate_after(log, 10, run=RUN, expected=10)
    assert f"{log} lacks records 7 to 10" in cut.problems
    assert b'"step": 6' in aside(log).read_bytes()
    after = JsonLines(log, run=RUN, after=cut.count)
    after.write({"step": 10})
    after.close()
    assert read_log(log).lines[-1].number == 11


def test_what_a_kill_left_behind_the_checkpoint_is_no_damage(log: Path) -> None:
    with log.open("ab") as file:
        file.write(b'{"step": 10, "elb')
    cut = truncate_after(log, 8, run=RUN, expected=8)
    assert (cut.redone, cut.problems, cut.kept_aside) == ((8, 9), (), 0)
    assert not aside(log).exists()


def test_a_log_of_a_machine_that_crashed_loses_its_zeros_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1}\n' + b"\0" * 64)
    cut = truncate_after(path, 2)
    assert (cut.redone, cut.problems) == ((), ())
    assert [row["step"] for row in read(path)] == [0, 1]


def test_the_last_number_is_found_from_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = JsonLines(path)
    for step in range(50):
        log.write({"step": step, "text": "x" * 3000})
    log.close()
    assert last_number(path) == 50
    assert last_number(tmp_path / "none.jsonl") == 0


def test_every_flip_of_a_small_file_is_noticed(tmp_path: Path) -> None:
    record = {"steps": 60, "nelbo": 1e-5, "bad": math.inf, "test": {"images": 4}}
    data = json_text(record, checksum=True).encode()
    assert json_record(data, tmp_path) == (record, True)
    for place in range(len(data)):
        for bit in range(8):
            harmed = bytearray(data)
            harmed[place] ^= 1 << bit
            try:
                found, checked = json_record(bytes(harmed), tmp_path)
            except RunError:
                continue
            assert not checked  # its name was hit: the rest is what it was, and does not count as checked
            assert {key: found.get(key) for key in record} == record


def test_a_comment_vouches_for_a_configuration() -> None:
    text = with_comment('variant = "explin"\n[run]\nid = "3f"\n')
    assert comment_agrees(text)
    assert comment_agrees(text.replace("explin", "expl1n")) is False
    assert comment_agrees('variant = "explin"\n') is None


def test_of_a_run_that_writes_checksums_a_line_without_one_is_damaged(log: Path) -> None:
    log.write_bytes(log.read_bytes().replace(b'"_check"', b'"_chick"', 1))
    assert read_log(log, RUN).remarks()
    assert read_log(log, RUN, checked=True).problems()[0].endswith("has no checksum, and the others have")
