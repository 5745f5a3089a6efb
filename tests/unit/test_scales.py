"""What a scale is to its user: a name, a transform, a hashable value, and something that PyTorch can differentiate."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch.distributions import LogNormal, Normal, TransformedDistribution
from torch.distributions.transforms import Transform

from vdvae_patch import conventions, scales
from vdvae_patch.errors import InvalidValueError, UnknownNameError

SPECS = [
    "exp",
    "explin",
    "upbounded",
    "upbounded(omega=2)",
    "upbounded(256)",
    "downbounded(alpha=0.28867513459481287)",
    "bounded(alpha=0.0011,omega=1)",
    "bounded(0.288675, 256)",
    "softplus",
    "softplus(0.6931471805599453)",
    "softclamp",
    "softclamp(limit=3, floor=0.1)",
    "clamp",
    "clamp(low=-10)",
]
ALL = [*SPECS, "naiveexp", "constant", "constant(0.25)"]


def test_every_scale_is_tested() -> None:
    assert {spec.split("(")[0] for spec in ALL} == set(scales.SCALES)


@pytest.fixture(params=SPECS)
def scale(request: pytest.FixtureRequest) -> scales.Scale:
    return scales.get(request.param)


@pytest.fixture
def p() -> torch.Tensor:
    # off the kinks at 0 and at the ends of `clamp`, where the second derivative jumps
    return torch.linspace(-4.1, 4, 25, dtype=torch.float64)


# --- by name, with arguments


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("upbounded", {"omega": 1}),
        ("upbounded(omega=2)", {"omega": 2}),
        (" UpBounded ( 2.5e-1 ) ", {"omega": 0.25}),
        ("bounded(alpha=0.0011,omega=1)", {"alpha": 0.0011, "omega": 1}),
        ("bounded(0.1, omega=1)", {"alpha": 0.1, "omega": 1}),
        ("downbounded(.5)", {"alpha": 0.5}),
        ("softplus", {"beta": 1}),
        ("softclamp", {"limit": 5, "floor": 0.01}),
        ("clamp", {"low": -30, "high": 20}),
        ("constant(3)", {"value": 3}),
        ("exp()", {}),
    ],
)
def test_a_specification_gives_name_and_arguments(spec: str, arguments: dict[str, float]) -> None:
    scale = scales.get(spec)
    assert scale.arguments() == arguments
    assert scale.name == spec.split("(")[0].strip().lower()


def test_cst1_is_the_papers_name_for_the_constant_one() -> None:
    assert scales.get("Cst1") == scales.Constant(1)


def test_a_scale_is_its_own_specification(scale: scales.Scale) -> None:
    assert scales.get(scale) is scale


@pytest.mark.parametrize("spec", ALL)
def test_text_pickle_and_deepcopy_give_back_an_equal_scale(spec: str) -> None:
    scale = scales.get(spec)
    for twin in (scales.get(str(scale)), pickle.loads(pickle.dumps(scale)), copy.deepcopy(scale)):
        assert twin == scale
        assert hash(twin) == hash(scale)
        assert torch.equal(twin.sigma(torch.arange(-3.0, 4)), scale.sigma(torch.arange(-3.0, 4)))


def test_text_keeps_every_digit_and_leaves_defaults_out() -> None:
    assert str(scales.UpBounded()) == "upbounded"
    assert str(scales.UpBounded(256.0)) == "upbounded(omega=256)"
    assert repr(scales.DownBounded(1 / math.sqrt(12))) == "downbounded(alpha=0.2886751345948129)"
    assert str(scales.SoftClamp(floor=0.1)) == "softclamp(floor=0.1)"


def test_scales_with_other_arguments_or_of_another_kind_differ() -> None:
    assert len({scales.get(spec) for spec in ALL}) == len(ALL)
    assert scales.Exp() != scales.NaiveExp()
    assert scales.UpBounded(2) != scales.UpBounded(1)
    assert scales.Exp() != "exp"


@pytest.mark.parametrize(
    ("spec", "near"),
    [("upbound", "upbounded"), ("expln", "explin"), ("softpluss(2)", "softplus"), ("Constante", "constant")],
)
def test_an_unknown_name_is_answered_with_the_nearest(spec: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"unknown scale '{spec.split('(')[0]}'; did you mean .*'{near}'"):
        scales.get(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("upbounded(0)", "upbounded: omega must be a positive number, not 0"),
        ("upbounded(omega=-2)", "omega must be a positive number, not -2"),
        ("upbounded(nan)", "'nan' is not a number"),
        ("upbounded(inf)", "'inf' is not a number"),
        ("clamp(high=1e999)", "'1e999' is too large for a number"),
        ("upbounded(1e-400)", "omega must be a positive number, not 0"),
        ("bounded(0.1,,1)", "an argument is missing beside a comma"),
        ("bounded(omega=1, 0.1)", "'0.1' has no name, but follows an argument that has one"),
        ("bounded(0.1, 1, alpha=0.2)", "multiple values for argument 'alpha'"),
        ("downbounded(0)", "alpha must be a positive number"),
        ("bounded(1, 1)", "alpha must be below omega, not 1 against 1"),
        ("bounded(alpha=2, omega=1)", "alpha must be below omega, not 2 against 1"),
        ("softplus(beta=-1)", "beta must be a positive number"),
        ("softclamp(floor=0)", "floor must be a positive number"),
        ("clamp(low=30)", "low must be below high, not 30 against 20"),
        ("constant(-1)", "value must be a positive number"),
        ("bounded(0.1)", r"missing a required argument: 'omega'; its form is bounded\(alpha, omega\)"),
        ("upbounded(1, 2)", r"too many positional arguments; its form is upbounded\(omega=1\)"),
        ("upbounded(alpha=1)", "unexpected keyword argument 'alpha'"),
        ("upbounded(omega=1, omega=2)", "'omega' is given twice"),
        ("upbounded(omega=two)", "'two' is not a number"),
        ("upbounded(omega=__import__)", "'__import__' is not a number"),
        ("upbounded(omega=__import__('os'))", "is not of the form"),
        ("upbounded(omega=2", "is not of the form"),
        ("upbounded(1+1)", r"'1\+1' is not a number"),
        ("upbounded(cache_size=1)", "unexpected keyword argument"),
        ("", "is not of the form"),
        ("2", "is not of the form"),
    ],
)
def test_a_wrong_specification_is_refused_in_one_line_that_says_why(spec: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message) as caught:
        scales.get(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_argument_that_is_not_finite_is_refused_by_every_scale(value: float) -> None:
    for spec in (s for s in ALL if "(" in s):
        kind, arguments = type(scales.get(spec)), scales.get(spec).arguments()
        for name in arguments:
            with pytest.raises(InvalidValueError, match="must be"):
                kind(**arguments | {name: value})


# --- a transform


def test_it_is_a_transform_whose_inverse_gives_the_raw_parameter_back(scale: scales.Scale, p: torch.Tensor) -> None:
    assert isinstance(scale, Transform)
    assert torch.equal(scale(p), scale.sigma(p))
    torch.testing.assert_close(scale.inverse(scale.sigma(p)), p, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(scale.inv(scale(p)), p, rtol=1e-10, atol=1e-10)
    assert scale.domain.check(p).all()
    assert scale.codomain.check(scale(p)).all()


def test_the_inverse_of_a_sigma_outside_the_codomain_is_nan(scale: scales.Scale) -> None:
    assert scale.inverse(torch.tensor(-1.0)).isnan()
    low, high = (getattr(scale.codomain, f"{end}_bound", default) for end, default in (("lower", 0), ("upper", None)))
    outside = [low / 2] * (low > 0) + ([high * 2] if high is not None and high < math.inf else [])
    assert scale.inverse(torch.tensor(outside)).isnan().all()


@pytest.mark.parametrize(
    "spec",
    ["exp", "explin", "upbounded", "upbounded(omega=2)", "bounded(0.1, 3)", "softplus", "softplus(0.25)", "clamp"],
)
def test_a_log_sigma_far_below_zero_is_shifted_to_where_the_scale_is_its_exponential(spec: str) -> None:
    scale, log_sigma = scales.get(spec), -13.0
    gain, shift = scale.of_log_sigma()
    p = torch.tensor([gain * log_sigma + shift], dtype=torch.float64)
    above = scale.sigma(p) - getattr(scale, "alpha", 0.0)
    torch.testing.assert_close(above, torch.tensor([math.exp(log_sigma)], dtype=torch.float64), rtol=1e-4, atol=0)


def test_the_constant_has_no_inverse() -> None:
    with pytest.raises(InvalidValueError, match="constant has no inverse"):
        scales.get("constant").inverse(torch.ones(1))


def test_the_log_determinant_is_that_of_the_derivative(scale: scales.Scale, p: torch.Tensor) -> None:
    q = p.clone().requires_grad_()
    y = scale(q)
    (slope,) = torch.autograd.grad(y.sum(), q)
    torch.testing.assert_close(scale.log_abs_det_jacobian(q, y), slope.log())


def test_a_normal_through_exp_is_torchs_log_normal() -> None:
    x = torch.linspace(0.1, 5, 20, dtype=torch.float64)
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    ours = TransformedDistribution(Normal(zero, one), [scales.get("exp")])
    torch.testing.assert_close(ours.log_prob(x), LogNormal(zero, one).log_prob(x))


# --- what PyTorch does with it


def test_first_and_second_derivatives_are_those_of_finite_differences(scale: scales.Scale, p: torch.Tensor) -> None:
    q = p.clone().requires_grad_()
    for function in (scale.sigma, scale.log_sigma):
        assert torch.autograd.gradcheck(function, q)
        assert torch.autograd.gradgradcheck(function, q)


SMOOTH = ["softplus", "softplus(20)", "downbounded(0.3)", "bounded(0.1, 1)", "bounded(1e-30, 1)", "softclamp",
          "softclamp(100, 1)", "exp"]  # fmt: skip


@pytest.mark.parametrize("spec", SMOOTH)
@pytest.mark.parametrize("of", ["sigma", "log_sigma"])
def test_a_smooth_scale_has_its_second_derivative_at_exactly_zero(spec: str, of: str) -> None:
    function = getattr(scales.get(spec), of)
    at = []
    for value in (-1e-7, 0.0, 1e-7):
        p = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(function(p), p, create_graph=True)
        at.append(torch.autograd.grad(slope, p)[0].item() if slope.requires_grad else 0.0)
    assert at[1] == pytest.approx((at[0] + at[2]) / 2, rel=1e-5, abs=1e-6)


def test_forward_mode_within_forward_mode_is_the_second_derivative(scale: scales.Scale) -> None:
    p = torch.tensor(0.3)
    for function in (scale.sigma, scale.log_sigma):
        twice = torch.func.jacfwd(torch.func.jacfwd(function))(p)
        torch.testing.assert_close(twice.float(), torch.func.grad(torch.func.grad(function))(p))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_inverse_of_every_sigma_of_every_type_is_a_number_whose_sigma_it_is(
    scale: scales.Scale, dtype: torch.dtype
) -> None:
    p = torch.linspace(-9, 9, 301).to(dtype)
    sigma = scale.sigma(p)
    back = scale.inverse(sigma)
    assert back.dtype == dtype
    assert not back.isnan().any()
    again = scale.sigma(back)
    # a raw parameter has as many digits as its type; where σ is steep in it, that is more than one of σ
    steepness = 1 + p.abs().double().clamp(min=1)
    assert ((again - sigma).double().abs() <= 2 * steepness * torch.finfo(dtype).eps * sigma.double()).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("low", "high"), [(0.3, 0.9), (0.7, 0.8), (0.1, 0.6)])
def test_a_bound_between_two_numbers_of_a_type_has_a_finite_inverse_beside_it(
    low: float, high: float, dtype: torch.dtype
) -> None:
    """They are no numbers of these types; where rounding leads outside, the bound is meant, whose p is ±∞.

    0.3 and 0.9 are rounded to the inside by all three types, 0.7 and 0.8 to the outside by two, 0.1 and 0.6 by one.
    """
    scale = scales.get(f"bounded({low}, {high})")
    ends = scale.sigma(torch.tensor([-1e4, 1e4]).to(dtype))
    back = scale.inverse(ends)
    inside = torch.tensor([ends[0].item() > low, ends[1].item() < high])
    assert back.isfinite().tolist() == inside.tolist()
    assert (back.sign() == torch.tensor([-1, 1])).all()
    assert torch.equal(scale.sigma(back), ends)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "spec",
    ["softclamp({}, 0.01)", "softclamp({}, 0.2, gain=0.7)", "softclamp({}, 0.2, gain=-3)", "clamp(-{}, {})",
     "clamp(-{}, {}, gain=0.7)", "upbounded({})", "bounded(0.01, {}, shift=2)"],
)  # fmt: skip
def test_the_inverse_of_a_bound_that_the_scale_gives_is_no_nan_and_leads_back(spec: str, dtype: torch.dtype) -> None:
    for value in (0.27, 0.752, 1.9, 3.816, 4.723, 7.07, 8.02, 12.7):
        scale = scales.get(spec.format(value, value))
        ends = scale.sigma(torch.tensor([-1e4, 1e4]).to(dtype))
        held = ends[(ends > 0) & ends.isfinite()]  # an upbounded one goes to 0, and e^12.7 is no number of float16
        back = scale.inverse(held)
        assert not back.isnan().any()
        torch.testing.assert_close(scale.sigma(back), held, rtol=8 * torch.finfo(dtype).eps, atol=0)
        assert scale.inverse(held.max() * 1.1).isnan() or len(held) == 1


@pytest.mark.medium
def test_it_compiles_without_a_graph_break(scale: scales.Scale) -> None:
    torch.compiler.reset()
    compiled = torch.compile(lambda p: (scale.sigma(p), scale.log_sigma(p)), fullgraph=True, backend="aot_eager")
    p = torch.linspace(-9, 9, 33, requires_grad=True)
    for got, want in zip(compiled(p), (scale.sigma(p), scale.log_sigma(p)), strict=True):
        assert torch.equal(got, want)
        gradients = [torch.autograd.grad(y.sum(), p, retain_graph=True)[0] for y in (got, want)]
        assert torch.equal(*gradients)


def test_function_transforms_agree_with_autograd(scale: scales.Scale) -> None:
    p = torch.linspace(-9, 9, 33)
    q = p.clone().requires_grad_()
    for function in (scale.sigma, scale.log_sigma):
        (want,) = torch.autograd.grad(function(q).sum(), q)
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(function))(p), want)
        torch.testing.assert_close(torch.func.jacrev(function)(p).diagonal(), want)


def test_shape_type_and_strides_of_any_input_are_kept(scale: scales.Scale) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        p = torch.linspace(-2, 2, 24).reshape(2, 3, 4).to(dtype).transpose(0, 2)
        for y in (scale.sigma(p), scale.log_sigma(p)):
            assert y.shape == p.shape
            assert y.dtype == dtype
    assert scale.sigma(torch.zeros(0, 3)).shape == (0, 3)
    assert scale.log_sigma(torch.tensor(0.5)).shape == ()


def test_a_raw_parameter_that_is_nan_stays_visible(scale: scales.Scale) -> None:
    p = torch.tensor([math.nan, 0.0])
    for y in (scale.sigma(p), scale.log_sigma(p)):
        assert y.isnan().tolist() == [True, False]


def test_the_input_is_left_as_it_was(scale: scales.Scale) -> None:
    p = torch.linspace(-9, 9, 33)
    before = p.clone()
    results = [scale.sigma(p), scale.log_sigma(p)]
    results[0].fill_(0)
    results[1].fill_(0)
    assert torch.equal(p, before)


def test_one_tensor_is_kept_for_the_backward_pass(scale: scales.Scale) -> None:
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    p = torch.zeros(7, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scale.log_sigma(p)
    assert [tensor.data_ptr() for tensor in kept] == [p.data_ptr()]


@pytest.mark.parametrize("spec", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_log_variance_is_twice_log_sigma_in_value_and_gradient(spec: str, dtype: torch.dtype) -> None:
    scale = scales.get(spec)
    once = torch.linspace(-9, 9, 37).to(dtype).requires_grad_()
    twice = once.detach().clone().requires_grad_()
    value, want = scale.log_variance(once), 2 * scale.log_sigma(twice)
    torch.testing.assert_close(value, want, rtol=1e-6 if dtype == torch.float32 else 1e-3, atol=1e-7)
    if want.requires_grad:
        value.float().sum().backward()
        want.float().sum().backward()
        torch.testing.assert_close(once.grad, twice.grad)


def test_outside_a_transform_no_signature_is_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("at every call, which takes longer than a scale on a small tensor")

    explin, p = scales.get("explin"), torch.zeros(3, requires_grad=True)
    monkeypatch.setattr("inspect.signature", refuse)
    explin.log_sigma(p).sum().backward()
    assert p.grad is not None
    assert p.grad.tolist() == [1.0, 1.0, 1.0]


def test_no_gradient_reaches_the_raw_parameter_of_a_constant() -> None:
    p = torch.zeros(3, requires_grad=True)
    constant = scales.get("constant(2)")
    assert not constant.sigma(p).requires_grad
    assert not constant.log_sigma(p).requires_grad
    assert constant.log_sigma(p).tolist() == pytest.approx([math.log(2)] * 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_constant_that_the_type_cannot_hold_is_infinite(dtype: torch.dtype) -> None:
    p = torch.zeros(1, dtype=dtype)
    assert scales.Constant(1e300).sigma(p).item() == pytest.approx(1e300 if dtype == torch.float64 else math.inf)
    assert scales.Constant(1e300).log_sigma(p).item() == pytest.approx(math.log(1e300), rel=4e-3)


@pytest.mark.parametrize("spec", ["clamp(high=2000)", "softclamp(limit=2000)"])
def test_a_bound_beyond_every_number_is_infinity(spec: str) -> None:
    scale = scales.get(spec)
    assert scale.codomain.upper_bound == math.inf
    assert scale.log_sigma(torch.tensor(1800.0)).isfinite()


# --- the paper's numbers


def test_values_and_slopes_at_zero_are_continuous_where_two_formulas_meet() -> None:
    sides = torch.tensor([-1e-9, 0.0, 1e-9], dtype=torch.float64, requires_grad=True)
    for spec, sigma in [("explin", 1.0), ("upbounded", 0.5), ("upbounded(256)", 128.0)]:
        scale = scales.get(spec)
        torch.testing.assert_close(scale.sigma(sides), torch.full_like(sides, sigma), rtol=1e-8, atol=0)
        (slope,) = torch.autograd.grad(scale.log_sigma(sides).sum(), sides)
        torch.testing.assert_close(slope, torch.ones_like(slope), rtol=1e-8, atol=0)


def test_the_published_bounds_are_reached_at_the_ends_and_not_passed() -> None:
    """Pixels in 0..255 have a rounding noise of 1/√12, pixels in [0, 1] one of 1/(256 √12)."""
    bins = torch.linspace(-0.5, 0.5, 2_000_001, dtype=torch.float64)
    noise = bins.std().item()
    assert noise == pytest.approx(1 / math.sqrt(12), rel=1e-5)
    ends = torch.tensor([-3e38, 3e38])
    for alpha, omega in [(1 / math.sqrt(12), 256.0), (1 / (256 * math.sqrt(12)), 1.0)]:
        assert scales.Bounded(alpha, omega).sigma(ends).tolist() == pytest.approx([alpha, omega], rel=1e-7)
        assert scales.Bounded(alpha, omega).log_sigma(ends).tolist() == pytest.approx(
            [math.log(alpha), math.log(omega)], abs=1e-6
        )
        assert scales.DownBounded(alpha).sigma(ends).tolist() == [pytest.approx(alpha, rel=1e-7), math.inf]
        assert scales.UpBounded(omega).sigma(ends).tolist() == [0.0, omega]


def test_sigma_of_efficient_vdvae_is_one_at_zero() -> None:
    assert scales.Softplus(math.log(2)).sigma(torch.zeros(1)).item() == pytest.approx(1)


@pytest.mark.parametrize(("dtype", "last", "sigma"), [(torch.float32, -103, 1.85e-45), (torch.float16, -17, 4.14e-8)])
def test_naiveexp_fails_where_table_1_says(dtype: torch.dtype, last: int, sigma: float) -> None:
    naive, exact = scales.get("naiveexp"), scales.get("exp")
    p = torch.arange(0, last - 200, -1).to(dtype)
    finite = naive.log_sigma(p).isfinite()
    assert p[finite].min() == last
    assert not finite[p < last].any()
    assert finite[p >= last].all()
    assert math.exp(last) == pytest.approx(sigma, rel=1e-2)
    q = torch.tensor([float(last - 1)], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(naive.log_sigma(q).sum(), q)
    assert not gradient.isfinite().any()
    assert torch.equal(exact.log_sigma(p), p)
    (gradient,) = torch.autograd.grad(exact.log_sigma(q).sum(), q)
    assert gradient.item() == 1


@pytest.mark.parametrize(
    ("spec", "p", "expected"),
    [("exp", -110.0, -110.0), ("upbounded", 200.0, math.log(0.5) - 200), ("bounded(1e-30,1)", -150.0, -150.0)],
)
def test_the_log_determinant_survives_where_the_derivative_underflows(spec: str, p: float, expected: float) -> None:
    x = torch.tensor([p])
    found = scales.get(spec).log_abs_det_jacobian(x, x)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_lower_bound_far_below_the_range_of_float32_is_kept() -> None:
    scale = scales.get("bounded(1e-50,1)")
    p = torch.tensor([-95.0, -110.0, -200.0, 3.0])
    expected = torch.tensor([math.log(1e-50 + math.exp(x) / (1 + math.exp(x))) for x in p.tolist()])
    torch.testing.assert_close(scale.log_sigma(p), expected, rtol=1e-5, atol=1e-6)


def test_a_scale_has_the_name_it_is_registered_by_and_is_not_taken_for_its_base() -> None:
    class Tempered(scales.Exp):
        def _log_sigma(self, p: torch.Tensor) -> torch.Tensor:
            return 0.5 * p

    assert scales.get("exp").name == "exp"
    assert scales.get("cst1").name == "constant"
    assert not conventions.get("log_sigma").is_identity(Tempered())
