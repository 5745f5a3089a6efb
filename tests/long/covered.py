r"""A plugin of pytest that notes which tests execute which lines of the package, and how long each takes.

    mkdir FOLDER; git rev-parse HEAD > FOLDER/commit
    VDVAE_PATCH_MAP=FOLDER PYTHONPATH=tests/long OMP_NUM_THREADS=1 python -m pytest -p covered -n 2 --dist loadfile \
        -m "not slow" --whole tests/unit tests/guarding tests/hosts tests/e2e

The folder is outside of the tree. Needs coverage.py (`pip install coverage`), whose context is switched to each test's
name. What tests do in other processes is not seen, nor is
what is executed while files are imported for the first time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("VDVAE_PATCH_MAP", ""))
PACKAGES = ("vdvae_patch", "patches", "upstream", "launch")


class Noted:
    """Lines and seconds of each test that this process runs; written at its end."""

    def __init__(self, name: str) -> None:
        import coverage

        self.seconds: dict[str, float] = {}
        self._name = name
        self._coverage = coverage.Coverage(
            data_file=str(FOLDER / f"lines.{name}"),
            include=[str(ROOT / package / "*") for package in PACKAGES],
            config_file=False,
            messages=False,
        )
        self._coverage.start()

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        yield
        self._coverage.switch_context("")

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.outcome != "passed":
            self.seconds[report.nodeid] = float("inf")

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        self._coverage.save()
        (FOLDER / f"seconds.{self._name}.json").write_text(json.dumps(self.seconds))


def pytest_configure(config: pytest.Config) -> None:
    if not FOLDER.is_dir() or FOLDER.resolve().is_relative_to(ROOT):
        raise pytest.UsageError("VDVAE_PATCH_MAP names no folder outside of the tree")
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None or not getattr(config.option, "numprocesses", None):
        config.pluginmanager.register(Noted(f"{os.getpid()}"), "noted")
