"""Step time and memory of patched models against the first, mostly vanilla: side by side, interleaved, medians.

Machines are noisy, so a ratio is only as good as its pairing: in every round each contender does one step, in an order
drawn anew, so that each follows on each, whose caches it finds. A contender's ratio is the median over rounds of its
time over that of the first in the same round. Name vanilla twice to see what the machine makes of no difference.
"""

from __future__ import annotations

import ctypes
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from vdvae_patch import tables
from vdvae_patch.data.batches import DeviceImages, batch_indices
from vdvae_patch.data.normalization import ModelBatch
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.guarding import guard
from vdvae_patch.heads import Arithmetic, Head
from vdvae_patch.hosts import Host
from vdvae_patch.patching import VANILLA, Variant, patch
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.engine import make_engine
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.run import drain_interval
from vdvae_patch.train.setup import Workload, prepare
from vdvae_patch.train.step import autocast
from vdvae_patch.train.world import World

PLAIN = "plain step"
CONFIDENT = 6
"""Rounds from which on there is an interval of 95 %."""

_MEASURED = "the step whose memory counts"


@dataclass(frozen=True)
class Measurement:
    """One contender.

    Attributes:
        seconds: median time of a step.
        images_per_second: of the median step.
        time_ratio: median over rounds of its time over the reference's in the same round.
        low, high: of that median, the distribution-free interval of 95 % between two of the sorted ratios; of fewer
            than `CONFIDENT` rounds the least and the greatest ratio.
        rounds: how many ratios there are.
        peak_bytes: most memory that one step allocates on top of what the contender holds between steps.
        memory_ratio: over the reference's.
    """

    name: str
    seconds: float
    images_per_second: float
    time_ratio: float
    low: float
    high: float
    peak_bytes: int
    memory_ratio: float
    rounds: int


@dataclass
class _Contender:
    """What is timed. With `shared`, the context in which a model that all contenders share becomes this one's: two
    models lie elsewhere in memory, which alone makes a short step a percent faster or slower."""

    name: str
    step: Callable[[int, Any], None]
    times: list[float]
    peak: int = 0
    shared: Callable[[], AbstractContextManager[Any]] | None = None
    warm: int = 3
    """Steps of a shared model that do not count, since it was changed: a patched module is of a class that was just
    made, and Python finds the shortest way through new code only as it calls it."""

    def timed(self, number: int, batch: Any, device: torch.device, clock: Callable[[], float]) -> float:
        """Seconds of a step; of a shared model, a step behind the first ones since it was changed."""
        if self.shared is None:
            return _timed(self, number, batch, device, clock)
        with self.shared():
            for _ in range(self.warm):
                self.step(number, batch)
            return _timed(self, number, batch, device, clock)


def benchmark(
    config: TrainConfig[Any],
    variants: Sequence[str],
    device: torch.device,
    *,
    rounds: int,
    warmup: int,
    plain: bool,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Measurement]:
    """Measure `variants` against the first of them, on batches of the configuration's data.

    Where they differ by nothing but scales, one model is trained by all of them in turns, patched before a step and
    unpatched behind it, and the step that is timed comes behind three that are not. What is compiled or captured is of
    one variant, and a decoder or a top prior has parameters of its own: such contenders have a model each.

    Args:
        plain: also measure vanilla trained by the plain step: eager, one tensor after the other, and waiting for the
            device in every step to read its scalars, as VDVAE's own training script does.
    """
    contenders: list[_Contender] = []
    batches: list[ModelBatch] = []
    if _can_share(config, variants):
        work = prepare(replace(config, variant=VANILLA), device)
        step = our_step(work, config, device)
        for variant in variants:
            changed = _as_variant(work.model, variant, work.heads, config.arithmetic)
            contenders.append(_Contender(variant, step, [], shared=changed))
        batches = batches_of(work, config, device, warmup + rounds + 1)
    else:
        for variant in variants:
            work = prepare(replace(config, variant=variant), device)
            batches = batches or batches_of(work, config, device, warmup + rounds + 1)
            contenders.append(_Contender(variant, our_step(work, config, device), []))
    if plain:
        work = prepare(replace(config, variant="vanilla"), device)
        contenders.append(_Contender(PLAIN, plain_step(work, config), []))
    return _measure(contenders, batches, config.optimization.batch_size, device, warmup, clock)


def benchmark_guard(
    config: TrainConfig[Any],
    device: torch.device,
    *,
    rounds: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Measurement]:
    """What a guard costs a training loop that waits for its scalars in every step, over the same loop without one.

    Both are the same model and optimizer. The guard is put on before a guarded step and taken off behind it, since as
    long as it is there it hears of the steps of others, too; the step that is timed comes behind fifteen others, as one
    of a training does. (A guard that was just put on holds the first steps in memory for a while, and meanwhile the
    allocator asks the system for new pages: some hundred in each of the first ten steps of conv_vae, and none later.)
    """
    work = prepare(config, device)
    step = plain_step(work, config)
    contenders = [
        _Contender(PLAIN, step, [], shared=nullcontext, warm=15),
        _Contender(f"{PLAIN}, guarded", step, [], shared=lambda: guard(work.model), warm=15),
    ]
    batches = batches_of(work, config, device, warmup + rounds + 1)
    return _measure(contenders, batches, config.optimization.batch_size, device, warmup, clock)


