"""Sample and divergence from the sigmas and from their logarithms: the same numbers, and who may look at a value."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from vdvae_patch import normal, sampled_kl_of_sigmas, scales
from vdvae_patch.scales.operation import can_look_at

COUNT = 2000
VARIANTS = [
    "upbounded",
    "explin",
    "upbounded(omega=256)",
    "explin(gain=0.5, shift=-0.3)",
    "explin/constant(0.5)",
    "bounded(0.01, 1)",
]


def _inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Means and raw values of q and of p, and noise."""
    draw = torch.Generator().manual_seed(0)
    return [(torch.randn(COUNT, generator=draw, dtype=torch.float64) * s).to(dtype) for s in (1, 3, 1, 3, 1)]


def _everything(given: list[Tensor], variant: str, *, unit: bool = False) -> tuple[str, list[Tensor]]:
    """From what it was made; z, the divergence and the gradients of all means and raw values."""
    of_q, _, of_p = variant.partition("/")
    leaves = [t.clone().requires_grad_() for t in given[: 2 if unit else 4]]
    scale_q, scale_p = scales.get(of_q), None if unit else scales.get(of_p or of_q)
    z, kl = normal.sample_kl(*leaves, noise=given[4], scale_q=scale_q, scale_p=scale_p)
    assert z.grad_fn is not None
    made = "sigmas" if type(z.grad_fn)._forward_cls.__module__ == sampled_kl_of_sigmas.__name__ else "logarithms"  # type: ignore[attr-defined]
    gradients = torch.autograd.grad((z, kl), leaves, (given[0], given[4].abs()))
    return made, [z.detach(), kl.detach(), *gradients]


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(sampled_kl_of_sigmas, "can_look_at", lambda *tensors: False)


