"""`vdvae-patch reproduce NAME`: the paper's tables and figures, and the stress test of what it did not compare."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from vdvae_patch.experiments import options

_Choice = (
    Annotated[options.Table1, tyro.conf.subcommand("table1")]
    | Annotated[options.Table2, tyro.conf.subcommand("table2")]
    | Annotated[options.Table3, tyro.conf.subcommand("table3")]
    | Annotated[options.Figure1, tyro.conf.subcommand("figure1")]
    | Annotated[options.Stress, tyro.conf.subcommand("stress")]
)

# Named, not imported: each imports torch, and the help must not.
_MODULES: dict[type, str] = {
    options.Table1: "table1",
    options.Table2: "table2",
    options.Table3: "table3",
    options.Figure1: "figure1",
    options.Stress: "stress",
}


def run(argv: Sequence[str]) -> int:
    """Run `reproduce` with its arguments; 0, or an error of `vdvae_patch.errors` is raised."""
    chosen: Any = tyro.cli(
        _Choice,
        prog="vdvae-patch reproduce",
        description="The paper's experiments, each from one command. Reports are Markdown, CSV, JSON and a figure.",
        args=list(argv),
    )
    module = importlib.import_module(f"vdvae_patch.experiments.{_MODULES[type(chosen)]}")
    status: int = module.run(chosen)
    return status
