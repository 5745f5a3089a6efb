"""Is this machine ready: what is here, what is missing, and the command that mends it.

Each check is a function that gives findings; it looks, and changes nothing. Nothing beside the standard library is
imported before a check needs it, so that a broken environment is described and not a traceback.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from vdvae_patch.train.config import TrainConfig

Status = Literal["ok", "note", "fail"]
"""`note`: something is not here that only some uses need."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: what was looked at.
        found: what it is, in words.
        mend: the command, or what to do; empty where nothing is to be done.
    """

    name: str
    status: Status
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Places:
    """Where runs and data of the user's are.

    Attributes:
        out: the folder in which runs will be written.
        data_root: the folder of data sets; None for the one of downloads.
        preset: of VDVAE, whose checkpoints must have room.
    """

    out: Path = Path("runs")
    data_root: Path | None = None
    preset: str = "cifar10"


Check = Callable[[Places], Iterator[Finding]]


def findings(places: Places, checks: Sequence[Check] | None = None) -> Iterator[Finding]:
    """The findings of all checks, in their order; one that fails by itself is a finding, too."""
    for check in CHECKS if checks is None else checks:
        try:
            yield from check(places)
        except Exception as error:  # a check looks at things that may be broken in any way
            text = (str(error).strip().splitlines() or [""])[0]
            name = check.__name__.strip("_").replace("_", " ")
            yield Finding(
                name,
                "fail",
                f"{type(error).__name__}: {text}",
                "see the message; if it does not tell, install anew: pip install --force-reinstall vdvae-patch",
            )


def _python(places: Places) -> Iterator[Finding]:
    enough = sys.version_info >= (3, 11)
    yield Finding(
        "Python",
        "ok" if enough else "fail",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "" if enough else "install Python 3.11 or newer, such as: conda create -n vae python=3.11",
    )


def _package(places: Places) -> Iterator[Finding]:
    import vdvae_patch

    folder = Path(vdvae_patch.__file__).parent
    yield Finding("vdvae_patch", "ok", f"{vdvae_patch.__version__} in {folder}")
    if _version("vdvae-patch") is None:
        yield Finding("required packages", "note", "not known: the package runs from its sources", "pip install .")
        return
    missing = [
        f"{need} (not installed)" if have is None else f"{need} (is {have})"
        for need, have in _required()
        if have is None or not _fits(need, have)
    ]
    mend = (
        "pip install vdvae-patch, for train, compare, report and their kind; scan, patch, stabilize and guard "
        "need torch 2.4 and numpy alone"
    )
    mend = mend if missing else ""
    found = f"missing or too old: {', '.join(missing)}" if missing else "all that the commands need is installed"
    yield Finding("required packages", "fail" if missing else "ok", found, mend)


def _required() -> Iterator[tuple[str, str | None]]:
    """The requirements without an extra, each with the version that is here."""
    for requirement in importlib.metadata.requires("vdvae-patch") or []:
        if "extra ==" not in requirement:
            yield requirement.partition(";")[0].strip(), _version(_name_of(requirement))


def _name_of(requirement: str) -> str:
    end = next((i for i, c in enumerate(requirement) if not (c.isalnum() or c in "-_.")), len(requirement))
    return requirement[:end]


def _fits(requirement: str, version: str) -> bool:
    least = requirement.partition(">=")[2].partition(",")[0].strip()
    return not least or _numbers(version) >= _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("+")[0].split(".") if part.isdecimal())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch(places: Places) -> Iterator[Finding]:
    import torch

    from vdvae_patch.machine import available_bytes, bytes_in_words, usable_cores

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
    yield Finding(
        "torch", "ok", f"{torch.__version__}, built for {built}; processor threads: {torch.get_num_threads()}"
    )
    free = available_bytes()
    memory = "" if free is None else f", {bytes_in_words(free)} of memory free"
    yield Finding("processor", "ok", f"{usable_cores()} cores{memory}")


def _gpus(places: Places) -> Iterator[Finding]:
    import torch

    from vdvae_patch.machine import bytes_in_words

    if not torch.cuda.is_available():
        there = shutil.which("nvidia-smi") is not None
        if torch.version.cuda:
            mend = "check the driver: nvidia-smi" if there else ""
            yield Finding("GPU", "fail" if there else "note", "none that torch can use", mend)
        elif there:
            yield Finding("GPU", "fail", "nvidia-smi is here, but this torch is built for the CPU only", _GPU_TORCH)
        else:
            yield Finding("GPU", "note", "none; everything runs on the CPU, at a small size")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Finding(f"GPU {index}", "ok", f"{name}, {bytes_in_words(free)} of {bytes_in_words(total)} free")
    nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    version = ".".join(map(str, torch.cuda.nccl.version())) if nccl else ""  # type: ignore[no-untyped-call]
    mend = "" if nccl else "install a torch that is built with NCCL, for several GPUs"
    yield Finding("NCCL", "ok" if nccl else "note", version or "not in this torch", mend)


_GPU_TORCH = (
    "pip install --force-reinstall torch --index-url URL, and the URL for your CUDA from "
    "https://pytorch.org/get-started/locally"
)


def _processes(places: Places) -> Iterator[Finding]:
    from vdvae_patch.errors import InvalidValueError

    launchers = importlib.import_module("vdvae_patch.launch.environment")
    try:
        placement = launchers.recognise(os.environ)
    except InvalidValueError as error:
        left = launchers.variables(os.environ)
        yield Finding("launcher", "fail", str(error), f"unset {' '.join(left)}, which a launcher left behind")
    else:
        who = "this process was started alone; --nproc, torchrun, mpiexec and srun are understood"
        if placement is not None:
            who = f"started by {placement.launcher} as rank {placement.rank} of {placement.size}"
        yield Finding("launcher", "ok", who)
    try:
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False
        from mpi4py import MPI

        yield Finding("MPI", "ok", " ".join(MPI.Get_library_version().split())[:60])
    except (ImportError, RuntimeError) as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        mend = "for mpiexec: pip install 'vdvae-patch[mpi]', or load your cluster's MPI module"
        yield Finding("MPI", "note", f"no library can be loaded ({text})", mend)


def _disk(places: Places) -> Iterator[Finding]:
    from vdvae_patch.machine import bytes_in_words

    folder = next(p for p in (places.out.resolve(), *places.out.resolve().parents) if p.exists())
    if not os.access(folder, os.W_OK):
        yield Finding(
            "disk", "fail", f"{folder} may not be written", f"chmod u+w {folder}, or name another folder with --out"
        )
        return
    need = _CHECKPOINTS * _checkpoint_bytes(places.preset)
    free = shutil.disk_usage(folder).free
    taken = f"{_CHECKPOINTS} checkpoints of {places.preset} take {bytes_in_words(need)}"
    found = f"{bytes_in_words(free)} free for {places.out}; {taken}"
    enough = free > need
    mend = "" if enough else f"du -sh {folder}/* says what is large; or name another disk with --out FOLDER"
    yield Finding("disk", "ok" if enough else "fail", found, mend)


_CHECKPOINTS = 3


def _checkpoint_bytes(preset: str) -> int:
    """Of a checkpoint of VDVAE: weights, their average, and the optimizer's two moments, in float32."""
    import torch

    from vdvae_patch.hosts import load_host

    host = load_host("vdvae")
    with torch.device("meta"):
        model = host.build(host.modules["hps"].HPARAMS_REGISTRY[preset])
    return 16 * sum(p.numel() for p in model.parameters())


