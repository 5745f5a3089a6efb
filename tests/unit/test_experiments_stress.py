"""Remedies do what their names say, and the stress test counts what happened."""

from __future__ import annotations

import csv
import math
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch
from vdvae_patch import sampled_kl_of_sigmas
from vdvae_patch.data import cifar10
from vdvae_patch.errors import HostError, InvalidValueError, UnknownNameError
from vdvae_patch.experiments import remedies, stress, stress_protocol, stress_report
from vdvae_patch.experiments.ensemble import Ensemble, Rule, Run
from vdvae_patch.experiments.options import Stress
from vdvae_patch.experiments.report import Origin, Report, Table, number, without_paths
from vdvae_patch.experiments.spectral import SpectrallyRegularized
from vdvae_patch.hosts import load_host
from vdvae_patch.hosts.means import MeanReading, Means

TINY = {
    "image_size": 4, "image_channels": 3, "dataset": "cifar10", "width": 8, "zdim": 4, "num_mixtures": 2,
    "bottleneck_multiple": 0.25, "no_bias_above": 64, "enc_blocks": "4,4d4,1", "dec_blocks": "1,4m1",
}  # fmt: skip


def model(variant: str, reading: MeanReading | None = None) -> Any:
    torch.manual_seed(0)
    host = load_host("vdvae")
    built = host.build(TINY)
    with torch.no_grad():
        for parameter in built.parameters():  # the prior starts at 0, where many things are equal by accident
            parameter.add_(0.1 * torch.randn(parameter.shape))
    heads = host.heads(built) if reading is None else host.entry.heads_reading(built, reading)
    vdvae_patch.patch(built, variant, heads=heads, arithmetic="stable")
    return built


def read(block: Any, x: Tensor, acts: Tensor) -> tuple[Tensor, ...]:
    """A block's raw channels: means and raw scales of posterior and prior."""
    posterior = block.enc(torch.cat([x, acts], dim=1))
    prior = block.prior(x)
    z = block.zdim
    return posterior[:, :z], posterior[:, z:], prior[:, :z], prior[:, z : 2 * z]


def inputs(block: Any) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(3 * torch.randn(2, block.width, block.base, block.base, generator=generator) for _ in range(2))  # type: ignore[return-value]


def sampled(block: Any, x: Tensor, acts: Tensor) -> tuple[Tensor, Tensor]:
    """z and rate of a block, and with the noise of a seed."""
    torch.manual_seed(9)
    z, _, rate = block.sample(x, acts)
    return z, rate


