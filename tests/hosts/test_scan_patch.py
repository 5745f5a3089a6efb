"""What a scan found can be patched, keeps its promises, and can be taken back."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import Case, built, deep, likelihoods, plain

from vdvae_patch import conventions, scales
from vdvae_patch.errors import PatchError
from vdvae_patch.patching import patch
from vdvae_patch.scanning import ScanResult, scan

CASES = (*plain.CASES, *deep.CASES, *likelihoods.CASES)
ids = {"ids": lambda case: case.name}


def roles(heads: ScanResult, scale: str) -> dict[str, Any]:
    return dict.fromkeys({head.role for head in heads}, scale)


def run(case: Case, model: nn.Module, seed: int = 3) -> Tensor:
    torch.manual_seed(seed)
    out = model(*case.inputs()) if case.call is None else case.call(model, *case.inputs())
    out = out["loss"] if isinstance(out, dict) else out
    return out if out.dim() == 0 else out.square().mean()


@pytest.mark.medium
@pytest.mark.parametrize("scale", ["explin", "upbounded(omega=2)"])
@pytest.mark.parametrize("case", CASES, **ids)
def test_every_head_takes_a_scale_and_the_verification_agrees(case: Case, scale: str) -> None:
    model, heads = built(case)
    before = run(case, model)
    keys = {name: value.clone() for name, value in model.state_dict().items()}
    handle = patch(model, heads=heads, **roles(heads, scale), paper=True)
    assert not torch.equal(run(case, model), before)
    assert {name: v.tolist() for name, v in model.state_dict().items()} == {k: v.tolist() for k, v in keys.items()}
    handle.unpatch()
    assert torch.equal(run(case, model), before)


@pytest.mark.medium
@pytest.mark.parametrize("case", CASES, **ids)
def test_a_patched_model_trains(case: Case) -> None:
    model, heads = built(case)
    patch(model, heads=heads, **roles(heads, "explin"), paper=True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = run(case, model)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.medium
@pytest.mark.parametrize("case", CASES, **ids)
def test_a_patched_model_copies_and_pickles(case: Case) -> None:
    model, heads = built(case)
    patch(model, heads=heads, **roles(heads, "explin"), paper=True)
    expected = run(case, model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(run(case, twin), expected)
    assert torch.equal(run(case, pickle.loads(pickle.dumps(twin))), expected)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in {"ThreeWays", "ResidualSum", "Functional"}], **ids)
def test_a_model_patched_at_a_call_compiles_as_one_graph(case: Case) -> None:
    model, heads = built(case)
    patch(model, heads=heads, **roles(heads, "explin"), paper=True)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(run(case, compiled), run(case, model))


class NoiseFactors(TorchDispatchMode):
    """Keeps what is multiplied by fresh noise; knows nothing of the package's own way to find it."""

    def __init__(self) -> None:
        super().__init__()
        self.noise: list[int] = []
        self.kept: list[Tensor] = []
        self.factors: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("randn", "randn_like", "normal_"):
            self.noise.append(out.data_ptr())
            self.kept.append(out)
        elif name in ("mul", "mul_") and all(isinstance(a, Tensor) for a in args):
            for one, other in (args, args[::-1]):
                if one.data_ptr() in self.noise:
                    self.factors.append(other.detach().clone())
        return out


@pytest.mark.parametrize("scale", ["explin", "upbounded"])
@pytest.mark.parametrize("name", ["SeparateLayers", "Masked", "GlobalScale", "Disagreeing", "GaussianLoss", "Scripted"])
def test_the_sigma_that_multiplies_the_noise_is_the_scale_of_what_the_network_emits(name: str, scale: str) -> None:
    case = next(c for c in CASES if c.name == name)
    model, heads = built(case)
    head = next(h for h in heads if h.role == "posterior")
    emitted: list[Tensor] = []
    module = model.get_submodule(head.path)

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        emitted.append(nn.Module.__call__(copy_of, *args))

    copy_of = copy.deepcopy(module)
    patch(model, heads=heads, posterior=scale, paper=True)
    module.register_forward_hook(keep)
    with NoiseFactors() as seen:
        run(case, model)
    size = emitted[0].shape[head.dim]
    raw = emitted[0].narrow(head.dim, head.start, (head.stop or size) - head.start)
    expected = scales.get(scale).sigma(raw)
    if name == "Masked":
        mask = case.inputs()[2]
        expected = torch.where(mask > 0, expected, torch.ones(()))
    torch.testing.assert_close(seen.factors[0].reshape(expected.shape), expected)


def test_the_posterior_of_a_residual_sum_follows_the_sum_and_the_prior_keeps_its_own() -> None:
    case = next(c for c in CASES if c.name == "ResidualSum")
    model, heads = built(case)
    raws: dict[str, Tensor] = {}
    for path in ("p2", "q2"):
        model.get_submodule(path).register_forward_hook(lambda m, a, out, path=path: raws.update({path: out}))
    patch(model, "explin/upbounded", heads=heads, paper=True)
    seen: list[Tensor] = []
    real = torch.log

    def log(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return real(x)

    torch.log = log
    try:
        run(case, model)
    finally:
        torch.log = real
    raw_p, raw_q = raws["p2"].chunk(2, 1)[1], raws["q2"].chunk(2, 1)[1]
    ratio = scales.get("explin").sigma(raw_p + raw_q) / scales.get("upbounded").sigma(raw_p)
    torch.testing.assert_close(seen[1], ratio)


def test_verification_refuses_a_head_whose_convention_is_wrong() -> None:
    case = plain.CASES[0]
    model, heads = built(case)
    mistaken = replace(heads[0], convention=conventions.get("softplus"))
    before = run(case, model)
    with pytest.raises(PatchError, match=r"fc22.*at p = .* the host uses σ = .*, not explin"):
        patch(model, posterior="explin", heads=[mistaken, *heads[1:]], paper=True)
    assert torch.equal(run(case, model), before)


def test_one_module_in_two_roles_takes_two_scales_where_its_calls_tell_them_apart() -> None:
    case = next(c for c in CASES if c.name == "SharedHead")
    model, heads = built(case)
    before = run(case, model)
    handle = patch(model, "explin/upbounded", heads=heads, paper=True)  # verified
    assert not torch.equal(run(case, model), before)
    handle.unpatch()
    assert torch.equal(run(case, model), before)


def test_a_head_that_cannot_be_patched_says_why_and_what_to_do() -> None:
    model, x = nn.Linear(6, 4), torch.randn(3, 6)

    def loss(model: nn.Module, x: Tensor, floor: float) -> Tensor:
        sigma = model(x).exp() + floor
        return x[:, :4] + sigma * torch.randn_like(sigma)

    heads = scan(model, x, 0.1, call=loss)
    with pytest.raises(PatchError, match=r"depends on 'floor', an argument.*; let a method of the model compute it"):
        patch(model, posterior="explin", heads=heads, paper=True)


def test_a_sigma_that_a_loss_beside_the_model_computes_is_patched_in_the_handles_loss() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(6, 4), torch.randn(3, 6)

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        sigma = model(x).exp() + 0.1
        return x[:, :4] + sigma * torch.randn_like(sigma)

    handle = patch(model, posterior="explin", heads=scan(model, x, call=loss), paper=True)
    assert handle.loss is not None
    torch.manual_seed(1)
    made = handle.loss(model, x)
    torch.manual_seed(1)
    sigma = scales.get("explin").sigma(model(x))
    assert torch.allclose(made, x[:, :4] + sigma * torch.randn_like(sigma))
    assert float(sigma.min()) < 1
