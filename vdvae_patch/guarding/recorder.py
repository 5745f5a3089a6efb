"""Skipped steps on disk: a line each, and of the first ones what is needed to do them again."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from vdvae_patch.errors import GuardError, RunError
from vdvae_patch.guarding import ranks
from vdvae_patch.guarding import skip as skips
from vdvae_patch.guarding.again import Again, Loss, Share, device_of
from vdvae_patch.guarding.buffers import Buffers
from vdvae_patch.guarding.folder import GuardFolder, near
from vdvae_patch.guarding.passes import Window
from vdvae_patch.guarding.skip import Skip
from vdvae_patch.guarding.voice import Voice
from vdvae_patch.skips.records import JsonLines


class Recorder:
    """Rank 0 writes the weights, and every rank its own share of the batch.

    Args:
        folder: where; None to write nothing.
        keep: how many skips are recorded there, those of a training before among them.
        max_batch_mib: a larger batch is not kept.
    """

    def __init__(
        self, model: nn.Module, folder: GuardFolder | None, keep: int, max_batch_mib: float, voice: Voice
    ) -> None:
        self.model, self.keep, self.max_batch_mib, self.voice = model, keep, max_batch_mib, voice
        self._folder = folder
        self.out = None if folder is None else folder.path
        self._log = None if folder is None or not ranks.is_main() else self._opened(folder)

    def fits(self, window: Window) -> bool:
        """Whether the batch of a step may be kept."""
        return skips.size_of(window) <= self.max_batch_mib * 2**20

    def record(self, skip: Skip, loss: float, window: Window, buffers: Buffers, call: Loss | None) -> Skip:
        """Write a skip; all ranks come by here together.

        Args:
            loss: of this rank alone.
            window: the passes of the step.
            call: the user's loss.

        Returns:
            It, with its folder if it was recorded.
        """
        number = self._number(skip, window)
        try:
            if number:
                skip = self._written(skip, number, loss, Again(self.model, window, buffers, call), window, buffers)
            if self._log is not None:
                self._log.write(skip.record())
                self._log.flush()
                assert self._folder is not None
                self._folder.count(self._log)
        except RunError as error:  # a full disk must not end somebody's training
            self.voice.say(f"step {skip.step}: {error}", of_all=True)
        return skip

    def say_size(self, skip: Skip) -> None:
        """What a recorded skip takes on the disk, without what other ranks are writing into it meanwhile."""
        if skip.folder is not None:
            size = sum(path.stat().st_size for path in skip.folder.iterdir() if path.is_file()) / 2**20
            beside = ", beside the shares of the other ranks" if ranks.world() > 1 else ""
            self.voice.say(f"{near(skip.folder)} takes {size:.3g} MiB{beside}; at most {self.keep} are kept")

    def close(self) -> None:
        """Nothing is written from now on."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _opened(self, folder: GuardFolder) -> JsonLines:
        """The log; what is wrong with it is said, and a new line says nothing of it any more.

        Raises:
            GuardError: it cannot be read or written.
        """
        try:
            problems, log = folder.problems(), folder.log()
            folder.count(log)
        except (OSError, RunError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise GuardError(f"the guard's folder {folder.path} cannot be used: {why}; name another one") from error
        for problem in problems:
            self.voice.say(problem)
        return log

    def _number(self, skip: Skip, window: Window) -> int:
        """Which recording this is, from 1, the same on all ranks; 0 if it is not kept."""
        kept = self.keep if self._log is None or self.out is None else len(list(self.out.glob("skip-*")))
        number = kept + 1 if kept < self.keep else 0
        size = skips.size_of(window) / 2**20 if window.passes else -1.0
        rows = ranks.everyone(torch.tensor([float(number), size], device=device_of(self.model))).tolist()
        largest = max(size for _, size in rows)
        number = int(rows[0][0])
        if not number and self.out is not None and self.keep:
            self.voice.say_once(
                f"{near(self.out)} holds {kept} recorded skips, of this training or one before; no more are kept"
            )
        if not number or min(size for _, size in rows) < 0:
            return 0
        if largest > self.max_batch_mib:
            self.voice.say(f"step {skip.step}: a batch of {largest:.0f} MiB is not kept")
            return 0
        return number

    def _written(self, skip: Skip, number: int, loss: float, again: Again, window: Window, buffers: Buffers) -> Skip:
        kept = _to_blame(again, skip)
        inputs = () if kept is None else again.inputs(kept)
        if kept is not None and kept.seen is not None:
            loss = kept.seen  # of several micro-batches, that of the one that is kept
        index = 0 if kept is None else kept.used
        share = skips.Share.of(window, buffers, inputs, loss, ranks.rank(), ranks.world(), index)
        weights = skips.weights_of(self.model)  # of a sharded model, what all ranks have to ask for together
        folder, failed = None if self.out is None else self.out / f"skip-{number:04d}", None
        if ranks.is_main() and folder is not None:
            try:
                skip = skips.write(folder, skip, self.model, weights, share, self._place_in_log())
            except RunError as error:
                failed = error
        if ranks.world() > 1:
            written = ranks.everyone(torch.tensor([float(skip.folder is not None)], device=device_of(self.model)))
            if not ranks.is_main() and folder is not None and bool(written[0]):
                skips.write_share(folder, share)
                skip = replace(skip, folder=folder)
        if failed is not None:
            raise failed
        return skip

    def _place_in_log(self) -> dict[str, Any]:
        """Of which guard a recording is, and which line of its log says the same."""
        if self._folder is None or self._log is None:
            return {}
        return {"guard": self._folder.id, "log_line": self._log.count + 1}


def _to_blame(again: Again, skip: Skip) -> Share | None:
    """Of the micro-batches of a step, the one that was examined and not finite; else one whose loss or data are
    not; else the first."""
    found = skip.diagnosis
    if found is not None and found.reproduced:
        return next((s for s in again.shares if s.index == found.index), None)
    bad = [s for s in again.shares if s.seen is not None and not math.isfinite(s.seen)]
    return next(iter(bad or again.shares), None)
