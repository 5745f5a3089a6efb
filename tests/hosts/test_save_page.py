"""The page "Save, load, deploy" runs as it stands, and prints what it says it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "save-load-deploy.md"


@pytest.mark.slow
def test_every_block_of_the_page_runs_and_prints_what_stands_below_it(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    blocks = re.findall(r"```python\n(.*?)```(?:\n```text\n(.*?)```)?", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "my_vae.py").write_text(blocks[0][0])
    shown = blocks[1:]
    assert all(output for _, output in shown)
    program = "\n".join(f"{code}\nprint('@@@@')" for code, _ in shown)
    (tmp_path / "page.py").write_text(program)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = [part.strip("\n") for part in done.stdout.split("@@@@\n")]
    for (_, expected), seen in zip(shown, printed, strict=False):
        assert _plain(seen) == _plain(expected)


def _plain(text: str) -> str:
    """Without spaces at the ends of lines; numbers to four digits: another processor adds up in another order."""
    lines = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    return re.sub(r"\d+\.\d+", lambda match: f"{float(match[0]):.4g}", lines)
