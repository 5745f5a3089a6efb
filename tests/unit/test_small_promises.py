"""Small promises of the command line: what to do first, default folders, seeds, estimates without data, 80 columns."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from vdvae_patch.launch.presets import preset

from vdvae_patch.cli import arguments, launch, main, scan, upstream
from vdvae_patch.cli import train as command
from vdvae_patch.data import DATASETS, load
from vdvae_patch.errors import DataError
from vdvae_patch.machine import CACHE_VARIABLE
from vdvae_patch.train import checkpoint
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.estimate import estimate


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A cache with nothing in it, and whatever would be downloaded."""
    asked: list[str] = []

    def retrieve(url: str, **_: object) -> None:
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr("pooch.retrieve", retrieve)
    monkeypatch.chdir(tmp_path)
    return asked


def test_train_without_arguments_says_what_to_do_first(offline: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    commands = [line.split("  ")[1].strip() for line in said.splitlines() if line.startswith("  vdvae-patch")]
    assert len(commands) == 5
    for line in commands:
        if "--help" not in line:
            arguments.parse_train(line.split()[2:])  # they are commands that there are
    assert "163 MiB" in said
    assert offline == []
    assert not Path("runs").exists()


def test_two_hosts_with_a_preset_of_one_name_have_two_default_folders() -> None:
    folders = {arguments.parse_train(["--host", host, "--preset", "paper"]).folder for host in ("conv_vae", "mlp_vae")}
    assert folders == {Path("runs/conv_vae-paper-vanilla-seed0"), Path("runs/mlp_vae-paper-vanilla-seed0")}
    assert TrainConfig[None]().folder == Path("runs/vdvae-cifar10-vanilla-seed0")


@pytest.mark.parametrize("more", [[], ["--preset", "paper"], ["--variant", "explin", "--seed", "3"]])
def test_a_run_is_resumed_in_the_default_folder_of_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--host", "conv_vae", *more]
    config = arguments.parse_train([*flags, "--lr", "0.5"])
    config.folder.mkdir(parents=True)
    import tomli_w

    (config.folder / "config.toml").write_text(tomli_w.dumps(config.to_toml()))
    resumed = arguments.parse_train([*flags, "--resume"])
    assert resumed.optimization.lr == 0.5
    assert resumed.folder == config.folder


class Model(nn.Module):
    """One layer, whose weights are drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The layer."""
        return self.layer(x)


def test_the_seed_of_a_scan_is_that_of_the_weights() -> None:
    def weights(seed: int) -> Tensor:
        model = scan.build(Model, "here:Model", seed)
        assert isinstance(model, Model)
        return model.layer.weight

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_scan_hands_its_seed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def build(factory: object, spec: str, seed: int = 0) -> nn.Module:
        seen.append(seed)
        return Model()

    monkeypatch.setattr(scan, "build", build)
    monkeypatch.setattr(sys, "path", [*sys.path, os.path.dirname(__file__)])
    scan.run(["test_small_promises:Model", "--input", "2x3", "--seed", "7"])
    assert seen == [7]


def test_an_estimate_needs_no_data_and_downloads_none(offline: list[str]) -> None:
    flags = ["--preset", "demo", "--epochs", "2", "--dry-run", "--device", "cpu"]
    found = estimate(arguments.parse_train([*flags, "--data", "cifar10"]), measured=1)
    batch = found.images // found.steps
    assert found.images == 2 * (45_000 // batch) * batch
    assert "nothing is downloaded" in str(found)
    assert offline == []
    here = estimate(arguments.parse_train([*flags, "--data", "builtin(train=64)"]), measured=1)
    assert here.notes == ()


def test_so_does_the_estimate_of_published_runs(
    offline: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.run(["table4", "--dry-run", "--preset", "demo", "--data", "cifar10", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "cifar10 is not here" in said
    assert "18 runs (6 variants, 3 seeds)" in said
    # the last two and the last finite one: nothing is evaluated, of which the best would be kept
    megabytes = float(re.findall(r"([\d.]+) MB a checkpoint", said)[0])
    assert f"at most 3 checkpoints a run, {18 * 3 * megabytes / 1000:.1f} GB together" in said
    assert "not done yet" not in said
    assert offline == []


def test_published_runs_that_are_resumed_cost_what_each_of_them_has_left(
    offline: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = ["--host", "mlp_vae", "--preset", "paper", "--data", "mnist", "--batch-size", "2", "--steps", "900"]
    more = (*told, "--device", "cpu", "--resume")
    monkeypatch.setattr("vdvae_patch.train.estimate.estimate", partial(estimate, measured=1))
    *_, last = preset("table4").commands(more)
    info = checkpoint.CheckpointInfo(600, "mlp_vae", "vanilla", "host", (), True, None)
    checkpoint.save(Path(arguments.parse_train(last).folder) / "checkpoints", info, {})
    assert launch.run(["table4", "--dry-run", *more]) == 0
    assert f" for the {17 * 900 + 300:,} steps that are not done yet on " in capsys.readouterr().out


def test_an_estimate_of_a_run_that_is_resumed_has_the_time_of_the_steps_that_are_left(
    offline: list[str], tmp_path: Path
) -> None:
    told = ["--host", "mlp_vae", "--preset", "paper", "--batch-size", "2", "--device", "cpu", "--steps", "900", "--out"]
    config = arguments.parse_train([*told, str(tmp_path)])
    info = checkpoint.CheckpointInfo(600, "vdvae", "vanilla", "host", (), True, None)
    checkpoint.save(tmp_path / "checkpoints", info, {})
    assert estimate(config, measured=1).done == 0
    found = estimate(replace(config, resume=True), measured=1)
    assert (found.steps, found.done) == (900, 600)
    assert found.hours == pytest.approx(300 * found.step_seconds / 3600)
    assert " for the 300 that are not done yet, " in str(found)


def test_data_that_were_named_and_are_not_there_are_missed(offline: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no CIFAR-10 in --data-root"):
        load("cifar10", tmp_path / "nowhere", download=False, or_blank=True)
    with pytest.raises(DataError, match="downloading is switched off"):
        load("cifar10", None, download=False)


@pytest.mark.parametrize("name", [name for name in DATASETS.names() if DATASETS.get_class(name).published])  # type: ignore[attr-defined]
def test_blank_images_have_the_published_number_and_size(offline: list[str], name: str) -> None:
    data = load(name, None, download=False, or_blank=True)
    published = DATASETS.get_class(name).published  # type: ignore[attr-defined]
    assert len(data.train) == published.train
    assert data.train.shape[1:] == (published.height, published.width, published.channels)
    if DATASETS.get_class(name).two_values:  # type: ignore[attr-defined]
        assert set(data.train[:2].reshape(-1).tolist()) == {0, 255}


def test_the_list_of_code_bases_fits_80_columns(
    offline: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert upstream.run(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for word in ("vdvae", "ea35b490313b", "LicenseRef-NVIDIA-Source-Code-License-NVAE", "need torch and numpy alone"):
        assert word in text


def test_the_docs_say_what_elbo_is() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "skipped-updates.md").read_text()
    assert "`elbo` is what is minimized, the negative of the evidence lower bound" in page
    assert command.ABOUT


@pytest.mark.parametrize(
    ("argv", "name", "what"),
    [
        (["report"], "PATH", "a run, a comparison, a reproduction, a guard's folder"),
        (["replay"], "PATH", "the run's folder"),
        (["upstream", "fetch"], "NAME", "a name of `upstream list`"),
    ],
)
def test_an_argument_that_is_missing_is_named_with_what_it_is(
    argv: list[str], name: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"vdvae-patch: error: {name} is missing: {what}")
    assert said.endswith(f"`vdvae-patch {' '.join(argv)} --help` lists all options")
    assert "\n" not in said


def test_two_inputs_of_one_shape_are_two_draws_of_the_seed() -> None:
    first, second = scan._tensors(["4x6", "4x6"], 3)
    assert torch.equal(first, torch.randn(4, 6, generator=torch.Generator().manual_seed(3)))
    assert not torch.isclose(first, second).any()
    assert torch.equal(scan._tensors(["4x6", "4x6"], 3)[1], second)
