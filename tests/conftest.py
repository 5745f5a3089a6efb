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

FEW, MANY = 4, 40
"""Cases that a family of tests may have before every second one of it is left out, and before two of three are."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="run every medium case, and not some of each family")


@pytest.hookimpl(tryfirst=True)  # before cases are chosen by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Of a medium test that has more than a few cases, every second one is slow, and of many two of three: together
    they take half an hour."""
    if config.getoption("--whole"):
        return
    families = Counter(_family(item) for item in items if _is_medium(item))
    seen: Counter[str] = Counter()
    for item in items:
        family = _family(item)
        if _is_medium(item) and families[family] >= FEW:
            if seen[family] % (2 if families[family] < MANY else 3):
                item.add_marker("slow")
            seen[family] += 1


def _family(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def _is_medium(item: pytest.Item) -> bool:
    return item.get_closest_marker("medium") is not None and item.get_closest_marker("slow") is None


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
