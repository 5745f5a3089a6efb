"""The four ways in, for real, with two ranks: one command, the same run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from process_trees import finished
from runs import assert_same_run, count_lines, final_state, free_port, metrics

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
STEPS = 12
FLAGS = (
    "--preset", "demo", "--width", "8", "--zdim", "2", "--enc-blocks", "32d8,4d4,1x1", "--dec-blocks", "1x1,4m1,32m4",
    "--num-mixtures", "2", "--batch-size", "2", "--data", "builtin(train=24, valid=2, test=4)", "--device", "cpu",
    "--checkpoint-every", "4",
)  # fmt: skip

# What srun does, as far as a rank can see it.
SRUN = """#!/usr/bin/env bash
while [ "${1#--}" != "$1" ]; do shift; done
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=localhost "$@" &
    ranks[$rank]=$!
done
worst=0
for rank in 0 1; do
    wait ${ranks[$rank]}; status=$?
    [ $status -gt $worst ] && worst=$status
done
exit $worst
"""
SCONTROL = '#!/usr/bin/env bash\necho "$@" >> "$SCONTROL_SAID"\n'


def flags(out: Path, steps: int = STEPS) -> list[str]:
    return [*FLAGS, "--steps", str(steps), "--out", str(out)]


def environment(**more: str) -> dict[str, str]:
    launchers = ("SLURM_", "PMI_", "OMPI_", "TORCHELASTIC", "MASTER_", "RANK", "LOCAL_RANK", "WORLD_SIZE")
    keep = {k: v for k, v in os.environ.items() if not k.startswith(launchers)}
    return {**keep, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}", **more}


def do(command: list[str], env: Mapping[str, str] | None = None, expect: int = 0) -> str:
    done = finished(command, env=env or environment(), timeout=240, cwd=ROOT)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which `srun` and `scontrol` are ours."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = f"{tools}:{BIN}:{os.environ['PATH']}"
    job = str(free_port())  # the meeting point's port is made of it
    return environment(PATH=path, SLURM_JOB_ID=job, SCONTROL_SAID=str(tmp_path / "said"), PYTHON=sys.executable)


@pytest.fixture(scope="module")
def by_nproc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("launch") / "nproc"
    said = do([sys.executable, "-m", "vdvae_patch", "train", "--nproc", "2", *flags(out)])
    assert said.count("nats per dimension = ") == 1, "rank 0 alone speaks"
    return out


@pytest.mark.slow
def test_two_ranks_that_give_up_say_why_once_and_go_on_as_they_are_told(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train = [sys.executable, "-m", "vdvae_patch", "train", "--nproc", "2"]
    said = do([*train, *flags(out), "--skip-threshold=1e-9", "--max-consecutive-skips=2"], expect=2)
    assert said.count("2 updates in a row were skipped") == 1
    assert "SIGTERM" not in said
    command = said.strip().splitlines()[-1].partition("vdvae-patch train ")[2]
    assert command == f"--resume --out {out} --grad-clip 5 --skip-threshold -1"
    said = do([sys.executable, "-m", "vdvae_patch", "train", *command.split()])
    assert "step 2: resumed with grad_clip 5 (was 200), skip_threshold -1 (was 1e-09)" in said
    assert [row["skipped"] for row in metrics(out)] == [True] * 2 + [False] * (STEPS - 2)


def test_torchrun_does_the_run_of_nproc(by_nproc: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    do([*torchrun, str(free_port()), "-m", "vdvae_patch", "train", *flags(tmp_path / "run")])
    assert_same_run(by_nproc, tmp_path / "run")


@pytest.mark.slow
def test_mpiexec_does_the_run_of_nproc(by_nproc: Path, tmp_path: Path) -> None:
    if not (BIN / "mpiexec").exists():
        pytest.skip("no mpiexec: install the extra 'mpi'")
    mpiexec = [str(BIN / "mpiexec"), "-n", "2", sys.executable]
    do([*mpiexec, "-m", "vdvae_patch", "train", *flags(tmp_path / "run")])
    assert_same_run(by_nproc, tmp_path / "run")


OPEN_MPI = os.environ.get("VDVAE_PATCH_OPEN_MPI", "")
"""The bin folder of an environment that has Open MPI, mpi4py, and this package with what it needs."""


def open_mpi(python: str, *arguments: str) -> list[str]:
    if not OPEN_MPI:
        pytest.skip("no Open MPI: VDVAE_PATCH_OPEN_MPI names no environment's bin folder (docs/clusters.md)")
    allowed = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    mpiexec = [str(Path(OPEN_MPI) / "mpiexec"), *allowed, "--oversubscribe", "-n", "2"]
    return [*mpiexec, python, "-m", "vdvae_patch", "train", *arguments]


def test_mpiexec_of_open_mpi_does_the_run_of_nproc(by_nproc: Path, tmp_path: Path) -> None:
    do(open_mpi(f"{OPEN_MPI}/python", *flags(tmp_path / "run")))
    assert_same_run(by_nproc, tmp_path / "run")
    assert 'launcher = "openmpi"' in (tmp_path / "run" / "config.toml").read_text()


def test_a_warning_to_mpiexec_of_open_mpi_saves_and_says_resume_me(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with (tmp_path / "log").open("w") as log:
        parent = subprocess.Popen(
            open_mpi(f"{OPEN_MPI}/python", *flags(out, 100_000)), env=environment(), stdout=log, stderr=log, cwd=ROOT
        )
    while count_lines(out / "metrics.jsonl") < 5:
        assert parent.poll() is None, (tmp_path / "log").read_text()
    parent.send_signal(signal.SIGUSR1)
    assert parent.wait(60) == 75, (tmp_path / "log").read_text()
    assert final_state(out)["position"]["step"] == len(metrics(out))


def test_the_library_of_mpich_under_mpiexec_of_open_mpi_is_refused(tmp_path: Path) -> None:
    if not (BIN / "mpiexec").exists():
        pytest.skip("no MPICH: install the extra 'mpi'")
    env = environment(OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="2")
    said = do([sys.executable, "-m", "vdvae_patch", "train", *flags(tmp_path / "run")], env, expect=2)
    assert "Open MPI's mpiexec started this process, but the MPI library is 'MPICH" in said
    assert "use that library's mpiexec" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_batch_script_does_the_run_of_nproc_and_resumes_it(by_nproc: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = {"VARIANT": "vanilla", "PRESET": "demo", "OUT": str(out)}
    for steps in (STEPS // 2, STEPS):  # the second time there is something to resume
        own = [*FLAGS[2:], "--steps", str(steps)]
        own[own.index("builtin(train=24, valid=2, test=4)")] = "builtin(train=24,valid=2,test=4)"
        do(["bash", "launch/cifar10.sbatch"], {**slurm(tmp_path), **more, "FLAGS": " ".join(own)})
    assert [row["elbo"] for row in metrics(out)] == [row["elbo"] for row in metrics(by_nproc)]
    assert not (tmp_path / "said").exists(), "a run that ended is not requeued"


def test_the_batch_script_requeues_a_run_that_was_warned(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/usr/bin/env bash\nexit 75\n")
    script.chmod(0o755)
    env = {**slurm(tmp_path), "PYTHON": str(script), "OUT": str(tmp_path / "run")}
    do(["bash", "launch/cifar10.sbatch"], env, expect=75)
    assert (tmp_path / "said").read_text() == f"requeue {env['SLURM_JOB_ID']}\n"


@pytest.mark.slow
def test_torchrun_starts_killed_ranks_again_and_they_resume(tmp_path: Path) -> None:
    steps = 40
    do([sys.executable, "-m", "vdvae_patch", "train", "--nproc", "2", *flags(tmp_path / "undisturbed", steps)])
    out = tmp_path / "run"
    # one restart is for the kill; a machine that is far too busy may need another, for a rank that could not answer
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3"]
    command = [*torchrun, "--master-port", str(free_port()), "-m", "vdvae_patch", "train", *flags(out, steps)]
    with (tmp_path / "log").open("w") as log:
        agent = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, cwd=ROOT)
    while count_lines(out / "metrics.jsonl") < 9:
        assert agent.poll() is None, (tmp_path / "log").read_text()
    os.kill(children(agent.pid)[-1], signal.SIGKILL)
    assert agent.wait(240) == 0, (tmp_path / "log").read_text()
    assert_same_run(tmp_path / "undisturbed", out)


def children(pid: int) -> list[int]:
    """The ranks that a launcher started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGUSR1, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_nproc_passes_a_signal_on_and_says_resume_me(number: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "vdvae_patch", "train", "--nproc", "2", *flags(out, 100_000)]
    with (tmp_path / "log").open("w") as log:
        parent = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, cwd=ROOT)
    while count_lines(out / "metrics.jsonl") < 5:
        assert parent.poll() is None, (tmp_path / "log").read_text()
    parent.send_signal(number)
    assert parent.wait(60) == 75, (tmp_path / "log").read_text()
    done = final_state(out)["position"]["step"]
    assert done == len(metrics(out))


