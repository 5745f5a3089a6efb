"""Several ranks: one decision, one computation, and an end in good order when one is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks_child
import runs
from runs import SERVER, Launched, environment, final_state, finish, free_port, metrics, tiny


def on_ranks(work: Callable[..., Any], ranks: int, *arguments: Any) -> list[Any]:
    """What `work(world, *arguments)` gives on each of `ranks` processes."""
    answers = SERVER.Queue()
    port = free_port()
    processes = [
        SERVER.Process(target=ranks_child.call, args=(work, environment(rank, ranks, port), answers, arguments))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    results = dict(answers.get(timeout=90) for _ in processes)
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * ranks
    return [results[rank] for rank in range(ranks)]


@pytest.mark.medium
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_bad_value_at_any_of_eight_sites_on_any_rank_skips_on_all(precision: str) -> None:
    everyone = on_ranks(ranks_child.inject, 2, precision)
    assert len(everyone[0]) == 2 * len(ranks_child.SITES)
    overflow = "loss_scale" if precision == "fp16" else "high_gradient"
    for mine, others in zip(*everyone, strict=True):
        site, rank, record = mine["site"].partition("=")[0], mine["rank"], mine["record"]
        assert mine["same"], f"{mine['site']} on rank {rank} moved something"
        assert others["same"]
        assert repr(record) == repr(others["record"]), "the ranks disagree"
        expected = {"rate": "nan_rate", "distortion": "nan_distortion", "gradient": overflow}[site]
        assert record.cause == expected
        assert getattr(record.sites, site) == (rank,)
        assert record.bad_ranks == (rank,)
        assert mine["scaled"] == others["scaled"] == (0.5 if expected == "loss_scale" else 1)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 2**-6), ("fp16", 2**-9)])
def test_gradients_of_two_ranks_of_eight_are_those_of_one_of_sixteen(precision: str, tolerance: float) -> None:
    """To the rounding of the type that they are computed in, relative to a parameter's largest."""
    together = on_ranks(ranks_child.gradients, 2, 16, precision)
    alone = on_ranks(ranks_child.gradients, 1, 16, precision)[0]
    for first, second, whole in zip(*together, alone, strict=True):
        assert np.array_equal(first, second)
        np.testing.assert_allclose(first, whole, rtol=0, atol=tolerance * np.abs(whole).max())


@pytest.mark.medium
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_half_precision_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path, precision: str) -> None:
    finish(tiny(tmp_path / "undisturbed", steps=20, precision=precision), 2)
    finish(tiny(tmp_path / "run", steps=9, precision=precision), 2)
    finish(tiny(tmp_path / "run", steps=20, precision=precision, resume=True), 2)
    runs.assert_same_run(tmp_path / "undisturbed", tmp_path / "run")