def benchmark_example(
    host: Host,
    variants: Sequence[str],
    device: torch.device,
    *,
    rounds: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Measurement]:
    """The same for a host that is not trained here, on the example of its entry: forward, backward, AdamW."""
    torch.manual_seed(0)
    model, inputs, loss = host.entry.example(host.modules)
    model.to(device)
    heads = host.heads(model)
    step = _example_step(model, tuple(x.to(device) for x in inputs), loss)
    contenders = [_Contender(name, step, [], shared=_as_variant(model, name, heads)) for name in variants]
    return _measure(contenders, [None] * (warmup + rounds + 1), len(inputs[0]), device, warmup, clock)


def _can_share(config: TrainConfig[Any], variants: Sequence[str]) -> bool:
    """Whether the variants can be steps of one model, which is patched before each of them."""
    if config.compile or config.cuda_graph or config.arithmetic == "stable":
        return False
    parsed = [Variant.parse(variant) for variant in variants]
    return not any(variant.adds_modules or variant.objective is not None for variant in parsed)


def _as_variant(
    model: nn.Module, variant: str, heads: Sequence[Head], arithmetic: Arithmetic = "auto"
) -> Callable[[], AbstractContextManager[Any]]:
    if Variant.parse(variant).is_vanilla:
        return nullcontext
    return lambda: patch(model, variant, heads=heads, arithmetic=arithmetic)


def _example_step(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], loss: Callable[..., torch.Tensor]
) -> Callable[[int, None], None]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step(number: int, _: None) -> None:
        torch.manual_seed(number)
        optimizer.zero_grad()
        loss(model, *inputs).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _measure(
    contenders: list[_Contender],
    batches: Sequence[Any],
    batch_size: int,
    device: torch.device,
    warmup: int,
    clock: Callable[[], float],
) -> list[Measurement]:
    """One step a contender and batch; the last batch is for the memory."""
    orders = random.Random(0)
    for number, batch in enumerate(batches[:-1]):
        for contender in orders.sample(contenders, len(contenders)):
            seconds = contender.timed(number, batch, device, clock)
            if number >= warmup:
                contender.times.append(seconds)
    for contender in contenders:
        with nullcontext() if contender.shared is None else contender.shared():
            contender.peak = peak_bytes(contender.step, len(batches) - 1, batches[-1], device)
    return [_measurement(c, contenders[0], batch_size) for c in contenders]


def _measurement(contender: _Contender, reference: _Contender, batch_size: int) -> Measurement:
    ratios = [a / b for a, b in zip(contender.times, reference.times, strict=True)]
    low, high = interval_of_median(ratios)
    seconds = statistics.median(contender.times)
    return Measurement(
        name=contender.name,
        seconds=seconds,
        images_per_second=batch_size / seconds,
        time_ratio=statistics.median(ratios),
        low=low,
        high=high,
        peak_bytes=contender.peak,
        memory_ratio=contender.peak / reference.peak,
        rounds=len(ratios),
    )


def interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """Where the median lies with at least 95 % confidence, whatever the distribution: between two of the sorted values.

    How many of n values fall below it is binomial with ½. Fewer than six values cannot say it: the least and the
    greatest of them then, see `CONFIDENT`.
    """
    ordered, n = sorted(values), len(values)
    first, outside = 0, 2
    while 20 * (outside + 2 * math.comb(n, first + 1)) <= 2**n:
        first += 1
        outside += 2 * math.comb(n, first)
    return ordered[first], ordered[n - 1 - first]


def batches_of(work: Workload, config: TrainConfig[Any], device: torch.device, count: int) -> list[ModelBatch]:
    """Batches of the configuration's data, as the first steps of a run would have them."""
    images = DeviceImages(work.data.train, device)
    size = config.optimization.batch_size
    indices = (batch_indices(len(images), size, step, config.seed) for step in range(count))
    return [work.data.normalization.apply(images.take(i)) for i in indices]


def our_step(work: Workload, config: TrainConfig[Any], device: torch.device) -> Callable[[int, ModelBatch], None]:
    """A step as `train` does it, and a look at what waits on the device as often as there."""
    world = World(device)
    engine, every = make_engine(config, world, work).step, drain_interval(config, world)

    def step(number: int, batch: ModelBatch) -> None:
        seed_noise("train", config.seed, step=number)
        engine(number, *batch)
        if number % every == every - 1:
            engine.drain()

    return step


def require_none_of(asked: Mapping[str, bool], measured: str) -> None:
    """Refuse flags that what is measured does not follow, so that its numbers would stand under another name.

    Args:
        asked: flags as they are typed, and whether they were given.
        measured: what is measured, and what it does in their place.

    Raises:
        InvalidValueError: one was given.
    """
    for flag in (flag for flag, is_given in asked.items() if is_given):
        raise InvalidValueError(f"{flag} means nothing with {measured}; leave one of them out")


