"""Put in one plausible fault at a time, run the tests concerned, and see whether they notice.

    OMP_NUM_THREADS=1 python tests/long/mutants.py --map FOLDER [--only TEXT] [--sample N] [--results FILE.json]

How it judges. For each fault of `faults.py` a process is forked that has imported pytest and torch already, but nothing
of the package, and that works in a copy of the tree with the fault put in. It runs first the tests that are named with
the fault, then, if these pass, those that execute the faulty statement (`--map`, collected by `covered.py`; for a
statement outside of functions those that execute anything of its file), quickest first, without those of more than
`--longest` seconds. The first failure ends it:

- noticed: a test failed that passes in the copy without the fault, which is checked at the end.
- not noticed: all these tests passed.
- limit reached: none had failed when `--limit` seconds were used up. Counted as not noticed.

The working tree is never changed. Results are kept after each fault, so that the same command goes on where it was
ended; those of faults whose text has changed since are done again. A test that waits for another process may notice by
its own time limit: look at the reasons. On two cores, with `--jobs 4`, all faults take about 20 minutes.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import pytest
from faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]
NOTICED, NOT_NOTICED, LIMIT_REACHED = "noticed", "not noticed", "limit reached"
IMPORTED_BEFORE = (
    "numpy",
    "torch",
    "torch.distributed",
    "torch.func",
    "PIL.Image",
    "imageio.v3",
    "git",
    "rich",
    "tyro",
)
"""What most tests import and no fault is in."""


def copy_of_tree(folder: Path) -> Path:
    """A clone of the repository with the files that git does not ignore, compiled.

    The compiled files hold the hash of their source: a fault of as many letters, put in within the same second, is
    seen.
    """
    subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(folder)], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    # an editable install maps these to the working tree, whose files may change while this runs
    for name in ("launch", "patches", "upstream"):
        (folder / "vdvae_patch" / name).symlink_to(folder / name)
    compiled = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "vdvae_patch"]
    subprocess.run(compiled, cwd=folder, check=True)
    return folder


@dataclass(frozen=True)
class Coverage:
    """Which tests execute which lines, and the seconds of each; empty without a folder.

    Attributes:
        data: coverage.py's data, of one process each.
        seconds: of each test that passed.
        commit: that it was collected on.
    """

    data: tuple[Any, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    commit: str = "HEAD"

    @classmethod
    def read(cls, folder: Path | None) -> Coverage:
        if folder is None:
            return cls()
        import coverage

        seconds: dict[str, float] = {}
        for file in folder.glob("seconds.*.json"):
            seconds.update(json.loads(file.read_text()))
        data = tuple(coverage.CoverageData(str(file)) for file in sorted(folder.glob("lines.*")))
        for each in data:
            each.read()
        return cls(data, seconds, (folder / "commit").read_text().strip())

    def tests(self, fault: Fault, longest: float) -> set[str]:
        """Those that execute the statement that the fault is in, of `longest` seconds at most."""
        name = f"vdvae_patch/{fault.file}"
        if not name.endswith(".py"):
            return set()
        text = subprocess.run(
            ["git", "show", f"{self.commit}:{name}"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout
        lines = executed_with(text, fault.old) if text.count(fault.old) == 1 else range(1, sys.maxsize)
        found: set[str] = set()
        for data in self.data:
            for file in data.measured_files():
                if file.endswith(f"/{name}"):
                    by_line = data.contexts_by_lineno(file)
                    found.update(test for line, tests in by_line.items() if line in lines for test in tests)
        return {test for test in found if self.seconds.get(test, longest + 1) <= longest}


def executed_with(text: str, old: str) -> range:
    """The lines whose execution uses `old`: of its statement, of its function, or of the whole file."""
    line = text[: text.index(old)].count("\n") + 1
    around = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    functions = [node for node in around if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    if not functions:
        return range(1, sys.maxsize)
    function = max(functions, key=lambda node: node.lineno)
    if line < function.body[0].lineno:
        return range(function.body[0].lineno, (function.end_lineno or line) + 1)
    innermost = max(around, key=lambda node: node.lineno)
    return range(innermost.lineno, (innermost.end_lineno or line) + 1)


class Quickest:
    """A plugin of pytest: of the tests only some, the quickest classes and files first; notes the failures.

    Those whose seconds nobody knows come in their own order.
    """

    def __init__(self, seconds: dict[str, float], only: Collection[str] | None, without: Collection[str]) -> None:
        self._seconds, self._only, self._without = seconds, only, without
        self.failures: list[tuple[str, str]] = []
        self.passed = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [
            item
            for item in items
            if (self._only is None or item.nodeid in self._only) and item.nodeid not in self._without
        ]
        totals: dict[str, float] = {}
        for item in items:
            group = item.nodeid.partition("[")[0].rpartition("::")[0]
            totals[group] = totals.get(group, 0.0) + self._seconds.get(item.nodeid, 0.0)
        items.sort(key=lambda item: totals[item.nodeid.partition("[")[0].rpartition("::")[0]])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed:
            said = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
            self.failures.append((report.nodeid, " ".join(line[1:].strip() for line in said)[:160]))


@dataclass(frozen=True)
class Outcome:
    """Of one process of pytest: the failures, each test with its reason, and how many passed; `ended` by its limit."""

    failures: list[tuple[str, str]]
    passed: int
    ended: bool = False


def run_tests(
    tree: Path, plugin: Quickest, tests: Sequence[str], limit: float, *, all_failures: bool = False
) -> Outcome:
    """Run tests of a copy of the tree in a process forked from this one."""
    with tempfile.TemporaryDirectory() as folder:
        told, output = Path(folder) / "told.json", Path(folder) / "output"
        child = os.fork()
        if not child:
            _pytest_in_this_process(tree, plugin, tests, told, output, all_failures)
        end = time.monotonic() + limit
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Outcome([], 0, ended=True)
            time.sleep(0.05)
        if not told.exists():
            raise RuntimeError(f"pytest ended without a word:\n{output.read_text()[-2000:]}")
        failures, passed = json.loads(told.read_text())
        return Outcome([(test, reason) for test, reason in failures], passed)


def _pytest_in_this_process(
    tree: Path, plugin: Quickest, tests: Sequence[str], told: Path, output: Path, all_failures: bool
) -> None:
    try:
        os.setsid()
        os.chdir(tree)
        os.environ.update(PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE="1")
        sys.dont_write_bytecode = True
        sys.path[:] = [str(tree), *(path for path in sys.path if path != str(Path(__file__).parent))]
        written = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(written, 1)
        os.dup2(written, 2)
        sys.modules.pop("faults")
        # processes that a test starts by `multiprocessing` would read this file first
        sys.modules["__main__"] = types.ModuleType("__main__")
        more = [] if all_failures else ["-x"]
        status = pytest.main([*more, "-q", "-p", "no:cacheprovider", "-n", "0", *tests], plugins=[plugin])
        if plugin.failures or status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            told.write_text(json.dumps([plugin.failures, plugin.passed]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(0)


@contextmanager
def put_in(tree: Path, fault: Fault) -> Iterator[None]:
    """The copy with the fault in it."""
    file = tree / "vdvae_patch" / fault.file
    text = file.read_text()
    if text.count(fault.old) != 1:
        raise RuntimeError(f"{fault.file} has {fault.old!r} {text.count(fault.old)} times, not once")
    file.write_text(text.replace(fault.old, fault.new))
    try:
        yield
    finally:
        file.write_text(text)


@dataclass(frozen=True)
class Judge:
    """Judges one fault after the other, in a copy of the tree of this process's own.

    Attributes:
        tree: the copy.
        coverage: the tests that execute a fault.
        limit: seconds for the tests of one fault.
        longest: seconds of a test that is not named with the fault.
        unsound: tests that fail without a fault.
        commit: of the tree, for the record.
    """

    tree: Path
    coverage: Coverage
    limit: float
    longest: float
    unsound: frozenset[str]
    commit: str

    def __call__(self, fault: Fault) -> tuple[str, dict[str, Any]]:
        started = time.monotonic()
        passed = 0
        with put_in(self.tree, fault):
            for only, tests in self._stages(fault):
                plugin = Quickest(self.coverage.seconds, only, self.unsound)
                left = self.limit - (time.monotonic() - started)
                outcome = run_tests(self.tree, plugin, tests, left)
                passed += outcome.passed
                if outcome.failures or outcome.ended:
                    break
        verdict = NOTICED if outcome.failures else LIMIT_REACHED if outcome.ended else NOT_NOTICED
        test, reason = outcome.failures[0] if outcome.failures else ("", "")
        seconds = round(time.monotonic() - started, 1)
        said = {"outcome": verdict, "by": test, "reason": reason, "passed": passed, "seconds": seconds}
        return fault.key, said | {"commit": self.commit}

    def _stages(self, fault: Fault) -> Iterator[tuple[set[str] | None, Sequence[str]]]:
        """Which tests, all of them without a choice, and the arguments of pytest that collect them."""
        yield None, fault.tests
        covering = self.coverage.tests(fault, self.longest)
        covering = {test for test in covering if test.partition("::")[0] not in fault.tests}
        quickest, used = set(), 0.0
        for test in sorted(covering, key=lambda test: self.coverage.seconds[test]):
            used += self.coverage.seconds[test]
            if used > self.limit:
                break
            quickest.add(test)
        if quickest:
            yield quickest, sorted({test.partition("::")[0] for test in quickest})


_own: list[Judge] = []


def become_judge(judge: Judge, copies: SimpleQueue[Path]) -> None:
    """Let this process judge, in a copy of its own."""
    _own.append(replace(judge, tree=copies.get()))


def judged(fault: Fault) -> tuple[str, dict[str, Any]]:
    """The fault's key, and what became of it."""
    return _own[0](fault)


