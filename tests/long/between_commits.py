"""What a patched step costs at two commits: two processes, each with one checkout, take turns step by step.

    git worktree add ../before COMMIT
    OMP_NUM_THREADS=1 python tests/long/between_commits.py ../before .

Prints, for each case, the ratio of medians (after over before): its median over several builds of both processes, and
the least and greatest. The packages that both need are those of the interpreter that runs this.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

CHILD = r"""
import importlib.util, json, sys, time, warnings
from pathlib import Path
root, site = Path(sys.argv[1]), json.loads(sys.argv[2])
sys.path[:] = [str(root), *site]  # without the editable install of either
for name in ("upstream", "patches", "launch"):
    spec = importlib.util.spec_from_file_location(
        f"vdvae_patch.{name}", root / name / "__init__.py", submodule_search_locations=[str(root / name)])
    import vdvae_patch
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"vdvae_patch.{name}"] = module
    spec.loader.exec_module(module)
    setattr(vdvae_patch, name, module)
assert Path(vdvae_patch.__file__).resolve().is_relative_to(root.resolve())
import torch
from torch import nn
from vdvae_patch.heads import Head
torch.set_num_threads(1)
warnings.simplefilter("ignore")


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.dec = nn.Linear(784, 64), nn.Linear(32, 784)

    def forward(self, x):
        mu, lv = self.enc(x).chunk(2, 1)
        z = mu + (0.5 * lv).exp() * torch.randn_like(mu)
        return ((self.dec(z) - x) ** 2).sum() + 0.5 * (mu**2 + lv.exp() - lv - 1).sum()


class Floor(Plain):
    def forward(self, x):
        mu, lv = self.enc(x).chunk(2, 1)
        sigma = torch.exp(0.5 * lv).clamp(1e-3, 50.0)
        z = mu + sigma * torch.randn_like(mu)
        return ((self.dec(z) - x) ** 2).sum() + 0.5 * (mu**2 + sigma**2 - 2 * torch.log(sigma) - 1).sum()


def own(cls, heads):
    torch.manual_seed(0)
    model, x = cls(), torch.rand(64, 784)
    found = heads(model, x)
    vdvae_patch.patch(model, posterior="explin", heads=found)
    return model, (x,), lambda m, x: m(x)


def of_entry(name):
    host = vdvae_patch.load_host(name)
    torch.manual_seed(0)
    example = host.entry.example(host.modules)
    vdvae_patch.patch(example.model, posterior="explin", heads=host.heads(example.model))
    return example.model, example.inputs, example.loss


def vdvae(variant="explin/constant"):
    host = vdvae_patch.load_host("vdvae")
    H = host.modules["hps"].HPARAMS_REGISTRY["cifar10"]
    H = type(H)(H)
    H.update(width=64, zdim=8, image_size=32, image_channels=3, dec_blocks="1x1,4m1,4x1,8m4,8x2,16m8,16x2,32m16,32x2",
             enc_blocks="32x2,32d2,16x2,16d2,8x2,8d2,4x1,4d4,1x1")
    torch.manual_seed(0)
    model = host.build(H)
    if variant:
        vdvae_patch.patch(model, variant, heads=host.heads(model))
    x = torch.randn(8, 32, 32, 3)
    return model, (x, x.clamp(-1, 1)), lambda m, x, t: m(x, t)["elbo"]


def step_of(model, inputs, loss):
    def run():
        model.zero_grad(set_to_none=True)
        loss(model, *inputs).backward()

    return lambda: None, run