@pytest.mark.parametrize("block", [0, 1])
def test_plain_means_are_those_of_an_ordinary_patch(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary, read_again = model("explin"), model("explin", MeanReading())
    x, acts = inputs(ordinary.decoder.dec_blocks[block])
    as_it_is = sampled(ordinary.decoder.dec_blocks[block], x, acts)
    second = sampled(read_again.decoder.dec_blocks[block], x, acts)
    # an ordinary patch hands whole maps over, which a CPU takes by the sigmas; a reading has logarithms
    for a, b in zip(as_it_is, second, strict=True):
        torch.testing.assert_close(a, b, rtol=4 * torch.finfo(a.dtype).eps, atol=4 * torch.finfo(a.dtype).eps)
    monkeypatch.setattr(sampled_kl_of_sigmas, "can_look_at", lambda *tensors: False)
    first = sampled(ordinary.decoder.dec_blocks[block], x, acts)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("means", ["plain", "residual", "relative"])
@pytest.mark.parametrize("limit", [None, 0.5])
def test_z_and_rate_are_those_of_the_two_normals_that_the_reading_means(means: Means, limit: float | None) -> None:
    block = model("exp", MeanReading(means, limit)).decoder.dec_blocks[1]
    x, acts = inputs(block)
    mean_q, raw_q, mean_p, raw_p = read(block, x, acts)
    if limit is not None:
        mean_q, mean_p = limit * torch.tanh(mean_q / limit), limit * torch.tanh(mean_p / limit)
    prior = Normal(mean_p, raw_p.exp())
    posterior = {
        "plain": Normal(mean_q, raw_q.exp()),
        "residual": Normal(mean_p + mean_q, raw_p.exp() * raw_q.exp()),
        "relative": Normal(mean_p + raw_p.exp() * mean_q, raw_p.exp() * raw_q.exp()),
    }[means]
    z, rate = sampled(block, x, acts)
    torch.manual_seed(9)
    noise = torch.randn(mean_q.shape)
    torch.testing.assert_close(rate, kl_divergence(posterior, prior), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(z, posterior.mean + posterior.stddev * noise, rtol=1e-4, atol=1e-5)


def test_the_rate_of_relative_means_does_not_know_the_priors_scale() -> None:
    blocks = [model(f"exp/constant({c})", MeanReading("relative")).decoder.dec_blocks[0] for c in (1.0, 1e-6)]
    rates = [sampled(block, *inputs(block))[1] for block in blocks]
    assert torch.equal(rates[0], rates[1])
    ordinary = [model(f"exp/constant({c})").decoder.dec_blocks[0] for c in (1.0, 1e-6)]
    plain = [sampled(block, *inputs(block))[1].max() for block in ordinary]
    assert plain[1] > 1e9 * plain[0]


@pytest.mark.parametrize("limit", [None, 0.5])
def test_sampling_without_an_image_draws_from_the_same_prior(limit: float | None) -> None:
    block = model("explin", MeanReading("plain", limit)).decoder.dec_blocks[0]
    x, acts = inputs(block)
    _, _, mean, raw = read(block, x, acts)
    mean = mean if limit is None else limit * torch.tanh(mean / limit)
    z, _ = block.sample_uncond(x, t=0.0)
    torch.testing.assert_close(z, mean)
    given = torch.randn(mean.shape)
    assert block.sample_uncond(x, lvs=given)[0] is given
    torch.manual_seed(9)
    warm, _ = block.sample_uncond(x, t=0.5)
    torch.manual_seed(9)
    sigma = torch.where(raw > 0, raw + 1, raw.exp())
    torch.testing.assert_close(warm, mean + 0.5 * sigma * torch.randn(mean.shape), rtol=1e-4, atol=1e-5)


def test_a_host_whose_means_nobody_described_says_so() -> None:
    host = load_host("conv_vae")
    with pytest.raises(HostError, match="'conv_vae' cannot have its means read in another way"):
        host.entry.heads_reading(host.build({"channels": 3}), MeanReading("relative"))


def test_a_limit_that_bounds_nothing_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="positive limit, not by 0"):
        MeanReading(limit=0.0)


def test_a_model_with_other_means_pickles_and_unpatches() -> None:
    patched = model("explin", MeanReading("relative", 5.0))
    x = torch.randn(2, 4, 4, 3)
    copy = pickle.loads(pickle.dumps(patched))
    torch.manual_seed(1)
    expected = patched(x, x)["elbo"]
    torch.manual_seed(1)
    assert torch.equal(copy(x, x)["elbo"], expected)
    vdvae_patch.unpatch(copy)
    assert not vdvae_patch.is_patched(copy)


def test_the_penalty_grows_to_the_sum_of_the_largest_singular_values() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 5, 3), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"elbo": x.sum()}

    torch.manual_seed(0)
    two = Two()
    regularized = SpectrallyRegularized(two, 0.5)
    out: dict[str, Tensor] = {}
    for _ in range(60):
        out = regularized(torch.zeros(1))
    expected = sum(torch.linalg.matrix_norm(m.weight.flatten(1), 2) for m in (two.a, two.b))
    torch.testing.assert_close(out["objective"] - out["elbo"], 0.5 * expected, rtol=1e-3, atol=1e-4)
    out["objective"].backward()
    assert two.a.weight.grad is not None
    assert two.a.weight.grad.abs().sum() > 0


def test_an_ensemble_minimises_the_objective_and_reports_the_elbo() -> None:
    class Pulled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0]))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            zero = torch.zeros(())
            elbo = self.w.sum() + 0 * x.sum()
            return {"elbo": elbo, "rate": elbo, "distortion": zero, "objective": -elbo}

    batches = lambda seeds, step: (torch.zeros(1, 1),)  # noqa: E731
    ensemble = Ensemble([Run(0, 0.1)], lambda run: Pulled(), batches, how="loop")
    ensemble.train(3)
    assert ensemble.trace()[0].item() == 1
    assert ensemble.stack.flat.item() > 1.2


