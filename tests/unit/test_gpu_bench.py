"""`bench --gpu`: its plan, its files, its time and its page; what it measures on a CPU is a rehearsal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vdvae_patch.benchmark import PLAIN
from vdvae_patch.cli import main
from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.errors import RunError
from vdvae_patch.gpu_bench import session
from vdvae_patch.gpu_bench.bounds import PEAKS, STATE_BYTES_A_PARAMETER, Peaks, Work, count_work, peaks_of
from vdvae_patch.gpu_bench.cells import Cell, plan
from vdvae_patch.gpu_bench.launches import count_launches
from vdvae_patch.gpu_bench.measure import measure
from vdvae_patch.gpu_bench.results import Result, Results
from vdvae_patch.gpu_bench.settings import settings_of
from vdvae_patch.gpu_bench.table import GOALS, line, page

CPU = torch.device("cpu")
TINY = [
    "--preset=demo", "--data=builtin(train=24,valid=8,test=8)", "--batch-size=2", "--device=cpu", "--width=8",
    "--zdim=2", "--num-mixtures=2", "--enc-blocks=32d8,4d4,1x1", "--dec-blocks=1x1,4m1,32m4",
]  # fmt: skip
VARIANTS = ["vanilla", "explin", "explin/constant"]


def test_a_cell_is_a_configuration_of_train() -> None:
    config = parse_train(TINY)
    half = settings_of(config, Cell("steps", "bf16", 7, "compiled"))
    assert (half.precision, half.matmul, half.compile, half.optimization.batch_size) == ("bf16", "tf32", True, 7)
    exact = settings_of(config, Cell("resume", "ieee", way="deterministic"))
    assert (exact.precision, exact.matmul, exact.deterministic, exact.compile) == ("fp32", "ieee", True, False)
    assert settings_of(config, Cell("steps", "tf32", 7, "graph")).cuda_graph


def no_command(seed: int, folder: Path) -> list[str]:
    raise AssertionError("no process of a seed is started here")


class TestThePlan:
    cells = plan(VARIANTS, [16, 32, 64, 128])

    def test_has_every_way_arithmetic_and_batch(self) -> None:
        steps = {(c.way, c.arithmetic, c.batch) for c in self.cells if c.kind == "steps"}
        every = {(a, b) for a in ("ieee", "tf32", "bf16") for b in (16, 32, 64, 128)}
        assert {(a, b) for way, a, b in steps if way == "eager"} == every
        assert {(a, b) for way, a, b in steps if way == "compiled"} == every
        assert {(a, b) for way, a, b in steps if way == "graph"} == {(a, b) for a, b in every if a != "ieee"}
        kernels = {(way, a, b) for way, a, b in steps if way.startswith("fused")}
        assert kernels == {(way, a, 16) for way in ("fused", "fused-graph") for a in ("tf32", "bf16")}
        assert {c.kind for c in self.cells} == {"work", "steps", "evaluation", "resume", "replay", "seeds"}

    def test_names_each_cell_once_and_every_variant_at_every_batch(self) -> None:
        assert len({c.name for c in self.cells}) == len(self.cells)
        for batch in (16, 32, 64, 128):
            eager = {
                c.arithmetic: c.contenders for c in self.cells if (c.way, c.batch) == ("eager", batch) and c.contenders
            }
            assert eager == {"tf32": (*VARIANTS, PLAIN), "ieee": (*VARIANTS, PLAIN), "bf16": tuple(VARIANTS)}

    def test_begins_with_what_the_goals_need(self) -> None:
        places = {c.name: n for n, c in enumerate(self.cells)}
        for goal in GOALS:
            first = min(n for n, c in enumerate(self.cells) if (c.arithmetic, c.batch) == (goal.arithmetic, goal.batch))
            assert first < places["steps-eager-tf32-batch32-of4"]
        assert places["resume-eager-batch16"] < places["steps-compiled-bf16-batch16-of2"]

    def test_has_no_graphs_where_there_is_no_gpu_and_takes_one_batch(self) -> None:
        assert {c.way for c in plan(["vanilla"], [4], graphs=False, kernels=False)} == {
            "eager",
            "compiled",
            "deterministic",
        }


class TestTheFolder:
    def test_keeps_what_was_measured_and_puts_last_what_was_not_finished(self, tmp_path: Path) -> None:
        cells = [Cell("work"), Cell("replay", batch=1), Cell("resume", batch=1), Cell("seeds", batch=1)]
        results = Results(tmp_path, {"commit": "a"})
        results.write(cells[0], Result("begun", {}))
        results.write(cells[1], Result("done", {"exact": True}, 1.5))
        results.write(cells[3], Result("failed", {}, 0.5, "no memory"))
        again = Results(tmp_path, {"commit": "a"})
        assert again.left(cells) == [cells[2], cells[0]]
        assert again.read(cells[1]) == Result("done", {"exact": True}, 1.5)

    def test_is_not_mixed_with_another_commit(self, tmp_path: Path) -> None:
        Results(tmp_path, {"commit": "a", "machine": "m"})
        with pytest.raises(RunError, match=r"measured with commit a, now b: .* name another --out"):
            Results(tmp_path, {"commit": "b", "machine": "m"})

    @pytest.mark.parametrize(
        ("about", "said"), [({"machine": "a"}, "of cell"), ({"machine": "b"}, "of another measure")]
    )
    def test_a_cell_that_was_renamed_or_measured_elsewhere_is_refused(
        self, tmp_path: Path, about: dict[str, str], said: str
    ) -> None:
        own, other = Results(tmp_path / "own", {"machine": "a"}), Results(tmp_path / "other", about)
        cell = Cell("evaluation") if said == "of cell" else Cell("work")
        other.write(cell, Result("done", {"step_ms": 1.0}, 1.0))
        (tmp_path / "other" / "cells" / f"{cell.name}.json").rename(tmp_path / "own" / "cells" / "work.json")
        with pytest.raises(RunError, match=said):
            own.read(Cell("work"))

    def test_a_number_that_was_changed_is_measured_again(self, tmp_path: Path) -> None:
        results, cell = Results(tmp_path, {}), Cell("work")
        results.write(cell, Result("done", {"step_ms": 1.0}, 1.0))
        file = tmp_path / "cells" / f"{cell.name}.json"
        file.write_text(file.read_text().replace("1.0", "2.0", 1))
        assert results.read(cell) is None
        kept = json.loads(file.read_text())
        file.write_text(json.dumps({key: value for key, value in kept.items() if key not in ("_check", "checksum")}))
        assert results.read(cell) is None

    def test_measures_again_what_was_cut_short(self, tmp_path: Path) -> None:
        results, cell = Results(tmp_path, {}), Cell("work")
        results.write(cell, Result("done", {"exact": True}))
        path = tmp_path / "cells" / "work.json"
        path.write_text(path.read_text()[:20])
        assert results.left([cell]) == [cell]


def started(code: str, results: Results) -> Any:
    """What starts a process that runs `code` with the folder of the cells as `cells`."""
    head = (
        "import os, sys, time\nfrom pathlib import Path\nfrom vdvae_patch.skips.whole import json_text\n"
        "cells = Path(sys.argv[1])\n"
        "def write(name, state):\n"
        f"    record = {{'cell': name, 'of': {results.of!r}, 'state': state, 'values': {{}}, 'seconds': 1.0}}\n"
        "    record['error'] = ''\n"
        "    text = json_text(record, checksum=True)\n"
        "    part = cells / (name + '.part'); part.write_text(text); part.rename(cells / (name + '.json'))\n"
    )
    return lambda seconds: subprocess.Popen([sys.executable, "-c", head + code, str(results.cells)])


class TestTheWatch:
    cells = (Cell("work"), Cell("replay", batch=1), Cell("resume", batch=1))

    def test_goes_on_behind_a_cell_that_ended_its_process(self, tmp_path: Path) -> None:
        results, said = Results(tmp_path, {}), []
        code = (
            "for name in ('work', 'replay-batch1', 'resume-eager-batch1'):\n"
            "    if (cells / (name + '.json')).exists(): continue\n"
            "    write(name, 'begun')\n    if name == 'replay-batch1': os._exit(9)\n    write(name, 'done')\n"
        )
        left = session.watch(
            results, list(self.cells), started(code, results), seconds=60, say=said.append,
            describe=lambda cell, found: f"{cell.name} {found.state}",
        )  # fmt: skip
        assert left == []
        assert [text.split("] ")[1] for text in said] == [
            "work done",
            "replay-batch1 failed",
            "resume-eager-batch1 done",
        ]
        found = results.read(self.cells[1])
        assert found is not None
        assert "ended with status 9" in found.error

    def test_ends_what_goes_on_for_too_long_and_says_what_is_left(self, tmp_path: Path) -> None:
        results = Results(tmp_path, {})
        code = "write('work', 'done')\nwrite('replay-batch1', 'begun')\ntime.sleep(600)\n"
        clock = iter(range(1000))
        left = session.watch(
            results, list(self.cells), started(code, results), seconds=40, say=lambda text: None,
            describe=lambda cell, found: "", clock=lambda: float(next(clock)),
        )  # fmt: skip
        assert left[-1] == self.cells[1]
        assert self.cells[2] in left

    def test_gives_up_on_a_process_that_begins_nothing(self, tmp_path: Path) -> None:
        results = Results(tmp_path, {})
        with pytest.raises(RunError, match="ended with status 3 before it began a cell"):
            session.watch(
                results, list(self.cells), started("sys.exit(3)", results), seconds=60, say=lambda text: None,
                describe=lambda cell, found: "",
            )  # fmt: skip


@pytest.mark.slow
def test_a_cell_that_fails_does_not_take_the_others_with_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = parse_train(TINY)
    results = Results(tmp_path, {})
    cells = [Cell("steps", "ieee", 2, "eager", ("no such variant",)), Cell("replay", "ieee", 2)]
    session.work(config, results, cells, CPU, seconds=600, command=no_command)
    first, second = (results.read(cell) for cell in cells)
    assert first is not None
    assert second is not None
    assert (first.state, second.state) == ("failed", "done")
    assert "no such variant" in first.error
    assert second.values["exact"]
    assert second.values["recorded"] == second.values["exact_ones"] == 4


@pytest.mark.medium
def test_steps_are_measured_in_turns_with_memory_operators_and_the_time_of_the_first(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    cell = Cell("steps", "ieee", 2, "eager", ("vanilla", "explin", PLAIN))
    ticks = iter(range(10**6))
    found = measure(
        parse_train(TINY), cell, CPU, seconds=0, folder=tmp_path, command=no_command, clock=lambda: float(next(ticks))
    )
    assert [row["contender"] for row in found["rows"]] == ["vanilla", "explin", PLAIN]
    assert found["rounds"] == 3
    for row in found["rows"]:
        # a clock that goes on by 1 at each look: three steps between two looks
        assert row["seconds"] == pytest.approx(1 / 3)
        assert row["images_per_second"] == pytest.approx(6)
        assert (row["ratio"], row["first_step_seconds"]) == (1, 1)
        assert row["operators"] > 500
        assert row["peak_bytes"] > 1e5
        assert row["launches"] is None


@pytest.mark.medium
def test_a_resumed_run_is_compared_with_the_undisturbed_one(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = parse_train(TINY)
    found = measure(config, Cell("resume", batch=2), CPU, seconds=0, folder=tmp_path / "x", command=no_command)
    assert found["exact"]
    assert (found["logs_part_at_step"], found["largest_difference_of_weights"]) == (None, 0)
    assert not (tmp_path / "x").exists()


COUNTING = """
import pathlib, sys, time
folder, seed = pathlib.Path(sys.argv[1]), sys.argv[2]
(folder / f"ready-{seed}").touch()
while not (folder / "go").exists():
    time.sleep(0.005)
