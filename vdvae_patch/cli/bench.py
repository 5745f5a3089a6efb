"""`vdvae-patch bench`: what a patch costs, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdvae_patch.cli.arguments import check_flags, chosen_entry, flags_of, parse, parse_train, peek, train_flags
from vdvae_patch.cli.gpu_bench import gpu_flags, part_of, run_gpu_bench
from vdvae_patch.cli.scaling import scaling
from vdvae_patch.compare.options import separate
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.hosts.trainable import TrainableEntry, trainable

ABOUT = "step time and memory, patched against vanilla"

if TYPE_CHECKING:
    import torch

    from vdvae_patch.benchmark import Measurement
    from vdvae_patch.train.config import TrainConfig

_NOT_MEASURED = frozenset(
    {
        "--variant", "--steps", "--epochs", "--resume", "--no-resume", "--weights", "--seed", "--nproc", "--dry-run",
        "--no-dry-run",
    }
)  # fmt: skip

_INSTEAD = ("guard", "scaling", "counts", "gpu")
"""What is measured in place of the variants' steps; one of them."""

_OF_GPU = frozenset({"--batches", "--seconds"})

DESCRIPTION = """Step time and memory of each variant over the first one's: interleaved steps, medians of ratios.

Any flag of `train` may follow: --host, --preset (small unless given), --device, --compile, --precision, ... For a host
that is not trained here, such as diffusers or pythae, the example of its entry is measured."""

PAPER_VARIANTS = "vanilla,upbounded,explin,vanilla/constant,upbounded/constant,explin/constant"
ONE_NAME_VARIANTS = "vanilla,upbounded,explin"


@dataclass(frozen=True)
class BenchConfig:
    """What to measure, and how long.

    Attributes:
        variants: what is compared, separated by commas; the first is the reference.
        rounds: steps of each variant that count.
        warmup: steps of each variant that do not.
        processor: seconds of the process's processors, and not of a clock: on a CPU that others use at the same time.
        plain: also measure the plain step that VDVAE's own script does: eager, unfused, waiting for every scalar.
        guard: measure what a guard costs a plain loop instead, with the flags of train.
        scaling: measure 1 and 2 processes instead, with the flags of train.
        counts: count operator calls, launches and bytes of a step instead; needs no GPU, and measures no step.
        gpu: measure everything that is to be known of a GPU instead, the most valuable first; goes on where it was.
        batches: with --gpu: images a step.
        seconds: with --gpu: how long the command may take; what is left out is said.
        out: write bench.md and bench.json (of --counts counts.md and counts.json) into this folder; with --gpu
            gpu.md and the cells, bench-gpu unless given.
    """

    variants: str = PAPER_VARIANTS
    rounds: int = 30
    warmup: int = 5
    processor: bool = False
    plain: bool = False
    guard: bool = False
    scaling: bool = False
    counts: bool = False
    gpu: bool = False
    batches: str = "16,32,64,128"
    seconds: float = 450.0
    out: Path | None = None

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise InvalidValueError(f"--seconds must be a positive number, not {self.seconds:g}")
        if self.rounds < 1 or self.warmup < 0:
            raise InvalidValueError(f"--rounds {self.rounds} and --warmup {self.warmup} must be at least 1 and 0")
        if len(modes := [f"--{name}" for name in _INSTEAD if getattr(self, name)]) > 1:
            raise InvalidValueError(f"{' and '.join(modes)} each measure something else instead: choose one")
        for name, others in {"plain": _INSTEAD, "processor": ("scaling", "counts", "gpu")}.items():
            if getattr(self, name) and (mode := next((f"--{other}" for other in others if getattr(self, other)), None)):
                raise InvalidValueError(f"--{name} means nothing with {mode}; leave one of them out")


