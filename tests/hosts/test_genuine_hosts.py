"""The genuine NVAE and Efficient-VDVAE: imported from a checkout, scanned, patched and trained.

Where a variable names no checkout of the code base, its tests are skipped; `vdvae-patch upstream fetch` makes one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vdvae_patch.patches import nvae as nvae_entry

from vdvae_patch import load_host, scales
from vdvae_patch.errors import HostError, InvalidValueError, PatchError
from vdvae_patch.hosts import Host, get_upstream
from vdvae_patch.hosts.pinned import verify
from vdvae_patch.patching import patch
from vdvae_patch.scanning import ScanResult, scan

pytestmark = pytest.mark.genuine

VARIABLES = {
    "nvae": "VDVAE_PATCH_GENUINE_NVAE",
    "efficient_vdvae": "VDVAE_PATCH_GENUINE_EFFICIENT_VDVAE",
}
VARIANTS = ["explin", "upbounded", "explin/constant", "vanilla/upbounded", "explin/vanilla"]


def checkout(name: str) -> Path:
    folder = os.environ.get(VARIABLES[name])
    if not folder:
        pytest.skip(f"{VARIABLES[name]} names no checkout of {get_upstream(name).url}")
    return Path(folder)


@pytest.fixture(params=VARIABLES)
def host(request: pytest.FixtureRequest) -> Host:
    return load_host(request.param, upstream=checkout(request.param))


@pytest.fixture
def nvae() -> Host:
    return load_host("nvae", upstream=checkout("nvae"))


@pytest.fixture
def efficient() -> Host:
    return load_host("efficient_vdvae", upstream=checkout("efficient_vdvae"))


def example(host: Host) -> tuple[Any, Tensor, Callable[..., Tensor]]:
    torch.manual_seed(0)
    made = host.entry.example(host.modules)
    return made.model, made.inputs[0], made.loss


def seeded(loss: Callable[..., Tensor], model: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(1)
    return loss(model, x)


def heads_by_name(heads: list[Any]) -> set[tuple[Any, ...]]:
    v = torch.linspace(-6, 6, 25, dtype=torch.float64)
    return {(emitter(h.path), h.start, h.stop, h.role, tuple(h.convention.sigma(v).float().tolist())) for h in heads}


def emitter(path: str) -> str:
    # NVAE's entry names a Sequential, the scan its last layer, which emits the same tensor
    return path.removesuffix(".1") if path.count(".") == 2 and path.startswith("dec_sampler") else path


def test_a_checkout_is_the_pinned_commit_and_is_imported_under_a_name_of_its_own(host: Host) -> None:
    folder = checkout(host.name)
    assert verify(folder, get_upstream(host.name)).verified
    assert host.origin.verified
    for module in host.modules.values():
        assert module.__file__ is not None
        assert Path(module.__file__).is_relative_to(folder.resolve())
        assert module.__name__.startswith("vdvae_patch_hosts.")
    assert not {"model", "utils", "distributions", "hparams", "tensorboardX"} & set(sys.modules)


def test_a_changed_file_is_refused(host: Host, tmp_path: Path) -> None:
    pin = get_upstream(host.name)
    for name in pin.files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((checkout(host.name) / name).read_bytes())
    load_host(host.name, upstream=tmp_path)
    changed = next(name for name in pin.files if name.endswith(("model.py", "hparams.cfg")))
    with (tmp_path / changed).open("a") as file:
        file.write("\n")
    with pytest.raises(HostError, match=rf"{changed} has SHA-256 .*, expected"):
        load_host(host.name, upstream=tmp_path)


def test_a_scan_finds_exactly_the_heads_of_the_entry(host: Host) -> None:
    model, x, loss = example(host)
    assert heads_by_name(scan(model, x, call=loss)) == heads_by_name(host.heads(model))


def test_scanned_heads_and_the_entrys_heads_compute_the_same_and_can_be_taken_back(host: Host) -> None:
    model, x, loss = example(host)
    found, before = scan(model, x, call=loss), seeded(loss, model, x)
    for variant in VARIANTS if host.name == "efficient_vdvae" else VARIANTS[2:4]:  # NVAE takes its time
        with patch(model, variant, heads=found):  # verified
            scanned = seeded(loss, model, x)
        with patch(model, variant, heads=host.heads(model), arithmetic="host"):
            entry = seeded(loss, model, x)
        assert not torch.equal(scanned, before), variant
        assert torch.equal(scanned, entry), variant
        assert torch.equal(seeded(loss, model, x), before), variant


def train(model: nn.Module, x: Tensor, loss: Callable[..., Tensor], steps: int = 4) -> list[float]:
    optimizer = torch.optim.Adamax(model.parameters(), 2e-3)
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model, x)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    return values


# --- NVAE ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def compared(nvae: Host, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Of every KL, by the genuine `Normal` or by stable arithmetic, the two σ."""
    seen: list[tuple[Tensor, Tensor]] = []
    normal: Any = nvae.modules["distributions"]
    kl = normal.Normal.kl

    def watched(self: Any, other: Any) -> Tensor:
        seen.append((self.sigma.detach(), other.sigma.detach()))
        result: Tensor = kl(self, other)
        return result

    def watched_stable(q: Any, p: Any) -> Tensor:
        seen.append((q.sigma.detach(), p.sigma.detach()))
        return stable(q, p)

    stable = nvae_entry.divergence
    monkeypatch.setattr(normal.Normal, "kl", watched)
    monkeypatch.setattr(nvae_entry, "divergence", watched_stable)
    return seen


