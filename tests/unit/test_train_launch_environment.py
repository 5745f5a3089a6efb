"""Which launcher started this process: read from the environment, never guessed."""

from __future__ import annotations

import pytest
from vdvae_patch.launch.environment import first_node, recognise, restarts

from vdvae_patch.errors import InvalidValueError

TORCHRUN = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip
OPENMPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
HYDRA = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"}
SLURM = {
    "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-09,12]",
    "SLURM_JOB_ID": "4242",
}  # fmt: skip


def test_a_process_that_nobody_launched_is_alone() -> None:
    assert recognise({}) is None


@pytest.mark.parametrize(
    ("environ", "launcher", "rank", "size", "local_rank", "where"),
    [
        (TORCHRUN, "torchrun", 1, 2, 1, ("10.0.0.1", 29500)),
        (OPENMPI, "openmpi", 3, 4, 1, (None, None)),
        (HYDRA, "hydra", 0, 2, 0, (None, None)),
        (SLURM, "slurm", 5, 8, 1, ("gpu07", 24242)),
    ],
)
def test_each_launcher_is_recognised_by_its_own_variables(
    environ: dict[str, str], launcher: str, rank: int, size: int, local_rank: int, where: tuple[str | None, int | None]
) -> None:
    found = recognise(environ)
    assert found is not None
    assert (found.launcher, found.rank, found.size, found.local_rank) == (launcher, rank, size, local_rank)
    assert (found.address, found.port) == where


def test_torchrun_started_by_another_launcher_has_the_last_word() -> None:
    for outer in (OPENMPI, HYDRA, SLURM):
        found = recognise({**outer, **TORCHRUN})
        assert found is not None
        assert (found.launcher, found.rank) == ("torchrun", 1)


def test_a_batch_script_of_slurm_is_no_rank() -> None:
    assert recognise({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}) is None


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"RANK": "1"}, "WORLD_SIZE is not"),
        ({"WORLD_SIZE": "2"}, "RANK is not"),
        ({**TORCHRUN, "RANK": "2"}, "RANK=2 does not fit WORLD_SIZE=2"),
        ({**TORCHRUN, "RANK": "first"}, "no whole number"),
        ({**TORCHRUN, "RANK": "-1"}, "negative"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR"),
        ({k: v for k, v in TORCHRUN.items() if k != "MASTER_PORT"}, "MASTER_PORT is not set"),
        ({**{k: v for k, v in TORCHRUN.items() if k != "TORCHELASTIC_RUN_ID"}, **OPENMPI}, "contradicts itself"),
        ({**OPENMPI, **HYDRA}, "contradicts itself"),
        ({"PMI_RANK": "0"}, "PMI_SIZE is not"),
        ({**SLURM, "SLURM_PROCID": "8"}, "does not fit"),
    ],
)
def test_a_contradictory_environment_is_an_error(environ: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidValueError, match=words):
        recognise(environ)


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [("node1", "node1"), ("node1,node2", "node1"), ("gpu[07-09,12],login1", "gpu07"), ("n[3]-ib", "n3-ib"), ("", "")],
)
def test_the_first_machine_of_slurms_list(nodelist: str, first: str) -> None:
    assert first_node(nodelist) == first


def test_restarts_are_counted_by_torchrun() -> None:
    assert restarts({}) == 0
    assert restarts({"TORCHELASTIC_RESTART_COUNT": "2"}) == 2
