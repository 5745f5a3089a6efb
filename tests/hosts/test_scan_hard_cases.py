"""Hosts whose scale is computed where it is hard to reach: patched exactly, or refused with what to write."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch import scales
from vdvae_patch.errors import PatchError
from vdvae_patch.patching import patch
from vdvae_patch.scanning import ScanResult, scan
from vdvae_patch.scanning.write import entry_file


class Base(nn.Module):
    """A posterior N(mean, σ) with the KL to N(0, 1); `sigma` is what the subclasses write differently."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw, self.dec = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)
        self.used: list[Tensor] = []

    def sigma(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        mean, sigma = self.mean(x), self.sigma(x)
        self.used.append(sigma)
        kl = 0.5 * (mean**2 + sigma**2) - torch.log(sigma) - 0.5
        return F.mse_loss(self.dec(mean + sigma * torch.randn_like(sigma)), x) + kl.mean()


def build(cls: type[Base]) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    return cls(), torch.randn(5, 6)


def keeps_its_promise(cls: type[Base], convention: str | None = None) -> ScanResult:
    """Scan, patch (verified), compare σ with the scale of the raw values and its gradient, train, and take it back."""
    model, x = build(cls)
    heads = scan(model, x)
    assert [(h.path.split(".")[0], h.role) for h in heads] == [("raw", "posterior")], heads.why_not()
    torch.manual_seed(1)
    before = model(x)
    handle = patch(model, posterior="explin", heads=heads, paper=True)
    layer = model.get_submodule(heads[0].path)
    with torch.no_grad():
        layer.bias -= 9.0  # below every floor
    raw = F.linear(x, layer.weight, layer.bias)
    model.used.clear()
    model(x)
    expected = scales.get("explin").sigma(raw)
    torch.testing.assert_close(model.used[0], expected)
    gradients = [torch.autograd.grad(s.log().sum(), layer.weight)[0] for s in (model.used[0], expected)]
    torch.testing.assert_close(*gradients)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(x)
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    handle.unpatch()
    model, x = build(cls)
    torch.manual_seed(1)
    assert torch.equal(model(x), before)
    return heads


# --- a floor behind an activation -------------------------------------------------------------------------------------


class FunctionalFloor(Base):
    def sigma(self, x: Tensor) -> Tensor:
        return F.softplus(self.raw(x)) + 1e-3


class FunctionalFloorInTwoLines(Base):
    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        h = F.softplus(h)
        return h + 1e-3


class InSequential(Base):
    def __init__(self) -> None:
        super().__init__()
        self.raw: Any = nn.Sequential(nn.Linear(6, 4), nn.Softplus())


class ModuleFloor(InSequential):
    def sigma(self, x: Tensor) -> Tensor:
        return self.raw(x) + 1e-3  # type: ignore[no-any-return]


class ModuleFloorInTwoLines(InSequential):
    def sigma(self, x: Tensor) -> Tensor:
        sigma = self.raw(x)
        return torch.clamp(sigma, min=1e-3)


class AddFloor(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-3


class FloorModule(Base):
    def __init__(self) -> None:
        super().__init__()
        self.raw: Any = nn.Sequential(nn.Linear(6, 4), nn.Softplus(), AddFloor())

    def sigma(self, x: Tensor) -> Tensor:
        return self.raw(x)  # type: ignore[no-any-return]


FLOORS = [FunctionalFloor, FunctionalFloorInTwoLines, ModuleFloor, ModuleFloorInTwoLines, FloorModule]


@pytest.mark.parametrize("cls", FLOORS)
def test_a_floor_wherever_it_is_written_does_not_limit_the_patched_scale(cls: type[Base]) -> None:
    keeps_its_promise(cls)


class FloorAndFeature(InSequential):
    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        self.feature = h * 3
        return h + 1e-3  # type: ignore[no-any-return]


def test_an_activation_that_something_else_reads_is_refused_with_the_reason_and_what_to_write() -> None:
    model, x = build(FloorAndFeature)
    heads = scan(model, x)
    with pytest.raises(PatchError, match=r"what raw\.1 returns is used in another way, too; write a patch file"):
        patch(model, posterior="explin", heads=heads, paper=True)


# --- in place ---------------------------------------------------------------------------------------------------------


class Augmented(Base):
    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        h += 0.5
        h *= 2.0
        h = F.softplus(h)
        h += 0.1
        return h


class AugmentedFloor(Base):
    def sigma(self, x: Tensor) -> Tensor:
        h = F.softplus(self.raw(x))
        h += 0.1
        return h


class Methods(Base):
    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        h.mul_(0.5).clamp_(-5.0, 5.0)
        return h.exp()


class OneExpression(Base):
    def sigma(self, x: Tensor) -> Tensor:
        return self.raw(x).mul_(0.5).clamp_(-5.0, 5.0).exp()


class NamedFunctions(Base):
    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        torch.clamp_(h, -5.0, 5.0)
        return torch.exp(h)


class ThroughAView(Base):
    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Linear(6, 4)

    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        view = h.view(-1, 2, 2)
        view.clamp_(-5.0, 5.0)
        return h.exp()


IN_PLACE = [Augmented, AugmentedFloor, Methods, OneExpression, NamedFunctions]


@pytest.mark.parametrize("cls", IN_PLACE)
def test_a_raw_value_that_is_changed_in_place_is_patched_exactly(cls: type[Base]) -> None:
    keeps_its_promise(cls)


class ReadOnTheWay(Base):
    def sigma(self, x: Tensor) -> Tensor:
        h = self.raw(x)
        h += 0.5
        self.feature = h * 3
        h *= 2.0
        return F.softplus(h) + 0.1


def test_a_raw_value_that_is_read_between_two_changes_is_refused_with_the_line() -> None:
    model, x = build(ReadOnTheWay)
    heads = scan(model, x)
    with pytest.raises(PatchError, match=r"in place \(line \d+\) and reads it on the way; write a patch file"):
        patch(model, posterior="explin", heads=heads, paper=True)


def test_a_change_in_place_through_another_view_is_refused_with_the_reason() -> None:
    model, x = build(ThroughAView)
    heads = scan(model, x)
    with pytest.raises(PatchError, match=r"in place through a view of another shape, .*; write a patch file"):
        patch(model, posterior="explin", heads=heads, paper=True)


# --- one module in two roles ------------------------------------------------------------------------------------------


class TwoRoles(nn.Module):
    """One network gives the posterior of the data, and the prior of what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.head, self.dec = nn.Linear(6, 4), nn.Sequential(nn.SiLU(), nn.Linear(4, 8)), nn.Linear(4, 6)
        self.start = nn.Parameter(torch.zeros(4))
        self.used: dict[str, Tensor] = {}

    def stats(self, h: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.head(h).chunk(2, 1)
        return mean, raw.exp()

    def roles(self, x: Tensor, h: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return self.stats(self.enc(x)), self.stats(h)

    def forward(self, x: Tensor) -> Tensor:
        kl = torch.zeros(())
        (m0, s0), h = self.stats(self.start[None]), torch.zeros(len(x), 4)
        h = h + m0 + s0 * torch.randn(len(x), 4)
        (mq, sq), (mp, sp) = self.roles(x, h)
        kl = (torch.log(sp / sq) + (sq**2 + (mq - mp) ** 2) / (2 * sp**2) - 0.5).mean()
        self.used = {"posterior": sq, "prior": sp}
        return kl + F.mse_loss(self.dec(mq + sq * torch.randn_like(sq)), x)


class CalledTwice(TwoRoles):
    def roles(self, x: Tensor, h: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        mean_q, raw_q = self.head(self.enc(x)).chunk(2, 1)
        mean_p, raw_p = self.head(h).chunk(2, 1)
        return (mean_q, raw_q.exp()), (mean_p, raw_p.exp())


class InALoop(TwoRoles):
    def roles(self, x: Tensor, h: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        one, other = (self.stats(value) for value in (self.enc(x), h))
        return one, other


@pytest.mark.medium
@pytest.mark.parametrize("cls", [TwoRoles, CalledTwice])
@pytest.mark.parametrize("variant", ["explin/upbounded", "explin/vanilla", "vanilla/upbounded", "upbounded"])
def test_one_module_in_two_roles_gets_the_scale_of_each_role_where_it_is_called(cls: Any, variant: str) -> None:
    torch.manual_seed(0)
    model, x = cls(), torch.randn(5, 6)
    heads = scan(model, x)
    assert {(h.path, h.role) for h in heads} == {("head.1", "posterior"), ("head.1", "prior")}
    inputs: list[Tensor] = []
    handle = patch(model, variant, heads=heads, paper=True)
    model.head.register_forward_pre_hook(lambda m, args: inputs.append(args[0].detach()))
    model(x)
    weight, bias = model.head[1].weight, model.head[1].bias
    posterior, prior = (F.linear(F.silu(h), weight, bias).chunk(2, 1)[1] for h in inputs[1:])
    names = (variant.split("/") * 2)[:2]
    for role, name, raw in (("posterior", names[0], posterior), ("prior", names[1], prior)):
        expected = raw.exp() if name == "vanilla" else scales.get(name).sigma(raw)
        torch.testing.assert_close(model.used[role], expected)
    handle.unpatch()


def test_one_module_in_two_roles_at_one_place_takes_one_scale_and_refuses_two() -> None:
    torch.manual_seed(0)
    model, x = InALoop(), torch.randn(5, 6)
    heads = scan(model, x)
    patch(model, "explin", heads=heads, paper=True).unpatch()
    for variant in ("explin/upbounded", "explin/vanilla"):
        with pytest.raises(PatchError, match=r"emits the .* and the .*, and where it is called they cannot be told"):
            patch(model, variant, heads=heads, paper=True)


# --- lambdas, local functions, closures -------------------------------------------------------------------------------


class LocalFunction(Base):
    def sigma(self, x: Tensor) -> Tensor:
        floor = 1e-3

        def positive(value: Tensor) -> Tensor:
            return F.softplus(value) + floor

        self.other = positive(x)  # another use, which must stay as it is
        return positive(self.raw(x))


class LocalLambda(Base):
    def sigma(self, x: Tensor) -> Tensor:
        floor = 1e-3
        positive = lambda value: F.softplus(value) + floor  # noqa: E731
        self.other = positive(x)
        return positive(self.raw(x))


POSITIVE = lambda value: F.softplus(value) + 1e-3  # noqa: E731


class GlobalLambda(Base):
    def sigma(self, x: Tensor) -> Tensor:
        self.other = POSITIVE(x)
        return POSITIVE(self.raw(x))


ACTIVATIONS = {"relu": lambda v: F.relu(v), "softplus": lambda v: F.softplus(v) + 1e-3}


class ChosenByText(Base):
    kind = "softplus"

    def sigma(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.kind](self.raw(x))


class AttributeLambda(Base):
    def __init__(self) -> None:
        super().__init__()
        floor = 1e-3
        self.positive = lambda value: F.softplus(value) + floor

    def sigma(self, x: Tensor) -> Tensor:
        self.other = self.positive(x)
        return self.positive(self.raw(x))


def make_positive(floor: float) -> Any:
    def positive(value: Tensor) -> Tensor:
        return F.softplus(value) + floor

    return positive


class AttributeClosure(Base):
    def __init__(self) -> None:
        super().__init__()
        self.positive = make_positive(1e-3)

    def sigma(self, x: Tensor) -> Tensor:
        return self.positive(self.raw(x))  # type: ignore[no-any-return]


class Comprehension(Base):
    def sigma(self, x: Tensor) -> Tensor:
        (sigma,) = [F.softplus(self.raw(v)) + 1e-3 for v in (x,)]
        return sigma


INSIDE = [LocalFunction, LocalLambda, GlobalLambda, ChosenByText, AttributeLambda, AttributeClosure, Comprehension]


@pytest.mark.medium
@pytest.mark.parametrize("cls", INSIDE)
def test_code_in_lambdas_local_functions_and_closures_is_patched_for_its_call_alone(cls: Any) -> None:
    keeps_its_promise(cls)
    model, x = build(cls)
    model(x)
    before = getattr(model, "other", None)
    patch(model, posterior="explin", heads=scan(model, x), paper=True)
    model(x)
    assert before is None or torch.equal(model.other, before)


@pytest.mark.parametrize("cls", INSIDE)
def test_a_copy_of_a_model_with_such_code_computes_with_its_own_parameters(cls: Any) -> None:
    model, x = build(cls)
    patch(model, posterior="explin", heads=scan(model, x), paper=True)

    def run(model: Any) -> Tensor:
        torch.manual_seed(1)
        value: Tensor = model(x)
        model.used, model.other = [], None  # tensors of a graph cannot be copied
        return value

    expected = run(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(run(twin), expected)


class OutOfReach(Base):
    def choose(self) -> Any:
        return lambda value: F.softplus(value) + 1e-3

    def sigma(self, x: Tensor) -> Tensor:
        return self.choose()(self.raw(x))  # type: ignore[no-any-return]


def test_a_function_that_a_call_makes_is_refused_with_what_to_write() -> None:
    model, x = build(OutOfReach)
    heads = scan(model, x)
    with pytest.raises(
        PatchError, match=r"calls OutOfReach.choose.<locals>.<lambda>, which cannot be found .* CallSite"
    ):
        patch(model, posterior="explin", heads=heads, paper=True)


class Disagreeing(Base):
    """Softplus in the sampler, an exponential in the KL."""

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.mean(x), self.raw(x)
        kl = 0.5 * (mean**2 + torch.exp(2 * raw)) - raw - 0.5
        return F.mse_loss(self.dec(mean + F.softplus(raw) * torch.randn_like(raw)), x) + kl.mean()


# --- a posterior that is residual to its prior ------------------------------------------------------------------------


class Residual(nn.Module):
    """σ_q = σ_p r, by a product of two softplus, or of two exponentials."""

    def __init__(self, positive: Any) -> None:
        super().__init__()
        self.q, self.p, self.dec = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(4, 6)
        self.positive = positive

    def forward(self, x: Tensor) -> Tensor:
        (mq, rq), (mp, rp) = self.q(x).chunk(2, 1), self.p(torch.randn(len(x), 4)).chunk(2, 1)
        if self.positive == "exp":
            sp = torch.exp(rp)
            sq = torch.exp(rq) * torch.exp(rp)
        else:
            sp = F.softplus(rp)
            sq = F.softplus(rq) * sp
        kl = torch.log(sp / sq) + (sq**2 + (mq - mp) ** 2) / (2 * sp**2) - 0.5
        return F.mse_loss(self.dec(mq + sq * torch.randn_like(sq)), x) + kl.mean()


@pytest.mark.parametrize("positive", ["exp", "softplus"])
def test_a_residual_posterior_that_is_left_alone_must_not_change_with_its_prior(positive: str) -> None:
    torch.manual_seed(0)
    model, x = Residual(positive), torch.randn(5, 6)
    heads = scan(model, x)
    assert {(h.path, h.role) for h in heads} == {("q", "posterior"), ("p", "prior")}
    torch.manual_seed(1)
    before = model(x)
    if positive == "exp":  # the prior's σ is computed apart from the posterior's
        patch(model, "vanilla/upbounded", heads=heads, paper=True).unpatch()
    else:
        with pytest.raises(PatchError, match=r"head q\[4:8\] .* is left as it is, but .* give it a scale, too"):
            patch(model, "vanilla/upbounded", heads=heads, paper=True)
    torch.manual_seed(1)
    assert torch.equal(model(x), before)


# --- written as a patch file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [ModuleFloor, Augmented, LocalLambda, CalledTwice, Disagreeing])
@pytest.mark.parametrize("variant", ["explin", "explin/upbounded"])
def test_heads_that_are_written_to_a_file_and_read_back_compute_the_same(
    cls: Any, variant: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = cls(), torch.randn(5, 6)
    heads = scan(model, x)
    if len({head.role for head in heads}) == 1:
        variant = variant.split("/")[0]
    (tmp_path / "entry.py").write_text(entry_file(f"host:{cls.__name__}", heads, model))
    written = runpy.run_path(str(tmp_path / "entry.py"))["HOST"].heads(model)

    def loss(heads: Any) -> Tensor:
        with patch(model, variant, heads=heads, paper=True):
            torch.manual_seed(1)
            value: Tensor = model(x)
        return value

    torch.manual_seed(1)
    assert not torch.equal(loss(written), model(x))
    assert torch.equal(loss(written), loss(heads))


# --- residual sums ----------------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """x + out(relu(x)); of what a layer, attention, or nothing at all makes of the data first."""

    def __init__(self, first: str) -> None:
        super().__init__()
        self.first, self.out, self.qkv = first, nn.Linear(6, 6), nn.Linear(6, 18)
        self.embed = nn.Linear(6, 6) if "layer" in first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        if "attention" in self.first:
            q, k, v = self.qkv(h).chunk(3, -1)
            h = h + F.softmax(q @ k.t(), -1) @ v
        return h + self.out(F.relu(h))


class ByResidualBlocks(nn.Module):
    def __init__(self, first: str) -> None:
        super().__init__()
        self.mean, self.raw, self.dec = ResidualBlock(first), ResidualBlock(first), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.mean(x), self.raw(x)
        self.sigma = torch.exp(0.5 * lv)
        z = mu + self.sigma * torch.randn_like(mu)
        return F.mse_loss(self.dec(z), x) - 0.5 * (1 + lv - mu**2 - lv.exp()).mean()


@pytest.mark.parametrize("first", ["nothing", "layer", "attention", "layer and attention"])
@pytest.mark.parametrize("binary", [False, True])
def test_a_residual_sum_is_the_raw_value_and_not_its_second_addend(first: str, binary: bool) -> None:
    torch.manual_seed(0)
    model, x = ByResidualBlocks(first), torch.rand(5, 6)
    x = x.round() if binary else x
    (head,) = heads = scan(model, x)
    assert (head.path, head.start, head.stop, head.role, str(head.convention)) == (
        "raw", 0, None, "posterior", "log_variance",
    )  # fmt: skip
    raw = model.raw(x)
    patch(model, "upbounded", heads=heads, paper=True)
    model(x)
    torch.testing.assert_close(model.sigma, scales.get("upbounded").sigma(raw))


class RelativeVariance(nn.Module):
    """Weights are drawn, with a variance that is α = σ²/w² for the KL of a log uniform prior, known by a fit alone."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.log_sigma2 = nn.Parameter(0.3 * torch.randn(3, 6)), nn.Parameter(torch.full((3, 6), -3.0))

    def forward(self, x: Tensor) -> Tensor:
        log_alpha = torch.clamp(self.log_sigma2 - 2 * torch.log(self.w.abs() + 1e-15), -10, 10)
        var = (x**2) @ (log_alpha.exp().t() * self.w.t() ** 2)
        h = F.linear(x, self.w) + torch.sqrt(var + 1e-15) * torch.randn(len(x), 3)
        fit = 0.63576 * torch.sigmoid(1.8732 + 1.48695 * log_alpha) - 0.5 * torch.log1p(torch.exp(-log_alpha))
        return h.pow(2).mean() - (fit - 0.63576).sum()


class NormedWeights(nn.Module):
    """A layer whose weights are computed, too: a direction times a gain. It emits the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.gain, self.mean = nn.Parameter(torch.rand(3, 6)), nn.Parameter(torch.ones(3, 1)), nn.Linear(6, 3)
        self.dec = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        var = x @ (self.gain * self.v / self.v.norm(dim=1, keepdim=True)).t()
        return F.mse_loss(self.dec(self.mean(x) + torch.sqrt(var) * torch.randn(len(x), 3)), x)


def test_the_variance_of_an_activation_is_no_modules_output() -> None:
    torch.manual_seed(0)
    weights = scan(RelativeVariance(), torch.rand(5, 6))
    assert [(head.path, head.role) for head in weights] == [("log_sigma2", "posterior")]
    assert "adds up variances of weights" in weights.why_not()
    (head,) = scan(NormedWeights(), torch.rand(5, 6))
    assert str(head.convention) == "variance"


class SplitOff(nn.Module):
    """A step of a flow of data with noise of a fixed size, half of which is split off; the prior of that half."""

    same = False

    def __init__(self) -> None:
        super().__init__()
        self.net, self.prior = nn.Linear(6, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.normal(torch.zeros_like(x), torch.ones_like(x) / 256)
        first, second = self.net(x).chunk(2, 1)
        mean, log_sigma = self.prior(second if self.same else first).chunk(2, 1)
        return (log_sigma + 0.5 * (second - mean) ** 2 * torch.exp(-2 * log_sigma)).sum(1).mean()


class OfItself(SplitOff):
    """The scale is computed of the very half that it is of."""

    same = True


def test_the_prior_of_what_a_flow_splits_off_is_found_though_the_data_are_noisy() -> None:
    torch.manual_seed(0)
    (head,) = scan(SplitOff(), torch.rand(5, 6))
    assert (head.path, head.start, head.role, str(head.convention)) == ("prior", 3, "prior", "log_sigma")
    assert not list(scan(OfItself(), torch.rand(5, 6)))