def plain_step(work: Workload, config: TrainConfig[Any]) -> Callable[[int, ModelBatch], None]:
    """A step as VDVAE's own script does it: eager, one tensor after the other, waiting for every scalar; the forward
    pass in the precision that is asked for.

    Raises:
        InvalidValueError: what such a step does not do, so that its time would stand under another name.
    """
    require_none_of(
        {
            "--precision fp16": config.precision == "fp16",
            f"--accumulate {config.accumulate}": config.accumulate > 1,
        },
        "a plain step, which does the whole batch at once and scales no loss",
    )
    o = config.optimization
    clip = math.inf if isinstance(o.grad_clip, str) else o.grad_clip  # who writes a plain loop takes a number, or none
    threshold = o.skip_threshold if o.skip_threshold > 0 else math.inf  # -1 turns it off
    optimizer = torch.optim.AdamW(
        work.model.parameters(), lr=o.lr, betas=(o.adam_beta1, o.adam_beta2), weight_decay=o.wd, foreach=False
    )

    def step(number: int, batch: ModelBatch) -> None:
        seed_noise("train", config.seed, step=number)
        work.model.zero_grad()
        with autocast(config.precision, batch.input.device):
            losses = work.entry.losses(work.model, *batch)
        losses.elbo.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(work.model.parameters(), clip, foreach=False).item()
        numbers = [loss.item() for loss in losses]
        if all(n == n for n in numbers) and norm < threshold:
            optimizer.step()
            with torch.no_grad():
                for average, parameter in zip(work.ema.parameters(), work.model.parameters(), strict=True):
                    average.mul_(o.ema_rate).add_(parameter, alpha=1 - o.ema_rate)

    return step


def _timed(contender: _Contender, number: int, batch: Any, device: torch.device, clock: Callable[[], float]) -> float:
    synchronize(device)
    started = clock()
    contender.step(number, batch)
    synchronize(device)
    return clock() - started


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was told; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(do: Callable[[int, Any], None], number: int, batch: Any, device: torch.device) -> int:
    """Bytes that one step allocates at most, over what is allocated when it begins."""
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        do(number, batch)
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # the second of two: it frees nothing but what the profiler saw being allocated
    with silent_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        do(number, batch)
        with record_function(_MEASURED):
            do(number, batch)
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = profiler.profiler.kineto_results.events()
    start = next(event.start_ns() for event in events if event.name() == _MEASURED)
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]" and event.start_ns() >= start:
            held += event.nbytes()
            peak = max(peak, held)
    return peak


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""What glibc's `mallopt` calls them."""


@contextmanager
def kept_pages() -> Iterator[bool]:
    """Within it glibc's malloc gives no memory back to the system; whether that could be had.

    Else a step asks for thousands of pages anew, how many depends on where tensors happened to lie, and each takes the
    time of some arithmetic: in one process at the preset `small` vanilla got 12,000 to 20,000 a step, and when patched
    it got 4,000 to 12,000.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield False
        return
    for what, value in ((_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26), (_MMAP_MAX, 0)):
        mallopt(what, value)
    try:
        yield True
    finally:
        for what, value in ((_TRIM_THRESHOLD, 2**17), (_TOP_PAD, 2**17), (_MMAP_MAX, 2**16)):  # its defaults
            mallopt(what, value)


@contextmanager
def silent_profiler() -> Iterator[None]:
    """Keep what the profiler's C++ writes to standard error, past Python, away from the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def as_record(measurements: Sequence[Measurement], about: Mapping[str, Any]) -> dict[str, Any]:
    """For `bench.json`."""
    return {**about, "rows": [vars(m) for m in measurements]}


def default_config(config: TrainConfig[Any]) -> TrainConfig[Any]:
    """Built-in images unless data are named: a benchmark needs no download."""
    return (
        config
        if config.data is not None or config.data_root is not None
        else replace(config, data="builtin", data_root=None)
    )


def markdown(measurements: Sequence[Measurement], title: str) -> str:
    """The table; its ratios are over the first contender, which the header names."""
    first = measurements[0].name
    header = ("contender", "ms a step", "images/s", f"time over {first}", "peak MB a step", f"memory over {first}")
    rows = [
        (
            m.name, f"{1e3 * m.seconds:.1f}", f"{m.images_per_second:.1f}",
            f"{m.time_ratio:.3f} ({m.low:.3f} to {m.high:.3f})",
            f"{m.peak_bytes / 1e6:.1f}", f"{m.memory_ratio:.3f}",
        )
        for m in measurements
    ]  # fmt: skip
    brackets = "where the median lies with 95 % confidence"
    if (rounds := measurements[0].rounds) < CONFIDENT:
        brackets = f"the least and the greatest of {rounds}, too few for an interval of 95 %"
    return f"{title}\n\n{tables.markdown(header, rows)}\nIn brackets: {brackets}.\n"
