"""Every scale over every bit pattern of the half types, and over float32 and float64 from end to end.

The reference is written here from the paper's formulas in numpy, in float64 (in extended precision for float64 itself),
with the derivatives worked out by hand. It shares nothing with the implementation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from vdvae_patch import scales
from vdvae_patch.counts import Counting

Array = np.ndarray


@dataclass(frozen=True)
class Truth:
    """σ, log σ and the derivative of each by p."""

    sigma: Array
    log_sigma: Array
    sigma_slope: Array
    log_sigma_slope: Array


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def _exp(p: Array) -> Truth:
    return Truth(np.exp(p), p, np.exp(p), np.ones_like(p))


def _explin(p: Array) -> Truth:
    below, above = np.minimum(p, 0), np.maximum(p, 0)
    return Truth(np.exp(below) + above, below + np.log1p(above), np.exp(below), 1 / (1 + above))


def _upbounded(p: Array, omega: float = 1.0) -> Truth:
    half, below, above = p.dtype.type(omega) / 2, np.minimum(p, 0), np.maximum(p, 0)
    sigma = half * np.where(p <= 0, np.exp(below), 2 - np.exp(-above))
    log_sigma = np.log(half) + below + np.log1p(-np.expm1(-above))
    slope = half * np.exp(-np.abs(p))
    return Truth(sigma, log_sigma, slope, np.where(p <= 0, 1, np.exp(-above) / (2 - np.exp(-above))))


def _downbounded(p: Array, alpha: float) -> Truth:
    log_alpha = np.log(p.dtype.type(alpha))
    return Truth(alpha + np.exp(p), np.logaddexp(log_alpha, p), np.exp(p), _sigmoid(p - log_alpha))


def _bounded(p: Array, alpha: float, omega: float) -> Truth:
    low, high = p.dtype.type(alpha), p.dtype.type(omega)
    sigma = low + (high - low) * _sigmoid(p)
    log_sigma = np.logaddexp(np.log(low) - np.logaddexp(0, p), np.log(high) - np.logaddexp(0, -p))
    slope = (high - low) * _sigmoid(p) * _sigmoid(-p)
    return Truth(sigma, log_sigma, slope, slope / sigma)


def _constant(p: Array, value: float = 1.0) -> Truth:
    c, nothing = np.full_like(p, value), np.zeros_like(p)
    return Truth(c, np.log(c), nothing, nothing)


def _softplus(p: Array, beta: float = 1.0) -> Truth:
    x = beta * p
    softplus = np.logaddexp(0, x)
    tail = x < -600  # softplus(x) is exp(x) to all digits of every type, and is about to underflow
    log_softplus = np.where(tail, x, np.log(np.where(tail, 1, softplus)))
    slope = beta * np.where(tail, 1, _sigmoid(x) / np.where(tail, 1, softplus))
    return Truth(softplus / beta, log_softplus - np.log(p.dtype.type(beta)), _sigmoid(x), slope)


def _softclamp(p: Array, limit: float = 5.0, floor: float = 0.01) -> Truth:
    squashed, squashed_slope = limit * np.tanh(p / limit), np.cosh(p / limit) ** -2
    slope = np.exp(squashed + np.log(squashed_slope))
    sigma = np.exp(squashed) + floor
    return Truth(sigma, np.logaddexp(squashed, np.log(p.dtype.type(floor))), slope, slope / sigma)


def _clamp(p: Array, low: float = -30.0, high: float = 20.0) -> Truth:
    half, inside = np.clip(p, low, high) / 2, (p >= low) & (p <= high)
    return Truth(np.exp(half), half, np.where(inside, np.exp(half) / 2, 0), np.where(inside, 0.5, 0))


PIXEL_ALPHA = 1 / math.sqrt(12)
REFERENCES: dict[str, Callable[[Array], Truth]] = {
    "exp": _exp,
    "explin": _explin,
    "upbounded": _upbounded,
    "upbounded(omega=2)": lambda p: _upbounded(p, 2),
    "upbounded(256)": lambda p: _upbounded(p, 256),
    "upbounded(0.001)": lambda p: _upbounded(p, 0.001),
    f"downbounded({PIXEL_ALPHA!r})": lambda p: _downbounded(p, PIXEL_ALPHA),
    "downbounded(1e-4)": lambda p: _downbounded(p, 1e-4),
    "downbounded(1e-60)": lambda p: _downbounded(p, 1e-60),
    "bounded(alpha=0.0011, omega=1)": lambda p: _bounded(p, 0.0011, 1),
    "bounded(0.288675, 256)": lambda p: _bounded(p, 0.288675, 256),
    "bounded(0.3, 0.9)": lambda p: _bounded(p, 0.3, 0.9),  # α + (ω − α) is rounded to more than ω
    "constant": _constant,
    "constant(0.5)": lambda p: _constant(p, 0.5),
    "softplus": _softplus,
    "softplus(0.6931471805599453)": lambda p: _softplus(p, 0.6931471805599453),
    "softplus(beta=20)": lambda p: _softplus(p, 20),
    "softclamp": _softclamp,
    "softclamp(limit=100, floor=1)": lambda p: _softclamp(p, 100, 1),
    "clamp": _clamp,
    "clamp(-1, 400)": lambda p: _clamp(p, -1, 400),
}


def _values(dtype: torch.dtype) -> torch.Tensor:
    """Every finite value of a type of 8 or 16 bits; of a longer one equally many of every exponent and sign. Sorted."""
    generator = np.random.default_rng(0)
    if dtype == torch.float64:
        exponent = np.repeat(np.arange(2**12, dtype=np.uint64), 16) << np.uint64(52)
        bits = torch.from_numpy((exponent | generator.integers(0, 2**52, 2**16, dtype=np.uint64)).view(np.int64))
    elif dtype == torch.float32:
        exponent = np.repeat(np.arange(2**9, dtype=np.uint32), 128) << np.uint32(23)
        bits = torch.from_numpy((exponent | generator.integers(0, 2**23, 2**16, dtype=np.uint32)).view(np.int32))
    elif dtype.itemsize == 2:
        bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    else:
        bits = torch.arange(2**8, dtype=torch.int32).to(torch.uint8)
    values = bits.view(dtype)
    wide = values if dtype == torch.float64 else values.float()
    finite = wide.isfinite()
    order = wide[finite].sort().indices
    return bits[finite][order].view(dtype)


def _array(x: torch.Tensor) -> Array:
    """To the type that the reference is computed in."""
    return x.detach().double().numpy().astype(np.longdouble if x.dtype == torch.float64 else np.float64)


def _smallest(dtype: torch.dtype) -> float:
    info = torch.finfo(dtype)
    return info.smallest_normal * info.eps


def _assert_close(got: torch.Tensor, want: Array, relative: float, absolute: float | Array, label: str) -> None:
    """Within the tolerance once both are cut at the largest number of the type, which infinity stands for."""
    actual = _array(got)
    assert not np.isnan(actual).any(), f"{label}: NaN"
    largest = torch.finfo(got.dtype).max
    actual, want = np.clip(actual, -largest, largest), np.clip(want, -largest, largest)
    # a number in the range of the subnormals is rounded to a multiple of the smallest one
    excess = np.abs(actual - want) - relative * np.abs(want) - absolute - 0.51 * _smallest(got.dtype)
    worst = int(np.argmax(excess))
    assert excess[worst] <= 0, f"{label}: value {worst} is {actual[worst]!r} and should be {want[worst]!r}"


def _bounds(scale: scales.Scale) -> tuple[float, float]:
    return getattr(scale.codomain, "lower_bound", 0.0), getattr(scale.codomain, "upper_bound", math.inf)


DTYPES = [torch.float8_e5m2, torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture(scope="module", params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def values(request: pytest.FixtureRequest) -> torch.Tensor:
    return _values(request.param)


def test_the_sweep_covers_every_bit_pattern_or_every_exponent() -> None:
    assert len(_values(torch.float16)) == 2**16 - 2 * 2**10
    assert len(_values(torch.bfloat16)) == 2**16 - 2 * 2**7
    for dtype, exponents, each in [(torch.float32, 2**8 - 1, 128), (torch.float64, 2**11 - 1, 16)]:
        finite = _values(dtype)
        assert len(finite) == 2 * exponents * each
        assert finite.frexp().exponent.unique().numel() >= exponents
        assert (finite.abs() < torch.finfo(dtype).smallest_normal).sum() == 2 * each


def test_every_scale_but_the_naive_one_is_swept() -> None:
    ours = {"exp", "explin", "upbounded", "downbounded", "bounded", "constant", "softplus", "softclamp", "clamp"}
    assert {scales.get(spec).name for spec in REFERENCES} == ours
    assert ours | {"naiveexp"} <= set(scales.SCALES.names())


@pytest.mark.parametrize("spec", REFERENCES)
def test_value_and_gradient_are_those_of_the_wide_reference_for_every_finite_raw_parameter(
    spec: str, values: torch.Tensor
) -> None:
    scale, dtype = scales.get(spec), values.dtype
    eps, p = torch.finfo(dtype).eps, values.clone().requires_grad_()
    working_eps = eps if dtype == torch.float64 else torch.finfo(torch.float32).eps
    rounding = 8 * eps if dtype.itemsize >= 4 else 0.501 * eps  # half types are rounded once, at the end
    with np.errstate(all="ignore"):
        x = _array(values)
        truth = REFERENCES[spec](x)
        # a product β p, or the argument of an exponential, is itself rounded, and the function passes that on
        passed_on = np.abs(x * truth.sigma_slope) + np.abs(truth.sigma * truth.log_sigma)
        carried = 2 * working_eps * np.nan_to_num(passed_on, posinf=0)
        # a logarithm near zero is a difference of numbers as large as the logarithms of the bounds
        largest_log = max([1.0, *(abs(math.log(b)) for b in _bounds(scale) if 0 < b < math.inf)])
        carried_log = 2 * working_eps * (largest_log + np.nan_to_num(np.abs(x * truth.log_sigma_slope)))

    sigma, log_sigma = scale.sigma(p), scale.log_sigma(p)
    assert sigma.dtype == log_sigma.dtype == dtype
    _assert_close(sigma, truth.sigma, rounding, carried, "sigma")
    _assert_close(log_sigma, truth.log_sigma, rounding, carried_log, "log sigma")

    for name, value, slope in [
        ("sigma", sigma, truth.sigma_slope),
        ("log sigma", log_sigma, truth.log_sigma_slope),
    ]:
        if not value.requires_grad:
            assert (slope == 0).all()
            continue
        (gradient,) = torch.autograd.grad(value, p, torch.ones_like(value))
        # exponentials of −100 or (float64) −700 carry the rounding of their argument; /α does that of a subnormal
        relative = rounding + (800 if dtype == torch.float64 else 120) * working_eps
        absolute = 1e4 * _smallest(torch.float64 if dtype == torch.float64 else torch.float32)
        _assert_close(gradient, slope, relative, absolute, f"gradient of {name}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spec", [spec for spec in REFERENCES if not spec.startswith("constant")])
def test_what_an_operation_that_differentiates_by_itself_gets_is_as_exact(spec: str, dtype: torch.dtype) -> None:
    """Log σ and its slope, in eps of the true number; of log σ in eps of 1 where that is more."""
    scale, p, eps = scales.get(spec), _values(dtype), torch.finfo(dtype).eps
    log_sigma, slope = scale.log_sigma_and_slope(p)
    with np.errstate(all="ignore"):
        truth = REFERENCES[spec](_array(p))
        # the argument of an exponential is rounded, and a logarithm near zero is made of those of the bounds
        largest_log = max([1.0, *(abs(math.log(b)) for b in _bounds(scale) if 0 < b < math.inf)])
        passed_on = 2 * eps * np.nan_to_num(np.abs(_array(p) * truth.log_sigma_slope))
    _assert_close(log_sigma, truth.log_sigma, 2 * eps, 2 * eps * largest_log + passed_on, "log sigma")
    argument = 8 + (800 if dtype == torch.float64 else 120)  # an exponential of −100, or −700, carries its rounding
    _assert_close(slope, truth.log_sigma_slope, argument * eps, 1e4 * _smallest(dtype), "slope")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spec", [spec for spec in REFERENCES if scales.get(spec).has_sigma_first])
def test_so_is_sigma_itself_where_it_is_an_ordinary_number(spec: str, dtype: torch.dtype) -> None:
    scale, p, eps = scales.get(spec), _values(dtype), torch.finfo(dtype).eps
    with np.errstate(all="ignore"):
        ordinary = torch.from_numpy(np.abs(REFERENCES[spec](_array(p)).log_sigma) < math.log(1e18)) & (p.abs() < 80)
        p = p[ordinary]
        truth = REFERENCES[spec](_array(p))
        passed_on = 2 * eps * np.abs(_array(p) * truth.log_sigma_slope)
    before = p.clone()
    sigma, slope = scale.sigma_and_slope(p)
    _assert_close(sigma, truth.sigma, 4 * eps, passed_on * truth.sigma, "sigma")
    if scale.depends_on_p:
        assert slope is not None
        _assert_close(slope, truth.log_sigma_slope, 120 * eps, _smallest(dtype), "slope")
    else:
        assert slope is None
    assert torch.equal(p, before)


@pytest.mark.parametrize("spec", ["softplus", "softclamp", "bounded(0.01, 1)", "downbounded(0.01)"])
def test_it_is_made_in_ten_operations(spec: str) -> None:
    scale, p, counting = scales.get(spec), torch.linspace(-3, 3, 7), Counting()
    with counting:
        scale.log_sigma_and_slope(p)
    assert counting.tallies["forward"].calls <= 10, counting.operators


@pytest.mark.parametrize("spec", REFERENCES)
def test_sigma_and_log_sigma_never_decrease(spec: str, values: torch.Tensor) -> None:
    scale = scales.get(spec)
    for result in (scale.sigma(values), scale.log_sigma(values)):
        wide = result.double()
        assert (wide[1:] >= wide[:-1]).all()


@pytest.mark.parametrize("spec", REFERENCES)
def test_sigma_stays_in_the_codomain_apart_from_what_rounds_to_zero_or_infinity(
    spec: str, values: torch.Tensor
) -> None:
    scale = scales.get(spec)
    sigma = scale.sigma(values)
    with np.errstate(all="ignore"):
        truth = REFERENCES[spec](_array(values)).sigma
    largest = torch.finfo(values.dtype).max
    wide, true = sigma.double(), torch.from_numpy(np.minimum(truth, largest).astype(np.float64))
    rounds_away = (true <= 0.51 * _smallest(values.dtype)) | (true >= largest)
    assert (wide > 0)[~rounds_away].all()
    assert wide.isfinite()[~rounds_away].all()
    bounds = [torch.tensor(b, dtype=torch.float64).to(values.dtype).double() for b in _bounds(scale)]
    assert (wide >= bounds[0]).all()
    assert (wide <= bounds[1]).all()
    if values.dtype.itemsize >= 2:
        assert scale.codomain.check(sigma)[~rounds_away].all()


def test_a_posterior_bounded_by_one_has_a_log_sigma_of_at_most_exactly_zero(values: torch.Tensor) -> None:
    assert (scales.get("upbounded").log_sigma(values).double() <= 0).all()


@pytest.mark.parametrize("spec", REFERENCES)
def test_neighbouring_floats_keep_their_order_where_formulas_meet(spec: str) -> None:
    scale = scales.get(spec)
    beta = getattr(scale, "beta", 1.0)
    for joint in (1.0, 18 / beta, 40 / beta, 80.0):
        bits = torch.tensor(joint).view(torch.int32) + torch.arange(-4096, 4096, dtype=torch.int32)
        above = bits.view(torch.float32)
        for p in (above, -above.flip(0)):
            for result in (scale.sigma(p), scale.log_sigma(p)):
                assert (result[1:] >= result[:-1]).all()
