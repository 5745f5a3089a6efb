"""Every number of a specification has a range: inside it nothing is NaN or raises, outside one line says the range."""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vdvae_patch import conventions, decoders, objectives, scales, top_priors
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.scale_measure import DTYPES, measure
from vdvae_patch.number_ranges import Range, as_float
from vdvae_patch.pixel_grid import PixelGrid

EXTREMES = [5e-324, 1e-308, 1e-100, 1e-40, 1e-12, 1e-3, 0.5, 1.0, 3.0, 1e3, 1e12, 1e29, 1e38, 1e39, 1e100, 1e308]
ODD = [math.nan, math.inf, -math.inf, 10**400, -(10**400), "1", None, True, torch.ones(2)]
BETWEEN = {"upbounded": ["omega"], "downbounded": ["alpha"], "softplus": ["beta"], "softclamp": ["limit", "floor"],
           "clamp": ["low", "high"], "constant": ["value"], "bounded": ["alpha", "omega"]}  # fmt: skip
BASE = {"bounded": {"alpha": 0.1, "omega": 1.0}, "downbounded": {"alpha": 0.1}}


def _tried() -> list[tuple[str, dict[str, float]]]:
    tried = []
    for name, keys in BETWEEN.items():
        for key, value in itertools.product([*keys, "gain", "shift"], EXTREMES):
            for signed in (value, -value) if key in ("gain", "shift", "low", "high") else (value,):
                tried.append((name, {**BASE.get(name, {}), key: signed}))
    tried += [("bounded", {"alpha": a, "omega": b}) for a, b in itertools.product(EXTREMES, EXTREMES) if a < b]
    return tried


def _told(make: Callable[[object], object], value: object) -> str | None:
    """What a refusal says; None where there is none."""
    try:
        make(value)
    except InvalidValueError as error:
        return str(error)
    return None


