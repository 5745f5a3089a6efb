"""Conventions: the value that a host has to read so that it computes the σ of another scale."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import Tensor

from vdvae_patch import conventions, scales
from vdvae_patch.errors import InvalidValueError, UnknownNameError

CONVENTIONS = ["log_sigma", "log_variance", "sigma", "variance", "softplus", "softplus(beta=0.5)", "softplus(beta=20)"]
SCALES = ["exp", "explin", "upbounded", "bounded(0.1, 1)", "downbounded(0.288675)", "softplus", "softclamp", "clamp"]


def _host_sigma(spec: str, v: Tensor) -> Tensor:
    """σ as a host of that convention writes it."""
    beta = conventions.get(spec).beta if spec.startswith("softplus") else 1
    return {
        "log_sigma": lambda: torch.exp(v),
        "log_variance": lambda: torch.exp(v / 2),
        "sigma": lambda: v,
        "variance": lambda: torch.sqrt(v),
        "softplus": lambda: torch.log(1 + torch.exp(beta * v)) / beta,
    }[spec.split("(")[0]]()


@pytest.fixture(params=CONVENTIONS)
def convention(request: pytest.FixtureRequest) -> conventions.Convention:
    return conventions.get(request.param)


@pytest.mark.parametrize("spec", CONVENTIONS)
def test_sigma_is_what_a_host_writes(spec: str) -> None:
    v = torch.linspace(0.05, 1.4, 40, dtype=torch.float64)
    torch.testing.assert_close(conventions.get(spec).sigma(v), _host_sigma(spec, v), rtol=1e-8, atol=0)


@pytest.mark.parametrize("spec", [*CONVENTIONS, "softplus(beta=2, floor=0.01)"])
def test_log_sigma_is_the_logarithm_of_sigma(spec: str) -> None:
    convention = conventions.get(spec)
    v = torch.linspace(0.05, 1.4, 40, dtype=torch.float64)
    torch.testing.assert_close(convention.log_sigma(v), convention.sigma(v).log(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("spec", SCALES)
def test_the_host_computes_the_new_scale_and_its_gradient(convention: conventions.Convention, spec: str) -> None:
    scale = scales.get(spec)
    p = torch.linspace(-30.1, 30, 121, dtype=torch.float64, requires_grad=True)
    through_host, wanted = convention.sigma(convention.preimage(scale, p)), scale.sigma(p)
    torch.testing.assert_close(through_host, wanted, rtol=1e-7, atol=0)
    gradients = [torch.autograd.grad(y.sum(), p)[0] for y in (through_host, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("spec", SCALES)
def test_the_value_to_read_is_differentiated_rightly(convention: conventions.Convention, spec: str) -> None:
    p = torch.linspace(-4.1, 4, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: convention.preimage(scales.get(spec), q), p)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_the_log_of_a_softplus_has_all_its_digits_where_softplus_is_taken_for_its_tail(beta: float) -> None:
    """log log1p(e^x) for an x below −15, in which e^x is 3e-7 and its half still counts in float64."""
    x = torch.linspace(-19, -15.01, 30, dtype=torch.float64)
    wanted = x.exp().log1p().log() - math.log(beta)
    torch.testing.assert_close(conventions.log_softplus(x / beta, beta), wanted, rtol=1e-14, atol=0)


def test_a_host_may_change_the_variance_that_it_reads_in_place() -> None:
    p = torch.zeros(3, requires_grad=True)
    variance = conventions.get("variance").preimage(scales.get("exp"), p)
    variance.add_(1)
    (gradient,) = torch.autograd.grad(variance.sum(), p)
    torch.testing.assert_close(gradient, torch.full((3,), 2.0))


def test_a_log_sigma_host_reads_the_log_sigma_of_the_scale_bit_for_bit() -> None:
    p = torch.linspace(-200, 200, 401)
    for spec in SCALES:
        scale = scales.get(spec)
        assert torch.equal(conventions.get("log_sigma").preimage(scale, p), scale.log_sigma(p))


@pytest.mark.parametrize(
    ("convention", "scale"),
    [("log_sigma", "exp"), ("softplus", "softplus"), ("softplus(beta=2)", "softplus(2)")],
)
def test_the_host_reads_what_the_network_emitted_if_the_scale_is_the_hosts_own(convention: str, scale: str) -> None:
    p = torch.linspace(-50, 50, 401, dtype=torch.float64)
    assert conventions.get(convention).is_identity(scales.get(scale))
    torch.testing.assert_close(conventions.get(convention).preimage(scales.get(scale), p), p, rtol=0, atol=1e-13)


@pytest.mark.parametrize("spec", [*SCALES, "softplus(2)", "naiveexp", "constant"])
def test_only_those_pairs_leave_the_raw_parameter_as_it_is(convention: conventions.Convention, spec: str) -> None:
    scale, p = scales.get(spec), torch.tensor([-800.0, -1.5, 0.5, 50], dtype=torch.float64)
    if convention.is_identity(scale):
        torch.testing.assert_close(convention.preimage(scale, p), p)
    else:
        assert not torch.allclose(convention.preimage(scale, p), p)


def test_naiveexp_is_no_identity_since_it_fails_where_the_host_does_not() -> None:
    assert not conventions.get("log_sigma").is_identity(scales.get("naiveexp"))
    assert not conventions.SoftplusOf(floor=0.1).is_identity(scales.get("softplus"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_value_to_read_is_finite_where_sigma_itself_has_long_underflowed(dtype: torch.dtype) -> None:
    p = torch.tensor([-60000.0, -1000, -104, -90, -20, -15.5, -14.5, -9], dtype=dtype, requires_grad=True)
    log_sigma = p.detach().double()
    for spec, wanted in [
        ("log_sigma", log_sigma),
        ("log_variance", 2 * log_sigma),
        ("softplus", log_sigma + 0.5 * log_sigma.exp()),
        ("softplus(beta=2)", (log_sigma + math.log(2)) / 2 + 0.5 * log_sigma.exp()),
    ]:
        v = conventions.get(spec).preimage(scales.get("exp"), p)
        assert v.dtype == dtype
        wanted_here = wanted.to(dtype)
        torch.testing.assert_close(v.detach(), wanted_here, rtol=torch.finfo(dtype).eps, atol=0)
        (gradient,) = torch.autograd.grad(v, p, torch.ones_like(v))
        slope = {"log_variance": 2.0, "softplus(beta=2)": 0.5}.get(spec, 1.0)
        torch.testing.assert_close(gradient.double(), torch.full_like(log_sigma, slope), rtol=4e-3, atol=0)


@pytest.mark.parametrize("spec", ["variance", "softplus", "softplus(floor=0.01)"])
def test_half_precision_is_rounded_once_from_float32(spec: str) -> None:
    convention, scale = conventions.get(spec), scales.get("explin")
    p = torch.linspace(-4, 4, 200)
    for dtype in (torch.float16, torch.bfloat16):
        half = p.to(dtype)
        assert torch.equal(convention.preimage(scale, half), convention.preimage(scale, half.float()).to(dtype))


def test_softplus_with_a_floor_gives_the_scale_above_it_and_the_floor_below() -> None:
    convention = conventions.get("softplus(beta=2, floor=0.1)")
    p = torch.tensor([-50.0, math.log(0.05), math.log(0.1), math.log(0.2), 0, 3], dtype=torch.float64)
    through_host = convention.sigma(convention.preimage(scales.get("exp"), p))
    torch.testing.assert_close(through_host, p.exp().clamp(min=0.1), rtol=1e-6, atol=0)
    p = torch.tensor([-50.0, math.log(0.05)], requires_grad=True)
    (gradient,) = torch.autograd.grad(convention.preimage(scales.get("exp"), p).sum(), p)
    assert (gradient == 0).all()


def test_it_compiles_without_a_graph_break_and_maps_over_a_batch(convention: conventions.Convention) -> None:
    torch.compiler.reset()
    scale, p = scales.get("upbounded"), torch.linspace(-9, 9, 33)
    wanted = convention.preimage(scale, p)
    compiled = torch.compile(lambda q: convention.preimage(scale, q), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(p), wanted)
    assert torch.equal(torch.func.vmap(lambda q: convention.preimage(scale, q))(p), wanted)


@pytest.mark.parametrize("spec", [*CONVENTIONS, "softplus(beta=0.3333333333333333, floor=0.0001)"])
def test_text_and_pickle_give_back_an_equal_convention(spec: str) -> None:
    convention = conventions.get(spec)
    for twin in (conventions.get(str(convention)), conventions.get(convention), pickle.loads(pickle.dumps(convention))):
        assert twin == convention
        assert hash(twin) == hash(convention)
        assert repr(twin) == spec


def test_conventions_with_other_arguments_or_of_another_kind_differ() -> None:
    assert len({conventions.get(spec) for spec in CONVENTIONS}) == len(CONVENTIONS)
    assert conventions.LogSigma() != conventions.LogVariance()
    assert conventions.LogSigma() != "log_sigma"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("softplus(0)", "convention softplus: beta must be a positive number, not 0"),
        ("softplus(nan)", "'nan' is not a number"),
        ("softplus(floor=-1)", "floor must be zero or a positive number, not -1"),
        ("log_sigma(2)", "too many positional arguments; its form is log_sigma"),
    ],
)
def test_a_wrong_argument_is_refused(spec: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        conventions.get(spec)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_argument_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InvalidValueError, match="beta must be a positive number"):
        conventions.SoftplusOf(beta=value)
    with pytest.raises(InvalidValueError, match="floor must be zero or a positive number"):
        conventions.SoftplusOf(floor=value)


def test_an_unknown_convention_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown convention 'logvariance'; did you mean 'log_variance'"):
        conventions.get("logvariance")
