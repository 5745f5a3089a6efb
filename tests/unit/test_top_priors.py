"""Top priors: their densities against torch's mixtures, what reaches which parameter, and what is refused."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from vdvae_patch import normal, top_priors
from vdvae_patch.errors import InvalidValueError, UnknownNameError
from vdvae_patch.top_priors import NormalMixture, TopPrior, Vamp, density, prior, reflect

SPECS = [
    "standard",
    "mixture",
    "mixture(components=3, scale=bounded(0.01, omega=2))",
    "vamp(components=4)",
    "vamp(components=4, lr_factor=0.1)",
]
LATENTS = (2, 1, 3)
IMAGES = (1, 4, 4)


class Encoder(nn.Module):
    """Images `[B, 1, 4, 4]` to mean and log sigma of latents of a shape."""

    def __init__(self, latents: tuple[int, ...] = LATENTS) -> None:
        super().__init__()
        self.latents = latents
        self.layer = nn.Linear(16, 2 * math.prod(latents))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sigma = self.layer(x.flatten(1)).chunk(2, dim=1)
        return mean.view(-1, *self.latents), log_sigma.view(-1, *self.latents)


def ready(spec: str) -> TopPrior:
    return top_priors.get(spec, latents=LATENTS, images=IMAGES, generator=torch.Generator().manual_seed(0))


def mixture(
    components: int, latents: tuple[int, ...], dtype: torch.dtype, weighted: bool, seed: int = 0
) -> tuple[NormalMixture, MixtureSameFamily]:
    """A mixture of ours, and torch's in float64 of the very same numbers."""
    torch.manual_seed(seed)
    mean, log_sigma = torch.randn(components, *latents, dtype=dtype), torch.randn(components, *latents, dtype=dtype)
    logits = torch.randn(components, dtype=dtype)
    own = NormalMixture(mean, log_sigma, logits.log_softmax(0) if weighted else None)
    weights = Categorical(logits=logits.double() if weighted else torch.zeros(components, dtype=torch.float64))
    each = Independent(Normal(mean.double(), log_sigma.double().exp()), len(latents))
    return own, MixtureSameFamily(weights, each)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("components", "latents"), [(1, (5,)), (8, (10,)), (50, (40,)), (3, (2, 1, 3))])
def test_a_mixture_is_torchs(dtype: torch.dtype, weighted: bool, components: int, latents: tuple[int, ...]) -> None:
    own, theirs = mixture(components, latents, dtype, weighted)
    z = torch.cat([own.mean[:3] + 0.1, 2 * torch.randn(20, *latents, dtype=dtype)]).detach()
    torch.testing.assert_close(own.log_prob(z).double(), theirs.log_prob(z.double()), rtol=1e-6, atol=1e-6)


def test_the_mistakes_of_public_mixtures_give_other_numbers() -> None:
    own, theirs = mixture(8, (10,), torch.float64, weighted=False)
    z = torch.randn(6, 10, dtype=torch.float64)
    each = normal.log_prob(z[:, None], own.mean, own.log_sigma)
    product = each.logsumexp(dim=1).sum(dim=1) - 10 * math.log(8)  # over components before the sum
    variance = normal.log_prob(z[:, None], own.mean, 0.5 * own.log_sigma).sum(-1).logsumexp(1) - math.log(8)
    for wrong in (product, variance):
        assert ((wrong - theirs.log_prob(z)).abs() > 1e-3).all()
    torch.testing.assert_close(own.log_prob(z), theirs.log_prob(z))


