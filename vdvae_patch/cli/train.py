"""`vdvae-patch train`: train a host as one variant, and leave a folder that says what happened."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.errors import visible
from vdvae_patch.train.config import TrainConfig

ABOUT = "train a host as one variant"

FIRST = """vdvae-patch train needs to be told something: by itself it would train VDVAE on CIFAR-10 for 300 epochs, and
download the data, 163 MiB, if they are not there. What to do first:

  vdvae-patch train --preset small --data builtin --steps 100     some steps on images drawn by code, nothing downloaded
  vdvae-patch train --dry-run                                     what a run would cost on this machine
  vdvae-patch train --preset cifar10 --variant explin/constant    the published preset; CIFAR-10 is downloaded
  vdvae-patch train --preset cifar10 --data-root FOLDER           the same with data that lie there
  vdvae-patch train --help                                        all flags"""

if TYPE_CHECKING:
    from launch.elastic import start_ranks
else:
    from vdvae_patch.launch.elastic import start_ranks

_SKIPS = ("high_gradient_count", "nan_count", "loss_scale_count")

# Set by `start_ranks` for the processes that it starts, which are given the same command line.
_STARTED = "VDVAE_PATCH_STARTED_RANKS"


def run(argv: list[str]) -> int:
    """Train a host as one variant: same code, same batches, the patch is the only difference."""
    if not argv and _STARTED not in os.environ:
        print(FIRST, file=sys.stderr)
        return 2
    config = parse_train(argv, description=run.__doc__ or "")
    if config.dry_run:
        return _dry_run(config)
    if config.nproc > 1 and _STARTED not in os.environ:
        os.environ[_STARTED] = str(config.nproc)
        try:
            return start_ranks(["train", *argv], config.nproc, config.folder)
        finally:  # a second run of this process, as in a notebook, would be one rank of none
            del os.environ[_STARTED]

    from vdvae_patch.compare.tested import Evaluated
    from vdvae_patch.hosts.preset import averages_lag
    from vdvae_patch.train.interrupts import EXIT_RESUME
    from vdvae_patch.train.loop import train
    from vdvae_patch.train.progress import skips

    outcome = train(config)
    if outcome.summary is None:
        return EXIT_RESUME
    if not outcome.is_main:
        return 0
    summary = outcome.summary
    mass = summary.get("test_mass_nelbo_bits_per_dim")
    by_mass = "" if mass is None else f" ({mass:.4f} by the mass of each pixel's bin)"
    tested = Evaluated.by("", summary, summary["run"], None)
    some = tested.some
    of_some = some and f", of {some}"
    said = (
        f"{summary['variant']} seed {summary['seed']}: test NELBO {summary['test_nelbo_nats_per_dim']:.4f} nats per "
        f"dimension = {summary['test_nelbo_bits_per_dim']:.4f} bits per dimension{by_mass}{of_some}; skipped updates: "
        f"{skips(*(summary[key] for key in _SKIPS)).replace(' +', ',')} in {summary['steps']} steps; "
        f"{_clipping(summary)}"
        f"{summary['images_per_second']:.1f} images/s"
    )
    print(visible(said))
    skipped = sum(summary[key] for key in _SKIPS)
    rate, share = config.optimization.ema_rate, summary.get("initial_share")
    if lag := averages_lag(rate, summary["steps"] - skipped, share if isinstance(share, float) else None):
        print(f"note: {lag}")
    for line in filter(None, (tested.sigma, *tested.of_host)):
        print(visible(f"note: {line}"))
    print(visible(f"run folder: {config.folder}"))
    return 0


def _clipping(summary: Mapping[str, Any]) -> str:
    """What the limit came to, which the command line did not say."""
    if summary["grad_clip"] != "auto":
        return ""
    from vdvae_patch.skips.usual_norm import WARM_UP

    limit = float(summary["last_clip"])
    if not math.isfinite(limit):
        return f"{summary['clipped_count']} clipped, and auto clips once it has seen {WARM_UP} updates; "
    return f"{summary['clipped_count']} clipped, at a limit, twice the usual norm, that ended at {limit:.3g}; "


def _dry_run(config: TrainConfig[Any]) -> int:
    from vdvae_patch.train.estimate import estimate

    print("doing a few steps to time them ...", file=sys.stderr, flush=True)
    print(visible(str(estimate(config))))
    return 0
