"""Runs of a tiny model in processes of their own, which can be killed.

The processes are forked from a server that has imported torch already: so a run starts in a fraction of a second, and
twenty of them fit into a test.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vdvae_patch.hosts.preset import Optimization
from vdvae_patch.train.config import TrainConfig

SERVER = multiprocessing.get_context("forkserver")
# by their own names and not through `runs_child`: Python 3.11's server does not know this folder, and does not say so
SERVER.set_forkserver_preload(
    [
        "torch._dynamo", "torch.nn.parallel.distributed", "git", "imageio.v3", "vdvae_patch.data.builtin",
        "vdvae_patch.patches.vdvae", "vdvae_patch.upstream.vdvae.vae", "vdvae_patch.train.loop",
    ]
)  # fmt: skip

PATIENCE = 1.0
"""Times the seconds that a process is waited for; more where it shares the machine and comes last."""


def tiny(out: Path, **settings: Any) -> TrainConfig[Any]:
    """A run of about 5,000 parameters, a few milliseconds a step."""
    from vdvae_patch.patches.vdvae import Architecture

    architecture = Architecture(width=8, zdim=2, enc_blocks="32d8,4d4,1x1", dec_blocks="1x1,4m1,32m4", num_mixtures=2)
    optimization = Optimization(lr=1e-3, batch_size=2, warmup_iters=10, ema_rate=0.9)
    chosen = {
        "preset": "demo", "data": "builtin(train=24, valid=2, test=4)", "checkpoint_every": 7,
        "watch_every": 10, "steps": 60, "out": out, "device": "cpu",
    }  # fmt: skip
    for name in [n for n in settings if n in Optimization.__dataclass_fields__]:
        optimization = replace(optimization, **{name: settings.pop(name)})
    return TrainConfig(**{**chosen, **settings}, architecture=architecture, optimization=optimization)


class Launched:
    """The processes of one run."""

    def __init__(
        self, config: TrainConfig[Any], ranks: int = 1, *, prepare: Callable[..., None] | None = None, **options: Any
    ) -> None:
        from runs_child import work

        self.log = config.folder.parent / f"{config.folder.name}.log"
        port = free_port()
        self.processes = [
            SERVER.Process(target=work, args=(config, environment(rank, ranks, port), self.log, prepare, options))
            for rank in range(ranks)
        ]
        for process in self.processes:
            process.start()

    def kill(self, ranks: tuple[int, ...] | None = None) -> None:
        """SIGKILL, to all unless some are named."""
        for rank, process in enumerate(self.processes):
            if ranks is None or rank in ranks:
                process.kill()

    def terminate(self) -> None:
        """SIGTERM to all."""
        self.send(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """A signal to all."""
        for process in self.processes:
            assert process.pid is not None
            os.kill(process.pid, number)

    def wait(self, seconds: float = 60) -> list[int]:
        """The exit statuses."""
        deadline = time.monotonic() + seconds * PATIENCE
        for process in self.processes:
            process.join(max(0, deadline - time.monotonic()))
        statuses = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        assert None not in statuses, f"still running after {seconds} s: {self.said()}"
        return [status for status in statuses if status is not None]

    def until(self, condition: Callable[[], bool], seconds: float = 60) -> bool:
        """Wait until `condition` holds; False if the processes ended before it did."""
        deadline = time.monotonic() + seconds * PATIENCE
        while not condition():
            if all(not process.is_alive() for process in self.processes):
                return condition()
            assert time.monotonic() < deadline, f"nothing happened for {seconds} s: {self.said()}"
            time.sleep(0.001)
        return True

    def said(self) -> str:
        """Everything that the processes printed."""
        return self.log.read_text() if self.log.exists() else ""


def finish(config: TrainConfig[Any], ranks: int = 1, **options: Any) -> str:
    """Do a run to its end; what it printed."""
    launched = Launched(config, ranks, **options)
    statuses = launched.wait(120)
    assert statuses == [0] * ranks, launched.said()
    return launched.said()


def environment(rank: int, ranks: int, port: int) -> Mapping[str, str]:
    """What torchrun would set."""
    if ranks == 1:
        return {}
    return {
        "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip


def free_port() -> int:
    """A port below those that the system gives to outgoing connections: one of these may be taken before it is used."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def metrics(out: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """A log's records, times and checksums aside."""
    rows = [json.loads(line) for line in (out / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("step_time", "_check")} for row in rows]


def count_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def final_state(out: Path) -> dict[str, Any]:
    """The newest checkpoint's state."""
    from vdvae_patch.train import checkpoint

    found = checkpoint.newest(out / "checkpoints")
    assert found.problems == ()
    return found.state


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit: the logs, times aside, and the final weights, moments and counters."""
    for name in ("metrics.jsonl", "skips.jsonl", "heads.jsonl"):
        assert metrics(a, name) == metrics(b, name), name
    states = [final_state(out) for out in (a, b)]
    for state in states:
        state["counters"].pop("seconds")
        state.pop("generators")  # of a run that drew samples or evaluated at another moment
    assert_same(*states)


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Equal, tensors bit for bit."""
    import torch

    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{index}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a.view(torch.uint8) if a.dim() else a, b.view(torch.uint8) if b.dim() else b), path
    else:
        assert a == b, path
