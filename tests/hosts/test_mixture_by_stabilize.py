"""`stabilize(..., decoder="optimal")` where the likelihood is a mixture: the Gaussian is around the mixture's mean."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import vdvae_patch
from vdvae_patch.decoders import PixelGrid
from vdvae_patch.patching.term import term_in
from vdvae_patch.scanning.arithmetic.cuts import UNKNOWN, Cut, lies_in

ROWS, PIXELS, LATENTS, K = 8, 12, 3, 4
Loss = Callable[[nn.Module, Tensor], Tensor]


class Mixed(nn.Module):
    """A VAE of two layers whose decoder emits logits, means and log scales of K components for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(PIXELS, 2 * LATENTS)
        self.decoder = nn.Linear(LATENTS, 3 * K * PIXELS)

    def code(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        return mean, logvar, mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)

    def emitted(self, z: Tensor) -> Tensor:
        return self.decoder(z).view(len(z), PIXELS, 3 * K)  # type: ignore[no-any-return]

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        """Nats of the batch."""
        raise NotImplementedError

    def mean_of(self, out: Tensor) -> Tensor:
        """The mixture's mean, by hand."""
        logits, means, _ = out.chunk(3, dim=-1)
        return (torch.softmax(logits, dim=-1) * means).sum(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        mean, logvar, z = self.code(x)
        return (self.nll(self.emitted(z), x) + kl(mean, logvar).sum()) / len(x)


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (1 + logvar - mean.pow(2) - logvar.exp())


def log_sum_exp(x: Tensor) -> Tensor:
    largest, _ = torch.max(x, dim=-1, keepdim=True)
    return largest.squeeze(-1) + torch.log(torch.sum(torch.exp(x - largest), dim=-1))


def discretized(x: Tensor, parameters: Tensor) -> Tensor:
    """−log of a mixture of logistics' mass in each bin, the parameters in one tensor, as public code has it."""
    logit_probs, means, log_scales = parameters[..., :K], parameters[..., K : 2 * K], parameters[..., 2 * K :]
    log_scales = torch.clamp(log_scales, min=-7.0)
    x = x.unsqueeze(-1)
    centered = x - means
    inverse = torch.exp(-log_scales)
    upper, lower = inverse * (centered + 0.5 / 255), inverse * (centered - 0.5 / 255)
    delta = torch.sigmoid(upper) - torch.sigmoid(lower)
    middle = inverse * centered
    dense = middle - log_scales - 2 * F.softplus(middle) - math.log(255)
    inner = torch.where(delta > 1e-5, torch.log(torch.clamp(delta, min=1e-12)), dense)
    masses = torch.where(x < 0.001, upper - F.softplus(upper), torch.where(x > 0.999, -F.softplus(lower), inner))
    masses = masses + F.log_softmax(logit_probs, dim=-1)
    return -torch.sum(log_sum_exp(masses))


class OfLogistics(Mixed):
    """Discretized logistics in a function beside the model."""

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        return discretized(x, out)


class OfNormals(Mixed):
    """A mixture density written out, the weights a softmax whose logarithm is taken, the means first."""

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        logits, means, log_scales = out.chunk(3, dim=-1)
        weights = torch.softmax(logits, dim=-1)
        error = means - x[..., None]
        density = -0.5 * (error * torch.exp(-log_scales)) ** 2 - log_scales - 0.5 * math.log(2 * math.pi)
        return -torch.logsumexp(density + torch.log(weights), dim=-1).sum()


class OfImages(Mixed):
    """The components are of whole images: one weight for all pixels of one."""

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        logits, means, log_scales = out.chunk(3, dim=-1)
        error = x.unsqueeze(2) - means
        density = (-0.5 * (error * torch.exp(-log_scales)) ** 2 - log_scales).sum(dim=1)
        return -torch.logsumexp(density + F.log_softmax(logits.sum(dim=1), dim=1), dim=1).sum()

    def mean_of(self, out: Tensor) -> Tensor:
        logits, means, _ = out.chunk(3, dim=-1)
        return (torch.softmax(logits.sum(dim=1), dim=1)[:, None] * means).sum(dim=-1)


class SameFamily(Mixed):
    """PyTorch's own mixture."""

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        logits, means, log_scales = out.chunk(3, dim=-1)
        mixture = MixtureSameFamily(Categorical(logits=logits), Normal(means, log_scales.exp()))
        return -mixture.log_prob(x).sum()


class SameFamilyOfImages(OfImages):
    """The same, of whole images."""

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        logits, means, log_scales = out.movedim(2, 1).chunk(3, dim=1)
        normals = Independent(Normal(means, log_scales.exp()), 1)
        return -MixtureSameFamily(Categorical(logits=logits.sum(dim=2)), normals).log_prob(x).sum()


class WithCoefficients(Mixed):
    """As in PixelCNN++: the means of the later half are shifted by the data of the earlier one."""

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        logits, means, log_scales = out.chunk(3, dim=-1)
        earlier = torch.cat([torch.zeros_like(x[:, :6]), x[:, :6]], dim=1)
        means = means + 0.5 * earlier.unsqueeze(-1)
        density = -0.5 * ((x.unsqueeze(-1) - means) / log_scales.exp()) ** 2 - log_scales
        return -torch.logsumexp(density + F.log_softmax(logits, dim=-1), dim=-1).sum()


class InHelpers(Mixed):
    """Each part is computed by a function of its own."""

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        logits, means, log_scales = out.chunk(3, dim=-1)
        return -mixed(densities(x, log_scales, means), logits).sum()


class InAnOrder(Mixed):
    """The function that compares takes the means last, and something else second."""

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        logits, means, log_scales = out.chunk(3, dim=-1)
        density = densities(x, log_scales, means)
        return -torch.logsumexp(density + F.log_softmax(logits, dim=-1), dim=-1).sum()


class InAFunction(Mixed):
    """The function that compares takes the data and the means first."""

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        logits, means, log_scales = out.chunk(3, dim=-1)
        density = log_normal(x.unsqueeze(-1), means, log_scales)
        return -torch.logsumexp(density + F.log_softmax(logits, dim=-1), dim=-1).sum()


def log_normal(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    return -0.5 * ((x - mean) * torch.exp(-log_scale)) ** 2 - log_scale


def densities(x: Tensor, log_scales: Tensor, means: Tensor) -> Tensor:
    error = x.unsqueeze(-1) - means
    return -0.5 * (error * torch.exp(-log_scales)) ** 2 - log_scales


def mixed(density: Tensor, logits: Tensor) -> Tensor:
    weights = F.log_softmax(logits, dim=-1)
    return torch.logsumexp(density + weights, dim=-1)


def own(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)  # type: ignore[no-any-return]


class ComponentsFirst(Mixed):
    """Logistics whose components are the first dimension, compared with data that have none."""

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        logits, means, log_scales = out.chunk(3, dim=-1)
        weights, means, log_scales = logits.movedim(-1, 0), means.movedim(-1, 0), log_scales.movedim(-1, 0)
        weights = weights.log_softmax(dim=0)
        distance = (x - means) * torch.exp(-log_scales)
        masses = F.logsigmoid(distance) + F.logsigmoid(-distance) - log_scales
        return -torch.logsumexp(masses + weights, dim=0).sum()


class OfDensities(Mixed):
    """As it is in a textbook, log Σ w N(x; μ, σ), and the components in front."""

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        logits, means, log_scales = (part.movedim(-1, 0) for part in out.chunk(3, dim=-1))
        density = torch.exp(-0.5 * ((x.unsqueeze(0) - means) / log_scales.exp()) ** 2) / log_scales.exp()
        return -torch.log((logits.softmax(dim=0) * density).sum(dim=0)).sum()


def beside(model: nn.Module, x: Tensor) -> Tensor:
    mean, logvar, z = model.code(x)  # type: ignore[operator]
    return (discretized(x, model.emitted(z)) + kl(mean, logvar).sum()) / len(x)  # type: ignore[operator, no-any-return]


REPLACED: dict[str, tuple[type[Mixed], Loss]] = {
    "logistics": (OfLogistics, own),
    "logistics beside": (Mixed, beside),
    "normals": (OfNormals, own),
    "images": (OfImages, own),
    "in a function": (InAFunction, own),
    "components first": (ComponentsFirst, own),
    "of densities": (OfDensities, own),
    "same family": (SameFamily, own),
    "same family of images": (SameFamilyOfImages, own),
}


def batch(rows: int = ROWS, seed: int = 0) -> Tensor:
    x = torch.rand(rows, PIXELS, generator=torch.Generator().manual_seed(seed))
    return x.mul(255).round() / 255


def made(kind: type[Mixed]) -> Mixed:
    torch.manual_seed(0)
    return kind()


def stabilized(model: nn.Module, loss: Loss, decoder: str = "optimal", **more: Any) -> tuple[Any, Loss, str]:
    said = io.StringIO()
    handle = vdvae_patch.stabilize(model, batch(), call=loss, decoder=decoder, probe=False, file=said, **more)
    return handle, handle.loss or loss, said.getvalue()


def bound(model: Mixed, x: Tensor) -> float:
    mean, logvar, z = model.code(x)
    nats = vdvae_patch.decoders.get("optimal", PixelGrid(0, 1)).nll(x, model.mean_of(model.emitted(z)))
    return float(((nats.sum() + kl(mean, logvar).sum()) / len(x)).detach())


@pytest.mark.medium
@pytest.mark.parametrize("name", REPLACED)
def test_the_loss_becomes_the_bound_around_the_mixtures_mean(name: str) -> None:
    kind, loss = REPLACED[name]
    model = made(kind)
    handle, now, said = stabilized(model, loss, posterior="exp")
    assert "the loss is a bound with β = 1" in said
    assert "scales are no part of the loss any more" in said
    for rows in (ROWS, 5):
        x = batch(rows, seed=rows)
        torch.manual_seed(3)
        value = now(model, x)
        torch.manual_seed(3)
        assert value.item() == pytest.approx(bound(model, x), rel=1e-4)
    handle.unpatch()


@pytest.mark.medium
@pytest.mark.parametrize("name", REPLACED)
def test_it_trains_is_copied_and_is_taken_back_bit_for_bit(name: str) -> None:
    kind, loss = REPLACED[name]
    model = made(kind)
    before, cls = copy.deepcopy(model.state_dict()), type(model)
    torch.manual_seed(1)
    value = loss(model, batch())
    handle, now, _ = stabilized(model, loss)
    twin = copy.deepcopy(model)
    for step in range(3):
        loss_now = now(twin, batch(seed=step))
        loss_now.backward()
        assert loss_now.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in twin.parameters())
    assert model.state_dict().keys() == before.keys()
    handle.unpatch()
    torch.manual_seed(1)
    assert torch.equal(loss(model, batch()), value)
    assert type(model) is cls
    assert term_in(model) is None


@pytest.mark.medium
@pytest.mark.parametrize("name", ["logistics", "normals", "components first", "same family"])
def test_it_is_written_down_and_read_again(name: str) -> None:
    kind, loss = REPLACED[name]
    model = made(kind)
    stabilized(model, loss)
    fresh = made(kind)
    vdvae_patch.apply(fresh, vdvae_patch.patch_json(model))
    x = batch(5, seed=4)
    torch.manual_seed(2)
    value = loss(model, x)
    torch.manual_seed(2)
    assert torch.equal(loss(fresh, x), value)
    assert term_in(fresh) is not None


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (WithCoefficients, "the means of its later channels are shifted by the data of earlier ones"),
        (InHelpers, "its weights, its means and its logarithm are computed in functions of their own"),
        (InAnOrder, "its σ would be"),
    ],
)
def test_what_cannot_be_replaced_is_told_the_lines_to_write(kind: type[Mixed], said: str) -> None:
    model = made(kind)
    told = stabilized(model, own)[2]
    assert f"not put in by itself: {said}" in " ".join(told.split())
    assert term_in(model) is None
    assert "is the mean of the mixture; in the place of what the loss makes of `" in told


