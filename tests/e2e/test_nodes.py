"""Two machines, as far as a process can see: two network namespaces of this one, and a cable between them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import assert_same_run, count_lines
from test_launch import ROOT, do, environment, flags

pytestmark = pytest.mark.medium

FIRST, SECOND = "10.77.0.1", "10.77.0.2"
PORT = 29400


class Node:
    """A machine with its torchrun, which starts one rank."""

    def __init__(self, namespace: str, address: str, folder: Path) -> None:
        self.namespace, self.address = namespace, address
        self.log = folder / f"{address}.log"
        self.agent: subprocess.Popen[bytes] | None = None

    def torchrun(self, arguments: list[str]) -> None:
        """Start a rank of two. Here a machine's name leads to no address of it, so torchrun is told who it is."""
        is_host = str(self.address == FIRST).lower()
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{FIRST}:{PORT}", "--rdzv-conf", f"is_host={is_host}"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        command = [*torchrun, *meeting, "--local-addr", self.address, "-m", "vdvae_patch", "train", *arguments]
        with self.log.open("w") as log:
            self.agent = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command], env=environment(), stdout=log, stderr=log, cwd=ROOT
            )

    def processes(self) -> set[int]:
        """All that run here."""
        return {int(pid) for pid in ip("netns", "pids", self.namespace).split()}

    def rank_lives(self) -> bool:
        """Whether anything but torchrun runs here."""
        assert self.agent is not None
        return bool(self.processes() - {self.agent.pid})

    def remove(self) -> None:
        """End what runs here."""
        for process in self.processes():
            os.kill(process, 9)
        if self.agent is not None:
            self.agent.wait()
        ip("netns", "delete", self.namespace)


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    return done.stdout


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    if shutil.which("ip") is None:
        pytest.skip("no `ip`: install iproute2")
    pair = tuple(Node(f"vdvae{os.getpid()}-{n}", a, tmp_path) for n, a in enumerate((FIRST, SECOND)))
    made: list[Node] = []
    try:
        try:
            for node in pair:
                ip("netns", "add", node.namespace)
                made.append(node)
            ip("link", "add", "cable", "netns", pair[0].namespace, "type", "veth",
               "peer", "name", "cable", "netns", pair[1].namespace)  # fmt: skip
            for node in pair:
                ip("-n", node.namespace, "address", "add", f"{node.address}/24", "dev", "cable")
                for device in ("lo", "cable"):
                    ip("-n", node.namespace, "link", "set", device, "up")
        except PermissionError as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        yield pair  # type: ignore[misc]
    finally:
        for node in made:
            node.remove()


@pytest.mark.slow
def test_two_machines_meet_through_c10d_and_do_the_run_of_nproc(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    do([sys.executable, "-m", "vdvae_patch", "train", "--nproc", "2", *flags(tmp_path / "nproc")])
    for node in nodes:
        node.torchrun(flags(tmp_path / "run"))
    for node in nodes:
        assert node.agent is not None
        assert node.agent.wait(240) == 0, node.log.read_text()
    assert_same_run(tmp_path / "nproc", tmp_path / "run")


@pytest.mark.slow
def test_both_machines_end_within_thirty_seconds_when_the_cable_is_cut(
    nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for node in nodes:
        # how long TCP itself, and torchrun with it, waits for an answer: ten seconds and more instead of 15 minutes
        ip("netns", "exec", node.namespace, "sh", "-c", "echo 6 > /proc/sys/net/ipv4/tcp_retries2")
        node.torchrun(flags(out, 100_000))
    began = time.monotonic()
    while count_lines(out / "metrics.jsonl") < 9:
        assert all(node.agent is not None and node.agent.poll() is None for node in nodes), nodes[0].log.read_text()
        assert time.monotonic() - began < 240
        time.sleep(0.05)
    ip("-n", nodes[0].namespace, "link", "set", "cable", "down")
    cut = time.monotonic()
    while any(node.rank_lives() for node in nodes):
        assert time.monotonic() - cut < 30, "\n".join(node.log.read_text() for node in nodes)
        time.sleep(0.2)
    here, there = (node.log.read_text() for node in nodes)
    assert f"rank 1 is gone: no sign of it for 14 s at {FIRST}:" in here
    assert f"rank 0 or its launcher cannot be reached: no answer from {FIRST}:" in there
    for node in nodes:
        assert node.agent is not None
        assert node.agent.wait(120) != 0, "torchrun ends, too"
