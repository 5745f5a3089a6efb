"""`vdvae-patch reproduce NAME`: the paper's tables and figures, and the stress test of what it did not compare."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from vdvae_patch.cli.arguments import check_flags, flags_of, one_line_errors
from vdvae_patch.errors import UnknownNameError
from vdvae_patch.experiments import options

_Choice = (
    Annotated[options.Table1, tyro.conf.subcommand("table1")]
    | Annotated[options.Table2, tyro.conf.subcommand("table2")]
    | Annotated[options.Table3, tyro.conf.subcommand("table3")]
    | Annotated[options.Table4, tyro.conf.subcommand("table4")]
    | Annotated[options.Figure1, tyro.conf.subcommand("figure1")]
    | Annotated[options.Figure2, tyro.conf.subcommand("figure2")]
    | Annotated[options.Figure3, tyro.conf.subcommand("figure3")]
    | Annotated[options.Stress, tyro.conf.subcommand("stress")]
)

# An experiment is a dataclass of options, a line above and one here, and a module of that name in `experiments` with
# `run(options) -> exit status`. Named, not imported: each imports torch, and the help must not.
_OPTIONS: dict[str, type] = {
    "table1": options.Table1,
    "table2": options.Table2,
    "table3": options.Table3,
    "table4": options.Table4,
    "figure1": options.Figure1,
    "figure2": options.Figure2,
    "figure3": options.Figure3,
    "stress": options.Stress,
}


def run(argv: Sequence[str]) -> int:
    """Run `reproduce` with its arguments.

    Returns:
        0; 1 if table 1 is not as published; 75 if `--minutes` are over and the same command is to go on.

    Raises:
        UnknownNameError, InvalidValueError: no such experiment or flag, or a value that cannot be used.
    """
    arguments = list(argv)
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] not in _OPTIONS:
            raise UnknownNameError("experiment", arguments[0], _OPTIONS)
        check_flags(arguments[1:], flags_of(_OPTIONS[arguments[0]]))
    with one_line_errors():
        chosen: Any = tyro.cli(
            _Choice,
            prog="vdvae-patch reproduce",
            description="The paper's experiments, each from one command. Reports: Markdown, CSV, JSON and a figure.",
            args=arguments,
        )
    name = next(name for name, kind in _OPTIONS.items() if type(chosen) is kind)
    status: int = importlib.import_module(f"vdvae_patch.experiments.{name}").run(chosen)
    return status
