"""A process that this one starts is of the same files, and what these are is in its record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import git
import pytest
from compare_samples import make_plan

import vdvae_patch
from vdvae_patch import own_process
from vdvae_patch.compare.alike import remarks
from vdvae_patch.gpu_bench.session import command_line
from vdvae_patch.train import provenance
from vdvae_patch.train.sessions import changes, last_process


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with another package of this name in it."""
    (tmp_path / "vdvae_patch").mkdir()
    (tmp_path / "vdvae_patch" / "__init__.py").write_text("print('of the current folder')\n")
    (tmp_path / "vdvae_patch" / "__main__.py").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_process_of_ours_is_of_our_files_and_not_of_those_in_the_current_folder(elsewhere: Path) -> None:
    done = subprocess.run(own_process.command("--version"), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"vdvae-patch {vdvae_patch.__version__}"


def test_a_process_that_looks_into_the_current_folder_starts_others_that_do(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout that is not installed is run there, by `python -m vdvae_patch`."""
    monkeypatch.setattr(sys, "path", [str(elsewhere), *sys.path])
    done = subprocess.run(own_process.command("--version"), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "of the current folder"


def test_runs_of_a_comparison_and_parts_of_the_bench_are_such_processes(elsewhere: Path) -> None:
    (run,) = make_plan(elsewhere / "out", "vanilla", "0").runs
    beginning = [sys.executable, "-P", "-m", "vdvae_patch"]
    assert run.command(resume=False)[:4] == beginning
    assert command_line([], elsewhere, "vanilla", 1.0)[:4] == beginning


def committed(folder: Path, monkeypatch: pytest.MonkeyPatch, project: str) -> Path:
    """A checkout of a project of that name, which the running package seems to lie in; the package."""
    package = folder / "vdvae_patch"
    package.mkdir()
    (package / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{project}"\n')
    with git.Repo.init(folder) as repository:
        repository.index.add([str(package / "__init__.py")])
        repository.index.commit("first")
    monkeypatch.setattr(provenance, "vdvae_patch", SimpleNamespace(__file__=str(package / "__init__.py")))
    return package


def test_the_commit_of_a_project_that_the_package_was_copied_into_is_not_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed(tmp_path, monkeypatch, "my-vae")
    assert provenance.code_commit() == "installed"
    (tmp_path / "pyproject.toml").unlink()
    assert provenance.code_commit() == "installed"


def test_files_of_ours_that_no_commit_has_are_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = committed(tmp_path, monkeypatch, "vdvae-patch")
    provenance.code_sources.cache_clear()
    first = provenance.code_sources()
    (tmp_path / "notes.py").touch()
    assert len(provenance.code_commit()) == 12
    (package / "scale.py").write_text("SIGMA = 1\n")
    assert provenance.code_commit().endswith("+")
    provenance.code_sources.cache_clear()
    assert provenance.code_sources() != first
    provenance.code_sources.cache_clear()


def test_other_files_of_one_commit_are_said() -> None:
    """Of a package that was installed there is no commit, and of a checkout with changes it says nothing of them."""
    runs = [("a", {"commit": "abc+", "sources": "12"}), ("b", {"commit": "abc+", "sources": "34"})]
    (line,) = remarks(runs)
    assert line.startswith("not all runs are of the same files of this package")
    (line,) = remarks([runs[0], ("b", {"commit": "def", "sources": "34"})])
    assert line.startswith("not all runs are of one commit")
    assert changes(runs[0][1], runs[1][1]) == ["sources 34 (was 12)"]
    assert changes(runs[0][1], {"commit": "def", "sources": "34"}) == ["commit def (was abc+)"]


def test_a_peak_of_memory_says_of_which_process_it_is() -> None:
    first = {"step": 0}
    assert last_process({"sessions": [first], "ranks": 1}) == last_process({}) == ""
    assert last_process({"sessions": [first, {"step": 40}], "ranks": 2}) == " (rank 0, from step 40 on)"


def test_runs_whose_speed_cannot_be_compared_are_said() -> None:
    first = {"machine": "Linux, 2 cores", "threads": 2, "ranks": 1}
    assert remarks([("a", first), ("b", first)]) == []
    for other, words in (({"machine": "Linux, 64 cores"}, "one machine"), ({"threads": 1}, "as many threads"),
                         ({"ranks": 2}, "as many processes")):  # fmt: skip
        (line,) = remarks([("a", first), ("b", first | other)])
        assert words in line
