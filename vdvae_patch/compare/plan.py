"""The runs of a comparison: every variant with every seed, and nothing else different."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vdvae_patch import own_process
from vdvae_patch.compare.options import CompareOptions
from vdvae_patch.errors import InvalidValueError, RunError, UnknownNameError
from vdvae_patch.machine import usable_cores
from vdvae_patch.patching import Variant
from vdvae_patch.patching.variant import with_seams
from vdvae_patch.train.config import RunFile, TrainConfig, changed, slug
from vdvae_patch.train.folder import run_around

# What may differ between two runs of a comparison: who they are, and what has no influence on what is computed.
_MAY_DIFFER = frozenset(
    {
        "variant", "seed", "out", "resume", "dry_run", "data_root", "checkpoint_every", "evaluate_every",
        "record_every", "record_skips", "samples_every", "tensorboard", "max_consecutive_skips", "watch_every",
    }
)  # fmt: skip


@dataclass(frozen=True)
class PlannedRun:
    """One variant with one seed: what it is told, and the flags that tell it."""

    config: TrainConfig[Any]
    flags: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.config.folder

    @property
    def label(self) -> str:
        """`upbounded seed 0`."""
        return f"{self.config.variant} seed {self.config.seed}"

    def command(self, *, resume: bool) -> list[str]:
        """The command line of the process that does it."""
        own = ["--variant", self.config.variant, "--seed", str(self.config.seed), "--out", str(self.folder)]
        return own_process.command("train", *self.flags, *own, *(["--resume"] if resume else []))


@dataclass(frozen=True)
class Comparison:
    """Runs that share every setting but variant and seed.

    Attributes:
        out: the folder that holds theirs, and the report.
        base: the settings they share.
        variants: as canonical text, in the order of the table's rows.
        runs: all variants of the first seed, then all of the next.
        threads: processor threads of each run.
    """

    out: Path
    base: TrainConfig[Any]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[PlannedRun, ...]
    jobs: int
    threads: int


def plan(options: CompareOptions, flags: Sequence[str], base: TrainConfig[Any]) -> Comparison:
    """The comparison that a command line asks for; `flags` are those for `train`, `base` what they mean.

    Raises:
        UnknownNameError, InvalidValueError: a variant or seed that does not exist or is named twice.
        RunError: the folder is a run's own or lies inside one, or holds runs with other settings.
    """
    for_all = Variant.parse(base.variant)  # what --decoder, --objective and --top-prior name
    others = for_all.decoder, for_all.objective, for_all.top_prior
    variants = [str(with_seams(name, *others)) for name in options.variant_list()]
    twice = next((name for name in variants if variants.count(name) > 1), None)
    if twice is not None:
        raise InvalidValueError(f"--variants {options.variants!r} names {twice} twice")
    out = options.out or Path("runs") / f"compare-{base.preset}"
    seeds = options.seed_list()
    runs = [
        PlannedRun(replace(base, variant=variant, seed=seed, out=out / f"{slug(variant)}-seed{seed}"), tuple(flags))
        for seed in seeds
        for variant in variants
    ]
    _check_apart(runs)
    _check_folder(out, base)
    threads = options.threads or max(1, usable_cores() // options.jobs)
    return Comparison(out, base, tuple(variants), tuple(seeds), tuple(runs), options.jobs, threads)


def _check_apart(runs: Sequence[PlannedRun]) -> None:
    """Refuse two runs in one folder: the second would go on with the first one's weights."""
    of: dict[Path, PlannedRun] = {}
    for run in runs:
        other = of.setdefault(run.folder, run)
        if other is not run:
            raise InvalidValueError(
                f"{other.config.variant} and {run.config.variant} would both be written to {run.folder}; compare them "
                "by two commands, each with an --out of its own"
            )


def _check_folder(out: Path, base: TrainConfig[Any]) -> None:
    """Refuse a run's own folder, and one in which any run, asked for or not, was told something else."""
    if (run := run_around(out)) is not None:
        where = "holds a run" if run == out.absolute() else f"is inside that of a run ({run})"
        raise RunError(f"folder {out} {where}, and a comparison needs a folder of its own; choose another --out")
    for path in sorted(out.glob("*/config.toml")):
        try:
            different = changed(RunFile.read(path).config(type(base.architecture)), base, _MAY_DIFFER)
        except UnknownNameError as error:
            different = [str(error)]
        if different:
            raise RunError(
                f"folder {out} holds a comparison with other settings ({path.parent.name}: {'; '.join(different)}); "
                "use the same ones, or choose another --out"
            )
