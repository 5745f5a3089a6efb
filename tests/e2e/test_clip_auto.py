"""`--grad-clip auto` in whole runs: what they log, that they go on with the window that they had, and over ranks."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ranks_child
import runs
import torch
from runs import final_state, finish, metrics, tiny
from test_ranks import on_ranks

import vdvae_patch.train.step
from vdvae_patch.skips.records import decode
from vdvae_patch.skips.usual_norm import WARM_UP, UsualNorm
from vdvae_patch.train.folder import read_json
from vdvae_patch.train.loop import train

pytestmark = pytest.mark.medium

STEPS = WARM_UP + 14


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [decode(row) for row in metrics(out)]


@pytest.fixture(scope="module")
def threshold(tmp_path_factory: pytest.TempPathFactory) -> float:
    """A norm that an update in ten is not below."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("plain") / "run"
    train(tiny(out, steps=STEPS))
    return sorted(float(row["grad_norm"]) for row in metrics(out))[STEPS * 9 // 10]


def test_a_run_logs_what_it_clipped_at_and_its_summary_says_how_often(
    tmp_path: Path, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    near_the_median = partial(UsualNorm, multiple=1.01)  # where half of the steps are clipped, and not one in hundreds
    monkeypatch.setattr(vdvae_patch.train.step, "UsualNorm", near_the_median)
    out = tmp_path / "run"
    train(tiny(out, steps=STEPS, grad_clip="auto", skip_threshold=threshold))
    rows, usual, clipped = rows_of(out), near_the_median(), 0
    assert any(row["skipped"] for row in rows[:WARM_UP])
    for row in rows:
        assert row["clip"] == pytest.approx(usual.limit.item(), rel=1e-6)
        usual.add(torch.tensor(row["grad_norm"]), torch.tensor(not row["skipped"]))
        clipped += not row["skipped"] and row["grad_norm"] > row["clip"]
    assert clipped > 0
    summary = read_json(out / "summary.json")
    assert (summary["grad_clip"], summary["clipped_count"]) == ("auto", clipped)
    assert summary["last_clip"] == rows[-1]["clip"] < math.inf
    assert final_state(out)["usual_norm"]["count"] == sum(not row["skipped"] for row in rows)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resumed_run_has_the_window_that_it_had(tmp_path: Path, threshold: float, ranks: int) -> None:
    settings: dict[str, Any] = {"grad_clip": "auto", "skip_threshold": 2 * threshold}
    finish(tiny(tmp_path / "undisturbed", steps=STEPS, **settings), ranks)
    out = tmp_path / "run"
    finish(tiny(out, steps=WARM_UP + 4, **settings), ranks)
    finish(tiny(out, steps=STEPS, resume=True, **settings), ranks)
    runs.assert_same_run(tmp_path / "undisturbed", out)
    assert all(row["clip"] < math.inf for row in rows_of(out)[-10:])


def test_a_run_that_was_clipped_at_a_number_learns_the_usual_norm_when_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train(tiny(out, steps=3, grad_clip=50.0))
    train(tiny(out, steps=WARM_UP + 5, grad_clip="auto", resume=True))
    assert "step 3: resumed with grad_clip auto (was 50)" in capsys.readouterr().err
    clips = [row["clip"] for row in rows_of(out)]
    assert clips[:3] == [50.0] * 3
    assert clips[3 : 3 + WARM_UP] == [math.inf] * WARM_UP
    assert all(clip < math.inf for clip in clips[3 + WARM_UP :])


def test_all_ranks_clip_at_the_same_norm_and_keep_the_same_weights() -> None:
    first, second = on_ranks(ranks_child.clipped, 2, WARM_UP + 6)
    assert first["clips"] == second["clips"]
    assert all(clip < math.inf for clip in first["clips"][-6:])
    assert first["given"] == second["given"]
    assert first["given"][-1] == pytest.approx(first["clips"][-1], rel=1e-5)
    assert first["own"] != second["own"]  # the batches are other ones
    for mine, others in zip(first["weights"], second["weights"], strict=True):
        assert (mine == others).all()
