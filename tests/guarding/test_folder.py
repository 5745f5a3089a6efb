"""A guard's folder shows what that guard wrote: what is of another one, renamed or copied is said, and counted once."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.cli import dispatch
from vdvae_patch.guarding.everything import Everything
from vdvae_patch.guarding.folder import identity
from vdvae_patch.report.guards import GuardData, read_guard


class VAE(nn.Module):
    """Gives its loss, which is infinite for large x."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        mean, logvar = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        return ((self.decoder(z) - x) ** 2).mean() + (mean**2 + logvar.exp() - logvar).mean()


def train(out: Path, seed: int, skipped: int) -> str:
    torch.manual_seed(seed)
    model = VAE()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    said = io.StringIO()
    with vdvae_patch.guard(model, out=out, keep=2, diagnose=False, file=said):
        for scale in [1.0] * (2 + seed) + [1e4] * skipped:
            optimizer.zero_grad()
            model(scale * torch.randn(4, 4)).backward()
            optimizer.step()
    return said.getvalue()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of one class of model, with three skips each, two of them recorded."""
    folder = tmp_path_factory.mktemp("two")
    for seed in (0, 1):
        train(folder / str(seed), seed, 3)
    return folder / "0", folder / "1"


def concatenated(own: Path, other: Path) -> None:
    log = own / "skips.jsonl"
    log.write_text(log.read_text() + (other / "skips.jsonl").read_text())


def exchanged(own: Path, other: Path) -> None:
    shutil.rmtree(own / "skip-0001")
    shutil.copytree(other / "skip-0001", own / "skip-0001")


def added(own: Path, other: Path) -> None:
    shutil.copytree(other / "skip-0001", own / "skip-0009")


def copied(own: Path, other: Path) -> None:
    shutil.copytree(own / "skip-0001", own / "skip-0009")


def renamed(own: Path, other: Path) -> None:
    (own / "skip-0001").rename(own / "skip-0009")


def permuted(own: Path, other: Path) -> None:
    (own / "skip-0001").rename(own / "aside")
    (own / "skip-0002").rename(own / "skip-0001")
    (own / "aside").rename(own / "skip-0002")


def shown(two: tuple[Path, Path], tmp_path: Path, harm: Callable[[Path, Path], None]) -> GuardData:
    own = tmp_path / "guard"
    shutil.copytree(two[0], own)
    harm(own, two[1])
    return read_guard(own)


def test_a_folder_as_it_was_written_has_nothing_to_say(two: tuple[Path, Path], tmp_path: Path) -> None:
    found = shown(two, tmp_path, lambda own, other: None)
    assert [(skip.step, skip.recorded) for skip in found.skips] == [(2, 1), (3, 2), (4, 0)]
    assert found.problems == ("1 of 3 skips were not recorded: a guard keeps the first few (keep=, else 5)",)


@pytest.mark.parametrize(
    ("harm", "said", "recorded"),
    [
        (concatenated, "is of another run", [1, 2, 0]),
        (exchanged, "skip-0001 is of another guard", [0, 2, 0]),
        (added, "skip-0009 is of another guard", [1, 2, 0]),
        (copied, "skip-0009 is a copy of the recording of step 2", [1, 2, 0]),
        (renamed, "skip-0009 is the recording of step 2, and was renamed", [2, 1, 0]),
        (permuted, "skip-0001 is not the recording of the step 2 for which skips.jsonl names it", [2, 1, 0]),
    ],
)
def test_what_is_not_of_this_guard_or_of_another_step_is_said_and_no_skip_is_counted_twice(
    two: tuple[Path, Path], tmp_path: Path, harm: Callable[[Path, Path], None], said: str, recorded: list[int]
) -> None:
    found = shown(two, tmp_path, harm)
    assert [(skip.step, skip.recorded) for skip in found.skips] == list(zip((2, 3, 4), recorded, strict=True))
    assert any(said in problem for problem in found.problems), found.problems


def test_the_log_of_another_guard_has_none_of_the_recordings(two: tuple[Path, Path], tmp_path: Path) -> None:
    found = shown(two, tmp_path, lambda own, other: shutil.copy(other / "skips.jsonl", own))  # type: ignore[arg-type,return-value]
    assert [(skip.step, skip.recorded) for skip in found.skips] == [(3, 0), (4, 0), (5, 0)]
    assert sum("is of another guard" in problem for problem in found.problems) == 2


def test_a_log_that_ends_before_what_was_recorded_is_said(two: tuple[Path, Path], tmp_path: Path) -> None:
    def cut(own: Path, other: Path) -> None:
        log = own / "skips.jsonl"
        log.write_text("".join(log.read_text().splitlines(True)[:1]))

    found = shown(two, tmp_path, cut)
    assert [(skip.step, skip.recorded) for skip in found.skips] == [(2, 1), (3, 2)]
    assert any("lacks records 2 to 3" in problem for problem in found.problems), found.problems


def cut_to(folder: Path, lines: int) -> None:
    log = folder / "skips.jsonl"
    log.write_text("".join(log.read_text().splitlines(True)[:lines]))


def without_count(own: Path, other: Path) -> None:
    (own / "counts.json").unlink()


def with_anothers_count(own: Path, other: Path) -> None:
    shutil.copy(other / "counts.json", own)


def with_a_flipped_count(own: Path, other: Path) -> None:
    count = own / "counts.json"
    count.write_text(count.read_text().replace('"skips": 3', '"skips": 2'))


@pytest.mark.parametrize("left", [2, 0])
def test_lines_that_are_cut_off_the_end_are_said_although_none_of_them_was_recorded(
    two: tuple[Path, Path], tmp_path: Path, left: int
) -> None:
    def cut(own: Path, other: Path) -> None:
        cut_to(own, left)
        for recording in own.glob("skip-*"):
            if not left:
                shutil.rmtree(recording)

    found = shown(two, tmp_path, cut)
    assert len(found.skips) == left
    lost = "record 3" if left else "records 1 to 3"
    assert any(f"skips.jsonl lacks {lost}" in problem for problem in found.problems), found.problems


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (without_count, "counts.json is not there: lines that are cut off the end of a log would not show"),
        (with_anothers_count, "counts.json is of another run"),
        (with_a_flipped_count, "counts.json is damaged: its checksum does not match"),
    ],
)
def test_a_count_that_cannot_be_trusted_is_said(
    two: tuple[Path, Path], tmp_path: Path, harm: Callable[[Path, Path], None], said: str
) -> None:
    found = shown(two, tmp_path, harm)
    assert len(found.skips) == 3
    assert any(said in problem for problem in found.problems), found.problems


def test_a_guard_that_goes_on_says_what_was_cut_off_and_the_gap_stays(tmp_path: Path) -> None:
    out = tmp_path / "guard"
    train(out, 0, 3)
    cut_to(out, 1)
    said = train(out, 4, 1)
    assert "skips.jsonl lacks records 2 to 3" in said
    found = read_guard(out)
    assert len([skip for skip in found.skips if not skip.recorded]) == 1
    assert any("skips.jsonl lacks records 2 to 3" in problem for problem in found.problems), found.problems


def test_replay_says_what_the_log_of_the_guard_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "guard"
    train(out, 0, 3)
    arguments = ["replay", str(out), "--model", "test_folder:VAE", "--path", str(Path(__file__).parent)]
    assert dispatch(arguments) == 0
    assert "lacks" not in capsys.readouterr().out
    cut_to(out, 1)
    assert dispatch(arguments) == 0
    assert "note: " in (said := capsys.readouterr().out)
    assert "skips.jsonl lacks records 2 to 3" in said


def test_a_guard_that_goes_on_in_a_folder_has_the_identity_of_the_one_before(tmp_path: Path) -> None:
    train(tmp_path / "guard", 0, 1)
    before = identity(tmp_path / "guard" / "skips.jsonl")
    train(tmp_path / "guard", 1, 2)
    assert before
    assert identity(tmp_path / "guard" / "skips.jsonl") == before
    found = read_guard(tmp_path / "guard")
    assert [(skip.step, skip.recorded) for skip in found.skips] == [(2, 1), (3, 2), (4, 0)]
    assert not [problem for problem in found.problems if "not recorded" not in problem]


def test_a_folder_that_cannot_be_made_is_an_error_of_the_guard(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(vdvae_patch.GuardError, match=r"guard cannot be made: Not a directory; name another one"):
        vdvae_patch.guard(VAE(), out=tmp_path / "file" / "guard")


def test_a_log_that_cannot_be_written_is_an_error_of_the_guard(tmp_path: Path) -> None:
    (tmp_path / "counts.json").mkdir()
    with pytest.raises(vdvae_patch.GuardError, match=r"cannot be used: .*counts.json could not be written: Is a dir"):
        vdvae_patch.guard(VAE(), out=tmp_path)


def test_two_trainings_in_one_folder_are_told_apart_by_a_word(tmp_path: Path) -> None:
    train(tmp_path / "guard", 1, 1)
    assert not [text for text in read_guard(tmp_path / "guard").problems if "go back" in text]
    train(tmp_path / "guard", 0, 1)
    found = read_guard(tmp_path / "guard")
    assert [skip.step for skip in found.skips] == [3, 2]
    assert any("the steps in skips.jsonl go back once, first from 3 to 2" in text for text in found.problems)


@pytest.mark.parametrize("for_everything", [False, True])
def test_a_training_that_goes_to_another_folder_on_its_way_leaves_the_guards_where_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, for_everything: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").mkdir()
    model, said = VAE(), io.StringIO()
    with contextlib.ExitStack() as stack:
        if for_everything:  # `vdvae-patch guard --out guard -- python scripts/train.py`, which goes to its own folder
            stack.enter_context(Everything(out="guard"))
            monkeypatch.chdir("scripts")
            optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        else:
            optimizer = torch.optim.SGD(model.parameters(), 1e-3)
            stack.enter_context(vdvae_patch.guard(model, out="guard", keep=2, diagnose=False, file=said))
        for index, scale in enumerate([1.0, 1e4, 1e4]):
            optimizer.zero_grad()
            model(scale * torch.randn(4, 4)).backward()
            optimizer.step()
            if index == 1:
                assert for_everything or "guard/skip-0001 takes" in said.getvalue()
                os.chdir(tmp_path / "scripts")
    assert list((tmp_path / "scripts").iterdir()) == []
    assert not read_guard(tmp_path / "guard").problems
    assert [skip.recorded for skip in read_guard(tmp_path / "guard").skips] == [1, 2]
