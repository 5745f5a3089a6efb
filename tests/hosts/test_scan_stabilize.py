"""One call that makes a model stable; Normals of torch.distributions that carry log sigma."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from zoo import deep, likelihoods, plain, rows, without

from vdvae_patch.distributions import StableNormal
from vdvae_patch.errors import PatchError
from vdvae_patch.scanning import stabilize
from vdvae_patch.scanning.stabilizing import stabilizer


def test_a_stable_normal_agrees_with_pytorch_where_pytorch_is_right() -> None:
    g = torch.Generator().manual_seed(0)
    loc, raw, other, raw2, x = (torch.randn(50, generator=g, dtype=torch.float64) for _ in range(5))
    q, p = Normal(loc, raw.exp()), Normal(other, raw2.exp())
    stable_q, stable_p = StableNormal(loc, raw.exp()), StableNormal(other, raw2.exp())
    torch.testing.assert_close(kl_divergence(stable_q, stable_p), kl_divergence(q, p))
    torch.testing.assert_close(kl_divergence(stable_q, p), kl_divergence(q, p))
    torch.testing.assert_close(kl_divergence(q, stable_p), kl_divergence(q, p))
    torch.testing.assert_close(stable_q.log_prob(x), q.log_prob(x))
    torch.testing.assert_close(stable_q.entropy(), q.entropy())
    wide = Independent(stable_q.expand((3, 50)), 1)
    torch.testing.assert_close(wide.log_prob(x.expand(3, 50)), q.log_prob(x).sum().expand(3))


def test_a_stable_normal_is_finite_where_pytorch_divides_zero_by_zero() -> None:
    raw = torch.tensor([-60.0, -87.0, -300.0])
    standard = Normal(torch.zeros(3), torch.ones(3))
    assert torch.isinf(kl_divergence(Normal(torch.zeros(3), raw.clamp(min=-100).exp()), standard)).all()
    stable = StableNormal(torch.zeros(3), raw.exp().clamp(min=1e-45), log_scale=raw)
    torch.testing.assert_close(kl_divergence(stable, standard), -raw - 0.5)


class DeadPosterior(nn.Module):
    """A posterior that has collapsed to a point: its log sigma is −60."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(6, 8)
        self.dec = nn.Linear(4, 6)
        with torch.no_grad():
            self.enc.bias[4:] = -60

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.enc(x).chunk(2, 1)
        q = Normal(mean, log_sigma.exp())
        z = q.rsample()
        kl = kl_divergence(q, Normal(torch.zeros_like(z), torch.ones_like(z)))
        return kl.sum() + (self.dec(z) - x).square().sum()


def test_the_fault_of_pytorchs_divergence_is_gone_without_touching_the_host() -> None:
    model, x = DeadPosterior(), rows()()[0]
    assert torch.isinf(model(x))
    handle = stabilize(model, x, file=io.StringIO())
    loss = model(x)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert torch.isfinite(pickle.loads(pickle.dumps(copy.deepcopy(model)))(x))
    handle.unpatch()
    assert torch.isinf(model(x))


def normal_decoder() -> tuple[nn.Module, tuple[object, ...]]:
    """With a posterior whose σ are below 1, where explin is the host's own exponential."""
    case = next(c for c in likelihoods.CASES if c.name == "NormalDecoder")
    model = case.build()
    with torch.no_grad():
        model.enc.bias[4:] = -4.0  # type: ignore[union-attr,index]
    return model, case.inputs()


def test_stabilize_prints_what_it_did_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    model, inputs = normal_decoder()
    handle = stabilize(model, *inputs)
    out = capsys.readouterr().out
    assert "enc   4:8       posterior" in out
    assert "exponential below 0, linear above" in out
    assert "left as it is: it holds by itself" in out
    assert "3 calls of torch.distributions.Normal" in out
    assert [str(h.scale) for h in handle.heads] == ["explin", "None"]


def test_a_likelihood_scale_is_used_when_it_is_named() -> None:
    model, inputs = normal_decoder()
    handle = stabilize(model, *inputs, likelihood="bounded(0.1, 1)", file=io.StringIO())
    assert [h.scale.name for h in handle.heads] == ["explin", "bounded"]


