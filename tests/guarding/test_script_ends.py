"""How a guarded script ends: as Python ends it, with what was skipped in its log."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vdvae_patch
from vdvae_patch import cli
from vdvae_patch.cli import main
from vdvae_patch.skips.records import JsonLines

SCRIPT = """
import os, signal, sys
import torch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(6):
    optimizer.zero_grad()
    model(torch.full((2, 3), float("nan") if step in (1, 3) else 1.0)).sum().backward()
    optimizer.step()
"""


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """A shell gives what it starts in the background a SIGINT that is ignored, and Python leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ("os.kill(os.getpid(), signal.SIGINT)\nsignal.pause()", KeyboardInterrupt),
        ("open('/nowhere/x')", FileNotFoundError),
        ("raise MemoryError", MemoryError),
        ("import matplotlib.nothing", ModuleNotFoundError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_script_raises_is_its_own(
    end: str, kind: type[BaseException], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT + end)
    with pytest.raises(kind) as raised:
        main(["guard", "--out", str(tmp_path / "guard"), "--", "python", str(script)])
    assert Path(str(raised.traceback[-1].path)) == script or kind is ModuleNotFoundError
    lines = [json.loads(line) for line in (tmp_path / "guard" / "skips.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 3]
    said = capsys.readouterr().err
    assert "6 steps, 2 of them skipped" in said
    assert "vdvae-patch: error" not in said
    assert "interrupted" not in said


@pytest.mark.parametrize(("end", "status"), [("sys.exit(3)", 3), ("sys.exit('no')", 1), ("", 0)])
def test_its_exit_status_is_its_own(end: str, status: int, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT + end)
    with pytest.raises(SystemExit) as ended:
        main(["guard", "--", "python", str(script)])
    assert ended.value.code == status


def test_a_ctrl_c_while_a_skip_is_written_leaves_it_in_the_log_and_in_the_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    written = JsonLines.write

    def interrupted(log: JsonLines, record: Any) -> None:
        written(log, record)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(JsonLines, "write", interrupted)
    guard = vdvae_patch.guard(model, out=tmp_path / "guard", file=io.StringIO())
    model(torch.full((2, 3), torch.nan)).sum().backward()
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert len(guard.skips) == 1
    guard.remove()
    assert len((tmp_path / "guard" / "skips.jsonl").read_text().splitlines()) == 1


def test_an_interrupted_command_ends_by_the_signal_and_says_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(cli, "dispatch", lambda arguments: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        main(["doctor"])
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "vdvae-patch: interrupted\n"
