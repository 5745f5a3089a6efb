"""Fixtures of the host tests: the genuine VDVAE code, where the machine has it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

GENUINE_VDVAE = "VDVAE_PATCH_GENUINE_VDVAE"


@pytest.fixture(scope="session")
def genuine_vdvae() -> SimpleNamespace:
    """The genuine `hps`, `vae_helpers` and `vae`; their bare names are gone from `sys.modules` afterwards."""
    folder = os.environ.get(GENUINE_VDVAE)
    if not folder:
        pytest.skip(f"{GENUINE_VDVAE} names no folder with the genuine vae.py")
    modules: dict[str, ModuleType] = {}
    shadowed = {name: sys.modules.get(name) for name in ("hps", "vae_helpers", "vae")}
    try:
        for name in shadowed:
            modules[name] = sys.modules[name] = _load(name, Path(folder) / f"{name}.py")
    finally:
        for name, before in shadowed.items():
            sys.modules.pop(name, None)
            if before is not None:
                sys.modules[name] = before
    return SimpleNamespace(**modules)


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"genuine_vdvae_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
