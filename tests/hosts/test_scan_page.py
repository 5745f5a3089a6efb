"""The page "My VAE gives NaN" runs as it stands, and prints what it says it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "my-vae-gives-nan.md"


def test_every_output_on_the_page_is_what_its_code_prints(tmp_path: Path) -> None:
    text = PAGE.read_text()
    blocks = re.findall(r"```python\n(.*?)```(?:\n```text\n(.*?)```)?", text, flags=re.DOTALL)
    (tmp_path / "my_vae.py").write_text(blocks[0][0])
    shown = [(code, output) for code, output in blocks[1:] if output]
    assert len(shown) == 4
    program = "\n".join(f"{code}\nprint('@@@@')" for code, _ in shown)
    (tmp_path / "page.py").write_text(program)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    printed = [part.strip("\n") for part in done.stdout.split("@@@@\n")]
    for (_, expected), seen in zip(shown, printed, strict=False):
        assert _rounded(seen) == _rounded(expected.strip("\n"))


def _rounded(text: str) -> str:
    """Numbers to four digits: another processor adds up in another order."""
    return re.sub(r"\d+\.\d+", lambda match: f"{float(match[0]):.4g}", text)