def _data(places: Places) -> Iterator[Finding]:
    from vdvae_patch.data import load

    root = places.data_root
    where = "the folder of downloads" if root is None else str(root)
    for name, alone in (("cifar10", "; without it, train downloads CIFAR-10"), ("mnist", "")):
        try:
            data = load(name, root, download=False)
        except Exception as error:  # absent, damaged, not readable: said in one line
            why = f": {(str(error).strip().splitlines() or [''])[0]}" if root is not None else ""
            yield Finding(f"data {name}", "note", f"not in {where}{why}", f"name yours with --data-root FOLDER{alone}")
        else:
            yield Finding(f"data {name}", "ok", f"{len(data.train):,} images to train on, in {where}")


def _upstreams(places: Places) -> Iterator[Finding]:
    from vdvae_patch.hosts import fetch
    from vdvae_patch.hosts.manifest import upstreams
    from vdvae_patch.hosts.pinned import inspect_checkout

    for name, upstream in upstreams().items():
        folder = fetch.cached_path(upstream)
        if not folder.is_dir():
            yield Finding(f"upstream {name}", "note", "not fetched", f"vdvae-patch upstream fetch {name}")
        elif inspect_checkout(folder, upstream).verified:
            yield Finding(f"upstream {name}", "ok", f"verified, in {folder}")
        else:
            mend = (
                f"rm -r {folder} && vdvae-patch upstream fetch {name}; `upstream verify {name}` says what was changed"
            )
            yield Finding(f"upstream {name}", "fail", f"{folder} was changed", mend)