def raw_values(samplers: Any) -> list[Tensor]:
    kept: list[Tensor] = []
    for sampler in samplers:
        sampler.register_forward_hook(lambda module, args, out: kept.append(out.detach().chunk(2, 1)[1]))
    return kept


@pytest.mark.parametrize("variant", ["explin/upbounded", "upbounded/constant"])
@pytest.mark.parametrize(("residual", "arithmetic"), [(True, "stable"), (True, "host"), (False, "stable")])
def test_nvae_trains_with_the_promised_sigmas(
    nvae: Host, compared: Any, variant: str, residual: bool, arithmetic: Any
) -> None:
    model, x, loss = example(nvae)
    model.res_dist = residual
    patch(model, variant, heads=nvae.heads(model), arithmetic=arithmetic)
    values = train(model, x, loss)
    assert all(map(torch.isfinite, map(torch.tensor, values)))
    assert values[-1] < values[0]
    compared.clear()
    posteriors, priors = raw_values(model.enc_sampler), raw_values(model.dec_sampler)
    loss(model, x)
    q, p = (scales.get(name) for name in variant.split("/"))
    torch.testing.assert_close(compared[0][0], q.sigma(posteriors[0]))
    torch.testing.assert_close(compared[0][1], torch.full_like(compared[0][1], 1.01))  # the fixed prior, as it was
    for (sigma_q, sigma_p), raw_q, raw_p in zip(compared[1:], posteriors[1:], priors, strict=True):
        torch.testing.assert_close(sigma_q, q.sigma(raw_q + raw_p if residual else raw_q))
        torch.testing.assert_close(sigma_p, p.sigma(raw_p))


@pytest.mark.parametrize("variant", ["explin", "explin/constant", "upbounded"])
def test_nvae_with_a_sigma_that_underflows_has_a_finite_loss_and_gradient(nvae: Host, variant: str) -> None:
    model, x, loss = example(nvae)
    with torch.no_grad():
        for sampler in model.enc_sampler:
            sampler.bias[4:] -= 120.0
    results = {}
    for arithmetic in ("host", "stable"):
        with patch(model, variant, heads=nvae.heads(model), arithmetic=arithmetic):  # type: ignore[arg-type]
            results[arithmetic] = seeded(loss, model, x)
    assert not torch.isfinite(results["host"])
    with patch(model, variant, heads=nvae.heads(model)):
        value = loss(model, x)
        value.backward()
    assert torch.isfinite(value)
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_nvaes_stable_arithmetic_agrees_with_its_own_where_that_is_sound(nvae: Host) -> None:
    model, x, _ = example(nvae)
    values = []
    for arithmetic in ("host", "stable"):
        with patch(model, "explin/upbounded", heads=nvae.heads(model), arithmetic=arithmetic):  # type: ignore[arg-type]
            values.append(seeded(lambda model, x: torch.stack(model(x)[3]), model, x))
    assert not torch.equal(*values)
    torch.testing.assert_close(*values, rtol=1e-5, atol=0)


