"""A patch of a layer's output in another version of its model: of another size, or with another function for σ."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch import PatchError
from vdvae_patch.scanning.write import entry_file

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
OTHER = r"the module's output has 10 channels along dimension -?1, and had 6 where the head was found"


class VAE(nn.Module):
    def __init__(self, latents: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(8, 2 * latents), nn.Linear(latents, 8)

    def forward(self, x: Tensor) -> Tensor:
        mu, log_sigma = self.encoder(x).chunk(2, -1)
        z = mu + log_sigma.exp() * torch.randn_like(mu)
        kl = 0.5 * ((2 * log_sigma).exp() + mu**2 - 1) - log_sigma
        return ((self.decoder(z) - x) ** 2).sum(-1).mean() + kl.sum(-1).mean()


def _patched() -> VAE:
    model = VAE()
    vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, X))
    return model


def test_heads_of_a_smaller_model_are_refused() -> None:
    heads = vdvae_patch.scan(VAE(), X)
    other = VAE(latents=5)
    with pytest.raises(PatchError, match=OTHER):
        vdvae_patch.patch(other, "explin", heads=heads)
    assert not vdvae_patch.is_patched(other)


def test_a_saved_patch_is_refused_by_a_larger_model_before_it_gives_a_number() -> None:
    other = VAE(latents=5)
    vdvae_patch.apply(other, vdvae_patch.patch_json(_patched()))
    with pytest.raises(PatchError, match=OTHER):
        other(X)


def test_a_layer_that_was_given_other_channels_is_refused() -> None:
    model = _patched()
    model.encoder.weight = nn.Parameter(torch.randn(10, 8))
    model.encoder.bias = nn.Parameter(torch.zeros(10))
    model.decoder = nn.Linear(5, 8)
    with pytest.raises(PatchError, match=OTHER):
        model(X)


def test_a_written_patch_file_knows_the_size(tmp_path: Path) -> None:
    file = tmp_path / "host.py"
    model = VAE()
    file.write_text(entry_file("my_vae:VAE", vdvae_patch.scan(model, X), model))
    (head,) = vdvae_patch.load_entry_file(file).heads(model)
    assert head.size == 6


class Tokens(nn.Module):
    """A mean and a log σ are two tokens before those of a sequence, whose length is the batch's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Parameter(torch.randn(2, 8))
        self.mix = nn.GRU(8, 8, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.decoder = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.first.expand(len(x), 2, 8), x], 1)
        out = self.norm(self.mix(tokens)[0])
        mu, log_sigma = out[:, 0], out[:, 1]
        z = mu + log_sigma.exp() * torch.randn_like(mu)
        kl = 0.5 * ((2 * log_sigma).exp() + mu**2 - 1) - log_sigma
        return ((self.decoder(z)[:, None] - x) ** 2).mean() + kl.sum(-1).mean()


def test_a_sequence_may_have_another_length() -> None:
    model = Tokens()
    vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, torch.randn(4, 5, 8)))
    assert model(torch.randn(4, 9, 8)).isfinite()


def _computes_otherwise(folder: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> nn.Module:
    """A model of another file, with another line for its σ."""
    monkeypatch.syspath_prepend(folder)
    (folder / "other_version.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass VAE(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.encoder, self.decoder = nn.Linear(8, 6), nn.Linear(3, 8)\n\n"
        "    def forward(self, x):\n        mu, log_sigma = self.encoder(x).chunk(2, -1)\n"
        f"        {line}\n        return ((self.decoder(z) - x) ** 2).sum()\n"
    )
    monkeypatch.delitem(sys.modules, "other_version", raising=False)
    model: nn.Module = importlib.import_module("other_version").VAE()
    return model


def test_a_host_whose_line_for_sigma_is_another_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = vdvae_patch.patch_json(_patched())
    other = _computes_otherwise(tmp_path, monkeypatch, "z = mu + (log_sigma / 2).exp() * torch.randn_like(mu)")
    with pytest.warns(UserWarning, match="is nowhere in the model's files now"):
        vdvae_patch.apply(other, text)


def test_a_host_with_the_same_line_is_patched_without_a_word_and_written_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = vdvae_patch.patch_json(_patched())
    same = _computes_otherwise(tmp_path, monkeypatch, "z = mu + log_sigma.exp() * torch.randn_like(mu)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vdvae_patch.apply(same, text)
    assert '"line": "z = mu + log_sigma.exp() * torch.randn_like(mu)"' in vdvae_patch.patch_json(same)