def require_copy_is_tested(tree: Path) -> None:
    """Refuse to judge where the tests would import the package from elsewhere, and so notice nothing."""
    code = (
        "import vdvae_patch, vdvae_patch.patches, vdvae_patch.upstream, vdvae_patch.launch\n"
        "for module in (vdvae_patch, vdvae_patch.patches, vdvae_patch.upstream, vdvae_patch.launch):\n"
        "    print(module.__file__)"
    )
    environment = os.environ | {"PYTHONPATH": str(tree)}
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=environment, capture_output=True, text=True, check=True
    ).stdout
    for found in printed.split():
        if not Path(found).is_relative_to(tree):
            raise RuntimeError(f"tests would import {found}, not the copy in {tree}")


def failing_without_fault(tree: Path, tests: Collection[str], limit: float) -> set[str]:
    """Those of the tests that fail in the copy as it is; all, if that takes longer than the limit."""
    if not tests:
        return set()
    files = sorted({test.partition("::")[0] for test in tests})
    only = {test for test in tests if "::" in test}
    outcome = run_tests(tree, Quickest({}, only, ()), files, limit, all_failures=True)
    return set(tests) if outcome.ended else {test for test, _ in outcome.failures}


def chosen(only: str | None, sample: int, seed: int) -> list[Fault]:
    """The faults that are asked for, in an order drawn from the seed if it is a sample."""
    faults = [fault for fault in FAULTS if only is None or only in fault.key]
    return random.Random(seed).sample(faults, min(sample, len(faults))) if sample else faults