def run(argv: list[str]) -> int:
    """Measure, print the table, and write it if asked."""
    part, argv = part_of(argv)
    entry = chosen_entry(argv)
    if not isinstance(entry, TrainableEntry):
        return _run_example(entry.name, argv)
    own, passed = _split(argv)
    bench = parse(BenchConfig, own, prog="vdvae-patch bench", description=DESCRIPTION)
    for unused, modes in {
        "--variants": ("guard", "scaling"),
        "--rounds": ("scaling",),
        "--warmup": ("scaling",),
    }.items():
        mode = next((f"--{mode}" for mode in modes if getattr(bench, mode)), None)
        if mode is not None and any(a.split("=")[0] == unused for a in own):
            raise InvalidValueError(f"{unused} means nothing with {mode}; leave it out")
    if not bench.gpu and (flag := next((a for a in own if a.split("=")[0] in _OF_GPU), None)):
        raise InvalidValueError(f"{flag.split('=')[0]} means nothing without --gpu")
    if bench.gpu:
        passed = gpu_flags(passed, list(entry.presets()))
    elif not any(a.split("=")[0] == "--preset" for a in passed) and "small" in entry.presets():
        passed = ["--preset", "small", *passed]
    if bench.scaling:
        parse_train(passed, prog="vdvae-patch bench")
        return scaling(passed, bench.out)
    config = parse_train(passed, prog="vdvae-patch bench")
    if bench.guard and "+" in config.variant:
        raise InvalidValueError(
            f"{config.variant[config.variant.index('+') :]} means nothing with --guard, whose plain loop minimizes the "
            "host's own loss; leave the flags of decoder, objective and top prior out"
        )
    if bench.guard and (flag := "--compile" if config.compile else "--cuda-graph" if config.cuda_graph else ""):
        raise InvalidValueError(f"{flag} means nothing with --guard, whose plain loop is eager; leave it out")
    if bench.counts:
        return _run_counts(bench, config)
    if bench.gpu:
        return _run_gpu(bench, config, argv, part)

    from vdvae_patch.train.numerics import before_cuda, numerics
    from vdvae_patch.train.world import resolve_device

    before_cuda(config)
    device = resolve_device(config.device)
    with numerics(device, config.matmul, config.deterministic):
        return _measure(bench, config, device)


def _measure(bench: BenchConfig, config: TrainConfig[Any], device: torch.device) -> int:
    from vdvae_patch import benchmark
    from vdvae_patch.train.provenance import provenance

    if bench.out is not None:
        bench.out.mkdir(parents=True, exist_ok=True)  # now, and not after minutes of measuring
    about = provenance(device)
    names = _variants(bench, config)
    settings = benchmark.default_config(config)
    clock = _clock(bench, device)
    with benchmark.kept_pages() as kept:
        if bench.guard:
            rows = benchmark.benchmark_guard(settings, device, rounds=bench.rounds, warmup=bench.warmup, clock=clock)
        else:
            rows = benchmark.benchmark(
                settings, names, device, rounds=bench.rounds, warmup=bench.warmup, plain=bench.plain, clock=clock
            )
    title = (
        f"{config.host} {config.preset}, batch {config.optimization.batch_size}, {config.precision}"
        f"{', compiled' if config.compile else ''}"
        f"{f', in {config.accumulate} parts' if config.accumulate > 1 else ''}; {_how(bench, device, about, kept=kept)}"
    )
    _show(rows, title, bench.out, about)
    return 0


def _variants(bench: BenchConfig, config: TrainConfig[Any]) -> list[str]:
    """What is compared, each with the decoder, objective and top prior that flags of `train` name for all."""
    from vdvae_patch.patching import Variant
    from vdvae_patch.patching.variant import with_seams
    from vdvae_patch.registry import split_top_level

    of_all = Variant.parse(config.variant)
    seams = of_all.decoder, of_all.objective, of_all.top_prior
    names = [name.strip() for name in split_top_level(bench.variants, ",")]
    return names if seams == (None, None, None) else [str(with_seams(name, *seams)) for name in names]


def _how(bench: BenchConfig, device: torch.device, about: Mapping[str, Any], *, kept: bool) -> str:
    """How it was measured, and on what, for a table's title; `kept`: whether malloc kept its pages."""
    return (
        f"{bench.rounds} interleaved rounds{', seconds of the processor' if bench.processor else ''}"
        f"{', malloc keeps its pages' if kept and device.type == 'cpu' else ''}; {about['machine']}, "
        f"{about['threads']} thread(s), torch {about['torch']}, commit {about['commit']}"
    )


def _clock(bench: BenchConfig, device: torch.device) -> Callable[[], float]:
    """What tells the time of a step.

    Raises:
        InvalidValueError: the processor's seconds are asked for, and a GPU does the step.
    """
    if bench.processor and device.type != "cpu":
        raise InvalidValueError(f"--processor counts what the CPU does, and the step is done by {device}; leave it out")
    return time.process_time if bench.processor else time.perf_counter


