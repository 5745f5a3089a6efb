"""From a cell to the configuration of `train` that it measures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vdvae_patch.gpu_bench.cells import GRAPHS, Arithmetic, Cell
from vdvae_patch.train.config import Matmul, Precision, TrainConfig


def settings_of(config: TrainConfig[Any], cell: Cell) -> TrainConfig[Any]:
    """The configuration of a cell."""
    optimization = replace(config.optimization, batch_size=cell.batch or config.optimization.batch_size)
    precision, matmul = words_of(cell.arithmetic)
    return replace(
        config, optimization=optimization, precision=precision, matmul=matmul, compile=cell.way == "compiled",
        cuda_graph=cell.way in GRAPHS, deterministic=cell.way == "deterministic",
    )  # fmt: skip


def words_of(arithmetic: Arithmetic) -> tuple[Precision, Matmul]:
    """What `train` calls it."""
    return "bf16" if arithmetic == "bf16" else "fp32", "ieee" if arithmetic == "ieee" else "tf32"