@pytest.mark.parametrize("spec", SPECS)
def test_every_prior_integrates_to_one_in_two_dimensions(spec: str) -> None:
    torch.manual_seed(1)
    made = top_priors.get(spec, latents=(2,), images=IMAGES).double()
    encoder = Encoder((2,)).double()
    axis = torch.linspace(-12, 12, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = made.log_prob(grid, encoder).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(float(mass) - 1) < 1e-6


@pytest.mark.parametrize("spec", SPECS)
def test_every_prior_gives_a_number_an_image_and_latents_of_their_shape(spec: str) -> None:
    made, encoder = ready(spec), Encoder()
    mean, log_sigma = encoder(torch.rand(5, *IMAGES))
    z = normal.sample(mean, log_sigma)
    for value in (made(z, encoder), made.kl(z, mean, log_sigma, encoder)):
        assert value.shape == (5,)
        assert value.isfinite().all()
    assert made.sample(7, encoder).shape == (7, *LATENTS)
    assert str(top_priors.get(made.specification()).specification()) == made.specification()


@pytest.mark.parametrize("spec", SPECS)
def test_samples_are_those_of_the_density(spec: str) -> None:
    """Σ p(z) over the prior's own samples estimates the integral of p², which a grid gives as well."""
    torch.manual_seed(2)
    made, encoder = top_priors.get(spec, latents=(2,), images=IMAGES).double(), Encoder((2,)).double()
    with torch.no_grad():
        at = made.at(encoder)
        drawn = at.log_prob(at.sample(40_000, generator=torch.Generator().manual_seed(3)).double()).exp()
        axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
        squared = at.log_prob(torch.cartesian_prod(axis, axis)).mul(2).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(drawn.mean() - squared) < 5 * drawn.std() / 200


def test_samples_come_from_all_components_by_their_weights() -> None:
    mean = torch.tensor([[-10.0], [0.0], [10.0]])
    at = NormalMixture(mean, torch.full((3, 1), -3.0), torch.tensor([0.5, 0.3, 0.2]).log())
    drawn = at.sample(5000, generator=torch.Generator().manual_seed(0))
    share = [float(((drawn - place).abs() < 1).float().mean()) for place in mean.flatten()]
    assert share == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    assert set(at.sample(50, temperature=0.0).flatten().tolist()) == {-10.0, 0.0, 10.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [-200.0, -60.0, 0.0, 5.0])
def test_one_component_at_the_data_point_costs_nothing(dtype: torch.dtype, shift: float) -> None:
    """By whichever sample, and for every σ."""
    encoder, x = Encoder().to(dtype), torch.rand(1, *IMAGES, dtype=dtype)
    made = Vamp(components=1).prepare(images=IMAGES).to(dtype)
    with torch.no_grad():
        made.raw.copy_(x)

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sigma = encoder(images)
        return mean, log_sigma + shift

    mean, log_sigma = encode(x)
    z = normal.sample(mean.expand(9, *LATENTS), log_sigma)
    kl = made.kl(z, mean.expand_as(z), log_sigma.expand_as(z), encode)
    torch.testing.assert_close(kl, torch.zeros_like(kl), rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-10)


def test_the_estimated_kl_is_the_closed_one_on_average() -> None:
    torch.manual_seed(0)
    mean, log_sigma = torch.randn(1, 3, dtype=torch.float64), 0.3 * torch.randn(1, 3, dtype=torch.float64)
    z = normal.sample(mean.expand(100_000, 3), log_sigma)
    estimated = NormalMixture(torch.zeros(1, 3).double(), torch.zeros(1, 3).double()).kl(z, mean, log_sigma)
    exact = top_priors.get("standard").kl(z[:1], mean, log_sigma)
    assert abs(estimated.mean() - exact.item()) < 5 * estimated.std() / math.sqrt(100_000)


def test_the_order_of_components_does_not_matter() -> None:
    own, _ = mixture(6, LATENTS, torch.float64, weighted=True)
    assert own.log_weights is not None
    order = torch.randperm(6)
    other = NormalMixture(own.mean[order], own.log_sigma[order], own.log_weights[order])
    z = torch.randn(5, *LATENTS, dtype=torch.float64)
    torch.testing.assert_close(own.log_prob(z), other.log_prob(z), rtol=1e-14, atol=1e-13)
    made, encoder = ready("vamp(components=6)"), Encoder()
    before = made.log_prob(z.float(), encoder)
    with torch.no_grad():
        made.raw.copy_(made.raw[order].clone())
    torch.testing.assert_close(made.log_prob(z.float(), encoder), before)


def test_gradients_reach_the_pseudo_inputs_and_twice_the_encoder() -> None:
    made, encoder, x = ready("vamp(components=4)"), Encoder(), torch.rand(5, *IMAGES)
    mean, log_sigma = encoder(x)
    z = normal.sample(mean, log_sigma)
    made.kl(z, mean, log_sigma, encoder).sum().backward()
    (raw,) = made.parameters()
    assert raw.grad is not None
    assert (raw.grad.flatten(1).abs().sum(dim=1) > 0).all()
    whole, weight = encoder.layer.weight.grad, encoder.layer.weight

    def part(through: tuple[Tensor, Tensor], components: tuple[Tensor, Tensor]) -> Tensor:
        at = NormalMixture(*components)
        (found,) = torch.autograd.grad(
            at.kl(torch.addcmul(through[0], through[1].exp(), noise), *through).sum(), weight
        )
        return found

    noise = ((z - mean) * torch.exp(-log_sigma)).detach()
    seen, pseudo = encoder(x), encoder(made.pseudo_inputs)
    by_images = part(seen, (pseudo[0].detach(), pseudo[1].detach()))
    by_inputs = part((seen[0].detach(), seen[1].detach()), encoder(made.pseudo_inputs))
    assert by_images.abs().sum() > 0
    assert by_inputs.abs().sum() > 0
    torch.testing.assert_close(whole, by_images + by_inputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_no_log_sigma_gives_a_nan(dtype: torch.dtype) -> None:
    """One component is so narrow, or so wide, that σ is rounded to zero or overflows; z is anywhere."""
    for extreme in (-1e4, -200.0, -88.0, -30.0, 30.0, 89.0, 1e4):
        log_sigma = torch.tensor([[0.0, 0.0], [extreme, extreme], [extreme, 0.0]], dtype=dtype).requires_grad_()
        mean = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, -1.0]], dtype=dtype).requires_grad_()
        z = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 3e4]], dtype=dtype).requires_grad_()
        value = NormalMixture(mean, log_sigma).log_prob(z)
        assert value.isfinite().all(), extreme
        assert value.dtype in (torch.float32, torch.float64)
        value[:1].sum().backward(retain_graph=True)
        # far from the odd components z has the gradient of N(0, 1), and they have none
        assert all(t.grad is not None and t.grad.isfinite().all() for t in (mean, log_sigma, z)), extreme
        value.sum().backward()
        assert not any(t.grad is not None and t.grad.isnan().any() for t in (mean, log_sigma, z)), extreme