@pytest.mark.parametrize("remedy", remedies.REMEDIES, ids=lambda r: r.name)
def test_every_remedy_trains(remedy: remedies.Remedy) -> None:
    protocol = stress_protocol.Protocol(4, 8, "4,4d4,1", "1,4m1", 2, 22, 1, (1e-3,), warmup=2)
    build = stress._Builder(remedy, protocol, None)
    x = torch.randn(1, 2, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    rule = Rule(clip=remedy.clip, skip=remedy.skip)
    ensemble = Ensemble([Run(0, 1e-3)], build, lambda seeds, step: (x, x.clamp(-1, 1)), rule, how="loop")
    ensemble.train(2)
    assert torch.isfinite(ensemble.trace()).all()
    assert not ensemble.failures


def test_states_of_an_objective_are_of_each_run_and_left_alone_by_skipped_updates() -> None:
    protocol = stress_protocol.Protocol(4, 8, "4,4d4,1", "1,4m1", 2, 22, 1, (1e-3,), warmup=2)
    build = stress._Builder(remedies.find("explin/constant, GECO"), protocol, None)
    x = torch.randn(3, 2, 4, 4, 3, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    runs = [Run(seed, 1e-3) for seed in range(3)]
    counts = {}
    for skip, expected in ((math.inf, 3), (1e-9, 0)):
        rule = Rule(clip=5.0, skip=skip)
        ensemble = Ensemble(runs, build, lambda seeds, step: (x, x), rule, how="grouped")
        ensemble.train(3)
        buffers = ensemble.stack.buffers
        assert buffers["objective.updates"].tolist() == [expected] * 3
        assert [b.tolist() for n, b in buffers.items() if n.endswith("decoder.updates")] == [[expected] * 3]
        counts[skip] = buffers["objective.averages"].flatten().tolist()
    assert len(set(counts[math.inf])) == 3
    assert counts[1e-9] == [0.0] * 3


def test_the_control_has_the_gradient_of_the_distortion_and_reports_the_whole_elbo() -> None:
    x = torch.randn(2, 4, 4, 3, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    alone = stress.DistortionAlone(model("exp"))
    out = alone(x, x)
    assert out["rate"] > 0
    torch.testing.assert_close(out["elbo"], out["distortion"] + out["rate"])
    gradients = [torch.autograd.grad(out[k], list(alone.parameters()), retain_graph=True, allow_unused=True)
                 for k in ("objective", "distortion")]  # fmt: skip
    for ours, expected in zip(*gradients, strict=True):
        assert (ours is None and expected is None) or torch.equal(ours, expected)


@pytest.mark.parametrize("channels", [1e3, -1e3])
def test_with_every_term_bounded_no_latent_costs_more_than_55_nats(channels: float) -> None:
    remedy = remedies.find("bounded/constant, means in 5")
    block = model(remedy.variant, remedy.reading).decoder.dec_blocks[0]
    with torch.no_grad():
        for head, sign in ((block.enc, 1), (block.prior, -1)):
            head.c4.bias.fill_(sign * channels)
    _, rate = sampled(block, *inputs(block))
    assert rate.max() <= 55
    assert rate.max() >= 50  # means as far apart as they go


def test_the_names_of_the_remedies_are_unique_and_a_wrong_one_is_told_its_nearest() -> None:
    names = [remedy.name for remedy in remedies.REMEDIES]
    assert len(set(names)) == len(names)
    with pytest.raises(UnknownNameError, match="did you mean 'explin/constant'"):
        remedies.find("explin/constnat")


def test_where_a_remedy_is_from_says_what_it_clips_and_skips_and_leans_on_no_row_above_it() -> None:
    """A table has the rows that were asked for: "the same, clipped harder" stood below another one than it meant."""
    of = {remedy.name: remedy.origin for remedy in remedies.REMEDIES}
    assert of["explin/constant"] == "the paper"
    assert of["explin/constant, clipped at 5"] == "clipped harder; clips at 5, skips NaN alone"
    assert of["vanilla, clipped at the usual norm"].endswith("; clips at the usual norm, skips NaN alone")
    assert of["clipping alone"] == "VDVAE without skipping; clips at 200, skips nothing"
    assert of["skipping alone"] == "VDVAE without clipping; clips nothing, skips at 400"
    assert not [origin for origin in of.values() if origin.startswith(("the same", "and "))]


@pytest.fixture
def few_images(tmp_path: Path) -> Path:
    """A CIFAR-10 of noise, as small as its split allows."""
    import numpy as np

    folder = tmp_path / "data" / cifar10.FOLDER
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*cifar10.TRAIN_FILES, cifar10.TEST_FILE):
        rows = 1010 if name != cifar10.TEST_FILE else 5
        with (folder / name).open("wb") as file:
            pickle.dump({b"data": rng.integers(0, 256, (rows, 3072), dtype=np.uint8)}, file, protocol=2)
    return tmp_path / "data"


CHOSEN = ("vanilla", "relative explin")


@pytest.mark.slow
def test_stress_reports_every_remedy_and_jobs_give_the_same_counts(few_images: Path, tmp_path: Path) -> None:
    tables = []
    for jobs in (1, 2):
        out = tmp_path / f"jobs{jobs}"
        few = {"seeds": 1, "steps": 21, "lr": (0.01,), "remedies": CHOSEN}
        options = Stress(quick=True, data_root=few_images, out=out, jobs=jobs, **few)  # type: ignore[arg-type]
        assert stress.run(options) == 0
        with (out / "stress-quick-remedies.csv").open() as file:
            tables.append(list(csv.reader(file)))
        assert {path.suffix for path in out.glob("stress-quick*")} == {".md", ".json", ".csv", ".png", ".svg"}
    assert [row[0] for row in tables[0]] == ["remedy", *CHOSEN]
    counts = [[[c for i, c in enumerate(row[2:]) if i % 4 != 3] for row in table[1:]] for table in tables]
    assert counts[0] == counts[1]
    assert tables[0][1][2] == "1/1"  # nothing happens within the warm-up at a low learning rate


@pytest.mark.parametrize(
    ("spec", "same"), [("fixed:5", "clipped at 5"), ("usual:2:100:20", "clipped at the usual norm")]
)
def test_the_rules_that_are_tried_beside_the_product_s_update_as_it_does(
    few_images: Path, tmp_path: Path, spec: str, same: str
) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "long"))
    from clipping_rules import prepared

    ruled = prepared(8, 2e-2, spec, few_images, seeds=2, steps=23)
    options = Stress(data_root=few_images, out=tmp_path, device="cpu")
    protocol = replace(stress_protocol.QUICK, seeds=2, lr=(2e-2,))
    remedy = remedies.find(f"explin/constant, {same}")
    product = stress._ensemble(stress._Task(remedy, protocol, options, tmp_path), ruled.runs)
    ruled.train(23)
    product.train(23)
    assert (ruled.trace("limit") < ruled.trace("grad_norm")).any()
    assert torch.equal(ruled.stack.flat, product.stack.flat)


