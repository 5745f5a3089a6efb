"""A run that is killed and resumed is, bit for bit, the run that was not."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from runs import Launched, assert_same_run, count_lines, finish, metrics, tiny

KILLS = 20


def kill_and_resume(out: Path, ranks: int, kills: int, steps: int, seed: int) -> int:
    """Kill a run `kills` times at random moments, every fourth time in the middle of a save; how many were such."""
    moments = random.Random(seed)
    config = tiny(out, steps=steps)
    in_a_save = 0
    for number in range(kills):
        resume = replace(config, resume=(out / "config.toml").exists())
        launched = Launched(resume, ranks)
        if number % 4 == 3:
            saving = launched.until(lambda: any((out / "checkpoints").glob(".partial-*")))
            in_a_save += saving
        else:
            # somewhere in this share of the run, and somewhere in that step
            goal = (number + moments.random()) * steps / kills
            launched.until(lambda goal=goal: count_lines(out / "metrics.jsonl") >= goal)
            time.sleep(0.02 * moments.random())
        launched.kill()
        launched.wait()
    finish(replace(config, resume=(out / "config.toml").exists()), ranks)
    return in_a_save


@pytest.mark.parametrize("ranks", [1, 2])
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path, ranks: int) -> None:
    steps = 120
    finish(tiny(tmp_path / "undisturbed", steps=steps), ranks)
    in_a_save = kill_and_resume(tmp_path / "killed", ranks, KILLS, steps, seed=ranks)
    assert in_a_save > 0
    assert_same_run(tmp_path / "undisturbed", tmp_path / "killed")
    assert [row["step"] for row in metrics(tmp_path / "killed")] == list(range(steps))
