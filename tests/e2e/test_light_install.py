"""The library half needs torch and numpy alone: patch, scan, stabilize, guard, source, scales and normal."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vdvae_patch

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "my-vae-gives-nan.md").read_text()


def _needed(name: str, found: set[str]) -> set[str]:
    """A distribution and what it requires, without extras."""
    if name.lower() in found:
        return found
    try:
        requires = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return found  # for another platform
    found.add(name.lower())
    for requirement in requires:
        if "extra ==" not in requirement:
            _needed(re.split(r"[^\w.-]", requirement, maxsplit=1)[0], found)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that has torch, numpy, what these require, and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    for name in sorted(_needed("torch", set()) | _needed("numpy", set())):
        for file in importlib.metadata.files(name) or []:
            top = file.parts[0]
            source = Path(str(file.locate())).parents[len(file.parts) - 2] if len(file.parts) > 1 else file.locate()
            link = folder / top
            if top not in ("..", "bin", "__pycache__") and not link.exists():
                link.symlink_to(Path(str(source)))
    (folder / "vdvae_patch").symlink_to(Path(vdvae_patch.__file__).parent)
    return folder


def _run(program: str, packages: Path, folder: Path) -> str:
    (folder / "program.py").write_text(f"import sys\nsys.path[:0] = [{str(packages)!r}, {str(folder)!r}]\n{program}")
    environment = {"OMP_NUM_THREADS": "1", "HOME": str(folder), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "program.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_nothing_else(alone: Path, tmp_path: Path) -> None:
    program = """
import importlib.util
names = ("imageio", "tyro", "rich", "matplotlib", "safetensors", "pooch", "PIL", "git", "mpi4py")
print([name for name in names if importlib.util.find_spec(name)])
"""
    assert _run(program, alone, tmp_path).strip() == "[]"


def test_a_model_that_gives_nan_is_cured_there(alone: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```(?:\n```text\n(.*?)```)?", PAGE, flags=re.DOTALL)
    (tmp_path / "my_vae.py").write_text(blocks[0][0])
    shown = [(code, output) for code, output in blocks[1:] if output]
    printed = _run("\n".join(f"{code}\nprint('@@@@')" for code, _ in shown), alone, tmp_path)
    for (_, told), seen in zip(shown, printed.split("@@@@\n"), strict=False):
        assert _rounded(seen.strip("\n")) == _rounded(told.strip("\n"))


def test_a_loop_is_guarded_and_the_lines_are_written_there(alone: Path, tmp_path: Path) -> None:
    (tmp_path / "my_vae.py").write_text(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0])
    program = """
import torch
import vdvae_patch
from my_vae import VAE

torch.manual_seed(0)
model, batch = VAE(), torch.randn(16, 8)
optimizer = torch.optim.Adam(model.parameters())
with vdvae_patch.guard(model, out="guard") as guard:
    for step in range(2):
        optimizer.zero_grad()
        model.encoder[-1].bias.data[4:] = 0.0 if step else -55.0
        model(batch).backward()
        optimizer.step()
print(guard.report())
heads = vdvae_patch.scan(model, batch)
handle = vdvae_patch.patch(model, "explin", heads=heads)
print(handle.to_json())
print(vdvae_patch.source(model))
print(vdvae_patch.scales.get("bounded(0.1, 2)").sigma(torch.zeros(1)))
"""
    printed = _run(program, alone, tmp_path)
    assert "2 steps, 1 of them skipped" in printed
    assert '"explin"' in printed
    assert "def stable_posterior_log_sigma" in printed
    assert (tmp_path / "guard" / "skips.jsonl").exists()


def test_what_needs_more_says_what(alone: Path, tmp_path: Path) -> None:
    (tmp_path / "my_vae.py").write_text(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0])
    program = """
import torch
import vdvae_patch
from my_vae import VAE

model, batch = VAE(), torch.randn(16, 8)
vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, batch))
try:
    vdvae_patch.save(model, "folder")
except Exception as error:
    print(type(error).__name__, error)
"""
    assert "safetensors" in _run(program, alone, tmp_path)


@pytest.mark.parametrize("command", ["train", "compare", "demo", "reproduce table1", "upstream list"])
def test_a_command_that_needs_more_says_so_in_one_line(alone: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "my_vae.py").write_text(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0])
    program = f"""
from vdvae_patch.cli import main

sys.stderr = sys.stdout
try:
    main({command.split()!r})
except SystemExit as end:
    print("status", end.code)
"""
    *said, status = _run(program, alone, tmp_path).strip().splitlines()
    assert status == "status 2"
    assert len(said) == 1
    assert "which is not installed: pip install vdvae-patch" in said[0]


def test_the_commands_for_a_model_of_ones_own_work(alone: Path, tmp_path: Path) -> None:
    (tmp_path / "my_vae.py").write_text(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0])
    program = """
from vdvae_patch.cli import main

main("scan my_vae:VAE --input 16x8 --path . --patch explin".split())
"""
    assert "patched as explin" in _run(program, alone, tmp_path)


def test_doctor_names_all_that_is_missing(alone: Path, tmp_path: Path) -> None:
    program = """
from vdvae_patch.cli import main

try:
    main(["doctor", "--no-training"])
except SystemExit as end:
    print("status", end.code)
"""
    said = _run(program, alone, tmp_path)
    assert "OK    torch: " in said
    assert "if you need it: pip install 'vdvae-patch[hosts]'" in said
    assert "Traceback" not in said


def _rounded(text: str) -> str:
    """Numbers to four digits: another processor adds up in another order."""
    return re.sub(r"\d+\.\d+", lambda match: f"{float(match[0]):.4g}", text)
