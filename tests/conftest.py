"""Fixtures of more than one folder of tests."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from process_trees import finished

THINNED = frozenset(
    {
        "tests/e2e/test_clip_auto.py::test_a_resumed_run_has_the_window_that_it_had",
        "tests/e2e/test_forged_run.py::test_a_run_is_not_resumed_from_contents_that_no_run_writes",
        "tests/e2e/test_goodbye.py::test_ranks_part_in_silence_and_no_thread_of_gloo_is_left",
        "tests/e2e/test_ranks.py::test_a_run_in_half_precision_goes_on_as_if_it_had_not_been_stopped",
        "tests/guarding/test_deferred.py::test_the_outcome_is_that_of_a_read",
        "tests/guarding/test_gradients_by_hand.py::test_the_head_and_its_line_are_named",
        "tests/guarding/test_guard_on_ranks.py::test_all_ranks_decide_together",
        "tests/guarding/test_guard_on_ranks.py::test_the_flat_shards_of_fsdp1_are_refused",
        "tests/guarding/test_guard_on_ranks.py::test_the_share_of_a_rank_is_done_again",
        "tests/guarding/test_raised.py::test_an_error_of_a_loss_beside_the_model_is_explained",
        "tests/guarding/test_raised.py::test_an_uncaught_error_of_a_script_or_a_notebook_has_the_note",
        "tests/guarding/test_reports.py::test_an_exhibit_breaks_and_is_explained_and_cured",
        "tests/hosts/test_cross_entropy_by_stabilize.py::test_it_trains_and_is_taken_back_bit_for_bit",
        "tests/hosts/test_cross_entropy_by_stabilize.py::test_the_loss_becomes_the_bound_with_the_mean_that_the_host_computes",
        "tests/hosts/test_decoder_by_stabilize.py::test_the_loss_becomes_the_bound_with_the_optimal_sigma_for_any_number_of_rows",
        "tests/hosts/test_decoder_by_stabilize.py::test_three_steps_have_a_finite_loss_and_finite_gradients",
        "tests/hosts/test_normals_that_carry_log_sigma.py::test_the_kls_gradient_is_that_of_log_sigma_wherever_sigma_is_rounded",
        "tests/hosts/test_scan_relative_kl.py::test_stabilize_cures_them_and_keeps_the_loss",
        "tests/hosts/test_scan_stabilize.py::test_a_learned_prior_is_cured_and_the_loss_stays_where_it_was",
        "tests/hosts/test_scan_stabilize.py::test_a_learned_prior_may_be_made_constant_and_is_verified_beside_its_posterior",
        "tests/hosts/test_steps_on_a_gpu.py::test_every_decoder",
        "tests/hosts/test_steps_on_a_gpu.py::test_every_objective",
        "tests/hosts/test_steps_on_a_gpu.py::test_every_scale",
        "tests/hosts/test_steps_on_a_gpu.py::test_every_top_prior",
        "tests/unit/test_train_flat.py::test_a_factor_of_the_learning_rate_is_a_group_of_pytorchs",
    }
)
"""Families of medium cases that take minutes together: every second case of them is a slow one."""


@pytest.hookimpl(tryfirst=True)  # before cases are chosen by their marks
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    seen: Counter[str] = Counter()
    for item in items:
        family = item.nodeid.partition("[")[0]
        if family in THINNED:
            if seen[family] % 2:
                item.add_marker("slow")
            seen[family] += 1


@pytest.fixture
def environment_kept() -> Iterator[None]:
    """A trainer of pythae's sets MASTER_ADDR and MASTER_PORT, which a later test would take for a launcher's."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def page_program(tmp_path: Path) -> Callable[[str], list[tuple[str, str, str]]]:
    """Runs the Python blocks of a page as one program; gives each with what the page says it prints, and what it
    printed."""

    def run(page: str) -> list[tuple[str, str, str]]:
        blocks = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", page, flags=re.DOTALL)
        assert len(blocks) == page.count("```python") >= 3
        (tmp_path / "page.py").write_text("\n".join(f"{code}\nprint('@@@@')" for code, _ in blocks))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
        done = finished([sys.executable, "page.py"], cwd=tmp_path, env=environment, timeout=480)
        assert done.returncode == 0, done.stderr
        printed = done.stdout.split("@@@@\n")
        return [(code, told.strip("\n"), seen.strip("\n")) for (code, told), seen in zip(blocks, printed, strict=False)]

    return run


@pytest.fixture(scope="session", autouse=True)
def _groups_end_when_their_threads_rest() -> Iterator[None]:
    """A process group of this process ends a moment after its last collective.

    Gloo's thread needs Python's lock to drop the last operation. A `DistributedDataParallel` that is deleted before, as
    the last one to hold its group, waits for that thread with the lock held, and both wait for ever.
    """
    import torch.distributed as dist

    end = dist.destroy_process_group

    def end_at_rest(*args: Any, **kwargs: Any) -> None:
        time.sleep(0.2)  # without the lock, which the thread needs for microseconds
        end(*args, **kwargs)

    dist.destroy_process_group = end_at_rest
    yield
    dist.destroy_process_group = end
