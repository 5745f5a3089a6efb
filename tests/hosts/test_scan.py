"""A scan finds exactly the heads that are there, in models written in the styles of public code."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from zoo import Case, deep, likelihoods, plain, without

from vdvae_patch.scanning import ScanResult, scan

WITH_HEADS = (*plain.CASES, *deep.CASES, *likelihoods.CASES)
ALL = (*WITH_HEADS, *without.CASES)


def scanned(case: Case) -> ScanResult:
    torch.manual_seed(0)
    model = case.build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scan(model, *case.inputs(), call=case.call)


def identity(head: object) -> tuple[str, int, int | None, str]:
    return head.path, head.start, head.stop, head.role  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_exactly_the_true_heads_are_found_with_their_roles(case: Case) -> None:
    found = scanned(case)
    assert sorted(map(repr, map(identity, found))) == sorted(map(repr, map(identity, case.heads))), found.why_not()


@pytest.mark.parametrize("case", WITH_HEADS, ids=lambda case: case.name)
def test_the_convention_is_the_one_that_the_host_computes(case: Case) -> None:
    v = torch.linspace(-7, 3, 23, dtype=torch.float64)
    for head in scanned(case):
        true = next(t for t in case.heads if identity(t) == identity(head))
        if true.sigma is not None:
            torch.testing.assert_close(head.convention.sigma(v), true.sigma(v), rtol=1e-6, atol=1e-12)


@pytest.mark.medium
def test_precision_and_recall_over_all_models_are_one() -> None:
    found = {(case.name, *identity(head)) for case in ALL for head in scanned(case)}
    true = {(case.name, *identity(head)) for case in ALL for head in case.heads}
    assert len(found & true) / len(found) == 1.0
    assert len(found & true) / len(true) == 1.0
    assert len(ALL) >= 20


@pytest.mark.parametrize("case", WITH_HEADS[:4], ids=lambda case: case.name)
def test_a_scan_leaves_the_model_as_it_was(case: Case) -> None:
    model = case.build()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    scan(model, *case.inputs(), call=case.call)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_models_own_error_says_which_call_was_made() -> None:
    model = plain.ThreeWays()
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        scan(model, torch.randn(5, 7))
    assert caught.value.__notes__ == [
        "while vdvae_patch.scan ran ThreeWays(float32[5, 7]); if your training does not call the model so, give its "
        "loss: call=lambda model, batch: your_loss(model, batch)"
    ]


def test_a_model_without_a_head_warns_and_names_the_near_misses() -> None:
    with pytest.warns(UserWarning, match=r"no Normal head was found in GAN:\n.*a noise layer"):
        assert scan(without.GAN(), torch.randn(5, 6)) == []
