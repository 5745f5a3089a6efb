"""pythae's VAE and beta-VAE with a `forward` from the raw parameter: the same numbers, for every reader.

The models are the real ones, with pythae's own networks.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.utils.checkpoint import checkpoint

from vdvae_patch import scales
from vdvae_patch.errors import HostError, InvalidValueError
from vdvae_patch.hosts import HOSTS
from vdvae_patch.patching import patch
from vdvae_patch.patching.top_prior import top_prior_in
from vdvae_patch.top_priors import Vamp

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


class Counted(models.VAE):  # type: ignore[misc, name-defined]
    def get_nll(self, data: Tensor, n_samples: int = 1, batch_size: int = 100) -> float:
        return 2 * float(super().get_nll(data, n_samples, batch_size))


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


# --- top priors


def _prior_of(name: str, prior: str, variant: str = "explin", **arguments: Any) -> Any:
    model = _model(name, **arguments)
    heads = [] if variant == "vanilla" else ENTRY.heads(model)
    patch(model, f"{variant}+{prior}", heads=heads, top_prior_seam=ENTRY.top_prior_seam(model))
    return model


def _by_torch(model: Any, out: Any) -> tuple[Tensor, Tensor]:
    """Rate and log p(z) of what a pass drew, from the encoder's answers."""
    encoded = model.encoder(BATCH["data"])
    q = Independent(Normal(encoded.embedding, (0.5 * encoded.log_covariance).exp()), 1)
    made: Any = top_prior_in(model)
    if not isinstance(made, Vamp):
        return torch.zeros(()), torch.zeros(())
    few = model.encoder(made.pseudo_inputs)
    each = Independent(Normal(few.embedding, (0.5 * few.log_covariance).exp()), 1)
    log_p = MixtureSameFamily(Categorical(torch.ones(len(few.embedding))), each).log_prob(out.z)
    return (q.log_prob(out.z) - log_p).mean(), log_p


@pytest.mark.parametrize("variant", ["vanilla", "explin", "upbounded"])
@pytest.mark.parametrize("distortion", ["mse", "bce"])
@pytest.mark.parametrize(("name", "beta"), [("VAE", 1.0), ("BetaVAE", 3.0)])
def test_a_top_prior_is_in_the_loss_of_the_host(name: str, beta: float, distortion: str, variant: str) -> None:
    arguments = {"beta": beta} if name == "BetaVAE" else {}
    model = _prior_of(name, "vamp(components=4)", variant, reconstruction_loss=distortion, **arguments)
    plain = _model(name, reconstruction_loss=distortion, **arguments)
    if variant != "vanilla":
        patch(plain, variant, heads=ENTRY.heads(plain))
    (out, gradients), (other, _) = _step(model), _step(plain)
    rate, _ = _by_torch(model, out)
    torch.testing.assert_close(out.reg_loss, rate, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.z, other.z)
    torch.testing.assert_close(out.recon_loss, other.recon_loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.loss, out.recon_loss + beta * out.reg_loss)
    (raw,) = (g for key, g in gradients.items() if "top_prior" in key)
    assert raw.abs().sum() > 0


def test_the_standard_prior_is_the_hosts_own_loss_and_log_likelihood() -> None:
    found = []
    for prior in (None, "standard"):
        model = _model() if prior is None else _prior_of("VAE", prior, "vanilla")
        out, _ = _step(model)
        torch.manual_seed(5)
        found.append((out.loss, out.reg_loss, torch.tensor(model.get_nll(BATCH["data"], 200, 50))))
    for one, another in zip(*found, strict=True):
        torch.testing.assert_close(one.double(), another.double(), rtol=1e-5, atol=1e-4)


def test_the_log_likelihood_is_of_the_top_prior() -> None:
    """A prior that is the posterior of one image makes the weight of each draw p(x given z)."""
    model = _prior_of("VAE", "vamp(components=1)", "explin")
    x = BATCH["data"][:1]
    made: Any = top_prior_in(model)
    with torch.no_grad():
        made.raw.copy_(x)
    torch.manual_seed(5)
    found = model.get_nll(x, n_samples=40, batch_size=20)
    torch.manual_seed(5)
    weights = []
    with torch.no_grad():
        for _ in range(2):
            encoded = model.encoder(x.expand(20, -1, -1, -1))
            z = Normal(encoded.embedding, (0.5 * encoded.log_covariance).exp()).rsample()
            mean = model.decoder(z).reconstruction
            weights.append(Normal(mean, 1.0).log_prob(x).flatten(1).sum(1))
    expected = torch.cat(weights).logsumexp(0) - torch.tensor(40.0).log()
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_a_model_with_a_top_prior_keeps_its_state_dict_and_gives_it_back(tmp_path: Path) -> None:
    model = _model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    handle = patch(
        model, "explin+vamp(components=3)", heads=ENTRY.heads(model), top_prior_seam=ENTRY.top_prior_seam(model)
    )
    assert list(model.state_dict()) == list(before)
    assert len(list(model.parameters())) == len(before) + 1
    twin = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(_step(twin)[0].loss, _step(model)[0].loss)
    model.save(str(tmp_path / "model"))
    read = models.AutoModel.load_from_folder(str(tmp_path / "model"))
    torch.testing.assert_close(read.state_dict(), model.state_dict())
    handle.unpatch()
    assert len(list(model.parameters())) == len(before)
    torch.testing.assert_close(_step(model)[0].loss, _step(_model())[0].loss, rtol=0, atol=0)


@pytest.mark.parametrize(
    "make", [lambda: _model("VAMP"), lambda: _model("IWAE"), lambda: _model("AE"), lambda: _of_class(Shifted),
             lambda: _with(get_nll=lambda data: 0.0), lambda: _of_class(Counted)]
)  # fmt: skip
def test_a_model_with_a_loss_of_its_own_is_refused_a_top_prior(make: Callable[[], Any]) -> None:
    with pytest.raises(HostError, match="only pythae's VAE and beta-VAE do"):
        ENTRY.top_prior_seam(make())


def test_the_shape_of_an_image_is_asked_for() -> None:
    model = _model()
    model.model_config.input_dim = None
    with pytest.raises(HostError, match="does not say which shape an image has"):
        ENTRY.top_prior_seam(model)


def test_a_users_encoder_takes_a_top_prior_and_one_that_gives_a_tensor_is_refused() -> None:
    model = _model()
    own = model.encoder
    model.encoder = Adapted(own)
    patch(model, "vanilla+vamp(components=3)", top_prior_seam=ENTRY.top_prior_seam(model))
    rate, _ = _by_torch(model, out := _step(model)[0])
    torch.testing.assert_close(out.reg_loss, rate, rtol=1e-4, atol=1e-4)
    other = _model()
    other.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InvalidValueError, match="the encoder cannot be called on pseudo-inputs"):
        patch(other, "vanilla+vamp(components=3)", top_prior_seam=ENTRY.top_prior_seam(other))
