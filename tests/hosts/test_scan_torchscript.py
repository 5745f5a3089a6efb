"""A model with a part in TorchScript: what Python computes is patched, what TorchScript computes is refused with what
to do, and a scripted network that has nothing to do with a σ is in nobody's way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.errors import PatchError


class Pair(nn.Module):
    """Emits a mean and a log variance as two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_variance = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), self.log_variance(x)


class Drawing(Pair):
    """Draws by itself, too."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_variance = self.log_variance(x)
        return self.mean(x) + (0.5 * log_variance).exp() * torch.randn_like(log_variance), log_variance


class OfAPair(nn.Module):
    """TorchScript returns both, and Python computes σ of one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.jit.script(Pair())
        self.decoder = nn.Linear(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x)
        std = torch.exp(0.5 * log_variance)
        kl = 0.5 * (mean**2 + std**2 - 1) - torch.log(std)
        return F.mse_loss(self.decoder(mean + std * torch.randn_like(std)), x) + kl.mean()


class OfOne(OfAPair):
    """TorchScript returns one tensor of both; the KL reads the log variance as it is, beside its exponential."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.jit.trace(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6)), torch.randn(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return F.mse_loss(self.decoder(z), x) - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()


class Inside(OfAPair):
    """σ is computed and used in TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.jit.script(Drawing())

    def forward(self, x: Tensor) -> Tensor:
        z, log_variance = self.encoder(x)
        return F.mse_loss(self.decoder(z), x) - 0.5 * (1 + log_variance - log_variance.exp()).mean()


class Perceptual(nn.Module):
    """The VAE is plain; a scripted network compares its output with the data."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 6), nn.Linear(3, 8)
        self.features = torch.jit.script(nn.Sequential(nn.Linear(8, 4), nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.encoder(x).chunk(2, 1)
        y = self.decoder(mean + log_sigma.exp() * torch.randn_like(mean))
        kl = 0.5 * (mean**2 + (2 * log_sigma).exp() - 1) - log_sigma
        return F.mse_loss(self.features(y), self.features(x)) + F.mse_loss(y, x) + kl.mean()


@pytest.mark.parametrize("host", [OfAPair, OfOne, Perceptual])
def test_what_python_computes_is_patched_probed_saved_and_taken_back(
    host: type[nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model, x = host(), torch.randn(5, 8)
    before = _loss(model, x)
    handle = vdvae_patch.stabilize(model, x, posterior="bounded(0.001, 1000)")
    assert "NOT" not in (said := capsys.readouterr().out)
    assert "CURED" in said
    patched = _loss(model, x)
    assert float(patched.detach()) == pytest.approx(float(before.detach()), rel=0.01)
    vdvae_patch.save(model, tmp_path / "saved")
    assert torch.equal(_loss(vdvae_patch.load(host(), tmp_path / "saved"), x), patched)
    handle.unpatch()
    assert torch.equal(_loss(model, x), before)


@pytest.mark.parametrize("host", [OfAPair, OfOne])
def test_the_sigma_is_that_of_the_scale(host: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = host(), torch.randn(5, 8)
    (head,) = heads = vdvae_patch.scan(model, x)
    assert head.found is not None
    assert head.found.patch_at == "call"
    patched = vdvae_patch.patch(model, "upbounded(0.01)", heads=heads)  # verified
    assert patched.heads[0].after is not None
    assert patched.heads[0].after.high <= 0.01


def test_what_torchscript_computes_is_refused_with_what_to_do() -> None:
    torch.manual_seed(0)
    model, x = Inside(), torch.randn(5, 8)
    (head,) = vdvae_patch.scan(model, x)
    assert head.found is not None
    assert head.found.patch_at == "no"
    with pytest.raises(PatchError, match=r"inside TorchScript.*patch its Python module, and trace it then"):
        vdvae_patch.stabilize(model, x)


def test_a_loss_that_is_not_finite_is_explained_beside_torchscript() -> None:
    torch.manual_seed(0)
    model, x = Perceptual(), torch.randn(5, 8)
    with torch.no_grad():
        model.encoder.bias[3:] = 100.0
    assert "not finite" in str(vdvae_patch.scan(model, x))


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(1)
    loss: Tensor = model(x)
    return loss