def _run_gpu(bench: BenchConfig, config: TrainConfig[Any], argv: list[str], part: str) -> int:
    names = _variants(bench, config)
    return run_gpu_bench(
        config, names, argv=argv, batches=bench.batches, seconds=bench.seconds, out=bench.out, part=part
    )


def _run_counts(bench: BenchConfig, config: TrainConfig[Any]) -> int:
    import torch

    from vdvae_patch import counts
    from vdvae_patch.train.folder import write_json, write_whole
    from vdvae_patch.train.provenance import provenance

    about = provenance(torch.device("cpu"))
    names = _variants(bench, config)
    rows = counts.count(config, names)
    times = counts.host_times(config, rounds=bench.rounds)
    title = (
        f"{config.host} {config.preset}, batch {config.optimization.batch_size}, one step counted on meta tensors; the "
        f"host's milliseconds: medians of {bench.rounds} on {about['machine']}, {about['threads']} thread(s); torch "
        f"{about['torch']}, commit {about['commit']}"
    )
    text = counts.markdown(rows, times, title)
    print(text)
    if bench.out is not None:
        bench.out.mkdir(parents=True, exist_ok=True)
        write_whole(bench.out / "counts.md", text)
        write_json(
            bench.out / "counts.json", counts.as_record(rows, times, {"title": title, "run": about}), checksum=True
        )
    return 0


def _run_example(name: str, argv: list[str]) -> int:
    """A host that is not trained here: its entry's example, on the CPU or the GPU that there is."""
    check_flags(argv, [*flags_of(BenchConfig), "--host", "--patches", "--device"])
    if asked := next((flag for flag in (*map("--{}".format, _INSTEAD), "--plain") if flag in argv), None):
        raise InvalidValueError(f"{asked} is of the step of `train`, and host {name!r} is not trained here")
    switches = [
        flag for item in fields(BenchConfig) if item.type == "bool" for flag in (f"--{item.name}", f"--no-{item.name}")
    ]
    own, others = separate(argv, flags_of(BenchConfig), switches)
    bench = parse(BenchConfig, own, prog="vdvae-patch bench", description=DESCRIPTION)
    variants = ONE_NAME_VARIANTS if bench.variants == PAPER_VARIANTS else bench.variants

    from vdvae_patch import benchmark
    from vdvae_patch.hosts import load_host
    from vdvae_patch.registry import split_top_level
    from vdvae_patch.train.provenance import provenance
    from vdvae_patch.train.world import resolve_device

    device = resolve_device(peek(others, "--device") or "auto")
    about = provenance(device)
    host = load_host(name)
    names = [variant.strip() for variant in split_top_level(variants, ",")]
    with benchmark.kept_pages() as kept:
        rows = benchmark.benchmark_example(
            host, names, device, rounds=bench.rounds, warmup=bench.warmup, clock=_clock(bench, device)
        )
    version = host.origin.commit or host.origin.kind
    title = f"{name} {version}, the example of its entry; {_how(bench, device, about, kept=kept)}"
    _show(rows, title, bench.out, about | {"host": host.origin.record()})
    return 0


def _show(rows: Sequence[Measurement], title: str, out: Path | None, about: Mapping[str, Any]) -> None:
    from vdvae_patch import benchmark
    from vdvae_patch.train.folder import write_json, write_whole

    print(benchmark.markdown(rows, title))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "bench.md", benchmark.markdown(rows, title))
        write_json(out / "bench.json", benchmark.as_record(rows, {"title": title, "run": about}), checksum=True)


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Our own flags, and those that are passed on to `train`'s parser."""
    own = flags_of(BenchConfig)
    for argument in argv:
        if (flag := argument.split("=", 1)[0].replace("_", "-")) in _NOT_MEASURED:
            instead = "--scaling measures one process and two" if flag == "--nproc" else (
                "bench has --variants, --rounds and --warmup"
            )  # fmt: skip
            raise InvalidValueError(f"{flag} means nothing here; {instead}")
    entry = trainable(chosen_entry(argv))
    check_flags(argv, [*own, *(flag for flag in train_flags(entry.architecture) if flag not in _NOT_MEASURED)])
    mine: list[str] = []
    passed: list[str] = []
    target = passed
    for argument in argv:
        if argument.startswith("-"):
            target = mine if argument.split("=", 1)[0] in (*own, "-h") else passed
        target.append(argument)
    return mine, passed
