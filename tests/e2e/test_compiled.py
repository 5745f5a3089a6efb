"""`--compile`: the same run to rounding, alone and on two ranks, resumed, patched; its code kept, its time told."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from runs import Launched, final_state, metrics, tiny

from vdvae_patch.train import compiled
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.run import Counters
from vdvae_patch.train.step import BadRanks, StepRecord

pytestmark = pytest.mark.medium


def smallest(out: Path, **settings: Any) -> TrainConfig[Any]:
    """Two blocks: what compiles in seconds."""
    config = tiny(out, **{"steps": 4, "checkpoint_every": 2, **settings})
    return replace(config, architecture=replace(config.architecture, enc_blocks="32d32,1x1", dec_blocks="1x1,32m1"))


def traced_alone() -> None:
    """In the process of a run: the compiler's graphs, forward and backward, run by torch's own operators.

    What generates code from them takes a minute, and is tested once below.
    """
    compile_with = torch.compile
    torch.compile = lambda function, **_: compile_with(function, backend="aot_eager")


def scalar_code(cache: str) -> None:
    """In the process of a run: code without vector instructions, which take long to compile."""
    os.environ["VDVAE_PATCH_CACHE"] = cache
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    import torch._inductor.config

    torch._inductor.config.cpp.simdlen = 1


def done(config: TrainConfig[Any], ranks: int = 1, **options: Any) -> str:
    """As `finish`, with the patience that a compiler asks for."""
    launched = Launched(config, ranks, **options)
    statuses = launched.wait(570)
    assert statuses == [0] * ranks, launched.said()
    return launched.said()


def assert_same_to_rounding(one: Path, other: Path, tolerance: float) -> None:
    rows = [metrics(one), metrics(other)]
    assert [len(found) for found in rows] == [4, 4]
    for a, b in zip(*rows, strict=True):
        for name in ("elbo", "distortion", "grad_norm"):
            assert b[name] == pytest.approx(a[name], rel=tolerance), (name, a["step"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "ranks", "precision"),
    [("vanilla", 1, "fp32"), ("explin/constant", 1, "fp32"), ("upbounded", 2, "fp32"), ("explin", 1, "bf16")],
)
def test_a_traced_run_is_the_eager_one_to_rounding_and_goes_on_bit_for_bit(
    variant: str, ranks: int, precision: str, tmp_path: Path
) -> None:
    eager = smallest(tmp_path / "eager", variant=variant, precision=precision)
    whole = replace(eager, out=tmp_path / "whole", compile=True)
    halves = replace(whole, out=tmp_path / "halves", steps=2)
    done(eager, ranks)
    said = done(whole, ranks, prepare=traced_alone)
    done(halves, ranks, prepare=traced_alone)
    done(replace(halves, steps=4, resume=True), ranks, prepare=traced_alone)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "halves")
    states = [final_state(tmp_path / name) for name in ("whole", "halves")]
    # each of the two sessions left out its first step
    assert [state["counters"].pop("images") for state in states] == [6 * ranks, 4 * ranks]
    for state in states:
        state["counters"].pop("seconds")
        state.pop("generators")
    runs.assert_same(*states)
    assert_same_to_rounding(tmp_path / "eager", tmp_path / "whole", 1e-4 if precision == "fp32" else 0.05)
    took = re.search(r"compiled in the first step, which took ([\d.]+) s", said)
    assert took is not None, said
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    steps = [json.loads(line)["step_time"] for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    # the log has the time of every step, the summary the speed of those that compiled nothing
    assert steps[0] == pytest.approx(float(took[1]), abs=0.5)
    speed = 3 * eager.optimization.batch_size * ranks / summary["train_seconds"]
    assert summary["images_per_second"] == pytest.approx(speed)
    assert summary["train_seconds"] < sum(steps)


@pytest.mark.slow
def test_a_compiled_run_of_a_patched_model_is_the_eager_one_to_rounding_and_keeps_its_code(tmp_path: Path) -> None:
    eager = smallest(tmp_path / "eager", variant="explin/constant")
    done(eager)
    cache = str(tmp_path / "cache")
    said = done(replace(eager, out=tmp_path / "compiled", compile=True), prepare=scalar_code, cache=cache)
    assert_same_to_rounding(tmp_path / "eager", tmp_path / "compiled", 1e-4)
    assert f"the code is kept in {cache}" in said
    assert any((Path(cache) / "compiled").rglob("*.so"))


def test_a_step_that_compiles_is_no_part_of_images_a_second() -> None:
    counters = Counters()
    counters.leave_out(100.0, 8)
    for step, seconds in enumerate((101.0, 1.0, 1.0)):
        counters.seconds += seconds
        counters.add(StepRecord(step, 1.0, 1.0, 0.0, 1.0, 1e-3, None, BadRanks()), 8)
    assert (counters.images, counters.seconds) == (16, 3.0)


def test_compiled_code_is_kept_where_the_next_run_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

    monkeypatch.setenv("VDVAE_PATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())  # torch writes its own choice there
    assert compiled.keep_compiled_code() == tmp_path / "cache" / "compiled"
    assert Path(cache_dir()) == tmp_path / "cache" / "compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "own"))
    assert compiled.keep_compiled_code() == tmp_path / "own"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VDVAE_PATCH_CACHE", str(tmp_path / "file"))
    assert compiled.keep_compiled_code() is None
