"""Ranks that part in good order say nothing, and leave no thread that may abort the process while Python ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import environment, free_port

pytestmark = pytest.mark.medium

RANK = """
import json, os, time
import torch
import torch.distributed as dist
from vdvae_patch.train.ranks import distribute
from vdvae_patch.train.world import connect

def name(thread):
    try:
        return open(f"/proc/self/task/{thread}/comm").read()
    except OSError:  # it ended after it was listed
        return ""

def gloo_threads():
    return sum("gloo" in name(thread) for thread in os.listdir("/proc/self/task"))

def settled(reached):
    # A thread names itself some time after its start, and is listed some time after its end.
    deadline = time.monotonic() + 5
    while not reached(gloo_threads()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return gloo_threads()

def train(world):
    module, _ = distribute(torch.nn.Linear(3, 2), world)
    module(torch.ones(4, 3)).sum().backward()
    loop = [module]
    loop.append(loop)  # a run points at itself in many places

with connect("cpu") as world:
    train(world)
    world.barrier()
    training = settled(lambda count: count > 0)
    destroy = dist.destroy_process_group
    # a rank that is slow at the very end, as one that the machine swaps out
    dist.destroy_process_group = lambda: (time.sleep(float(os.environ["SLOW"])), destroy())
print(json.dumps([training, settled(lambda count: count == 0)]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed by Linux only")
@pytest.mark.parametrize("slow", [0, 3])
def test_ranks_part_in_silence_and_no_thread_of_gloo_is_left(slow: int) -> None:
    port = free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **environment(rank, 2, port), "SLOW": str(rank * slow), "PYTHONWARNINGS": "ignore"},
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in ranks:
        said, complaints = process.communicate(timeout=90)
        assert (process.returncode, complaints) == (0, "")
        training, left = json.loads(said)
        assert training > 0
        assert left == 0
