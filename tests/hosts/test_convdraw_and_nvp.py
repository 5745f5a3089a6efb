"""The hosts of "Taming VAEs": what their densities are, what a patch keeps of them, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

import vdvae_patch
from vdvae_patch import load_host
from vdvae_patch.errors import HostError, InvalidValueError
from vdvae_patch.hosts.trainable import trainable
from vdvae_patch.train.probe import probe_heads

SMALL: dict[str, dict[str, Any]] = {
    "convdraw": {"channels": 2, "size": 8, "hidden": 5, "latents": 2, "steps": 3, "canvas": 3},
    "nvp_vae": {"channels": 2, "size": 8, "hidden": 8, "latents": 3, "couplings": 3},
}
NAMES = pytest.mark.parametrize("name", SMALL)


def build(name: str, **other: Any) -> Any:
    torch.manual_seed(0)
    model = load_host(name).build({**SMALL[name], **other})
    for parameter in model.parameters():  # couplings begin as the identity
        if float(parameter.detach().abs().max()) == 0 and parameter.dim():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def images(count: int = 4, channels: int = 2) -> Tensor:
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("seed", [0, 1])
def test_no_unit_of_the_flows_encoder_dies_at_a_raised_learning_rate(seed: int) -> None:
    """With plain rectifiers most channels were 0 for every image by here, and on Color-MNIST all of them."""
    torch.manual_seed(seed)
    model = load_host("nvp_vae").build({"channels": 3, "size": 16, "hidden": 32, "latents": 8, "couplings": 2})
    x = torch.zeros(32, 3, 16, 16)
    for image, corner in zip(x.flatten(0, 1), torch.randint(0, 10, (96, 2)).tolist(), strict=True):
        image[corner[0] : corner[0] + 6, corner[1] : corner[1] + 6] = 1
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        z, log_q = model.infer(x)
        rate, error = (log_q - model.log_prior(z)).mean(), (model.decode(z) - x).square().mean()
        optimizer.zero_grad()
        (rate + 800 * error).backward()
        optimizer.step()
    with torch.no_grad():
        seen = x
        for layer in model.encoder:
            seen = layer(seen)
            assert (seen.flatten(2) if seen.dim() > 2 else seen[..., None]).std(dim=0).amax(dim=1).min() > 1e-6, layer


def test_every_step_of_a_convdraw_has_the_kl_of_its_two_normals() -> None:
    model, seen = build("convdraw"), {"posterior": [], "prior": []}
    for name, kept in seen.items():
        getattr(model, name).register_forward_hook(lambda _, given, out, kept=kept: kept.append(out.detach()))
    drawn, rates, _ = model.infer(images())
    assert list(rates) == ["z1", "z2", "z3"]
    for z, rate, q, p in zip(drawn, rates.values(), seen["posterior"], seen["prior"], strict=True):
        mean_q, mean_p = q[:, :2], p[:, :2]
        wanted = kl_divergence(Normal(mean_q, q[:, 2:].exp()), Normal(mean_p, p[:, 2:].exp()))
        torch.testing.assert_close(rate, wanted.sum(dim=(1, 2, 3)))
        assert z.shape == (4, 2, 2, 2)


def test_a_convdraw_draws_only_the_latents_that_are_not_given() -> None:
    model, x = build("convdraw"), images()
    drawn, _, canvas = model.infer(x)
    torch.testing.assert_close(model.generate(4, given=drawn), canvas)
    for count in range(3):
        made = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            made.append(model.generate(4, given=drawn[:count]))
        assert torch.equal(made[0], made[1])
        assert not torch.equal(made[0], made[2])


def test_a_conditional_convdraw_depends_on_its_context_and_needs_it() -> None:
    model, x = build("convdraw", context=1), images()
    context = images(channels=1)
    results = []
    for given in (context, 1 - context):
        torch.manual_seed(3)
        results.append((model(x, given)["elbo"], model.sample(4, context=given)))
    assert all(not torch.equal(one, other) for one, other in zip(*results, strict=True))
    with pytest.raises(ValueError, match="context=0"):
        model(x)
    with pytest.raises(ValueError, match="context=0"):
        build("convdraw")(x, context)


@pytest.mark.parametrize("latents", [2, 3])
def test_a_flow_gives_a_draw_the_density_that_it_has_by_the_layers_backwards(latents: int) -> None:
    model, x = build("nvp_vae", latents=latents).double(), images().double()
    z, log_q = model.infer(x)
    torch.testing.assert_close(model.log_posterior(z, model.encoder(x)), log_q)


def test_a_flow_is_a_density() -> None:
    model, x = build("nvp_vae", latents=2).double(), images(1).double()
    line = torch.linspace(-12, 12, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        code = model.encoder(x).expand(len(grid), -1)
        mass = model.log_posterior(grid, code).exp().sum() * (line[1] - line[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-3)


@NAMES
def test_the_loss_is_the_sum_of_its_parts_by_the_formulas(name: str) -> None:
    model, x = build(name), images()
    torch.manual_seed(2)
    out = model(x)
    torch.manual_seed(2)
    if name == "convdraw":
        _, rates, canvas = model.infer(x)
        rate, mean = sum(rates.values()), model.emit(canvas)
    else:
        z, log_q = model.infer(x)
        rate = log_q + (z**2 / 2 + math.log(2 * math.pi) / 2).sum(dim=1)
        mean = model.decode(z)
    sigma = model.pixel_scale.raw.exp()
    distortion = -Normal(mean, sigma).log_prob(x).sum(dim=(1, 2, 3))
    torch.testing.assert_close(out["distortion"], distortion.mean())
    torch.testing.assert_close(out["rate"], rate.mean())
    torch.testing.assert_close(out["elbo"], out["rate"] + out["distortion"])


@NAMES
def test_exp_keeps_the_loss_and_bounded_scales_reach_every_head(name: str) -> None:
    model, x = build(name), images()
    host = load_host(name)
    torch.manual_seed(2)
    before = model(x)["elbo"]
    roles = "exp/exp/exp" if name == "convdraw" else "exp/vanilla/exp"
    with vdvae_patch.patch(model, roles, heads=host.heads(model), arithmetic="stable"):
        torch.manual_seed(2)
        torch.testing.assert_close(model(x)["elbo"], before)
    for role in {head.role for head in host.heads(model)}:
        with vdvae_patch.patch(model, heads=host.heads(model), **{role: "constant(0.5)"}):
            torch.manual_seed(2)
            assert not torch.isclose(model(x)["elbo"], before, rtol=1e-4)
    torch.manual_seed(2)
    assert torch.equal(model(x)["elbo"], before)


def test_the_kl_of_a_patched_convdraw_stays_finite_where_the_hosts_own_does_not() -> None:
    model, x = build("convdraw"), images()
    with torch.no_grad():
        for layer in (model.posterior, model.prior):  # σ² of both is below the least float32
            layer.weight[2:].zero_()
            layer.bias[2:].fill_(-60.0)
    assert not model(x)["rate"].isfinite()
    host = load_host("convdraw")
    with vdvae_patch.patch(model, "exp", heads=host.heads(model), arithmetic="stable"):
        found = model.infer(x)[1]["z1"]
    assert not found.isnan().any()


@NAMES
def test_a_scan_of_the_host_finds_the_heads_of_its_entry(name: str) -> None:
    model = build(name)
    found = vdvae_patch.scan(model, images(), call=lambda model, x: model(x)["elbo"])
    known = {(head.path, head.role) for head in load_host(name).heads(model) if head.role != "likelihood"}
    assert known <= {(head.path, head.role) for head in found}
    assert found.elbo.reconstruction is not None


@NAMES
def test_an_entry_trains_on_sizes_that_fit_and_samples_images(name: str) -> None:
    host = load_host(name)
    entry = trainable(host.entry)
    assert {"small", "paper"} <= entry.presets().keys()
    architecture = entry.preset("small").architecture
    made = entry.hyperparameters(architecture, image_size=28, image_channels=1, data="mnist")
    assert (made["size"], made["channels"]) == (28, 1)
    with pytest.raises(InvalidValueError, match="multiples of 4"):
        entry.hyperparameters(architecture, image_size=30, image_channels=1, data="mnist")
    for field in (field.name for field in fields(architecture)):
        with pytest.raises(InvalidValueError, match=f"--{field} must be at least"):
            type(architecture)(**{field: -1})
    with pytest.raises(HostError, match="takes no top prior"):
        entry.top_prior_seam(build(name))
    model = build(name)
    sampled = entry.sample(model, 3, 1.0)
    assert (sampled.shape, sampled.dtype.name) == ((3, 8, 8, 2), "uint8")
    target = images().permute(0, 2, 3, 1) * 2 - 1
    latents = entry.latents(model, target)
    assert len(latents) == (3 if name == "convdraw" else 1)
    assert all(latent.kl.shape == (4,) for latent in latents)
    assert entry.sample(model, 4, 1.0, [latents[0].z]).shape == (4, 8, 8, 2)


@NAMES
def test_a_size_that_is_no_multiple_of_four_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        build(name, size=10)


def test_the_extremes_of_a_recurrent_heads_sigma_are_of_all_its_steps() -> None:
    model, entry = build("convdraw"), trainable(load_host("convdraw").entry)
    target = 2 * images().permute(0, 2, 3, 1) - 1
    heads = [head for head in load_host("convdraw").heads(model) if head.role != "likelihood"]
    seen: dict[str, list[Tensor]] = {head.path: [] for head in heads}
    hooks = [
        model.get_submodule(path).register_forward_hook(
            lambda module, given, out, path=path: seen[path].append(out.detach().chunk(2, dim=1)[1])
        )
        for path in seen
    ]
    torch.manual_seed(3)
    states = probe_heads(entry, model, heads, target)
    for hook in hooks:
        hook.remove()
    for state in states:
        steps = torch.stack(seen[state.path])
        assert len(steps) == 3
        assert (state.log_sigma_min, state.log_sigma_max) == (float(steps.min()), float(steps.max())), state.path
    assert len({float(step.max()) for step in seen["posterior"]}) == 3
