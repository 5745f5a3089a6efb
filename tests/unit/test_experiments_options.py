"""Numbers that no experiment can mean are refused in one line, before torch is imported."""

from __future__ import annotations

import pytest

from vdvae_patch.cli import main
from vdvae_patch.experiments import options


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table2", "--minutes", "nan"], "--minutes must be a number of at least 0, not nan"),
        (["table2", "--minutes", "-inf"], "--minutes must be a number of at least 0"),
        (["table2", "--chunk", "-1"], "--chunk must be from 1 to 1,048,576, not -1"),
        (["table2", "--batch-size", str(2**63)], "--batch-size must be from 1 to 1,048,576"),
        (["scale-errors", "--count", "1" + "0" * 400], "--count must be from 1 to 1,048,576, not an integer of"),
        (["stress", "--lr", "0.1", "nan"], "--lr must be a positive number of at most 1e+30, not nan"),
        (["large-vae", "--pseudo-lr", "inf"], "--pseudo-lr must be a positive number of at most 1e+30, not inf"),
        (["vamp-stress", "--lrs", "1e308"], "--lrs must be a positive number of at most 1e+30, not 1e+308"),
        (["vamp-stress", "--train", str(2**31)], "--train must be from 0 to 2,147,483,647"),
        (["geco-theory", "--seed", "-1"], "--seed must be from 0 to"),
        (["stress", "--lr", "0.01", "1e-2"], "--lr names 0.01 twice"),
        (["stress", "--remedies", "vanilla", "vanilla"], "--remedies names 'vanilla' twice"),
        (["table2", "--seams", "optimal", "optimal"], "--seams names 'optimal' twice"),
        (["vamp-stress", "--variants", "explin", "explin"], "--variants names 'explin' twice"),
    ],
)
def test_odd_numbers_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", *arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vdvae-patch: error: ")
    assert said in line


def test_what_every_experiment_chooses_by_itself_is_within_its_bounds() -> None:
    for kind in options.by_name().values():
        kind().check()
