"""What public code does between a layer and a σ, each way in a small model of our own.

docs/results/scan-public.md names the code in which each was met.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from held_out import judge
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from zoo import Case, TrueHead, rows


def kl_to_standard(mean: Tensor, log_sigma: Tensor) -> Tensor:
    return (0.5 * ((2 * log_sigma).exp() + mean**2 - 1) - log_sigma).mean()


def kl(mq: Tensor, sq: Tensor, mp: Tensor, sp: Tensor) -> Tensor:
    return (torch.log(sp / sq) + (sq**2 + (mq - mp) ** 2) / (2 * sp**2) - 0.5).mean()


def draw(mean: Tensor, sigma: Tensor) -> Tensor:
    return mean + sigma * torch.randn_like(mean)


class MaskedAfterTranspose(nn.Module):
    """A text encoder: a convolution over time, transposed, masked, and split along what are then the last channels."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.dec = nn.Conv1d(3, 8, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[0], x.shape[2], 1)
        stats = self.proj(x).transpose(1, 2) * mask
        mean, log_sigma = torch.split(stats, 4, dim=2)
        z = draw(mean, log_sigma.exp())
        return F.mse_loss(self.dec(z), x.transpose(1, 2)) + kl_to_standard(mean, log_sigma)


class WithASampleDimension(nn.Module):
    """A dimension for several samples is put in before the halves are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.net(x).unsqueeze(1).chunk(2, dim=-1)
        posterior = Normal(mean, F.softplus(raw))
        z = posterior.rsample()
        prior = Normal(torch.zeros(4), torch.ones(4))
        return F.mse_loss(self.dec(z)[:, 0], x) + (posterior.log_prob(z) - prior.log_prob(z)).mean()


class TopPriorIsAParameter(nn.Module):
    """The mean and the scale of the top prior are two halves of one parameter; a floor follows the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec, self.act = nn.Linear(6, 8), nn.Linear(4, 6), nn.Softplus()
        self.top = nn.Parameter(0.1 * torch.randn(8))

    def stats(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = logits.chunk(2, dim=1)
        return mean, self.act(raw)

    def forward(self, x: Tensor) -> Tensor:
        mq, sq = self.stats(self.enc(x))
        mp, sp = self.stats(self.top.expand(len(x), 8))
        sq, sp = torch.clamp(sq, min=1e-3), torch.clamp(sp, min=1e-3)
        q, p = Normal(mq, sq), Normal(mp, sp)
        return F.mse_loss(self.dec(q.rsample()), x) + kl_divergence(q, p).mean()


class Gained(nn.Module):
    """A layer whose output is multiplied by a learned gain, as one that starts at zero is."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin, self.gain = nn.Linear(n_in, n_out), nn.Parameter(torch.zeros(1, n_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * torch.exp(3 * self.gain)


class SplitPrior(nn.Module):
    """Half of a code is judged by a Normal that the other half predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.prior = nn.Linear(6, 8), Gained(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        kept, z = self.net(x).chunk(2, 1)
        mean, log_sigma = self.prior(kept).chunk(2, 1)
        log_p = -0.5 * (z - mean) ** 2 / torch.exp(2 * log_sigma) - log_sigma
        return kept.square().mean() - log_p.mean()


class GraphLayer(nn.Module):
    """A layer of a graph: neighbours are added up behind the product, and then comes the bias."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(n_in, n_out, bias=False), nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ self.lin(x) + self.bias


class GraphVae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mu, self.logstd = GraphLayer(6, 3), GraphLayer(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        adjacency = torch.full((len(x), len(x)), 1 / len(x))
        mean, log_sigma = self.mu(x, adjacency), self.logstd(x, adjacency)
        z = draw(mean, log_sigma.exp())
        return (z @ z.T - 1).square().mean() + kl_to_standard(mean, log_sigma)


class BottomUpTwoLayers(nn.Module):
    """q(h1|x) q(h2|h1) p(h1|h2): the prior of h1 depends on it, but through a draw of h2."""

    def __init__(self) -> None:
        super().__init__()
        self.q1, self.q2, self.p1, self.dec = nn.Linear(6, 8), nn.Linear(4, 4), nn.Linear(2, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        m1, l1 = self.q1(x).chunk(2, 1)
        h1 = draw(m1, l1.exp())
        m2, l2 = self.q2(h1).chunk(2, 1)
        h2 = draw(m2, l2.exp())
        mp, lp = self.p1(torch.tanh(h2)).chunk(2, 1)

        def log_normal(value: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
            return (-0.5 * ((value - mean) / log_sigma.exp()) ** 2 - log_sigma).mean()

        log_q = log_normal(h1, m1, l1) + log_normal(h2, m2, l2)
        log_p = log_normal(h1, mp, lp) - 0.5 * h2.square().mean()
        return F.mse_loss(self.dec(h1), x) + log_q - log_p


class ClampedVariance(nn.Module):
    """The variance is a softplus that a Hardtanh bounds; σ is its root."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Linear(6, 4)
        self.var = nn.Sequential(nn.Linear(6, 4), nn.Softplus(), nn.Hardtanh(min_val=0.01, max_val=7.0))
        self.dec = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.mean(x), self.var(x)
        log_q = -0.5 * (1 + torch.log(var) - mean**2 - var)
        return F.mse_loss(self.dec(draw(mean, var.sqrt())), x) + log_q.mean()


class StackedExperts(nn.Module):
    """A product of experts that lie behind each other along a dimension of their own, the prior one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.dec = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        (ma, la), (mb, lb) = self.a(x).chunk(2, 1), self.b(x.flip(1)).chunk(2, 1)
        means, logs = torch.stack([torch.zeros_like(ma), ma, mb]), torch.stack([torch.zeros_like(la), la, lb])
        precision = 1 / (torch.exp(logs) + 1e-8)
        var = 1 / precision.sum(0)
        mean, log_var = (means * precision).sum(0) * var, torch.log(var + 1e-8)
        z = draw(mean, torch.exp(0.5 * log_var))
        return F.mse_loss(self.dec(z), x) - 0.5 * (1 + log_var - mean**2 - log_var.exp()).mean()


class Treated(nn.Module):
    """Each example takes the scale of one of two networks."""

    def __init__(self, blended: bool) -> None:
        super().__init__()
        self.mean, self.s0, self.s1, self.dec = (nn.Linear(6, n) for n in (4, 4, 4, 4))
        self.dec, self.blended = nn.Linear(4, 6), blended

    def forward(self, x: Tensor) -> Tensor:
        t = (x[:, :1] > 0).float()
        s0, s1 = F.softplus(self.s0(x)), F.softplus(self.s1(x))
        sigma = (1 - t) * s0 + t * s1 if self.blended else torch.where(t > 0, s1, s0)
        q = Normal(self.mean(x), sigma)
        return F.mse_loss(self.dec(q.rsample()), x) + kl_divergence(q, Normal(0.0, torch.ones(4))).mean()


def chosen() -> nn.Module:
    return Treated(blended=False)


def blended() -> nn.Module:
    return Treated(blended=True)


class Output:
    """A distribution's parameters from a network's, by a class method that another one calls."""

    @classmethod
    def domain_map(cls, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        return mean, cls.squareplus(scale).clamp_min(1e-6)

    @staticmethod
    def squareplus(v: Tensor) -> Tensor:
        return (v + torch.sqrt(v * v + 4.0)) / 2.0


class Forecast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc, self.scale, self.output = nn.Linear(6, 6), nn.Linear(6, 6), Output()

    def forward(self, x: Tensor) -> Tensor:
        return -Normal(*self.output.domain_map(self.loc(x), self.scale(x))).log_prob(x.flip(1)).mean()


class AbsoluteScale(nn.Module):
    """y = a ε + b, with a of either sign; the KL has a²."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.dec = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        y = a * torch.randn_like(a) + b
        var = a**2
        return F.mse_loss(self.dec(y), x) + 0.5 * (var + b**2 - 1 - torch.log(var + 1e-12)).mean()


class StepByStep(nn.Module):
    """A deep Markov model: each step is written into a buffer, of which the loss is taken at the end."""

    def __init__(self, joined: bool = False) -> None:
        super().__init__()
        self.trans, self.comb, self.dec, self.joined = nn.Linear(3, 6), nn.Linear(9, 6), nn.Linear(3, 6), joined

    def forward(self, x: Tensor) -> Tensor:
        n, steps = x.shape[:2]
        z = torch.zeros(n, 3)
        buffers = [torch.zeros(n, steps, 3) for _ in range(4)]
        joined: list[Tensor] = []
        loss = torch.zeros(())
        for t in range(steps):
            mp, lp = self.trans(torch.tanh(z)).chunk(2, 1)
            mq, lq = self.comb(torch.cat([x[:, t], z], 1)).chunk(2, 1)
            z = draw(mq, torch.exp(0.5 * lq))
            loss = loss + F.mse_loss(self.dec(z), x[:, t])
            for i, value in enumerate((mq, lq, mp, lp)):
                if self.joined:  # as a scan that appends
                    last = value.clone().unsqueeze(0)
                    joined[i : i + 1] = [last if t == 0 else torch.cat([joined[i], last], 0)]
                else:
                    buffers[i][:, t, :] = value
        mq, lq, mp, lp = joined or buffers
        return loss + 0.5 * (lp - lq + (lq.exp() + (mq - mp) ** 2) / lp.exp() - 1).mean()


def appended() -> nn.Module:
    return StepByStep(joined=True)


class Background(nn.Module):
    """A prior for each of some batches: rows of a table, picked by a one-hot vector."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)
        self.log_scale = nn.Parameter(0.1 * torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        batch = F.one_hot(torch.arange(len(x)) % 2, 2).float()
        mq, lq = self.enc(x).chunk(2, 1)
        q = Normal(mq, lq.exp())
        p = Normal(torch.zeros(4), F.linear(batch, torch.exp(self.log_scale)))
        return F.mse_loss(self.dec(q.rsample()), x) + kl_divergence(q, p).mean()


class TableOfLambdas(nn.Module):
    """The activation is looked up by name at run time; a floor follows."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.dec, self.act = nn.Linear(6, 8), nn.Linear(4, 6), "sigmoid2"

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.net(x).chunk(2, 1)
        std = {
            "softplus": lambda: F.softplus(std),
            "sigmoid2": lambda: 2 * torch.sigmoid(std / 2),
        }[self.act]()
        std = std + 0.1
        q = Normal(mean, std)
        return F.mse_loss(self.dec(q.rsample()), x) + kl_divergence(q, Normal(0.0, torch.ones(4))).mean()


class OptimalSigma(nn.Module):
    """A calibrated decoder: its σ is the root of the mean squared residual, which no network emits."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.enc(x).chunk(2, 1)
        x_hat = self.dec(draw(mean, torch.exp(0.5 * log_var)))
        log_sigma = ((x - x_hat) ** 2).mean([0, 1], keepdim=True).sqrt().log()
        log_sigma = -6 + F.softplus(log_sigma + 6)
        nll = 0.5 * ((x - x_hat) / log_sigma.exp()) ** 2 + log_sigma
        return nll.mean() - 0.5 * (1 + log_var - mean**2 - log_var.exp()).mean()


class LocalReparameterization(nn.Module):
    """Weights N(m, s²); what is drawn is the layer's output, whose variance is x² s²."""

    def __init__(self) -> None:
        super().__init__()
        self.m, self.rho = nn.Parameter(0.1 * torch.randn(6, 6)), nn.Parameter(torch.randn(6, 6) - 3)

    def forward(self, x: Tensor) -> Tensor:
        std = 1e-6 + F.softplus(self.rho)
        out = draw(x @ self.m, torch.sqrt(x**2 @ std**2))
        return F.mse_loss(out, x) + 0.01 * (0.5 * (std**2 + self.m**2 - 1) - torch.log(std)).mean()


class ResidualBlock(nn.Module):
    """What it returns is the sum of two of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.SiLU(), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 8))
        self.shortcut = nn.Sequential(nn.Linear(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.shortcut(x)


class EncodedByABlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.dec = ResidualBlock(), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.block(x).split(4, 1)
        q = Normal(mean, F.softplus(raw))
        return F.mse_loss(self.dec(q.rsample()), x) + kl_divergence(q, Normal(0.0, torch.ones(4))).mean()


class PartsInTheKl(nn.Module):
    """One σ is computed and drawn with as a whole; the KL takes a rotation and the rest apart, by two priors."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.enc(x).split(4, 1)
        sigma = log_sigma.exp()
        z = draw(mean, sigma)
        prior = 0.3
        rotation = -log_sigma[:, :1] + 0.5 * (sigma[:, :1] ** 2 + mean[:, :1] ** 2) / prior**2
        rest = kl_to_standard(mean[:, 1:], log_sigma[:, 1:])
        return F.mse_loss(self.dec(z), x) + rotation.mean() + rest


class FixedPrior(nn.Module):
    """The prior's log variance is a parameter, so that it moves with the model, but is never trained."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)
        self.log_var = nn.Parameter(torch.zeros(1, 4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.enc(x).chunk(2, 1)
        z = draw(mean, torch.exp(0.5 * log_var))

        def log_normal(mean: Tensor | float, log_var: Tensor) -> Tensor:
            return (-0.5 * (log_var + (z - mean) ** 2 / log_var.exp())).mean()

        return F.mse_loss(self.dec(z), x) + log_normal(mean, log_var) - log_normal(0.0, self.log_var)


class Diagonal(nn.Module):
    """A density in the data with a diagonal `scale_tril`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 12)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.net(x).split(6, 1)
        return -MultivariateNormal(mean, scale_tril=torch.diag_embed(F.softplus(raw))).log_prob(x.flip(1)).mean()


def half(v: Tensor) -> Tensor:
    return torch.exp(0.5 * v)


def sequences() -> tuple[Tensor, ...]:
    return (torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(5)),)