def test_a_naive_mixture_has_that_nan() -> None:
    log_sigma = torch.tensor([[0.0], [-100.0]], requires_grad=True)
    z = torch.zeros(1, 1)
    naive = (-0.5 * (z - torch.tensor([[0.0], [1.0]])) ** 2 / log_sigma.exp() ** 2 - log_sigma).sum(1).logsumexp(0)
    naive.backward()
    assert log_sigma.grad is not None
    assert log_sigma.grad.isnan().any()


def test_pseudo_inputs_stay_inside_and_come_back_from_the_border() -> None:
    v = torch.tensor([-3.2, -1.0, -1e-10, 0.0, 1e-3, 0.5, 1.0, 1.0001, 2.0, 7.3, 1e30], requires_grad=True)
    u = reflect(v)
    assert ((u >= 0) & (u <= 1)).all()
    torch.testing.assert_close(u[[0, 3, 5, 6, 9]], torch.tensor([0.8, 0.0, 0.5, 1.0, 0.7]))
    u.sum().backward()
    assert v.grad is not None
    assert (v.grad.abs() == 1).all()


@pytest.mark.parametrize("border", [0.0, 1.0])
def test_descent_leaves_the_border(border: float) -> None:
    raw = nn.Parameter(torch.full((8,), border))
    optimizer = torch.optim.Adam([raw], lr=0.05)
    for goal in (border, 0.4):  # first it is driven against the border for a while
        for _ in range(100):
            optimizer.zero_grad()
            (reflect(raw) - goal - (2 * border - 1) * 0.5 * (goal == border)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(reflect(raw).detach(), torch.full((8,), 0.4), rtol=0, atol=0.02)


def test_pseudo_inputs_start_from_the_data_or_at_random() -> None:
    data = torch.rand(6, *IMAGES, generator=torch.Generator().manual_seed(0))
    exact = top_priors.get("vamp(components=6, from_data=1, std=0)", data=data)
    assert isinstance(exact, Vamp)
    chosen = {tuple(row.flatten().tolist()) for row in exact.pseudo_inputs}
    assert chosen == {tuple(row.flatten().tolist()) for row in data}
    more = top_priors.get("vamp(components=13, from_data=1)", data=data)
    distance = torch.cdist(more.pseudo_inputs.flatten(1), data.flatten(1)).min(dim=1).values
    assert distance.max() < 0.2
    assert distance.min() > 0
    around = top_priors.get("vamp(components=50, mean=0.05)", images=(784,)).pseudo_inputs
    assert abs(around.mean().item() - 0.05) < 1e-3
    assert abs(top_priors.get("vamp(20)", data=data / 2).pseudo_inputs.mean().item() - float(data.mean()) / 2) < 0.01


def test_a_prior_is_an_ordinary_module() -> None:
    made, encoder, z = ready("vamp(components=3)"), Encoder(), torch.randn(2, *LATENTS)
    value = made(z, encoder)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(other(z, encoder), value)
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    fresh = ready("vamp(components=3)")
    fresh.load_state_dict(torch.load(file))
    assert torch.equal(fresh(z, encoder), value)
    assert [name for name, _ in made.named_parameters()] == ["raw"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("vamp(0)", "components must be a whole number of at least 1, not 0"),
        ("vamp(components=-3)", "at least 1"),
        ("mixture(2.5)", "whole number"),
        ("vamp(components=3, from_data=2)", "from_data"),
        ("vamp(components=3, mean=1.5)", r"\[0, 1\]"),
        ("vamp(components=3, std=-1)", "std"),
        ("mixture(scale=7)", "scale"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(spec: str, said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        top_priors.get(spec)


def test_an_unknown_prior_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="vamp"):
        top_priors.get("vam")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": 36}, r"images is a shape, as in images=\(1, 28, 28\), not 36"),
        ({"latents": 5, "images": (4,)}, r"latents is a shape, as in latents=\(40,\), not 5"),
        ({"data": [[0.0, 1.0]]}, "data is a tensor of images, not a list"),
    ],
)
def test_what_is_no_shape_and_no_tensor_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        top_priors.get("vamp(3)", **given)


@pytest.mark.parametrize(
    "data",
    [torch.rand(5, *IMAGES) + 0.5, -torch.rand(5, *IMAGES), 255 * torch.rand(5, *IMAGES), torch.full((5, 4), math.nan)],
)
def test_data_outside_of_the_range_are_refused(data: Tensor) -> None:
    with pytest.raises(InvalidValueError, match=r"\[0, 1\]"):
        top_priors.get("vamp(2)", data=data)
    with pytest.raises(InvalidValueError, match="bytes / 255"):
        top_priors.get("vamp(2)", data=torch.zeros(5, 4, dtype=torch.uint8))


def test_more_than_memory_allows_is_refused_with_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidValueError, match=r"1,000,000,000,000 pseudo-inputs of 784 .* 12,544.0 TB .* or fewer"):
        top_priors.get("vamp(1e12)", images=(784,))
    monkeypatch.setattr(prior, "available_bytes", lambda: 784 * 16 * 7 + 5)
    with pytest.raises(InvalidValueError, match="take 7 or fewer"):
        top_priors.get("vamp(8)", images=(784,))
    top_priors.get("vamp(7)", images=(784,))
    with pytest.raises(InvalidValueError, match="mixture"):
        top_priors.get("mixture(8)", latents=(784,))