@pytest.mark.parametrize("kind", [OfLogistics, OfNormals, OfImages])
def test_the_lines_to_write_give_the_bound(kind: type[Mixed]) -> None:
    model, x = made(kind), batch()
    said = vdvae_patch.scan(model, x, call=own).elbo.instead("optimal")
    line, rest = said.removeprefix("`").split("` is the mean of the mixture; ")
    term, decoder = rest.split(" write `")[1].split("`, decoder = ")
    torch.manual_seed(5)
    mean, logvar, z = model.code(x)
    out = model.emitted(z)
    logits, means, _ = out.chunk(3, dim=-1)
    names: dict[str, Any] = {
        "F": F, "torch": torch, "vdvae_patch": vdvae_patch, "PixelGrid": PixelGrid, "data": x, "logits": logits,
        "logit_probs": logits, "means": means,
    }  # fmt: skip
    exec(f"{line}\ndecoder = {decoder}\nterm = {term}", names)  # the lines as the user would write them
    value = float((names["term"] + kl(mean, logvar).sum() / len(x)).detach())
    torch.manual_seed(5)
    assert value == pytest.approx(bound(model, x), rel=1e-5)


def test_a_decoder_that_needs_more_than_a_mean_is_told_of_the_lines() -> None:
    told = stabilized(made(OfNormals), own, "per_pixel")[2]
    assert "decoder per_pixel reads decoder.channels(C) channels" in told
    assert "is the mean of the mixture" in told


def test_what_no_ranges_can_say_lies_in_its_equal_alone() -> None:
    """Such a part has a number of its own in the place of a length: to list its places took all memory."""
    part, other = Cut(UNKNOWN, 7, 4_000_000_000, 0), Cut(UNKNOWN, 8, 4_000_000_000, 0)
    assert lies_in((part,), (part,))
    assert not lies_in((part,), (other,))
    assert not lies_in((), (part,))
    assert lies_in((Cut(1, 2, 3, 10), part), (Cut(1, 0, 6, 10),))
    assert not lies_in((Cut(1, 2, 5, 10),), (Cut(1, 0, 6, 10),))