LEARNED_PRIORS = ["Masked", "ResidualSum", "ResidualProduct", "Ladder", "Recurrent", "SharedHead"]


@pytest.mark.medium
@pytest.mark.parametrize("name", LEARNED_PRIORS)
def test_a_learned_prior_may_be_made_constant_and_is_verified_beside_its_posterior(name: str) -> None:
    case = next(c for c in (*plain.CASES, *deep.CASES) if c.name == name)
    said = io.StringIO()
    handle = stabilize(case.build(), *case.inputs(), prior="constant", file=said)
    assert {h.scale.name for h in handle.heads if h.head.role == "prior"} == {"constant"}
    # the hosts that compute with σ itself get a posterior that is bounded, where explin does not hold
    names = {"the host's own" if h.scale is None else h.scale.name for h in handle.heads if h.head.role == "posterior"}
    assert names < {"explin", "upbounded", "bounded", "the host's own"}
    assert "\nNOT cured" not in said.getvalue()
    assert "a prior that can go to zero" in said.getvalue()
    assert "skip only updates that are not finite" in said.getvalue()


@pytest.mark.medium
@pytest.mark.parametrize("name", LEARNED_PRIORS)
def test_a_learned_prior_is_cured_and_the_loss_stays_where_it_was(name: str) -> None:
    torch.manual_seed(0)
    case = next(c for c in (*plain.CASES, *deep.CASES) if c.name == name)
    said = io.StringIO()
    handle = stabilize(case.build(), *case.inputs(), file=said)
    assert handle.before is not None
    assert handle.after is not None
    assert handle.after.loss == pytest.approx(handle.before.loss, rel=1e-2)
    assert "\nNOT cured" not in said.getvalue()
    fixed = {h.scale is not None and h.scale.name == "constant" for h in handle.heads if h.head.role == "prior"}
    if name == "SharedHead":
        assert fixed == {False}
        assert "the prior's σ is not fixed: stats gives the posterior's, too" in said.getvalue()
        return
    assert fixed == {'prior="constant" gives that one' not in said.getvalue()}


@pytest.mark.filterwarnings("ignore:no Normal head")
def test_a_model_without_heads_is_refused_with_the_near_misses() -> None:
    with pytest.raises(PatchError, match=r"no Normal head was found in Flow; near misses:\n.*as a flow does"):
        stabilize(without.Flow(), *rows()())


def test_a_lazy_model_is_asked_to_run_first() -> None:
    with pytest.raises(PatchError, match=r"parameter 'weight' is lazy .* run the model once"):
        stabilize(nn.LazyLinear(3), torch.randn(2, 4))


def test_a_model_on_the_meta_device_is_asked_to_load_its_weights() -> None:
    with torch.device("meta"):
        model = plain.SeparateLayers()
    with pytest.raises(PatchError, match=r"'fc1.weight' is on the meta device .* load the weights"):
        stabilize(model, torch.randn(2, 6))


@pytest.mark.parametrize("role", ["prior", "likelihood"])
def test_a_scale_for_a_role_that_no_head_has_is_refused(role: str) -> None:
    model = plain.SeparateLayers()
    with pytest.raises(PatchError, match=f"{role}='bounded.*' was asked for, but no head has that role; found were"):
        stabilize(model, torch.randn(2, 6), file=io.StringIO(), **{role: "bounded(0.1, 1)"})
    stabilize(model, torch.randn(2, 6), file=io.StringIO()).unpatch()


class DrawnPrior(nn.Module):
    """A prior that is only drawn from, and nothing says that it is one."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.top, self.dec = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.enc(x).chunk(2, 1)
        z = mean + log_sigma.exp() * torch.randn_like(mean)
        kl = 0.5 * ((2 * log_sigma).exp() + mean**2 - 1) - log_sigma
        m, s = self.top(torch.ones(1, 4)).chunk(2, 1)
        self.seen = m + s.exp() * torch.randn_like(m)
        return (self.dec(z) - x).square().mean() + kl.mean()


def test_a_head_that_is_a_prior_by_a_guess_keeps_a_learned_sigma() -> None:
    torch.manual_seed(0)
    said = io.StringIO()
    model = DrawnPrior()
    with torch.no_grad():
        model.enc.bias[4:] = -3.0
    handle = stabilize(model, torch.randn(5, 6), file=said)
    assert {(h.head.path, h.head.role, str(h.scale)) for h in handle.heads} == {
        ("enc", "posterior", "explin"),
        ("top", "prior", "explin"),
    }
    assert "that top is a prior is a guess" in said.getvalue()


class WithAnUnusedPart(plain.SeparateLayers):
    """A part that this call does not run is not loaded yet."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        self.used = used
        with torch.device("meta"):
            self.teacher = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))

    def forward(self, x: Tensor) -> object:
        return super().forward(self.teacher(x) if self.used else x)


