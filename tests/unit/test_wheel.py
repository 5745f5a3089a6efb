"""What a wheel holds, and that it works where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"vdvae_patch": "vdvae_patch", "upstream": "vdvae_patch/upstream"}
ROOMS |= {"patches": "vdvae_patch/patches", "launch": "vdvae_patch/launch"}
PACKAGED = (".py", ".toml", ".sbatch", ".typed", ".html", ".css", ".js")


def output_of(command: list[str], folder: Path) -> str:
    """Of a process that knows of no other place to import from."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in a copy: setuptools leaves a folder `build`, and would put what it finds in an old one into the wheel."""
    pytest.importorskip("setuptools", minversion="77")
    source, into = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for room in (*ROOMS, "tests"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index"]
    output_of([*command, "--quiet", "--wheel-dir", str(into)], source)
    (built,) = into.iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing but the wheel, which sees torch and the rest where this process has them."""
    folder = tmp_path_factory.mktemp("environment")
    output_of([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    output_of([*pip, str(wheel)], folder)
    packages = output_of([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    # a path in a .pth file is searched last, and .pth files that lie there, such as an editable install's, do not count
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(packages) / "others.pth").write_text("".join(f"{path}\n" for path in sorted(others)))
    return folder


@pytest.mark.slow
def test_a_wheel_holds_every_file_of_the_four_rooms_under_one_name_and_no_test(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        f"{inside}/{path.relative_to(ROOT / room)}"
        for room, inside in ROOMS.items()
        for path in (ROOT / room).rglob("*")
        if path.suffix in PACKAGED
    }
    assert held == expected
    assert {Path(name).suffix for name in held if name.startswith("vdvae_patch/launch/")} == {".py", ".toml", ".sbatch"}


@pytest.mark.slow
def test_an_installed_package_trains_from_any_folder(environment: Path, tmp_path: Path) -> None:
    command = str(environment / "bin" / "vdvae-patch")
    rooms = "vdvae_patch", "vdvae_patch.launch", "vdvae_patch.patches", "vdvae_patch.upstream.vdvae.vae"
    where = f"from importlib.util import find_spec\nfor room in {rooms}: print(find_spec(room).origin)"
    for file in output_of([str(environment / "bin" / "python"), "-c", where], tmp_path).split():
        assert environment in Path(file).parents, file
    assert "usage: vdvae-patch COMMAND" in output_of([command, "--help"], tmp_path)
    assert "table4" in output_of([command, "launch", "--help"], tmp_path)
    train = [command, "train", "--preset", "demo", "--steps", "2", "--test-images", "2", "--out", "run"]
    assert "run folder: run" in output_of([*train, "--variant", "explin/constant"], tmp_path)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert 'commit = "installed"' in (tmp_path / "run" / "config.toml").read_text()
