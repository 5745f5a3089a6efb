"""`vdvae-patch bench`: what it measures, and the part of it that does not depend on the clock."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vdvae_patch import benchmark as benchmark_module
from vdvae_patch.benchmark import (
    PLAIN,
    _Contender,
    _measurement,
    batches_of,
    benchmark,
    benchmark_guard,
    interval_of_median,
    plain_step,
)
from vdvae_patch.cli import main
from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.cli.bench import BenchConfig, _variants
from vdvae_patch.data.normalization import ModelBatch
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.guarding import signals
from vdvae_patch.train.setup import prepare

pytestmark = pytest.mark.medium

SMALL = ["--preset=demo", "--data=builtin(train=24,valid=8,test=8)", "--batch-size=4"]
TINY = ["--width=8", "--zdim=2", "--num-mixtures=2", "--enc-blocks=32d8,4d4,1x1", "--dec-blocks=1x1,4m1,32m4"]
VARIANTS = ["vanilla", "upbounded", "explin", "vanilla/constant", "upbounded/constant", "explin/constant"]


def test_no_variant_of_the_paper_takes_more_memory_than_vanilla() -> None:
    torch.set_num_threads(1)
    rows = benchmark(parse_train(SMALL), VARIANTS, torch.device("cpu"), rounds=1, warmup=0, plain=False)
    assert [row.name for row in rows] == VARIANTS
    assert all(row.peak_bytes > 10e6 for row in rows)
    assert all(row.memory_ratio <= 1.0 for row in rows)


def test_ratios_are_medians_of_paired_rounds_in_which_either_comes_first() -> None:
    """A clock by which the second step of a round takes twice as long as the first."""
    ticks = itertools.chain.from_iterable(itertools.repeat([0.0, 1.0, 10.0, 12.0]))
    vanilla, explin = benchmark(
        parse_train(SMALL), ["vanilla", "explin"], torch.device("cpu"), rounds=7, warmup=0, plain=False,
        clock=lambda: next(ticks),
    )  # fmt: skip
    assert vanilla.time_ratio == vanilla.low == vanilla.high == 1
    # of seven ratios the interval goes from the least to the greatest, so there is one of each at least
    assert (explin.low, explin.high) == (0.5, 2.0)
    assert explin.time_ratio in (0.5, 2.0)
    assert (vanilla.seconds, explin.seconds) in ((1.0, 2.0), (2.0, 1.0))
    assert explin.images_per_second == 4 / explin.seconds


def test_ratios_are_of_the_contender_over_the_reference() -> None:
    reference = _Contender("vanilla", lambda number, batch: None, [1.0, 2.0, 4.0], peak=100)
    slower = _Contender("slower", lambda number, batch: None, [3.0, 6.0, 4.0], peak=150)
    found = _measurement(slower, reference, batch_size=8)
    assert (found.time_ratio, found.low, found.high) == (3.0, 1.0, 3.0)
    assert (found.memory_ratio, found.peak_bytes) == (1.5, 150)
    assert (found.seconds, found.images_per_second) == (4.0, 2.0)


def test_the_header_names_what_the_ratios_are_over() -> None:
    """The first that is named, which need not be vanilla."""
    first = _Contender("upbounded", lambda number, batch: None, [2.0], peak=100)
    others = [first, _Contender("explin", lambda number, batch: None, [3.0], peak=100)]
    text = benchmark_module.markdown([_measurement(one, first, batch_size=1) for one in others], "title")
    assert "| time over upbounded | peak MB a step | memory over upbounded |" in text
    assert "vanilla" not in text


@pytest.mark.parametrize("rounds", [6, 7, 8, 11, 16, 17, 30, 36, 80, 1200])
def test_an_interval_of_95_percent_holds_the_median_so_often_and_the_next_narrower_one_does_not(rounds: int) -> None:
    low, high = interval_of_median([float(value) for value in range(rounds)])
    assert low + high == rounds - 1

    def confidence(first: int) -> float:
        return sum(math.comb(rounds, below) for below in range(first + 1, rounds - first)) / 2**rounds

    assert confidence(int(low)) >= 0.95 > confidence(int(low) + 1)


@pytest.mark.parametrize(
    ("rounds", "said"), [(5, "the least and the greatest of 5, too few"), (6, "where the median lies with 95 %")]
)
def test_the_table_says_what_stands_in_brackets(rounds: int, said: str) -> None:
    one = _Contender("vanilla", lambda number, batch: None, [2.0] * rounds, peak=100)
    assert said in benchmark_module.markdown([_measurement(one, one, batch_size=1)], "title")


def test_the_title_of_a_host_that_is_not_trained_says_whose_seconds_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = _Contender("vanilla", lambda number, batch: None, [2.0] * 6, peak=100)
    monkeypatch.setattr(benchmark_module, "benchmark_example", lambda *_, **__: [_measurement(one, one, batch_size=1)])
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--host", "pythae", "--processor", "--rounds", "6"])
    assert stop.value.code == 0
    assert "6 interleaved rounds, seconds of the processor" in capsys.readouterr().out


def test_a_decoder_or_an_objective_that_is_named_for_all_is_in_every_variant_that_is_measured() -> None:
    asked = BenchConfig(variants="vanilla,explin/constant")
    assert _variants(asked, parse_train(SMALL)) == ["vanilla", "explin/constant"]
    flags = ["--decoder=optimal", "--objective=beta(beta=2)"]
    assert _variants(asked, parse_train([*SMALL, *flags])) == [
        "vanilla+optimal+beta(beta=2)", "explin/constant+optimal+beta(beta=2)",
    ]  # fmt: skip


def test_the_bench_takes_the_data_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    for name in ("train", "valid", "test"):
        np.save(tmp_path / f"{name}.npy", draws.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8))
    seen: list[ModelBatch] = []
    monkeypatch.setattr(benchmark_module, "_measure", lambda contenders, batches, *_: seen.extend(batches) or [])
    monkeypatch.setattr("vdvae_patch.cli.bench._show", lambda *_: None)
    named = [f"--data-root={tmp_path}", "--data=arrays", "--variants=vanilla", "--rounds=1", "--warmup=0"]
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--preset=demo", *TINY, "--batch-size=4", *named])
    assert stop.value.code == 0
    given = {image.tobytes() for image in np.load(tmp_path / "train.npy")}
    pixels = [((image + 1) * 127.5).round().byte().numpy().tobytes() for batch in seen for image in batch.target]
    assert len(pixels) == 8
    assert set(pixels) <= given


def test_the_table_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--variants=vanilla,upbounded", "--rounds=1", "--warmup=0", "--plain", f"--out={tmp_path}"]
    with pytest.raises(SystemExit) as stop:
        main(["bench", *SMALL, *flags])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert shown.strip() == (tmp_path / "bench.md").read_text().strip()
    record = json.loads((tmp_path / "bench.json").read_text())
    assert [row["name"] for row in record["rows"]] == ["vanilla", "upbounded", PLAIN]
    assert {"command", "commit", "machine"} <= set(record["run"])


@pytest.mark.slow
def test_scaling_measures_one_and_two_processes_and_says_what_they_exchange(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--scaling", *SMALL, *TINY, "--device=cpu", f"--out={tmp_path / 'out'}"])
    assert stop.value.code == 0
    record = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert {"command", "commit", "machine", "threads"} <= set(record["run"])
    alone, both = record["rows"]
    assert (alone["ranks"], both["ranks"], alone["batch"], both["batch"]) == (1, 2, 4, 4)
    assert both["images_per_second"] == 8 / both["step_seconds"]
    assert both["efficiency"] == both["images_per_second"] / (2 * alone["images_per_second"])
    # a ring of two: each sends every gradient once, 4 bytes each
    assert (alone["reduced_bytes_a_rank"], both["reduced_bytes_a_rank"]) == (0, 4 * both["parameters"])
    assert f"{both['reduced_bytes_a_rank']:,.0f}" in capsys.readouterr().out


def test_an_unknown_flag_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--round=3"])
    assert stop.value.code == 2
    assert "unknown flag '--round'; did you mean '--rounds'" in capsys.readouterr().err


def test_a_guard_is_there_in_guarded_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it is there it hears of every step, so that a plain one would pay for it, too."""
    seen: list[bool] = []
    steps = iter(range(1000))

    def clock() -> float:
        seen.append(bool(signals._listeners))
        return float(next(steps))

    rows = benchmark_guard(parse_train(SMALL), torch.device("cpu"), rounds=1, warmup=0, clock=clock)
    assert [row.name for row in rows] == [PLAIN, f"{PLAIN}, guarded"]
    assert sum(seen) == len(seen) / 2 == 2
    assert not signals._listeners


