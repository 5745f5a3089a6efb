"""A scan changes nothing, whatever the call does to the model."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vdvae_patch.attach.sites import Site
from vdvae_patch.errors import PatchError
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan
from vdvae_patch.scanning.watching.recording import recorded, rerun


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.enc(x).chunk(2, 1)
        return self.dec(mean + raw.exp() * torch.randn_like(mean))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.LBFGS])
def test_an_optimizers_step_in_the_call_is_refused_before_it_changes_anything(kind: Any) -> None:
    model, x = Small(), torch.randn(5, 6)
    optimizer = kind(model.parameters(), lr=0.1)

    def step(model: nn.Module, x: Tensor) -> Tensor:
        def loss() -> Tensor:
            optimizer.zero_grad()
            value: Tensor = model(x).square().mean()
            value.backward()
            return value

        result: Tensor = optimizer.step(loss) if kind is torch.optim.LBFGS else loss()
        optimizer.step()
        return result

    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PatchError, match=f"takes a step of {kind.__name__}, .* nothing was changed. Give a call"):
        scan(model, x, call=step)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not optimizer.state
    optimizer.step(lambda: torch.zeros(())) if kind is torch.optim.LBFGS else optimizer.step()  # allowed again


class Careless(Small):
    """Clamps, replaces and adds parameters while it runs, as spectral or data-dependent initializations do."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.enc.bias.clamp_(0.5, 0.6)
            self.enc.weight[:, 1].zero_()
        self.dec.bias.data = torch.ones(6)
        self.dec.weight = nn.Parameter(2 * self.dec.weight.detach())
        self.late = nn.Parameter(torch.ones(6))
        return super().forward(x) + self.late


def test_parameters_that_a_pass_writes_to_replaces_or_makes_are_as_they_were() -> None:
    model = Careless()
    before, parameters = copy.deepcopy(model.state_dict()), dict(model.named_parameters())
    places = {name: p.data_ptr() for name, p in parameters.items()}
    heads = scan(model, torch.randn(5, 6))
    assert [head.path for head in heads] == ["enc"]
    assert dict(model.named_parameters()) == parameters
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == places
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Drawing(Careless):
    """Writes, draws and drops out, and has what it drew written to an array of NumPy's."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn, self.array = [0], np.zeros(6, dtype=np.float32)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)  # type: ignore[operator]
        self.drawn.append(1)
        h = F.dropout(x, 0.5) + torch.randn_like(x)
        torch.from_numpy(self.array).copy_(h[0].detach())
        x.mul_(2)
        seen.put(h.detach().clone())
        return super().forward(h)


seen = SimpleQueue[Tensor]()  # what a model appends to a list is taken out again


def test_a_call_that_is_run_again_unrecorded_draws_the_same_numbers_and_is_undone() -> None:
    torch.manual_seed(0)
    model, x = Drawing(), torch.randn(5, 6)
    before, batch, state = copy.deepcopy(model.state_dict()), x.clone(), torch.get_rng_state()
    recorded(model, (x,))
    rerun(model, (x,))
    assert torch.equal(seen.get(), seen.get())
    assert torch.equal(x, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.drawn == [0]
    assert not model.array.any()
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Trained(Small):
    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.enc(x).chunk(2, 1)
        error = (self.dec(mean + raw.exp() * torch.randn_like(mean)) - x) ** 2
        return error.sum(1).mean() + (0.5 * (mean**2 + (2 * raw).exp()) - raw).sum(1).mean()


def test_of_all_that_was_computed_no_tensor_waits_for_pythons_collector() -> None:
    # in a process of its own: what hundreds of tests have left becomes garbage at any time
    here = Path(__file__)
    code = f"from {here.stem} import waiting; print(waiting())"
    done = subprocess.run([sys.executable, "-c", code], cwd=here.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]


def waiting() -> int:
    """How many tensors a scan and a patch leave in cycles, each time."""
    model, x = Trained(), torch.randn(5, 6)

    def work() -> None:
        heads = scan(model, x)
        assert heads.elbo
        patch(model, "explin", heads=heads).unpatch()

    work()
    return min(_waiting_after(work) for _ in range(3))


def _waiting_after(work: Callable[[], None]) -> int:
    """How many tensors a piece of work leaves in cycles."""
    enabled, flags = gc.isenabled(), gc.get_debug()
    gc.collect()
    gc.disable()
    try:
        work()
        assert not gc.isenabled()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return sum(isinstance(value, Tensor) for value in gc.garbage)
    finally:
        gc.set_debug(flags)
        gc.garbage.clear()
        if enabled:
            gc.enable()


def test_a_function_that_is_given_the_model_is_no_method_of_it() -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        mean, raw = model.enc(x).chunk(2, 1)  # type: ignore[operator]
        return mean + (raw.exp() + 0.1) * torch.randn_like(mean)

    (head,) = scan(Small(), torch.randn(5, 6), call=loss)
    assert head.found is not None
    (site,) = head.sites
    assert isinstance(site, Site)
    assert site.in_call  # it stands in the function, and in no method of the model