def texts() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(5)),)


def floored(v: Tensor) -> Tensor:
    return F.softplus(v).clamp(min=1e-3)


CASES = [
    Case(MaskedAfterTranspose, texts, (TrueHead("proj", 4, 8, "posterior"),)),
    Case(WithASampleDimension, rows(), (TrueHead("net", 4, 8, "posterior", F.softplus),)),
    Case(
        TopPriorIsAParameter, rows(),
        (TrueHead("enc", 4, 8, "posterior", floored), TrueHead("top", 4, 8, "prior", floored)),
    ),
    Case(SplitPrior, rows(), (TrueHead("prior", 4, 8, "prior"),)),
    Case(GraphVae, rows(), (TrueHead("logstd", 0, None, "posterior"),)),
    Case(
        BottomUpTwoLayers, rows(),
        (TrueHead("q1", 4, 8, "posterior"), TrueHead("q2", 2, 4, "posterior"), TrueHead("p1", 4, 8, "prior")),
    ),
    Case(
        ClampedVariance, rows(),
        (TrueHead("var.0", 0, None, "posterior", lambda v: F.softplus(v).clamp(0.01, 7).sqrt()),),
    ),
    Case(
        StackedExperts, rows(),
        tuple(TrueHead(n, 4, 8, "posterior", lambda v: (v.exp() + 1e-8).sqrt()) for n in "ab"),
    ),
    Case(chosen, rows(), tuple(TrueHead(n, 0, None, "posterior", F.softplus) for n in ("s0", "s1"))),
    Case(blended, rows(), tuple(TrueHead(n, 0, None, "posterior", F.softplus) for n in ("s0", "s1"))),
    Case(AbsoluteScale, rows(), (TrueHead("a", 0, None, "posterior", torch.abs),)),
    Case(StepByStep, sequences, (TrueHead("comb", 3, 6, "posterior", half), TrueHead("trans", 3, 6, "prior", half))),
    Case(appended, sequences, (TrueHead("comb", 3, 6, "posterior", half), TrueHead("trans", 3, 6, "prior", half))),
    Case(Background, rows(), (TrueHead("enc", 4, 8, "posterior"), TrueHead("log_scale", 0, None, "prior"))),
    Case(
        TableOfLambdas, rows(),
        (TrueHead("net", 4, 8, "posterior", lambda v: 2 * torch.sigmoid(v / 2) + 0.1),),
    ),
    Case(OptimalSigma, rows(), (TrueHead("enc", 4, 8, "posterior", half),)),
    Case(
        LocalReparameterization, rows(),
        (TrueHead("rho", 0, None, "posterior", lambda v: 1e-6 + F.softplus(v)),),
    ),
    Case(EncodedByABlock, rows(), (TrueHead("block", 4, 8, "posterior", F.softplus),)),
    Case(PartsInTheKl, rows(), (TrueHead("enc", 4, 8, "posterior"),)),
    Case(FixedPrior, rows(), (TrueHead("enc", 4, 8, "posterior", half),)),
    Case(Diagonal, rows(), (TrueHead("net", 6, 12, "likelihood", F.softplus),)),
]  # fmt: skip


@pytest.mark.medium
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exactly_its_heads_are_found_with_their_roles(case: Case) -> None:
    verdict = judge(case, 1)
    assert verdict.exact, (verdict.missed, verdict.false, verdict.error)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_convention_is_what_the_host_computes(case: Case) -> None:
    assert judge(case, 1).conventions == len(case.heads)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_patched_model_uses_the_promised_sigma(case: Case) -> None:
    verdict = judge(case, 1)
    assert verdict.patched == len(case.heads), verdict.error
