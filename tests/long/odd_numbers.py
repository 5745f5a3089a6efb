"""Numbers that nobody should ask for, in every flag of every command that takes one: a value, or one line.

    OMP_NUM_THREADS=1 python tests/long/odd_numbers.py [--only TEXT] [--every N] [--limit SECONDS]

The flags are read from the commands' own dataclasses, so that a new one is tried, too. Each case is a process of its
own, forked from one that has imported torch already. What they work on is made first: small files in the formats of
MNIST and CIFAR-10, a run with a recorded skip, a training script. What a case is judged by:

- one line: an error of this package, or of the parser of the command line, which is right for what means nothing.
- ran: it ended as if the number were meant. Those with NaN or an infinity are listed, to be looked at.
- goes on: it was at work when the limit was over, as a run of 2³¹ steps is.
- wrong: a traceback, an error of many lines, a death by a signal, or more memory than there is.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import types
import typing
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

ODD = (
    "-1", "0", "1.5", "nan", "inf", "-inf", "1e308", "1e-320", "2147483648", "9223372036854775808",
    "18446744073709551616", "1" + "0" * 400, "", "abc", "0x10", "１",
)  # fmt: skip
_MEMORY = 12 * 2**30
_LINES = 3  # of an error: argparse prints its usage in front
_TINY_VDVAE = (
    "train", "--preset", "demo", "--data", "builtin(train=6, valid=2, test=2)", "--steps", "1", "--batch-size", "2",
    "--device", "cpu", "--importance-samples", "0", "--test-images", "1",
)  # fmt: skip
_SMALL = ("--data", "builtin(train=6, valid=2, test=2)", "--device", "cpu", "--test-images", "1")


@dataclass(frozen=True)
class Case:
    """A command, and the flag that is tried with a number."""

    command: tuple[str, ...]
    flag: str
    value: str
    behind: tuple[str, ...] = ()

    @property
    def argv(self) -> list[str]:
        """As it is typed; what comes last counts."""
        return [*self.command, f"{self.flag}={self.value}", *self.behind]

    def __str__(self) -> str:
        value = self.value if len(self.value) < 30 else f"{self.value[:6]}...({len(self.value)} digits)"
        return f"{' '.join(self.command[:2])} {self.flag}={value}"


def numbers(cls: type) -> Iterator[str]:
    """The flags of a dataclass that take a number, or several."""
    hints = typing.get_type_hints(cls)
    for field in fields(cls):
        if _takes_number(hints[field.name]) or field.name in ("seeds", "batches"):
            yield f"--{field.name.replace('_', '-')}"


def _takes_number(hint: Any) -> bool:
    if typing.get_origin(hint) in (types.UnionType, typing.Union, tuple, list, typing.Annotated):
        return any(map(_takes_number, typing.get_args(hint)))
    return hint in (int, float)


_SCRIPT = """
import torch
from torch import nn
net = nn.Linear(4, 4)
adam = torch.optim.Adam(net.parameters())
for scale in (1.0, 1.0, float("nan")):
    adam.zero_grad()
    net(scale * torch.randn(2, 4)).pow(2).sum().backward()
    adam.step()
"""

_MODEL = """
import torch
from torch import nn
class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 4), nn.Linear(2, 3)
    def forward(self, x):
        mean, logvar = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        return ((self.decoder(z) - x) ** 2).sum() + 0.5 * (mean**2 + logvar.exp() - logvar - 1).sum()
