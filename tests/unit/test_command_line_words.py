"""What the command line says to somebody who uses it for the first time, and forgets a part of a command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vdvae_patch.cli import dispatch, guard, report, scan
from vdvae_patch.errors import HostError, InvalidValueError

_MODEL = """
import torch


class VAE(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(8, 8)

    def forward(self, x):
        mean, log_sigma = self.encoder(x).chunk(2, dim=1)
        return mean + log_sigma.exp() * torch.randn_like(mean)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that no entry of Python's path names, as a console script has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    return tmp_path


def test_a_scan_finds_a_model_in_the_current_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "vae_in_the_current_folder.py").write_text(_MODEL)
    assert scan.run(["vae_in_the_current_folder:VAE", "--input", "4x8"]) == 0
    assert "encoder" in capsys.readouterr().out


def test_a_model_that_is_nowhere_is_said_with_where_it_was_looked_for(here: Path) -> None:
    with pytest.raises(HostError, match=r"tried elsewhere, the current folder, .*name its folder with --path"):
        scan.run(["no_such_module:VAE", "--input", "4x8", "--path", "elsewhere"])


def test_a_guarded_script_without_the_two_dashes_is_shown_with_them(here: Path) -> None:
    (here / "train.py").write_text("")
    with pytest.raises(InvalidValueError, match=r"vdvae-patch guard \[options\] -- python train.py"):
        guard.run(["python", "train.py"])
    with pytest.raises(InvalidValueError, match=r"vdvae-patch guard \[options\] -- train.py"):
        guard.run(["--policy", "heal", "train.py"])


def test_an_option_that_guard_does_not_have_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        guard.run(["--polizy", "heal", "--", "python", "train.py"])
    assert "--polizy" in capsys.readouterr().err


def test_a_missing_subcommand_is_asked_for_in_one_sentence() -> None:
    from vdvae_patch.cli import upstream

    with pytest.raises(InvalidValueError, match=r"which subcommand\? Expected one of .*fetch"):
        upstream.run([])


def test_named_folders_come_before_the_current_one() -> None:
    before = sys.path[:]
    try:
        scan.import_from(["first"])
        assert sys.path[:2] == [str(Path("first").resolve()), str(Path.cwd())]
    finally:
        sys.path[:] = before


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (
            ["~/runs/a", "--out", "~/b c", "--out=~/d", "~"],
            ["HOME/runs/a", "--out", "HOME/b c", "--out=HOME/d", "HOME"],
        ),
        (["a~/b", "--seed=~1", "~name/x", "./~/x"], ["a~/b", "--seed=~1", "~name/x", "./~/x"]),
        (["--out=~/g", "--", "python", "~/train.py"], ["--out=HOME/g", "--", "python", "~/train.py"]),
    ],
)
def test_a_tilde_that_the_shell_has_left_is_the_home_folder(
    words: list[str], given: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    seen: list[list[str]] = []

    def run(argv: list[str]) -> int:
        seen.append(argv)
        return 0

    monkeypatch.setattr(report, "run", run)
    assert dispatch(["report", *words]) == 0
    assert seen == [[word.replace("HOME", str(tmp_path)) for word in given]]
