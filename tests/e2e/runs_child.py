"""What runs in the processes of `runs`, which their server has imported torch and the package for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vdvae_patch.cli import main
from vdvae_patch.train.config import TrainConfig


def work(
    config: TrainConfig[Any],
    environ: Mapping[str, str],
    log: Path,
    prepare: Callable[..., None] | None,
    options: Mapping[str, Any],
) -> None:
    """One rank: as `vdvae-patch train` would do it, with `prepare` called first in the process."""
    assert "vdvae_patch.train.loop" in sys.modules, (
        "the server has imported nothing: every process would spend seconds on it"
    )
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.update(environ)
    torch.set_num_threads(1)
    if prepare is not None:
        prepare(**options)
    from vdvae_patch.cli import train as command

    command.parse_train = lambda argv, description="": config  # the command line is tested elsewhere
    main(["train", "--seed", str(config.seed)])