"""


def prepared(root: Path) -> None:
    """What the commands work on, below `root`: data sets in their formats, a run with a recorded skip, a script."""
    import numpy as np

    sys.path[:0] = [str(Path(__file__).parent.parent / name) for name in ("unit", "e2e")]
    from data_samples import write_cifar10
    from runs import tiny
    from test_data_mnist import write

    from vdvae_patch.data import mnist
    from vdvae_patch.train.loop import train

    write_cifar10(root)
    for name, count in ((mnist.TRAIN_FILE, 10_100), (mnist.TEST_FILE, 40)):
        rows = np.arange(count, dtype=np.uint32)[:, None, None]
        cells = np.arange(28 * 28, dtype=np.uint32).reshape(1, 28, 28)
        write(root / "mnist" / name, (rows * cells % 251).astype(np.uint8))
    (root / "their_train.py").write_text(_SCRIPT)
    (root / "their_vae.py").write_text(_MODEL)
    with contextlib.redirect_stdout(None):
        train(tiny(root / "recorded", steps=2, skip_threshold=1e-6))


def cases(root: Path) -> Iterator[Case]:
    """Every flag with every number; `root` holds what `prepared` has made."""
    from vdvae_patch.cli.bench import BenchConfig
    from vdvae_patch.cli.replay import ReplayCommand
    from vdvae_patch.compare.options import CompareOptions
    from vdvae_patch.experiments import options
    from vdvae_patch.hosts import HOSTS
    from vdvae_patch.hosts.preset import Optimization
    from vdvae_patch.hosts.trainable import TrainableEntry
    from vdvae_patch.train.config import TrainConfig

    tried: list[tuple[tuple[str, ...], list[str]]] = [
        (_TINY_VDVAE, [*numbers(TrainConfig), *numbers(Optimization)]),
        (("bench", "--preset", "demo", *_SMALL, "--variants", "vanilla", "--rounds", "1", "--warmup", "0",
          "--batch-size", "2"), list(numbers(BenchConfig))),
        (("compare", "--preset", "demo", *_SMALL, "--variants", "vanilla", "--steps", "1", "--batch-size", "2"),
         list(numbers(CompareOptions))),
        (("replay", str(root / "recorded"), "--image", "drawn.png"), list(numbers(ReplayCommand))),
        (("guard",), ["--clip", "--threshold"]),
        (("launch", "table4", *_SMALL, "--dry-run"), [*numbers(TrainConfig), *numbers(Optimization)]),
        (("bench", "--guard", "--preset", "demo", *_SMALL[:-2], "--rounds", "1", "--batch-size", "2"),
         list(numbers(BenchConfig))),
        (("scan", "their_vae:VAE", "--path", str(root), "--input", "2x3"), ["--seed"]),
        (("scan", "their_vae:VAE", "--path", str(root)), ["--input"]),
    ]  # fmt: skip
    for name in HOSTS.names():
        entry = HOSTS.get(name)
        if isinstance(entry, TrainableEntry) and name != "vdvae":
            preset = next(iter(entry.presets()))
            own = list(numbers(entry.architecture))
            tried.append((("train", "--dry-run", "--host", name, "--preset", preset, *_SMALL), own))
        elif name == "vdvae":
            tried.append(((*_TINY_VDVAE, "--dry-run"), list(numbers(entry.architecture))))  # type: ignore[attr-defined]
    kinds = {name: kind for name, kind in options.by_name().items() if kind.__base__ is not options.Table4}
    for name, kind in kinds.items():
        quick = ("--quick",) if "quick" in {field.name for field in fields(kind)} else ()
        data = ("--data-root", str(root)) if "data_root" in {field.name for field in fields(kind)} else ()
        tried.append((("reproduce", name, *quick, *data), list(numbers(kind))))
    script = str(root / "their_train.py")
    for command, flags in tried:
        for flag in flags:
            for value in ODD:
                yield Case(command, flag, value, ("--", "python", script) if command == ("guard",) else ())


def judged(case: Case, limit: float) -> tuple[str, str]:
    """What became of it, and what it said last."""
    folder = Path(tempfile.mkdtemp(prefix="odd-"))
    try:
        said, status, over = _run(case, folder, limit)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines = [line for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if "Traceback (most recent call last)" in said:
        return "wrong", last
    if over:
        return "goes on", last
    if os.WIFSIGNALED(status):
        return "wrong", f"signal {os.WTERMSIG(status)}: {last}"
    code = os.WEXITSTATUS(status)
    if code in (0, 75):
        return "ran", last
    errors = [line for line in lines if "error: " in line]
    return ("one line" if errors and len(lines) - lines.index(errors[0]) <= _LINES else "wrong"), last


def _run(case: Case, folder: Path, limit: float) -> tuple[str, int, bool]:
    log = folder / "said"
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(folder)
        opened = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, 1)
        os.dup2(opened, 2)
        _in_child(case)
    started, over = time.monotonic(), False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        over = time.monotonic() - started > limit
        if over:
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it has left behind
    return log.read_text(errors="replace") if log.exists() else "", status, over


def _in_child(case: Case) -> None:
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        from vdvae_patch.cli import main

        main(case.argv)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a part of the command and its flag")
    parser.add_argument("--every", type=int, default=1, help="take each so many-th case")
    parser.add_argument("--limit", type=float, default=10)
    given = parser.parse_args(argv)
    import torch

    import vdvae_patch.train.loop  # noqa: F401

    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as root:
        prepared(Path(root))
        for case in [case for case in cases(Path(root)) if given.only in str(case)][:: given.every]:
            outcome, last = judged(case, given.limit)
            counts[outcome] += 1
            if outcome == "wrong" or (outcome != "one line" and case.value in ("nan", "inf", "-inf")):
                print(f"{outcome}: {case}: {last[:300]}", flush=True)
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