def test_a_run_that_died_of_an_applied_nan_counts_every_step_since() -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            rate = (self.w * x).sum()
            return {"elbo": rate, "rate": rate, "distortion": torch.zeros(())}

    values = [1.0] * 5 + [float("nan")] + [1.0] * 24
    batches = lambda seeds, step: (torch.full((len(seeds), 1), values[step]),)  # noqa: E731
    for skip, expected in ((None, 25), (400.0, 1)):
        ensemble = Ensemble([Run(0, 0.1)], lambda run: Breaks(), batches, Rule(skip=skip), how="loop")
        ensemble.train(30)
        (row,) = stress.summarize(ensemble, 30)["runs"]
        assert row["nan"] == expected
        assert (row["nelbo"] is None) == (skip is None)


def test_a_gradient_that_is_nan_beside_a_finite_loss_is_a_skipped_update_where_high_ones_are_not_skipped() -> None:
    class Even(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            rate = (self.w.square().sum()).sqrt() + 0 * x.sum()  # at 0 its slope is 0 / 0
            return {"elbo": rate, "rate": rate, "distortion": torch.zeros(())}

    batches = lambda seeds, step: (torch.zeros(len(seeds), 1),)  # noqa: E731
    ensemble = Ensemble([Run(0, 0.02)], lambda run: Even(), batches, Rule(skip=math.inf), how="loop")
    ensemble.train(30)
    (row,) = stress.summarize(ensemble, 30)["runs"]
    assert (row["nan"], row["high"], row["skipped"]) == (0, 30, 30)
    remedy = remedies.find("explin/constant, only NaN skipped")
    assert stress_report._score(remedy, {"runs": [row]}, 0.02).skipped == 30


def result(nan: int = 0, high: int = 0, nelbo: float = 4.0) -> dict[str, Any]:
    return {"runs": [{"seed": s, "lr": 0.02, "nan": nan, "high": high, "nelbo": nelbo} for s in (0, 1)]}


def test_the_report_says_who_lost_no_update_and_leaves_the_control_out_of_the_ranking() -> None:
    done = [
        (remedies.find("vanilla"), result(nan=3)),
        (remedies.find("explin/constant"), result(high=2)),
        (remedies.find("explin/constant, clipped at 5"), result(high=1, nelbo=3.5)),
        (remedies.find("distortion alone"), result(high=4, nelbo=90.0)),
    ]
    protocol = stress_protocol.chosen(Stress(image_size=16, seeds=2, lr=(0.02,)))
    text = stress_report._ranking(done, protocol)
    assert "0 of 3 remedies had neither" in text
    assert "together: explin/constant, clipped at 5 (2); explin/constant (4); vanilla (6)." in text
    assert "No NaN and no update skipped in any seed: explin/constant, clipped at 5." in text
    assert "control: distortion alone had 8 bad steps" in text
    assert "from -0.500 (explin/constant, clipped at 5) to +0.000 (explin/constant)" in text


def test_a_remedy_that_skips_nothing_has_lost_its_nan_steps_and_any_other_what_it_skipped() -> None:
    counted = {"runs": [row | {"skipped": 1} for row in result(nan=3, high=2)["runs"]]}
    for name, lost in (("clipping alone", 6), ("explin/constant", 2)):
        assert stress_report._score(remedies.find(name), counted, 0.02).skipped == lost


def test_the_cost_of_a_remedy_says_of_how_few_seeds_it_is() -> None:
    half = result(nelbo=3.0)
    half["runs"][1]["nelbo"] = None
    done = [(remedies.find("vanilla"), result()), (remedies.find("explin"), half)]
    (line,) = stress_report._cost(done, 0.02)
    assert "from -1.000 (explin, 1 of 2 seeds)" in line


def test_a_learning_rate_at_which_nothing_happens_is_said_to_be_one() -> None:
    protocol = stress_protocol.chosen(Stress(image_size=16, seeds=2, lr=(0.02,)))
    assert "nothing broke, with any of the 1 remedies" in stress_report._ranking(
        [(remedies.find("explin"), result())], protocol
    )


def test_each_size_has_a_report_of_its_own_and_a_size_that_there_is_not_is_told_those_that_there_are() -> None:
    asked = {"stress": Stress(), "stress-16": Stress(image_size=16), "stress-quick": Stress(quick=True)}
    for name, options in asked.items():
        assert stress_report.report_name(stress_protocol.chosen(options)) == name
    assert stress_protocol.chosen(Stress(image_size=8)) == stress_protocol.chosen(Stress(quick=True))
    with pytest.raises(InvalidValueError, match="one of 32, 16, 8, not 12"):
        stress_protocol.chosen(Stress(image_size=12))


@pytest.mark.parametrize("protocol", stress_protocol.SIZES.values(), ids=lambda p: str(p.image_size))
def test_every_size_has_steps_left_after_its_warm_up(protocol: stress_protocol.Protocol) -> None:
    assert protocol.steps >= 2 * protocol.warmup
    assert protocol.enc_blocks.startswith(f"{protocol.image_size}x")


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="more than 20 steps"):
        stress.run(Stress(quick=True, steps=10))


