"""A terminal without σ, a machine without git, flags of ours or without effect: what is meant is done and said."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.cli import main
from vdvae_patch.errors import tell
from vdvae_patch.train.provenance import code_commit


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        mean, logvar = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        return ((self.decoder(z) - x) ** 2).sum(1).mean() + 0.5 * (mean**2 + logvar.exp() - logvar - 1).sum(1).mean()


def ascii_file() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


def written(file: io.TextIOWrapper) -> str:
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    return file.buffer.getvalue().decode("ascii")


def test_what_an_encoding_lacks_is_escaped() -> None:
    file = ascii_file()
    tell("log σ", file)
    assert written(file) == "log \\u03c3\n"
    plain = io.StringIO()
    tell("log σ", plain)
    assert plain.getvalue() == "log σ\n"


def test_stabilize_and_guard_say_all_of_it_to_a_file_in_ascii() -> None:
    """A guard that could not print its line said nothing at all, and stabilize raised behind the patch."""
    torch.manual_seed(0)
    model, file = VAE(), ascii_file()
    vdvae_patch.stabilize(model, torch.randn(4, 4), file=file)
    assert "\\u03c3" in written(file)
    other, file = VAE(), ascii_file()
    optimizer = torch.optim.SGD(other.parameters(), 1e-3)
    with vdvae_patch.guard(other, file=file):
        other(1e4 * torch.randn(4, 4)).backward()
        optimizer.step()
    assert "\\u03c3" in written(file)


def test_a_command_says_what_it_found_where_there_is_no_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    file = ascii_file()
    monkeypatch.setattr(sys, "stdout", file)
    with pytest.raises(SystemExit) as stop:
        main(["scan", f"{__name__}:VAE", "--input", "4x4"])
    assert stop.value.code == 0
    assert "\\u03c3" in written(file)


def test_without_git_the_commit_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """GitPython refuses to be imported there."""
    monkeypatch.setitem(sys.modules, "git", None)
    assert code_commit() in ("unknown", "installed")


def test_a_checkout_of_another_user_is_no_broken_pipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git itself asks for this variable
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert code_commit() in ("unknown", "installed")


@pytest.mark.parametrize(("read", "status"), [(False, 141), (True, 2)])
def test_a_pipe_that_broke_is_silent_only_where_it_is_our_own(read: bool, status: int) -> None:
    broken = (
        "import os, sys\n"
        "from vdvae_patch import cli\n"
        "def dispatch(arguments): raise BrokenPipeError(32, 'Broken pipe')\n"
        "cli.dispatch = dispatch\n"
        "sys.stdin.read()\n"
        "cli.main([])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", broken], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    if not read:
        process.stdout.close()
    process.stdin.close()
    said = process.stderr.read().decode()
    assert process.wait() == status
    assert ("Broken pipe" in said) == read


def test_a_script_keeps_a_flag_that_is_called_as_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text("import sys\nprint(sys.argv[1:])\n")
    with pytest.raises(SystemExit) as stop:
        main(["guard", "--", "python", str(script), "--debug", "--lr", "1"])
    assert stop.value.code == 0
    assert "['--debug', '--lr', '1']" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "--batches", "nan"], "--batches means nothing without --gpu"),
        (["bench", "--seconds=3"], "--seconds means nothing without --gpu"),
        (["bench", "--guard", "--counts"], "--guard and --counts each measure something else instead"),
        (["bench", "--nproc", "2"], "--nproc means nothing here; --scaling measures one process and two"),
        (["bench", "--scaling", "--nproc=4"], "--nproc means nothing here"),
        (["bench", "--guard", "--objective", "beta(beta=2)"], "+beta(beta=2) means nothing with --guard"),
        (["bench", "--dry_run"], "--dry-run means nothing here"),
        (["bench", "--plain", "--guard"], "--plain means nothing with --guard"),
        (["bench", "--processor", "--scaling"], "--processor means nothing with --scaling"),
        (["bench", "--guard", "--variants=explin"], "--variants means nothing with --guard"),
        (["bench", "--scaling", "--rounds=3"], "--rounds means nothing with --scaling"),
        (["replay", "run", "--limit", "nan"], "--limit must be a positive number, or inf, not nan"),
        (["replay", "run", "--limit=-1"], "--limit must be a positive number, or inf, not -1"),
    ],
)
def test_a_flag_that_would_change_nothing_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