(folder / f"rate-{seed}").write_text("2.5")
"""


def test_two_seeds_leave_their_counts_where_the_cell_waits_for_them(tmp_path: Path) -> None:
    results = Results(tmp_path, {})
    cell = Cell("seeds", batch=4)
    session.work(
        parse_train(TINY), results, [cell], CPU, seconds=600,
        command=lambda seed, folder: [sys.executable, "-c", COUNTING, str(folder), str(seed)],
    )  # fmt: skip
    found = results.read(cell)
    assert found is not None
    assert (found.state, found.error) == ("done", "")
    assert found.values["images_per_second_alone"] == 10  # 4 images, 2.5 steps a second
    assert found.values["images_per_second_of_two"] == 20
    assert found.values["gain"] == 2


def test_the_command_of_a_seed_names_the_folder_in_which_the_cell_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []

    def work(*_: Any, command: Any, **__: Any) -> None:
        given.append(command(1, tmp_path / "here"))

    monkeypatch.setattr(session, "work", work)
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--gpu", *TINY[:2], "--device=cpu", f"--out={tmp_path}", "--part", "cells"])
    assert stop.value.code == 0
    ((*_, part),) = given
    assert part == f"seed:1:{tmp_path / 'here'}"


@pytest.mark.slow
def test_two_seeds_of_the_command_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [flag for flag in TINY if not flag.startswith("--batch-size")]
    cell = Cell("seeds", "tf32", 2)
    monkeypatch.setattr("vdvae_patch.gpu_bench.cells.plan", lambda *_, **__: [cell])  # in this process alone
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--gpu", *flags, "--batches=2", f"--out={tmp_path}", "--part", "cells"])
    assert stop.value.code == 0
    (file,) = (tmp_path / "cells").glob("seeds*.json")
    found = json.loads(file.read_text())
    assert found["state"] == "done", found
    assert found["values"]["images_per_second_of_two"] > 0


def test_an_evaluation_is_of_its_own_precision(tmp_path: Path) -> None:
    config = parse_train(TINY)
    half, full = (
        measure(config, Cell("evaluation", a, 4), CPU, seconds=0, folder=tmp_path, command=no_command)
        for a in ("bf16", "ieee")
    )
    assert half["images"] == full["images"] == 24
    assert half["nelbo"] != full["nelbo"]
    assert half["nelbo"] == pytest.approx(full["nelbo"], rel=0.05)


class TestTheBounds:
    def test_work_is_counted_by_image_and_by_step(self) -> None:
        counted = count_work(parse_train(TINY), CPU)
        assert counted.operations > 1e6
        assert counted.saved_each["bf16"] < counted.saved_each["ieee"]
        assert counted.saved_each["ieee"] == counted.saved_each["tf32"] > 1e4
        state = STATE_BYTES_A_PARAMETER * counted.parameters
        by_batch = [counted.bytes_moved("ieee", batch) - state for batch in (1, 2, 3)]
        assert by_batch[2] - by_batch[1] == pytest.approx(by_batch[1] - by_batch[0])

    def test_a_linear_layer_saves_its_input_and_multiplies_three_times(self) -> None:
        """Two operations a product: forward, and backward for the input and for the weight."""
        work = Work(operations=6 * 4 * 5, parameters=20, saved_fixed={"ieee": 0.0}, saved_each={"ieee": 16.0})
        peaks = Peaks(ieee=120.0, tf32=1.0, bf16=1.0, bandwidth=992.0, source="")
        assert work.bounds("ieee", 1, peaks) == (1.0, (32 + 960) / 992)

    def test_an_unknown_device_is_measured_and_a_known_one_is_looked_up(self) -> None:
        found = peaks_of(CPU)
        assert found.source.startswith("measured")
        assert min(found.ieee, found.tf32, found.bf16, found.bandwidth) > 1e6
        assert PEAKS["NVIDIA H200"].operations("bf16") == 989.4e12


def test_operators_are_counted() -> None:
    x = torch.ones(3)
    few, many = (count_launches(lambda n=n: [x.neg_() for _ in range(n)], CPU).operators for n in (2, 7))  # type: ignore[misc]
    assert many - few == 5


def row(name: str, speed: float, batch: int) -> dict[str, Any]:
    return {
        "contender": name, "seconds": batch / speed, "least_seconds": 0.0, "most_seconds": 0.0,
        "images_per_second": speed, "ratio": 1.0, "ratio_low": 0.9, "ratio_high": 1.1, "first_step_seconds": 3.0,
        "peak_bytes": 5_000_000, "reserved_bytes": None, "operators": 10, "launches": 7, "kernels": 8, "copies": 1,
    }  # fmt: skip


def test_the_page_stands_beside_the_goals_and_says_what_failed_and_what_was_left_out(tmp_path: Path) -> None:
    cells = [
        Cell("work"),
        Cell("steps", "tf32", 16, "eager", ("vanilla", PLAIN)),
        Cell("steps", "tf32", 16, "graph", ("vanilla",)),
        Cell("steps", "bf16", 64, "eager", ("vanilla",)),
        Cell("resume", batch=16),
        Cell("replay", batch=16),
        Cell("seeds", batch=16),
    ]
    results = Results(tmp_path, {})
    work = Work(1e9, 10, dict.fromkeys(("ieee", "tf32", "bf16"), 0.0), dict.fromkeys(("ieee", "tf32", "bf16"), 1e6))
    values: list[dict[str, Any]] = [
        {"work": work.record(), "peaks": vars(PEAKS["NVIDIA H200"])},
        {"rows": [row("vanilla", 300, 16), row(PLAIN, 100, 16)]},
        {"rows": [row("vanilla", 450, 16)]},
        {"rows": [row("vanilla", 1234, 64)]},
        {"exact": False, "steps": 8, "resumed_after": 4, "logs_part_at_step": 5, "largest_difference_of_weights": 1e-7},
    ]
    for cell, found in zip(cells, values, strict=False):
        results.write(cell, Result("done", found, 1.0))
    results.write(cells[5], Result("failed", {}, 1.0, "OutOfMemoryError: CUDA out of memory"))
    text = page("Title", results, cells, results.left(cells))
    assert "| 4 times the genuine loop, tf32, batch 16 | vanilla | 4.50 times | graph |" in text
    assert "| 1,500 images/s on one H200, bf16, batch 64 | vanilla | 1,234 images/s | eager |" in text
    assert "7 times the genuine loop" not in text
    assert "resumed after 4: another run than the undisturbed one; the logs part at step 5" in text
    assert "- replay-batch16: OutOfMemoryError: CUDA out of memory" in text
    assert text.rstrip().endswith("goes on with them: seeds-batch16.")
    # 16 images of 1 GFLOP at 494.7 TFLOP/s are 32 µs of 35.6 ms
    assert "| vanilla | graph | tf32 | 16 | 35.56 | 450.0 |" in text
    assert "| 10 | 7 | 8 | 0% |" in text
    assert line(cells[3], results.read(cells[3])) == "steps-eager-bf16-batch64-of1: images/s: vanilla 1234"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gpu"], "has no CUDA device; rehearse it with --device cpu --preset demo"),
        (["--gpu", "--device=cpu", "--batch-size=4"], "--batch-size means nothing with --gpu"),
        (["--gpu", "--device=cpu", "--batches=4,x"], "--batches must be numbers of images"),
        (["--gpu", "--device=cpu", "--seconds=0"], "--seconds must be a positive number"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available() and "--device=cpu" not in flags:
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as stop:
        main(["bench", *flags, f"--out={tmp_path / 'out'}"])
    assert stop.value.code == 2
    (words,) = capsys.readouterr().err.strip().splitlines()
    assert said in words
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_measures_for_a_while_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [flag for flag in TINY if not flag.startswith("--batch-size")]
    said = []
    for seconds in (45, 45):
        with pytest.raises(SystemExit) as stop:
            main([
                "bench", "--gpu", *flags, "--batches=2", "--variants=vanilla,explin", f"--seconds={seconds}",
                f"--out={tmp_path}",
            ])  # fmt: skip
        assert stop.value.code == 0
        said.append(capsys.readouterr().out)
    assert "cells are measured already" not in said[0]
    assert "cells are measured already" in said[1]
    assert "| vanilla | eager | tf32 | 2 |" in said[1]
    assert (tmp_path / "gpu.md").read_text() in said[1]
    assert (tmp_path / "gpu.json").exists()
