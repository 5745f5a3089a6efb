"""docs/decoders-and-objectives.md: its blocks are one program, which prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vdvae_patch.decoders import DECODERS
from vdvae_patch.objectives import OBJECTIVES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "decoders-and-objectives.md").read_text()


@pytest.mark.slow
def test_the_page_prints_what_it_says(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == PAGE.count("```python") >= 6
    (tmp_path / "page.py").write_text("\n".join(f"{code}\nprint('@@@@')" for code, _ in blocks))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    for (code, expected), seen in zip(blocks, done.stdout.split("@@@@\n"), strict=False):
        assert seen.strip("\n") == expected.strip("\n"), code


def test_every_decoder_and_objective_is_in_its_table() -> None:
    for name in (*DECODERS, *OBJECTIVES):
        assert re.search(rf"^\| `{name}[`(]", PAGE, flags=re.MULTILINE), name


def test_the_forms_in_the_tables_are_those_that_can_be_written() -> None:
    for registry in (DECODERS, OBJECTIVES):
        for name in registry:
            form = re.search(rf"^\| `({name}[^`]*)`", PAGE, flags=re.MULTILINE)
            assert form is not None
            if "..." not in form[1]:
                registry.get(form[1])
