"""Of flips and cuts of every file of a run, none changes a number or drops a record without a word.

`tests/long/flips_and_cuts.py` does 1,200; here are a few of each.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "long"))

import flips_and_cuts

pytestmark = pytest.mark.medium


def test_nothing_is_changed_or_dropped_without_a_word(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    flips_and_cuts.make_run(tmp_path / "run")
    files = flips_and_cuts.targets(tmp_path / "run")
    names = {file.name for file in files}
    assert {*flips_and_cuts.LOGS, "config.toml", "summary.json", "state.pt", "manifest.json"} <= names
    done = flips_and_cuts.trials(tmp_path / "run", len(files), len(files), seed=1, work=tmp_path / "work")
    assert [trial for trial in done if trial.verdict == "silent"] == []
    noticed = Counter(trial.file for trial in done if trial.verdict == "noticed")
    for file in (*flips_and_cuts.LOGS, "config.toml", "summary.json"):
        assert noticed[file] == 2, file
