"""Every command and every block of Python in README and docs is run, and what it prints is compared; or a table says
which other test does it, or why it cannot be done (`docs_tables.py`)."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import os
import re
import shlex
import sys
from pathlib import Path

import docs_tables as tables
import pytest
from docs_blocks import PAGES, ROOT, SHELL, Block, blocks, inline_commands, without_program
from process_trees import finished

from vdvae_patch.cli import commands, completion, dispatch

ALL = [block for page in PAGES for block in blocks(page)]


def _is_left(page: str) -> bool:
    return page.startswith(tuple(tables.PAGES_NOT_RUN))


def _is_named(block: Block, table: dict[tuple[str, str], str]) -> bool:
    return any(page == block.page and block.text.strip().startswith(first) for page, first in table)


def _commands(block: Block) -> list[str]:
    return block.commands if block.kind in SHELL else [block.first.removeprefix("$ ")]


def _is_shell(block: Block) -> bool:
    return block.kind in SHELL or (block.kind == "text" and block.text.startswith("$ "))


def _written(command: str) -> str:
    return command.removesuffix(" ...")


def _is_run_here(command: str) -> bool:
    return _written(command) not in {**tables.COMMANDS_ELSEWHERE, **tables.COMMANDS_NOT_RUN}


def _smaller(command: str) -> str:
    for written, run in tables.SMALLER:
        command = command.replace(written, run)
    return command


COMMANDS = [(block, command) for block in ALL if _is_shell(block) for command in _commands(block)]
RUN = [(block, command) for block, command in COMMANDS if not _is_left(block.page) and _is_run_here(command)]
HERE = [
    block
    for block in ALL
    if block.kind == "python"
    and not _is_named(block, tables.NOT_PYTHON)
    and not (block.page in tables.PYTHON_ELSEWHERE and (tables.PYTHON_ELSEWHERE[block.page].all or block.output))
]


def test_blocks_are_found_however_they_are_written() -> None:
    assert len(ALL) > 100
    assert len(RUN) > 15
    kinds = {block.kind for block in ALL}
    assert {"python", "sh", "text"} <= kinds


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page) and not _is_left(page)])
def test_every_block_is_run_or_in_a_table(page: str) -> None:
    for block in blocks(page):
        place = f"{page}:{block.line}: {block.first!r}"
        if block.kind == "python" or _is_shell(block) or block.above:
            continue  # is run by the tests below, and its output compared
        assert _is_named(block, {**tables.TEXTS, **tables.NOT_PYTHON}), f"{place} is neither run nor in a table"


def test_no_line_of_a_table_is_left_over() -> None:
    for name in ("NOT_PYTHON", "TEXTS", "BETWEEN", "OUTPUTS_NOT_COMPARED", "FILE_BLOCKS"):
        for page, first in getattr(tables, name):
            assert any(_is_named(block, {(page, first): ""}) for block in ALL), (name, page, first)
    written = {_written(command) for _, command in COMMANDS}
    for command in {**tables.COMMANDS_ELSEWHERE, **tables.COMMANDS_NOT_RUN}:
        assert command in written, command
    for small, _ in tables.SMALLER:
        assert any(small in command for _, command in RUN), small
    for page in (*tables.PYTHON_ELSEWHERE, *tables.BEFORE):
        assert any(block.page == page and block.kind == "python" for block in ALL), page
    assert {block.page for block, _ in RUN} >= tables.SLOW


@pytest.mark.parametrize(
    "test", sorted({*(e.test for e in tables.PYTHON_ELSEWHERE.values()), *tables.COMMANDS_ELSEWHERE.values()})
)
def test_the_test_that_runs_it_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    assert name in {
        node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.medium
@pytest.mark.parametrize("page", sorted({block.page for block in HERE}))
def test_blocks_that_no_other_test_runs(page: str, tmp_path: Path) -> None:
    here = [block for block in HERE if block.page == page]
    parts = [tables.BEFORE.get(page, "")]
    for block in here:
        between = next((t for (p, first), t in tables.BETWEEN.items() if p == page and block.first == first), "")
        parts.append(f"print('@@@@')\n{between}{block.text}")
    (tmp_path / "page.py").write_text("\n".join(parts))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = finished([sys.executable, "page.py"], cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    for block, seen in zip(here, done.stdout.split("@@@@\n")[1:], strict=True):
        if block.output is not None:
            assert _alike(block.output, seen), f"{page}:{block.line}"


@pytest.mark.medium
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow) if page in tables.SLOW else page
        for page in dict.fromkeys(block.page for block, _ in RUN)
    ],
)
def test_the_commands_of_a_page_run(page: str, tmp_path: Path) -> None:
    """In one folder and in their order, as a reader would who goes down the page."""
    for name, text in tables.FILES.items():
        (tmp_path / name).write_text(text)
    for block in ALL:
        for (of, first), name in tables.FILE_BLOCKS.items():
            if of == page and _is_named(block, {(of, first): ""}):
                (tmp_path / name).write_text(block.text)
    if page in tables.COMMANDS_BEFORE:
        _run(tables.COMMANDS_BEFORE[page], tmp_path)
    printed: dict[tuple[int, str], str] = {}
    for block, command in RUN:
        if block.page == page:
            printed[block.line, block.text] = printed.get((block.line, block.text), "") + _run(command, tmp_path)
    for block in {block for block, _ in RUN if block.page == page}:
        told = block.output
        if block.kind == "text":
            told = block.text.partition("\n")[2]
        if told is not None:
            seen, parts = printed[block.line, block.text], _parts(Block(page, 0, "text", told))
            assert all(part in told and part in seen for part in parts), f"{page}:{block.line}: {seen}"
            assert parts or _alike(told, seen), f"{page}:{block.line}: {seen}"


def _parts(output: Block) -> tuple[str, ...]:
    """What must be in an output that is not compared as a whole; nothing for one that is."""
    named = {key: parts for key, (_, parts) in tables.OUTPUTS_NOT_COMPARED.items()}
    return next((parts for key, parts in named.items() if _is_named(output, {key: ""})), ())


@functools.cache
def _flags(command: str) -> frozenset[str]:
    captured = io.StringIO()
    with contextlib.redirect_stdout(captured), contextlib.suppress(SystemExit):
        dispatch([*command.split(), "--help"])
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", captured.getvalue()))


def _known(words: list[str]) -> set[str]:
    """The flags that a command knows, those of its host or of the command that takes them over included."""
    known = {"--help", "--debug", "--version", *completion._words(words[0])} if words[0] in commands() else {"--help"}
    if words[0] == "reproduce" and len(words) > 1:
        known |= _flags(" ".join(words[:2]))
    if words[0] in ("compare", "demo", "launch", "bench"):
        known |= set(completion._words("train"))
    if "--host" in words:
        preset = ["--preset", words[words.index("--preset") + 1]] if "--preset" in words else []
        known |= _flags(" ".join(["train", "--host", words[words.index("--host") + 1], *preset]))
    return known


@pytest.mark.parametrize("page", PAGES)
def test_no_command_has_a_flag_that_there_is_not(page: str) -> None:
    """Of all commands of ours, those that are not run and those within a sentence included."""
    written = [command for block, command in COMMANDS if block.page == page]
    written += [command for command in ALL_UNFENCED.get(page, []) if without_program(command)]
    for command in (*written, *inline_commands(page)):
        words = without_program(command)
        if not words or words[0].isupper() or words[0] == "...":
            continue
        words = words[: words.index("--")] if "--" in words else words
        assert words[0].startswith("-") or words[0] in commands(), command
        own = "--patches" in words or "my_host" in words  # flags of a host of the page's own
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert own or set(flags) <= _known(words), (command, sorted(set(flags) - _known(words)))


ALL_UNFENCED = {page: [line for block in blocks(page) if block.kind == "" for line in block.commands] for page in PAGES}
"""Commands in blocks without a word behind the fence, as `compare` writes them into its reports."""


def _run(command: str, folder: Path) -> str:
    """What a command prints, in a shell that has this environment's programs."""
    small = _smaller(_written(command))
    python = shlex.quote(sys.executable)
    shell = f"""set -e
vdvae-patch() {{ {python} -m vdvae_patch "$@"; }}
python() {{ {python} "$@"; }}
{small}
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = finished(["bash", "-c", shell], cwd=folder, env=environment, timeout=400)
    assert done.returncode == 0, f"{command}\n{small}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def _alike(told: str, seen: str) -> bool:
    """Whether what was printed is what the page says: measured times and sizes are left out, other numbers are
    compared to four digits (another processor adds up in another order), and "..." stands for any lines."""
    pattern = ".*".join(re.escape(_plain(part.strip("\n"))) for part in re.split(r"(?m)^\s*\.\.\.$", told.strip("\n")))
    return re.fullmatch(f"(?s)\\s*{pattern}\\s*", _plain(seen)) is not None


def _plain(text: str) -> str:
    text = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    text = re.sub(r"\d+:\d\d:\d\d|\d+(\.\d+)? (s|ms|MB|GB|MiB|images/s)\b", "…", text)
    return re.sub(r"\d+\.\d+", lambda match: f"{float(match[0]):.4g}", text)
