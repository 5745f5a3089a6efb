"""What a scan and a patch take beside a step of the model: processor seconds and memory, each model in a process.

    OMP_NUM_THREADS=1 python tests/long/scan_speed.py [--rounds 3] [--models deep-200,...] [--out FILE.json]

`step` is the median of forward and backward passes behind the first ones; `scan` and `patch` are the medians of the
rounds, behind one scan of a tiny model, which imports what there is to import. `patch` is of all heads that the scan
found, and has its verification in it; `named` is of heads that an entry names, of the host that has one.
Processor seconds of the process: what others do on the machine is not counted, though it makes all of them longer.
`memory` is the most that the process held beyond what it held before.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

import vdvae_patch
from vdvae_patch import tables
from vdvae_patch.machine import peak_resident_bytes
from vdvae_patch.train.provenance import provenance

SIZE = 4


class Level(nn.Module):
    """A posterior and a prior, and a layer behind the latent."""

    def __init__(self) -> None:
        super().__init__()
        self.posterior, self.prior = nn.Linear(SIZE, 2 * SIZE), nn.Linear(SIZE, 2 * SIZE)
        self.decoder = nn.Linear(SIZE, SIZE)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        mean_q, log_q = self.posterior(h).chunk(2, -1)
        mean_p, log_p = self.prior(0.5 * h).chunk(2, -1)
        z = mean_q + log_q.exp() * torch.randn_like(mean_q)
        apart = (log_q.exp() ** 2 + (mean_q - mean_p) ** 2) / (2 * log_p.exp() ** 2)
        return torch.tanh(self.decoder(z)), (log_p - log_q + apart - 0.5).sum(-1)


class Deep(nn.Module):
    """Half as many levels as heads, one behind the other."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Level() for _ in range(heads // 2))
        self.decoder = nn.Linear(SIZE, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        h, kl = x, x.new_zeros(len(x))
        for level in self.levels:
            moved, rate = level(h)
            h, kl = h + moved, kl + rate
        return (((self.decoder(h) - x) ** 2).sum(-1) + kl).mean()


class Recurrent(nn.Module):
    """One latent a step of time, by a cell that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.cell, self.write = nn.Linear(SIZE, 8), nn.GRUCell(8, 8), nn.Linear(SIZE, 8)
        self.posterior, self.prior = nn.Linear(16, 2 * SIZE), nn.Linear(8, 2 * SIZE)
        self.decoder = nn.Linear(8 + SIZE, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        h, loss = x.new_zeros(x.shape[1], 8), x.new_zeros(())
        for now in x:
            mean_q, raw_q = self.posterior(torch.cat([torch.relu(self.read(now)), h], -1)).chunk(2, -1)
            mean_p, raw_p = self.prior(h).chunk(2, -1)
            q, p = Normal(mean_q, F.softplus(raw_q) + 1e-3), Normal(mean_p, F.softplus(raw_p) + 1e-3)
            z = q.rsample()
            error = (self.decoder(torch.cat([z, h], -1)) - now) ** 2
            loss = loss + (kl_divergence(q, p).sum(-1) + error.sum(-1)).mean()
            h = self.cell(self.write(z), h)
        return loss / len(x)


class Written(nn.Module):
    """An output that is written into one tensor, a step of time after the other."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.encoder, self.decoder = steps, nn.Linear(SIZE, 2 * SIZE), nn.Linear(SIZE, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.encoder(x).chunk(2, -1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        out = torch.zeros(self.steps, *x.shape)
        for step in range(self.steps):
            out[step] = self.decoder(z) * (step % 3)
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1)
        return (((out.mean(0) - x) ** 2).sum(-1) + kl).mean()


Made = tuple[nn.Module, tuple[Tensor, ...], Callable[..., Tensor], Callable[[nn.Module], Any] | None]
"""A model, a batch, its loss, and, of a host, what names its heads."""


def vdvae(preset: str, batch: int) -> Made:
    """VDVAE's published preset, as the entry builds it, on noise of its image size."""
    from vdvae_patch.hosts import load_host

    host = load_host("vdvae")
    hparams = host.modules["hps"].HPARAMS_REGISTRY[preset]
    model = host.entry.build(host.modules, hparams)
    images = torch.rand(batch, 32, 32, 3) * 2 - 1
    return model, (images, images), lambda m, x, target: m(x, target)["elbo"], host.heads


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    loss: Tensor = model(x)
    return loss


