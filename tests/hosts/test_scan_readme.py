"""The scan's README follows one model through every pass, and prints what it says it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from vdvae_patch import scanning

PACKAGE = Path(scanning.__file__).parent
TEXT = (PACKAGE / "README.md").read_text()


def test_every_output_in_the_readme_is_what_its_code_prints(tmp_path: Path) -> None:
    model, *rest = re.findall(r"```python\n(.*?)```(?:\n```text\n(.*?)```)?", TEXT, flags=re.DOTALL)
    (tmp_path / "small_vae.py").write_text(model[0].removeprefix("# small_vae.py\n"))
    assert len(rest) > 10
    assert all(output for _, output in rest)
    (tmp_path / "page.py").write_text("\n".join(f"{code}\nprint('@@@@')" for code, _ in rest))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    printed = [part.strip("\n") for part in done.stdout.split("@@@@\n")]
    for (code, expected), seen in zip(rest, printed, strict=False):
        assert seen == expected.strip("\n"), code


def test_every_file_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"[\w/]+\.py\b", TEXT)) - {"small_vae.py"}
    root = Path(__file__).parents[2]
    assert [name for name in named if not (PACKAGE / name).exists() and not (root / name).exists()] == []


def test_every_function_that_the_readme_sends_to_is_there() -> None:
    for module, name in re.findall(r"`(chain|readings|cuts|emission|roles|agreement)\.(?!py\b)(\w+)`", TEXT):
        (file,) = PACKAGE.rglob(f"{module}.py")
        assert re.search(rf"^(def )?{name}\b", file.read_text(), flags=re.MULTILINE), name
