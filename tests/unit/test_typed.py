"""A user's own code is checked against our types: names resolved when they are first used are no `Any`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

USER = """
import torch
from torch import nn

import vdvae_patch
from vdvae_patch import HostEntry, PatchError, PatchHandle, Scale, ScanResult, TrainableEntry


class Mine(nn.Module):
    extra = 1


def work(model: Mine, x: torch.Tensor) -> int:
    heads: ScanResult = vdvae_patch.scan(model, x)
    handle: PatchHandle = vdvae_patch.patch(model, "explin", heads=heads)
    scale: Scale | None = handle.heads[0].scale
    folder = vdvae_patch.save(model, "there")
    one = vdvae_patch.load(Mine, folder)
    two = vdvae_patch.load(lambda: Mine(), folder)
    again: PatchHandle = vdvae_patch.apply(Mine(), handle.to_json())
    try:
        print(vdvae_patch.source(model).diff, scale, again)
    except PatchError as error:
        print(error)
    return one.extra + two.extra


def entry(host: HostEntry) -> bool:
    return isinstance(host, TrainableEntry)


vdvae_patch.load(1, "there")
"""


@pytest.mark.slow
def test_a_users_file_is_checked_against_our_types(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "user.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout
    assert "load" in errors[0]