MODELS: dict[str, Callable[[], Made]] = {
    "deep-200": lambda: (Deep(200), (torch.randn(8, SIZE),), _loss, None),
    "deep-400": lambda: (Deep(400), (torch.randn(8, SIZE),), _loss, None),
    "recurrent-200": lambda: (Recurrent(), (torch.randn(200, 8, SIZE),), _loss, None),
    "written-2000": lambda: (Written(2000), (torch.randn(8, SIZE),), _loss, None),
    "vdvae-cifar10-batch2": lambda: vdvae("cifar10", 2),
}  # fmt: skip


def timed(do: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and what came of it."""
    gc.collect()
    begin = time.process_time()
    result = do()
    return time.process_time() - begin, result


def measured(name: str, rounds: int) -> dict[str, Any]:
    """Of this process, which has scanned nothing before."""
    warnings.simplefilter("ignore")  # that the tiny one has no head
    vdvae_patch.scan(nn.Linear(2, 2), torch.randn(2, 2))
    torch.manual_seed(0)
    model, batch, loss, named = MODELS[name]()
    host = named is not None

    def step() -> None:
        loss(model, *batch).backward()

    first = [timed(step)[0] for _ in range(2 if host else 15)]
    steps = first[1 if host else 5 :]
    model.zero_grad()
    held = peak_resident_bytes()
    found: dict[str, list[float]] = {"scan": [], "patch": []}
    memory: dict[str, float] = {}
    heads = 0

    def lossy(given: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return loss(given, *inputs)

    def scanned() -> Any:
        return vdvae_patch.scan(model, batch, call=lossy) if host else vdvae_patch.scan(model, batch[0])

    for _ in range(rounds):
        seconds, places = timed(scanned)
        found["scan"].append(seconds)
        memory.setdefault("scan", (peak_resident_bytes() - held) / 1e6)
        seconds, handle = timed(functools.partial(vdvae_patch.patch, model, "explin", heads=places))
        found["patch"].append(seconds)
        memory.setdefault("patch", (peak_resident_bytes() - held) / 1e6)
        handle.unpatch()
        heads = len(places)
        if named:
            seconds, handle = timed(functools.partial(vdvae_patch.patch, model, "explin", heads=named(model)))
            found.setdefault("named", []).append(seconds)
            handle.unpatch()
    middle = {key: round(statistics.median(times), 4) for key, times in found.items()}
    one = statistics.median(steps)
    return {
        "heads": heads, "step": round(one, 5), **middle, "scan_over_step": round(middle["scan"] / one, 1),
        "patch_over_scan": round(middle["patch"] / middle["scan"], 3), "step_megabytes": round(held / 1e6),
        "memory": {key: round(megabytes) for key, megabytes in memory.items()},
        "compiler_imported": "torch._inductor" in sys.modules or "torch._dynamo" in sys.modules,
    }  # fmt: skip


def page(found: dict[str, Any]) -> str:
    """The table of what was measured."""
    run = found["run"]
    header = (
        "model", "heads", "ms a step", "scan, s", "steps a scan takes", "patch, s", "patch over scan",
        "patch by names, s", "MB before", "MB more for the scan", "with the patch",
    )  # fmt: skip
    rows = [
        (
            name, str(one["heads"]), f"{1e3 * one['step']:.1f}", f"{one['scan']:.2f}", f"{one['scan_over_step']:.0f}",
            f"{one['patch']:.2f}", f"{one['patch_over_scan']:.2f}", f"{one['named']:.2f}" if "named" in one else "",
            str(one["step_megabytes"]), str(one["memory"]["scan"]), str(one["memory"]["patch"]),
        )
        for name, one in found.items()
        if name in MODELS
    ]  # fmt: skip
    title = (
        f"Processor seconds of a scan and of a patch, medians of {found['rounds']} round(s): `{run['command']}`; "
        f"{run['machine']}, {run['threads']} thread(s), torch {run['torch']}, commit {run['commit']}"
    )
    return f"{title}\n\n{tables.markdown(header, rows)}\n"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.one:
        print(json.dumps(measured(given.one, given.rounds)))
        return
    found: dict[str, Any] = {"run": provenance(torch.device("cpu")), "rounds": given.rounds}
    for name in given.models.split(","):
        command = [sys.executable, __file__, "--one", name, "--rounds", str(given.rounds)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, found[name], flush=True)
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        given.out.with_suffix(".md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
