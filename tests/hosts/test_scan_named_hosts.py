"""The entries of code bases by name: the real diffusers and pythae, look-alikes of NVAE's and Efficient-VDVAE's
heads."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch import scales
from vdvae_patch.errors import HostError
from vdvae_patch.hosts import HOSTS, get_upstream
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def diffusers_loss(model: Any, x: Tensor) -> Tensor:
    posterior = model.encode(x).latent_dist
    return ((model.decode(posterior.sample()).sample - x) ** 2).mean() + 1e-3 * posterior.kl().mean()


def small_autoencoder() -> tuple[Any, Tensor]:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    entry = HOSTS.get("diffusers")
    arguments = {"block_out_channels": (16,), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 8}
    return entry.build({"diffusers": diffusers}, arguments), torch.randn(2, 3, 8, 8)


def test_diffusers_entry_and_scan_find_the_same_head() -> None:
    model, x = small_autoencoder()
    (head,) = HOSTS.get("diffusers").heads(model)
    (found,) = scan(model, x, call=diffusers_loss)
    assert (found.path, found.start, found.stop, found.role) == (head.path, head.start, head.stop, head.role)
    assert found.sites == head.sites


def test_a_patched_diffusers_autoencoder_samples_with_the_scale_past_its_own_clamp_and_trains() -> None:
    model, x = small_autoencoder()
    before = model.encode(x).latent_dist.std
    with torch.no_grad():
        model.quant_conv.bias[4:] -= 40
    handle = patch(model, posterior="explin", heads=HOSTS.get("diffusers").heads(model), paper=True)
    raw = model.quant_conv(model.encoder(x)).chunk(2, 1)[1]
    distribution = model.encode(x).latent_dist
    torch.testing.assert_close(distribution.logvar, 2 * scales.get("explin").log_sigma(raw))
    assert float(distribution.logvar.max()) < -30
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        loss = diffusers_loss(model, x)
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    handle.unpatch()
    assert before.shape == model.encode(x).latent_dist.std.shape
    assert float(model.encode(x).latent_dist.logvar.min()) >= -30


PYTHAE = {
    "VAE": "log_variance",
    "BetaVAE": "log_variance",
    "VAMP": "log_variance",
    "IWAE": "log_variance",
    "HVAE": "softplus",
    "VAE_IAF": "log_variance",
}


@pytest.mark.medium
@pytest.mark.parametrize("name", PYTHAE)
def test_pythae_entry_and_scan_agree_and_the_patched_model_trains(name: str) -> None:
    models = pytest.importorskip("pythae.models")
    from pythae.data.datasets import DatasetOutput

    torch.manual_seed(0)
    model = HOSTS.get("pythae").build(
        {"pythae.models": models}, {"model": name, "input_dim": (1, 4, 4), "latent_dim": 3}
    )
    batch = DatasetOutput(data=torch.rand(6, 1, 4, 4))

    def loss(model: Any, batch: Any) -> Tensor:
        return model(batch).loss

    heads, found = HOSTS.get("pythae").heads(model), scan(model, batch, call=loss)
    known = [(head.path, head.role) for head in heads]
    assert [head for head in found if (head.path, head.role) in known] == heads
    # a VampPrior's is the posterior's own layer, whose output the entry patches for both
    assert [(h.path, h.role) for h in found][len(heads) :] == ([("encoder.log_var", "prior")] if name == "VAMP" else [])
    assert str(found[0].convention) == PYTHAE[name]
    patch(model, posterior="explin", **({"prior": "explin"} if name == "VAMP" else {}), heads=found)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
    assert torch.isfinite(value)


@pytest.mark.filterwarnings("ignore:no Normal head")
def test_pythaes_plain_autoencoder_has_no_head() -> None:
    models = pytest.importorskip("pythae.models")
    from pythae.data.datasets import DatasetOutput

    model = models.AE(models.AEConfig(input_dim=(1, 4, 4), latent_dim=3))
    assert scan(model, DatasetOutput(data=torch.rand(6, 1, 4, 4)), call=lambda m, b: m(b).loss) == []
    with pytest.raises(HostError, match="AE has no Normal head"):
        HOSTS.get("pythae").heads(model)


def test_the_manifest_pins_both_and_says_that_nvae_is_not_for_commercial_use() -> None:
    nvae, efficient = get_upstream("nvae"), get_upstream("efficient_vdvae")
    assert nvae.commit == "9fc1a288fb831c87d93a4e2663bc30ccf9225b29"
    assert "NVIDIA" in nvae.license
    assert "non-commercial use only" in nvae.note
    assert {"model.py", "distributions.py", "utils.py"} < nvae.importable().keys()
    assert efficient.commit == "f779c40f24bbd69129bf477593baf4792f05147e"
    assert {"hparams.cfg", "model/latent_layers.py"} < efficient.importable().keys()


# --- NVAE's look-alike: the names that its patch file looks for ------------------------------------------------------


@torch.jit.script
def soft_clamp5(x: Tensor) -> Tensor:
    return x.div(5.0).tanh_().mul(5.0)


class Normal:
    def __init__(self, mu: Tensor, log_sigma: Tensor, temp: float = 1.0) -> None:
        self.mu = soft_clamp5(mu)
        log_sigma = soft_clamp5(log_sigma)
        self.sigma = torch.exp(log_sigma) + 1e-2
        if temp != 1.0:
            self.sigma *= temp

    def draw(self) -> Tensor:
        return self.mu + self.sigma * torch.randn_like(self.mu)

    def kl(self, other: Normal) -> Tensor:
        a, b = (self.mu - other.mu) / other.sigma, self.sigma / other.sigma
        return 0.5 * (a * a + b * b) - 0.5 - torch.log(b)


class LikeNVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.enc_sampler = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(2))
        self.dec_sampler = nn.ModuleList([nn.Sequential(nn.ELU(), nn.Conv2d(4, 8, 1))])
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        ftr = self.stem(x)
        mu_q, log_sig_q = torch.chunk(self.enc_sampler[0](ftr), 2, dim=1)
        dist = Normal(mu_q, log_sig_q)
        z = dist.draw()
        kl = dist.kl(Normal(mu=torch.zeros_like(z), log_sigma=torch.zeros_like(z)))
        mu_p, log_sig_p = torch.chunk(self.dec_sampler[0](z), 2, dim=1)
        mu_q, log_sig_q = torch.chunk(self.enc_sampler[1](ftr), 2, dim=1)
        self.q = dist = Normal(mu_p + mu_q, log_sig_p + log_sig_q)
        z = z + dist.draw()
        self.p = Normal(mu_p, log_sig_p)
        self.raws = log_sig_p, log_sig_q
        return (kl + dist.kl(self.p)).mean() + F.mse_loss(self.out(z), x)

    def sample(self, z: Tensor, t: float) -> Tensor:
        mu, log_sigma = torch.chunk(self.dec_sampler[0](z), 2, dim=1)
        self.log_sigma = log_sigma
        dist = Normal(mu, log_sigma, t)
        return dist.sigma


def test_nvae_entry_gives_each_role_its_scale_of_the_summed_raw_parameter() -> None:
    torch.manual_seed(0)
    model = LikeNVAE()
    heads = HOSTS.get("nvae").heads(model)
    assert [(h.path, h.role) for h in heads] == [
        ("enc_sampler.0", "posterior"),
        ("enc_sampler.1", "posterior"),
        ("dec_sampler.0", "prior"),
    ]
    patch(model, "explin/upbounded", heads=heads)
    assert torch.isfinite(model(torch.randn(2, 3, 4, 4)))
    raw_p, raw_q = model.raws
    torch.testing.assert_close(model.q.sigma, scales.get("explin").sigma(raw_p + raw_q))
    torch.testing.assert_close(model.p.sigma, scales.get("upbounded").sigma(raw_p))
    sampled = model.sample(torch.randn(2, 4, 4, 4), 0.7)
    torch.testing.assert_close(sampled, 0.7 * scales.get("upbounded").sigma(model.log_sigma))


# --- Efficient-VDVAE's look-alike -----------------------------------------------------------------------------------

hparams = types.SimpleNamespace(
    model=types.SimpleNamespace(
        distribution_base="std", gradient_smoothing_beta=0.6931472, use_residual_distribution=False
    )
)


class GaussianLatentLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv2d(4, 6, 1)
        self.softplus = nn.Softplus(beta=hparams.model.gradient_smoothing_beta)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = torch.chunk(self.projection(x), chunks=2, dim=1)
        if hparams.model.distribution_base == "std":
            return mean, self.softplus(std)
        return mean, torch.exp(hparams.model.gradient_smoothing_beta * std)


class LikeEfficientBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prior_layer, self.posterior_layer = GaussianLatentLayer(), GaussianLatentLayer()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.prior_layer(x)[1], self.posterior_layer(x)[1]


@pytest.mark.parametrize("base", ["std", "logstd"])
def test_efficient_vdvae_entry_reads_the_configuration(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hparams.model, "distribution_base", base)
    torch.manual_seed(0)
    model, x = LikeEfficientBlock(), torch.randn(2, 4, 3, 3)
    raw_p, raw_q = (layer.projection(x).chunk(2, 1)[1] for layer in (model.prior_layer, model.posterior_layer))
    patch(model, "explin/upbounded", heads=HOSTS.get("efficient_vdvae").heads(model))
    sigma_p, sigma_q = model(x)
    torch.testing.assert_close(sigma_q, scales.get("explin").sigma(raw_q))
    torch.testing.assert_close(sigma_p, scales.get("upbounded").sigma(raw_p))


def test_efficient_vdvae_entry_refuses_a_base_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hparams.model, "distribution_base", "logvar")
    with pytest.raises(HostError, match="distribution_base is 'logvar'; known are 'std' and 'logstd'"):
        HOSTS.get("efficient_vdvae").heads(LikeEfficientBlock())


@pytest.mark.parametrize("base", ["std", "logstd"])
@pytest.mark.parametrize("variant", ["explin/upbounded", "explin/constant"])
def test_efficient_vdvaes_residual_posterior_follows_the_sum_of_raw_values(
    base: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hparams.model, "distribution_base", base)
    monkeypatch.setattr(hparams.model, "use_residual_distribution", True)
    torch.manual_seed(0)
    model, x = LikeEfficientBlock(), torch.randn(2, 4, 3, 3)
    raw_p, raw_q = (layer.projection(x).chunk(2, 1)[1] for layer in (model.prior_layer, model.posterior_layer))
    patch(model, variant, heads=HOSTS.get("efficient_vdvae").heads(model))
    prior: Any = model.prior_layer(x, return_sample=False)
    posterior: Any = model.posterior_layer(x, prior_stats=prior, return_sample=False)
    q, p = (scales.get(name) for name in variant.split("/"))
    sigma_p, sigma_q = (
        stats[1] if base == "std" else torch.exp(hparams.model.gradient_smoothing_beta * stats[1])
        for stats in (prior, posterior)
    )
    torch.testing.assert_close(sigma_p, p.sigma(raw_p))
    torch.testing.assert_close(sigma_q, q.sigma(raw_p + raw_q))
