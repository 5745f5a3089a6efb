"""`stabilize(..., decoder="optimal")` of cross-entropies on grey values, however they are written."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_decoder_by_stabilize import LATENTS, PIXELS, ROWS, Small, batch, kl, made, own, stabilized
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

import vdvae_patch
from vdvae_patch.decoders import PixelGrid
from vdvae_patch.patching.term import term_in


class OfProbabilities(Small):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        out = torch.sigmoid(self.decoder(z))
        return F.binary_cross_entropy(out, x, reduction="sum") / len(x) + kl(mean, logvar).sum(dim=1).mean()


class OfLogits(Small):
    """Averaged over all values, the KL with a weight of its own."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        recon = F.binary_cross_entropy_with_logits(self.decoder(z), x)
        return recon + 0.01 * kl(mean, logvar).sum(dim=1).mean()


class ByNames(Small):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        recon = F.binary_cross_entropy_with_logits(target=x, input=self.decoder(z), reduction="none").sum(1)
        return (recon + kl(mean, logvar).sum(1)).mean()


class AsModule(Small):
    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.BCELoss(reduction="none")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        recon = self.criterion(self.decoder(z).sigmoid(), x)
        return recon.sum(1).mean() + kl(mean, logvar).sum(1).mean()


class WrittenOut(Small):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        p = torch.sigmoid(self.decoder(z))
        recon = -(x * torch.log(p + 1e-8) + (1 - x) * torch.log(1 - p + 1e-8)).sum(dim=1)
        return (recon + kl(mean, logvar).sum(dim=1)).mean()


class LogLikelihood(Small):
    """A bound that is maximized: the term is added, and its value subtracted from the loss."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        p = torch.sigmoid(self.decoder(z))
        likelihood = torch.sum(x * torch.log(p) + (1 - x) * torch.log(1 - p), dim=1)
        return -(likelihood - kl(mean, logvar).sum(dim=1)).mean()


class Negated(Small):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        p = torch.sigmoid(self.decoder(z)).clamp(1e-6, 1 - 1e-6)
        recon = torch.sum(-x * torch.log(p) - (1 - x) * torch.log(1 - p), 1)
        return recon.mean() + kl(mean, logvar).sum() / len(x)


class Softplus(Small):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        logits = self.decoder(z)
        return (F.softplus(logits) - x * logits).sum() + kl(mean, logvar).sum()


class LogSigmoids(Small):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        logits = self.decoder(z)
        recon = -torch.sum(x * F.logsigmoid(logits) + (1 - x) * F.logsigmoid(-logits))
        return (recon + kl(mean, logvar).sum()) / len(x)


class OfADistribution(Small):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        recon = -Bernoulli(logits=self.decoder(z), validate_args=False).log_prob(x).sum(1)
        return (recon + kl(mean, logvar).sum(1)).mean()


class InTheLoss(Small):
    """A plain forward; the loss is beside the model."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out, mean, logvar = super().forward(x)
        return torch.sigmoid(out), mean, logvar


def loss_beside(model: nn.Module, x: Tensor) -> Tensor:
    out, mean, logvar = model(x)
    return F.binary_cross_entropy(out, x, reduction="sum") + kl(mean, logvar).sum()


class Absolute(Small):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        return F.l1_loss(self.decoder(z), x, reduction="sum") + kl(mean, logvar).sum()


class Smooth(Small):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        return F.smooth_l1_loss(self.decoder(z), x, reduction="sum") + kl(mean, logvar).sum()


class FixedNormal(Small):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        return -Normal(self.decoder(z), 0.5).log_prob(x).sum() + kl(mean, logvar).sum()


Loss = Callable[[nn.Module, Tensor], Tensor]
REPLACED: list[tuple[type[Small], Loss, float, bool, bool]] = [
    (OfProbabilities, own, 1.0, False, True),
    (OfLogits, own, 0.01, False, True),
    (ByNames, own, 1.0, False, True),
    (AsModule, own, 1.0, False, True),
    (WrittenOut, own, 1.0, False, True),
    (LogLikelihood, own, 1.0, False, True),
    (Negated, own, 1.0, False, True),
    (Softplus, own, 1.0, True, True),
    (LogSigmoids, own, 1.0, False, True),
    (OfADistribution, own, 1.0, False, True),
    (InTheLoss, loss_beside, 1.0, True, True),
    (Absolute, own, 1.0, True, False),
    (Smooth, own, 1.0, True, False),
    (FixedNormal, own, 1.0, True, False),
]
"""The host, its loss, its factor on nats, whether it is a sum over the batch, and whether a sigmoid is the mean."""
CASES = pytest.mark.parametrize(("kind", "loss", "nat", "summed", "sigmoid"), REPLACED)


