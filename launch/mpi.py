"""Let the ranks that mpiexec started agree on where to meet; all that MPI is used for."""

from __future__ import annotations

import socket
from dataclasses import replace

from vdvae_patch.errors import RunError

from .environment import Placement


def agree(placement: Placement) -> Placement:
    """The placement with an address and a port that rank 0 chose and told all others.

    MPI is finalized at once: a rank that fails later must not wait for the others in its last call.

    Raises:
        RunError: no MPI library, one of another MPI than mpiexec, or it counts the ranks differently from the
            environment.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise RunError(
            f"mpiexec started this process as rank {placement.rank} of {placement.size}, but no MPI library can be "
            f"loaded ({str(error).splitlines()[0]}); install one with: pip install 'vdvae-patch[mpi]', "
            "load your cluster's MPI module, or use --nproc or torchrun"
        ) from None
    _require_of_one_kind(placement, MPI.Get_library_version())
    MPI.Init_thread()
    world = MPI.COMM_WORLD
    if (world.rank, world.size) != (placement.rank, placement.size):
        raise RunError(
            f"mpiexec says rank {placement.rank} of {placement.size}, the MPI library rank {world.rank} of "
            f"{world.size}: {_OTHER}"
        )
    one_machine = len(set(world.allgather(socket.gethostname()))) == 1
    offer = (("127.0.0.1" if one_machine else socket.getfqdn()), free_port()) if world.rank == 0 else None
    address, port = world.bcast(offer)
    MPI.Finalize()
    return replace(placement, address=address, port=port)


_OTHER = "mpiexec and the library that mpi4py loads are not of the same MPI; use that library's mpiexec"
_OF_MPICH = ("MPICH", "MVAPICH", "Intel(R) MPI")


def _require_of_one_kind(placement: Placement, version: str) -> None:
    # asked before MPI begins: MPICH aborts the process if it finds itself under Open MPI's mpiexec
    if placement.launcher == "openmpi" and version.startswith(_OF_MPICH):
        library = " ".join(version.splitlines()[0].split())
        raise RunError(f"Open MPI's mpiexec started this process, but the MPI library is {library!r}: {_OTHER}")


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
