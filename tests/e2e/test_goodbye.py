"""Ranks that part in good order leave no thread behind that may abort the process while the interpreter shuts down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import environment, free_port

RANK = """
import json, os
import torch
from vdvae_patch.train.ranks import distribute
from vdvae_patch.train.world import connect

def gloo_threads():
    names = [open(f"/proc/self/task/{thread}/comm").read() for thread in os.listdir("/proc/self/task")]
    return sum("gloo" in name for name in names)

def train(world):
    module, _ = distribute(torch.nn.Linear(3, 2), world)
    module(torch.ones(4, 3)).sum().backward()
    loop = [module]
    loop.append(loop)  # a run points at itself in many places
    return gloo_threads()

with connect("cpu") as world:
    world.barrier()
    meeting = gloo_threads()
    training = train(world)
print(json.dumps([meeting, training, gloo_threads()]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed by Linux only")
def test_the_threads_of_the_group_that_says_goodbye_have_ended_when_the_ranks_part() -> None:
    port = free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK], stdout=subprocess.PIPE, text=True,
            env={**os.environ, **environment(rank, 2, port)},
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in ranks:
        said, _ = process.communicate(timeout=90)
        assert process.returncode == 0
        meeting, training, after = json.loads(said)
        assert training > meeting > 0
        assert after == training - meeting, "what is left belongs to DDP, which is idle by then"
