"""Of a skipped step, each head's extremes: of log σ, of the mean and of the KL, and where they are."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch
from vdvae_patch.guarding import extremes
from vdvae_patch.heads import Compared, Head
from vdvae_patch.hosts import load_host
from vdvae_patch.scanning.watching.outcome import refusal


class VAE(nn.Module):
    """Convolutional; how its KL is written, and against which prior, is given."""

    def __init__(self, rate: Callable[[Any, Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.prior, self.decoder = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 1), nn.Conv2d(4, 1, 1)
        self.scale = nn.Parameter(torch.zeros(4, 1, 1))
        self.register_buffer("centres", torch.arange(4.0).view(4, 1, 1))
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.encoder(x).chunk(2, 1)
        z = mean + raw.exp() * torch.randn_like(mean)
        return self.rate(self, mean, raw, z, x).sum() + (self.decoder(z) - x).pow(2).sum()


def standard(model: VAE, mean: Tensor, raw: Tensor, z: Tensor, x: Tensor) -> Tensor:
    return 0.5 * (mean**2 + (2 * raw).exp() - 1) - raw


def elsewhere(model: VAE, mean: Tensor, raw: Tensor, z: Tensor, x: Tensor) -> Tensor:
    return 3 * (((2 * raw).exp() + (mean - 0.7) ** 2) / (2 * 0.25) - raw + math.log(0.5) - 0.5)


def of_distributions(model: VAE, mean: Tensor, raw: Tensor, z: Tensor, x: Tensor) -> Tensor:
    return kl_divergence(Normal(mean, raw.exp()), Normal(torch.zeros_like(mean), 2 * torch.ones_like(mean)))


def learned(model: VAE, mean: Tensor, raw: Tensor, z: Tensor, x: Tensor) -> Tensor:
    mean_p, raw_p = model.prior(x * 0.1).chunk(2, 1)
    return raw_p - raw + ((2 * raw).exp() + (mean - mean_p) ** 2) / (2 * (2 * raw_p).exp()) - 0.5


def of_a_sample(model: VAE, mean: Tensor, raw: Tensor, z: Tensor, x: Tensor) -> Tensor:
    mean_p, raw_p = model.prior(x * 0.1).chunk(2, 1)
    return Normal(mean, raw.exp()).log_prob(z) - Normal(mean_p, raw_p.exp()).log_prob(z)


def around_centres(model: VAE, mean: Tensor, raw: Tensor, z: Tensor, x: Tensor) -> Tensor:
    return 0.5 * ((mean - model.centres) ** 2 + (2 * raw).exp() - 1) - raw


def around_the_data(model: VAE, mean: Tensor, raw: Tensor, z: Tensor, x: Tensor) -> Tensor:
    return 0.5 * ((mean - x) ** 2 + (2 * raw).exp() - 1) - raw


@pytest.mark.parametrize(
    ("rate", "prior"),
    [
        (standard, Compared(None, 0.0, 1.0)),
        (elsewhere, Compared(None, 0.7, 0.5)),
        (of_distributions, Compared(None, 0.0, 2.0)),
        (learned, Compared(("prior", "4:8"))),
        (of_a_sample, Compared(("prior", "4:8"))),
        (around_centres, None),
        (around_the_data, None),
    ],
)
def test_a_scan_says_what_a_posterior_is_compared_with(rate: Any, prior: Compared | None) -> None:
    heads = {head.role: head for head in vdvae_patch.scan(VAE(rate), torch.randn(3, 1, 5, 5))}
    found = heads["posterior"].found
    assert found is not None
    assert found.prior == prior
    assert [str(found.mean), str(found.raw)] == ["encoder[:4]", "encoder[4:8]"]
    if "prior" in heads:
        assert heads["prior"].found is not None
        assert str(heads["prior"].found.mean) == "prior[:4]"


def test_a_mean_that_is_computed_is_no_output() -> None:
    def squashed(model: VAE, mean: Tensor, raw: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return (
            standard(model, mean, raw, z, x)
            + ((model.decoder(z).sigmoid() - x) / model.scale.exp()) ** 2 / 2
            + model.scale
        )

    heads = {head.role: head for head in vdvae_patch.scan(VAE(squashed), torch.randn(3, 1, 5, 5))}
    assert heads["likelihood"].found is not None
    assert heads["likelihood"].found.mean is None


def skipped(rate: Any, tmp_path: Path, **arguments: Any) -> tuple[vdvae_patch.Guard, VAE, Tensor]:
    model = VAE(rate)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with vdvae_patch.guard(model, out=tmp_path / "guard", **arguments) as guard:
        for step in range(2):
            x = torch.randn(3, 1, 5, 5)
            if step:
                with torch.no_grad():
                    model.encoder.bias[6] += 100.0  # type: ignore[index]
            optimizer.zero_grad()
            loss = model(x)
            loss.backward()
            optimizer.step()
    assert len(guard.skips) == 1
    return guard, model, x


@pytest.mark.parametrize("rate", [elsewhere, learned])
def test_extremes_are_those_of_the_step_and_say_where(rate: Any, tmp_path: Path) -> None:
    guard, model, x = skipped(rate, tmp_path)
    mean, log_sigma = (value.double() for value in model.encoder(x).detach().chunk(2, 1))
    mean_p, log_sigma_p = (value.double() for value in model.prior(x * 0.1).detach().chunk(2, 1))
    if rate is elsewhere:
        mean_p, log_sigma_p = torch.tensor(0.7), torch.tensor(0.5).log()
    kl = log_sigma_p - log_sigma + ((2 * log_sigma).exp() + (mean - mean_p) ** 2) / (2 * (2 * log_sigma_p).exp()) - 0.5
    line = json.loads((tmp_path / "guard" / "skips.jsonl").read_text())
    (found,) = [head for head in line["heads"] if head["role"] == "posterior"]
    for name, values in (("log_sigma", log_sigma), ("mean", mean), ("kl", kl)):
        for end, value in (("min", values.min()), ("max", values.max())):
            assert math.isclose(found[f"{name}_{end}"], float(value), rel_tol=1e-5)
            row, channel, *place = found["at"][f"{name}_{end}"]
            assert values[(row, channel, *place)] == value
    assert math.isclose(found["kl"], float(kl.sum()) / 3, rel_tol=1e-5)
    assert found["left_out"] == {}
    assert found["at"]["log_sigma_max"][1] == 2
    report = guard.report()
    assert "log σ from" in report
    assert "KL of a channel up to" in report
    assert "the heads in this step" in report
    if rate is learned:
        (prior,) = [head for head in line["heads"] if head["role"] == "prior"]
        assert (prior["kl_max"], prior["kl"]) == (found["kl_max"], found["kl"])
        assert math.isclose(prior["mean_max"], float(mean_p.max()), rel_tol=1e-5)


def test_what_cannot_be_told_is_left_out_and_said(tmp_path: Path) -> None:
    guard, _, _ = skipped(around_centres, tmp_path)
    (found,) = json.loads((tmp_path / "guard" / "skips.jsonl").read_text())["heads"]
    assert "mean_max" in found
    assert not {"kl", "kl_min", "kl_max"} & set(found)
    assert found["left_out"] == {"kl": "no prior is known that it is compared with"}
    assert "left out: KL: no prior is known that it is compared with (encoder)" in guard.report()


def test_a_head_that_somebody_wrote_down_says_nothing_of_its_mean(tmp_path: Path) -> None:
    heads = [Head("encoder", "posterior", 4, 8)]
    _, _, _ = skipped(standard, tmp_path, heads=heads)
    (found,) = json.loads((tmp_path / "guard" / "skips.jsonl").read_text())["heads"]
    assert found["log_sigma_max"] > 90
    assert set(found["left_out"]) == {"mean", "kl"}


def test_a_value_that_is_no_number_is_found_where_it_is() -> None:
    heads = list(vdvae_patch.scan(model := VAE(standard), torch.randn(3, 1, 5, 5)))
    seen = extremes.Seen(model, heads)
    x = torch.randn(3, 1, 5, 5)
    x[1, 0, 4, 4] = torch.nan
    with seen.watched():
        model(x)
    (found,) = seen.extremes()
    assert found.log_sigma is not None
    assert math.isnan(found.log_sigma.high)
    assert found.log_sigma.highest == (1, 0, 3, 3)
    assert found.extremity == math.inf


class Recurrent(nn.Module):
    """Its head is called for each row of the input, `[batch, 6]` or `[6]`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.out = nn.Linear(6, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(())
        for now in x:
            mean, raw = self.head(now).chunk(2, -1)
            z = mean + raw.exp() * torch.randn_like(mean)
            kl = 0.5 * (mean**2 + (2 * raw).exp() - 1) - raw
            total = total + kl.sum() + (self.out(z) - now).pow(2).sum()
        return total


def test_all_calls_of_a_module_count() -> None:
    model, x = Recurrent(), torch.randn(4, 5, 6)
    heads = list(vdvae_patch.scan(model, x))
    along = model.head.weight.detach()[3:].sum(dim=0)
    x[1], x[3] = 20 * along, -20 * along
    seen = extremes.Seen(model, heads)
    with seen.watched():
        model(x)
    (found,) = seen.extremes()
    log_sigma = model.head(x).detach()[..., 3:].double()
    assert found.log_sigma is not None
    assert found.log_sigma.high == float(log_sigma.max())
    assert log_sigma[(1, *found.log_sigma.highest)] == log_sigma.max()
    assert found.log_sigma.low == float(log_sigma.min())
    assert log_sigma[(3, *found.log_sigma.lowest)] == log_sigma.min()
    assert found.kl is not None


def test_the_kl_of_values_without_a_batch_is_their_whole_sum() -> None:
    model, x = Recurrent(), torch.randn(4, 6)
    seen = extremes.Seen(model, list(vdvae_patch.scan(model, x)))
    with seen.watched():
        model(x)
    (found,) = seen.extremes()
    mean, raw = model.head(x).detach().double().chunk(2, 1)
    kl = 0.5 * (mean**2 + (2 * raw).exp() - 1) - raw
    assert found.kl_nats == pytest.approx(float(kl.sum()), rel=1e-5)


class OverTime(nn.Module):
    """A latent at each step of a sequence; its recurrent layer takes time first, or the batch."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.GRU(5, 8, batch_first=batch_first)
        self.head, self.out = nn.Linear(8, 6), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.head(self.rnn(x)[0]).chunk(2, -1)
        z = mean + raw.exp() * torch.randn_like(mean)
        return (0.5 * (mean**2 + (2 * raw).exp() - 1) - raw).sum() + (self.out(z) - x).pow(2).sum()


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_row_is_one_of_the_batch_also_where_time_is_in_front(batch_first: bool) -> None:
    images, times = 4, 7
    x = torch.randn(images, times, 5) if batch_first else torch.randn(times, images, 5)
    model = OverTime(batch_first)
    seen = extremes.Seen(model, list(vdvae_patch.scan(model, x)))
    with seen.watched():
        model(x)
    (found,) = seen.extremes()
    mean, raw = model.head(model.rnn(x)[0]).detach().double().chunk(2, -1)
    kl = 0.5 * (mean**2 + (2 * raw).exp() - 1) - raw
    assert found.kl_nats == pytest.approx(float(kl.sum()) / images, rel=1e-5)
    assert found.kl is not None
    row, channel, time = found.kl.highest
    assert kl[(row, time, channel) if batch_first else (time, row, channel)] == kl.max()


@pytest.mark.parametrize("joined", [True, False])
def test_of_a_layer_that_joins_time_to_the_batch_it_is_said_that_its_rows_are_its_own(joined: bool) -> None:
    class Joined(OverTime):
        def forward(self, x: Tensor) -> Tensor:
            mean, raw = self.head(self.rnn(x)[0].flatten(0, int(joined))).chunk(2, -1)
            z = mean + raw.exp() * torch.randn_like(mean)
            return (0.5 * (mean**2 + (2 * raw).exp() - 1) - raw).sum() + (self.out(z).view_as(x) - x).pow(2).sum()

    model, x = Joined(batch_first=True), torch.randn(4, 7, 5)
    seen = extremes.Seen(model, list(vdvae_patch.scan(model, x)), rows=len(x))
    with seen.watched():
        model(x)
    (found,) = seen.extremes()
    assert ("28 rows where the batch has 4" in found.left_out.get("row", "")) == joined
    assert ("(its layer's row " in found.described) == joined
    assert ("left out: the row of the batch: its layer gives 28 rows" in extremes.table([found])) == joined


class DrawnAtOnce(nn.Module):
    """Two draws of each posterior at once, and one learned number for the data's σ."""

    def __init__(self, repeat: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.repeat = repeat
        self.encoder, self.decoder = nn.Linear(5, 6), nn.Linear(3, 5)
        self.log_gamma = nn.Parameter(torch.tensor(-0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.repeat(x)
        mean, raw = self.encoder(x).chunk(2, -1)
        z = mean + raw.exp() * torch.randn_like(mean)
        rate = (0.5 * (mean**2 + (2 * raw).exp() - 1) - raw).sum(-1)
        return (rate + (0.5 * ((self.decoder(z) - x) / self.log_gamma.exp()) ** 2 + self.log_gamma).sum(-1)).mean()


def in_front(x: Tensor) -> Tensor:
    return x.expand(2, *x.shape)


@pytest.mark.parametrize("repeat", [in_front, lambda x: x.repeat(2, 1), lambda x: x.repeat_interleave(2, 0)])
def test_a_row_is_one_of_the_batch_also_where_each_is_drawn_several_times(repeat: Callable[[Tensor], Tensor]) -> None:
    model, x = DrawnAtOnce(repeat), torch.randn(4, 5)
    seen = extremes.Seen(model, list(vdvae_patch.scan(model, x)), rows=len(x))
    with seen.watched():
        model(x)
    found = next(head for head in seen.extremes() if head.role == "posterior")
    mean, raw = model.encoder(x).detach().double().chunk(2, -1)
    kl = 0.5 * (mean**2 + (2 * raw).exp() - 1) - raw
    assert found.kl_nats == pytest.approx(float(kl.sum(1).mean()), rel=1e-5)
    assert found.kl is not None
    row, channel = found.kl.highest[:2]
    assert kl[row, channel] == pytest.approx(float(kl.max()), rel=1e-5)


def test_a_sigma_that_is_one_number_has_its_extremes() -> None:
    model, x = DrawnAtOnce(in_front), torch.randn(4, 5)
    seen = extremes.Seen(model, list(vdvae_patch.scan(model, x)))
    with seen.watched():
        model(x)
    found = next(head for head in seen.extremes() if head.path == "log_gamma")
    assert (found.log_sigma_min, found.log_sigma_max) == (-0.5, -0.5)


def test_a_scale_that_pytorch_refuses_is_of_a_row_of_the_batch() -> None:
    scale = torch.ones(2, 4, 3)
    scale[:, 3] = 0.0
    assert "(row 3," in refusal("scale", scale, "here", rows=4)


@pytest.mark.medium
def test_no_rows_of_the_batch_are_named_that_are_steps_of_time() -> None:
    model, x = OverTime(batch_first=False), torch.randn(7, 4, 5)
    model.head.bias.data[3:] = 400.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with vdvae_patch.guard(model, file=io.StringIO()) as guard:
        model(x).backward()
        optimizer.step()
    assert guard.skips[0].operation is not None
    assert guard.skips[0].rows == ()


def test_the_place_of_a_span_stands_behind_the_end_of_larger_magnitude_which_is_there() -> None:
    ends = {"lowest": (0, 3), "highest": (1, 2)}
    below, above = extremes.Span(-9.0, 2.0, **ends), extremes.Span(-2.0, 9.0, **ends)
    assert below.told == "from -9 (row 0, channel 3) to 2"
    assert above.told == "from -2 to 9 (row 1, channel 2)"


def test_the_kls_of_a_hierarchy_are_the_hosts_rate() -> None:
    host = load_host("vdvae")
    entry: Any = host.entry
    architecture = entry.presets()["demo"].architecture
    torch.manual_seed(0)
    model = host.build(entry.hyperparameters(architecture, image_size=32, image_channels=3, data="cifar10"))
    with torch.no_grad():
        for parameter in model.parameters():  # away from the start, where priors are zero
            parameter.add_(0.02 * torch.randn_like(parameter))
    x = torch.randn(2, 32, 32, 3).clamp(-1, 1)
    heads = vdvae_patch.scan(model, x, x)
    seen = extremes.Seen(model, list(heads))
    with seen.watched():
        rate = float(model(x, x)["rate"].detach())
    found = seen.extremes()
    assert not any(head.left_out for head in found)
    total = sum(head.kl_nats for head in found if head.role == "posterior")
    assert math.isclose(total / (32 * 32 * 3), rate, rel_tol=1e-4)
    shown = extremes.table(found).splitlines()
    assert len(found) == 24
    assert len(shown) == 2 + 12 + 1
    assert shown[-1] == "and 12 more, less extreme ones"


def test_a_step_that_is_applied_looks_at_no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("a head was looked at")

    monkeypatch.setattr(extremes.Seen, "__init__", refused)
    model = VAE(standard)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with vdvae_patch.guard(model) as guard:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(3, 1, 5, 5)).backward()
            optimizer.step()
        assert guard.steps == 3