# --- reports ----------------------------------------------------------------------------------------------------------


def report() -> Report:
    table = Table("t", "A table", ("a", "b"), ((1, 2.5), ("x", None)))
    origin = Origin("python -m vdvae_patch", "abc", "machine", "2", (0, 1), 3.0)
    return Report("name", "Title", "Introduction.", (table,), origin, ("A note.",))


def test_a_report_is_markdown_csv_json_and_a_figure(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    written = report().write(tmp_path, figure)
    assert [path.name for path in written] == ["name.md", "name.json", "name-t.csv", "name.png", "name.svg"]
    text = written[0].read_text()
    assert "| 1 | 2.500 |" in text
    assert "| x |  |" in text
    assert "![Title](name.png)" in text
    assert "- seeds: 0, 1" in text
    assert written[2].read_text() == "a,b\n1,2.5\nx,\n"


def test_the_same_report_gives_the_same_files(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    for folder in ("a", "b"):
        figure = Figure(figsize=(2, 2))
        figure.subplots().plot([1, 2])
        report().write(tmp_path / folder, figure)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_row_that_does_not_fit_its_header_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns"):
        Table("t", "", ("a", "b"), ((1,),))


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("reproduce table2 --data-root /home/x/data --quick", "reproduce table2 --data-root PATH --quick"),
        ("reproduce table2 --out=/a/b", "reproduce table2 --out=PATH"),
    ],
)
def test_the_paths_of_a_machine_stay_out_of_a_report(command: str, shown: str) -> None:
    assert without_paths(command) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.23456, "1.235"), (1e-9, "1.00e-09"), (2e12, "2.00e+12"), (math.nan, "NaN"), (-math.inf, "-inf"), (0, "0.000")],
)
def test_numbers_are_shown_with_what_there_is_to_see(value: float, shown: str) -> None:
    assert number(value) == shown
