"""Run by `torchrun`: every cell of the matrix on two ranks, of which one has the fault; prints the cells that fail."""

from __future__ import annotations

import itertools
import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import vdvae_patch

sys.path.insert(0, str(Path(__file__).parent))
from test_undone import FAULTS, PRECISIONS, Loop, same, state_of

OPTIMIZERS = ("SGD", "Adam", "AdamW fused", "Adamax")


def cell(optimizer: str, precision: str, fault: str, accumulate: int) -> list[str]:
    """What is wrong with it; nothing if all is bit for bit. Every rank does the same, whatever it finds."""
    rank, wrong = dist.get_rank(), []
    loop = Loop(optimizer, precision, accumulate)
    loop.called = DistributedDataParallel(loop.model)
    torch.manual_seed(rank)
    with open(os.devnull, "w") as nowhere, vdvae_patch.guard(loop.called, diagnose=False, file=nowhere) as guard:
        for _ in range(2):
            loop.step()
        if fault == "weight":
            with torch.no_grad():
                loop.model.mean.weight[1, 2] = torch.nan  # type: ignore[union-attr, index]
        for buffer in loop.model.buffers():
            dist.broadcast(buffer, 0)  # which DDP does before a pass, skipped or not
        before = state_of(loop.model, loop.optimizer)
        loop.step(fault if rank == 1 or fault == "weight" else "")
        if not same(before, state_of(loop.model, loop.optimizer)):
            wrong.append("weights, buffers, moments or step counts have changed")
        expected = [(2, "nan_loss", (0, 1) if fault == "weight" else (1,))]
        if [(skip.step, skip.cause, skip.ranks) for skip in guard.skips] != expected:
            wrong.append(f"it said {guard.skips}")
        if fault == "weight":
            return wrong
        loop.step()
        after = state_of(loop.model, loop.optimizer)
        if same(before, after) or guard.steps != 3:
            wrong.append("the next step was not done")
        if not all(bool(t.isfinite().all()) for t in (*after, *loop.average.state_dict().values())):
            wrong.append("the model or its average is not finite")
        total = torch.stack([p.detach().double().sum() for p in loop.model.parameters()]).sum()[None]
        both = [torch.empty_like(total), torch.empty_like(total)]
        dist.all_gather(both, total)
        if not torch.equal(*both):
            wrong.append("the ranks have gone apart")
    return wrong


def main() -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=240))
    cells = list(itertools.product(OPTIMIZERS, PRECISIONS, FAULTS, (1, 3)))
    wrong = {" ".join(map(str, one)): found for one in cells if (found := cell(*one))}
    sys.stdout.write(json.dumps({"rank": dist.get_rank(), "cells": len(cells), "wrong": wrong}) + "\n")
    sys.stdout.flush()
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # a thread of Gloo's may still free a tensor, which an interpreter that ends does not bear


if __name__ == "__main__":
    main()
