"""The page "Your own host, scale, convention, data set" runs as it stands: its files, commands, outputs and package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from vdvae_patch.scales import SCALES

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


class Block(NamedTuple):
    kind: str
    text: str
    output: str

    @property
    def file(self) -> str | None:
        """The file that the block is, by its first line."""
        match = re.match(r"# ([\w.]+\.(?:py|toml))\n", self.text)
        return match and match[1]


BLOCKS = [
    Block(*parts)
    for parts in re.findall(
        r"```(python|bash|toml)\n(.*?)```(?:\n```text\n(.*?)```)?", PAGE.read_text(), flags=re.DOTALL
    )
]
FILES = {block.file: block.text for block in BLOCKS if block.file}
SCRIPTS = [block for block in BLOCKS if block.kind == "python" and not block.file]
COMMANDS = [line for block in BLOCKS if block.kind == "bash" for line in block.text.splitlines()]
INSTALLED = [line for line in COMMANDS if "runs/installed" in line]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the page in one folder."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(command: Sequence[str], folder: Path, **variables: str) -> str:
    """Run a command as a user would who has this environment's programs, and give what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path} | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def summary(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return loaded


def settings(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "config.toml").read_text())


def test_the_page_has_one_of_each() -> None:
    assert set(FILES) == {
        "my_vae.py",
        "my_host.py",
        "my_data.py",
        "my_scales.py",
        "my_conventions.py",
        "pyproject.toml",
    }
    assert all(script.output for script in SCRIPTS)
    assert (len(SCRIPTS), len(COMMANDS), len(INSTALLED)) == (3, 4, 1)


@pytest.mark.parametrize("script", SCRIPTS, ids=["host", "scale", "convention"])
def test_a_script_prints_what_stands_below_it(script: Block, folder: Path) -> None:
    (folder / "script.py").write_text(script.text)
    assert run([sys.executable, "script.py"], folder).split() == script.output.split()


@pytest.mark.slow
def test_the_commands_train_and_compare_the_host_of_the_file(folder: Path) -> None:
    for command in COMMANDS:
        if command not in INSTALLED:
            run(["bash", "-c", command], folder)
    one, dots = settings(folder / "runs" / "one"), settings(folder / "runs" / "dots")
    assert (one["host"], one["preset"], one["variant"], one["architecture"]) == (
        "my_host",
        "small",
        "upbounded",
        {"latents": 3},
    )
    assert (one["run"]["host"]["kind"], one["run"]["host"]["path"]) == ("checkout", str(folder.resolve()))
    assert summary(folder / "runs" / "one")["steps"] == 20
    assert "entry_disagrees" not in summary(folder / "runs" / "one")
    assert dots["data"] == "dots(train=64, seed=1)"
    assert dots["run"]["data"]["train_count"] == 64
    report = (folder / "runs" / "both" / "report.md").read_text()
    assert all(variant in report for variant in ("vanilla", "upbounded"))
    assert {p.parent.name for p in (folder / "runs" / "both").glob("*/summary.json")} == {
        "vanilla-seed0",
        "upbounded-seed0",
    }


@pytest.mark.slow
def test_the_package_is_installed_and_found_by_its_entry_points(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--target", str(site)]
    run([sys.executable, "-m", "pip", "install", *options, "."], folder)
    (command,) = INSTALLED
    run(["bash", "-c", command], elsewhere, PYTHONPATH=str(site))
    found = settings(elsewhere / "runs" / "installed")
    assert (found["host"], found["data"], found["variant"]) == ("my_host", "dots", "squareplus")
    assert found["run"]["host"]["path"] == str(site.resolve())
    assert summary(elsewhere / "runs" / "installed")["steps"] == 5
    code = "from vdvae_patch import conventions; print(conventions.get('log_precision'))"
    assert run([sys.executable, "-c", code], elsewhere, PYTHONPATH=str(site)) == "log_precision\n"


def test_the_scale_of_the_page_is_one() -> None:
    try:
        exec(compile(FILES["my_scales.py"], "my_scales.py", "exec"), {"__name__": "my_scales"})
        scale = SCALES.get("squareplus")
        p = torch.linspace(-1e4, 1e4, 2001, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(scale.sigma(p).log(), scale.log_sigma(p))
        exact = 1 / torch.sqrt(p * p + 4)
        torch.testing.assert_close(torch.autograd.grad(scale.log_sigma(p).sum(), p)[0], exact)
        near = torch.linspace(-3, 3, 13, dtype=torch.float64)
        torch.testing.assert_close(scale.inverse(scale.sigma(near)), near)
        assert scale.sigma(torch.tensor([-3e38, 3e38])).isfinite().all()
    finally:
        SCALES._classes.pop("squareplus", None)
