"""Densities whose data and mean are rescaled in the loss, and squared errors that one operation adds up."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from vdvae_patch.patching import patch
from vdvae_patch.scanning import ScanResult, scan

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Decoder(nn.Module):
    """A VAE whose decoder puts out a mean and a raw value of each pixel."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.encoder, self.decoder, self.loss = nn.Linear(4, 6), nn.Linear(3, 8), loss

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        kl = 0.5 * (log_var.exp() + mean**2 - 1 - log_var)
        return self.loss(*self.decoder(z).chunk(2, 1), x) + kl.mean()


class Autoencoder(Decoder):
    """The same without noise."""

    def forward(self, x: Tensor) -> Tensor:
        code, _ = self.encoder(x).chunk(2, 1)
        return self.loss(*self.decoder(torch.tanh(code)).chunk(2, 1), x)


PIXELS: dict[str, Loss] = {
    "as they are": lambda m, v, x: F.gaussian_nll_loss(m, x, v.exp()),
    "2 x - 1": lambda m, v, x: F.gaussian_nll_loss(2 * m - 1, 2 * x - 1, v.exp()),
    "2 x - 1 by hand": lambda m, v, x: (0.5 * (((2 * x - 1) - (2 * m - 1)) ** 2 / v.exp() + v)).mean(),
    "normalized": lambda m, v, x: (0.5 * (((x - 0.5) / 0.2 - (m - 0.5) / 0.2) ** 2 * torch.exp(-v) + v)).mean(),
    "255 x": lambda m, v, x: -Normal(255 * m, v.exp()).log_prob(255 * x).mean(),
    "255 (x - m)": lambda m, v, x: (0.5 * (255 * (x - m)) ** 2 / v.exp() + 0.5 * v).mean(),
    "2 σ(m) - 1": lambda m, v, x: F.gaussian_nll_loss(2 * torch.sigmoid(m) - 1, 2 * x - 1, v.exp()),
    "log sigma": lambda m, v, x: (0.5 * ((2 * x - 2 * m) / v.exp()) ** 2 + v + math.log(2)).sum(1).mean(),
    "einsum with the precision": lambda m, v, x: (
        0.5 * torch.einsum("bi,bi->b", (255 * x - 255 * m) ** 2, torch.exp(-v)).mean() + 0.5 * v.sum(1).mean()
    ),
    "mse_loss of elements": lambda m, v, x: (F.mse_loss(2 * m, 2 * x, reduction="none") * torch.exp(-v) + v).mean(),
}


def scanned(model: nn.Module, *inputs: Tensor) -> ScanResult:
    torch.manual_seed(0)
    return scan(model, *(inputs or (torch.rand(5, 4),)))


@pytest.mark.parametrize("name", PIXELS)
def test_a_likelihood_of_rescaled_data_is_found(name: str) -> None:
    heads = scanned(Decoder(PIXELS[name]))
    assert {(h.path, h.channels, h.role) for h in heads} == {
        ("encoder", "3:6", "posterior"),
        ("decoder", "4:8", "likelihood"),
    }, f"{heads}"


@pytest.mark.parametrize("name", PIXELS)
def test_the_likelihood_of_an_autoencoder_without_noise_is_no_flow(name: str) -> None:
    heads = scanned(Autoencoder(PIXELS[name]))
    assert [(h.path, h.channels, h.role) for h in heads] == [("decoder", "4:8", "likelihood")], heads.why_not()


