"""An experiment in pieces: saved, resumed, refused where it does not fit, and talkative about it."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from vdvae_patch.cli import reproduce
from vdvae_patch.errors import CheckpointError, InvalidValueError, RunError, UnknownNameError
from vdvae_patch.experiments.ensemble import Ensemble, Run
from vdvae_patch.experiments.lowering import LOWERINGS, choose
from vdvae_patch.experiments.report import Origin
from vdvae_patch.experiments.session import Result, Session, read_state


class Parabola(nn.Module):
    """w², which seed 1 starts so high that it is infinite."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1e30 if seed == 1 else 3.0]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        rate = (self.w**2).sum() + 0 * x.sum()
        return {"elbo": rate, "rate": rate, "distortion": torch.zeros(())}


def ensemble() -> Ensemble:
    runs = [Run(0, 0.1), Run(1, 0.1), Run(2, 0.2)]
    batches = lambda seeds, step: (torch.zeros(len(seeds), 1),)  # noqa: E731
    return Ensemble(runs, lambda run: Parabola(run.seed), batches, how="loop", check_every=2)


def summarize(trained: Ensemble) -> Result:
    return {"w": trained.stack.flat.flatten().tolist(), "failed": sorted(trained.failures)}


class Clock:
    """A second later each time that it is asked."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class Counter:
    """An observer that counts steps."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, trained: Ensemble) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]


def session(folder: Path, minutes: float | None = None, **settings: int) -> Session:
    quiet = Console(file=io.StringIO())
    return Session(folder, settings, minutes, clock=Clock(), console=quiet, say_seconds=5, save_seconds=3)


def test_pieces_give_what_one_go_gives(tmp_path: Path) -> None:
    whole = session(tmp_path / "whole").train("k", ensemble, 10, summarize)
    assert whole is not None
    assert whole["failed"] == [1]
    counters: list[Counter] = []
    result = None
    while result is None and len(counters) < 20:
        counters.append(Counter())
        result = session(tmp_path / "pieces", 0.05).train("k", ensemble, 10, summarize, observer=counters[-1])
    assert len(counters) > 2
    assert counters[-1].steps == 10
    assert result is not None
    assert result["w"] == whole["w"]
    assert result["failed"] == whole["failed"]
    assert result["seconds"] > 3 * (len(counters) - 1)  # of all pieces, three seconds or more each


def test_a_result_is_not_computed_twice_and_leaves_no_state_behind(tmp_path: Path) -> None:
    first = session(tmp_path).train("k", ensemble, 4, summarize)
    again = session(tmp_path).train("k", lambda: pytest.fail("built again"), 4, summarize)
    assert again == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k.json", "settings.json"]


def test_state_is_saved_along_the_way_so_that_a_kill_costs_little(tmp_path: Path) -> None:
    saved = []

    class Watching(Counter):
        def __call__(self, trained: Ensemble) -> None:
            super().__call__(trained)
            saved.append((tmp_path / "k.pt").exists())

    session(tmp_path).train("k", ensemble, 10, summarize, observer=Watching())
    assert not saved[0]
    assert saved[-1]


def test_a_damaged_state_is_named_and_not_trained_over(tmp_path: Path) -> None:
    session(tmp_path, 0.01).train("k", ensemble, 10, summarize)
    path = tmp_path / "k.pt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"k\.pt is damaged .* delete it to start this part again"):
        session(tmp_path).train("k", ensemble, 10, summarize)


def flipped(path: Path, seed: int) -> Iterator[int]:
    """The file with one bit flipped, sixty times, each at another place."""
    data = path.read_bytes()
    moments = random.Random(seed)
    for _ in range(60):
        harmed = bytearray(data)
        place = moments.randrange(len(data))
        harmed[place] ^= 1 << moments.randrange(8)
        path.write_bytes(harmed)
        yield place
    path.write_bytes(data)


def test_a_flipped_bit_of_a_finished_result_is_no_other_number(tmp_path: Path) -> None:
    first = session(tmp_path).train("k", ensemble, 4, summarize)
    assert first is not None
    said: list[str] = []
    for _ in flipped(tmp_path / "k.json", 0):
        try:
            again = session(tmp_path).train("k", lambda: pytest.fail("built again"), 4, summarize)
        except RunError as error:
            said.append(str(error))
        else:  # the name of the field that has the checksum
            assert again is not None
            assert {name: again.get(name) for name in first} == first
    assert len(said) > 40
    assert all("k.json" in text and "delete it to do this part again" in text for text in said)


