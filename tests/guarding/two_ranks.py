"""Run by `torchrun`: a guarded loop of two ranks, one of which gets a bad batch; prints what each rank has seen."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from small_vae import SmallVAE, nelbo
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import vdvae_patch


class VAE(SmallVAE):
    """The loss is in the model, as the wrapper's backward pass is."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        recon, mean, logvar = super().forward(x)
        return nelbo(recon, x, mean, logvar)


def main(wrapper: str, fault: str, out: str = "") -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=90))
    rank = dist.get_rank()
    torch.manual_seed(0)
    model: nn.Module = VAE()
    if wrapper.startswith("fsdp1"):
        return flat(model, rank, *wrapper.split("-")[1:])
    if wrapper == "fsdp":
        from torch.distributed.fsdp import fully_shard

        fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))  # type: ignore[attr-defined]
        trained = model
    else:
        trained = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2)
    threshold = 1e-9 if fault == "high" else None
    guard = vdvae_patch.guard(trained, file=sys.stderr, out=out or None, keep=1, threshold=threshold)
    kept = []
    for step in range(4):
        torch.manual_seed(10 * step + rank)
        x = torch.randn(8, 6)
        if step == 2 and rank == 1:
            x = {"large": x * 1e38, "nan": x.masked_fill(x > 1, torch.nan), "high": x}[fault]
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        trained(x).backward()
        optimizer.step()
        kept.append(all(_same(a, b.detach()) for a, b in zip(before, model.parameters(), strict=True)))
    skips = [{"step": s.step, "ranks": s.ranks, "cause": s.cause, "outside": s.outside} for s in guard.skips]
    finite = all(bool(_local(p.detach()).isfinite().all()) for p in (*model.parameters(), *model.buffers()))
    total = float(sum(float(_local(p.detach()).double().sum()) for p in model.parameters()))
    dist.barrier()
    sys.stdout.write(json.dumps({"rank": rank, "skips": skips, "kept": kept, "finite": finite, "sum": total}) + "\n")
    sys.stdout.flush()
    guard.remove()
    dist.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # a thread of Gloo's may still free a tensor, which an interpreter that ends does not bear


def flat(model: nn.Module, rank: int, when: str, parameters: str) -> None:
    """With FSDP1, which trains by itself, and refuses the guard."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    def wrapped(module: nn.Module) -> nn.Module:
        keep = parameters == "original"
        return FullyShardedDataParallel(module, device_id=torch.device("cpu"), use_orig_params=keep)

    x, steps, refused = torch.randn(8, 6), 0, ""
    plain = wrapped(VAE())
    optimizer = torch.optim.SGD(plain.parameters(), lr=1e-2)
    plain(x).backward()
    optimizer.step()
    try:
        trained = wrapped(model) if when == "before" else model
        guard = vdvae_patch.guard(trained, file=sys.stderr)
        steps = guard.steps
        (wrapped(model) if when == "after" else trained)(x).backward()
    except vdvae_patch.errors.GuardError as error:
        refused = str(error)
    sys.stdout.write(json.dumps({"rank": rank, "refused": refused, "steps": steps}) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _local(value: Tensor) -> Tensor:
    return value.to_local() if hasattr(value, "to_local") else value  # type: ignore[no-any-return]


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(_local(a), _local(b))


if __name__ == "__main__":
    main(*sys.argv[1:])
