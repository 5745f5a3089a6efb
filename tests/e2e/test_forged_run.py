"""A run's folder whose checksums are right and whose contents are not: resuming and replaying say what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import tiny

from vdvae_patch.cli import main
from vdvae_patch.skips import sealed
from vdvae_patch.train.config import RunFile
from vdvae_patch.train.folder import RunFolder, write_config
from vdvae_patch.train.loop import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("forged") / "run"
    train(tiny(out, steps=4, checkpoint_every=2, skip_threshold=1e-9, grad_clip=1.0))
    return out


def forge(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    info, state = sealed.read(path, what="checkpoint")
    change(info, state)
    shutil.rmtree(path)
    sealed.write(path, info, state, what="checkpoint", remedy="")


def put(*at: Any, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    def change(info: dict[str, Any], state: dict[str, Any]) -> None:
        box: Any = {"info": info, "state": state}
        for key in at[:-1]:
            box = box[key]
        box[at[-1]] = value

    return change


def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    def changed(info: dict[str, Any], state: dict[str, Any]) -> None:
        name = next(iter(state["model"]))
        state["model"][name] = change(state["model"][name])

    return changed


@pytest.mark.medium
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            put("state", "position", "global_batch", value=0),
            "position.global_batch: must be from 1 to 1,048,576, not 0",
        ),
        (put("state", "position", "global_batch", value=10**9), "position.global_batch: must be from 1 to"),
        (put("state", "position", value=[1]), "position: must be a dictionary, not a list of 1"),
        (put("state", "counters", value={"nan": "x"}), "counters.nan: must be an integer, not 'x'"),
        (lambda info, state: state.pop("optimizer"), "the field 'optimizer' is missing"),
        (put("info", "variant", value="\x1b[2Jvanilla"), r"was saved under variant \x1b[2Jvanilla, not vanilla"),
        (weights(lambda w: w.to(torch.int64)), "must be torch.float32"),
        (weights(lambda w: w.to(torch.complex64)), "must be torch.float32"),
        (weights(lambda w: w[:1]), "must be torch.float32"),
        (weights(lambda w: w.to_sparse()), "must be a tensor with values, not one that is sparse_coo"),
        (lambda info, state: state["model"].popitem(), "does not fit"),
    ],
)
def test_a_run_is_not_resumed_from_contents_that_no_run_writes(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], change: Any, said: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    for path in (out / "checkpoints").iterdir():
        forge(path, change)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--resume", "--out", str(out), "--steps", "6"])
    assert stop.value.code == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("vdvae-patch: error: ")
    assert said in last
    assert str(out) in last


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("state", "threads", value=10**9), "threads: must be from 1 to 4,096"),
        (put("state", "indices", value=torch.tensor([0, 10**6])), "has image 1000000, and there are 24 to train on"),
        (lambda info, state: state["model"].popitem(), "its weights does not fit"),
    ],
)
def test_nor_is_a_skip_replayed(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], change: Any, said: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "recordings" / "skip-foo").mkdir()
    forge(min(path for path in (out / "recordings").iterdir() if path.name != "skip-foo"), change)
    with pytest.raises(SystemExit) as stop:
        main(["replay", str(out)])
    assert stop.value.code == 2
    assert said in capfd.readouterr().err.splitlines()[-1]


def test_nor_is_one_replayed_with_other_images_than_the_run_saw(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    config = tiny(out)
    seen = RunFile.read(out / "config.toml").seen
    write_config(RunFolder(out), config, {**seen, "data": {**seen["data"], "fingerprint": "0" * 64}})
    with pytest.raises(SystemExit) as stop:
        main(["replay", str(out)])
    assert stop.value.code == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert "the images are not those that the run in" in last
    assert last.endswith("put back the data that the run had: with others the step is another one")


def test_with_a_folder_of_another_name_beside_it_all_goes_on(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "recordings" / "skip-foo").mkdir()
    (out / "checkpoints" / "step-foo").mkdir()
    with pytest.raises(SystemExit) as stop:
        main(["replay", str(out)])
    assert stop.value.code == 0
    with pytest.raises(SystemExit) as stop:
        main(["train", "--resume", "--out", str(out), "--steps", "6"])
    assert stop.value.code == 0
    assert (out / "recordings" / "skip-foo").is_dir()
