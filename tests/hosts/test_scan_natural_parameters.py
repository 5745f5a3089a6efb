"""Natural parameters of a Normal: η₂ = −1 / (2σ²) is negative, so that a patch has to come back through a sign."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from vdvae_patch import scales
from vdvae_patch.baking.functions import of_scale
from vdvae_patch.composition import Composition, Step
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan

Sigma = Callable[[Tensor], Tensor]

SIGMAS: dict[str, Sigma] = {
    "of softplus": lambda v: torch.sqrt(-0.5 / -F.softplus(v)),
    "of softplus and a floor": lambda v: torch.sqrt(-0.5 / (-F.softplus(v) - 1e-3)),
    "of softplus taken from zero": lambda v: torch.sqrt(-0.5 / (0 - 1e-15 - F.softplus(v))),
    "of an exponential": lambda v: (-2 * -v.exp()).rsqrt(),
    "of the exponential of a log variance": lambda v: (-2 * (-0.5 * torch.exp(-v))).pow(-0.5),
    "a variance": lambda v: (-1 / (2 * -F.softplus(v))).sqrt(),
    "a reciprocal": lambda v: ((-F.softplus(v)).reciprocal() * -0.5) ** 0.5,
    "the log of a precision": lambda v: torch.exp(-0.5 * torch.log(-2 * -F.softplus(v))),
    "bounded from above": lambda v: torch.sqrt(-0.5 / (-v.exp()).clamp(max=-1e-4)),
}


class Regressor(nn.Module):
    def __init__(self, sigma: Sigma, in_sampler: bool) -> None:
        super().__init__()
        self.trunk, self.head, self.dec = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(3, 4)
        self.sigma, self.in_sampler = sigma, in_sampler

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        first, raw = self.head(self.trunk(x).relu()).chunk(2, -1)
        sigma = self.sigma(raw)
        if self.in_sampler:
            z = first + sigma * torch.randn_like(sigma)
            kl = 0.5 * (sigma**2 + first**2 - 1) - sigma.log()
            return F.mse_loss(self.dec(z), x) + kl.mean()
        return -Normal(first, sigma).log_prob(y).mean()


@pytest.mark.parametrize("in_sampler", [False, True], ids=["density", "sampler and KL"])
@pytest.mark.parametrize("kind", SIGMAS)
def test_a_scale_takes_the_place_of_a_sigma_that_is_computed_of_a_negative_number(kind: str, in_sampler: bool) -> None:
    torch.manual_seed(0)
    model, x, y = Regressor(SIGMAS[kind], in_sampler), torch.randn(8, 4), torch.randn(8, 3)
    (head,) = scan(model, x, y)
    assert head.role == ("posterior" if in_sampler else "likelihood")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a floor is lost
        patch(model, heads=[head], **{head.role: "explin"})  # verified at both ends
    loss = model(x, y)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


NATURAL = {
    "negative": ("softplus", 1.0), "with a floor": ("softplus", 1.0, 1e-15), "exponential": ("exp",),
}  # fmt: skip


def _composition(first: str, *numbers: float) -> Composition:
    begin = Step(first, numbers[:1])
    floor = [Step("add", (-numbers[1],))] if len(numbers) > 1 else []
    return Composition(
        [begin, Step("mul", (-1.0,)), *floor, Step("pow", (-1.0,)), Step("mul", (-0.5,)), Step("pow", (0.5,))]
    )


@pytest.mark.parametrize("spec", ["explin", "upbounded", "softplus"])
@pytest.mark.parametrize("parts", NATURAL.values(), ids=NATURAL)
def test_the_way_back_from_sigma_goes_through_the_sign(parts: tuple[str, float], spec: str) -> None:
    chain, scale = _composition(*parts), scales.get(spec)
    p = torch.linspace(-8, 8, 65, dtype=torch.float64, requires_grad=True)
    through, wanted = chain.sigma(chain.preimage(scale, p)), scale.sigma(p)
    torch.testing.assert_close(through, wanted, rtol=1e-7, atol=0)
    gradients = [torch.autograd.grad(s.sum(), p)[0] for s in (through, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("parts", NATURAL.values(), ids=NATURAL)
def test_the_written_way_back_goes_through_the_sign(parts: tuple[str, float]) -> None:
    chain, scale = _composition(*parts), scales.get("explin")
    names: dict[str, Callable[[Tensor], Tensor]] = {}
    exec(of_scale(scale, chain).named("back"), {"torch": torch}, names)  # type: ignore[arg-type]
    p = torch.linspace(-8, 8, 65, dtype=torch.float64)
    torch.testing.assert_close(chain.sigma(names["back"](p)), scale.sigma(p), rtol=1e-7, atol=0)


def test_the_log_of_sigma_is_carried_through_the_sign_where_sigma_itself_overflows() -> None:
    """σ = (½ / eᵛ)^½ of v = −2000 is e^999.65."""
    chain = _composition("exp")
    v = torch.tensor([-2000.0, -3.0, 0.0, 2000.0], dtype=torch.float64)
    torch.testing.assert_close(chain.log_sigma(v), -0.5 * v - 0.5 * torch.log(torch.tensor(2.0).double()))


def test_an_odd_power_has_a_negative_root_and_an_even_one_none() -> None:
    cube, square = Composition([Step("pow", (3.0,))]), Composition([Step("pow", (2.0,))])
    inner = Composition([Step("mul", (-1.0,)), *cube.steps, Step("mul", (-1.0,))])
    p = torch.tensor([0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(inner.preimage(scales.get("explin"), p), scales.get("explin").sigma(p) ** (1 / 3))
    torch.testing.assert_close(square.preimage(scales.get("explin"), p), scales.get("explin").sigma(p) ** 0.5)


def of_an_exponential(first: Tensor, v: Tensor, y: Tensor) -> Tensor:
    second = -0.5 * torch.exp(v)
    return first * y + second * y.square() + first.square() / (4 * second) + 0.5 * torch.log(-2 * second)


def of_a_softplus_and_a_floor(first: Tensor, v: Tensor, y: Tensor) -> Tensor:
    second = -F.softplus(v) - 1e-3
    return first * y + second * y * y + first.pow(2) / (4 * second) + 0.5 * (-2 * second).log()


def of_a_precision(first: Tensor, v: Tensor, y: Tensor) -> Tensor:
    precision = F.softplus(v)
    return -0.5 * (precision * y**2 - 2 * first * y + first**2 / precision - precision.log())


def of_a_zero_mean(first: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return -0.5 * (y**2 / F.softplus(v) + F.softplus(v).log()) - 0.0 * first


DENSITIES: dict[Callable[[Tensor, Tensor, Tensor], Tensor], Sigma] = {
    of_an_exponential: lambda v: torch.exp(-0.5 * v),
    of_a_softplus_and_a_floor: lambda v: (2 * F.softplus(v) + 2e-3).rsqrt(),
    of_a_precision: lambda v: F.softplus(v).rsqrt(),
    of_a_zero_mean: lambda v: F.softplus(v).sqrt(),
}


class WrittenOut(nn.Module):
    """log N(y; σ² η₁, σ) with the square of y for itself."""

    def __init__(self, density: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.density = nn.Linear(4, 6), density

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.first, raw = self.net(x).chunk(2, -1)
        self.each = self.density(self.first, raw, y)
        return -self.each.mean()


@pytest.mark.parametrize("density", DENSITIES, ids=lambda density: density.__name__)
def test_a_density_in_natural_parameters_is_a_likelihood_s_and_is_patched(
    density: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    model, x, y = WrittenOut(density), torch.randn(8, 4), torch.randn(8, 3)
    (head,) = scan(model, x, y)
    assert (head.path, head.channels, head.role) == ("net", "3:6", "likelihood")
    v = torch.linspace(-4, 4, 17, dtype=torch.float64)
    torch.testing.assert_close(head.convention.sigma(v), DENSITIES[density](v))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (patched,) = patch(model, heads=[head], likelihood="bounded(0.01, 3)").heads
    assert patched.scale is not None
    p = F.linear(x, model.net.weight, model.net.bias)[:, 3:]
    model(x, y).backward()
    sigma = patched.scale.sigma(p)
    mean = torch.zeros_like(sigma) if density is of_a_zero_mean else model.first * sigma**2
    expected = Normal(mean, sigma).log_prob(y) + 0.5 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(model.each, expected, rtol=1e-3, atol=1e-3)


def test_a_poisson_s_density_has_no_sigma() -> None:
    class Counts(WrittenOut):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            _, raw = self.net(x).chunk(2, -1)
            return (raw.exp() - y.abs().round() * raw).mean()

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not scan(Counts(of_an_exponential), torch.randn(8, 4), torch.randn(8, 3))
