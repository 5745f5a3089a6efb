"""`pip install --no-deps` into an environment that has a torch: nothing but this package is installed, and it works."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from process_trees import finished

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[2]

_PROGRAM = """
import torch
import vdvae_patch

assert vdvae_patch.__file__.startswith(SITE), vdvae_patch.__file__


class VAE(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(8, 8), torch.nn.Linear(4, 8)

    def forward(self, x):
        mean, log_sigma = self.encoder(x).chunk(2, dim=1)
        z = mean + log_sigma.exp() * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + (2 * log_sigma).exp() - 2 * log_sigma - 1)
        return ((self.decoder(z) - x) ** 2).mean() + kl.mean()


torch.manual_seed(0)
model, batch = VAE(), torch.randn(16, 8)
vdvae_patch.stabilize(model, batch)
print(vdvae_patch.scales.get("explin"))
"""


@pytest.mark.slow
def test_nothing_else_is_installed_and_a_model_is_cured(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    for name in ("vdvae_patch", "patches", "launch", "upstream"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    # as docs/index.md has it, but for the folder, and for tools of the build that would be downloaded
    command = ["pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(site), "."]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = finished([sys.executable, "-m", *command], cwd=source, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {path.name.partition("-")[0] for path in site.iterdir()} - {"bin"} == {"vdvae_patch"}
    (tmp_path / "program.py").write_text(f"SITE = {str(site)!r}\n{_PROGRAM}")
    done = finished(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment | {"PYTHONPATH": str(site)}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "\nCURED: encoder[4:8] (posterior, " in done.stdout