@pytest.mark.medium
@CASES
def test_the_loss_becomes_the_bound_with_the_mean_that_the_host_computes(
    kind: type[Small], loss: Loss, nat: float, summed: bool, sigmoid: bool
) -> None:
    model = made(kind)
    handle, now, said = stabilized(model, loss, posterior="exp")
    assert "the loss is a bound with β = 1" in said
    for rows in (ROWS, 5):
        x = batch(rows, seed=rows)
        torch.manual_seed(3)
        value = now(model, x)
        torch.manual_seed(3)
        out, mean, logvar = Small.forward(model, x)
        decoder = vdvae_patch.decoders.get("optimal", PixelGrid(0, 1))
        bound = kl(mean, logvar).sum(dim=1).mean() + decoder.nll(x, out.sigmoid() if sigmoid else out).mean()
        assert value.item() == pytest.approx((rows if summed else 1) * nat * bound.item(), rel=1e-4)
    handle.unpatch()


@pytest.mark.medium
@CASES
def test_it_trains_and_is_taken_back_bit_for_bit(
    kind: type[Small], loss: Loss, nat: float, summed: bool, sigmoid: bool
) -> None:
    model = made(kind)
    fresh = copy.deepcopy(model)
    handle, now, _ = stabilized(model, loss)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(3):
        optimizer.zero_grad()
        value = now(model, batch(seed=step))
        value.backward()
        assert value.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    handle.unpatch()
    assert term_in(model) is None
    fresh.load_state_dict(model.state_dict())
    torch.manual_seed(5)
    value = loss(model, batch())
    torch.manual_seed(5)
    assert torch.equal(loss(fresh, batch()), value)


class Weighted(Small):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((PIXELS,), 2.0))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        recon = F.binary_cross_entropy_with_logits(self.decoder(z), x, pos_weight=self.weights, reduction="sum")
        return recon + kl(mean, logvar).sum()


class TwoLines(Small):
    """The two halves of a cross-entropy on lines of their own: no one expression is the term."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        p = torch.sigmoid(self.decoder(z))
        whites = x * torch.log(p)
        blacks = (1 - x) * torch.log(1 - p)
        return -(whites + blacks).sum(dim=1).mean() + kl(mean, logvar).sum(dim=1).mean()


class Categorical(Small):
    """Each value one of four levels."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(LATENTS, 4 * PIXELS)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        levels = (3 * x).round().long()
        recon = F.cross_entropy(self.decoder(z).view(len(x), 4, -1), levels, reduction="sum")
        return recon + kl(mean, logvar).sum()


@pytest.mark.medium
@pytest.mark.parametrize(
    ("kind", "x", "said"),
    [
        (OfProbabilities, batch().round(), "the data are 0 and 1 alone, of which a Bernoulli is the likelihood itself"),
        (OfLogits, 2 * batch() - 1, "a Bernoulli's mean is between 0 and 1, and the data that it is compared with go"),
        (Weighted, batch(), "its values have weights"),
        (TwoLines, batch(), "two reconstruction terms or more"),
        (Categorical, batch(), "gives every level a probability, and has no mean"),
    ],
)
def test_what_cannot_be_is_said_and_the_loss_stays(kind: type[Small], x: Tensor, said: str) -> None:
    model = made(kind)
    fresh = copy.deepcopy(model)
    told = io.StringIO()
    vdvae_patch.stabilize(model, x, call=own, decoder="optimal", posterior="exp", file=told)
    assert said in told.getvalue()
    assert term_in(model) is None
    torch.manual_seed(2)
    value = own(model, x)
    torch.manual_seed(2)
    assert value.item() == pytest.approx(own(fresh, x).item(), rel=1e-5)


def test_what_to_write_names_the_mean_of_the_logits() -> None:
    model = made(OfLogits)
    instead = vdvae_patch.scan(model, batch(), call=own).elbo.instead("optimal")
    assert "decoder.nll(data, torch.sigmoid(output))" in instead


@pytest.mark.medium
def test_a_mixture_stays_and_a_host_by_name_is_told_where_its_decoder_goes() -> None:
    torch.manual_seed(0)
    model = vdvae_patch.load_host("vdvae").build(
        {
            "width": 8, "zdim": 2, "num_mixtures": 2, "dataset": "cifar10", "image_size": 8,
            "enc_blocks": "8x1,8d8,1x1", "dec_blocks": "1x1,8m1",
        }
    )  # fmt: skip
    x, told = torch.randint(0, 256, (4, 8, 8, 3)).float() / 127.5 - 1, io.StringIO()

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return model(x, x)["elbo"]  # type: ignore[no-any-return]

    vdvae_patch.stabilize(model, x, call=loss, decoder="optimal", file=told)
    assert "not put in by itself: the means of its later channels are shifted by the data" in told.getvalue()
    assert 'vdvae_patch.patch(model, ..., decoder="optimal") puts it there' in told.getvalue()
    assert term_in(model) is None


@pytest.mark.medium
def test_a_named_hosts_cross_entropy_on_grey_values_is_replaced() -> None:
    torch.manual_seed(0)
    model = vdvae_patch.load_host("large_vae").build({"size": (4, 3), "hidden": 8, "latents": 3})
    told = io.StringIO()

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return model(x)["elbo"]  # type: ignore[no-any-return]

    vdvae_patch.stabilize(model, batch(), call=loss, decoder="optimal", file=told)
    assert "the loss is a bound with β = 1" in told.getvalue()
    assert term_in(model) is not None
