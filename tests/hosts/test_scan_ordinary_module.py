"""A model patched in its own expressions is an ordinary module still."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from test_scan_patch import built, roles
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.parallel import DistributedDataParallel
from zoo import likelihoods, plain

from vdvae_patch import scales
from vdvae_patch.patching import is_patched, patch
from vdvae_patch.scanning import ScanResult

CASE = next(c for c in plain.CASES if c.name == "ThreeWays")


@pytest.fixture
def patched() -> tuple[nn.Module, ScanResult]:
    model, heads = built(CASE)
    patch(model, heads=heads, **roles(heads, "explin"), paper=True)
    return model, heads


def expected_sigma(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return scales.get("explin").sigma(model.net(x)[..., 4:8])


def test_functional_call_uses_the_weights_it_is_given(patched: tuple[nn.Module, ScanResult]) -> None:
    model, _ = patched
    (x,) = CASE.inputs()
    zeros = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    torch.manual_seed(0)
    loss = functional_call(model, zeros, (x,))
    torch.testing.assert_close(loss, x.square().mean())  # explin(0) = 1: the posterior is the prior


def test_vmap_maps_over_the_patched_method(patched: tuple[nn.Module, ScanResult]) -> None:
    model, _ = patched
    (x,) = CASE.inputs()
    deviation = vmap(lambda row: model.encode(row).deviation)(x)
    torch.testing.assert_close(deviation, expected_sigma(model, x))


def test_autocast_computes_the_scale_in_half_precision_without_overflow(patched: tuple[nn.Module, ScanResult]) -> None:
    model, _ = patched
    (x,) = CASE.inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        deviation = model.encode(x).deviation
    assert deviation.dtype == torch.bfloat16
    torch.testing.assert_close(deviation.float(), expected_sigma(model, x), rtol=0.02, atol=0.02)


def test_ddp_wraps_and_synchronizes_it(patched: tuple[nn.Module, ScanResult], tmp_path: object) -> None:
    model, _ = patched
    (x,) = CASE.inputs()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        wrapped(x).backward()
        assert is_patched(wrapped)
        assert all(p.grad is not None for p in model.parameters())
    finally:
        dist.destroy_process_group()


def test_a_model_with_stable_normals_compiles_as_one_graph() -> None:
    case = next(c for c in likelihoods.CASES if c.name == "NormalDecoder")
    model, heads = built(case)
    patch(model, heads=heads, **roles(heads, "explin"), paper=True)
    torch.manual_seed(0)
    expected = model(*case.inputs())
    torch.manual_seed(0)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*case.inputs()), expected)
