"""What this package does with somebody else's model on a GPU, and its own experiments there, on a stand-in for one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stand_in_cuda import Cuda, numbers, on_the_host, stand_in
from test_steps_on_a_gpu import config, steps
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.experiments.data import pick_device
from vdvae_patch.experiments.ensemble import Ensemble, Rule, Run
from vdvae_patch.guarding import replaying, skip
from vdvae_patch.hosts import load_host
from vdvae_patch.objectives.marginal import GaussianPosterior, marginal_kl
from vdvae_patch.train.loop import train
from vdvae_patch.train.setup import prepare

sys.path.insert(0, str(Path(__file__).parent.parent / "guarding"))
from small_vae import SmallVAE, nelbo

pytestmark = pytest.mark.medium

GPU = torch.device("cuda", 1)


@pytest.fixture
def cuda() -> Iterator[Cuda]:
    torch.set_num_threads(1)
    with stand_in() as devices:
        yield devices


def loss(model: nn.Module, x: Tensor) -> Tensor:
    recon, mean, logvar = model(x)
    return nelbo(recon, x, mean, logvar)


def model_on(device: torch.device | str) -> tuple[SmallVAE, Tensor]:
    torch.manual_seed(0)
    model = SmallVAE()
    return model.to(device), torch.randn(8, 6, generator=torch.Generator().manual_seed(1)).to(device)


def test_a_scan_finds_the_same_heads_and_a_patch_acts_on_the_device() -> None:
    described = []
    for device in ("cpu", "cuda:1"):
        with stand_in(host_noise=True) as cuda:
            model, x = model_on(device)
            before = [numbers(out).clone() for out in _outputs(model, x)]
            heads = vdvae_patch.scan(model, x, call=loss)
            described.append([(h.path, h.role, repr(h.convention), str(h.channels)) for h in heads])
            assert "small_vae.py" in str(heads) or "output" in str(heads)
            with vdvae_patch.patch(model, "explin", heads=heads):
                after = _outputs(model, x)
                assert {out.device for out in after} == {torch.device(device)}
                loss(model.eval(), x).backward()
            if device != "cpu":
                assert on_the_host(model) == []
                assert all(p.grad is not None and p.grad.is_cuda for p in model.parameters())
                assert cuda.seen
            for one, other in zip(before, _outputs(model, x), strict=True):
                assert torch.equal(one, numbers(other))
    assert described[0] == described[1]
    assert described[0]


def _outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.eval()
    torch.manual_seed(3)
    with torch.no_grad():
        found = list(model(x))
    model.train()
    return found


def test_stabilize_cures_a_model_where_it_is(cuda: Cuda, capsys: pytest.CaptureFixture[str]) -> None:
    model, x = model_on(GPU)
    state = torch.cuda.get_rng_state(GPU)
    vdvae_patch.stabilize(model, x, call=loss)
    assert "CURED: logvar" in capsys.readouterr().out
    assert on_the_host(model) == []
    assert torch.cuda.get_rng_state(GPU).equal(state)  # a scan draws from generators of its own


@pytest.mark.parametrize("fused", [True, False])
def test_a_guard_skips_on_the_device_and_records_it(cuda: Cuda, tmp_path: Path, fused: bool) -> None:
    model, x = model_on(GPU)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    states = []
    with vdvae_patch.guard(model, out=tmp_path, keep=2) as guard:
        for number, far in enumerate((0.0, 0.0, 400.0, 0.0)):
            model.far = far
            optimizer.zero_grad()
            found = loss(model, x)
            found.backward()
            with cuda.no_wait() if fused and number == 1 else nullcontext():
                optimizer.step()
            states.append([numbers(p).clone() for p in model.parameters()])
    assert [one.cause for one in guard.skips] == ["nan_loss"]
    assert all(map(torch.equal, states[2], states[1]))
    assert not all(map(torch.equal, states[3], states[2]))
    assert on_the_host(model) == []
    recorded = skip.read(next(tmp_path.glob("skip-*")))
    assert recorded.kind == "cuda"
    assert recorded.generators.philox is not None
    assert "philox" not in recorded.info
    fresh = SmallVAE()
    fresh.far = 400.0
    again = replaying.replay(recorded, fresh, loss)
    assert again.exact
    assert again.note == ""
    assert {p.device.type for p in fresh.parameters()} == {"cuda"}


def test_what_a_guard_recorded_on_a_gpu_is_done_again_without_one(tmp_path: Path) -> None:
    with stand_in():
        model, x = model_on(GPU)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        with vdvae_patch.guard(model, out=tmp_path), torch.autocast("cuda", dtype=torch.bfloat16):
            model.far = 400.0
            loss(model, x).backward()
            optimizer.step()
    recorded = skip.read(next(tmp_path.glob("skip-*")))
    assert (recorded.kind, recorded.autocast.device, recorded.autocast.enabled) == ("cuda", "cuda", True)
    fresh = SmallVAE()
    fresh.far = 400.0
    again = replaying.replay(recorded, fresh, loss, "explin")
    assert "recorded on a device of kind cuda and done again on cpu" in str(again)
    assert again.diagnosis.event is not None
    assert again.other is not None
    assert again.other.finite
    with pytest.raises(vdvae_patch.errors.InvalidValueError, match="--device cuda:3"):
        replaying.replay(recorded, SmallVAE(), loss, device="cuda:3")


def ensemble(device: str) -> Ensemble:
    host = load_host("conv_vae")

    def build(run: Run) -> nn.Module:
        torch.manual_seed(run.seed)
        model = host.build({"channels": 3, "latents": 4})
        vdvae_patch.patch(model, "upbounded", heads=host.heads(model), arithmetic="stable")
        return model

    images = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    runs = [Run(0, 1e-3), Run(1, 1e-3)]
    return Ensemble(runs, build, lambda seeds, step: (images,), Rule(clip="auto"), device=device, check_every=10)


def test_an_ensemble_trains_on_the_device_and_does_not_wait_in_a_step() -> None:
    torch.set_num_threads(1)
    on_cpu = ensemble("cpu")
    on_cpu.train(3)
    with stand_in(host_noise=True) as cuda:
        on_gpu = ensemble("cuda:1")
        on_gpu.train(1)  # which chooses how the step is lowered, and times it
        with cuda.no_wait():
            on_gpu.step()
        kept = on_gpu.state_dict()
        assert not [t for t in kept.values() if isinstance(t, Tensor) and t.is_cuda]
        other = ensemble("cuda:1")
        other.load_state_dict(kept)
        for one in (on_gpu, other):
            one.train(3)
        torch.testing.assert_close(other.trace(), on_gpu.trace(), rtol=1e-6, atol=0)  # another lowering may be faster
        trace = on_gpu.trace()
    torch.testing.assert_close(trace, on_cpu.trace(), rtol=1e-5, atol=0)


def test_a_marginal_kl_is_the_same_on_the_device() -> None:
    with stand_in(host_noise=True):
        mean, log_sigma = torch.randn(20, 3), torch.randn(20, 3) - 1
        found = []
        for device in ("cpu", "cuda:1"):
            torch.manual_seed(0)
            found.append(marginal_kl(GaussianPosterior(mean.to(device), log_sigma.to(device)), of=40))
        own = marginal_kl(GaussianPosterior(mean, log_sigma), generator=torch.Generator().manual_seed(2))
        moved = GaussianPosterior(mean.to("cuda"), log_sigma.to("cuda"))
        assert marginal_kl(moved, generator=torch.Generator().manual_seed(2)) == own
    assert found[0] == found[1]


def test_weights_of_a_file_come_onto_the_device(tmp_path: Path) -> None:
    told = config(tmp_path, "vdvae", "small", "explin/constant+optimal", out=tmp_path / "run", steps=1)
    train(told)
    weights = next((tmp_path / "run" / "checkpoints").glob("step-*"))
    begun = replace(told, out=tmp_path / "more", weights=weights)
    expected = prepare(begun, torch.device("cpu")).model.state_dict()
    with stand_in() as cuda:
        work, _, _ = steps(replace(begun, device="cuda:1"), "cuda:1", cuda)
        assert on_the_host(work.model) == on_the_host(work.ema) == []
        found = prepare(begun, GPU).model.state_dict()
        for name, value in expected.items():
            assert torch.equal(numbers(found[name]), value), name


def test_drawn_pixels_are_those_of_the_cpu_without_a_wait(tmp_path: Path) -> None:
    """Data that are drawn anew in each step, as binarized MNIST is."""
    told = config(tmp_path, "mlp_vae", "paper")
    work = prepare(told, torch.device("cpu"))
    drawn = replace(work, data=replace(work.data, normalization=replace(work.data.normalization, drawn=True)))
    grey = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    with stand_in() as cuda:
        on_device = grey.to("cuda:1")
        with cuda.no_wait():
            found = drawn.data.normalization.apply(on_device, 7)
    expected = drawn.data.normalization.apply(grey, 7)
    assert torch.equal(numbers(found.input), expected.input)
    assert torch.equal(numbers(found.target), expected.target)


def test_an_experiment_makes_its_device_the_current_one(cuda: Cuda) -> None:
    assert pick_device("cuda:1") == GPU
    assert cuda.current == 1
    assert pick_device("cpu").type == "cpu"
