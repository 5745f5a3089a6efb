"""A patch replaces the expressions that the scanned call ran; others of the model's code that compute σ are told."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(4, 8)
        self.sigma = torch.empty(0)

    def loss(self, x: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
        self.sigma = sigma.detach()
        z = mu + sigma * torch.randn_like(mu)
        return ((self.decoder(z) - x) ** 2).mean() + (0.5 * (sigma**2 + mu**2) - sigma.log()).mean()


class BesideTraining(VAE):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.encoder(x).chunk(2, 1)
        return self.loss(x, mu, F.softplus(raw) + 1e-3)

    def sample_code(self, x: Tensor) -> Tensor:
        self.sigma = F.softplus(self.encoder(x).chunk(2, 1)[1]) + 1e-3
        return self.sigma * torch.randn_like(self.sigma)

    def entropy(self, x: Tensor) -> Tensor:
        return F.softplus(x).sum()


class OtherNumber(VAE):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.encoder(x).chunk(2, 1)
        return self.loss(x, mu, F.softplus(raw) + 1e-3)

    def sample_code(self, x: Tensor) -> Tensor:
        return F.softplus(x) + 1e-2


class OtherBranch(VAE):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.encoder(x).chunk(2, 1)
        sigma = F.softplus(raw) + 1e-3 if self.training else 1e-3 + F.softplus(raw)
        return self.loss(x, mu, sigma)


class OneMethod(VAE):
    def scale(self, raw: Tensor) -> Tensor:
        return F.softplus(raw) + 1e-3

    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.encoder(x).chunk(2, 1)
        return self.loss(x, mu, self.scale(raw))

    def sample_code(self, x: Tensor) -> Tensor:
        return self.scale(self.encoder(x).chunk(2, 1)[1])


def test_a_method_that_the_call_did_not_run_keeps_its_own_sigma_and_it_is_said() -> None:
    model = BesideTraining()
    with pytest.warns(UserWarning, match=r"in BesideTraining\.sample_code, is written like what is replaced"):
        vdvae_patch.patch(model, "bounded(0.3, 0.4)", heads=vdvae_patch.scan(model, X))
    model(X)
    assert model.sigma.max() < 0.4
    model.sample_code(X)
    assert model.sigma.max() > 0.4
    out = io.StringIO()
    vdvae_patch.stabilize(BesideTraining(), X, posterior="bounded(0.3, 0.4)", file=out)
    assert "in BesideTraining.sample_code, is written like what is replaced" in out.getvalue()


@pytest.mark.medium
def test_a_call_that_runs_both_patches_both() -> None:
    model = BesideTraining()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heads = vdvae_patch.scan(model, X, call=lambda model, x: model(x) + model.sample_code(x).sum())
        vdvae_patch.patch(model, "bounded(0.3, 0.4)", heads=heads)
    for call in (model, model.sample_code):
        call(X)
        assert model.sigma.max() < 0.4


def test_an_expression_with_another_number_is_another_one() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vdvae_patch.patch(model := OtherNumber(), "bounded(0.3, 0.4)", heads=vdvae_patch.scan(model, X))


def test_a_branch_that_evaluation_takes_is_said() -> None:
    model = OtherBranch()
    with pytest.warns(UserWarning, match=r"`0.001 \+ F.softplus\(raw\)` in OtherBranch.forward"):
        vdvae_patch.patch(model, "bounded(0.3, 0.4)", heads=vdvae_patch.scan(model, X))


class Overridden(BesideTraining):
    """Its own forward and sample_code: nobody calls those of its base."""

    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.encoder(x).chunk(2, 1)
        return self.loss(x, mu, F.softplus(raw) + 1e-3)

    def sample_code(self, x: Tensor) -> Tensor:
        return x


class CallsItsBase(Overridden):
    def sample_code(self, x: Tensor) -> Tensor:
        return super(Overridden, self).sample_code(x)


def test_what_a_subclass_overrides_is_not_said_unless_it_calls_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vdvae_patch.patch(model := Overridden(), "bounded(0.3, 0.4)", heads=vdvae_patch.scan(model, X))
    with pytest.warns(UserWarning, match=r"in BesideTraining\.sample_code, is written like what is replaced"):
        vdvae_patch.patch(model := CallsItsBase(), "bounded(0.3, 0.4)", heads=vdvae_patch.scan(model, X))


def test_a_method_that_both_call_is_patched_for_both() -> None:
    model = OneMethod()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vdvae_patch.patch(model, "bounded(0.3, 0.4)", heads=vdvae_patch.scan(model, X))
    assert model.sample_code(X).max() < 0.4


class Residual(VAE):
    """A posterior that adds to its prior, so that all that reads the prior's raw value is replaced; or a prior of
    parameters, in a density."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.first = nn.Linear(4, 8), nn.Linear(8, 4)
        self.log_sigma = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        m, p = self.prior(self.first(x)).chunk(2, 1)
        mu, raw = self.encoder(x).chunk(2, 1)
        q = p + raw
        kl = p - q + 0.5 * (torch.exp(2 * (q - p)) + (mu * torch.exp(-p)) ** 2)
        z = mu + m + torch.exp(q) * torch.randn_like(mu)
        error = (self.decoder(z)[:, :4] - x[:, :4]) * torch.exp(-self.log_sigma)
        return (0.5 * error**2 + self.log_sigma).mean() + kl.mean()


