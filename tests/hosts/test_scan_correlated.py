"""Normals of two correlated values: each deviation is a head, by any spelling, and the correlation stays what it is."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan, stabilize

Loss = Callable[[Tensor, Tensor], Tensor]


class Strokes(nn.Module):
    """What Social LSTM and handwriting networks put out: two means, two deviations, a correlation."""

    def __init__(self, loss: Loss, outputs: int = 5) -> None:
        super().__init__()
        self.net, self.loss = nn.Linear(3, outputs), loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.net(x), y)


def square(out: Tensor, y: Tensor, sx: Tensor, sy: Tensor, rho: Tensor) -> Tensor:
    dx, dy = y[..., 0] - out[..., 0], y[..., 1] - out[..., 1]
    return (dx / sx) ** 2 + (dy / sy) ** 2 - 2 * rho * dx * dy / (sx * sy)


def of_logs(out: Tensor, y: Tensor) -> Tensor:
    sx, sy, rho = out[:, 2].exp(), out[:, 3].exp(), out[:, 4].tanh()
    z, rest = square(out, y, sx, sy, rho), 1 - rho**2
    return (z / (2 * rest) + torch.log(2 * math.pi * sx * sy * rest.sqrt())).mean()


def of_log_variances(out: Tensor, y: Tensor) -> Tensor:
    a, b, r, s, c = out.unbind(1)
    u, v, rho = (y[:, 0] - a) * torch.exp(-0.5 * r), (y[:, 1] - b) * torch.exp(-0.5 * s), c.tanh()
    rest = 1 - rho * rho
    return 0.5 * ((u * u + v * v - 2 * rho * u * v) / rest + r + s + rest.log()).mean()


def of_density(out: Tensor, y: Tensor) -> Tensor:
    sx, sy, rho = F.softplus(out[:, 2]), F.softplus(out[:, 3]), out[:, 4].tanh()
    norm_x, norm_y, rest = (y[:, 0] - out[:, 0]) / sx, (y[:, 1] - out[:, 1]) / sy, 1 - rho**2
    z = norm_x**2 + norm_y**2 - 2 * rho * norm_x * norm_y
    density = torch.exp(-z / (2 * rest)) / (2 * math.pi * sx * sy * rest.sqrt())
    return -torch.log(density.clamp(min=1e-20)).mean()


def of_density_of_sums(out: Tensor, y: Tensor) -> Tensor:
    """The means are positions, which steps add up to, and no network's output."""
    mean = torch.stack([out[:, 0].cumsum(0) + 1, out[:, 1].tanh()], 1)
    sx, sy, rho = out[:, 2].exp(), out[:, 3].exp(), out[:, 4].tanh()
    z, rest = square(mean, y, sx, sy, rho), 1 - rho**2
    return -torch.log(torch.exp(-z / (2 * rest)) / (2 * math.pi * sx * sy * rest.sqrt())).mean()


def of_two_coordinates(out: Tensor, y: Tensor) -> Tensor:
    mean, v, c = out.split([2, 2, 1], 1)
    sigma, rest = F.softplus(v) + 1e-2, 1 - c[:, 0].tanh() ** 2
    off = (y - mean) / sigma
    exponent = (off.square().sum(-1) - 2 * c[:, 0].tanh() * off.prod(-1)) / rest
    return (0.5 * exponent + sigma.log().sum(-1) + 0.5 * rest.log()).mean()


def of_precisions(out: Tensor, y: Tensor) -> Tensor:
    """Of a precision the deviation is that of one value where the other one is known."""
    p, q, dx, dy = out[:, 2].exp(), out[:, 3].exp(), y[:, 0] - out[:, 0], y[:, 1] - out[:, 1]
    both = out[:, 4].tanh() * torch.sqrt(p * q)
    return (0.5 * (p * dx**2 + 2 * both * dx * dy + q * dy**2) - 0.5 * torch.log(p * q - both**2)).mean()


