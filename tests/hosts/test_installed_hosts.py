"""Hosts that pip installs: loaded by name, and measured on the example of their entry."""

from __future__ import annotations

import pytest
import torch

import vdvae_patch
from vdvae_patch.benchmark import benchmark_example
from vdvae_patch.cli import main
from vdvae_patch.errors import HostError
from vdvae_patch.hosts import HOSTS, load_entry


@pytest.mark.parametrize("name", ["diffusers", "pythae"])
def test_are_loaded_by_name_with_their_version_and_take_no_more_memory_patched(name: str) -> None:
    pytest.importorskip(name)
    host = vdvae_patch.load_host(name)
    assert host.origin.kind == "installed"
    assert host.origin.commit
    rows = benchmark_example(host, ["vanilla", "upbounded", "explin"], torch.device("cpu"), rounds=1, warmup=0)
    assert [row.name for row in rows] == ["vanilla", "upbounded", "explin"]
    assert all(row.memory_ratio <= 1.01 for row in rows)


def test_one_that_is_not_there_says_how_to_install_it() -> None:
    class Absent(type(HOSTS.get("pythae"))):  # type: ignore[misc]
        name = "absent_host"
        modules = ("absent_host.models",)

    with pytest.raises(HostError, match=r"'absent_host' is not installed .*pip install 'vdvae-patch\[hosts\]'"):
        load_entry(Absent(), None)


def test_a_host_without_an_example_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HostError, match="'vdvae' gives no example"):
        HOSTS.get("vdvae").example({})
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--host=diffusers", "--preset=small"])
    assert stop.value.code == 2
    assert "unknown flag '--preset'" in capsys.readouterr().err
