"""pythae's VAE and beta-VAE with a `forward` from the raw parameter: the same numbers, for every reader.

The models are the real ones, with pythae's own networks.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vdvae_patch import scales
from vdvae_patch.hosts import HOSTS
from vdvae_patch.patching import patch

models = pytest.importorskip("pythae.models")

ENTRY = HOSTS.get("pythae")
BATCH = {"data": torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))}


def _model(name: str = "VAE", **arguments: Any) -> Any:
    torch.manual_seed(0)
    return ENTRY.build({"pythae.models": models}, {"model": name, "input_dim": (1, 8, 8), "latent_dim": 5, **arguments})


def _step(model: Any, seed: int = 3) -> tuple[Any, dict[str, Tensor]]:
    model.zero_grad()  # which drops the gradients that the last call returned
    torch.manual_seed(seed)
    out = model(BATCH)
    out.loss.backward()
    return out, {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("distortion", ["mse", "bce"])
@pytest.mark.parametrize("variant", ["vanilla", "explin", "upbounded", "constant"])
@pytest.mark.parametrize(("name", "arguments"), [("VAE", {}), ("BetaVAE", {"beta": 3.0})])
def test_outputs_and_gradients_are_those_of_the_hosts_own_lines(
    name: str, arguments: dict[str, Any], variant: str, distortion: str
) -> None:
    model = _model(name, reconstruction_loss=distortion, **arguments)
    results = []
    for arithmetic in ("stable", "host"):
        with patch(model, variant, heads=ENTRY.heads(model), arithmetic=arithmetic, paper=True):
            results.append(_step(model))
    (ours, our_gradients), (hosts, host_gradients) = results
    assert type(ours) is type(hosts)
    assert list(ours) == list(hosts)
    for key, value in hosts.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-5)
    for key, gradient in host_gradients.items():
        torch.testing.assert_close(our_gradients[key], gradient, rtol=1e-4, atol=1e-6)


def _of_class(cls: type) -> Any:
    torch.manual_seed(0)
    return cls(_model().model_config)


def _with(**methods: Any) -> Any:
    model = _model()
    for name, function in methods.items():
        setattr(model, name, function)
    return model


class Shifted(models.VAE):  # type: ignore[misc, name-defined]
    def loss_function(self, recon_x: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, z: Tensor) -> Any:
        return super().loss_function(recon_x, x, mu, log_var - 1, z)


class Wrapped(models.VAE):  # type: ignore[misc, name-defined]
    forward = torch.autocast("cpu", torch.bfloat16)(models.VAE.forward)


class Annealed(models.VAE):  # type: ignore[misc, name-defined]
    beta = 10.0  # for its own use: a VAE's loss has none


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_var = nn.Linear(64, 5)


def test_the_stable_forward_is_taken_where_the_code_is_known_and_nowhere_else() -> None:
    known = [_model("VAE"), _model("BetaVAE"), _of_class(Annealed)]
    others = [
        _model("VAMP"), _model("IWAE"), _of_class(Shifted), _of_class(Wrapped), _with(encoder=Encoder()),
        _with(loss_function=lambda *arguments: None), _with(_sample_gauss=lambda mean, std: (mean, 0)),
    ]  # fmt: skip
    assert all(ENTRY.heads(model)[0].calls for model in known)
    assert not any(ENTRY.heads(model)[0].calls for model in others)


@pytest.mark.parametrize("cls", [models.VAE, Annealed, Shifted])
def test_a_subclass_keeps_its_own_loss(cls: type) -> None:
    model = _of_class(cls)
    losses = []
    for arithmetic in ("stable", "host"):
        with patch(model, posterior="upbounded", heads=ENTRY.heads(model), arithmetic=arithmetic, paper=True):
            losses.append(_step(model)[0].loss)
    torch.testing.assert_close(*losses)


class Adapted(nn.Module):
    """A layer around another, as adapters and activation checkpoints are put in after the fact."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Any) -> Any:
        return self.base(x)


