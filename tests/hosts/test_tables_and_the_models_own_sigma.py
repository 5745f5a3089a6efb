"""What the tables of a patch show of σ, beside the σ that the model itself computes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch
from vdvae_patch.patching import measure

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))


class OneLayerForBoth(nn.Module):
    """One layer gives the posterior's σ and the prior's, of other inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.of_data, self.of_condition, self.last = nn.Linear(8, 8), nn.Linear(2, 8), nn.Linear(8, 6)
        self.decoder = nn.Linear(3, 8)

    def sigmas(self, x: Tensor) -> tuple[Normal, Normal]:
        mu, log_sigma = self.last(self.of_data(x)).chunk(2, 1)
        prior_mu, prior_log_sigma = self.last(self.of_condition(x[:, :2])).chunk(2, 1)
        return Normal(mu, log_sigma.exp()), Normal(prior_mu, prior_log_sigma.exp())

    def forward(self, x: Tensor) -> Tensor:
        posterior, prior = self.sigmas(x)
        return ((self.decoder(posterior.rsample()) - x) ** 2).sum(1).mean() + kl_divergence(posterior, prior).mean()


def _extremes(sigma: Tensor) -> tuple[float, float]:
    return float(sigma.detach().min()), float(sigma.detach().max())


def test_two_heads_of_one_layer_are_shown_apart() -> None:
    model = OneLayerForBoth()
    right = [_extremes(q.scale) for q in model.sigmas(X)]
    handle = vdvae_patch.patch(model, "explin/bounded(0.001, 1000)", heads=vdvae_patch.scan(model, X))
    now = [_extremes(q.scale) for q in model.sigmas(X)]
    for shown, before, after in zip(handle.heads, right, now, strict=True):
        assert shown.before is not None
        assert shown.after is not None
        assert (shown.before.low, shown.before.high) == pytest.approx(before, rel=1e-4)
        assert (shown.after.low, shown.after.high) == pytest.approx(after, rel=1e-4)


def test_two_heads_of_one_layer_with_one_scale_are_shown_apart_too() -> None:
    model = OneLayerForBoth()
    right = [_extremes(q.scale) for q in model.sigmas(X)]
    shown = vdvae_patch.patch(model, "explin/explin", heads=vdvae_patch.scan(model, X)).heads
    assert [(h.before.low, h.before.high) for h in shown if h.before] == [pytest.approx(r, rel=1e-4) for r in right]


class OneLineForBoth(nn.Module):
    """A helper of one line makes the posterior and the prior of what two networks put out, as Dreamer's models do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.of_condition, self.decoder = nn.Linear(8, 6), nn.Linear(2, 6), nn.Linear(3, 8)
        with torch.no_grad():
            self.of_condition.bias[3:] = 2.0

    def law(self, h: Tensor) -> Normal:
        mu, raw = h.chunk(2, 1)
        return Normal(mu, nn.functional.softplus(raw) + 0.1)

    def laws(self, x: Tensor) -> tuple[Normal, Normal]:
        return self.law(self.encoder(x)), self.law(self.of_condition(x[:, :2]))

    def forward(self, x: Tensor) -> Tensor:
        posterior, prior = self.laws(x)
        return ((self.decoder(posterior.rsample()) - x) ** 2).sum(1).mean() + kl_divergence(posterior, prior).mean()


class OneLineForASeries(OneLineForBoth):
    """The laws of a series are made at once, of what the networks put out step by step."""

    def laws(self, x: Tensor) -> tuple[Normal, Normal]:
        steps = range(3)
        return (
            self.law(torch.cat([self.encoder(x + t) for t in steps])),
            self.law(torch.cat([self.of_condition(x[:, :2] + t) for t in steps])),
        )

    def forward(self, x: Tensor) -> Tensor:
        posterior, prior = self.laws(x)
        mse = (self.decoder(posterior.rsample()) - x.repeat(3, 1)) ** 2
        return mse.sum(1).mean() + kl_divergence(posterior, prior).mean()


@pytest.mark.parametrize("build", [OneLineForBoth, OneLineForASeries])
def test_two_heads_that_one_line_computes_are_shown_apart(build: type[OneLineForBoth]) -> None:
    model = build()
    right = {h: _extremes(q.scale) for h, q in zip(("posterior", "prior"), model.laws(X), strict=True)}
    shown = vdvae_patch.patch(model, "explin/explin", heads=vdvae_patch.scan(model, X), paper=False).heads
    now = {h: _extremes(q.scale) for h, q in zip(("posterior", "prior"), model.laws(X), strict=True)}
    for head in shown:
        assert head.before is not None
        assert head.after is not None
        assert (head.before.low, head.before.high) == pytest.approx(right[head.head.role], rel=1e-4)
        assert (head.after.low, head.after.high) == pytest.approx(now[head.head.role], rel=1e-4)


def test_where_nothing_tells_two_heads_of_one_line_apart_their_numbers_say_so() -> None:
    model = OneLineForBoth()
    for layer in (model.encoder, model.of_condition):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    shown = vdvae_patch.patch(model, "explin/explin", heads=vdvae_patch.scan(model, X), paper=False).heads
    assert all(str(head.before).endswith(", of 2 heads together") for head in shown)


class OneLineForLevels(nn.Module):
    def __init__(self, levels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoders, self.decoder = nn.ModuleList(nn.Linear(8, 6) for _ in range(levels)), nn.Linear(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        h, kl = x, torch.zeros(len(x))
        for encoder in self.encoders:
            mu, raw = encoder(h).chunk(2, 1)
            sigma = nn.functional.softplus(raw) + 0.1
            h = h + self.decoder(mu + sigma * torch.randn_like(mu))
            kl = kl + (0.5 * (sigma**2 + mu**2 - 1) - sigma.log()).sum(1)
        return (((h - x) ** 2).sum(1) + kl).mean()


def test_what_the_levels_of_one_line_emitted_is_compared_once_and_not_for_every_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 24 heads with 65,536 raw values each, it was 36 of the 50 seconds that a patch took."""
    compared: list[int] = []
    fingerprint = measure._fingerprint
    monkeypatch.setattr(measure, "_fingerprint", lambda values: compared.append(1) or fingerprint(values))
    model = OneLineForLevels(4)
    shown = vdvae_patch.patch(model, "downbounded(0.1)", heads=vdvae_patch.scan(model, X)).heads
    assert [head.before.heads for head in shown if head.before] == [1] * 4
    assert len({head.before.median for head in shown if head.before}) == 4
    assert len(compared) == 3 * 4  # of each head what was seen, what a call emitted, and what all did


