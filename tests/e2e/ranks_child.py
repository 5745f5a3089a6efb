"""What the ranks of `test_ranks` do: functions that run in forked processes, one call a rank."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vdvae_patch.data.batches import DeviceImages
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.hosts.preset import Losses, Optimization
from vdvae_patch.train.config import Precision
from vdvae_patch.train.evaluate import evaluate
from vdvae_patch.train.ranks import distribute
from vdvae_patch.train.step import TrainingStep, autocast
from vdvae_patch.train.world import World, connect

SITES = (
    "rate=nan", "rate=inf", "distortion=nan", "distortion=inf",
    "gradient=nan@first", "gradient=inf@first", "gradient=nan@last", "gradient=inf@last",
)  # fmt: skip


def call(work: Callable[..., Any], environ: Mapping[str, str], answers: Any, arguments: tuple[Any, ...]) -> None:
    """One rank: connect, work, and put `(rank, result)` into the queue."""
    os.environ.update(environ)
    torch.set_num_threads(1)
    with connect("cpu") as world:
        answers.put((world.rank, work(world, *arguments)))


class Poison(torch.autograd.Function):
    """The identity, whose gradient is a given value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: float) -> Tensor:
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.full_like(grad, ctx.value), None


class Net(nn.Module):
    """Two layers; a site names the value that is made bad."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, site: str) -> Losses:
        what, _, rest = site.partition("=")
        value, _, where = rest.partition("@")
        hidden = self.first(x)
        if what == "gradient" and where == "first":
            hidden = Poison.apply(hidden, float(value))
        out = self.last(hidden.tanh())
        if what == "gradient" and where == "last":
            out = Poison.apply(out, float(value))
        losses = {"distortion": out[:, 0].square().mean(), "rate": out[:, 1].square().mean()}
        if what in losses:
            losses[what] = losses[what] * float(value)
        return Losses(losses["distortion"] + losses["rate"], **losses)


def inject(world: World, precision: Precision) -> list[dict[str, Any]]:
    """One good step, then one bad step for each site, on the first and on the last rank."""
    torch.manual_seed(0)
    model, ema = Net(), Net()
    ema.load_state_dict(model.state_dict())
    wrapped, local = distribute(model, world)
    site = ""
    engine = TrainingStep(
        model, ema, lambda x, target: wrapped(x, site), Optimization(skip_threshold=-1, ema_rate=0.5), world,
        precision=precision,
    )  # fmt: skip
    engine.local_gradient = local
    results = []
    torch.manual_seed(world.rank)
    for _ in range(8):  # until the loss scale of fp16 is low enough
        engine(0, torch.randn(8, 4), torch.zeros(0))
        good = not engine.drain()[0].skipped
        if good or precision != "fp16":
            break
    assert good
    for bad in SITES:
        for rank in {0, world.size - 1}:
            before, scale = snapshot(model, ema, engine), loss_scale(engine)
            site = bad if world.rank == rank else ""
            engine(1, torch.randn(8, 4), torch.zeros(0))
            record = engine.drain()[0]
            same = all(torch.equal(a, b) for a, b in zip(before, snapshot(model, ema, engine), strict=True))
            scaled = loss_scale(engine) / scale
            results.append({"site": bad, "rank": rank, "record": record, "same": same, "scaled": scaled})
    site = ""
    engine(2, torch.randn(8, 4), torch.zeros(0))
    assert not engine.drain()[0].skipped
    return results


def snapshot(model: nn.Module, ema: nn.Module, engine: TrainingStep) -> list[Tensor]:
    states = engine.optimizer.state_dict()["state"].values()
    moments = [state[key] for state in states for key in ("exp_avg", "exp_avg_sq", "step")]
    return [t.detach().clone() for t in (*model.parameters(), *ema.parameters(), *moments)]


def loss_scale(engine: TrainingStep) -> float:
    return float(engine.scaler.value) if engine.scaler else 1.0


def gradients(world: World, images: int, precision: Precision) -> list[Any]:
    """The averaged gradients of the tiny model on `images` images, the noise of an image being its own."""
    from runs import tiny
    from vdvae_patch.upstream.vdvae import vae

    from vdvae_patch.train.noise import seed_noise
    from vdvae_patch.train.setup import prepare

    config = tiny(Path("unused"))
    work = prepare(config, torch.device("cpu"))
    share = images // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    original = vae.draw_gaussian_diag_samples

    def draw(mu: Tensor, logsigma: Tensor) -> Tensor:
        return mu + logsigma.exp() * torch.randn(images, *mu.shape[1:])[mine]

    vae.draw_gaussian_diag_samples = draw
    try:
        wrapped, _ = distribute(work.model, world)
        pixels = torch.from_numpy(work.data.train[:images])[mine]
        seed_noise("train", 0)
        with autocast(precision, world.device):
            losses = work.entry.losses(wrapped, *work.data.normalization.apply(pixels))
        scale = 2.0**16 if precision == "fp16" else 1.0  # as a run's loss is scaled, or small gradients would be zero
        (losses.elbo.float() * scale).backward()
    finally:
        vae.draw_gaussian_diag_samples = original
    # numpy: a tensor in a queue is a handle to memory of a process that is gone
    return [p.grad.numpy() / scale for p in work.model.parameters() if p.grad is not None]


def clipped(world: World, steps: int) -> dict[str, Any]:
    """Steps with `grad_clip` auto, the last with a large gradient on one rank: limits, clipped norms, weights."""
    torch.manual_seed(0)
    net, average = Net(), Net()
    run, local = distribute(net, world)
    optimization = Optimization(lr=1e-3, grad_clip="auto", skip_threshold=-1)
    site = ""
    engine = TrainingStep(net, average, lambda x, _: run(x, site), optimization, world, capacity=steps)
    engine.local_gradient = local
    given: list[float] = []
    gradients = lambda: [p.grad for p in net.parameters() if p.grad is not None]  # noqa: E731
    engine.before_update = lambda skip: given.append(float(nn.utils.get_total_norm(gradients())))
    batches = []
    for step in range(steps):
        torch.manual_seed(10 * step + world.rank)
        batches.append(torch.randn(4, 4))
        site = "gradient=1000@last" if world.rank == 1 and step == steps - 1 else ""
        engine(step, batches[-1], batches[-1])
    return {
        "clips": [record.clip for record in engine.drain()],
        "given": given,
        "own": [float(x.sum()) for x in batches],
        "weights": [p.detach().numpy() for p in net.parameters()],
    }


def in_parts_of_a_batch(world: World, parts: int) -> dict[str, Any]:
    """Two updates in so many parts: the weights, and how often gradients were exchanged in the last."""
    torch.manual_seed(0)
    net, average = Net(), Net()
    run, local = distribute(net, world)
    engine = TrainingStep(
        net, average, lambda x, _: run(x, ""), Optimization(lr=1e-2, skip_threshold=-1), world, parts=parts, capacity=2
    )
    engine.local_gradient, engine.alone = local, run.no_sync  # type: ignore[assignment]
    assert local is not None
    buckets: list[int] = []
    hook = local.hook
    local.hook = lambda state, bucket: (buckets.append(bucket.index()), hook(state, bucket))[1]  # type: ignore[method-assign]
    for step in range(2):
        buckets.clear()
        torch.manual_seed(10 * step + world.rank)
        engine(step, torch.randn(6, 4), torch.zeros(6))
    assert not any(record.skipped for record in engine.drain())
    return {"weights": [p.detach().numpy() for p in net.parameters()], "exchanged": len(buckets)}


class Shifted(nn.Module):
    """A host of one batch norm, whose loss is what it makes of the images; it is its own entry."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1, eps=0.0, affine=False).eval()
        self.norm.running_mean.fill_(mean)  # type: ignore[union-attr, operator]

    def losses(self, model: nn.Module, x: Tensor, target: Tensor) -> Losses:
        rate = self.norm(target.reshape(-1, 1).float()).mean()
        return Losses(rate, torch.zeros_like(rate), rate)


def measured(world: World) -> float:
    """The bound of 0, 1, ..., 5 by a model whose running mean is another one on each rank: 10 on the first."""
    model = Shifted(10.0 * (world.rank + 1))
    images = DeviceImages(np.arange(6, dtype=np.uint8).reshape(-1, 1, 1, 1), "cpu")
    same = Normalization(0.0, 1.0, 0.0, 1.0)
    return evaluate(model, model, images, same, batch_size=2, seed=0, world=world).elbo  # type: ignore[arg-type]
