"""`vdvae-patch reproduce NAME`: the paper's tables and figures, and the stress test of what it did not compare."""

from __future__ import annotations

import functools
import importlib
import operator
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from vdvae_patch.cli.arguments import check_flags, flags_of, one_line_errors
from vdvae_patch.errors import UnknownNameError
from vdvae_patch.experiments import options

ABOUT = "the paper's tables and figures, and the stress test of remedies"

_OPTIONS = options.by_name()

# built and not written down, so that an experiment is a class in `options` and a module in `experiments`
_Choice: Any = functools.reduce(
    operator.or_, (Annotated[kind, tyro.conf.subcommand(name)] for name, kind in _OPTIONS.items())
)


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
    chosen.check()
    name = next(name for name, kind in _OPTIONS.items() if type(chosen) is kind)
    status: int = importlib.import_module(f"vdvae_patch.experiments.{name.replace('-', '_')}").run(chosen)
    return status