def test_nproc_inside_another_launchers_rank_is_refused(tmp_path: Path) -> None:
    env = environment(RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    said = do([sys.executable, "-m", "vdvae_patch", "train", "--nproc", "2", *flags(tmp_path / "run")], env, expect=2)
    assert "rank 0 of 2 already" in said


def test_mpi_without_a_library_says_how_to_install_one(tmp_path: Path) -> None:
    env = environment(PMI_RANK="0", PMI_SIZE="2", MPI4PY_LIBMPI=str(tmp_path / "none.so"))
    said = do([sys.executable, "-m", "vdvae_patch", "train", *flags(tmp_path / "run")], env, expect=2)
    assert "pip install 'vdvae-patch[mpi]'" in said


@pytest.mark.slow
def test_two_nodes_meet_through_c10d_and_do_the_run_of_nproc(by_nproc: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}", "--rdzv-id", "7"]
    command = [*torchrun, *meeting, "--local-addr", "127.0.0.1", "-m", "vdvae_patch", "train", *flags(out)]
    with (tmp_path / "log").open("w") as log:
        agents = [subprocess.Popen(command, env=environment(), stdout=log, stderr=log, cwd=ROOT) for _ in range(2)]
    assert [agent.wait(240) for agent in agents] == [0, 0], (tmp_path / "log").read_text()
    assert_same_run(by_nproc, out)