def covariance(out: Tensor) -> Tensor:
    sx, sy, rho = out[..., 2].exp(), out[..., 3].exp(), out[..., 4].tanh()
    return torch.stack([sx**2, rho * sx * sy, rho * sx * sy, sy**2], -1).unflatten(-1, (2, 2))


def of_covariance(out: Tensor, y: Tensor) -> Tensor:
    return -MultivariateNormal(out[:, :2], covariance(out)).log_prob(y).mean()


def of_factor(out: Tensor, y: Tensor) -> Tensor:
    sx, sy, rho = out[:, 2].exp(), out[:, 3].exp(), out[:, 4].tanh()
    factor = torch.zeros(len(out), 2, 2)
    factor[:, 0, 0], factor[:, 1, 0], factor[:, 1, 1] = sx, rho * sy, sy * torch.sqrt(1 - rho**2)
    return -MultivariateNormal(out[:, :2], scale_tril=factor).log_prob(y).mean()


def of_inverse(out: Tensor, y: Tensor) -> Tensor:
    off, matrix = (y - out[:, :2]).unsqueeze(-1), covariance(out)
    return 0.5 * ((off.mT @ torch.linalg.inv(matrix) @ off).squeeze() + torch.logdet(matrix)).mean()


def of_solve(out: Tensor, y: Tensor) -> Tensor:
    off, matrix = y - out[:, :2], covariance(out)
    weighted = torch.linalg.solve(matrix, off.unsqueeze(-1)).squeeze(-1)
    return 0.5 * ((off * weighted).sum(-1) + torch.linalg.slogdet(matrix)[1]).mean()


def of_precision_matrix(out: Tensor, y: Tensor) -> Tensor:
    p, q = out[:, 2].exp(), out[:, 3].exp()
    both = out[:, 4].tanh() * torch.sqrt(p * q)
    matrix = torch.stack([p, both, both, q], -1).unflatten(-1, (2, 2))
    return -MultivariateNormal(out[:, :2], precision_matrix=matrix).log_prob(y).mean()


def of_inverse_deviations(out: Tensor, y: Tensor) -> Tensor:
    """Networks for traffic emit 1 / σ, and mask what is not there."""
    a, b, c = y[:, 0] - out[:, 0], y[:, 1] - out[:, 1], out[:, 4].tanh()
    one, other, over = out[:, 2].exp(), out[:, 3].exp(), torch.pow(1 - torch.pow(c, 2), -0.5)
    z = torch.pow(one, 2) * torch.pow(a, 2) + torch.pow(other, 2) * torch.pow(b, 2) - 2 * c * one * other * a * b
    each = torch.zeros(len(out), 2)
    each[:, 0] = 0.5 * torch.pow(over, 2) * z - torch.log(one * other * over) + 1.8379
    return (each * torch.ones_like(each)).sum() / len(out)


def of_determinant(out: Tensor, y: Tensor) -> Tensor:
    a, b, sx, sy = y[:, 0] - out[:, 0], y[:, 1] - out[:, 1], out[:, 2].exp(), out[:, 3].exp()
    both = out[:, 4].tanh() * sx * sy
    det = sx**2 * sy**2 - both**2
    return 0.5 * ((sy**2 * a**2 - 2 * both * a * b + sx**2 * b**2) / det + det.log()).mean()


CURVES: dict[Loss, Callable[[Tensor], Tensor]] = {
    of_logs: torch.exp,
    of_log_variances: lambda v: torch.exp(v / 2),
    of_density: F.softplus,
    of_density_of_sums: torch.exp,
    of_two_coordinates: lambda v: F.softplus(v) + 1e-2,
    of_precisions: lambda v: torch.exp(-v / 2),
    of_precision_matrix: lambda v: torch.exp(-v / 2),
    of_inverse_deviations: lambda v: torch.exp(-v),
    of_determinant: torch.exp,
    of_covariance: torch.exp,
    of_factor: torch.exp,
    of_inverse: torch.exp,
    of_solve: torch.exp,
}


