"""The published runs as commands: each can be given as it is printed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from vdvae_patch.launch.presets import presets

from vdvae_patch.cli import train
from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.errors import InvalidValueError


@pytest.mark.parametrize("more", [(), ("--steps", "3"), ("--steps=3",), ("--epochs", "2"), ("--lr", "1e-3")])
def test_every_command_is_one_that_train_takes(more: tuple[str, ...]) -> None:
    for item in presets().values():
        commands = list(item.commands(more))[::7]
        told = [parse_train(command) for command in commands]
        assert len({run.folder for run in told}) == len(commands)
        in_steps = "--steps" in " ".join(more)
        assert all(run.steps == 3 and run.epochs is None if in_steps else run.epochs for run in told)


@pytest.mark.parametrize("more", [("--out", "x"), ("--seed=1",), ("--variant", "explin")])
def test_what_the_runs_differ_in_is_not_taken_for_all_of_them(more: tuple[str, ...]) -> None:
    with pytest.raises(InvalidValueError, match=f"gives {more[0].partition('=')[0]} to each of its 18 runs"):
        list(presets()["table4"].commands(more))


def test_a_second_run_of_several_ranks_in_one_process_has_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook; the mark of the ranks that were started was left behind, and the second was one rank alone."""
    started: list[tuple[int, str | None]] = []

    def start(arguments: Sequence[str], nproc: int, folder: Path) -> int:
        started.append((nproc, os.environ.get("VDVAE_PATCH_STARTED_RANKS")))
        return 0

    monkeypatch.setattr(train, "start_ranks", start)
    for name in ("one", "two"):
        assert train.run(["--preset", "demo", "--nproc", "3", "--out", str(tmp_path / name)]) == 0
    assert started == [(3, "3"), (3, "3")]
