"""Sample and divergence from the sigmas and from their logarithms: the same numbers, and who may look at a value."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from vdvae_patch import normal, sampled_kl, scales
from vdvae_patch.scales.operation import can_look_at

COUNT = sampled_kl._WORTH_A_LOOK
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


def _everything(given: list[Tensor], variant: str) -> list[Tensor]:
    """z, the divergence and the four gradients."""
    of_q, _, of_p = variant.partition("/")
    leaves = [t.clone().requires_grad_() for t in given[:4]]
    scale_q, scale_p = scales.get(of_q), scales.get(of_p or of_q)
    z, kl = normal.sample_kl(*leaves, given[4], scale_q=scale_q, scale_p=scale_p)
    gradients = torch.autograd.grad((z, kl), leaves, (given[0], given[4].abs()))
    return [z.detach(), kl.detach(), *gradients]


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From what each call made its numbers."""
    seen: list[str] = []
    for name in ("_of_sigmas", "_of_logarithms"):
        form = getattr(sampled_kl, name)
        monkeypatch.setattr(sampled_kl, name, lambda *a, name=name, form=form: [seen.append(name), form(*a)][1])
    return seen


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_ways_are_within_rounding_of_the_truth(
    variant: str, forms: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = _inputs()
    by_sigmas = _everything(given, variant)
    monkeypatch.setattr(sampled_kl, "_WORTH_A_LOOK", COUNT + 1)
    by_logarithms = _everything(given, variant)
    truth = _everything([t.double() for t in given], variant)
    assert forms == ["_of_sigmas", "_of_logarithms", "_of_logarithms"]
    eps = torch.finfo(torch.float32).eps
    for first, second, exact in zip(by_sigmas, by_logarithms, truth, strict=True):
        scale = exact.abs().clamp(min=1)
        errors = [((form.double() - exact).abs() / scale / eps) for form in (first, second)]
        assert errors[0].mean() < 1.5
        # a gradient is up to the square of the distance between the means
        assert errors[0].max() < max(20.0, 2 * errors[1].max())


@pytest.mark.parametrize("odd", [-50.0, -1e30, 1e30, math.inf, math.nan])
def test_one_sigma_that_is_no_ordinary_number_has_all_made_from_logarithms(odd: float, forms: list[str]) -> None:
    given = _inputs()
    given[1][7] = given[3][9] = odd
    few = _everything([t[:20] for t in given], "explin")
    many = _everything(given, "explin")
    assert set(forms) == {"_of_logarithms"}
    for a, b in zip(few, many, strict=True):
        torch.testing.assert_close(a, b[:20], equal_nan=True)


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