def test_of_two_scales_of_one_layer_the_account_says_neither_that_they_are_one_nor_that_its_output_is_patched() -> None:
    out = io.StringIO()
    vdvae_patch.stabilize(OneLayerForBoth(), X, posterior="explin", prior="bounded(0.001, 1000)", file=out)
    assert "where it is called" in out.getvalue()
    assert "module's output" not in out.getvalue()


class TimesTheData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(4, 8)

    def factor(self, x: Tensor) -> Tensor:
        return 1 + x[:, :1].abs()

    def forward(self, x: Tensor) -> Tensor:
        mu, log_sigma = self.encoder(x).chunk(2, 1)
        sigma = log_sigma.exp() * self.factor(x)
        z = mu + sigma * torch.randn_like(mu)
        return ((self.decoder(z) - x) ** 2).mean() + (0.5 * (sigma**2 + mu**2) - sigma.log()).mean()


class TimesANumber(TimesTheData):
    def factor(self, x: Tensor) -> Tensor:
        return torch.full((len(x), 1), 0.7)


def test_a_factor_of_each_example_is_said_wherever_sigma_is_shown() -> None:
    with pytest.warns(UserWarning, match="σ has another number in it for each element"):
        vdvae_patch.patch(model := TimesTheData(), "explin", heads=vdvae_patch.scan(model, X))
    assert "σ has another number in it for each element" in str(vdvae_patch.scan(TimesTheData(), X))
    out = io.StringIO()
    vdvae_patch.stabilize(TimesTheData(), X, file=out)
    assert "note: encoder: at " in out.getvalue()


def test_one_factor_for_all_is_part_of_sigma() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vdvae_patch.patch(model := TimesANumber(), "explin", heads=vdvae_patch.scan(model, X))


class Masked(nn.Module):
    """A VAE some of whose latents are absent."""

    def __init__(self, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mask = mask
        self.mean, self.log_var, self.out = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor, absent: Tensor) -> Tensor:
        mean, log_var = self.mean(x), self.mask(self.log_var(x), absent)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp())
        return ((self.out(z) - x) ** 2).sum(1).mean() + kl.sum(1).mean()


@pytest.mark.parametrize(
    "mask",
    [
        lambda raw, absent: raw.masked_fill(absent, 0.0),
        lambda raw, absent: torch.where(absent, torch.zeros_like(raw), raw),
        lambda raw, absent: raw * (~absent).float(),
    ],
)
@pytest.mark.parametrize("some", [True, False])
def test_that_a_mask_leaves_some_sigma_to_the_host_is_said(
    mask: Callable[[Tensor, Tensor], Tensor], some: bool
) -> None:
    absent = torch.zeros(12, 4, dtype=torch.bool)
    absent[6:, 2] = some
    heads = vdvae_patch.scan(Masked(mask), torch.randn(12, 6), absent)
    assert any("a mask takes some elements out" in warning for warning in heads.warnings) is some
