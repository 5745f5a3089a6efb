"""Our VDVAE is an ordinary module: it copies, pickles, compiles, distributes and is a function of its parameters."""

from __future__ import annotations

import copy
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
import torch.distributed
from torch.func import functional_call, vmap
from torch.nn.parallel import DistributedDataParallel

SIZES = ["stress", "tiny", "five_bit", "custom_widths", "starts_at_zero"]


def test_every_parameter_gets_a_gradient(build_vdvae, vdvae_batch):
    for size in SIZES:
        model = build_vdvae(size, moved=True)
        model(*vdvae_batch(model.H.image_size))["elbo"].backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_it_trains_under_distributed_data_parallel(build_vdvae, vdvae_batch, tmp_path, seeded):
    model = build_vdvae("tiny", moved=True)
    expected = seeded(lambda: copy.deepcopy(model)(*vdvae_batch(4)))["elbo"]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        ddp = DistributedDataParallel(model)
        for step in range(2):
            out = seeded(lambda: ddp(*vdvae_batch(4)))
            out["elbo"].backward()
            if step == 0:
                torch.testing.assert_close(out["elbo"], expected)
        assert next(iter(ddp.state_dict())).startswith("module.encoder.")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_are_whole_and_independent(build_vdvae, vdvae_batch, copy_of, seeded):
    model = build_vdvae("custom_widths", moved=True)
    twin = copy_of(model)
    expected = seeded(lambda: model(*vdvae_batch(16)))["elbo"]
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(seeded(lambda: twin(*vdvae_batch(16)))["elbo"], expected)
    assert twin.H == model.H


def test_it_is_a_function_of_its_parameters(build_vdvae, vdvae_batch, seeded):
    model = build_vdvae("tiny", moved=True)
    batch = vdvae_batch(4)
    stacked = {name: torch.stack([p.data, 0.5 * p.data]) for name, p in model.named_parameters()}
    together = seeded(lambda: vmap(lambda p: functional_call(model, p, batch)["elbo"], randomness="same")(stacked))
    for index in range(2):
        one = {name: p[index] for name, p in stacked.items()}
        alone = seeded(lambda one=one: functional_call(model, one, batch)["elbo"])
        torch.testing.assert_close(together[index], alone)


def test_it_runs_in_float64_and_under_autocast(build_vdvae, vdvae_batch, seeded):
    model, batch = build_vdvae("tiny", moved=True), vdvae_batch(4)
    plain = seeded(lambda: model(*batch))["elbo"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert seeded(lambda: model(*batch))["elbo"].item() == pytest.approx(plain.item(), rel=0.1)
        assert model.forward_uncond_samples(1).dtype == np.uint8
    assert model.double()(*(b.double() for b in batch))["elbo"].dtype == torch.float64


@pytest.mark.parametrize("size", ["tiny", "custom_widths"])
def test_it_compiles_as_one_graph(build_vdvae, vdvae_batch, size, seeded):
    model = build_vdvae(size, moved=True)
    batch = vdvae_batch(model.H.image_size)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    expected, out = (seeded(lambda f=f: f(*batch)) for f in (model, compiled))
    assert all(torch.equal(out[key], expected[key]) for key in expected)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="inductor needs a C++ compiler")
def test_the_compiled_model_has_the_same_noise_losses_and_gradients(build_vdvae, vdvae_batch, seeded):
    model, batch = build_vdvae("tiny", moved=True), vdvae_batch(4)
    compiled = torch.compile(model, fullgraph=True, options={"fallback_random": True})
    results = []
    for f in (model, compiled):
        model.zero_grad()
        loss = seeded(lambda f=f: f(*batch))["elbo"]
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for expected, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)
