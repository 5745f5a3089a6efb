"""Files of `scan --write` find their places by text, and survive edits of the host around them."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import vdvae_patch
from vdvae_patch import patch, scan
from vdvae_patch.distributions import StableNormal
from vdvae_patch.errors import PatchError
from vdvae_patch.hosts.discovery import HostRegistry, load_entry_file
from vdvae_patch.scanning.write import entry_file

X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))

HOST = """
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence


def limited(raw):
    return torch.exp(raw).clamp(1e-3, 50.0)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.prior, self.dec = nn.Linear(8, 8), nn.Linear(4, 8), nn.Linear(4, 8)
        self.act = nn.Softplus()
        self.enc2 = nn.Linear(8, 8)

    def forward(self, x):
        mu, raw = self.enc(x).chunk(2, 1)
        q = Normal(mu, limited(raw))
        z = q.rsample()
        mu2, raw2 = self.enc2(x).chunk(2, 1)
        raw2 = F.softplus(raw2) + 0.01
        z2 = mu2 + raw2 * torch.randn_like(mu2)
        kl2 = 0.5 * (mu2**2 + raw2**2 - 2 * torch.log(raw2) - 1).sum()
        pm, pr = self.prior(z2).chunk(2, 1)
        p = Normal(pm, self.act(pr) + 0.1)
        self.seen = q, p, raw2
        return kl_divergence(q, p).sum() + kl2 + ((self.dec(z) - x) ** 2).sum()
"""

EDITED = HOST.replace(
    "def limited", "# a comment\n\n\ndef other(x):\n    return torch.exp(x)\n\n\ndef limited"
).replace(
    "        mu, raw = self.enc(x)", "        assert x.dim() == 2  # another line\n        mu, raw = self.enc( x )"
)


@pytest.fixture(autouse=True)
def _floors_are_no_matter_here() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def imported(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    file = folder / "host_of_the_user.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location("host_of_the_user", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "host_of_the_user", module)
    spec.loader.exec_module(module)
    return module


def sigmas(model: Any) -> list[Any]:
    torch.manual_seed(1)
    model(X)
    q, p, sigma2 = model.seen
    return [q.scale, p.scale, sigma2]


@pytest.mark.parametrize("text", [HOST, EDITED], ids=["as it was", "edited"])
def test_a_written_file_gives_the_same_patch_before_and_after_an_edit(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = imported(HOST, tmp_path, monkeypatch).VAE()
    heads = scan(model, X)
    assert {h.found.patch_at for h in heads} == {"call"}
    written = tmp_path / "entry.py"
    written.write_text(entry_file("host_of_the_user:VAE", heads, model))
    assert "first=(" not in written.read_text()
    patch(model, "explin/upbounded", heads=heads, paper=True)
    expected = sigmas(model)
    (tmp_path / "later").mkdir()
    later = imported(text, tmp_path / "later", monkeypatch).VAE()
    later.load_state_dict(model.state_dict())
    handle = patch(
        later,
        "explin/upbounded",
        heads=load_entry_file(written, HostRegistry("vdvae_patch.patches", "none")).heads(later),
        paper=True,
    )
    for got, want in zip(sigmas(later), expected, strict=True):
        torch.testing.assert_close(got, want)
    assert all(isinstance(normal, StableNormal) for normal in later.seen[:2])
    assert "not verified" in str(handle)


def test_an_edit_of_the_expression_itself_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = imported(HOST, tmp_path, monkeypatch).VAE()
    written = tmp_path / "entry.py"
    written.write_text(entry_file("host_of_the_user:VAE", scan(model, X), model))
    (tmp_path / "later").mkdir()
    later = imported(HOST.replace("+ 0.01", "+ 0.02"), tmp_path / "later", monkeypatch).VAE()
    with pytest.raises(PatchError, match=r"holds 'F.softplus\(raw2\) \+ 0.01' nowhere.*scan, and write them again"):
        load_entry_file(written, HostRegistry("vdvae_patch.patches", "none")).heads(later)


OLD = Path(__file__).with_name("entry_written_by_0_1.txt").read_text()


def test_a_file_of_before_with_lines_and_columns_still_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = imported(HOST, tmp_path, monkeypatch).VAE()
    written = tmp_path / "entry.py"
    written.write_text(OLD)
    patch(
        model,
        posterior="upbounded",
        heads=load_entry_file(written, HostRegistry("vdvae_patch.patches", "none")).heads(model),
        paper=True,
    )
    raw = model.enc(X)[:, 4:]
    torch.testing.assert_close(sigmas(model)[0], vdvae_patch.scales.get("upbounded").sigma(raw))


def test_a_text_that_stands_twice_now_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = imported(HOST, tmp_path, monkeypatch).VAE()
    written = tmp_path / "entry.py"
    written.write_text(entry_file("host_of_the_user:VAE", scan(model, X), model))
    (tmp_path / "later").mkdir()
    doubled = HOST.replace(
        "        z = q.rsample()\n",
        "        other = F.softplus(raw2) + 0.01 if False else 0\n        z = q.rsample()\n",
    )
    later = imported(doubled, tmp_path / "later", monkeypatch).VAE()
    with pytest.raises(PatchError, match="say which one is meant"):
        load_entry_file(written, HostRegistry("vdvae_patch.patches", "none")).heads(later)
