"""A run that is killed and resumed is, bit for bit, the run that was not."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from runs import Launched, assert_same_run, count_lines, finish, metrics, tiny

pytestmark = pytest.mark.medium

KILLS = 20


@dataclass
class Kills:
    """What the kills of a run met.

    Attributes:
        met: how many met a run that was at work, and not one that had ended.
        in_a_save: how many of them left half a checkpoint behind.
    """

    met: int = 0
    in_a_save: int = 0


def kill_and_resume(out: Path, ranks: int, kills: int, steps: int, seed: int, variant: str = "vanilla") -> Kills:
    """Kill a run `kills` times at random moments, every fourth time in the middle of a save, and let it end."""
    moments = random.Random(seed)
    config = tiny(out, steps=steps, variant=variant)
    counted = Kills()
    for number in range(kills):
        resume = replace(config, resume=(out / "config.toml").exists())
        launched = Launched(resume, ranks)
        if number % 4 == 3:
            launched.until(lambda: half_saved(out))
        else:
            # somewhere in this share of the run, and somewhere in that step
            goal = (number + moments.random()) * steps / kills
            launched.until(lambda goal=goal: count_lines(out / "metrics.jsonl") >= goal)
            time.sleep(0.02 * moments.random())
        launched.kill()
        counted.met += set(launched.wait()) == {-signal.SIGKILL}
        counted.in_a_save += half_saved(out)
    finish(replace(config, resume=(out / "config.toml").exists()), ranks)
    return counted


def half_saved(out: Path) -> bool:
    """Whether half a checkpoint lies in a run's folder."""
    return any((out / "checkpoints").glob(".partial-*"))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path, ranks: int) -> None:
    steps = 120
    finish(tiny(tmp_path / "undisturbed", steps=steps), ranks)
    counted = kill_and_resume(tmp_path / "killed", ranks, KILLS, steps, seed=ranks)
    assert counted.met == KILLS
    assert counted.in_a_save > 0
    assert_same_run(tmp_path / "undisturbed", tmp_path / "killed")
    assert [row["step"] for row in metrics(tmp_path / "killed")] == list(range(steps))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_kills_change_nothing_of_a_decoder_and_an_objective_with_states(tmp_path: Path, ranks: int) -> None:
    steps, variant = 60, "explin/constant+optimal+geco(kappa=0.06)"
    finish(tiny(tmp_path / "undisturbed", steps=steps, variant=variant), ranks)
    counted = kill_and_resume(tmp_path / "killed", ranks, 6, steps, seed=ranks, variant=variant)
    assert counted.met == 6
    assert_same_run(tmp_path / "undisturbed", tmp_path / "killed")
    rows = metrics(tmp_path / "killed")
    assert [row["step"] for row in rows] == list(range(steps))
    assert len({row["lambda"] for row in rows}) == steps