class Sampled(Residual):
    def sample_code(self, z: Tensor) -> Tensor:
        m, p = self.prior(z).chunk(2, 1)
        return m + p.exp() * torch.randn_like(m)


class Read(Residual):
    def noise(self) -> Tensor:
        return torch.exp(self.log_sigma / 1)


class Mean(Residual):
    def code(self, z: Tensor) -> Tensor:
        return self.prior(z)[:, :4]


class Encoded(VAE):
    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.encode(x).chunk(2, 1)
        return self.loss(x, mu, torch.exp(raw.clamp(-3, 3)))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (Sampled, r"`self\.prior\(z\)` in Sampled\.sample_code, which the scanned call did not run, reads a raw value"),
        (Read, r"`self\.log_sigma / 1` in Read\.noise, which the scanned call did not run, reads a raw value"),
        (Encoded, r"Encoded\.encode gives raw values as before, and σ is replaced behind it, at .*py:\d+: a σ that"),
    ],
)
def test_code_that_reads_a_raw_value_and_writes_sigma_in_other_words_is_said(build: type[VAE], said: str) -> None:
    heads = vdvae_patch.scan(model := build(), X)
    with pytest.warns(UserWarning, match=said):
        vdvae_patch.patch(model, heads=heads, **{head.role: "bounded(0.3, 0.4)" for head in heads})


class Scored(VAE):
    """How far an image is from what its mean is decoded to, and its code from the prior's, beside a posterior that
    keeps within bounds; or a σ of the same raw value, by names of its parts."""

    def _parameters_of(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self._parameters_of(x).chunk(2, 1)
        return self.loss(x, mu, torch.exp(raw.clamp(-3, 3)))

    def score(self, x: Tensor) -> Tensor:
        mu = self.encoder(x).chunk(2, 1)[0]
        return (self.decoder(mu) - x).pow(2).mean(1).sqrt() + mu.pow(2).mean(1)

    def distance(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        mu, _ = h.chunk(2, dim=1)
        return torch.sqrt(torch.square(mu).sum(1) + h[:, :4].pow(2).sum(1) + h[..., 0:4].pow(2).sum(1))

    def code(self, x: Tensor) -> Tensor:
        return self._parameters_of(x).chunk(2, 1)[0]


class Drawn(Scored):
    def draw(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        mu, raw = h[:, :4], h[:, 4:]
        half = 0.5 * raw
        return mu + self.grown(half) * torch.randn_like(mu)

    def grown(self, value: Tensor) -> Tensor:
        return value.exp()


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class OfParts(VAE):
    """Its encoder has a class of its own, and what that gives is put within bounds behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Part()

    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.encoder(x).chunk(2, 1)
        return self.loss(x, mu, torch.exp(raw.clamp(-3, 3)))

    def code(self, x: Tensor) -> Tensor:
        return self.encoder(x)[:, :4]


class DrawnOfParts(OfParts):
    def draw(self, x: Tensor) -> Tensor:
        mu, raw = self.encoder(x).chunk(2, 1)
        return mu + (raw / 1).exp() * torch.randn_like(mu)


def test_a_part_that_gives_raw_values_is_said_where_another_method_computes_sigma_of_them() -> None:
    heads = vdvae_patch.scan(model := DrawnOfParts(), X)
    with pytest.warns(UserWarning, match=r"Part\.forward gives raw values as before, and σ is replaced behind it"):
        vdvae_patch.patch(model, heads=heads, posterior="bounded(0.3, 0.4)")


def drawn(mu: Tensor, raw: Tensor) -> Tensor:
    return mu + raw.exp() * torch.randn_like(mu)


class DrawnBeside(Scored):
    def draw(self, x: Tensor) -> Tensor:
        mu, raw = self.encoder(x).chunk(2, 1)
        return drawn(mu, raw)


@pytest.mark.parametrize("build", [Drawn, DrawnBeside])
def test_code_that_computes_sigma_of_a_part_by_a_method_or_a_function_of_its_own_is_said(build: type[VAE]) -> None:
    heads = vdvae_patch.scan(model := build(), X)
    with pytest.warns(UserWarning, match=r"`self\.encoder\(x\)` in \w+\.draw, which the scanned call did not run"):
        vdvae_patch.patch(model, heads=heads, posterior="bounded(0.3, 0.4)")


@pytest.mark.parametrize("build", [Mean, Scored, OfParts])
def test_code_that_reads_the_mean_beside_it_is_not_said(build: type[VAE], recwarn: pytest.WarningsRecorder) -> None:
    heads = vdvae_patch.scan(model := build(), X)
    vdvae_patch.patch(model, heads=heads, **{head.role: "bounded(0.3, 0.4)" for head in heads})
    assert not any("raw value" in str(warning.message) for warning in recwarn)
