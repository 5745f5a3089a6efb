"""Hosts by name with every decoder and every objective: what is put in place, what stays, and that it trains."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch import load_host, objectives
from vdvae_patch.decoders import DECODERS, PixelGrid
from vdvae_patch.decoders import get as get_decoder
from vdvae_patch.errors import HostError, InvalidValueError, PatchError
from vdvae_patch.hosts import HOSTS, Host
from vdvae_patch.hosts.entry import HostEntry
from vdvae_patch.patching import Variant, patch, unpatch
from vdvae_patch.patching.decoder import apart_state, likelihood_in, load_apart_state
from vdvae_patch.train.weighing import Weighing

OBJECTIVE_SPECS = ["elbo", "beta(beta=4)", "warmup(epochs=2)", "freebits(nats=0.5)", "balance", "geco(kappa=0.06)"]
GENUINE = {
    "nvae": "VDVAE_PATCH_GENUINE_NVAE",
    "efficient_vdvae": "VDVAE_PATCH_GENUINE_EFFICIENT_VDVAE",
    "vdvae": "VDVAE_PATCH_GENUINE_VDVAE",
}


@dataclass
class Case:
    """A model of a host with a batch, as the host's passes take it."""

    host: Host
    model: nn.Module
    x: Tensor
    target: Tensor

    @property
    def scales(self) -> str:
        """The stable variant of the roles that the host has."""
        roles = {head.role for head in self.host.heads(self.model)}
        return "explin/constant" if "prior" in roles else "explin/vanilla"


def bytes_of(*shape: int, two_values: bool = False) -> Tensor:
    drawn = torch.randint(0, 256, shape).float()
    return torch.where(drawn > 127, 255.0, 0.0) if two_values else drawn


def small(name: str, two_values: bool = False) -> Case:
    torch.manual_seed(0)
    if name.startswith("mlp_vae"):
        host = load_host("mlp_vae")
        scale, mean = ("global", "sigmoid") if name.endswith("global") else ("decoded", "identity")
        model = host.build({"pixels": 64, "hidden": 16, "latents": 4, "scale": scale, "mean": mean})
        batch = bytes_of(4, 8, 8, 1, two_values=two_values) / 127.5 - 1
    elif name == "conv_vae":
        host = load_host(name)
        model = host.build({"channels": 3, "latents": 4})
        batch = bytes_of(4, 32, 32, 3, two_values=two_values) / 127.5 - 1
    elif name in ("convdraw", "nvp_vae"):
        host = load_host(name)
        own = {"steps": 2, "canvas": 3} if name == "convdraw" else {"couplings": 2}
        model = host.build({"channels": 3, "size": 8, "hidden": 6, "latents": 2, **own})
        batch = bytes_of(4, 8, 8, 3, two_values=two_values) / 127.5 - 1
    elif name.startswith("large_vae"):
        host = load_host("large_vae")
        one, grey = name.endswith("_one"), name.endswith("_grey")
        model = host.build(
            {
                "levels": 1 if one else 2, "size": (8, 6), "hidden": 16, "latents": 4, "components": 3,
                "prior": "standard" if one else "vamp", "likelihood": "logistic" if grey else "bernoulli",
            }
        )  # fmt: skip
        batch = bytes_of(4, 8, 6, 1, two_values=two_values) / 127.5 - 1
    elif name.startswith("vdvae"):
        host = load_host("vdvae", checkout("vdvae") if name.endswith("genuine") else None)
        model = host.build(
            {
                "width": 8, "zdim": 2, "num_mixtures": 2, "dataset": "cifar10", "image_size": 8,
                "enc_blocks": "8x1,8d8,1x1", "dec_blocks": "1x1,8m1",
            }
        )  # fmt: skip
        batch = bytes_of(4, 8, 8, 3, two_values=two_values) / 127.5 - 1
    else:
        host = load_host(name, checkout(name))
        model = host.entry.example(host.modules).model
        size = 32 if name == "nvae" else 16
        batch = bytes_of(2, 3, size, size, two_values=two_values) / 255
        batch = batch if name == "nvae" else 2 * batch - 1
    return Case(host, model, batch, batch)


