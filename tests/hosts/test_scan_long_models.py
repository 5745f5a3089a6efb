"""Loops over time: thousands of steps must neither end in a RecursionError nor be read anew at each step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch
from vdvae_patch.scanning.bound import replay
from vdvae_patch.scanning.bound.replay import Keeper, Tail
from vdvae_patch.scanning.evidence import gaussian
from vdvae_patch.scanning.readings import read
from vdvae_patch.scanning.watching.record import Recorder
from vdvae_patch.scanning.watching.recording import recorded
from vdvae_patch.scanning.watching.writes import Writes

pytestmark = pytest.mark.medium


class _Generated(nn.Module):
    """A VAE whose decoder makes its output one step after another; `kept` says how the steps are kept."""

    def __init__(self, steps: int, kept: str) -> None:
        super().__init__()
        self.steps, self.kept = steps, kept
        self.encoder, self.decoder = nn.Linear(4, 8), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.encoder(x).chunk(2, dim=-1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        out = self._written(z) if self.kept == "written" else self._joined(z)
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp())
        return ((out.mean(0) - x) ** 2).sum(1).mean() + kl.sum(1).mean()

    def _written(self, z: Tensor) -> Tensor:
        out = torch.zeros(self.steps, *z.shape)
        for step in range(self.steps):
            out[step] = self.decoder(z) * (step % 3)
        return out

    def _joined(self, z: Tensor) -> Tensor:
        out = torch.zeros(1, *z.shape)
        for _ in range(self.steps):
            out = torch.cat([out, self.decoder(z)[None]])
        return out


@pytest.mark.parametrize(("kept", "steps"), [pytest.param("written", 2_000, marks=pytest.mark.slow), ("joined", 1_000)])
def test_thousands_of_writes_are_gone_back_through(kept: str, steps: int) -> None:
    torch.manual_seed(0)
    model, batch = _Generated(steps, kept), torch.randn(6, 4)
    heads = vdvae_patch.scan(model, batch)
    assert [(h.path, h.role, h.channels) for h in heads] == [("encoder", "posterior", "4:8")]
    assert heads.elbo.kl_factor == pytest.approx(1 / 6)


class _WrittenLatents(nn.Module):
    """Raw values that are written into one tensor at each step, and read from it after the loop."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.cell, self.head, self.decoder = nn.GRUCell(4, 6), nn.Linear(6, 4), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.zeros(len(x), 6)
        raw = torch.zeros(self.steps, len(x), 4)
        for step in range(self.steps):
            hidden = self.cell(x, hidden)
            raw[step] = self.head(hidden)
        mean, log_var = raw.chunk(2, dim=-1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp())
        return ((self.decoder(z) - x) ** 2).sum(-1).mean() + kl.sum(-1).mean()


@pytest.mark.slow
def test_raw_values_written_in_a_long_loop_are_one_head_and_get_the_promised_sigma() -> None:
    torch.manual_seed(0)
    model, batch = _WrittenLatents(400), torch.randn(3, 4)
    heads = vdvae_patch.scan(model, batch)
    assert [(h.path, h.role) for h in heads] == [("head", "posterior")]
    handle = vdvae_patch.patch(model, "upbounded", heads=heads)  # verified on the batch
    handle.unpatch()