class Sigma(nn.Module):
    """One learned variance of all pixels."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.encoder, self.decoder, self.loss = nn.Linear(4, 3), nn.Linear(3, 4), loss
        self.log_var = nn.Parameter(torch.tensor(-0.5))

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x)
        return self.loss(self.decoder(z + torch.randn_like(z)), self.log_var, x) + z.square().mean()


SUMS: dict[str, Loss] = {
    "sum": lambda y, v, x: F.mse_loss(y, x, reduction="sum") / len(x) / (2 * v.exp()) + 4 * v / 2,
    "mean": lambda y, v, x: 0.5 * (F.mse_loss(y, x) / v.exp() + v),
    "module": lambda y, v, x: nn.MSELoss()(y, x) * torch.exp(-v) + v,
    "mean times their number": lambda y, v, x: F.mse_loss(y, x) * x.numel() / (2 * v.exp()) + x.numel() * v / 2,
    "rescaled": lambda y, v, x: F.mse_loss(255 * y, 255 * x, reduction="sum") / (2 * v.exp()) + x.numel() * v / 2,
    "norm": lambda y, v, x: torch.norm(y - x) ** 2 / (2 * v.exp()) + x.numel() * v / 2,
    "norm of rows": lambda y, v, x: (torch.norm(y - x, dim=1) ** 2 / (2 * v.exp()) + 4 * v / 2).mean(),
    "batch mean": lambda y, v, x: F.mse_loss(y, x, reduction="sum") / len(x) * torch.exp(-v) * 0.5 + 0.5 * 4 * v,
    "float16": lambda y, v, x: (F.mse_loss(y.half(), x.half()) / (2 * v.half().exp()) + v.half() / 2).float(),
    "distance": lambda y, v, x: torch.dist(y, x) ** 2 / (2 * v.exp()) + x.numel() * v / 2,
    "distances of rows": lambda y, v, x: (F.pairwise_distance(y, x) ** 2 / (2 * v.exp()) + 4 * v / 2).mean(),
    "einsum": lambda y, v, x: (torch.einsum("bi,bi->b", y - x, y - x) / (2 * v.exp()) + 4 * v / 2).mean(),
    "einsum over all": lambda y, v, x: torch.einsum("bi,bi->", y - x, y - x) / (2 * v.exp()) + x.numel() * v / 2,
    "inner product": lambda y, v, x: (y - x).flatten() @ (y - x).flatten() / (2 * v.exp()) + x.numel() * v / 2,
    "bmm": lambda y, v, x: (
        torch.bmm((y - x)[:, None], (y - x)[:, :, None])[:, 0, 0] / (2 * v.exp()) + 4 * v / 2
    ).mean(),
    "mm": lambda y, v, x: ((y - x).view(1, -1) @ (y - x).view(-1, 1) / (2 * v.exp()) + x.numel() * v / 2).squeeze(),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", SUMS)
def test_a_squared_error_that_is_added_up_in_one_operation_shows_the_likelihood(name: str) -> None:
    torch.manual_seed(0)
    model, x = Sigma(SUMS[name]), torch.rand(5, 4)
    heads = scan(model, x)
    assert [(h.path, h.role, str(h.convention)) for h in heads] == [("log_var", "likelihood", "log_variance")]
    # the loss reads the raw value twice, and neither reading stands in a method of the model: both are patched
    patch(model, likelihood="bounded(0.1, 1)", heads=heads).unpatch()


@pytest.mark.filterwarnings("ignore:no Normal head")
@pytest.mark.parametrize(
    "loss",
    [
        lambda y, v, x: F.mse_loss(y, x, reduction="sum") + v.square(),
        lambda y, v, x: F.mse_loss(y, x) * v.exp(),
        lambda y, v, x: torch.norm(y - x) / v.exp() + v,  # of Laplace's kind: no square
        lambda y, v, x: torch.dist(y, x) / v.exp() + v,
        lambda y, v, x: torch.dist(y, x, p=1) ** 2 / v.exp() + v * x.numel() / 2,
        lambda y, v, x: torch.einsum("bi,bi->b", y - x, x).mean() / v.exp() + v,  # linear in the mean
        lambda y, v, x: (y - x).flatten() @ (y - x).flatten().flip(0) / (2 * v.exp()) + 10 * v,  # no sum of squares
        lambda y, v, x: F.l1_loss(y, x) / v.exp() + v,
    ],
)
def test_other_weights_of_an_error_are_no_scale(loss: Loss) -> None:
    assert not scanned(Sigma(loss))


class Diffusion(nn.Module):
    """Learned variances between two bounds; the mean is a x_t + b ε, as in "Improved denoising diffusion"."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 8)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        noisy = 0.8 * x + 0.6 * noise
        eps, v = self.net(torch.cat([noisy, t], 1)).chunk(2, 1)
        low, high = math.log(0.01), math.log(0.05)
        log_var = (v + 1) / 2 * high + (1 - (v + 1) / 2) * low
        mean = 1.1 * noisy - 0.3 * (1.2 * noisy - 0.4 * eps.detach())
        true = 0.4 * x + 0.5 * noisy
        kl = 0.5 * (-1.0 + log_var - low + torch.exp(low - log_var) + (true - mean) ** 2 * torch.exp(-log_var))
        return (eps - noise).square().mean() + kl.mean(1).mean() / math.log(2)


def test_the_learned_variance_of_a_diffusion_model_is_found() -> None:
    heads = scanned(Diffusion(), torch.rand(5, 4), torch.rand(5, 1))
    assert [(h.path, h.channels) for h in heads] == [("net", "4:8")]


class Masked(nn.Module):
    """A masked autoregressive flow: the scale of each element is of those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))
        self.register_buffer("mask", torch.ones(4, 4).tril(-1))

    def forward(self, x: Tensor) -> Tensor:
        raw, mean = x @ (self.weight * self.mask).t(), x @ (self.shift * self.mask).t()
        return (0.5 * ((x - mean) * torch.exp(-raw)) ** 2 + raw).mean()


class Coupling(nn.Module):
    """Half of the data is scaled by a function of the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 8)
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.net(x * self.mask).chunk(2, 1)
        return (0.5 * ((x - mean) * torch.exp(-raw)) ** 2 + raw).mean()


@pytest.mark.filterwarnings("ignore:no Normal head")
@pytest.mark.parametrize("build", [Masked, Coupling])
def test_a_flow_of_the_data_stays_a_near_miss(build: type[nn.Module]) -> None:
    heads = scanned(build())
    assert not heads
    assert "as a flow's is" in heads.why_not()


@pytest.mark.medium
def test_no_call_of_ours_imports_the_compiler_or_a_computer_algebra() -> None:
    lines = (
        "import io, sys, torch, vdvae_patch",
        "from torch.distributions import Normal, kl_divergence",
        "class VAE(torch.nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        "        self.encoder, self.decoder = torch.nn.Linear(4, 6), torch.nn.Linear(3, 4)",
        "    def forward(self, x):",
        "        mean, raw = self.encoder(x).chunk(2, 1)",
        "        q = Normal(mean, raw.exp())",
        "        kl = kl_divergence(q, Normal(torch.zeros(3), torch.ones(3))).sum(1).mean()",
        "        return torch.nn.functional.mse_loss(self.decoder(q.rsample()), x) + kl",
        "model, x = VAE(), torch.randn(5, 4)",
        "heads = vdvae_patch.scan(model, x)",
        "assert len(heads) == 1",
        "vdvae_patch.patch(model, 'explin', heads=heads).unpatch()",
        "vdvae_patch.stabilize(model, x, file=io.StringIO())",
        "model(x).backward()",
        "assert not {'torch._dynamo', 'torch._inductor', 'sympy'} & sys.modules.keys()",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