def test_a_result_of_a_version_without_checksums_is_read_and_said(tmp_path: Path) -> None:
    first = session(tmp_path).train("k", ensemble, 4, summarize)
    assert first is not None
    (tmp_path / "k.json").write_text(json.dumps(first))
    out = io.StringIO()
    later = Session(tmp_path, {}, clock=Clock(), console=Console(file=out))
    assert [later.finished("k"), later.finished("k")] == [first, first]
    assert out.getvalue().replace("\n", "").count("no checksum vouches for") == 1


def test_a_flipped_bit_of_a_state_is_no_other_training(tmp_path: Path) -> None:
    whole = session(tmp_path / "whole").train("k", ensemble, 10, summarize)
    assert whole is not None
    begun = tmp_path / "begun"
    assert session(begun, 0.05).train("k", ensemble, 10, summarize) is None
    said: list[str] = []
    for _ in flipped(begun / "k.pt", 1):
        copy = tmp_path / "copy"
        shutil.copytree(begun, copy)
        try:
            result = session(copy).train("k", ensemble, 10, summarize)
        except CheckpointError as error:
            said.append(str(error))
        else:  # between the members of the archive
            assert result is not None
            assert result["w"] == whole["w"]
        shutil.rmtree(copy)
    assert len(said) > 30
    assert all("k.pt" in text for text in said)


def test_a_result_names_every_commit_that_it_was_computed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = None
    for commit, minutes in (("aaaa", 0.05), ("bbbb", None)):
        monkeypatch.setattr("vdvae_patch.experiments.session.code_commit", lambda commit=commit: commit)
        result = session(tmp_path, minutes).train("k", ensemble, 10, summarize)
        assert (result is None) == (commit == "aaaa")
    assert result is not None
    assert result["commit"] == "aaaa, bbbb"
    origin = Origin.of(torch.device("cpu"), [0], [result, result | {"commit": "bbbb"}])
    assert origin.commit == "aaaa, bbbb"


def test_a_result_names_every_machine_and_torch_that_it_was_computed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, places = None, (["fast, threads: 4", "2.13"], ["slow, threads: 1", "2.14"])
    for where, minutes in zip(places, (0.05, None), strict=True):
        monkeypatch.setattr("vdvae_patch.experiments.session.computed_on", lambda device, where=where: where)
        result = session(tmp_path, minutes).train("k", ensemble, 10, summarize)
    assert result is not None
    other = session(tmp_path).keep("other", 1.0, {})
    monkeypatch.setattr("vdvae_patch.experiments.session.computed_on", lambda device: ["the reader's", "3"])
    origin = Origin.of(torch.device("cpu"), [0], [result, other])
    assert (origin.machine, origin.torch) == ("fast, threads: 4 and slow, threads: 1", "2.13, 2.14")
    del other["places"]  # of a version that did not write it
    assert Origin.of(torch.device("cpu"), [0], [other]).machine == "the reader's"


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    session(tmp_path, steps=5)
    session(tmp_path, steps=5)
    with pytest.raises(RunError, match=r"other settings \(steps: 5 there, 6 asked for\); name another --out"):
        session(tmp_path, steps=6)


def test_a_folder_of_other_images_of_the_same_size_is_refused(tmp_path: Path) -> None:
    images = torch.arange(48, dtype=torch.uint8).view(2, 4, 6)
    session(tmp_path).same_data("mnist", images, None)
    session(tmp_path).same_data("mnist", images.clone(), None)
    session(tmp_path).same_data("cifar10", images + 1)
    other = images.clone()
    other[1, 2, 3] += 1
    for parts in ((other, None), (images, images), (images.view(2, 6, 4), None), (images.to(torch.int16), None)):
        with pytest.raises(RunError, match=r"results of other images of mnist .* another --out"):
            session(tmp_path).same_data("mnist", *parts)


def test_a_folder_that_does_not_say_of_which_images_its_results_are_says_so(tmp_path: Path) -> None:
    session(tmp_path).train("k", ensemble, 4, summarize)
    out = io.StringIO()
    Session(tmp_path, {}, console=Console(file=out)).same_data("mnist", torch.zeros(1))
    assert "does not say of which images of mnist its results are" in out.getvalue().replace("\n", " ")


