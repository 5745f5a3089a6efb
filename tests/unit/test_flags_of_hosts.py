"""Every host that can be trained takes the flags of `train`: no field of its architecture has the name of one."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest

from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.hosts import HOSTS
from vdvae_patch.hosts.trainable import TrainableEntry

PRESETS = [
    (name, preset)
    for name in HOSTS.names()
    if isinstance(entry := HOSTS.get(name), TrainableEntry)
    for preset in entry.presets()
]


@pytest.mark.parametrize(("host", "preset"), PRESETS)
def test_every_field_of_a_hosts_architecture_has_a_flag(host: str, preset: str) -> None:
    entry = HOSTS.get(host)
    assert isinstance(entry, TrainableEntry)
    usual = entry.preset(preset).architecture
    for field in fields(entry.architecture):
        value = getattr(usual, field.name)
        if isinstance(value, int) and not isinstance(value, bool):
            flag = f"--{field.name.replace('_', '-')}"
            config = parse_train(["--host", host, "--preset", preset, flag, str(value), "--steps", "7"])
            assert getattr(config.architecture, field.name) == value
            assert config.steps == 7


def test_a_field_with_the_name_of_a_runs_flag_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Architecture:
        hidden: int = 4
        steps: int = 6

    monkeypatch.setattr(type(HOSTS.get("convdraw")), "architecture", Architecture)
    with pytest.raises(InvalidValueError, match="its architecture has steps, and every run has a flag of that name"):
        parse_train(["--host", "convdraw", "--preset", "small"])