def test_nvae_samples_from_its_prior_with_the_promised_sigma(
    nvae: Host, compared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, _ = example(nvae)
    patch(model, "explin/upbounded", heads=nvae.heads(model))
    drawn: list[Tensor] = []
    genuine = nvae.modules["distributions"].sample_normal_jit

    def watched(mu: Tensor, sigma: Tensor) -> Any:
        drawn.append(sigma.detach())
        return genuine(mu, sigma)

    monkeypatch.setattr(nvae.modules["distributions"], "sample_normal_jit", watched)
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)  # its sampling calls it by name
    priors = raw_values(model.dec_sampler)
    model.sample(2, 0.7)
    for sigma, raw in zip(drawn[1:], priors, strict=True):
        torch.testing.assert_close(sigma, 0.7 * scales.get("upbounded").sigma(raw))


def test_nvaes_normal_decoder_is_a_likelihood_head(nvae: Host) -> None:
    torch.manual_seed(0)
    small = {"num_channels_enc": 8, "num_channels_dec": 8, "num_groups_per_scale": 1, "num_mixture_dec": 1}
    model: Any = nvae.build({**small, "num_preprocess_cells": 1, "num_postprocess_cells": 2, "num_latent_per_group": 4})
    head = nvae.heads(model)[-1]
    assert (head.path, head.start, head.stop, head.role) == ("image_conditional", 3, 6, "likelihood")
    patch(model, likelihood="bounded(alpha=0.1, omega=1)", heads=nvae.heads(model))
    logits = torch.randn(2, 6, 4, 4)
    sigma = model.decoder_output(logits).dist.sigma
    torch.testing.assert_close(sigma, scales.get("bounded(alpha=0.1, omega=1)").sigma(logits[:, 3:]))


@pytest.mark.parametrize("cells", ["res_elu", "res_bnelu", "mbconv_sep"])
def test_nvaes_other_cells_run_on_a_cpu_too(nvae: Host, cells: str) -> None:
    torch.manual_seed(0)
    small = {"num_channels_enc": 8, "num_channels_dec": 8, "num_groups_per_scale": 2, "num_latent_per_group": 4}
    model = nvae.build({**small, "num_preprocess_cells": 2, "num_postprocess_cells": 2, "arch_instance": cells})
    logits, _, _, kl_all, _ = model(torch.rand(2, 3, 32, 32))
    assert all(bool(torch.isfinite(t).all()) for t in (logits, *kl_all))


def test_nvae_without_a_gpu_says_that_flows_need_one_and_names_the_nearest_flag(nvae: Host) -> None:
    with pytest.raises(InvalidValueError, match="no flag 'num_latent_scale' that shapes the model; did you mean"):
        nvae.build({"num_latent_scale": 1})
    if not torch.cuda.is_available():
        with pytest.raises(HostError, match="flows make their masks on a GPU, and there is none here"):
            nvae.build({"num_nf": 1})