def checkout(name: str) -> Path:
    folder = os.environ.get(GENUINE[name])
    if not folder:
        pytest.skip(f"{GENUINE[name]} names no checkout")
    return Path(folder)


EMBEDDED = ["conv_vae", "mlp_vae", "mlp_vae_global", "large_vae_one", "large_vae_grey", "vdvae", "convdraw", "nvp_vae"]
ALL = [*EMBEDDED, *(pytest.param(n, marks=pytest.mark.genuine) for n in ("nvae", "efficient_vdvae", "vdvae_genuine"))]


def test_every_host_objective_and_decoder_has_a_part_in_the_combinations() -> None:
    """A host that is added is trained with all of them, or says why it has no seam."""
    tried = {name.split("_one")[0].split("_grey")[0].split("_global")[0] for name in EMBEDDED} | {*GENUINE}
    entries = {name: HOSTS.get(name) for name in HOSTS.names()}
    without = {name for name, entry in entries.items() if type(entry).decoder_seam is HostEntry.decoder_seam}
    assert tried == entries.keys() - without
    assert all(entries[name].no_decoder != HostEntry.no_decoder for name in without)
    assert {spec.split("(")[0] for spec in OBJECTIVE_SPECS} == {*objectives.OBJECTIVES.names()}


def trained(case: Case, variant: Variant, updates: int = 3) -> Iterator[dict[str, Tensor]]:
    """Updates of a model as `train` does them; gives the metrics of each."""
    weighing = Weighing.of(variant, case.host, case.model, torch.device("cpu"))
    assert weighing is not None
    if isinstance(weighing.objective, objectives.Warmup):
        weighing.objective.steps_per_epoch = 3
    run = weighing.module(case.model).train()
    learned = [p for p in run.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=1e-3)
    for _ in range(updates):
        optimizer.zero_grad(set_to_none=True)
        weighed = weighing.weigh(run(case.x, case.target))
        weighed.loss.backward()  # type: ignore[no-untyped-call]
        missing = [name for name, p in run.named_parameters() if p.requires_grad and p.grad is None]
        # a parameter that the host has and does not use would stop DDP; Efficient-VDVAE has some of its own
        assert not missing or case.host.name == "efficient_vdvae", missing
        assert all(bool(p.grad.isfinite().all()) for p in learned if p.grad is not None)
        assert weighed.loss.isfinite()
        assert all(value.isfinite() for value in (*weighed.losses, *weighed.metrics.values()))
        optimizer.step()
        weighing.settle(case.model, torch.zeros(()))
        yield dict(weighed.metrics)
    measured = weighing.measure(case.model.eval(), case.x, case.target)
    assert all(value.isfinite() for value in measured)


@pytest.mark.parametrize("objective", OBJECTIVE_SPECS)
@pytest.mark.parametrize("decoder", [None, *DECODERS.names()])
@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_three_updates_of_every_combination_are_finite(
    name: str, stable: bool, decoder: str | None, objective: str
) -> None:
    case = small(name, two_values=decoder == "bernoulli")
    text = "+".join(filter(None, [case.scales if stable else "vanilla", decoder, objective]))
    variant = Variant.parse(text)
    if not variant.is_vanilla:
        heads = case.host.heads(case.model) if stable else []
        patch(case.model, variant.of_model, heads=heads, seam=case.host.decoder_seam(case.model))
    refused = _refusal(case, variant)
    if refused is not None:
        with pytest.raises((HostError, InvalidValueError), match=refused):
            next(trained(case, variant))
        return
    metrics = list(trained(case, variant))
    assert len(metrics) == 3
    if objective.startswith("geco"):
        assert {"constraint", "constraint_average", "lambda", "equivalent_beta", "sigma"} <= metrics[-1].keys()
        assert metrics[2]["lambda"] != metrics[0]["lambda"]
    if decoder in ("fixed", "shared", "optimal", "per_image", "per_pixel"):
        assert metrics[-1]["sigma"] > 0


