"""Completion knows every command and the flags that its help lists."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from vdvae_patch.cli import commands
from vdvae_patch.cli.completion import run
from vdvae_patch.errors import UnknownNameError


def _script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run([shell]) == 0
    return capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_subcommands_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    script = _script("bash", capsys)

    def completed(*words: str) -> set[str]:
        line = f'COMP_WORDS=({" ".join(words)!s}); COMP_CWORD={len(words) - 1}; _vdvae_patch; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", f"{script}\n{line}"], capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    assert completed("vdvae-patch", "re") == {"replay", "reproduce"} | {c for c in commands() if c.startswith("rep")}
    assert "table1" in completed("vdvae-patch", "reproduce", "ta")
    assert completed("vdvae-patch", "train", "--grad-c") == {"--grad-clip"}
    assert completed("vdvae-patch", "compare", "--grad-c") == {"--grad-clip"}  # a flag of train's
    assert completed("vdvae-patch", "demo", "--see") == {"--seed", "--seeds"}
    assert completed("vdvae-patch", "train", "a") == set()  # a choice of one flag's is no word of its own


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_get_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = _script(shell, capsys)
    assert all(name in script for name in commands())
    assert "grad-clip" in script
    binary = shutil.which(shell)
    if binary is not None:
        subprocess.run([binary, "--no-execute", "-c", script], check=True, timeout=60)


def test_another_shell_is_named() -> None:
    with pytest.raises(UnknownNameError, match="tcsh"):
        run(["tcsh"])