def test_a_plain_step_steps_where_no_norm_is_too_large() -> None:
    config = parse_train([*SMALL, "--skip-threshold=-1"])
    work = prepare(config, torch.device("cpu"))
    before = [p.detach().clone() for p in work.model.parameters()]
    plain_step(work, config)(0, batches_of(work, config, torch.device("cpu"), 1)[0])
    assert not all(torch.equal(a, b) for a, b in zip(before, work.model.parameters(), strict=True))


def test_a_plain_step_is_of_the_precision_in_the_title_and_refuses_what_it_does_not_do() -> None:
    """Else its time stands under another name: `bench --guard --precision bf16` measured float32."""
    config = parse_train([*SMALL, *TINY, "--precision=bf16"])
    work = prepare(config, torch.device("cpu"))
    seen: list[bool] = []
    work.model.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    plain_step(work, config)(0, batches_of(work, config, torch.device("cpu"), 1)[0])
    assert seen == [True]
    for flag, said in (("--precision=fp16", "--precision fp16 means"), ("--accumulate=2", "--accumulate 2 means")):
        with pytest.raises(InvalidValueError, match=said):
            plain_step(work, parse_train([*SMALL, flag]))


def test_a_guards_cost_is_not_told_of_a_compiled_loop(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--guard", *SMALL, "--compile"])
    assert "--compile means nothing with --guard, whose plain loop is eager" in capsys.readouterr().err