def _refusal(case: Case, variant: Variant) -> str | None:
    """What is said of a combination that makes no sense."""
    decoder = None if variant.decoder is None else get_decoder(variant.decoder)
    if variant.objective == "balance" and case.host.name in ("nvae", "large_vae", "convdraw"):
        return "cannot be trained with objective balance"
    if (variant.objective or "").startswith("geco"):
        if decoder is None:
            return "Name a decoder"
        if decoder.learns_scale:
            return "would not learn"
    return None


@pytest.mark.parametrize("decoder", DECODERS.names())
@pytest.mark.parametrize("name", ALL)
def test_the_state_dict_stays_the_hosts_and_unpatching_takes_all_away(name: str, decoder: str) -> None:
    case = small(name)
    before = {key: value.clone() for key, value in case.model.state_dict().items()}
    parameters = [key for key, _ in case.model.named_parameters()]
    learning = [p.requires_grad for p in case.model.parameters()]
    modules = [type(m) for m in case.model.modules()]
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    handle = patch(case.model, decoder=decoder, seam=case.host.decoder_seam(case.model))
    assert torch.equal(torch.rand(3), expected), "the new layer's weights used up random numbers"
    state = case.model.state_dict()
    assert list(state) == list(before)
    assert all(torch.equal(state[key], before[key]) for key in before)
    assert case.model.load_state_dict(state, strict=True).missing_keys == []
    vdvae_patch.check_intact(case.model)
    handle.unpatch()
    assert likelihood_in(case.model) is None
    assert [key for key, _ in case.model.named_parameters()] == parameters
    assert [p.requires_grad for p in case.model.parameters()] == learning
    assert [type(m) for m in case.model.modules()] == modules


@pytest.mark.parametrize("name", ALL)
def test_the_hosts_own_likelihood_in_parts_is_its_loss(name: str) -> None:
    case = small(name)
    entry: Any = case.host.entry
    own = None if hasattr(entry, "losses") else entry.example(case.host.modules).loss
    torch.manual_seed(2)
    parts = case.host.decoder_seam(case.model).terms(case.model, case.x, case.target)
    torch.manual_seed(2)
    loss = own(case.model, case.x) if own else entry.losses(case.model, case.x, case.target).elbo
    assert parts.distortion is not None
    whole = (parts.distortion + sum(parts.rates.values())).mean()
    dimensions = 1 if name == "nvae" else parts.target[0].numel()  # its loss is in nats an image
    torch.testing.assert_close(whole, loss * dimensions, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["conv_vae", "mlp_vae", "vdvae"])
def test_the_hosts_own_loss_is_the_bound_with_the_decoder(name: str) -> None:
    case = small(name)
    patch(case.model, decoder="fixed(sigma=0.5)", seam=case.host.decoder_seam(case.model))
    entry: Any = case.host.entry
    torch.manual_seed(2)
    losses = entry.losses(case.model, case.x, case.target)
    torch.manual_seed(2)
    terms = case.host.decoder_seam(case.model).terms(case.model, case.x, case.target)
    likelihood = likelihood_in(case.model)
    assert likelihood is not None
    assert terms.emitted is not None
    mean = likelihood.mean(terms.emitted)
    error = ((mean - terms.target) ** 2).flatten(1).sum(1) / (2 * 0.25)
    dimensions = mean[0].numel()
    nll = error / dimensions + torch.tensor(0.5).log() + 0.5 * torch.tensor(2 * torch.pi).log()
    torch.testing.assert_close(losses.distortion, nll.mean())
    torch.testing.assert_close(losses.elbo, losses.distortion + losses.rate)


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_trained_model_keeps_its_reconstructions_where_a_decoder_takes_means(name: str) -> None:
    case = small(name)
    seam = case.host.decoder_seam(case.model)
    torch.manual_seed(3)
    own = seam.terms(case.model, case.x, case.target).emitted
    for spec in ("optimal", "per_pixel", "logistic"):
        handle = patch(case.model, decoder=spec, seam=seam)
        torch.manual_seed(3)
        emitted = seam.terms(case.model, case.x, case.target).emitted
        likelihood = likelihood_in(case.model)
        assert emitted is not None
        assert likelihood is not None
        means = likelihood.parameters_of(emitted)[:, : seam.image_channels]
        if own is not None:
            assert torch.equal(likelihood.as_images(emitted)[:, : seam.channels], likelihood.as_images(own))
            torch.testing.assert_close(means, seam.means(likelihood.as_images(own))[:, : seam.image_channels])
        handle.unpatch()


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_model_with_a_decoder_is_copied_pickled_and_sampled(name: str) -> None:
    case = small(name)
    patch(case.model, decoder="per_pixel", seam=case.host.decoder_seam(case.model))
    case.model.eval()
    stream = io.BytesIO()
    torch.save(case.model, stream)
    stream.seek(0)
    copies = [copy.deepcopy(case.model), torch.load(stream, weights_only=False)]
    entry: Any = case.host.entry
    torch.manual_seed(4)
    losses = entry.losses(case.model, case.x, case.target)
    for other in copies:
        assert apart_state(other).keys() == apart_state(case.model).keys()
        torch.manual_seed(4)
        assert torch.equal(entry.losses(other, case.x, case.target).elbo, losses.elbo)
        unpatch(other)
        assert likelihood_in(other) is None
    images = entry.sample(case.model, 2, 1.0)
    assert images.dtype.name == "uint8"
    assert images.shape == (2, *case.target.shape[1:])


