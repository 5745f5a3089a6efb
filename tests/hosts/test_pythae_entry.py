"""pythae's VAE and beta-VAE with a `forward` from the raw parameter: the same numbers, for every reader.

The models are the real ones, with pythae's own networks.
"""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch import scales
from vdvae_patch.heads import Head
from vdvae_patch.hosts import HOSTS
from vdvae_patch.patching import patch, raw_output

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
        with patch(model, variant, heads=ENTRY.heads(model), arithmetic=arithmetic):
            results.append(_step(model))
    (ours, our_gradients), (hosts, host_gradients) = results
    assert type(ours) is type(hosts)
    assert list(ours) == list(hosts)
    for key, value in hosts.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-5)
    for key, gradient in host_gradients.items():
        torch.testing.assert_close(our_gradients[key], gradient, rtol=1e-4, atol=1e-6)


def test_the_stable_forward_is_taken_where_the_code_is_known_and_nowhere_else() -> None:
    class Tempered(models.VAE):  # type: ignore[misc, name-defined]
        def loss_function(self, recon_x: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, z: Tensor) -> Any:
            return super().loss_function(recon_x, x, mu, log_var - 1, z)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_var = nn.Linear(64, 5)

    known = [_model("VAE"), _model("BetaVAE")]
    others = [_model("VAMP"), _model("IWAE"), Tempered(_model().model_config), _model()]
    others[-1].encoder = Encoder()
    assert all(ENTRY.heads(model)[0].calls for model in known)
    assert not any(ENTRY.heads(model)[0].calls for model in others)


def test_whoever_else_reads_the_encoder_finds_the_new_log_variance() -> None:
    model = _model()
    x = BATCH["data"]
    raw = model.encoder(x).log_covariance
    want = scales.get("upbounded").log_variance(raw)
    with patch(model, posterior="upbounded", heads=ENTRY.heads(model)):
        model(BATCH)
        assert torch.equal(model.encoder(x).log_covariance, want)
        assert torch.isfinite(torch.tensor(model.get_nll(x, n_samples=2, batch_size=2)))
    assert torch.equal(model.encoder(x).log_covariance, raw)


def test_sampled_with_the_sigma_that_was_promised_and_a_kl_without_cancellation() -> None:
    model = _model()
    nn.init.zeros_(model.encoder.embedding.weight)
    nn.init.zeros_(model.encoder.embedding.bias)
    nn.init.zeros_(model.encoder.log_var.weight)
    nn.init.constant_(model.encoder.log_var.bias, 1e-4)  # sigma is 1.0001, and the KL 5 × 1e-8
    with patch(model, posterior="explin", heads=ENTRY.heads(model)):
        torch.manual_seed(3)
        out = model(BATCH)
        torch.manual_seed(3)
        noise = torch.randn(6, 5)
    torch.testing.assert_close(out.z, noise * 1.0001)
    assert out.reg_loss.item() == pytest.approx(5e-8, rel=1e-3)


def test_a_patched_model_copies_pickles_and_compiles() -> None:
    model = _model()
    patch(model, "upbounded", heads=ENTRY.heads(model))
    out, gradients = _step(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        again, same = _step(twin)
        assert torch.equal(again.loss, out.loss)
        assert all(torch.equal(same[name], gradients[name]) for name in gradients)
    torch.compiler.reset()
    torch.manual_seed(3)
    # by item: compiled, pythae's output has no attributes, patched or not
    compiled = torch.compile(lambda x: model({"data": x})["loss"], backend="aot_eager")
    torch.testing.assert_close(compiled(BATCH["data"]), out.loss)


def test_only_the_thread_that_asked_sees_a_raw_output() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    patch(model, posterior="constant(2)", heads=[Head("0", "posterior")])
    x, seen = torch.ones(1, 3), []
    with raw_output(model[0]):
        other = threading.Thread(target=lambda: seen.append(model(x)))
        other.start()
        other.join()
        seen.append(model(x))
    seen.append(model(x))
    new = torch.full((1, 2), 2.0).log()
    assert torch.equal(seen[0], new)
    assert torch.equal(seen[2], new)
    assert not torch.equal(seen[1], new)
