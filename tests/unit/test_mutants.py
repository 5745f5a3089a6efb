"""The list of faults of `tests/long/mutants.py` does not rot: each can still be put in."""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "long"))

from faults import FAULTS, Fault  # noqa: E402  from the folder named above
from mutants import executed_with  # noqa: E402


@pytest.mark.parametrize("file", sorted({fault.file for fault in FAULTS}))
def test_the_text_of_every_fault_is_there_once_and_what_replaces_it_can_be_read(file: str) -> None:
    text = (ROOT / "vdvae_patch" / file).read_text()
    for fault in FAULTS:
        if fault.file == file:
            assert text.count(fault.old) == 1, fault
            assert fault.old != fault.new
            (tomllib.loads if file.endswith(".toml") else ast.parse)(text.replace(fault.old, fault.new))


def test_every_fault_is_listed_once_and_names_tests_that_exist() -> None:
    assert len({fault.key for fault in FAULTS}) == len(FAULTS) >= 150
    for fault in FAULTS:
        assert fault.tests, fault
        for test in fault.tests:
            assert (ROOT / test.partition("::")[0]).is_file(), test


def test_faults_are_of_every_part_of_the_package() -> None:
    parts = {fault.file.partition("/")[0].removesuffix(".py") for fault in FAULTS}
    assert parts >= {
        "scales", "normal", "conventions", "scanning", "patching", "attach", "saving", "guarding", "skips", "train",
        "data", "compare", "experiments", "decoders", "objectives", "top_priors", "cli", "benchmark",
    }  # fmt: skip


def test_a_fault_is_another_one_if_its_text_is() -> None:
    one = Fault("a.py", "x + 1", "x - 1", ("tests/unit/test_mutants.py",))
    assert one.key != Fault("a.py", "x + 1", "x", one.tests).key
    assert one.key != Fault("b.py", "x + 1", "x - 1", one.tests).key


def test_a_fault_is_executed_with_its_statement_its_function_or_its_file() -> None:
    text = """LIMIT = 3


def f(x, y=1):
    z = (
        x + y
    )
    if z > LIMIT:
        return z
    return 0
"""
    assert executed_with(text, "x + y") == range(5, 8)
    assert executed_with(text, "return 0") == range(10, 11)
    assert executed_with(text, "z > LIMIT") == range(8, 10)
    assert executed_with(text, "y=1") == range(5, 11)
    assert executed_with(text, "LIMIT = 3") == range(1, sys.maxsize)


def test_the_page_gives_the_counts_of_its_file_and_names_each_fault_that_is_not_noticed() -> None:
    page = (ROOT / "docs" / "results" / "mutants.md").read_text()
    verdicts = json.loads((ROOT / "docs" / "results" / "mutants.json").read_text())
    missed = [key for key, verdict in verdicts.items() if verdict["outcome"] != "noticed"]
    run = len(verdicts)
    assert f"**All {run} were run, {run - len(missed)} were noticed, {len(missed)} were not.**" in page
    assert len(missed) <= 0.05 * run
    assert all(key.partition(": ")[0] in page.partition("**Not noticed:**")[2] for key in missed)
    assert not any("dirty" in verdict["commit"] for verdict in verdicts.values())