def test_every_argument_of_every_scale_is_tried() -> None:
    own = {name for name in scales.SCALES if scales.SCALES.get_class(name).__module__.startswith("vdvae_patch.scales")}
    with_arguments = {name: list(inspect.signature(scales.SCALES.get_class(name)).parameters) for name in own}
    assert {name: keys for name, keys in with_arguments.items() if keys} == BETWEEN


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scale_is_refused_with_a_range_or_is_finite_where_its_true_value_is(dtype: torch.dtype) -> None:
    accepted = 0
    p = torch.tensor([-1e4, -700.0, -90.0, -30.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 30.0, 90.0, 700.0, 1e4]).to(dtype)
    for name, arguments in _tried():
        spec = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        if (told := _told(scales.get, spec)) is not None:
            assert "from " in told or "must be below" in told, (spec, told)
            assert "\n" not in told
            continue
        scale = scales.get(spec)
        accepted += 1
        leaf = p.clone().requires_grad_()
        sigma, log_sigma = scale.sigma(leaf), scale.log_sigma(leaf)
        assert not sigma.isnan().any(), spec
        assert not log_sigma.isnan().any(), spec
        low, high = (
            getattr(scale.codomain, f"{end}_bound", default) for end, default in (("lower", 0), ("upper", 9e999))
        )
        if low > 0 and high < math.inf:
            assert log_sigma.isfinite().all(), spec
        for value in (sigma, log_sigma):
            if value.requires_grad:
                (slope,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
                assert not slope.isnan().any(), spec
    assert accepted > 150


@pytest.mark.parametrize(
    "spec",
    ["upbounded(1e-300)", "upbounded(1e30)", "downbounded(1e-300)", "downbounded(1e15)", "bounded(1e-300, 1e30)",
     "bounded(0.999998, 1)", "constant(1e-300)", "constant(1e300)", "softplus(1e-6)", "softplus(1e6)",
     "softclamp(1e-3, 1)", "softclamp(80, 1e-300)", "clamp(-1e30, 1e30)", "explin(gain=1e-3)", "explin(shift=-1e3)"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_at_the_ends_of_the_ranges_a_scale_is_still_exact(spec: str, dtype: torch.dtype) -> None:
    found = measure(scales.get(spec), dtype, 60)
    # a share of a wide bounded(...) next to its lower bound is the exponential of a sum of logarithms of 1,400
    limit = 600 if dtype in (torch.float64, torch.float32) else 1
    assert found.sigma <= limit
    assert found.log_sigma <= 16
    assert found.sigma_slope <= limit
    assert found.log_sigma_slope <= 1e4  # of exp(gain · p + shift)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("upbounded(5e-324)", "omega must be from 1e-300 to 1e\\+30, not 4.94066e-324"),
        ("bounded(1, 1e308)", "omega must be from 1e-300 to 1e\\+30, not 1e\\+308"),
        ("softclamp(1e308)", "limit must be from 0.001 to 10000, not 1e\\+308"),
        ("softclamp(5, 1e308)", "floor must be from 1e-300 to 1e\\+15"),
        ("clamp(-1e300, 1)", "low must be from -1e\\+30 to 1e\\+30"),
        ("softplus(1e-300)", "beta must be from 1e-06 to 1e\\+06"),
        ("constant(1e-310)", "value must be from 1e-300 to 1e\\+300"),
        ("bounded(1, 1.0000001)", r"alpha must be below omega by a millionth of it or more.* take constant\(1\)"),
        ("explin(gain=1e300)", "the size of gain must be from 1e-10 to 1e\\+10"),
        ("explin(gain=-1e-300)", "the size of gain must be from 1e-10 to 1e\\+10"),
        ("explin(shift=1e300)", "shift must be from -1e\\+06 to 1e\\+06"),
    ],
)
def test_a_scale_outside_of_its_range_is_refused_with_the_range(spec: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        scales.get(spec)


def test_what_is_no_number_is_refused_in_one_line_by_everything_that_takes_one() -> None:
    makers = {
        "upbounded": scales.UpBounded,
        "bounded": lambda v: scales.Bounded(0.1, v),
        "bounded alpha": lambda v: scales.Bounded(v, 1),
        "downbounded": scales.DownBounded,
        "constant": scales.Constant,
        "softplus": scales.Softplus,
        "softclamp": scales.SoftClamp,
        "softclamp floor": lambda v: scales.SoftClamp(5, v),
        "clamp": lambda v: scales.Clamp(v, 1),
        "clamp high": lambda v: scales.Clamp(1, v),
        "gain": lambda v: scales.Shifted(scales.Exp(), v),
        "shift": lambda v: scales.Shifted(scales.Exp(), 2, v),
        "convention beta": conventions.SoftplusOf,
        "convention floor": lambda v: conventions.SoftplusOf(1, v),
        "fixed": decoders.Fixed,
        "mixture of logistics": decoders.LogisticMixture,
        "vamp": top_priors.Vamp,
        "vamp std": lambda v: top_priors.Vamp(std=v),
        "vamp lr_factor": lambda v: top_priors.Vamp(lr_factor=v),
        "mixture": top_priors.Mixture,
        "mixture lr_factor": lambda v: top_priors.Mixture(lr_factor=v),
        "beta": objectives.Beta,
        "warmup": objectives.Warmup,
        "freebits": objectives.FreeBits,
        "balance": objectives.Balance,
        "kappa": lambda v: objectives.Geco(cla=v, classifier=torch.nn.Identity()),
        "re": objectives.ReconstructionError,
        "fre": lambda v: objectives.FeatureError(v, torch.nn.Identity()),
        "pncc": objectives.Patches,
        "nu": lambda v: objectives.Geco(nu=v),
        "alpha": lambda v: objectives.Geco(alpha=v),
        "start": lambda v: objectives.Geco(start=v),
        "most": lambda v: objectives.Geco(most=v),
        "least": lambda v: objectives.Geco(least=v),
        "patience": lambda v: objectives.Geco(patience=v),
        "low": lambda v: PixelGrid(v, 1),
        "high": lambda v: PixelGrid(0, v),
        "levels": lambda v: PixelGrid(0, 1, v),
    }
    for (name, make), value in itertools.product(makers.items(), ODD):
        if value is None and name in ("kappa",):
            continue  # stands for a constraint that is not asked for
        told = _told(make, value)
        assert told is not None, f"{name} takes {value!r}"
        assert "\n" not in told.replace(str(value), ""), name


# --- decoders, top priors, objectives


@pytest.mark.parametrize("value", EXTREMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_fixed_sigma_is_refused_or_gives_a_finite_loss_and_gradient(value: float, dtype: torch.dtype) -> None:
    for pixels in (PixelGrid(0, 1), PixelGrid(0, 255)):
        if (told := _told(lambda v: decoders.Fixed(v, pixels), value)) is not None:  # noqa: B023  called at once
            assert f"from {pixels.range / 1e12:g} to {pixels.range * 1e12:g}" in told
            continue
        decoder = decoders.Fixed(value, pixels)
        images = pixels.round(pixels.low + pixels.range * torch.rand(2, 3, 4, 4)).to(dtype)
        parameters = torch.full_like(images, pixels.high).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", decoders.CollapseWarning)
            nll = decoder.nll(pixels.round(images.float()), parameters)
        nll.sum().backward()
        assert nll.isfinite().all()
        if dtype != torch.float16:  # (x − μ) / σ² may be more than 65,504
            assert parameters.grad is not None
            assert parameters.grad.isfinite().all()


OBJECTIVES = ["beta(beta={})", "warmup(epochs={})", "freebits(nats={})", "geco(kappa={})", "geco(nu={})",
              "geco(start={})", "geco(most={})", "geco(least={})", "geco(alpha={})", "geco(patience={})"]  # fmt: skip


@pytest.mark.parametrize("form", OBJECTIVES)
def test_an_objective_is_refused_or_its_loss_and_state_stay_finite(form: str) -> None:
    for value in (0.0, *EXTREMES):
        spec = form.format(repr(value))
        if (told := _told(lambda s: objectives.get(s, steps_per_epoch=10), spec)) is not None:
            assert "from " in told or " between " in told or " must be below " in told, told
            continue
        objective = objectives.get(spec, steps_per_epoch=10)
        image = torch.rand(2, 3, 8, 8)
        for _ in range(4):
            rate = torch.tensor([3.0, 5.0], requires_grad=True)
            mean = torch.rand(2, 3, 8, 8, requires_grad=True)
            distortion = mean.flatten(1).sum(1)
            result = objective(rate, distortion, reconstruction=mean, target=image)
            assert result.loss.isfinite(), (form, value)
            gradients = torch.autograd.grad(result.loss, (rate, mean), allow_unused=True)
            assert all(g is None or g.isfinite().all() for g in gradients), (form, value)
            objective.step()
        assert all(buffer.isfinite().all() for buffer in objective.buffers()), (form, value)


@pytest.mark.parametrize("value", [0, 0.5, 1.5, 1e308, 10_001])
def test_a_mixture_of_logistics_has_a_whole_number_of_components(value: float) -> None:
    with pytest.raises(InvalidValueError, match="components must be a whole number from 1 to 10,000"):
        decoders.get(f"logistic_mixture({value!r})")


def test_a_top_prior_of_too_many_components_is_refused_before_any_shape_is_known() -> None:
    for name in ("vamp", "mixture"):
        with pytest.raises(
            InvalidValueError, match="components must be a whole number from 1 to 9,007,199,254,740,992"
        ):
            top_priors.get(f"{name}(1e308)")
    with pytest.raises(InvalidValueError, match="std must be 0, or from 1e-30 to 10"):
        top_priors.get("vamp(10, std=1e308)")
    with pytest.raises(InvalidValueError, match="lr_factor must be 0, or from 1e-06 to 1e\\+06"):
        top_priors.get("mixture(10, lr_factor=1e7)")


@pytest.mark.parametrize(
    ("low", "high", "levels"),
    [
        (-1e308, 1e308, 256),
        (0, 5e-324, 256),
        (0, 1e-40, 256),
        (1e10, 1e10 + 1, 256),
        (0, 1, 2**40),
        (0, 1, 2.5),
        (0, 1e20, 2),
    ],
)
def test_a_grid_of_pixels_that_float32_cannot_compute_with_is_refused(low: float, high: float, levels: int) -> None:
    with pytest.raises(InvalidValueError, match="a grid of pixels"):
        PixelGrid(low, high, levels)


def test_grids_that_people_have_are_taken() -> None:
    for low, high, levels in [(0, 1, 256), (-1, 1, 256), (0, 255, 256), (0, 1, 2**16), (-1, 1, 2), (0, 65535, 2**16)]:
        assert PixelGrid(low, high, levels).step > 0


# --- what a number is


def test_a_range_gives_the_number_or_says_what_it_takes() -> None:
    inside = Range(1e-3, 10, "beyond it is dark", zero=True)
    assert inside.check("x", "y", 0) == 0
    assert inside.check("x", "y", torch.tensor(2.0)) == 2.0
    with pytest.raises(InvalidValueError, match=r"x: y must be 0, or from 0\.001 to 10, not 11: beyond it is dark"):
        inside.check("x", "y", 11)
    with pytest.raises(
        InvalidValueError, match=r"x: y must be a number of at least 0, not -1 \(0, or from 0.001 to 10\)"
    ):
        inside.check("x", "y", -1)


def test_numbers_of_other_libraries_are_numbers_and_text_is_none() -> None:
    import numpy as np

    assert as_float(np.float32(0.5)) == 0.5
    assert as_float(np.int64(3)) == 3
    assert as_float(Tensor([2.0])) == 2.0
    assert as_float(10**400) == math.inf
    assert as_float(-(10**400)) == -math.inf
    assert [as_float(value) for value in ("1", None, True, [1])] == [None] * 4


def test_a_host_with_numbers_that_no_named_convention_takes_keeps_its_chain() -> None:
    from vdvae_patch.composition import Composition, Step, named

    for steps in [
        (Step("softplus", (1e-8,)),),
        (Step("softplus", (1e8,)),),
        (Step("softplus", (1.0,)), Step("add", (1e40,))),
    ]:
        assert isinstance(named(steps), Composition)
    assert str(named((Step("softplus", (2.0,)), Step("add", (1e-3,))))) == "softplus(beta=2, floor=0.001)"
