"""The Normal arithmetic against 60-digit decimals and torch.distributions, and where usual forms die (table 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl_divergence

from vdvae_patch import normal, scales
from vdvae_patch.errors import InvalidValueError

Quadruple = tuple[Tensor, Tensor, Tensor, Tensor]
TINY_LOG_SIGMAS = [-45.0, -52.0, -103.0, -104.0, -1e4, -1e30, torch.finfo(torch.float32).min]
LARGE_LOG_SIGMAS = [80.0, 104.0, torch.finfo(torch.float32).max]


def _host_kl(mean_q: Tensor, log_sigma_q: Tensor, mean_p: Tensor, log_sigma_p: Tensor) -> Tensor:
    """The divergence as VDVAE writes it down."""
    squares = torch.exp(log_sigma_q) ** 2 + (mean_q - mean_p) ** 2
    return -0.5 + log_sigma_p - log_sigma_q + 0.5 * squares / torch.exp(log_sigma_p) ** 2


def _exact_kl(mean_q: float, log_sigma_q: float, mean_p: float, log_sigma_p: float) -> float:
    """The textbook form in decimals of 60 digits, whose exponents do not run out."""
    with localcontext() as context:
        context.prec = 60
        m1, s1, m2, s2 = (Decimal(x) for x in (mean_q, log_sigma_q, mean_p, log_sigma_p))
        value = s2 - s1 + ((2 * s1).exp() + (m1 - m2) ** 2) / (2 * (2 * s2).exp()) - Decimal("0.5")
        return float(value)


def _random(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, spread: float = 1.0) -> list[Tensor]:
    """Mean and log sigma of q, mean and log sigma of p, and noise."""
    generator = torch.Generator().manual_seed(0)
    return [spread * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(5)]


def _leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [t.clone().requires_grad_() for t in tensors]


def _at(log_sigma_q: float, log_sigma_p: float, mean_q: float = 0.0, mean_p: float = 0.0) -> list[Tensor]:
    return [torch.tensor([float(x)], requires_grad=True) for x in (mean_q, log_sigma_q, mean_p, log_sigma_p)]


def _ours(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor) -> Tensor:
    return normal.kl_divergence(m1, s1, m2, s2)


def _fused(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor) -> Tensor:
    return normal.sample_kl(m1, s1, m2, s2, torch.ones_like(m1))[1]


# --- right values


@pytest.mark.parametrize(("dtype", "spread"), [(torch.float64, 100.0), (torch.float32, 20.0), (torch.float32, 1e-3)])
def test_the_divergence_is_that_of_60_digit_decimals(dtype: torch.dtype, spread: float) -> None:
    m1, s1, m2, s2, _ = _random((300,), dtype, spread)
    exact = torch.tensor([_exact_kl(*row) for row in torch.stack([m1, s1, m2, s2], 1).tolist()], dtype=torch.float64)
    # the rounding of the exponents' arguments is passed on in proportion, and near-equal sigmas differ by rounding
    conditioning = 1 + 2 * (s1.abs() + s2.abs()).double()
    tolerance = 4 * torch.finfo(dtype).eps * (conditioning * exact + (s1 - s2).abs().double() + (m1 - m2).abs())
    kl = normal.kl_divergence(m1, s1, m2, s2)
    finite = exact < torch.finfo(dtype).max
    assert finite.sum() > 250
    assert ((kl.double() - exact).abs() <= tolerance)[finite].all()
    assert kl[~finite].isposinf().all()


def test_divergence_and_density_are_those_of_torch_distributions_in_float64() -> None:
    m1, s1, m2, s2, x = _random((7, 11))
    q, p = Normal(m1, s1.exp()), Normal(m2, s2.exp())
    torch.testing.assert_close(normal.kl_divergence(m1, s1, m2, s2), torch_kl_divergence(q, p))
    torch.testing.assert_close(normal.log_prob(x, m1, s1), q.log_prob(x))


def test_shapes_broadcast() -> None:
    m1, s1, m2, s2, x = _random((3, 4))
    torch.testing.assert_close(
        normal.kl_divergence(m1, s1, m2[:1], s2[:, :1]),
        normal.kl_divergence(m1, s1, m2[:1].expand(3, 4), s2[:, :1].expand(3, 4)),
    )
    assert normal.log_prob(x, m1[:1], s1[0, 0]).shape == (3, 4)


def test_equal_normals_have_a_divergence_of_exactly_zero_and_no_gradient() -> None:
    for dtype in (torch.float32, torch.float64):
        mean, log_sigma = (10 * t for t in _random((200,), dtype)[:2])
        leaves = _leaves([mean, log_sigma, mean, log_sigma])
        kl = normal.kl_divergence(*leaves)
        assert (kl == 0).all()
        assert all((g == 0).all() for g in torch.autograd.grad(kl.sum(), leaves))


def test_nearly_equal_sigmas_keep_the_digits_that_exp_minus_one_cancels() -> None:
    difference = torch.logspace(-3, -1, 20, dtype=torch.float64)
    zero = torch.zeros(20)
    kl = normal.kl_divergence(zero, difference.float(), zero, zero).double()
    exact = [_exact_kl(0, d, 0, 0) for d in difference.float().tolist()]
    torch.testing.assert_close(kl, torch.tensor(exact, dtype=torch.float64), rtol=2e-4, atol=0)
    slope = torch.expm1(2 * difference.float().double())
    for form in (_ours, _fused):
        leaf = difference.float().requires_grad_()
        (gradient,) = torch.autograd.grad(form(zero, leaf, zero, zero).sum(), leaf)
        torch.testing.assert_close(gradient.double(), slope, rtol=1e-6, atol=0)


def _kl_of_difference(d: Tensor) -> Tensor:
    """KL(N(0, exp(d)) ‖ N(0, 1)) by the general form, of a prior that is given."""
    zero = torch.zeros_like(d)
    return normal.kl_divergence(zero, d, zero, zero)


def _kl_to_unit(d: Tensor) -> Tensor:
    return normal.kl_divergence(torch.zeros_like(d), d)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("form", [_kl_of_difference, _kl_to_unit])
def test_three_derivatives_of_the_divergence_have_all_their_digits(
    form: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    """d/dx of ½ expm1(2x) − x is expm1(2x), then 2 exp(2x), then 4 exp(2x)."""
    sizes = torch.tensor([1e-30, 1e-20, 1e-9, 1e-5, 0.1, 1.0, 9.0, 15.0], dtype=torch.float64)
    x = torch.cat([sizes, -sizes]).to(dtype)
    wide = x.double()
    wanted = [torch.expm1(2 * wide), 2 * torch.exp(2 * wide), 4 * torch.exp(2 * wide)]
    relative = 40 * torch.finfo(dtype).eps  # 2 · 15, the rounding of an exponent's argument
    result, leaf = form(x.requires_grad_()), x
    for want in wanted:
        (result,) = torch.autograd.grad(result.sum(), leaf, create_graph=True)
        torch.testing.assert_close(result.detach().double(), want, rtol=relative, atol=0)
    x = x.detach()
    twice = torch.func.vmap(torch.func.grad(torch.func.grad(form)))(x)
    torch.testing.assert_close(twice.double(), wanted[1], rtol=relative, atol=0)
    forward = torch.func.vmap(torch.func.jacfwd(torch.func.jacfwd(form)))(x)  # by the plain formula
    torch.testing.assert_close(forward.double(), wanted[1], rtol=relative, atol=4 * torch.finfo(dtype).eps)
    (tangent,) = torch.func.jvp(form, (x,), (torch.ones_like(x),))[1:]
    torch.testing.assert_close(tangent.double(), wanted[0], rtol=relative, atol=0)
    slope = torch.func.grad(lambda x: form(x).sum())
    (tangent,) = torch.func.jvp(slope, (x,), (torch.ones_like(x),))[1:]
    torch.testing.assert_close(tangent.double(), wanted[1], rtol=relative, atol=0)


def test_derivatives_are_those_of_finite_differences() -> None:
    *parameters, noise = _random((2, 3))
    leaves = _leaves(parameters)
    assert torch.autograd.gradcheck(normal.kl_divergence, leaves)
    assert torch.autograd.gradgradcheck(normal.kl_divergence, leaves)
    assert torch.autograd.gradcheck(normal.log_prob, _leaves([noise, *parameters[:2]]))
    assert torch.autograd.gradcheck(normal.sample, _leaves([*parameters[:2], noise]))
    assert torch.autograd.gradcheck(lambda *a: normal.sample_kl(*a, noise), leaves)


def test_a_sample_is_mean_plus_sigma_times_noise() -> None:
    mean, log_sigma, *_, noise = _random((50,))
    torch.testing.assert_close(normal.sample(mean, log_sigma, noise), mean + log_sigma.exp() * noise)


def test_noise_that_is_not_given_comes_from_the_default_generator() -> None:
    m1, s1, m2, s2, _ = _random((50,), torch.float32)
    torch.manual_seed(3)
    noise = torch.randn_like(m1)
    wanted = normal.sample(m1, s1, noise)
    torch.manual_seed(3)
    assert torch.equal(normal.sample(m1, s1), wanted)
    torch.manual_seed(3)
    assert torch.equal(normal.sample_kl(m1, s1, m2, s2)[0], wanted)


# --- where the usual forms fail


def test_the_hosts_divergence_at_minus_45_is_zero_with_a_gradient_that_is_nan() -> None:
    leaves = _at(-45, -45)
    kl = _host_kl(*leaves)
    assert kl.item() == 0
    assert any(g.isnan().any() for g in torch.autograd.grad(kl.sum(), leaves))


def test_the_hosts_divergence_at_minus_52_is_nan() -> None:
    leaves = _at(-52, -52)
    kl = _host_kl(*leaves)
    assert kl.isnan().all()
    assert any(g.isnan().any() for g in torch.autograd.grad(kl.sum(), leaves))


@pytest.mark.parametrize("log_sigma", [*TINY_LOG_SIGMAS, *LARGE_LOG_SIGMAS])
@pytest.mark.parametrize("form", [_ours, _fused])
def test_ours_is_right_at_any_log_sigma_that_both_share(form: Callable[..., Tensor], log_sigma: float) -> None:
    leaves = _at(log_sigma, log_sigma)
    kl = form(*leaves)
    assert kl.item() == 0
    assert [g.item() for g in torch.autograd.grad(kl.sum(), leaves)] == [0, 0, 0, 0]


@pytest.mark.parametrize("form", [_ours, _fused])
@pytest.mark.parametrize(
    ("log_sigma_q", "log_sigma_p", "distance"), [(-60, -59, 1e-26), (-120, -50, 3e-22), (-1e4, 0, 2), (-9e37, -3, 0.1)]
)
def test_ours_is_right_between_different_tiny_sigmas(
    form: Callable[..., Tensor], log_sigma_q: float, log_sigma_p: float, distance: float
) -> None:
    leaves = _at(log_sigma_q, log_sigma_p, mean_q=distance)
    m1, s1, _, s2 = (leaf.item() for leaf in leaves)
    kl = form(*leaves)
    ratio, z = math.exp(2 * (s1 - s2)), m1 * math.exp(-s2)
    exact = s2 - s1 + 0.5 * (ratio + z * z) - 0.5
    slopes = [z * math.exp(-s2), ratio - 1, -z * math.exp(-s2), 1 - ratio - z * z]
    assert kl.item() == pytest.approx(exact, rel=2e-5)
    assert [g.item() for g in torch.autograd.grad(kl.sum(), leaves)] == pytest.approx(slopes, rel=5e-5)


TABLE_1 = [
    ("log of the ratio", torch.float32, -103, 1.85e-45),
    ("log of the ratio of squares", torch.float32, -51, 7.10e-23),
    ("log of the ratio", torch.float16, -17, 4.14e-8),
    ("log of the ratio of squares", torch.float16, -8, 3.35e-4),
]


@pytest.mark.parametrize(("form", "dtype", "last", "smallest_sigma"), TABLE_1)
def test_naive_forms_die_where_table_1_says(form: str, dtype: torch.dtype, last: int, smallest_sigma: float) -> None:
    steps = torch.arange(0, -200, -1).to(dtype)
    sigma, one = steps.exp(), torch.ones((), dtype=dtype)
    if form == "log of the ratio":
        term = one.log() - sigma.log()
    else:
        zero = torch.zeros((), dtype=dtype)
        term = torch_kl_divergence(Normal(zero, sigma, validate_args=False), Normal(zero, one))
    finite = term.isfinite()
    assert steps[finite].min() == last
    assert (finite == (steps >= last)).all()
    assert math.exp(last) == pytest.approx(smallest_sigma, rel=5e-3)


@pytest.mark.parametrize(("form", "dtype", "last", "smallest_sigma"), TABLE_1)
def test_ours_does_not_die_there(form: str, dtype: torch.dtype, last: int, smallest_sigma: float) -> None:
    p = torch.arange(0, -2000, -1).to(dtype).requires_grad_()
    zero = torch.zeros_like(p)
    for kl in (normal.kl_divergence(zero, p, zero, zero), normal.sample_kl(zero, p, zero, zero)[1]):
        wide = p.detach().double()
        exact = -wide + 0.5 * (2 * wide).exp() - 0.5
        torch.testing.assert_close(kl.detach().double(), exact, rtol=1e-6, atol=1e-6)
        (gradient,) = torch.autograd.grad(kl.sum(), p)
        slope = torch.expm1(2 * wide)
        torch.testing.assert_close(gradient.double(), slope, rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("log_sigma", TINY_LOG_SIGMAS)
def test_the_density_at_the_mean_is_finite_for_any_log_sigma(log_sigma: float) -> None:
    x, mean, leaf = (torch.tensor([v], requires_grad=True) for v in (0.25, 0.25, log_sigma))
    density = normal.log_prob(x, mean, leaf)
    assert density.item() == pytest.approx(-log_sigma - 0.5 * math.log(2 * math.pi), rel=1e-6)
    assert [g.item() for g in torch.autograd.grad(density.sum(), (x, mean, leaf))] == [0, 0, -1]


def test_a_divergence_too_large_for_the_type_is_infinite_and_not_nan() -> None:
    largest = torch.finfo(torch.float32).max
    for log_sigma_q, log_sigma_p, distance in [(100, 0, 0), (0, -200, 1), (largest, -largest, 0), (-largest, -100, 1)]:
        given = _at(log_sigma_q, log_sigma_p, mean_q=distance)
        assert normal.kl_divergence(*given).isposinf().all()
        assert normal.sample_kl(*given)[1].isposinf().all()


def test_a_prior_of_another_shape_is_broadcast_though_its_scale_is_the_posteriors() -> None:
    *(mean, raw), noise = _random((2, 3))[:3]
    mean_p, raw_p = _random((3,))[:2]
    scale = scales.get("explin")
    z, kl = normal.sample_kl(mean, raw, mean_p, raw_p, noise, scale_q=scale, scale_p=scale)
    log_sigma, log_sigma_p = scale.log_sigma(raw), scale.log_sigma(raw_p)
    torch.testing.assert_close(z, normal.sample(mean, log_sigma, noise))
    torch.testing.assert_close(kl, normal.kl_divergence(mean, log_sigma, mean_p, log_sigma_p))


# --- one operation for a sample and its divergence


def _both(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    return normal.sample(m1, s1, noise), normal.kl_divergence(m1, s1, m2, s2)


def _host(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    return noise * torch.exp(s1) + m1, _host_kl(m1, s1, m2, s2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [0.0, -60.0])
def test_sample_kl_is_the_two_of_them_in_value_and_gradient(dtype: torch.dtype, shift: float) -> None:
    m1, s1, m2, s2, noise = _random((40, 5), dtype)
    scaled = [m1 * math.exp(shift), s1 + shift, m2 * math.exp(shift), s2 + shift]
    weights = _random((40, 5), dtype, spread=3.0)[:2]
    results = []
    for form in (normal.sample_kl, _both):
        leaves = _leaves(scaled)
        z, kl = form(*leaves, noise)
        loss = (weights[0] * z).sum() + (weights[1] * kl).sum()
        results.append((z.detach(), kl.detach(), torch.autograd.grad(loss, leaves)))
    assert torch.equal(results[0][0], results[1][0])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(results[0][1], results[1][1], rtol=4 * eps, atol=4 * eps)
    tolerance = 50 * eps
    for ours, separate in zip(results[0][2], results[1][2], strict=True):
        torch.testing.assert_close(ours, separate, rtol=tolerance, atol=tolerance * separate.abs().max().item() * 0.1)


def test_gradients_of_the_sample_alone_and_of_the_divergence_alone_are_right() -> None:
    *parameters, noise = _random((30,))
    for which in (0, 1):  # the other one's part of the gradient is left out, and not multiplied by zero
        gradients = []
        for form in (normal.sample_kl, _both):
            leaves = _leaves(parameters)
            gradients.append(torch.autograd.grad(form(*leaves, noise)[which].sum(), leaves, materialize_grads=True))
        torch.testing.assert_close(*gradients)


def _with_a_unit_prior(mean: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(mean), torch.zeros_like(mean)


SCALES = [
    "exp", "naiveexp", "explin", "upbounded", "upbounded(omega=2)", "downbounded(0.1)", "bounded(0.001, 1)",
    "constant", "softplus", "softclamp", "clamp",
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec_p", ["exp", "constant", "upbounded"])
@pytest.mark.parametrize("spec_q", SCALES)
def test_sample_kl_of_raw_parameters_is_that_of_the_scales_log_sigmas(
    spec_q: str, spec_p: str, dtype: torch.dtype
) -> None:
    scale_q, scale_p = scales.get(spec_q), scales.get(spec_p)
    *parameters, noise = _random((40, 5), dtype)
    weights = _random((40, 5), dtype, spread=3.0)[:2]
    results = []
    for fused in (True, False):
        leaves = _leaves(parameters)
        m1, p1, m2, p2 = leaves
        if fused:
            z, kl = normal.sample_kl(m1, p1, m2, p2, noise, scale_q=scale_q, scale_p=scale_p)
        else:
            z, kl = normal.sample_kl(m1, scale_q.log_sigma(p1), m2, scale_p.log_sigma(p2), noise)
        assert (z.dtype, kl.dtype) == (dtype, torch.promote_types(dtype, torch.float32))
        loss = (weights[0] * z).sum() + (weights[1] * kl).sum()
        results.append((z.detach(), kl.detach(), *torch.autograd.grad(loss, leaves, materialize_grads=True)))
    # half precision is no longer rounded between the scale and what is made of it
    tolerance = (50 if dtype in (torch.float64, torch.float32) else 8) * torch.finfo(dtype).eps
    for ours, separate in zip(*results, strict=True):
        torch.testing.assert_close(ours, separate, rtol=tolerance, atol=tolerance * separate.abs().max().item())


def test_the_fault_of_naiveexp_is_the_same_inside_sample_kl() -> None:
    scale, zero = scales.get("naiveexp"), torch.zeros(2)
    for dtype, fatal in ((torch.float32, -104.0), (torch.float16, -18.0)):
        p = torch.tensor([fatal, fatal / 2], dtype=dtype, requires_grad=True)
        _, kl = normal.sample_kl(zero, p, zero, zero, zero, scale_q=scale)
        (gradient,) = torch.autograd.grad(kl.sum(), p)
        assert kl.isfinite().tolist() == [False, True]
        assert gradient.isfinite().tolist() == [False, True]


def test_sample_kl_broadcasts_like_the_two_of_them() -> None:
    m1, s1, m2, s2, noise = _random((3, 4))
    gradients = []
    for form in (normal.sample_kl, _both):
        leaves = _leaves([m1, s1, m2[:1], s2[:, :1]])
        z, kl = form(*leaves, noise)
        gradients.append(torch.autograd.grad(z.sum() + kl.sum(), leaves))
    torch.testing.assert_close(*gradients)


def _bytes_kept(form: Callable[..., tuple[Tensor, Tensor]], tensors: list[Tensor]) -> int:
    """Bytes of distinct storages that wait for the backward pass; the inputs count too where they are kept."""
    *parameters, noise = tensors
    leaves = _leaves(parameters)
    kept: dict[int, Tensor] = {}  # holding them keeps an address from being given out twice

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        results = form(*leaves, noise)
    assert all(result.requires_grad for result in results)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_sample_kl_keeps_four_tensors_and_the_separate_expressions_more() -> None:
    tensors = _random((64, 64), torch.float32)
    one = tensors[0].nbytes
    fused, separate, host = (_bytes_kept(form, tensors) for form in (normal.sample_kl, _both, _host))
    assert fused == 4 * one
    assert host == 7 * one
    assert separate == 9 * one

    def scaled(m1: Tensor, p1: Tensor, m2: Tensor, p2: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return normal.sample_kl(m1, p1, m2, p2, noise, scale_q=scales.get("upbounded"), scale_p=scales.get("explin"))

    assert _bytes_kept(scaled, tensors) == 4 * one


@pytest.mark.parametrize("loss", [Tensor.sum, lambda kl: kl.square().sum()], ids=["linear", "square"])
def test_a_second_derivative_of_sample_kl_is_refused_and_not_taken_for_zero(loss: Callable[[Tensor], Tensor]) -> None:
    m1, s1, m2, s2, noise = _random((3,))

    def of_log_sigma(s: Tensor) -> Tensor:
        return loss(normal.sample_kl(m1, s, m2, s2, noise)[1])

    leaf = s1.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of_log_sigma(leaf), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="sample_kl is differentiable once"):
        torch.autograd.grad(gradient.sum(), leaf)
    with pytest.raises(RuntimeError, match="sample_kl is differentiable once"):
        torch.func.grad(lambda s: torch.func.grad(of_log_sigma)(s).sum())(s1)


@pytest.mark.parametrize("spec", [None, "upbounded"])
def test_function_transforms_agree_with_autograd(spec: str | None) -> None:
    fused = partial(normal.sample_kl, scale_q=None if spec is None else scales.get(spec))
    *parameters, noise = _random((6, 5))
    leaves = _leaves(parameters)
    z, kl = fused(*leaves, noise)
    wanted = torch.autograd.grad(z.sum() + kl.sum(), leaves)

    def loss(*tensors: Tensor) -> Tensor:
        z, kl = fused(*tensors)
        return z.sum() + kl.sum()

    whole = torch.func.grad(loss, argnums=(0, 1, 2, 3))(*parameters, noise)
    each = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2, 3)))(*parameters, noise)
    for got in (whole, each):
        torch.testing.assert_close(got, wanted)
    mapped = torch.func.vmap(fused, in_dims=(1, 1, 1, 1, 1), out_dims=1)(*parameters, noise)
    torch.testing.assert_close(mapped, (z.detach(), kl.detach()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_compile_without_a_graph_break(dtype: torch.dtype) -> None:
    def everything(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        fused = normal.sample_kl(m1, s1, m2, s2, noise)
        return (*fused, *_both(m1, s1, m2, s2, noise), normal.log_prob(noise, m1, s1))

    torch.compiler.reset()
    *parameters, noise = _random((6, 5), dtype)
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    results = []
    for form in (compiled, everything):
        leaves = _leaves(parameters)
        outputs = form(*leaves, noise)
        results.append((outputs, torch.autograd.grad(sum(y.float().sum() for y in outputs), leaves)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32_and_the_divergence_stays_there(dtype: torch.dtype) -> None:
    *parameters, noise = _random((100,), dtype)
    leaves = _leaves(parameters)
    z, kl = normal.sample_kl(*leaves, noise)
    assert (z.dtype, kl.dtype) == (dtype, torch.float32)
    assert normal.sample(*leaves[:2], noise).dtype == dtype
    wide = [t.float() for t in parameters]
    assert torch.equal(kl, normal.sample_kl(*wide, noise.float())[1])
    assert torch.equal(normal.kl_divergence(*leaves), normal.kl_divergence(*wide))
    assert torch.equal(z, normal.sample(wide[0], wide[1], noise.float()).to(dtype))
    assert torch.equal(normal.log_prob(noise, *leaves[:2]), normal.log_prob(noise.float(), *wide[:2]))
    gradients = torch.autograd.grad(kl.sum(), leaves)
    assert all(g.dtype == dtype and g.isfinite().all() for g in gradients)


def test_under_autocast_a_divergence_of_half_activations_is_float32_and_trains() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        m1, s1, m2, s2 = layer(torch.randn(5, 8)).chunk(4, dim=1)
        assert m1.dtype == torch.bfloat16
        z, kl = normal.sample_kl(m1, s1 - 60, m2, s2 - 60, torch.zeros_like(m1))
        same = normal.kl_divergence(m1, s1 - 60, m2, s2 - 60)
    assert (z.dtype, kl.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(kl, same)
    _, shared = normal.sample_kl(m1, s1, m1.detach(), s2, torch.zeros_like(m1))
    shared.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.abs().sum() > 0


# --- against N(0, 1), which need not be given


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", [None, *SCALES])
@pytest.mark.parametrize("weights", [(1.0, 0.3), (1.0, 0.0), (0.0, 1.0)])
def test_without_a_prior_it_is_the_unit_normal_in_value_and_gradient(
    spec: str | None, dtype: torch.dtype, weights: tuple[float, float]
) -> None:
    scale = None if spec is None else scales.get(spec)
    mean, raw, _, _, noise = _random((40, 5), dtype)
    results = []
    for prior in ((), _with_a_unit_prior(mean)):
        leaves = _leaves([mean, raw])
        z, kl = normal.sample_kl(*leaves, *(prior or (None, None)), noise, scale_q=scale)
        assert (z.dtype, kl.dtype) == (dtype, torch.promote_types(dtype, torch.float32))
        # a weight of zero leaves that result out of the graph
        loss = torch.stack([w * y.float().sum() for w, y in zip(weights, (z, kl), strict=True) if w]).sum()
        results.append((z.detach(), kl.detach(), *torch.autograd.grad(loss, leaves, materialize_grads=True)))
    if scale is None or not scale.has_sigma_first:  # else one is made from σ, and the other from its logarithm
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])
    for ours, general in zip(*results, strict=True):
        torch.testing.assert_close(ours, general)


def test_the_divergence_from_the_unit_normal_survives_every_log_sigma_and_broadcasts() -> None:
    for log_sigma in (*TINY_LOG_SIGMAS, *LARGE_LOG_SIGMAS):
        leaves = _leaves([torch.tensor([2.0]), torch.tensor([log_sigma])])
        kl = normal.kl_divergence(*leaves)
        assert torch.equal(kl, normal.kl_divergence(*leaves, torch.zeros(1), torch.zeros(1)))
        assert not kl.isnan()
    mean, log_sigma, *_ = _random((3, 4))
    z, kl = normal.sample_kl(mean, log_sigma[:1])
    assert z.shape == kl.shape == (3, 4)


def test_the_unit_form_keeps_three_tensors_with_a_scale_or_without() -> None:
    mean, raw, *_, noise = _random((64, 64), torch.float32)

    def unit(m: Tensor, p: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return normal.sample_kl(m, p, noise=noise)

    def scaled(m: Tensor, p: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return normal.sample_kl(m, p, noise=noise, scale_q=scales.get("upbounded"))

    assert _bytes_kept(unit, [mean, raw, noise]) == 3 * mean.nbytes
    # of a mean that is a part of a wider tensor the part alone
    assert _bytes_kept(lambda w, p, n: unit(w[:, :64], p, n), [torch.randn(64, 640), raw, noise]) == 3 * mean.nbytes
    assert _bytes_kept(scaled, [mean, raw, noise]) == 3 * mean.nbytes


def test_the_unit_form_transforms_compiles_and_refuses_a_second_derivative() -> None:
    mean, raw, *_, noise = _random((6, 5))
    unit = partial(normal.sample_kl, scale_q=scales.get("upbounded"))

    def loss(m: Tensor, p: Tensor) -> Tensor:
        z, kl = unit(m, p, noise=noise)
        return z.sum() + kl.sum()

    leaves = _leaves([mean, raw])
    wanted = torch.autograd.grad(loss(*leaves), leaves)
    torch.testing.assert_close(torch.func.grad(loss, argnums=(0, 1))(mean, raw), wanted)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), wanted)
    (gradient,) = torch.autograd.grad(loss(*leaves), leaves[1], create_graph=True)
    with pytest.raises(RuntimeError, match="sample_kl is differentiable once"):
        torch.autograd.grad(gradient.sum(), leaves[1])


def test_half_a_prior_is_refused() -> None:
    mean, raw, *_ = _random((3,))
    for call in (
        lambda: normal.kl_divergence(mean, raw, mean),
        lambda: normal.sample_kl(mean, raw, raw_p=raw),
    ):
        with pytest.raises(InvalidValueError, match=r"both, or neither for N\(0, 1\)"):
            call()
    with pytest.raises(InvalidValueError, match="scale_p is the scale of raw_p"):
        normal.sample_kl(mean, raw, scale_p=scales.get("explin"))


@pytest.mark.parametrize("constant", ["posterior", "prior", "both"])
def test_the_raw_value_of_a_constant_scale_has_a_gradient_of_zeros(constant: str) -> None:
    torch.manual_seed(0)
    given = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    mean_q, raw_q, mean_p, raw_p = given
    scale_q = scales.get("constant(0.5)" if constant != "prior" else "explin")
    scale_p = scales.get("constant" if constant != "posterior" else "explin")
    noise = torch.randn(5, 3, dtype=torch.float64)
    z, kl = normal.sample_kl(mean_q, raw_q, mean_p, raw_p, noise, scale_q=scale_q, scale_p=scale_p)
    found = torch.autograd.grad((3 * z + kl).sum(), given)
    log_sigma_q, log_sigma_p = scale_q.log_sigma(raw_q), scale_p.log_sigma(raw_p)
    kl = normal.kl_divergence(mean_q, log_sigma_q, mean_p, log_sigma_p)
    wanted = torch.autograd.grad(
        (3 * normal.sample(mean_q, log_sigma_q, noise) + kl).sum(), given, allow_unused=True, materialize_grads=True
    )
    for gradient, reference, still in zip(
        found, wanted, (False, constant != "prior", False, constant != "posterior"), strict=True
    ):
        if still:
            assert not gradient.any()
            assert not reference.any()
        else:
            torch.testing.assert_close(gradient, reference)


def test_against_a_fixed_prior_the_raw_value_of_a_constant_scale_has_a_gradient_of_zeros() -> None:
    mean, raw = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    z, kl = normal.sample_kl(mean, raw, scale_q=scales.get("constant(0.5)"))
    found = torch.autograd.grad((z + kl).sum(), (mean, raw))
    torch.testing.assert_close(found[0], 1 + mean.detach())
    torch.testing.assert_close(found[1], torch.zeros(4))
