"""What a process is told of its machine, on Linux and on macOS."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import vdvae_patch.machine
from vdvae_patch.machine import cache_folder, peak_resident_bytes, usable_cores


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VDVAE_PATCH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("VDVAE_PATCH_CACHE", "~/there")
    assert cache_folder() == Path.home() / "there"
    monkeypatch.delenv("VDVAE_PATCH_CACHE")
    assert cache_folder().name == "vdvae_patch"


def test_the_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 6}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_peak_memory_is_in_bytes_whatever_the_system_counts_in(
    monkeypatch: pytest.MonkeyPatch, platform: str, unit: int
) -> None:
    def no_such_file(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", no_such_file)  # macOS has no /proc
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=5000))
    assert peak_resident_bytes() == 5000 * unit


def test_peak_memory_holds_what_was_allocated_also_when_it_is_given_back() -> None:
    block = bytearray(b"x") * 2**28
    held = peak_resident_bytes()
    assert 2**28 <= len(block) <= held < 2**40
    del block
    assert peak_resident_bytes() > 0.9 * held  # Linux counts pages in shares of each core


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count a program's memory from its own start")
def test_peak_memory_of_a_program_is_not_what_its_parent_held_when_it_started_it() -> None:
    block = bytearray(b"x") * 2**28
    machine = str(Path(vdvae_patch.machine.__file__))
    code = f"import runpy; print(runpy.run_path({machine!r})['peak_resident_bytes']())"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 2**20 < int(found) < len(block) / 2