def test_what_stands_apart_can_be_carried_to_another_model() -> None:
    one, other = small("vdvae"), small("vdvae")
    for case, seed in ((one, 1), (other, 2)):
        torch.manual_seed(seed)
        patch(case.model, "explin/constant+per_image", heads=case.host.heads(case.model))
    assert any(not torch.equal(v, apart_state(other.model)[k]) for k, v in apart_state(one.model).items())
    load_apart_state(other.model, apart_state(one.model))
    assert all(torch.equal(v, apart_state(other.model)[k]) for k, v in apart_state(one.model).items())
    with pytest.raises(PatchError, match="another decoder"):
        load_apart_state(other.model, {})


def test_the_layer_of_the_host_is_never_cut() -> None:
    case = small("conv_vae")
    patch(case.model, decoder="categorical", seam=case.host.decoder_seam(case.model))
    emitted = case.host.decoder_seam(case.model).terms(case.model, case.x, case.target).emitted
    assert emitted is not None
    assert emitted.shape[1] == 768
    sizes = {key: value.shape[:2] for key, value in apart_state(case.model).items() if value.dim() == 4}
    assert sizes == {"decoder.main.6.vdvae_patch_beside.layer.weight": (16, 765)}


def test_a_rate_has_a_group_for_each_latent() -> None:
    case = small("vdvae")
    rates = case.host.decoder_seam(case.model).terms(case.model, case.x, case.target).rates
    assert list(rates) == ["dec_blocks.0", "dec_blocks.1"]
    assert all(rate.shape == (4,) for rate in rates.values())


@pytest.mark.parametrize("variant", ["vanilla", "explin/constant", "explin"])
def test_balanced_rates_have_the_gradients_of_their_halves(variant: str) -> None:
    """Weights of one give the gradient of the whole KL, whichever arithmetic the block has."""
    case = small("vdvae")
    if variant != "vanilla":
        patch(case.model, variant, heads=case.host.heads(case.model))
    seam = case.host.decoder_seam(case.model)
    gradients = []
    for spec in ("elbo", "balance(prior=1, posterior=1)"):
        weighing = Weighing(seam, objectives.get(spec))
        torch.manual_seed(5)
        case.model.zero_grad()
        weighing.weigh(weighing.module(case.model)(case.x, case.target)).loss.backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad.clone() for p in case.model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_skipped_update_leaves_every_state_alone() -> None:
    case = small("vdvae")
    variant = Variant.parse("vanilla+optimal+geco(kappa=0.06)")
    patch(case.model, variant.of_model)
    weighing = Weighing.of(variant, case.host, case.model, torch.device("cpu"))
    assert weighing is not None
    run = weighing.module(case.model).train()

    def states() -> list[Tensor]:
        return [v.clone() for v in (*apart_state(case.model).values(), *weighing.objective.state_dict().values())]

    def update(x: Tensor, skip: float) -> None:
        weighing.weigh(run(x, case.target))
        weighing.settle(case.model, torch.tensor(skip))

    update(case.x, 0.0)
    first = states()
    update(case.x, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(first, states(), strict=True))
    update(torch.full_like(case.x, torch.nan), 1.0)
    assert all(torch.equal(a, b) for a, b in zip(first, states(), strict=True))
    update(case.x, 0.0)
    assert any(not torch.equal(a, b) for a, b in zip(first, states(), strict=True))


