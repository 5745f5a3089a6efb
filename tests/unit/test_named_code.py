"""A run's folder is data: code that it names runs only if the command line names it, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from vdvae_patch.cli import replay
from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.errors import RunError

PLANTED = "from pathlib import Path\nPath(__file__).with_name('it_ran').touch()\n"


def received(folder: Path, **settings: Any) -> Path:
    """A run's folder, with code beside it."""
    (folder / "planted.py").write_text(PLANTED)
    run = folder / "run"
    run.mkdir()
    told = {"host": "vdvae", "preset": "small", "variant": "vanilla", **settings}
    (run / "config.toml").write_text(tomli_w.dumps(told))
    return run


@pytest.mark.parametrize("command", ["replay", "resume"])
def test_a_patch_file_that_only_the_folder_names_is_not_run(command: str, tmp_path: Path) -> None:
    run = received(tmp_path, patches=str(tmp_path / "planted.py"))
    with pytest.raises(RunError, match=r"names code, which would be run: --patches .*planted\.py") as refused:
        replay.run([str(run)]) if command == "replay" else parse_train(["--resume", "--out", str(run)])
    assert "if you trust that code, add these flags" in str(refused.value)
    assert not (tmp_path / "it_ran").exists()


def test_another_patch_file_on_the_command_line_does_not_speak_for_the_folders(tmp_path: Path) -> None:
    run = received(tmp_path, patches=str(tmp_path / "planted.py"))
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(RunError, match="names code"):
        parse_train(["--resume", "--out", str(run), "--patches", str(tmp_path / "mine.py")])
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("upstream", ["checkout", "../checkout"])
def test_a_checkout_with_changes_has_to_be_named_again(upstream: str, tmp_path: Path) -> None:
    run = received(tmp_path, upstream=upstream, allow_modified_upstream=True)
    with pytest.raises(RunError, match=r"--upstream \S*checkout --allow-modified-upstream\. "):
        replay.run([str(run)])
    with pytest.raises(RunError, match=r"run: --allow-modified-upstream\. "):
        replay.run([str(run), "--upstream", upstream])


@pytest.mark.parametrize("ours", ["embedded", "genuine"])
def test_our_own_code_needs_no_word(ours: str, tmp_path: Path) -> None:
    run = received(tmp_path, upstream=ours)
    assert parse_train(["--resume", "--out", str(run)]).upstream == ours


def test_what_would_steer_a_terminal_is_shown(tmp_path: Path) -> None:
    run = received(tmp_path, patches="\x1b[2Jcleared.py")
    with pytest.raises(RunError, match="names code") as refused:
        replay.run([str(run)])
    assert "\x1b" not in str(refused.value)
    assert r"\x1b[2Jcleared.py" in str(refused.value)


def test_a_guards_skips_are_counted_from_one_by_their_numbers(tmp_path: Path) -> None:
    for name in ("skip-0003", "skip-0010", "skip-0002", "skip-foo"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    assert [replay._recorded_by_guard(tmp_path, number).name for number in (1, 2, 3)] == [  # type: ignore[union-attr]
        "skip-0002", "skip-0003", "skip-0010",
    ]  # fmt: skip
    for number in (0, -1, 4):
        with pytest.raises(RunError, match=f"has no skip {number}; it recorded skip-0002, skip-0003, skip-0010"):
            replay._recorded_by_guard(tmp_path, number)
    assert replay._recorded_by_guard(tmp_path / "skip-0003", 1) == tmp_path / "skip-0003"