_OPTIONAL = {
    "hosts": ("diffusers", "pythae"),
    "report": ("jinja2", "plotly"),
    "tensorboard": ("tensorboard",),
    "parquet": ("pyarrow",),
    "cluster": ("submitit",),
    "composability": ("lightning", "accelerate", "peft", "transformers"),
}


def _optional(places: Places) -> Iterator[Finding]:
    for extra, packages in _OPTIONAL.items():
        here = {name: _version(name) for name in packages}
        absent = [name for name, version in here.items() if version is None]
        found = ", ".join(f"{name} {version or 'not installed'}" for name, version in here.items())
        mend = f"pip install 'vdvae-patch[{extra}]'" if absent else ""
        yield Finding(f"optional: {extra}", "note" if absent else "ok", found, mend)


def training(configured: Callable[[str], TrainConfig[Any]]) -> Check:
    """A check that does three steps on each device, of the run that is configured for it."""

    def training(places: Places) -> Iterator[Finding]:
        import torch

        from vdvae_patch.train.numerics import numerics
        from vdvae_patch.train.world import resolve_device

        for device in ("cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))):
            config = configured(device)
            chosen = resolve_device(device)
            with numerics(chosen, config.matmul, config.deterministic):
                losses = _three_steps(config, chosen)
            finite = all(map(math.isfinite, losses))
            shown = ", ".join(f"{loss:.3f}" for loss in losses)
            found = f"three steps of {config.preset} as {config.variant}: NELBO {shown} nats per dimension"
            mend = (
                "" if finite else "vdvae-patch train --preset demo --steps 3 shows the run; report it with these lines"
            )
            yield Finding(f"training on {device}", "ok" if finite else "fail", found, mend)

    return training


def _three_steps(config: TrainConfig[Any], device: torch.device) -> list[float]:
    """The NELBO of three training steps, in nats per dimension."""
    from vdvae_patch.data.batches import DeviceImages, batch_indices
    from vdvae_patch.train.engine import make_engine
    from vdvae_patch.train.noise import seed_noise
    from vdvae_patch.train.setup import prepare
    from vdvae_patch.train.world import World

    world = World(device)
    work = prepare(config, world.device)
    engine = make_engine(config, world, work).step
    images = DeviceImages(work.data.train, world.device)
    losses: list[float] = []
    for step in range(3):
        seed_noise("train", config.seed, step=step)
        indices = batch_indices(len(images), config.optimization.batch_size, step, config.seed)
        engine(step, *work.data.normalization.apply(images.take(indices)))
        losses += [record.elbo for record in engine.drain()]
    return losses


CHECKS: tuple[Check, ...] = (
    _python, _package, _torch, _gpus, _processes, _disk, _data, _upstreams, _optional
)  # fmt: skip