def test_a_batch_that_does_not_fit_is_refused_with_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    made, z = NormalMixture(torch.zeros(1000, 700), torch.zeros(1000, 700)), torch.zeros(1, 700).expand(100_000, 700)
    monkeypatch.setattr(density, "available_bytes", lambda device: 2**30)
    with pytest.raises(InvalidValueError, match=r"TB|GB.*images at a time"):
        made.log_prob(z)


def broken(x: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        (None, "needs the encoder"),
        (broken, "cannot be called .* mat1 and mat2"),
        (lambda x: x, "one tensor"),
        (lambda x: (x.flatten(1), x.flatten(1)[:, :3]), "log sigma"),
        (lambda x: (x[:1].flatten(1), x[:1].flatten(1)), "gave a mean"),
        (lambda x: (x.flatten(1), x.flatten(1)), "latents being"),
        (lambda x: (x, x, x), "3 values"),
        (lambda x: {"mean": x}, "a dict"),
    ],
)
def test_an_encoder_that_cannot_be_called_is_refused_with_the_reason(encode: object, said: str) -> None:
    made = ready("vamp(components=3)")
    with pytest.raises(InvalidValueError, match=said):
        made.check(encode)  # type: ignore[arg-type]


def test_a_posterior_that_depends_on_a_draw_is_refused_with_the_reason() -> None:
    """As of a lower latent, whose encoder draws the upper one on the way."""
    made = ready("vamp(components=3)")
    plain = Encoder()

    def lower(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sigma = plain(x)
        return mean + torch.randn_like(mean), log_sigma

    state = torch.get_rng_state()
    with pytest.raises(InvalidValueError, match=r"depends on a draw.*nothing stands above"):
        made.check(lower)
    made.check(plain)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_prior_that_is_not_prepared_says_how() -> None:
    for spec, said in (("vamp", r"prepare\(images"), ("mixture", r"prepare\(latents"), ("standard", "latents=")):
        with pytest.raises(InvalidValueError, match=said):
            top_priors.get(spec).sample(3, Encoder())
    with pytest.raises(InvalidValueError, match="images="):
        top_priors.get("vamp", latents=(3,))
    with pytest.raises(InvalidValueError, match="given latents"):
        ready("mixture").log_prob(torch.zeros(4, 9))


def test_a_latent_that_is_far_from_every_component_shows_it_by_its_gradient() -> None:
    """A run that has diverged must not look as if it had come to rest."""
    mean = torch.zeros(3, 2, requires_grad=True)
    log_sigma = torch.full((3, 2), -20.0, requires_grad=True)
    z = torch.full((4, 2), 1e12, requires_grad=True)  # 5e20 standard deviations
    value = NormalMixture(mean, log_sigma).log_prob(z)
    assert bool(value.isfinite().all())
    value.sum().backward()
    for gradient in (z.grad, mean.grad, log_sigma.grad):
        assert gradient is not None
        assert bool(gradient.isfinite().all())
        assert float(gradient.abs().max()) > 1e18


def test_of_two_components_the_far_one_has_no_gradient() -> None:
    mean = torch.tensor([[0.0], [1e12]], requires_grad=True)
    log_sigma = torch.tensor([[0.0], [-80.0]], requires_grad=True)
    NormalMixture(mean, log_sigma).log_prob(torch.ones(5, 1)).sum().backward()
    assert mean.grad is not None
    assert log_sigma.grad is not None
    assert mean.grad.tolist() == [[5.0], [0.0]]
    assert log_sigma.grad[1].item() == 0


def test_a_mixture_has_ten_components_unless_told() -> None:
    assert top_priors.get("mixture(components=10)").specification() == top_priors.get("mixture").specification()
    assert top_priors.get("mixture").components == 10
