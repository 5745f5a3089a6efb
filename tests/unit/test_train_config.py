"""A run's configuration and its file say the same, and the file has one reader."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import vdvae_patch.cli.doctor  # noqa: F401  a test puts another function in the place of its
from vdvae_patch.cli import main
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


HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--lr", "inf", "--lr must be a positive number, from 1e-30 to 1e30, not inf"),
        ("--lr", "1e-320", "--lr must be a positive number"),
        ("--wd", "1e308", "--wd must be zero or more, up to 1e30"),
        ("--grad-clip", "1e-320", "--grad-clip must be a positive number from 1e-30 on, or auto"),
        ("--batch-size", HUGE, "--batch-size must be from 1 to 1,048,576, not an integer of 1,329 bits"),
        ("--steps", HUGE, "--steps must be at most 9,007,199,254,740,992, not an integer of 1,329 bits"),
        ("--seed", "9223372036854775808", "--seed must be at most 9,223,372,036,854,775,807"),
        ("--record-every", "2147483648", "--record-every must be at most 1,048,576"),
        ("--warmup-iters", HUGE, "--warmup-iters must be zero or more"),
        ("--width", HUGE, "--width must be at most 1,048,576, not an integer of 1,329 bits"),
        ("--width", "0", "--width must be at least 1, not 0"),
        ("--bottleneck-multiple", "inf", "leaves a block more than 1,048,576 channels"),
    ],
)
def test_a_number_that_nothing_can_be_computed_with_is_refused_with_its_range(flag: str, value: str, said: str) -> None:
    with pytest.raises(InvalidValueError, match=re.escape(said)):
        parse_train(["--preset", "demo", f"{flag}={value}"])


def test_the_small_hosts_refuse_layers_without_units() -> None:
    for host, flag in (("mlp_vae", "--hidden"), ("mlp_vae", "--latents"), ("conv_vae", "--latents")):
        for value, said in (("0", "must be at least 1, not 0"), ("2147483648", "must be at most 1,048,576")):
            with pytest.raises(InvalidValueError, match=f"{flag} {said}"):
                parse_train(["--host", host, "--preset", "paper", flag, value])


def test_what_does_not_fit_into_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    def asks(argv: list[str]) -> int:
        return len(torch.empty(2**60, dtype=torch.uint8))

    monkeypatch.setattr("vdvae_patch.cli.doctor.run", asks)
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("vdvae-patch: error: not enough memory (")
    with pytest.raises(RuntimeError):
        main(["doctor", "--debug"])
    monkeypatch.setattr("vdvae_patch.cli.doctor.run", lambda argv: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError):  # an error of another kind keeps its traceback
        main(["doctor"])


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
