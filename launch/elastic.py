"""`--nproc N`: start the ranks of a run on this machine, through torch's elastic launcher."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from vdvae_patch import own_process
from vdvae_patch.errors import InvalidValueError, RunError
from vdvae_patch.machine import usable_cores
from vdvae_patch.train.interrupts import EXIT_RESUME

from .environment import recognise


def start_ranks(arguments: Sequence[str], nproc: int, folder: Path) -> int:
    """Run `python -m vdvae_patch ARGUMENTS` in `nproc` processes; the exit status of the one that failed first, or 0.

    A signal to this process goes on to the ranks, which save and exit with 75, "resume me".

    Raises:
        InvalidValueError: another launcher has started this process already.
        RunError: a rank was killed.
    """
    placement = recognise(os.environ)
    if placement is not None and placement.size > 1:
        raise InvalidValueError(
            f"--nproc {nproc} in a process that is rank {placement.rank} of {placement.size} already "
            f"({placement.launcher}); leave --nproc out"
        )
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # the ranks report their own errors; the launcher's report of them would be the second
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // nproc)))
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup; PyTorch's launcher would listen to it again
        os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGQUIT")
    signal.signal(signal.SIGUSR1, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=nproc, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        run_id=f"vdvae-patch-{os.getpid()}", max_restarts=0,
    )  # fmt: skip
    program, *its = own_process.command(*arguments)
    try:
        elastic_launch(config, program)(*its)
    except ChildFailedError as failed:
        codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
        killed = {rank: code for rank, code in codes.items() if code < 0}
        if len(killed) < len(codes):  # the launcher itself sends SIGTERM to those that are left when one has failed
            killed = {rank: code for rank, code in killed.items() if code != -signal.SIGTERM}
        if killed:
            rank, code = next(iter(killed.items()))
            raise RunError(
                f"rank {rank} of {nproc} was ended by {signal.Signals(-code).name} and all others after it; "
                f"go on with --resume (folder {folder})"
            ) from None
        return max(codes.values())
    except SignalException:
        return EXIT_RESUME
    return 0