def test_only_parameters_that_are_used_must_have_values() -> None:
    model = WithAnUnusedPart(used=False)
    handle = stabilize(model, torch.randn(2, 6), file=io.StringIO())
    assert [h.head.path for h in handle.heads] == ["fc22"]
    handle.unpatch()
    assert all(p.device.type == "meta" for p in model.teacher.parameters())
    with pytest.raises(PatchError, match=r"'teacher.0.weight' is on the meta device .* load the weights"):
        stabilize(WithAnUnusedPart(used=True), torch.randn(2, 6))


class LearnedBase(nn.Module):
    """A flow of the data whose base has a learned mean and a learned scale: a prior without a posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.log_gain = nn.Linear(2, 2), nn.Linear(2, 2)
        self.mean, self.log_scale = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.full((4,), -1.0))

    def forward(self, x: Tensor) -> Tensor:
        kept, moved = x.chunk(2, 1)
        log_gain = torch.tanh(self.log_gain(kept))
        y = torch.cat([kept, moved * log_gain.exp() + self.shift(kept)], 1)
        log_prob = -self.log_scale - 0.5 * ((y - self.mean) / self.log_scale.exp()) ** 2
        return -(log_prob.sum(1) + log_gain.sum(1)).mean()


@pytest.mark.medium
def test_a_prior_that_no_posterior_is_compared_with_keeps_its_sigma() -> None:
    torch.manual_seed(0)
    model, out = LearnedBase(), io.StringIO()
    handle = stabilize(model, 0.3 * torch.randn(16, 4), file=out)
    (patched,) = handle.heads
    assert patched.head.role == "prior"
    assert patched.after is not None
    assert patched.after.median == pytest.approx(math.exp(-1.0), rel=1e-2)
    assert "no posterior is compared with log_scale" in out.getvalue()


class Student(nn.Module):
    """Its posterior is kept near that of a teacher, which is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student, self.decoder = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 6)
        self.teacher.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        (taught, known), (mean, log_sigma) = self.teacher(x).chunk(2, 1), self.student(x).chunk(2, 1)
        posterior = Normal(mean, log_sigma.exp())
        kl = kl_divergence(posterior, Normal(taught, known.exp())).sum(1).mean()
        return 100 * (self.decoder(posterior.rsample()) - x).square().mean() + kl


@pytest.mark.parametrize("trained", [False, True])
def test_the_sigma_of_a_teacher_is_not_fixed(trained: bool) -> None:
    torch.manual_seed(0)
    model, said = Student(), io.StringIO()
    model.teacher.requires_grad_(trained)
    with torch.no_grad():
        model.teacher.weight.mul_(0.01)  # a σ near 1, so that a constant one would not move the loss
        model.teacher.bias.zero_()
    handle = stabilize(model, torch.randn(9, 6), file=said)
    scales = {h.head.path: str(h.scale) for h in handle.heads}
    assert (scales["teacher"] == "constant") == trained
    assert ("of teacher, no parameter is trained" in said.getvalue()) != trained


def test_a_model_that_is_patched_already_is_named_as_that() -> None:
    model, x = Student(), torch.randn(9, 6)
    stabilize(model, x, file=io.StringIO())
    with pytest.raises(PatchError, match=r"the model is patched already, as .*; unpatch it first"):
        stabilize(model, x, file=io.StringIO())


def test_a_model_is_not_left_patched_where_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    model, x = DeadPosterior(), torch.randn(4, 6)
    monkeypatch.setattr(stabilizer, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stabilize(model, x, file=io.StringIO())
    assert type(model.enc) is nn.Linear
    monkeypatch.undo()
    stabilize(model, x, file=io.StringIO())