def test_a_result_or_a_state_of_another_folder_or_part_is_not_taken_for_one_of_this(tmp_path: Path) -> None:
    for name, settings, images in (("a", 5, 0), ("b", 6, 0), ("c", 5, 1)):
        own = session(tmp_path / name, 0.05, steps=settings)
        own.same_data("mnist", torch.tensor([images]))
        own.keep("done", 1.0, {"found": images})
        assert own.train("begun", ensemble, 10, summarize) is None
    for other, why in (("b", "with other settings"), ("c", "of other images of mnist")):
        ours = session(tmp_path / "a", steps=5)
        assert ours.finished("done") is not None
        shutil.copy(tmp_path / other / "done.json", tmp_path / "a" / "more.json")
        with pytest.raises(RunError, match=r"more\.json is no result of this folder: it is done, under another name"):
            ours.finished("more")
        (tmp_path / "a" / "more.json").unlink()
        mixed = tmp_path / f"a-{other}"
        shutil.copytree(tmp_path / "a", mixed)
        for name in ("done.json", "begun.pt"):
            shutil.copy(tmp_path / other / name, mixed / name)
        with pytest.raises(RunError, match=rf"no result of this folder: it .*{why}; delete it to do this part again"):
            session(mixed, steps=5).finished("done")
        with pytest.raises(CheckpointError, match=rf"no state of this folder: it .*{why}; delete it to start this"):
            session(mixed, steps=5).train("begun", ensemble, 10, summarize)


def test_tensors_beside_a_result_are_compared_with_their_checksums(tmp_path: Path) -> None:
    own = session(tmp_path)
    own.write_state(tmp_path / "k.pt", {"weights": torch.arange(1000.0)})
    assert torch.equal(own.kept("k")["weights"], torch.arange(1000.0))
    whole = (tmp_path / "k.pt").read_bytes()
    place = whole.index(torch.arange(1000.0).numpy().tobytes()) + 801
    (tmp_path / "k.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(CheckpointError, match=r"k\.pt is damaged"):
        own.kept("k")
    (tmp_path / "k.pt").unlink()
    with pytest.raises(RunError, match=r"k\.pt is gone; delete .*k\.json to do this part again"):
        own.kept("k")


def test_a_state_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "part.pt")
    wanted = r"no state of this version, but a tensor of shape .*; name another --out"
    with pytest.raises(CheckpointError, match=wanted):
        read_state(tmp_path / "part.pt")


def test_progress_says_runs_alive_failed_speed_and_time_left(tmp_path: Path) -> None:
    out = io.StringIO()
    talking = Session(tmp_path, {}, clock=Clock(), console=Console(file=out, width=200), say_seconds=5)
    talking.train("cell", ensemble, 30, summarize, place="3/12")
    lines = out.getvalue().splitlines()
    assert len(lines) > 2
    assert lines[-1].startswith("cell 3/12: step 30/30, 2 alive, 1 failed, ")
    assert "steps/s" in lines[0]
    assert lines[-1].endswith(" 0 s left")


def test_an_ensemble_whose_runs_have_all_failed_is_finished(tmp_path: Path) -> None:
    def hopeless() -> Ensemble:
        batches = lambda seeds, step: (torch.zeros(len(seeds), 1),)  # noqa: E731
        return Ensemble([Run(1, 0.1)], lambda run: Parabola(1), batches, how="loop", check_every=2)

    result = session(tmp_path).train("k", hopeless, 1000, lambda e: {"steps": e.step_count, "failed": len(e.failures)})
    assert result is not None
    assert (result["steps"], result["failed"]) == (2, 1)
    assert json.loads((tmp_path / "k.json").read_text())["failed"] == 1


def test_the_fastest_lowering_is_chosen_by_trying() -> None:
    seconds = {"grouped": 3.0, "matmul": 2.0, "loop": 6.0}
    tried: list[str] = []
    now = 0.0

    def step(how: str) -> None:
        nonlocal now
        # the first of each, which also prepares, takes longer; it takes longest for the fastest
        now += seconds[how] if how in tried else 100 / seconds[how]
        tried.append(how)

    assert choose(step, lambda: None, clock=lambda: now) == "matmul"
    assert tried == [how for how in LOWERINGS for _ in range(3)]


def test_the_command_names_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        reproduce.run(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("table1", "table2", "table3", "figure1", "stress"))


def test_the_help_does_not_import_torch() -> None:
    code = (
        "import sys\n"
        "from vdvae_patch.cli import reproduce\n"
        "try:\n    reproduce.run(['table2', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout


def test_an_experiment_or_a_flag_that_there_is_not_is_told_its_nearest_in_one_line() -> None:
    with pytest.raises(UnknownNameError, match="unknown experiment 'tabel2'; did you mean 'table2'"):
        reproduce.run(["tabel2"])
    with pytest.raises(UnknownNameError, match="unknown flag '--step'; did you mean '--steps'"):
        reproduce.run(["table2", "--step", "3"])
    with pytest.raises(InvalidValueError) as refused:
        reproduce.run(["table2", "--steps", "many"])
    assert "\n" not in str(refused.value)
    assert "many" in str(refused.value)