# --- Efficient-VDVAE --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["std", "logstd"])
def base(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def efficient_model(host: Host, base: str, residual: bool) -> tuple[Any, Tensor, Callable[..., Tensor]]:
    from vdvae_patch.patches.efficient_vdvae import SMALL

    _, x, loss = example(host)
    settings = {**SMALL["model"], "distribution_base": base, "use_residual_distribution": residual}
    torch.manual_seed(0)
    return host.build({**SMALL, "model": settings}), x, loss


class Layers:
    """The raw values that the latent layers of a model emit, by a convolution of our own."""

    def __init__(self, model: nn.Module) -> None:
        self.raw: dict[str, list[Tensor]] = {"prior_layer": [], "posterior_layer": []}
        for path, layer in model.named_modules():
            kind = path.rpartition(".")[2]
            if kind in self.raw:
                layer.register_forward_pre_hook(lambda m, args, kind=kind: self._keep(kind, m.projection, args[0]))

    def _keep(self, kind: str, projection: Any, x: Tensor) -> None:
        out = nn.functional.conv2d(x.detach(), projection.weight.detach(), projection.bias.detach())
        self.raw[kind].append(out.chunk(2, 1)[1])


@pytest.fixture
def drawn(efficient: Host, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every σ that the sampler is given."""
    seen: list[Tensor] = []
    latent: Any = efficient.modules["model.latent_layers"]
    draw = latent.calculate_z

    def watched(mean: Tensor, std: Tensor) -> Any:
        seen.append(std.detach())
        return draw(mean, std)

    monkeypatch.setattr(latent, "calculate_z", watched)
    return seen


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("variant", ["explin/upbounded", "upbounded/constant", "vanilla/upbounded"])
def test_efficient_vdvae_trains_with_the_promised_sigmas(
    efficient: Host, drawn: list[Tensor], base: str, residual: bool, variant: str
) -> None:
    model, x, loss = efficient_model(efficient, base, residual)
    patch(model, variant, heads=efficient.heads(model))
    values = train(model, x, loss)
    assert values[-1] < values[0]
    drawn.clear()
    layers = Layers(model)
    _, _, priors = model(x)
    beta = 0.6931472
    host_scale = scales.get(f"softplus(beta={beta})") if base == "std" else None
    q, p = (None if name == "vanilla" else scales.get(name) for name in variant.split("/"))
    for sigma_q, stats_p, raw_q, raw_p in zip(
        drawn, priors, layers.raw["posterior_layer"], layers.raw["prior_layer"], strict=True
    ):
        total = raw_q + raw_p if residual else raw_q
        if q is not None:
            expected = q.sigma(total)
        elif host_scale is not None:
            expected = host_scale.sigma(raw_q) * (host_scale.sigma(raw_p) if residual else 1)
        else:
            expected = torch.exp(beta * total)
        torch.testing.assert_close(sigma_q, expected)
        assert p is not None
        sigma_p = stats_p[1] if base == "std" else torch.exp(beta * stats_p[1])
        torch.testing.assert_close(sigma_p.detach(), p.sigma(raw_p))


def test_a_vanilla_patch_of_the_residual_posterior_computes_what_the_host_computes(efficient: Host, base: str) -> None:
    model, x, loss = efficient_model(efficient, base, residual=True)
    before = seeded(loss, model, x)
    with patch(model, "vanilla", heads=efficient.heads(model), arithmetic="stable"):
        torch.testing.assert_close(seeded(loss, model, x), before)
    with patch(model, "explin", heads=efficient.heads(model), arithmetic="host"):
        host_arithmetic = seeded(loss, model, x)
    with patch(model, "explin", heads=efficient.heads(model)):
        assert torch.equal(seeded(loss, model, x), host_arithmetic)


def test_a_scan_of_the_residual_posterior_finds_all_heads_and_refuses_what_it_cannot_patch(
    efficient: Host, base: str
) -> None:
    model, x, loss = efficient_model(efficient, base, residual=True)
    found: ScanResult = scan(model, x, call=loss)
    assert {(h.path, h.role) for h in found} == {(h.path, h.role) for h in efficient.heads(model)}
    with pytest.raises(PatchError, match="write a patch file whose Head has a CallSite"):
        patch(model, "explin", heads=found)


def test_each_build_starts_from_the_configuration_file(efficient: Host) -> None:
    _, _, _ = efficient_model(efficient, "logstd", residual=True)
    _, _, _ = example(efficient)
    settings = efficient.modules["model.def_model"].hparams.model
    assert (settings.distribution_base, settings.use_residual_distribution) == ("std", False)
    with pytest.raises(HostError, match="has no 'down_stride'; did you mean 'down_strides'"):
        efficient.build({"model": {"down_stride": [1]}})


# --- from the command line --------------------------------------------------------------------------------------------

FACTORY = """
import vdvae_patch

host = vdvae_patch.load_host({name!r}, upstream={path!r})
example = host.entry.example(host.modules)


def loss(model, x):
    return example.loss(model, x.sigmoid())  # NVAE takes images in [0, 1]


def build():
    return example.model
"""


def test_the_command_scans_and_patches_it(host: Host, tmp_path: Path) -> None:
    (tmp_path / "factory.py").write_text(FACTORY.format(name=host.name, path=str(checkout(host.name))))
    _, x, _ = example(host)
    command = ["scan", "factory:build", "--path", str(tmp_path), "--call", "factory:loss", "--patch", "explin"]
    done = subprocess.run(
        [sys.executable, "-m", "vdvae_patch", *command, "--input", "x".join(map(str, x.shape))],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "patched as explin" in done.stdout
