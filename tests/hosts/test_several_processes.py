"""Processes that train one model have the same scales, whatever the batch was that each of them saw."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils.data import DataLoader

import vdvae_patch


class Floored(nn.Module):
    """σ is no exponential, so that gain and shift are those of a batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.encoder(x).chunk(2, 1)
        sigma = nn.functional.softplus(raw) + 1e-3
        kl = 0.5 * (sigma**2 + mean**2 - 1) - sigma.log()
        return (self.decoder(mean + sigma * torch.randn_like(mean)) - x).square().mean() + kl.mean()


def rows(rank: int) -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(rank)) + 3 * rank


def scales(model: nn.Module) -> list[str]:
    return [str(head.scale) for head in vdvae_patch.patched_heads(model)]


def plain(rank: int, store: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    said, model = io.StringIO(), Floored()
    vdvae_patch.stabilize(model, rows(rank), posterior="bounded(0.01, 4)", file=said)
    own = scales(model)
    text = [vdvae_patch.patch_json(model) if rank == 0 else None]
    dist.broadcast_object_list(text)
    assert text[0] is not None
    if rank > 0:
        vdvae_patch.unpatch(model)
        vdvae_patch.apply(model, text[0])
    known = {"said": said.getvalue(), "own": own, "shared": scales(model)}
    Path(f"{out}-{rank}").write_text(json.dumps(known), encoding="utf-8")
    dist.destroy_process_group()


@pytest.mark.slow
def test_each_process_is_told_that_it_chose_alone_and_can_take_the_patch_of_another(tmp_path: Path) -> None:
    mp.spawn(plain, (f"{tmp_path}/store", f"{tmp_path}/out"), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (json.loads((tmp_path / f"out-{rank}").read_text(encoding="utf-8")) for rank in (0, 1))
    assert "this is process 0 of 2, and chose by its own batch" in first["said"]
    assert "this is process 1 of 2, and chose by its own batch" in second["said"]
    assert first["own"] != second["own"]
    assert first["own"] == first["shared"] == second["shared"]


def by_lightning(rank: int, port: int, out: str) -> None:
    import os

    import lightning

    from vdvae_patch.integrations.lightning import Patch

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.vae = Floored()

        def training_step(self, batch: Tensor, index: int) -> Any:
            return self.vae(batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    os.environ |= {"RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ["TORCHELASTIC_RUN_ID"] = "1"  # as torchrun starts its processes
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=1,
        callbacks=[Patch("bounded(0.01, 4)/vanilla", paper=False)],
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **options,
    )
    module = Module()
    trainer.fit(module, DataLoader(rows(rank), batch_size=8))
    Path(f"{out}-{rank}").write_text(json.dumps(scales(module)), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("environment_kept")
def test_lightning_gives_all_processes_the_patch_of_the_first(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(by_lightning, (port, f"{tmp_path}/out"), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (json.loads((tmp_path / f"out-{rank}").read_text(encoding="utf-8")) for rank in (0, 1))
    assert len(first) == 1
    assert first == second