def test_ranks_with_different_settings_are_refused_before_the_first_step(tmp_path: Path) -> None:
    out = tmp_path / "run"
    port = free_port()
    log = tmp_path / "log"
    from runs_child import work

    processes = [
        SERVER.Process(target=work, args=(tiny(out, lr=lr), environment(rank, 2, port), log, None, {}))
        for rank, lr in enumerate((1e-3, 2e-3))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [2, 2]
    assert "rank 1 differs from rank 0 in --lr: 0.002 there, 0.001 on rank 0" in log.read_text()
    assert not out.exists()


@pytest.mark.slow
def test_all_end_within_thirty_seconds_when_a_rank_dies_and_say_which(tmp_path: Path) -> None:
    launched = {dead: Launched(tiny(tmp_path / f"dead{dead}", steps=100_000), 2) for dead in (0, 1)}
    started: dict[int, float] = {}
    for dead, run in launched.items():
        run.until(lambda dead=dead: runs.count_lines(tmp_path / f"dead{dead}" / "metrics.jsonl") > 3)
        run.kill((dead,))
        started[dead] = time.monotonic()
    for dead, run in launched.items():
        statuses = run.wait(30 - (time.monotonic() - started[dead]))
        assert statuses[1 - dead] == 2
        assert f"rank {dead}" in run.said()
        assert "127.0.0.1:" in run.said()
        assert "--resume" in run.said()


@pytest.mark.slow
def test_a_rank_whose_partners_never_come_gives_up_with_the_address(tmp_path: Path) -> None:
    from runs_child import work

    port = free_port()
    first_only = environment(0, 2, port)
    nobody_there = environment(1, 2, free_port())
    logs = [tmp_path / "first", tmp_path / "nobody"]
    began = time.monotonic()
    processes = [
        SERVER.Process(target=work, args=(tiny(tmp_path / "run"), env, log, None, {}))
        for env, log in zip((first_only, nobody_there), logs, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(32)
    assert [process.exitcode for process in processes] == [2, 2]
    assert time.monotonic() - began < 32
    assert f"rank 0 of 2 could not meet the others at 127.0.0.1:{port}" in logs[0].read_text()
    assert f"at 127.0.0.1:{nobody_there['MASTER_PORT']}" in logs[1].read_text()


@pytest.mark.slow
def test_a_signal_to_one_rank_saves_on_all_and_says_resume_me(tmp_path: Path) -> None:
    out = tmp_path / "run"
    steps = 200  # the signal must arrive before the end, also where the test waits for its turn
    finish(tiny(tmp_path / "undisturbed", steps=steps), 2)
    run = Launched(tiny(out, steps=steps), 2)
    run.until(lambda: runs.count_lines(out / "metrics.jsonl") > 10)
    assert run.processes[1].pid is not None
    os.kill(run.processes[1].pid, 15)
    assert run.wait() == [75, 75]
    assert "saved; go on with --resume" in run.said()
    finish(tiny(out, steps=steps, resume=True), 2)
    runs.assert_same_run(tmp_path / "undisturbed", out)


@pytest.mark.medium
def test_a_run_goes_on_with_another_number_of_ranks_and_says_so(tmp_path: Path) -> None:
    out = tmp_path / "run"
    finish(tiny(out, steps=10), 2)
    said = finish(tiny(out, steps=20, resume=True), 1)
    assert "1 ranks now, 2 before; the batch stays at 4 images, 4 a rank" in said
    assert [row["step"] for row in metrics(out)] == list(range(20))
    assert final_state(out)["position"] == {"step": 20, "global_batch": 4, "ranks": 1}
    assert len(final_state(out)["generators"]) == 1


@pytest.mark.medium
def test_a_batch_that_does_not_divide_among_the_ranks_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    finish(tiny(out, steps=8, batch_size=3), 1)
    run = Launched(tiny(out, steps=20, batch_size=3, resume=True), 2)
    assert run.wait() == [2, 2]
    assert "batch of 3 images does not divide among 2 ranks" in run.said()


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_read_disjoint_shares_of_one_batch(tmp_path: Path, ranks: int) -> None:
    from vdvae_patch.data.order import batch_indices, rank_slice

    everyone = batch_indices(24, 8, 3, seed=5)
    shares = [rank_slice(everyone, rank, ranks) for rank in range(ranks)]
    assert sorted(int(i) for share in shares for i in share) == sorted(everyone.tolist())
    assert len({int(i) for share in shares for i in share}) == 8


def other_images(rank: int) -> None:
    """The last rank draws as many images as the others, and other ones."""
    if os.environ.get("RANK") == str(rank):
        from vdvae_patch.data import builtin

        read = builtin.read
        builtin.read = lambda **options: read(**{**options, "seed": 1})  # type: ignore[assignment]


@pytest.mark.medium
def test_ranks_with_other_images_of_the_same_number_are_refused(tmp_path: Path) -> None:
    run = Launched(tiny(tmp_path / "run"), 2, prepare=other_images, rank=1)
    assert set(run.wait()) == {2}
    assert "rank 1 differs from rank 0 in fingerprint of the" in run.said()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.medium
def test_ranks_measure_the_model_of_rank_0_whose_running_statistics_a_checkpoint_keeps() -> None:
    assert on_ranks(ranks_child.measured, 3) == [2.5 - 10] * 3
