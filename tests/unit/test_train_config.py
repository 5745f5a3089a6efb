"""A run's configuration and its file say the same, and the file has one reader."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.errors import InvalidValueError, RunError, UnknownNameError
from vdvae_patch.hosts.preset import Optimization
from vdvae_patch.train.config import RunFile, TrainConfig, changed
from vdvae_patch.train.folder import RunFolder, write_config


@dataclass(frozen=True)
class Architecture:
    width: int = 16
    blocks: str = "8x2,4m8"


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig[Architecture]:
    return TrainConfig(
        variant="bounded(0.1, 1)", data_root=Path("data"), out=tmp_path, steps=3, precision="bf16",
        optimization=Optimization(lr=1e-3, batch_size=7), architecture=Architecture(width=32),
    )  # fmt: skip


def test_a_preset_that_says_nothing_else_is_optimized_as_by_vdvaes_command_line() -> None:
    """The published defaults: Adam's second decay is 0.9, too, and updates are skipped from a norm of 400 on."""
    default = Optimization()
    assert (default.lr, default.wd, default.warmup_iters, default.batch_size) == (1.5e-4, 0, 0, 32)
    assert (default.adam_beta1, default.adam_beta2, default.ema_rate) == (0.9, 0.9, 0.999)
    assert (default.grad_clip, default.skip_threshold) == (200, 400)


def test_what_a_run_was_told_and_what_it_saw_are_read_back(config: TrainConfig[Architecture]) -> None:
    seen = {"commit": "0123456", "data": {"images": 10}}
    write_config(RunFolder(config.folder), config, seen)
    file = RunFile.read(config.folder / "config.toml")
    assert file.config(Architecture) == config
    assert file.seen == seen


def test_a_file_that_says_nothing_of_what_the_run_saw_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('variant = "explin"\n[optimization]\nlr = 1\n')
    file = RunFile.read(tmp_path / "config.toml")
    assert file.seen == {}
    assert file.config(Architecture).optimization.lr == 1.0


@pytest.mark.parametrize(("written", "read"), [('"auto"', "auto"), ("5", 5.0), ("2.5", 2.5)])
def test_a_norm_to_clip_at_is_a_number_or_auto(tmp_path: Path, written: str, read: object) -> None:
    (tmp_path / "config.toml").write_text(f"[optimization]\ngrad_clip = {written}\n")
    found = RunFile.read(tmp_path / "config.toml").config(Architecture)
    assert (found.optimization.grad_clip, type(found.optimization.grad_clip)) == (read, type(read))
    write_config(RunFolder(tmp_path), found, {})
    assert RunFile.read(tmp_path / "config.toml").config(Architecture) == found


@pytest.mark.parametrize("wrong", ["0", "-3", "nan", "never"])
def test_a_norm_that_cannot_be_clipped_at_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"--grad-clip must be .*, not '?{wrong}'?$"):
        parse_train(["--grad-clip", wrong])
    assert parse_train(["--grad-clip", "auto"]).optimization.grad_clip == "auto"


def test_settings_are_plain_values_on_one_level(config: TrainConfig[Architecture]) -> None:
    settings = config.settings()
    expected = {"variant": "bounded(0.1, 1)", "data_root": "data", "lr": 1e-3, "batch_size": 7, "width": 32}
    assert {key: settings[key] for key in expected} == expected
    assert not [key for key, value in settings.items() if isinstance(value, dict)]
    assert "epochs" not in settings  # not given
    assert "optimization" not in settings


def test_a_configuration_without_a_host_has_settings_too() -> None:
    assert TrainConfig[None]().settings()["lr"] == Optimization().lr


def test_what_changed_is_named_with_both_values(config: TrainConfig[Architecture]) -> None:
    new = replace(config, steps=None, seed=4, optimization=replace(config.optimization, lr=2e-3))
    said = ["lr: 0.001, now 0.002", "steps: 3, now None"]
    assert changed(config, new, frozenset({"seed"})) == said


def test_no_run_a_folder_and_a_damaged_file_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    with pytest.raises(RunError, match="does not exist: there is no run in that folder"):
        RunFile.read(file)
    file.write_bytes(b"variant = \xff")
    with pytest.raises(RunError, match="is not valid TOML"):
        RunFile.read(file)
    file.write_text("variant = ")
    with pytest.raises(RunError, match="is not valid TOML"):
        RunFile.read(file)
    file.unlink()
    file.mkdir()
    with pytest.raises(RunError, match="cannot be read: Is a directory"):
        RunFile.read(file)


def test_a_setting_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("varient = 1\n")
    with pytest.raises(UnknownNameError, match="unknown setting 'varient'; did you mean 'variant'"):
        RunFile.read(tmp_path / "config.toml").config(Architecture)
