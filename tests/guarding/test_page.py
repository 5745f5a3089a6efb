"""docs/guard-your-loop.md: its blocks are one program, which prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import vdvae_patch

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "guard-your-loop.md").read_text()


def test_the_page_prints_what_it_says(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == PAGE.count("```python") >= 3
    (tmp_path / "page.py").write_text("\n".join(f"{code}\nprint('@@@@')" for code, _ in blocks))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    for (code, expected), seen in zip(blocks, done.stdout.split("@@@@\n"), strict=False):
        assert _rounded(seen) == _rounded(expected), code


def _rounded(text: str) -> str:
    """Numbers with two digits: a processor may round the last ones in another way."""
    return re.sub(r"-?\d+\.?\d*", lambda found: f"{float(found[0]):.2g}", text.strip("\n"))


def test_the_table_has_every_argument() -> None:
    import inspect

    for name in inspect.signature(vdvae_patch.guard).parameters:
        assert f"`{name}" in PAGE or f", {name}" in PAGE or name in ("model", "file", "optimizer", "diagnose"), name