@pytest.mark.parametrize("place", ["log_var", "encoder", "hook", "checkpoint"])
def test_what_is_put_around_the_layer_or_the_encoder_later_changes_nothing(place: str) -> None:
    model = _model()
    patch(model, posterior="upbounded", heads=ENTRY.heads(model), paper=True)
    want, want_gradients = _step(model)
    seen: list[Tensor] = []
    if place == "log_var":
        model.encoder.log_var = Adapted(model.encoder.log_var)
    elif place == "encoder":
        model.encoder = Adapted(model.encoder)
    elif place == "hook":
        model.encoder.register_forward_hook(lambda module, inputs, output: seen.append(output.log_covariance))
    else:
        inner = model.encoder.layers[0]
        inner.forward = lambda x: checkpoint(type(inner).forward, inner, x, use_reentrant=False)
    out, gradients = _step(model)
    torch.testing.assert_close(out.loss, want.loss)
    for got, wanted in zip(gradients.values(), want_gradients.values(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
    if place == "hook":
        assert float(seen[0].max()) < 0, "the hook sees the new log variance, as all who read the encoder do"


def test_whoever_else_reads_the_encoder_finds_the_new_log_variance() -> None:
    model = _model()
    x = BATCH["data"]
    raw = model.encoder(x).log_covariance
    want = scales.get("upbounded").log_variance(raw)
    with patch(model, posterior="upbounded", heads=ENTRY.heads(model), paper=True):
        model(BATCH)
        assert torch.equal(model.encoder(x).log_covariance, want)
        assert torch.isfinite(torch.tensor(model.get_nll(x, n_samples=2, batch_size=2)))
    assert torch.equal(model.encoder(x).log_covariance, raw)


def _nearly_unit() -> Any:
    model = _model()
    nn.init.zeros_(model.encoder.embedding.weight)
    nn.init.zeros_(model.encoder.embedding.bias)
    nn.init.zeros_(model.encoder.log_var.weight)
    nn.init.constant_(model.encoder.log_var.bias, 1e-4)  # sigma is 1.0001, and the KL 5 × 1e-8
    return model


def test_the_sample_has_the_sigma_that_was_promised_and_the_kl_its_digits() -> None:
    model = _nearly_unit()
    with patch(model, posterior="explin", heads=ENTRY.heads(model), paper=True):
        torch.manual_seed(3)
        out = model(BATCH)
        torch.manual_seed(3)
        noise = torch.randn(6, 5)
    torch.testing.assert_close(out.z, noise * 1.0001)
    assert out.reg_loss.item() == pytest.approx(5e-8, rel=1e-3)


def test_a_patched_model_copies_pickles_and_compiles() -> None:
    model = _model()
    patch(model, "upbounded", heads=ENTRY.heads(model), paper=True)
    out, gradients = _step(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        again, same = _step(twin)
        assert torch.equal(again.loss, out.loss)
        assert all(torch.equal(same[name], gradients[name]) for name in gradients)
    torch.compiler.reset()
    torch.manual_seed(3)
    # by item: compiled, pythae's output has no attributes, patched or not
    compiled = torch.compile(lambda x: model({"data": x})["loss"], backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(BATCH["data"]), out.loss)


def test_the_kl_is_the_stable_one_when_it_is_compiled_too() -> None:
    model = _nearly_unit()
    patch(model, posterior="explin", heads=ENTRY.heads(model), paper=True)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: model({"data": x})["reg_loss"], backend="aot_eager", fullgraph=True)
    assert compiled(BATCH["data"]).item() == pytest.approx(5e-8, rel=1e-3)


def test_images_may_be_vectors_or_lack_the_batch() -> None:
    model = _model()
    for x in (BATCH["data"].reshape(6, 64), BATCH["data"][:1].reshape(1, 8, 8)):
        losses = []
        for arithmetic in ("stable", "host"):
            with patch(model, posterior="explin", heads=ENTRY.heads(model), arithmetic=arithmetic, paper=True):
                torch.manual_seed(0)
                losses.append(model({"data": x}).loss)
        torch.testing.assert_close(*losses)