def table(faults: Sequence[Fault], results: dict[str, dict[str, Any]]) -> str:
    """Markdown: each fault that was run and not noticed."""
    rows = ["| file | fault | | tests that passed |", "|---|---|---|---|"]
    for fault in faults:
        result = results.get(fault.key)
        if result is not None and result["outcome"] != NOTICED:
            old, new = (text.replace("|", "\\|").replace("\n", " ") for text in (fault.old, fault.new))
            rows.append(f"| {fault.file} | `{old}` → `{new}` | {result['outcome']} | {result['passed']} |")
    return "\n".join(rows)


def kept(results: dict[str, dict[str, Any]], file: Path) -> None:
    """Write the results, whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    partial.replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="a part of the file's path or of the fault's text")
    parser.add_argument("--sample", type=int, default=0, help="so many of them, drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("mutants.json"))
    parser.add_argument("--map", type=Path, help="what `covered.py` has collected; without it, named tests only")
    parser.add_argument("--limit", type=float, default=240, help="seconds for the tests of one fault")
    parser.add_argument("--longest", type=float, default=5, help="seconds of a test that is not named")
    parser.add_argument("--jobs", type=int, default=2, help="faults at the same time")
    parser.add_argument("--again", action="store_true", help="also those that were not noticed before")
    parser.add_argument("--order", type=Path, help="results of an earlier run: new faults first, then what was quick")
    given = parser.parse_args()
    faults = chosen(given.only, given.sample, given.seed)
    results: dict[str, dict[str, Any]] = json.loads(given.results.read_text()) if given.results.exists() else {}
    if given.order is not None:
        took = {key: verdict["seconds"] for key, verdict in json.loads(given.order.read_text()).items()}
        faults.sort(key=lambda fault: took.get(fault.key, 0.0))
    unsound: set[str] = set()
    coverage = Coverage.read(given.map)
    described = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    for name in IMPORTED_BEFORE:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        trees = [copy_of_tree(Path(folder).resolve() / str(number)) for number in range(given.jobs)]
        require_copy_is_tested(trees[0])
        again = given.again
        while True:
            left = [f for f in faults if f.key not in results or (again and results[f.key]["outcome"] != NOTICED)]
            if not left:
                break
            again = False
            judge = Judge(trees[0], coverage, given.limit, given.longest, frozenset(unsound), commit)
            forks = multiprocessing.get_context("fork")
            copies = forks.SimpleQueue()
            for tree in trees:
                copies.put(tree)
            # and no `Pool`, whose processes may start none by `multiprocessing`, as some tests do
            with ProcessPoolExecutor(given.jobs, forks, become_judge, (judge, copies)) as pool:
                for done in as_completed([pool.submit(judged, fault) for fault in left]):
                    key, result = done.result()
                    results[key] = result
                    print(f"{result['outcome']} ({result['seconds']} s): {key}  {result['by']}", flush=True)
                    kept(results, given.results)
            by = {results[fault.key]["by"] for fault in left} - {""}
            unsound |= failing_without_fault(trees[0], by, 10 * given.limit)
            for fault in left:
                if results[fault.key]["by"] in unsound:
                    print(f"fails without a fault, too: {results.pop(fault.key)['by']}", flush=True)
            kept(results, given.results)
    run = [results[fault.key]["outcome"] for fault in faults]
    print(table(faults, results))
    print(f"\n{run.count(NOTICED)} of {len(run)} noticed, {run.count(LIMIT_REACHED)} at their limit")


if __name__ == "__main__":
    main()
