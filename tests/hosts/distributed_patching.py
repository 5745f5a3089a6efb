"""Trains a patched VDVAE for three steps on some ranks, wrapped in DDP or FSDP2; rank 0 saves the weights.

python distributed_patching.py none|ddp|fsdp2 RANKS OUT
"""

from __future__ import annotations

import sys
import tempfile
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from vdvae_patch.patches.vdvae import HOST, Architecture

import vdvae_patch

ARCHITECTURE = Architecture(width=8, zdim=4, enc_blocks="8x1,8d4,2x1,2d2,1x1", dec_blocks="1,2m1,8,8m2")


draw = torch.randn


def shared_noise(shape: torch.Size, **options: Any) -> Tensor:
    """Noise that is the same for every image, so that it does not matter which rank an image is on."""
    return draw((1, *shape[1:]), **options).expand(shape)


def wrap(model: nn.Module, wrapper: str) -> nn.Module:
    """The model as the ranks train it."""
    if wrapper == "ddp":
        return DistributedDataParallel(model)
    if wrapper == "fsdp2":
        for block in model.decoder.dec_blocks:  # type: ignore[union-attr]
            fully_shard(block)
        fully_shard(model)
    return model


def work(rank: int, wrapper: str, ranks: int, store: str, out: str) -> None:
    """One rank with its share of a batch of four."""
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=timedelta(seconds=120)
    )
    host = vdvae_patch.load_host("vdvae")
    torch.manual_seed(0)
    model = host.build(HOST.hyperparameters(ARCHITECTURE, image_size=8, image_channels=3, data="cifar10"))
    vdvae_patch.patch(model, "explin/upbounded", heads=host.heads(model))
    wrapped = wrap(model, wrapper)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(3)
    share = 4 // ranks
    for _ in range(3):
        x = torch.randn(4, 8, 8, 3, generator=generator)[rank * share : (rank + 1) * share]
        torch.manual_seed(5)
        torch.randn = shared_noise  # type: ignore[assignment]
        loss = HOST.losses(wrapped, x, x.clamp(-1, 1)).elbo
        torch.randn = draw
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert vdvae_patch.is_patched(wrapped)
    weights = get_model_state_dict(wrapped, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        torch.save({k: v.clone() for k, v in weights.items()}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    wrapper, ranks, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (wrapper, ranks, f"{folder}/store", out), nprocs=ranks)  # type: ignore[no-untyped-call]