def around(preset, elements=None):
    # all that a training step does but the forward and the backward pass; with `elements`, of no more a tensor, and as
    # an accelerator does it: what the host has to do
    from vdvae_patch.benchmark import default_config
    from vdvae_patch.cli.arguments import parse_train
    from vdvae_patch.hosts.preset import Losses
    from vdvae_patch.train import setup
    from vdvae_patch.train.flight import WeightsBefore
    from vdvae_patch.train.noise import seed_noise
    from vdvae_patch.train.step import TrainingStep
    from vdvae_patch.train.world import World
    config = default_config(parse_train(["--preset", preset, "--device", "cpu"]))
    work = setup.prepare(config, torch.device("cpu"))
    model, average = work.model, work.ema
    if elements:
        sizes = [min(p.numel(), elements) for p in model.parameters()]
        model, average = (nn.ParameterList(torch.zeros(n) for n in sizes) for _ in range(2))
    engine = TrainingStep(model, average, None, config.optimization, World(torch.device("cpu")))
    whole = engine.weights.storages() if hasattr(engine, "weights") else engine.parameters
    before = WeightsBefore(whole)
    if elements and hasattr(engine.optimizer, "gathers"):
        engine.optimizer.gathers = True
    grads = [torch.randn_like(p) * 1e-3 for p in engine.parameters]
    losses = Losses(*(torch.zeros(()) for _ in range(3)))
    follow = setup.BuffersFollow(work.model, work.ema) if hasattr(setup, "BuffersFollow") else None

    def give():
        for p, g in zip(engine.parameters, grads):
            p.grad = g.clone()

    def run():
        seed_noise("train", 0, step=1)
        engine.finish(0, 1e-4, losses)
        engine._pending.clear(), engine._metrics.clear()
        if follow is None:
            for buffer, mean in setup.buffers_follow(work.model, work.ema):
                mean.copy_(buffer)
        else:
            follow()
        before(losses.elbo)
        engine.optimizer.zero_grad(set_to_none=True)

    return give, run


CASES = {
    "around the model": lambda: around("cifar10"), "around the model, the host": lambda: around("cifar10", 16),
    "a layer's output": lambda: own(Plain, lambda m, x: [Head("enc", "posterior", 32, 64, convention="log_variance")]),
    "an expression": lambda: own(Floor, lambda m, x: vdvae_patch.scan(m, x)),
    "pythae": lambda: of_entry("pythae"), "diffusers": lambda: of_entry("diffusers"), "vdvae": vdvae,
    "vdvae, vanilla": lambda: vdvae(None), "vdvae, upbounded": lambda: vdvae("upbounded"),
}
for line in sys.stdin:
    name = line.strip()
    if name.startswith("build "):
        made = CASES[name[6:]]()
        prepared, run = made if len(made) == 2 else step_of(*made)
        print("built", flush=True)
        continue
    prepared()
    began = time.perf_counter()
    run()
    print(time.perf_counter() - began, flush=True)
"""
NAMES = ["a layer's output", "an expression", "pythae", "diffusers", "vdvae", "vdvae, upbounded", "vdvae, vanilla"]
NAMES += ["around the model", "around the model, the host"]


class Child:
    """A process with one checkout."""

    def __init__(self, root: str, packages: list[str], code: Path) -> None:
        arguments = [sys.executable, "-S", str(code), root, json.dumps(packages)]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, text: str) -> str:
        """The answer to one line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(text, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--builds", type=int, default=7)
    parser.add_argument("--cases", nargs="*", default=NAMES)
    options = parser.parse_args()
    code = Path(__file__).with_suffix(".child")
    code.write_text(CHILD)
    packages = [path for path in sys.path if "site-packages" in path or "lib/python" in path or path.endswith(".zip")]
    try:
        for case in options.cases:
            print(case, measured((options.before, options.after), packages, code, case, options), flush=True)
    finally:
        code.unlink()


def measured(roots: tuple[str, str], packages: list[str], code: Path, case: str, options: Any) -> str:
    """The median over builds of the ratio of medians, the least and the greatest, and milliseconds a step.

    The same code differs by five hundredths from one process to the next, by where its memory lies; hence the builds.
    """
    draw, ratios, milliseconds = random.Random(0), [], []
    for _ in range(options.builds):
        both = [Child(root, packages, code) for root in roots]
        assert [child.ask(f"build {case}") for child in both] == ["built", "built"]
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(options.rounds + 5):
            for which in draw.sample((0, 1), 2):  # in a new order each round: what ran before must not decide
                seconds = float(both[which].ask("step"))
                if number >= 5:
                    times[which].append(seconds)
        for child in both:
            child.process.stdin.close()  # type: ignore[union-attr]
            child.process.wait()
        before, after = map(statistics.median, times)
        ratios.append(after / before)
        milliseconds.append(1e3 * before)
    text = f"{statistics.median(ratios):.3f} (builds: {min(ratios):.3f} to {max(ratios):.3f})"
    return f"{text}   {statistics.median(milliseconds):.2f} ms before"


if __name__ == "__main__":
    main()