def test_evaluation_has_the_training_sets_sigma_and_no_weight() -> None:
    case = small("conv_vae")
    variant = Variant.parse("vanilla+optimal+beta(beta=7)")
    patch(case.model, variant.of_model)
    list(trained(case, variant))
    weighing = Weighing.of(variant, case.host, case.model, torch.device("cpu"))
    assert weighing is not None
    state = {key: value.clone() for key, value in apart_state(case.model).items()}
    found = []
    for test in (case.target, torch.full_like(case.target, 128 / 127.5 - 1)):
        torch.manual_seed(6)
        found.append(weighing.measure(case.model.eval(), case.x, test))
    assert all(torch.equal(value, state[key]) for key, value in apart_state(case.model).items())
    for measured in found:
        torch.testing.assert_close(measured.elbo, measured.distortion + measured.rate)
        # the mass of a bin is nearly its density times its width where σ is many steps
        torch.testing.assert_close(measured.mass_elbo, measured.elbo + torch.tensor(255.0).log(), rtol=0, atol=0.3)


@pytest.mark.parametrize("name", ["diffusers", "pythae"])
def test_a_host_without_a_seam_says_why(name: str) -> None:
    reason = HOSTS.get(name).no_decoder
    assert "vdvae_patch.decoders" in reason or "decoder.nll" in reason
    with pytest.raises(HostError, match=f"{name}.*takes no decoder"):
        HOSTS.get(name).decoder_seam(nn.Linear(1, 1))


def test_a_handle_says_what_was_put_there() -> None:
    case = small("mlp_vae_global")
    handle = patch(case.model, decoder="per_pixel")
    assert str(handle) == (
        "decoder per_pixel in the place of the host's likelihood; 1,088 numbers of its own, apart from the state_dict"
    )


def test_a_patch_that_cannot_be_written_down_yet_says_what_to_save(tmp_path: Path) -> None:
    case = small("vdvae")
    patch(case.model, "explin/constant+optimal", heads=case.host.heads(case.model))
    with pytest.raises(PatchError, match="apart_state"):
        vdvae_patch.save(case.model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_that_nobody_described_is_refused_with_what_to_write() -> None:
    with pytest.raises(PatchError, match=r"seam=host\.decoder_seam"):
        patch(nn.Linear(2, 2), decoder="optimal")


def test_a_decoder_and_a_scale_for_what_it_replaces_are_refused() -> None:
    case = small("conv_vae")
    with pytest.raises(InvalidValueError, match="leave the third scale out"):
        patch(case.model, "explin/vanilla/bounded(0.1,1)+optimal", heads=case.host.heads(case.model))
    with pytest.raises(InvalidValueError, match="names an objective, which is no part of a model"):
        patch(case.model, "vanilla+optimal+geco(kappa=0.06)")
    other = get_decoder("optimal", PixelGrid(0, 255))
    with pytest.raises(PatchError, match="decoder optimal is for"):
        patch(case.model, decoder=other)
    assert likelihood_in(case.model) is None
    assert not vdvae_patch.is_patched(case.model)


def test_data_that_the_decoder_is_not_made_for_is_refused_before_a_run() -> None:
    case = small("vdvae")
    variant = Variant.parse("vanilla+bernoulli")
    patch(case.model, variant)
    weighing = Weighing.of(variant, case.host, case.model, torch.device("cpu"))
    assert weighing is not None
    before = [value.clone() for value in (*case.model.state_dict().values(), torch.get_rng_state())]
    with pytest.raises(InvalidValueError, match="these are grey values"):
        weighing.check_data(case.model, case.x, case.target)
    after = [*case.model.state_dict().values(), torch.get_rng_state()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert case.model.training