@pytest.mark.parametrize("unit", [False, True], ids=["of two", "of one and N(0, 1)"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_both_ways_are_within_rounding_of_the_truth(variant: str, unit: bool, nobody_looks: Callable[[], None]) -> None:
    given = _inputs()
    made, by_sigmas = _everything(given, variant, unit=unit)
    nobody_looks()
    also, by_logarithms = _everything(given, variant, unit=unit)
    _, truth = _everything([t.double() for t in given], variant, unit=unit)
    assert (made, also) == ("sigmas", "logarithms")
    eps = torch.finfo(torch.float32).eps
    for first, second, exact in zip(by_sigmas, by_logarithms, truth, strict=True):
        scale = exact.abs().clamp(min=1)
        errors = [((form.double() - exact).abs() / scale / eps) for form in (first, second)]
        assert errors[0].mean() < 1
        # a gradient is up to the square of the distance between the means
        assert errors[0].max() < max(20.0, 2 * errors[1].max())


def test_of_nearly_equal_sigmas_the_gradient_has_its_digits() -> None:
    mean, raw, raw_p = torch.zeros(200), torch.full((200,), -3.0), -3 + torch.logspace(-4, -1, 200)
    leaf, scale = raw.clone().requires_grad_(), scales.get("explin")
    _, kl = normal.sample_kl(mean, leaf, mean, raw_p, mean, scale_q=scale, scale_p=scale)
    (gradient,) = torch.autograd.grad(kl.sum(), leaf)
    exact = torch.expm1(2 * (raw.double() - raw_p.double()))
    # each σ is rounded, which is as much of the small difference as that is small
    assert (gradient.double() - exact).abs().max() < 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("odd", [-50.0, -1e30, 1e30, math.inf, math.nan])
def test_one_sigma_that_is_no_ordinary_number_has_all_made_from_logarithms(odd: float, unit: bool) -> None:
    given = _inputs()
    for index in (1,) if unit else (1, 3):
        values = [t.clone() for t in given]
        values[index][7] = odd
        made, found = _everything(values, "explin", unit=unit)
        assert made == "logarithms"
        assert found[1][:7].isfinite().all()
        assert _everything(given, "explin", unit=unit)[0] == "sigmas"


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)])
@pytest.mark.parametrize("variant", ["upbounded", "explin/constant", "constant/upbounded", "vanilla/constant"])
def test_of_whole_maps_it_is_that_of_their_parts(variant: str, weights: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    maps = torch.randn(2, 6, 4, 4), torch.randn(2, 11, 4, 4), torch.randn(2, 5, 4, 4)
    of_q, _, of_p = variant.partition("/")
    scale_q, scale_p = None if of_q == "vanilla" else scales.get(of_q), scales.get(of_p or of_q)

    def by_parts(q: Tensor, p: Tensor, trunk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (mean_q, raw_q), (mean_p, raw_p, rest) = q.chunk(2, dim=1), p.tensor_split((3, 6), dim=1)
        z, kl = normal.sample_kl(mean_q, raw_q, mean_p, raw_p, scale_q=scale_q, scale_p=scale_p)
        return z, trunk + rest, kl

    results = []
    for form in (partial(normal.sample_kl_of_maps, scale_q=scale_q, scale_p=scale_p), by_parts):
        leaves = [t.clone().requires_grad_() for t in maps]
        torch.manual_seed(0)
        made = form(*leaves)
        # a weight of zero leaves that result out of the graph
        loss = torch.stack([(w * y * y).sum() for w, y in zip(weights, made, strict=True) if w]).sum()
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True, allow_unused=True)
        results.append([*(y.detach() for y in made), *gradients])
    for one, other in zip(*results, strict=True):
        if scale_q is None:  # whose parts are taken as logarithms
            torch.testing.assert_close(one, other)
        else:
            assert torch.equal(one, other)


def test_maps_that_are_computed_again_in_the_backward_pass_have_the_same_gradient() -> None:
    scale, p, trunk = scales.get("upbounded"), torch.randn(2, 7, 3, 3), torch.randn(2, 3, 3, 3)
    leaf = torch.randn(2, 4, 3, 3, requires_grad=True)

    def sampled(q: Tensor) -> Tensor:
        return normal.sample_kl_of_maps(q, p, trunk, scale_q=scale, scale_p=scale)[0]

    gradients = []
    for form in (sampled, partial(checkpoint, sampled, use_reentrant=False)):
        torch.manual_seed(0)
        gradients.append(torch.autograd.grad(form(leaf).square().sum(), leaf)[0])
    assert torch.equal(*gradients)


def test_maps_that_broadcast_or_are_of_half_precision_go_the_other_way() -> None:
    scale = scales.get("explin")
    q, p = torch.randn(2, 6, 4, 4), torch.randn(2, 11, 4, 4)
    trunk = torch.randn(1, 5, 1, 1, requires_grad=True)
    torch.manual_seed(0)
    z, wide, kl = normal.sample_kl_of_maps(q, p, trunk, scale_q=scale, scale_p=scale)
    assert z.shape == kl.shape == (2, 3, 4, 4)
    torch.testing.assert_close(torch.autograd.grad(wide.sum(), trunk)[0], torch.full_like(trunk, 32))
    torch.manual_seed(0)
    low, _, in_float32 = normal.sample_kl_of_maps(q.bfloat16(), p.bfloat16(), trunk.bfloat16(), scale_q=scale)
    assert (low.dtype, in_float32.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("unit", [False, True])
def test_a_second_derivative_by_a_raw_value_alone_is_refused_too(unit: bool) -> None:
    mean, raw, *of_p, noise = (t[:5] for t in _inputs())
    leaf, scale = raw.clone().requires_grad_(), scales.get("upbounded")
    prior = () if unit else of_p
    z, kl = normal.sample_kl(mean, leaf, *prior, noise=noise, scale_q=scale, scale_p=None if unit else scale)
    (gradient,) = torch.autograd.grad(z.sum() + kl.sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="sample_kl is differentiable once"):
        torch.autograd.grad(gradient.sum(), leaf)


def test_a_second_derivative_of_maps_is_refused_and_one_of_the_trunk_is_right() -> None:
    scale = scales.get("upbounded")
    q, p, trunk = (torch.randn(2, c, 3, 3, requires_grad=True) for c in (4, 7, 3))
    z, wide, kl = normal.sample_kl_of_maps(q, p, trunk, scale_q=scale, scale_p=scale)
    (gradient,) = torch.autograd.grad(z.sum() + kl.sum() + wide.pow(3).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="sample_kl is differentiable once"):
        torch.autograd.grad(gradient.sum(), q)
    _, wide, _ = normal.sample_kl_of_maps(q, p, trunk, scale_q=scale, scale_p=scale)
    (gradient,) = torch.autograd.grad(wide.pow(3).sum(), trunk, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), trunk)
    torch.testing.assert_close(second, 6 * wide.detach())


def test_nobody_looks_at_a_value_that_is_not_there_or_that_a_tracer_follows() -> None:
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(can_look_at(x))
        return x + 1

    look(torch.ones(3))
    look(torch.ones(3, device="meta"))
    torch.func.vmap(look)(torch.ones(2, 3))
    torch.func.jvp(look, (torch.ones(3),), (torch.ones(3),))
    make_fx(look)(torch.ones(3))
    torch.jit.trace(look, torch.ones(3), check_trace=False)
    assert seen == [True, False, False, False, False, False]


class _Bare(scales.Scale):
    """log σ = p, the very tensor."""

    name = "bare"

    def _log_sigma(self, p: Tensor) -> Tensor:
        return p

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        return torch.ones_like(p)

    _sigma = _sigma_slope = inverse = _log_sigma


@pytest.mark.parametrize("variant", [*VARIANTS, "exp", "exp/upbounded", "constant/explin", _Bare()], ids=str)
@pytest.mark.parametrize("count", [5, COUNT])
def test_what_is_given_is_never_written_over(variant: str | scales.Scale, count: int) -> None:
    given = [t[:count] for t in _inputs()]
    before = [t.clone() for t in given]
    of_q, _, of_p = str(variant).partition("/")
    pair = (variant, variant) if isinstance(variant, scales.Scale) else (scales.get(of_q), scales.get(of_p or of_q))
    z, kl = normal.sample_kl(*given, scale_q=pair[0], scale_p=pair[1])
    kept = z.clone(), kl.clone()
    normal.sample_kl(*given, scale_q=pair[0], scale_p=scales.get("explin"))
    assert all(map(torch.equal, given, before))
    assert all(map(torch.equal, (z, kl), kept))
