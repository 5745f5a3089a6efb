"""`vdvae-patch bench --gpu`: everything that is to be known of a GPU, in minutes; on a CPU its rehearsal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import InvalidValueError, RunError

if TYPE_CHECKING:
    import torch

    from vdvae_patch.gpu_bench.cells import Cell
    from vdvae_patch.gpu_bench.results import Results
    from vdvae_patch.train.config import TrainConfig

_PART = "--part"
"""Written by a measurement alone, behind the arguments of the command that began it."""

OUT = Path("bench-gpu")
_OF_THE_CELLS = (
    "--batch-size",
    "--precision",
    "--compile",
    "--no-compile",
    "--cuda-graph",
    "--no-cuda-graph",
    "--nproc",
)


def part_of(argv: list[str]) -> tuple[str, list[str]]:
    """Which part of the measurement a process was started for, and the other arguments; empty for the whole."""
    if len(argv) > 1 and argv[-2] == _PART:
        return argv[-1], argv[:-2]
    return "", argv


def gpu_flags(argv: Sequence[str], presets: Sequence[str]) -> list[str]:
    """The flags of `train` for a measurement, with a preset that fits the device unless one is named.

    Raises:
        InvalidValueError: a flag of what the cells choose for themselves.
    """
    for argument in argv:
        flag = argument.split("=", 1)[0]
        if flag in _OF_THE_CELLS:
            raise InvalidValueError(f"{flag} means nothing with --gpu, which measures all of them; name --batches")
    if any(argument.split("=")[0] == "--preset" for argument in argv):
        return list(argv)
    on_cpu = any(
        a == "--device=cpu" or (a == "--device" and argv[i + 1 : i + 2] == ["cpu"]) for i, a in enumerate(argv)
    )
    wanted = ("demo", "small") if on_cpu else ("cifar10",)
    chosen = next((name for name in wanted if name in presets), None)
    return list(argv) if chosen is None else ["--preset", chosen, *argv]


def run_gpu_bench(
    config: TrainConfig[Any],
    variants: Sequence[str],
    *,
    argv: Sequence[str],
    batches: str,
    seconds: float,
    out: Path | None,
    part: str,
) -> int:
    """Measure what is left in the folder, and write `gpu.md` and `gpu.json` into it.

    Args:
        argv: the command's own arguments, for the processes that do a part of it.
        part: which part this process does: empty for the whole, `cells`, or `seed:N:FOLDER`.

    Raises:
        RunError: there is no GPU, or the folder has cells of something else.
    """
    import torch

    from vdvae_patch import fused
    from vdvae_patch.benchmark import default_config
    from vdvae_patch.gpu_bench import session
    from vdvae_patch.gpu_bench.cells import plan
    from vdvae_patch.gpu_bench.results import Results
    from vdvae_patch.gpu_bench.seeds import pace
    from vdvae_patch.train.provenance import provenance
    from vdvae_patch.train.world import resolve_device

    if config.device != "cpu" and not torch.cuda.is_available():
        raise RunError(
            "bench --gpu: this machine, or this build of torch, has no CUDA device; rehearse it with --device cpu "
            "--preset demo"
        )
    folder, device = (out or OUT).resolve(), resolve_device(config.device)
    sizes = _sizes(batches)
    settings = replace(default_config(config), checkpoint_every=0)
    cells = plan(variants, sizes, graphs=device.type == "cuda", kernels=device.type == "cuda" and not fused.why_not())
    if part.startswith("seed:"):
        _, seed, where = part.split(":", 2)
        cell = next(cell for cell in cells if cell.kind == "seeds")
        pace(settings, cell, device, Path(where), int(seed))
        return 0
    seen = provenance(device)
    about: dict[str, Any] = {name: str(seen[name]) for name in ("version", "commit", "torch", "machine", "threads")}
    about |= {"settings": str(sorted(settings.settings().items())), "variants": list(variants), "batches": sizes}
    results = Results(folder, about)
    passed = _without(argv, ("--out", "--seconds"))

    def command(part: str, left: float) -> list[str]:
        return session.command_line(passed, folder, part, left)

    if part == "cells":
        session.work(
            settings, results, cells, device, seconds=seconds,
            command=lambda seed, shared: command(f"seed:{seed}:{shared}", seconds),
        )  # fmt: skip
        return 0
    return _whole(results, cells, command, seconds, seen, settings, device)


def _whole(
    results: Results,
    cells: list[Cell],
    command: Any,
    seconds: float,
    seen: dict[str, Any],
    settings: TrainConfig[Any],
    device: torch.device,
) -> int:
    from vdvae_patch.gpu_bench import session, table
    from vdvae_patch.train.folder import write_json, write_whole
    from vdvae_patch.train.numerics import WORKSPACE

    log = results.folder / "log.txt"
    # cuBLAS reads it when CUDA starts, and the cells that are deterministic need it; the size is Hopper's own
    environment = {WORKSPACE: ":4096:8", **os.environ}

    def start(left: float) -> subprocess.Popen[bytes]:
        with log.open("ab") as target:
            return subprocess.Popen(command("cells", left), stdout=target, stderr=target, env=environment)

    print(f"{len(cells)} cells, the most valuable first; at most {seconds:.0f} s; {results.folder}", flush=True)
    try:
        left = session.watch(
            results, cells, start, seconds=seconds, say=lambda text: print(text, flush=True), describe=table.line
        )
    except RunError as error:
        raise RunError(
            f"{error}: {(log.read_text(errors='replace').strip().splitlines() or ['nothing'])[-1]}"
        ) from None
    title = (
        f"{settings.host} {settings.preset}, {settings.data}; {seen['machine']}, {seen['threads']} thread(s), torch "
        f"{seen['torch']}, commit {seen['commit']}{'' if device.type == 'cuda' else '; a rehearsal on a CPU'}"
    )
    text = table.page(title, results, cells, left)
    print(f"\n{text}", end="")
    write_whole(results.folder / "gpu.md", text)
    found = {cell.name: vars(result) for cell in cells if (result := results.read(cell)) is not None}
    write_json(
        results.folder / "gpu.json", {"title": title, "run": seen, "cells": found, "left": [c.name for c in left]}
    )
    if not any(result["state"] == "done" for result in found.values()):
        sys.stdout.flush()
        raise RunError(f"no cell was measured; see {log}")
    return 0


def _sizes(batches: str) -> list[int]:
    parts = [part.strip() for part in batches.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InvalidValueError(f"--batches must be numbers of images such as 16,32,64, not {batches!r}")
    return list(dict.fromkeys(int(part) for part in parts))


def _without(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The arguments without these flags and their values."""
    kept: list[str] = []
    skip = False
    for argument in argv:
        if skip:
            skip = False
        elif argument in flags:
            skip = True
        elif argument.split("=", 1)[0] not in flags:
            kept.append(argument)
    return kept