def nll(loss: Loss, out: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
    """PyTorch's own, in float64, by deviations of each value, or where the other one is known."""
    rho, (sx, sy) = out[:, 4].tanh(), sigma.unbind(1)
    if loss in (of_precisions, of_precision_matrix):
        rho, sx, sy = -rho, sx / torch.sqrt(1 - rho**2), sy / torch.sqrt(1 - rho**2)
    matrix = torch.stack([sx**2, rho * sx * sy, rho * sx * sy, sy**2], 1).view(-1, 2, 2)
    mean = out[:, :2]
    if loss is of_density_of_sums:
        mean = torch.stack([mean[:, 0].cumsum(0) + 1, mean[:, 1].tanh()], 1)
    return -MultivariateNormal(mean, matrix).log_prob(y).mean()


@pytest.mark.medium
@pytest.mark.parametrize("loss", CURVES, ids=lambda loss: loss.__name__)
def test_both_deviations_are_heads_and_a_patch_leaves_the_correlation(loss: Loss) -> None:
    torch.manual_seed(0)
    model, x, y = Strokes(loss), torch.randn(6, 3), torch.randn(6, 2)
    before, out, curve = model(x, y), model.net(x).double(), CURVES[loss]
    heads = scan(model, x, y)
    assert {head.role for head in heads} == {"likelihood"}
    assert {place for head in heads for place in range(head.start, head.stop or 5)} == {2, 3}
    assert not heads.near_misses
    v = torch.linspace(-2, 2, 5, dtype=torch.float64)
    for head in heads:
        torch.testing.assert_close(head.convention.sigma(v), curve(v))
        assert head.found is not None
        assert str(head.found.correlation and head.found.correlation.raw) == "net[4:5]"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handle = patch(model, heads=heads, likelihood="bounded(0.1, 3)", paper=True)
    (scale,) = {str(patched.scale): patched.scale for patched in handle.heads}.values()
    assert scale is not None
    moved = nll(loss, out, y.double(), scale.sigma(out[:, 2:4])) - nll(loss, out, y.double(), curve(out[:, 2:4]))
    torch.testing.assert_close(model(x, y).double() - before.double(), moved, rtol=1e-4, atol=1e-4)
    handle.unpatch()
    assert torch.equal(model(x, y), before)


def mixture_of_densities(out: Tensor, y: Tensor) -> Tensor:
    """As SketchRNN has it, padded, and with small numbers wherever it divides."""
    k = out.shape[-1] // 6
    pi, mx, my, r, s, c = out.split(k, -1)
    sx, sy, rho = r.exp().clamp(min=1e-6), s.exp().clamp(min=1e-6), c.tanh().clamp(-1 + 1e-6, 1 - 1e-6)
    dx, dy, rest = y[:, :1] - mx, y[:, 1:] - my, 1 - rho**2
    z = (dx / (sx + 1e-4)) ** 2 + (dy / (sy + 1e-4)) ** 2 - 2 * rho * dx * dy / (sx * sy + 1e-4)
    density = torch.exp(-z / (2 * rest + 1e-5)) / (2 * math.pi * sx * sy * torch.sqrt(rest + 1e-5) + 1e-5)
    mask = (y[:, 0] > -1).float()
    return -(mask * torch.log((pi.softmax(-1) * density).sum(-1) + 1e-5)).sum() / mask.sum()


def mixture_of_logs(out: Tensor, y: Tensor) -> Tensor:
    pi, mx, my, r, s, c = out.split(out.shape[-1] // 6, -1)
    u, v, rho = (y[:, :1] - mx) / r.exp(), (y[:, 1:] - my) / s.exp(), c.tanh()
    rest = 1 - rho**2
    logs = -(u**2 + v**2 - 2 * rho * u * v) / (2 * rest) - math.log(2 * math.pi) - r - s - 0.5 * rest.log()
    each = -torch.logsumexp(pi.log_softmax(-1) + logs, -1)
    return each.masked_fill(y[:, 0] < -1, 0.0).mean()


def mixture_of_library(out: Tensor, y: Tensor) -> Tensor:
    parts = torch.stack(out.split(out.shape[-1] // 6, -1), -1)
    components = MultivariateNormal(parts[..., 1:3], covariance(parts[..., 1:]))
    return -MixtureSameFamily(Categorical(logits=parts[..., 0]), components).log_prob(y).mean()


@pytest.mark.medium
@pytest.mark.parametrize("loss", [mixture_of_densities, mixture_of_logs, mixture_of_library])
def test_both_deviations_of_a_mixture_s_components_are_heads(loss: Loss) -> None:
    torch.manual_seed(0)
    model, x, y = Strokes(loss, 12), torch.randn(6, 3), torch.randn(6, 2)
    heads = scan(model, x, y)
    assert [(head.channels, head.role) for head in heads] == [("6:8", "likelihood"), ("8:10", "likelihood")]
    v = torch.linspace(-5, 2, 8, dtype=torch.float64)
    for head in heads:
        torch.testing.assert_close(head.convention.sigma(v), v.exp())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch(model, heads=heads, likelihood="bounded(0.01, 10)")
    model(x, y).backward()
    floors = [w for w in heads.warnings if "adds small numbers in its divisors" in w]
    assert bool(floors) == (loss is mixture_of_densities)


def lower_triangle(out: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros(len(out))
    rows = [torch.stack([out[:, 2].exp(), zero], -1), torch.stack([out[:, 4], F.softplus(out[:, 3])], -1)]
    return -MultivariateNormal(out[:, :2], scale_tril=torch.stack(rows, -2)).log_prob(y).mean()


def lower_triangle_by_hand(out: Tensor, y: Tensor) -> Tensor:
    first, second = out[:, 2].exp(), F.softplus(out[:, 3])
    u = (y[:, 0] - out[:, 0]) / first
    v = (y[:, 1] - out[:, 1] - out[:, 4] * u) / second
    return (0.5 * (u**2 + v**2) + first.log() + second.log()).mean()


@pytest.mark.medium
@pytest.mark.parametrize("loss", [lower_triangle, lower_triangle_by_hand])
def test_a_factor_s_diagonal_is_the_deviation_of_each_value_where_those_before_it_are_known(loss: Loss) -> None:
    torch.manual_seed(0)
    model, x, y = Strokes(loss), torch.randn(6, 3), torch.randn(6, 2)
    heads = scan(model, x, y)
    found = [(head.channels, str(head.convention)) for head in heads]
    assert found == [("2:3", "log_sigma"), ("3:4", "softplus")]
    out, before = model.net(x).detach(), model(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (first, second) = patch(model, heads=heads, likelihood="bounded(0.1, 3)", paper=True).heads
    assert first.scale is not None
    assert second.scale is not None
    moved = lower_triangle(at(out, first.scale.sigma(out[:, 2]).log(), second.scale.sigma(out[:, 3]).expm1().log()), y)
    torch.testing.assert_close(model(x, y) - before, moved - lower_triangle(out, y), rtol=1e-4, atol=1e-5)


def at(out: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([out[:, 0], out[:, 1], first, second, out[:, 4]], 1)


def rotation(out: Tensor, y: Tensor) -> Tensor:
    dx, dy, angle = y[:, 0] - out[:, 0], y[:, 1] - out[:, 1], out[:, 4]
    ahead, aside = angle.cos() * dx - angle.sin() * dy, angle.sin() * dx + angle.cos() * dy
    return (out[:, 2].exp() * ahead**2 + aside**2).mean()


def pearson(out: Tensor, y: Tensor) -> Tensor:
    p, q = out[:, :2] - out[:, :2].mean(0), y - y.mean(0)
    return 1 - ((p * q).sum(0) / (p.norm(dim=0) * q.norm(dim=0) + 1e-8)).mean() + out[:, 2].exp().mean()


def features(out: Tensor, y: Tensor) -> Tensor:
    off, weight = y - out[:, :2], out[:, 2:4].exp()
    return (weight * off**2).sum(-1).mean() + (weight.prod(-1) * off.prod(-1)).mean().abs()


def student(out: Tensor, y: Tensor) -> Tensor:
    sx, sy, rho = out[:, 2].exp(), out[:, 3].exp(), out[:, 4].tanh()
    z, rest = square(out, y, sx, sy, rho), 1 - rho**2
    return (3.5 * torch.log1p(z / (5 * rest)) + sx.log() + sy.log() + 0.5 * rest.log()).mean()


def laplace(out: Tensor, y: Tensor) -> Tensor:
    sx, sy, rho = out[:, 2].exp(), out[:, 3].exp(), out[:, 4].tanh()
    z, rest = square(out, y, sx, sy, rho), 1 - rho**2
    return (torch.sqrt(z / rest + 1e-6) + sx.log() + sy.log() + 0.5 * rest.log()).mean()


@pytest.mark.medium
@pytest.mark.parametrize("loss", [rotation, pearson, features, student, laplace])
def test_what_multiplies_two_differences_and_is_no_normal_has_no_head(loss: Loss) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        heads = scan(Strokes(loss), torch.randn(6, 3), torch.randn(6, 2))
    assert not heads
    assert not heads.near_misses


def weighed(out: Tensor, y: Tensor) -> Tensor:
    """A distance, of which the deviations are kept small by other terms than their logarithms."""
    sx, sy, rho = out[:, 2].exp(), out[:, 3].exp(), out[:, 4].tanh()
    return (square(out, y, sx, sy, rho) + 0.1 * (sx + sy)).mean()


@pytest.mark.medium
def test_what_weighs_two_differences_almost_as_a_density_does_is_a_near_miss() -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        heads = scan(Strokes(weighed), torch.randn(6, 3), torch.randn(6, 2))
    assert not heads
    assert heads.why_not().count("as in the density of a Normal with a correlation, but no step") == 1
    assert 'vdvae_patch.scales.get("bounded(0.01, 10)").sigma(v)' in heads.why_not()


def of_one_deviation(out: Tensor, y: Tensor) -> Tensor:
    sigma, rho = out[:, 2].exp(), out[:, 4].tanh()
    z, rest = square(out, y, sigma, sigma, rho), 1 - rho**2
    return (z / (2 * rest) + 2 * sigma.log() + 0.5 * rest.log()).mean()


@pytest.mark.medium
def test_one_deviation_of_both_values_is_one_head() -> None:
    torch.manual_seed(0)
    (head,) = scan(Strokes(of_one_deviation), torch.randn(6, 3), torch.randn(6, 2))
    assert (head.channels, head.role, str(head.convention)) == ("2:3", "likelihood", "log_sigma")


class Coder(nn.Module):
    """A posterior that is found, and beside it a slip that is known from public code: the square without its half."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(2, 4), nn.Linear(2, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, raw = self.enc(y).chunk(2, 1)
        out = self.dec(mean + torch.exp(0.5 * raw) * torch.randn_like(mean))
        sx, sy, rho = out[:, 2].exp(), out[:, 3].exp(), out[:, 4].tanh()
        nll = square(out, y, sx, sy, rho) / (1 - rho**2) + torch.log(sx * sy * torch.sqrt(1 - rho**2))
        return nll.mean() - 0.5 * (1 + raw - mean**2 - raw.exp()).sum(1).mean()


@pytest.mark.medium
def test_a_density_that_is_not_read_is_said_beside_the_heads_that_are() -> None:
    torch.manual_seed(0)
    model, x, y, text = Coder(), torch.randn(6, 3), torch.randn(6, 2), io.StringIO()
    heads = scan(model, x, y)
    assert [(head.path, head.role) for head in heads] == [("enc", "posterior")]
    (line,) = (line for line in str(heads).splitlines() if line.startswith("near miss: "))
    assert "two differences are multiplied and weighed as in the density of a Normal with a correlation" in line
    stabilize(model, x, y, file=text)
    assert f"note: no head was made of {line.removeprefix('near miss: ')}" in text.getvalue()


class Independent(nn.Module):
    """A control: what two values share is a mean, and they are not correlated."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, r, s = self.net(x).unbind(1)
        off1, off2 = y[:, 0] - mean, y[:, 1] - 0.5 * mean
        return (0.5 * (off1 / r.exp()) ** 2 + 0.5 * (off2 / s.exp()) ** 2 + r + s).mean()


@pytest.mark.medium
def test_values_with_a_common_mean_keep_their_own_sigma() -> None:
    torch.manual_seed(0)
    v = torch.linspace(-2, 2, 5, dtype=torch.float64)
    heads = scan(Independent(), torch.randn(6, 3), torch.randn(6, 2))
    assert heads
    for head in heads:
        torch.testing.assert_close(head.convention.sigma(v), v.exp())


def kept_from_one(out: Tensor, y: Tensor) -> Tensor:
    rho = 0.99 * out[:, 4].tanh()
    return of_logs(torch.cat([out[:, :4], torch.atanh(rho)[:, None]], 1), y)


@pytest.mark.medium
@pytest.mark.parametrize(("loss", "holds"), [(of_logs, False), (of_covariance, False), (kept_from_one, True)])
def test_of_a_correlation_that_reaches_one_it_is_said_that_no_scale_cures_it(loss: Loss, holds: bool) -> None:
    torch.manual_seed(0)
    model, x, y, text = Strokes(loss), torch.randn(6, 3), torch.randn(6, 2), io.StringIO()
    warned = any("comes to ±1 when its raw value grows" in warning for warning in scan(model, x, y).warnings)
    stabilize(model, x, y, likelihood="bounded(0.01, 10)", file=text)
    lines = [line for line in text.getvalue().splitlines() if "the correlation net[4:5]" in line]
    assert warned != holds
    assert len(lines) == 1
    if holds:
        assert lines[0].startswith("holds: the correlation net[4:5]: loss and gradients stay finite")
    else:
        assert lines[0].startswith("NOT cured: the correlation net[4:5], its raw value pushed to 10: ")
        assert "test_scan_correlated.py:" in lines[0]
        assert lines[0].endswith("keep ρ away from ±1, as 0.99 * torch.tanh(v) does in the place of torch.tanh(v)")
    assert "CURED: net" in text.getvalue()
    assert ".. " not in text.getvalue()  # what an error says may end in a full stop


def of_floored_covariance(out: Tensor, y: Tensor) -> Tensor:
    """What a small number on the covariance's diagonal leaves of ρ is below 1, unless σ is large."""
    sx, sy = out[:, 2].exp(), out[:, 3].exp()
    wide_x, wide_y = torch.sqrt(sx**2 + 1e-6), torch.sqrt(sy**2 + 1e-6)
    rho = out[:, 4].tanh() * sx * sy / (wide_x * wide_y)
    z, rest = square(out, y, wide_x, wide_y, rho), 1 - rho**2
    return (z / (2 * rest) + torch.log(wide_x * wide_y) + 0.5 * rest.log()).mean()


@pytest.mark.medium
def test_a_correlation_is_pushed_together_with_both_deviations_too() -> None:
    torch.manual_seed(0)
    model, x, y, text = Strokes(of_floored_covariance), torch.randn(6, 3), torch.randn(6, 2), io.StringIO()
    before = model(x, y)
    handle = stabilize(model, x, y, likelihood="bounded(0.01, 10)", file=text)
    # σ is patched where the correlation reads it, too, so that ρ stays below 1
    assert {patched.head.found.patch_at for patched in handle.heads if patched.head.found} == {"output"}
    torch.testing.assert_close(model(x, y), before, rtol=0.02, atol=0.02)
    (line,) = (line for line in text.getvalue().splitlines() if "the correlation net[4:5]" in line)
    assert line.startswith(
        "NOT cured: the correlation net[4:5], its raw value pushed to 1000, and those of σ to log σ = "
    )