class _Recurrent(nn.Module):
    """Posterior and prior of each step; one batch is that of all steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.cell = nn.GRUCell(4, 6)
        self.posterior, self.prior, self.decoder = nn.Linear(10, 4), nn.Linear(6, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden, loss = torch.zeros(x.shape[-2], 6), torch.zeros(())
        for now in x.expand(self.steps, -1, -1):
            mean, raw = self.posterior(torch.cat([now, hidden], -1)).chunk(2, -1)
            prior_mean, prior_raw = self.prior(hidden).chunk(2, -1)
            q = Normal(mean, nn.functional.softplus(raw) + 1e-3)
            p = Normal(prior_mean, nn.functional.softplus(prior_raw) + 1e-3)
            z = q.rsample()
            loss = loss + kl_divergence(q, p).sum(-1).mean()
            loss = loss + ((self.decoder(torch.cat([z, hidden], -1)) - now) ** 2).sum(-1).mean()
            hidden = self.cell(now, hidden)
        return loss


def test_each_form_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read_anew: list[int] = []
    attempt = gaussian._attempt
    monkeypatch.setattr(gaussian, "_attempt", lambda *given: read_anew.append(1) or attempt(*given))
    torch.manual_seed(0)
    counts = []
    for steps in (6, 24):
        read_anew.clear()
        heads = vdvae_patch.scan(_Recurrent(steps), torch.randn(steps, 5, 4))
        assert {(h.path, h.role) for h in heads} == {("posterior", "posterior"), ("prior", "prior")}
        counts.append(len(read_anew))
    assert counts[1] <= counts[0] + 2, counts


class _Levels(nn.Module):
    """Levels that run the same lines with constants of their own."""

    def __init__(self, floors: tuple[float, ...], weights: tuple[float, ...]) -> None:
        super().__init__()
        self.floors, self.weights = floors, weights
        self.levels = nn.ModuleList(nn.Linear(4, 4) for _ in floors)
        self.decoder = nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        loss = torch.zeros(())
        for level, floor, weight in zip(self.levels, self.floors, self.weights, strict=True):
            mean, raw = level(x).chunk(2, -1)
            sigma = nn.functional.softplus(raw) + floor
            z = mean + sigma * torch.randn_like(mean)
            kl = weight * (0.5 * (mean**2 + sigma**2 - 1) - sigma.log())
            loss = loss + kl.sum(-1).mean() + ((self.decoder(z) - x) ** 2).sum(-1).mean()
        return loss


def test_a_form_with_other_constants_is_another_form() -> None:
    torch.manual_seed(0)
    model = _Levels((1e-3, 0.2, 1e-3, 0.05), (1.0, 1.0, 1.0, 3.0))
    heads = vdvae_patch.scan(model, torch.randn(5, 4))
    found = {h.path: str(h.convention) for h in heads}
    floors = {"levels.0": "0.001", "levels.1": "0.2", "levels.2": "0.001", "levels.3": "0.05"}
    assert found == {path: f"softplus(floor={floor})" for path, floor in floors.items()}
    assert {h.role for h in heads} == {"posterior"}


@pytest.mark.parametrize("model", [_Recurrent(5), _WrittenLatents(4), _Generated(3, "joined")])
def test_a_slope_by_a_gateway_is_the_slope_of_the_whole_loss(model: nn.Module) -> None:
    torch.manual_seed(0)
    graph = recorded(model, (torch.randn(5, 4),), recorder_of=Keeper)
    readings = read(graph)
    assert graph.loss is not None
    tail = Tail(graph, graph.loss)
    held = frozenset(readings.samples)
    looked_at = 0
    for node in tail.order:
        if node.id in held or not tail.base[node.id].is_floating_point():
            continue
        changes = torch.stack([1.25 * tail.base[node.id] + 0.1, 0.5 * tail.base[node.id] - 0.2])
        whole = [
            tail.adjoints([node], {node.id: lambda value, change=change: change}, held - {node.id})[node.id]
            for change in changes
        ]
        short = tail.slopes(node, changes, held)
        assert torch.allclose(torch.stack(whole), short, rtol=1e-9, atol=1e-12), node
        looked_at += 1
    assert looked_at > 20
    assert math.isfinite(float(tail.base[graph.loss.id]))


class _WrittenOver(nn.Module):
    """Places and ranges of one tensor, some of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        out = torch.zeros(6, len(x), 4)
        out[0], out[1], out[-1] = h, 2 * h, h.exp()
        out[0] = 3 * h
        out[1:3] = h * h
        out[:, 0] = h[0]
        out[1::2] = -h
        out[4] = out[0] * h
        return ((out.sum(0) - x) ** 2).mean()


def test_of_what_is_written_into_again_the_last_version_is_kept_and_the_others_are_what_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    graph = recorded(_WrittenOver(), (torch.randn(5, 4),), recorder_of=Keeper)
    assert graph.loss is not None
    tail = Tail(graph, graph.loss)
    monkeypatch.setattr(Writes, "within", lambda self, *numbers: False)
    monkeypatch.setattr(Writes, "ends", lambda self, number: False)
    one_by_one = Tail(graph, graph.loss)
    gradients = one_by_one.adjoints(one_by_one.floating)
    monkeypatch.undo()
    assert len(tail.base) < len(one_by_one.base) - 4
    for node in (*tail.order, *reversed(tail.order)):
        assert torch.equal(tail.base[node.id], one_by_one.base[node.id]), node
    for number, gradient in tail.adjoints(tail.floating).items():
        torch.testing.assert_close(gradient, gradients[number], rtol=1e-12, atol=1e-15)


def test_memory_that_a_backward_pass_makes_in_the_call_is_not_kept_as_if_it_had_been_there_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[int] = []
    put_back = Recorder.put_back
    monkeypatch.setattr(Recorder, "put_back", lambda self: kept.append(len(self._before)) or put_back(self))
    vdvae_patch.scan(_Generated(20, "written"), torch.randn(6, 4))
    assert kept
    assert max(kept) < 5


class _Plain(nn.Module):
    """A Gaussian VAE with σ = 1/√2: the squared error is summed, and has the factor 1."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(4, 8), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        mean, v = self.q(x).chunk(2, -1)
        z = mean + (v / 2).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.pow(2) + v.exp() - 1 - v)
        return (self.o(z) - x).pow(2).sum() + kl.sum()


def test_several_values_at_once_give_what_they_give_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = _Plain(), torch.randn(5, 4)
    together = vdvae_patch.scan(model, x)

    def refused(*given: object) -> None:
        raise RuntimeError("vmap: this operation looks at a value")

    monkeypatch.setattr(replay, "_AT_ONCE", 1)
    in_parts = vdvae_patch.scan(model, x)
    monkeypatch.setattr(torch, "vmap", refused)
    one_by_one = vdvae_patch.scan(model, x)
    assert together.elbo.beta is not None
    assert str(together.elbo) == str(in_parts.elbo) == str(one_by_one.elbo)
