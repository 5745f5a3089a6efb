"""`doctor` says what is here and what is missing, and its exit status says whether something fails."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from vdvae_patch import doctor
from vdvae_patch.cli import doctor as command
from vdvae_patch.doctor import CHECKS, Finding, Places, findings


def _found(places: Places | None = None) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings(places or Places())}


def test_a_machine_that_runs_the_tests_is_ready(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.run(["--out", str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    assert "OK    torch: " in printed
    assert "3 checkpoints of cifar10 take 1.9 GB" in printed  # 39 million parameters
    training = next(line for line in printed.splitlines() if line.startswith("OK    training on cpu"))
    losses = [float(word) for word in training.partition("NELBO ")[2].removesuffix(" nats per dimension").split(", ")]
    assert len(losses) == 3
    assert all(5 < loss < 7 for loss in losses)
    assert printed.splitlines()[-1].startswith("0 failed, ")


def test_the_document_has_what_the_lines_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(["--json", "--no-training"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in document] == [finding.name for finding in findings(Places())]
    assert {tuple(entry) for entry in document} == {("name", "status", "found", "mend")}


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on() -> None:
    def _wonky_driver(places: Places) -> Iterator[Finding]:
        raise RuntimeError("the driver answers nothing\nsecond line")
        yield

    first, *rest = findings(Places(), (_wonky_driver, *CHECKS[:1]))
    assert (first.name, first.status) == ("wonky driver", "fail")
    assert first.found == "RuntimeError: the driver answers nothing"
    assert [finding.name for finding in rest] == ["Python"]


def test_a_missing_and_an_old_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: {"imageio": None, "rich": "1.0"}.get(name, version(name)))
    found = _found()["required packages"]
    assert found.status == "fail"
    assert "imageio>=2.34 (not installed)" in found.found
    assert "rich>=13.7 (is 1.0)" in found.found
    assert found.mend.startswith("pip install vdvae-patch, for train")
    assert "stabilize and guard need torch 2.4 and numpy alone" in found.mend


def test_an_optional_package_that_is_missing_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "pythae" else version(name))
    found = _found()["optional: hosts"]
    assert (found.status, found.mend) == ("note", "pip install 'vdvae-patch[hosts]'")
    assert "pythae not installed" in found.found


def test_a_full_disk_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    assert command.run(["--no-training"]) == 1
    printed = capsys.readouterr().out
    assert "FAIL  disk: 1.0 GB free" in printed
    assert "to mend: du -sh" in printed


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_fails(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert _found(Places(out=tmp_path / "runs"))["disk"].status == "fail"


def test_variables_that_a_launcher_left_behind_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    found = _found()["launcher"]
    assert found.status == "fail"
    assert "WORLD_SIZE" in found.found
    assert found.mend.startswith("unset RANK")


def test_data_that_is_named_and_not_there_says_why(tmp_path: Path) -> None:
    found = _found(Places(data_root=tmp_path))["data cifar10"]
    assert found.status == "note"
    assert str(tmp_path) in found.found
    assert "--data-root" in found.mend


@pytest.mark.parametrize(
    ("requirement", "version", "fits"),
    [
        ("torch>=2.10", "2.13.0+cpu", True),
        ("torch>=2.10", "2.9.1", False),
        ("rich", "1", True),
        ("a>=1,<2", "1.0", True),
    ],
)
def test_versions_are_compared_by_their_numbers(requirement: str, version: str, fits: bool) -> None:
    assert doctor._fits(requirement, version) is fits
