"""Recognise how this process was started: by torchrun, mpiexec (Open MPI, MPICH, Hydra) or srun, or alone.

Each launcher tells its processes who they are through variables of its own. They are read, never guessed: a variable
that is missing, is no number, or disagrees with another launcher's is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vdvae_patch.errors import InvalidValueError

Launcher = Literal["torchrun", "environment", "openmpi", "hydra", "slurm"]


@dataclass(frozen=True)
class Placement:
    """Who this process is.

    Attributes:
        launcher: who started it; `environment` is RANK and WORLD_SIZE set by hand.
        rank, size: its number among all processes, and how many there are.
        local_rank: its number on this machine.
        address, port: where rank 0 is met; None where the ranks have yet to agree on it.
    """

    launcher: Launcher
    rank: int
    size: int
    local_rank: int
    address: str | None = None
    port: int | None = None


@dataclass(frozen=True)
class _Names:
    launcher: Launcher
    rank: str
    size: str
    local_rank: tuple[str, ...]


_FAMILIES = (
    _Names("torchrun", "RANK", "WORLD_SIZE", ("LOCAL_RANK",)),
    _Names("openmpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ("OMPI_COMM_WORLD_LOCAL_RANK",)),
    _Names("hydra", "PMI_RANK", "PMI_SIZE", ("MPI_LOCALRANKID", "PMI_LOCAL_RANK")),
    # srun sets both; a batch script, which is no step, has SLURM_PROCID and SLURM_NTASKS but not the step's size
    _Names("slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ("SLURM_LOCALID",)),
)

ELASTIC = "TORCHELASTIC_RUN_ID"
RESTARTS = "TORCHELASTIC_RESTART_COUNT"


def recognise(environ: Mapping[str, str]) -> Placement | None:
    """The placement that the environment states; None for a process that nobody launched.

    torchrun's word stands above the others', since its agents may themselves be started by mpiexec or srun; likewise
    mpiexec's above srun's.

    Raises:
        InvalidValueError: the environment contradicts itself.
    """
    found = [placement for names in _FAMILIES if (placement := _read(names, environ)) is not None]
    if not found:
        return None
    first = found[0]
    if first.launcher == "torchrun" and ELASTIC not in environ:
        _require_agreement(found)
        first = Placement("environment", first.rank, first.size, first.local_rank)
    elif first.launcher == "openmpi":
        _require_agreement([p for p in found if p.launcher in ("openmpi", "hydra")])
    return _with_address(first, environ)


def variables(environ: Mapping[str, str]) -> list[str]:
    """The variables that are set by which a launcher is known."""
    known = (name for names in _FAMILIES for name in (names.rank, names.size, *names.local_rank))
    return [name for name in (*known, "MASTER_ADDR", "MASTER_PORT") if name in environ]


def restarts(environ: Mapping[str, str]) -> int:
    """How often torchrun has started these ranks again after a failure."""
    return _number(RESTARTS, environ.get(RESTARTS, "0"))


def first_node(nodelist: str) -> str:
    """The first machine of SLURM's list: `gpu[07-09,12],login1` to `gpu07`."""
    match = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodelist)
    assert match is not None  # every group may be empty
    return "".join(part or "" for part in match.groups())


def _read(names: _Names, environ: Mapping[str, str]) -> Placement | None:
    if names.launcher == "slurm" and names.size not in environ:
        return None
    given = [name for name in (names.rank, names.size) if name in environ]
    if not given:
        return None
    if len(given) == 1:
        absent = names.size if given[0] == names.rank else names.rank
        raise InvalidValueError(f"{given[0]}={environ[given[0]]} is set but {absent} is not; set both or neither")
    rank, size = _number(names.rank, environ[names.rank]), _number(names.size, environ[names.size])
    if rank >= size:
        raise InvalidValueError(f"{names.rank}={rank} does not fit {names.size}={size}; ranks are 0 to {size - 1}")
    local = next((name for name in names.local_rank if name in environ), None)
    local_rank = rank if local is None else _number(local, environ[local])
    return Placement(names.launcher, rank, size, local_rank)


def _require_agreement(found: list[Placement]) -> None:
    first = found[0]
    for other in found[1:]:
        if (other.rank, other.size) != (first.rank, first.size):
            raise InvalidValueError(
                f"the environment contradicts itself: {_variables(first)} but {_variables(other)}; "
                "start the processes with one launcher, or unset the variables of the other"
            )


def _variables(placement: Placement) -> str:
    names = next(names for names in _FAMILIES if names.launcher == placement.launcher)
    return f"{names.rank}={placement.rank} {names.size}={placement.size}"


def _with_address(placement: Placement, environ: Mapping[str, str]) -> Placement:
    address, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    if (address is None) != (port is None) and placement.launcher in ("torchrun", "environment"):
        absent = "MASTER_PORT" if port is None else "MASTER_ADDR"
        raise InvalidValueError(f"{absent} is not set, but the other half of the meeting point is; set both")
    if placement.launcher == "environment" and address is None and placement.size > 1:
        raise InvalidValueError("RANK and WORLD_SIZE are set, but MASTER_ADDR and MASTER_PORT are not")
    if placement.launcher == "slurm" and address is None:
        address = first_node(environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")) or "127.0.0.1"
    number = None if port is None else _number("MASTER_PORT", port)
    if placement.launcher == "slurm" and number is None:
        job = _number("SLURM_JOB_ID", environ.get("SLURM_JOB_ID", "0"))
        number = 20000 + job % 30000  # the same on all ranks, and another for another job on the same machine
    return Placement(placement.launcher, placement.rank, placement.size, placement.local_rank, address, number)


def _number(name: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise InvalidValueError(f"{name}={text!r} is no whole number") from None
    if value < 0:
        raise InvalidValueError(f"{name}={value} is negative")
    return value
