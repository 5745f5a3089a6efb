"""Decoders: their likelihoods against torch's and against sums over all levels, their checks, and their extremes."""

from __future__ import annotations

import copy
import importlib.util
import math
import pickle
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal
from torch.nn import functional as F

from vdvae_patch import decoders
from vdvae_patch.decoders import CollapseWarning, Decoder, PixelGrid
from vdvae_patch.decoders.masses import log_logistic_mass, log_normal_mass
from vdvae_patch.errors import InvalidValueError, UnknownNameError

SPECS = [
    "fixed(sigma=0.3)",
    "shared",
    "shared(scale=exp)",
    "optimal",
    "per_image",
    "per_pixel",
    "per_pixel(scale=downbounded(0.01))",
    "per_pixel(bounded(0.01, omega=0.5))",
    "bernoulli",
    "categorical",
    "logistic",
    "logistic(scale=exp)",
    "logistic_mixture",
    "logistic_mixture(components=2)",
]
GAUSSIANS = [spec for spec in SPECS if decoders.get(spec).is_density]
GRIDS = [PixelGrid(), PixelGrid(-1, 1), PixelGrid(0, 255), PixelGrid(1 / 512, 511 / 512)]


def images(decoder: Decoder, *size: int, seed: int = 0) -> Tensor:
    """Images on the decoder's grid, the outermost levels among them; of two values for Bernoulli."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randint(0, 256, size, generator=generator)
    level.view(-1)[:2] = torch.tensor([0, 255])
    level = (level > 127) * 255 if decoder.name == "bernoulli" else level
    grid = decoder.pixels
    return (grid.low + level.double() * grid.step).float()


def parameters(decoder: Decoder, x: Tensor, spread: float = 1.0, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (len(x), decoder.channels(x.shape[1]), *x.shape[2:])
    return spread * torch.randn(size, generator=generator)


def ready(spec: str, pixels: PixelGrid | None = None, sigma: float = 0.2) -> Decoder:
    """A decoder in evaluation; `optimal` with a σ, in ranges of the pixels."""
    decoder = decoders.get(spec, pixels=pixels)
    if isinstance(decoder, decoders.Optimal):
        decoder.mean_squared_error.fill_((sigma * decoder.pixels.range) ** 2)
        decoder.updates.fill_(1)
    return decoder.eval()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_decoder_gives_a_number_an_image_and_images_of_their_shape(spec: str, channels: int) -> None:
    decoder = ready(spec)
    x = images(decoder, 5, channels, 4, 6)
    p = parameters(decoder, x).requires_grad_()
    assert decoder.image_channels(decoder.channels(channels)) == channels
    for value in (decoder.nll(x, p), decoder.mass_nll(x, p), decoder.bits_per_dim(x, p)):
        assert value.shape == (5,)
        assert value.isfinite().all()
    assert (decoder.mass_nll(x, p) >= 0).all()
    torch.testing.assert_close(decoder.bits_per_dim(x, p), decoder.mass_nll(x, p) / (channels * 24 * math.log(2)))
    assert decoder.mean(p).shape == decoder.sample(p).shape == x.shape
    (grad,) = torch.autograd.grad(decoder(x, p).sum(), p)
    assert grad.isfinite().all()
    assert grad.abs().max() > 0


@pytest.mark.parametrize("spec", [spec for spec in SPECS if "mixture" not in spec])
def test_flat_images_are_images_too(spec: str) -> None:
    decoder = ready(spec)
    x = images(decoder, 3, 20)
    assert decoder.nll(x, parameters(decoder, x)).shape == (3,)


@pytest.mark.parametrize("spec", SPECS)
def test_a_likelihood_is_a_sum_over_pixels_and_not_their_mean(spec: str) -> None:
    decoder = ready(spec)
    x = images(decoder, 2, 3, 4, 4)
    p = parameters(decoder, x)
    if decoder.name == "per_image":
        p[:, -1] = 0.3  # its σ is of the whole image
    twice, p_twice = torch.cat([x, x], dim=3), torch.cat([p, p], dim=3)
    torch.testing.assert_close(decoder.nll(twice, p_twice), 2 * decoder.nll(x, p))
    torch.testing.assert_close(decoder.mass_nll(twice, p_twice), 2 * decoder.mass_nll(x, p))


@pytest.mark.parametrize("spec", GAUSSIANS)
@pytest.mark.parametrize("pixels", GRIDS, ids=str)
def test_gaussians_are_torchs_normal(spec: str, pixels: PixelGrid) -> None:
    decoder = ready(spec, pixels)
    x = images(decoder, 4, 3, 5, 5)
    p = parameters(decoder, x, spread=0.5)
    assert isinstance(decoder, decoders.Gaussian)
    sigma = decoder.log_sigma(p).double().exp()
    reference = -Normal(p[:, :3].double(), sigma.expand(4, 3, 5, 5)).log_prob(x.double()).flatten(1).sum(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)  # a σ of 0.01 is below a byte's noise
        nll = decoder.nll(x, p)
    torch.testing.assert_close(nll.double(), reference, rtol=2e-5, atol=1e-3)


def test_scales_of_one_image_and_of_one_pixel_are_what_their_channels_say() -> None:
    x = images(decoders.get("fixed"), 2, 3, 4, 4)
    per_image, per_pixel = ready("per_image(scale=exp)"), ready("per_pixel(scale=exp)")
    p = parameters(per_image, x)
    torch.testing.assert_close(per_image.log_sigma(p)[:, 0, 0, 0], p[:, 3].mean(dim=(1, 2)))  # type: ignore[operator]
    p = parameters(per_pixel, x)
    torch.testing.assert_close(per_pixel.log_sigma(p), p[:, 3:])  # type: ignore[operator]


def test_bernoulli_and_categorical_are_torchs() -> None:
    decoder = ready("bernoulli", PixelGrid(-1, 1))
    x = images(decoder, 4, 1, 5, 5)
    p = parameters(decoder, x, spread=5)
    reference = -Bernoulli(logits=p).log_prob((x + 1) / 2).flatten(1).sum(1)
    torch.testing.assert_close(decoder.nll(x, p), reference)
    torch.testing.assert_close(decoder.mean(p), 2 * torch.sigmoid(p) - 1)

    decoder = ready("categorical")
    x = images(decoder, 2, 3, 4, 4)
    p = parameters(decoder, x, spread=3)
    logits = p.view(2, 3, 256, 4, 4).movedim(2, -1)
    torch.testing.assert_close(
        decoder.nll(x, p), -Categorical(logits=logits).log_prob((x * 255).round()).flatten(1).sum(1)
    )
    expected = (logits.softmax(-1) * torch.linspace(0, 1, 256)).sum(-1)
    torch.testing.assert_close(decoder.mean(p), expected)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "bernoulli"])
@pytest.mark.parametrize("pixels", GRIDS, ids=str)
def test_the_masses_of_all_levels_sum_to_one(spec: str, pixels: PixelGrid) -> None:
    decoder = ready(spec, pixels)
    levels = pixels.values(torch.zeros(1)).view(256, 1, 1)
    p = parameters(decoder, levels[:1], spread=2).expand(256, -1, 1)
    total = (-decoder.mass_nll(levels, p).double()).exp().sum().item()
    assert total == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("spec", ["logistic_mixture", "logistic", "per_pixel", "categorical"])
def test_the_masses_of_three_colours_sum_to_one_over_all_of_their_values(spec: str) -> None:
    decoder = ready(spec, PixelGrid(-1, 1, levels=16))
    values = decoder.pixels.values(torch.zeros(1))
    x = torch.cartesian_prod(values, values, values).unsqueeze(2)
    p = parameters(decoder, x[:1], spread=1).expand(4096, -1, 1)
    assert (-decoder.mass_nll(x, p).double()).exp().sum().item() == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("spec", ["logistic", "logistic(scale=exp)", "logistic_mixture(components=3)", "categorical"])
@pytest.mark.parametrize("pixels", GRIDS[:3], ids=str)
def test_means_are_those_of_all_levels(spec: str, pixels: PixelGrid) -> None:
    decoder = ready(spec, pixels)
    levels = pixels.values(torch.zeros(1)).view(256, 1, 1)
    for seed in range(20):
        p = parameters(decoder, levels[:1], spread=2, seed=seed)
        mass = (-decoder.mass_nll(levels, p.expand(256, -1, 1))).exp()
        exact = (mass * levels.view(-1)).sum().item()
        assert decoder.mean(p).item() == pytest.approx(exact, abs=0.51 * pixels.step)


@pytest.mark.parametrize("spec", SPECS)
def test_samples_have_the_mean_that_is_said(spec: str) -> None:
    decoder = ready(spec, PixelGrid(-1, 1))
    x = images(decoder, 1, 3, 2, 2)
    p = parameters(decoder, x, spread=0.7)
    generator = torch.Generator().manual_seed(3)
    drawn = decoder.sample(p.expand(20000, -1, 2, 2), generator)
    error = 6 * drawn.std(dim=0) / math.sqrt(20000) + decoder.pixels.step / 2
    if decoder.name == "logistic_mixture":
        error = error + 0.05  # the mean of blue is taken at the mean of red and green
    assert ((drawn.mean(dim=0) - decoder.mean(p)[0]).abs() < error).all()
    if not decoder.is_density and decoder.name != "bernoulli":
        torch.testing.assert_close(decoder.pixels.round(drawn), drawn)
    again = decoder.sample(p, torch.Generator().manual_seed(5))
    assert torch.equal(again, decoder.sample(p, torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("spec", SPECS)
def test_likelihoods_are_right_in_their_first_derivatives(spec: str) -> None:
    decoder = ready(spec).double()
    x = images(decoder, 2, 1, 1, 2).double()
    p = parameters(decoder, x).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda q: decoder.nll(x, q), (p,))
    assert torch.autograd.gradcheck(lambda q: decoder.mass_nll(x, q), (p,), atol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("extreme", [-1e4, -300.0, -30.0, 30.0, 300.0, 1e4])
def test_values_and_gradients_are_finite_at_extremes(spec: str, dtype: torch.dtype, extreme: float) -> None:
    decoder = ready(spec)
    x = images(decoder, 2, 3, 4, 4)
    p = parameters(decoder, x)
    p[:, ::2] = extreme
    p = p.to(dtype).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        value = decoder.mass_nll(x, p)
        assert value.dtype == torch.float32
        assert value.isfinite().all()
        assert torch.autograd.grad(value.sum(), p)[0].float().nan_to_num(posinf=0, neginf=0).isfinite().all()
        if dtype == torch.float32:
            assert torch.autograd.grad(decoder.mass_nll(x, p).sum(), p)[0].isfinite().all()
            assert torch.autograd.grad(decoder.nll(x, p).sum(), p)[0].isfinite().all()
        assert decoder.mean(p).isfinite().all()


def _cdf(kind: str, z: Tensor) -> Tensor:
    # torch.special.ndtr is (1 + erf) / 2 for a part of the tail
    return 0.5 * torch.special.erfc(-z * math.sqrt(0.5)) if kind == "normal" else torch.sigmoid(z)


@pytest.mark.parametrize("kind", ["normal", "logistic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masses_are_differences_of_distribution_functions_where_these_can_be_taken(
    kind: str, dtype: torch.dtype
) -> None:
    grid = PixelGrid()
    log_mass = log_normal_mass if kind == "normal" else log_logistic_mass
    x = grid.values(torch.zeros(1, dtype=torch.float64)).view(-1, 1, 1)
    mean = torch.tensor([-0.3, 0.0, 0.2501, 0.5, 0.999, 1.4], dtype=torch.float64).view(1, -1, 1)
    log_sigma = torch.linspace(-7, 3, 101, dtype=torch.float64)
    upper = torch.where(x > 0.999, torch.inf, (x + grid.step / 2 - mean) / log_sigma.exp())
    lower = torch.where(x < 0.001, -torch.inf, (x - grid.step / 2 - mean) / log_sigma.exp())
    turned = lower > 0
    upper, lower = torch.where(turned, -lower, upper), torch.where(turned, -upper, lower)
    exact = _cdf(kind, upper) - _cdf(kind, lower)
    # at least nine of sixteen digits survive the subtraction, and nothing has underflowed
    certain = (exact > 1e-7 * _cdf(kind, upper)) & (exact > 1e-290)
    assert certain.float().mean() > 0.3
    seen = log_mass(x.to(dtype), mean.to(dtype), log_sigma.to(dtype), grid).double()
    # float32's rounding of mean and log σ moves the mass by more than its own arithmetic does
    tolerance = {"rtol": 2e-5, "atol": 5e-4} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-6}
    torch.testing.assert_close(seen[certain], exact[certain].log(), **tolerance)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigmas", [40.0, 1e3, 1e6, 1e12])
def test_far_in_the_tail_a_normal_mass_is_that_of_the_nearer_end(dtype: torch.dtype, sigmas: float) -> None:
    grid = PixelGrid()
    x, mean = torch.tensor(100 / 255, dtype=dtype), torch.tensor(0.9, dtype=dtype, requires_grad=True)
    end = mean.item() - 100 / 255 - grid.step / 2
    log_sigma = torch.tensor(math.log(end / sigmas), dtype=dtype, requires_grad=True)
    value = log_normal_mass(x, mean, log_sigma, grid)
    expected = (
        -0.5 * sigmas**2 - math.log(sigmas) - 0.5 * math.log(2 * math.pi)
    )  # Mills' ratio; the far end adds nothing
    assert value.item() == pytest.approx(expected, rel=1e-5)
    slope_mean, slope_sigma = torch.autograd.grad(value, (mean, log_sigma))
    assert slope_mean.item() == pytest.approx(-(sigmas**2) / end, rel=1e-3)
    assert slope_sigma.item() == pytest.approx(sigmas**2, rel=1e-3)


def test_the_forms_of_a_normal_mass_join_without_a_step() -> None:
    grid = PixelGrid()
    width = torch.tensor([0.1 * (1 - 1e-9), 0.1 * (1 + 1e-9)], dtype=torch.float64)
    for distance in (0.0, 0.04, 0.06, 3.0, 50.0):
        values = log_normal_mass(
            torch.tensor(0.4).double(), 0.4 + distance * grid.step / width, torch.log(grid.step / width), grid
        )
        assert abs(values[0] - values[1]) < 1e-6


@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.0])
def test_closed_ends_lose_what_lies_outside_and_nothing_else(sigma: float) -> None:
    x = PixelGrid().values(torch.zeros(1)).view(256, 1, 1)
    mean = torch.full_like(x, 0.2)
    masses = {}
    for open_ends in (True, False):
        decoder = decoders.get(f"fixed({sigma})", PixelGrid(open_ends=open_ends))
        masses[open_ends] = (-decoder.mass_nll(x, mean).double()).exp()
    torch.testing.assert_close(masses[True][1:-1], masses[False][1:-1])
    within = Normal(0.2, sigma).cdf(torch.tensor([-0.5 / 255, 1 + 0.5 / 255])).diff().item()
    assert masses[False].sum().item() == pytest.approx(within, abs=1e-5)


def _vdvae_mixture() -> type:
    path = Path(__file__).resolve().parents[2] / "upstream" / "vdvae" / "mixture.py"
    spec = importlib.util.spec_from_file_location("vdvae_mixture_for_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    kind: type = module.LogisticMixture
    return kind


def test_the_mixture_reads_channels_and_counts_as_vdvae_does() -> None:
    decoder = ready("logistic_mixture", PixelGrid(-1, 1))
    x = images(decoder, 4, 3, 8, 8)
    p = parameters(decoder, x)
    host = _vdvae_mixture().from_channels(p.movedim(1, -1))  # type: ignore[attr-defined]
    torch.testing.assert_close(
        decoder.nll(x, p), -host.log_prob(x.movedim(1, -1)).sum(dim=(1, 2)), rtol=1e-4, atol=0.01
    )
    in_bytes = ready("logistic_mixture", PixelGrid(0, 255))
    torch.testing.assert_close(in_bytes.nll((x + 1) * 127.5, p), decoder.nll(x, p), rtol=1e-4, atol=0.01)
    torch.testing.assert_close(in_bytes.mean(p), (decoder.mean(p) + 1) * 127.5, rtol=1e-4, atol=1e-3)


def test_the_mixture_takes_no_smaller_log_scale_than_vdvae_does() -> None:
    decoder = ready("logistic_mixture(components=1)", PixelGrid(-1, 1))
    x = torch.full((1, 1, 1, 1), 1 / 255, dtype=torch.float64)
    nll = [
        decoder.nll(x, torch.tensor([0.0, 0.02, log_scale], dtype=torch.float64).view(1, 3, 1, 1)).item()
        for log_scale in (-5.0, -6.9, -7.0, -7.1, -20.0)
    ]
    assert nll[0] < nll[1] < nll[2] == nll[3] == nll[4]


def test_vdvaes_own_form_gives_less_to_unlikely_bins_of_a_small_scale_and_nothing_else() -> None:
    grid = PixelGrid(-1, 1)
    x = grid.values(torch.zeros(1, dtype=torch.float64))[120:136].view(16, 1, 1, 1, 1)
    for log_scale, largest in ((-7.0, 2.2), (-3.0, 1e-6)):
        shape = (16, 1, 1, 1, 1)
        mean, scale = torch.full(shape, 1 / 255, dtype=torch.float64), torch.full(shape, log_scale, dtype=torch.float64)
        host = _vdvae_mixture()(torch.zeros(16, 1, 1, 1), mean, scale, torch.zeros(shape))  # type: ignore[call-arg]
        theirs = host._log_masses(x, x - mean, 255).flatten()
        ours = log_logistic_mass(x, mean, scale, grid).flatten()
        likely = ours > math.log(1.1e-5)
        torch.testing.assert_close(theirs[likely], ours[likely], rtol=0, atol=1e-6)
        assert (ours >= theirs - 1e-6).all()
        difference = (ours - theirs).max().item()
        assert difference > 2.1 if largest > 1 else difference < largest


def test_a_specification_is_read_back_as_it_was_written() -> None:
    for spec in SPECS:
        decoder = decoders.get(spec)
        again = decoders.get(decoder.specification())
        assert again.specification() == decoder.specification()
        assert repr(again) == repr(decoder)
    assert decoders.get("optimal").specification() == "optimal"
    assert decoders.get("fixed(0.25)").specification() == "fixed(sigma=0.25)"


def test_bounds_that_are_left_out_come_from_the_pixels() -> None:
    noise = 2 / (256 * math.sqrt(12))
    decoder = decoders.get("per_pixel", PixelGrid(-1, 1))
    assert isinstance(decoder, decoders.PerPixel)
    assert decoder.scale.arguments() == {"alpha": pytest.approx(noise), "omega": 2.0}
    logistic = decoders.get("logistic(scale=downbounded)")
    assert isinstance(logistic, decoders.Logistic)
    sigma = logistic.scale.arguments()["alpha"] * math.pi / math.sqrt(3)
    assert sigma == pytest.approx(logistic.pixels.noise)


def test_a_shared_sigma_is_one_parameter_that_learns() -> None:
    decoder = decoders.get("shared(scale=exp)", PixelGrid(0, 255))
    assert [tuple(p.shape) for p in decoder.parameters()] == [()]
    x = images(decoder, 64, 1, 8, 8)
    mean = x + 10 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        decoder.nll(x, mean).mean().backward()
        optimizer.step()
    assert isinstance(decoder, decoders.Shared)
    assert decoder.log_sigma(mean).exp().item() == pytest.approx((x - mean).square().mean().sqrt().item(), rel=1e-3)


@pytest.mark.parametrize("spec", SPECS)
def test_decoders_are_ordinary_modules(spec: str) -> None:
    decoder = ready(spec)
    x = images(decoder, 2, 3, 4, 4)
    p = parameters(decoder, x)
    for other in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        assert torch.equal(other.nll(x, p), decoder.nll(x, p))
    fresh = decoders.get(spec)
    fresh.load_state_dict(decoder.state_dict())
    assert torch.equal(fresh.eval().nll(x, p), decoder.nll(x, p))
    each = torch.func.vmap(lambda a, b: decoder.nll(a[None], b[None])[0])(x, p)
    torch.testing.assert_close(each, decoder.nll(x, p))


def test_unknown_names_and_arguments_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'optimal'"):
        decoders.get("optimum")
    with pytest.raises(UnknownNameError, match="did you mean 'bounded'"):
        decoders.get("per_pixel(scale=bouned)")
    with pytest.raises(InvalidValueError, match=r"its form is fixed\(sigma=1\)"):
        decoders.get("fixed(sigm=1)")
    for bad in ("fixed(0)", "fixed(-1)", "fixed(nan)", "logistic_mixture(0)", "logistic_mixture(2.5)", "per_pixel(3)"):
        with pytest.raises(InvalidValueError, match=r"must be|named"):
            decoders.get(bad)
    for bad in ("fixed(1, pixels=3)", "fixed(1, 3)", "per_pixel(bounded, pixels=exp)"):
        with pytest.raises(InvalidValueError, match="pixels"):
            decoders.get(bad)
    with pytest.raises(InvalidValueError, match="PixelGrid"):
        decoders.Fixed(1, pixels=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="nothing to learn"):
        decoders.get("shared(scale=constant)")
    with pytest.raises(InvalidValueError, match="form"):
        decoders.get("per_pixel(scale=bounded(0.1, 1)")


@pytest.mark.parametrize("spec", SPECS)
def test_wrong_shapes_are_refused_with_the_right_ones(spec: str) -> None:
    decoder = ready(spec)
    x = images(decoder, 2, 3, 4, 4)
    p = parameters(decoder, x)
    for wrong in (torch.cat([p, p[:, :1]], dim=1), p[:1], p[..., :1]):
        with pytest.raises(InvalidValueError, match=rf"channels\(3\) = {decoder.channels(3)}"):
            decoder.nll(x, wrong)
    with pytest.raises(InvalidValueError, match="images are"):
        decoder.nll(x[:, 0, 0, 0], p)


def test_bernoulli_says_when_data_are_grey_or_arguments_exchanged() -> None:
    decoder = decoders.get("bernoulli")
    logits = torch.randn(2, 1, 4, 4)
    with pytest.raises(InvalidValueError, match=r"grey values.*Binarize"):
        decoder.nll(torch.full((2, 1, 4, 4), 0.37), logits)
    with pytest.raises(InvalidValueError, match="in place of the data"):
        decoder.nll(logits, torch.ones(2, 1, 4, 4))


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "bernoulli"])
def test_data_of_another_range_are_refused_with_the_range_to_state(spec: str) -> None:
    decoder = ready(spec)
    grid = torch.randint(0, 256, (2, 3, 4, 4))
    grid[0, 0, 0, :2] = torch.tensor([0, 255])
    for x, said in ((grid.float(), "0, 255"), (grid / 127.5 - 1, "-1, 1")):
        with pytest.raises(InvalidValueError, match=rf"PixelGrid\({said}\)"):
            decoder.nll(x, parameters(decoder, x))
    x = grid / 255
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(InvalidValueError, match="NaN"):
        decoder.nll(x, parameters(decoder, x))


@pytest.mark.parametrize("spec", ["optimal", "categorical", "logistic", "logistic_mixture"])
def test_values_between_the_levels_have_no_bin(spec: str) -> None:
    decoder = ready(spec)
    x = (images(decoder, 2, 3, 4, 4) + 0.5 / 255).clamp(max=1)
    with pytest.raises(InvalidValueError, match="no bin"):
        decoder.mass_nll(x, parameters(decoder, x))
    half = images(decoder, 2, 3, 4, 4).half()
    torch.testing.assert_close(
        decoder.mass_nll(half, parameters(decoder, half)),
        decoder.mass_nll(half.float(), parameters(decoder, half)),
        rtol=1e-3,
        atol=0.1,
    )


def test_a_collapsing_sigma_is_reported_where_it_is_with_its_remedy() -> None:
    decoder = decoders.get("per_pixel(scale=exp)")
    x = images(decoder, 2, 3, 4, 5)
    p = torch.zeros(2, 6, 4, 5)
    p[1, 4, 2, 3] = -9
    with pytest.warns(CollapseWarning, match=r"image 1, channel 1, row 2, column 3.*scale=bounded"):
        decoder.nll(x, p)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder.nll(x, p)  # once is enough
    with pytest.warns(CollapseWarning, match="image 0"):
        decoders.get("per_image(scale=exp)").nll(x, torch.full((2, 4, 4, 5), -8.0))
    shared = decoders.get("shared(scale=exp)")
    shared.raw.data.fill_(-8)  # type: ignore[union-attr,operator]
    with pytest.warns(CollapseWarning, match=r"shared\(scale=bounded\)"):
        shared.nll(x, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for spec in ("per_pixel", "per_image", "shared"):
            bounded = decoders.get(spec)
            bounded.nll(x, torch.full((2, bounded.channels(3), 4, 5), -100.0))


def test_a_package_of_the_users_adds_a_decoder() -> None:
    @decoders.DECODERS.register("laplace_for_test")
    class Laplace(Decoder):
        has_mean = False

        def channels(self, image_channels: int) -> int:
            return image_channels

        def image_channels(self, channels: int) -> int:
            return channels

        is_density = True

        def _log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
            return -(x - parameters).abs() - math.log(2)

        def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
            return parameters

    try:
        decoder = decoders.get("laplace_for_test")
        x = torch.rand(2, 1, 3, 3)
        torch.testing.assert_close(decoder.nll(x, x), torch.full((2,), 9 * math.log(2)))
        with pytest.raises(InvalidValueError, match="has no mean"):
            decoder.mean(x)
    finally:
        decoders.DECODERS._classes.pop("laplace_for_test")


def test_cross_entropy_is_the_bernoulli_where_it_is_one() -> None:
    decoder = decoders.get("bernoulli")
    x = images(decoder, 3, 1, 4, 4)
    p = parameters(decoder, x)
    total = F.binary_cross_entropy_with_logits(p, x, reduction="none").flatten(1).sum(1)
    torch.testing.assert_close(decoder.nll(x, p), total)


@pytest.mark.parametrize("spec", ["per_pixel", "optimal", "categorical", "logistic_mixture(components=2)"])
def test_decoders_compile_in_one_piece(spec: str) -> None:
    decoder = ready(spec).train()
    x = images(decoder, 4, 3, 6, 6)
    p = parameters(decoder, x)
    expected = decoder.nll(x, p), decoder.mass_nll(x, p)
    torch._dynamo.reset()
    compiled = torch.compile(lambda a, b: (decoder.nll(a, b), decoder.mass_nll(a, b)), backend="eager", fullgraph=True)
    p.requires_grad_()
    found = compiled(x, p)
    torch.testing.assert_close(found, expected)
    (found[0] + found[1]).sum().backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()


@pytest.mark.parametrize("spec", SPECS)
def test_half_precision_models_and_autocast_are_computed_in_single(spec: str) -> None:
    decoder = ready(spec)
    x = images(decoder, 2, 3, 4, 4)
    p = parameters(decoder, x).half()
    exact = decoder.nll(x, p.float()), decoder.mean(p.float())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close((decoder.nll(x, p), decoder.mean(p).float()), exact, rtol=1e-3, atol=1e-3)
    decoder.half()
    torch.testing.assert_close(decoder.nll(x, p), exact[0], rtol=1e-2, atol=0.1)


def test_a_running_error_is_not_narrowed_with_the_model() -> None:
    decoder = ready("optimal", sigma=1 / (256 * math.sqrt(12)))
    before = decoder.nll(torch.zeros(1, 4), torch.full((1, 4), 0.001))
    decoder.to(torch.bfloat16)
    assert decoder.state_dict()["mean_squared_error"].dtype == torch.float32
    assert torch.equal(decoder.nll(torch.zeros(1, 4), torch.full((1, 4), 0.001)), before)


def test_bytes_and_truth_values_are_images() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 1, 4, 4), generator=generator, dtype=torch.uint8)
    for spec in ("fixed(20)", "logistic_mixture", "categorical"):
        decoder = decoders.get(spec, PixelGrid(0, 255))
        p = parameters(decoder, x)
        torch.testing.assert_close(decoder.mass_nll(x, p), decoder.mass_nll(x.float(), p))
    logits = torch.randn(2, 1, 4, 4)
    decoder = decoders.get("bernoulli")
    torch.testing.assert_close(decoder.nll(x > 99, logits), decoder.nll((x > 99).float(), logits))
