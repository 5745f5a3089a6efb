"""TensorBoard, where it is installed and was asked for; the JSON lines remain the record."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdvae_patch.errors import RunError
from vdvae_patch.train.step import StepRecord

_LOSSES = ("elbo", "distortion", "rate", "grad_norm", "lr")


class Board:
    """Event files of one run. A resumed run hides what the killed one wrote after its last checkpoint.

    Args:
        skipped: how many updates each cause had skipped before `first_step`.

    Raises:
        RunError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, first_step: int, skipped: Mapping[str, int]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RunError(
                "--tensorboard: TensorBoard is not installed; install it with: pip install 'vdvae-patch[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(folder), purge_step=first_step)
        self._skips = Counter(skipped)

    def step(self, record: StepRecord) -> None:
        """Losses (nats per dimension), norm and limit of a step, and how many updates each cause has skipped so far."""
        for name in _LOSSES:
            self._scalar(f"train/{name}", getattr(record, name), record.step)
        if math.isfinite(record.clip):
            self._scalar("train/clip", record.clip, record.step)
        if record.cause is not None:
            self._skips[record.cause] += 1
            self._scalar(f"skipped/{record.cause}", self._skips[record.cause], record.step)

    def heads(self, look: dict[str, Any]) -> None:
        """A record of `heads.jsonl`; where several heads are of one module, their names say which."""
        paths = Counter(head["path"] for head in look["heads"])
        for head in look["heads"]:
            channels = f"[{head['channels']}]" if head.get("channels") else ""
            named = f"{head['path']}{channels}" + (f" ({head['role']})" if paths[head["path"]] > 1 else "")
            known = (name for name in ("log_sigma_min", "log_sigma_max", "kl", "grad_norm") if name in head)
            for name in known:
                self._scalar(f"heads_{name}/{named}", head[name], look["step"])

    def evaluation(self, step: int, elbo: float, elbo_bits: float) -> None:
        """An evaluation on the validation images."""
        self._scalar("valid/nelbo_nats_per_dim", elbo, step)
        self._scalar("valid/nelbo_bits_per_dim", elbo_bits, step)

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()

    def _scalar(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(tag, value, step)
