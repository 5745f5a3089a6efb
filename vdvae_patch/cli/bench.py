"""`vdvae-patch bench`: what a patch costs, measured."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from vdvae_patch.cli.arguments import check_flags, flags_of, parse, parse_train, train_flags
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.hosts.trainable import TrainableEntry

PAPER_VARIANTS = "vanilla,upbounded,explin,vanilla/constant,upbounded/constant,explin/constant"


@dataclass(frozen=True)
class BenchConfig:
    """Step time and memory of each variant over the first one's: interleaved steps, medians of ratios.

    Any flag of `train` may follow: --host, --preset (small unless given), --device, --compile, --precision, ...

    Attributes:
        variants: what is compared, separated by commas; the first is the reference.
        rounds: steps of each variant that count.
        warmup: steps of each variant that do not.
        plain: also measure the plain step that VDVAE's own script does: eager, unfused, waiting for every scalar.
        out: write bench.md and bench.json into this folder.
    """

    variants: str = PAPER_VARIANTS
    rounds: int = 30
    warmup: int = 5
    plain: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.warmup < 0:
            raise InvalidValueError(f"--rounds {self.rounds} and --warmup {self.warmup} must be at least 1 and 0")


def run(argv: list[str]) -> int:
    """Measure, print the table, and write it if asked."""
    own, passed = _split(argv)
    bench = parse(BenchConfig, own, prog="vdvae-patch bench", description=BenchConfig.__doc__ or "")
    if not any(a.split("=")[0] == "--preset" for a in passed):
        passed = ["--preset", "small", *passed]
    config = parse_train(passed, prog="vdvae-patch bench")

    from vdvae_patch import benchmark
    from vdvae_patch.registry import split_top_level
    from vdvae_patch.train.folder import write_json
    from vdvae_patch.train.provenance import provenance
    from vdvae_patch.train.world import resolve_device

    device = resolve_device(config.device)
    about = provenance(device)
    names = [name.strip() for name in split_top_level(bench.variants, ",")]
    rows = benchmark.benchmark(
        benchmark.default_config(config), names, device, rounds=bench.rounds, warmup=bench.warmup, plain=bench.plain
    )
    title = (
        f"{config.host} {config.preset}, batch {config.optimization.batch_size}, {config.precision}"
        f"{', compiled' if config.compile else ''}; {bench.rounds} interleaved rounds; {about['machine']}, "
        f"{about['threads']} thread(s), torch {about['torch']}, commit {about['commit']}"
    )
    if bench.out is not None:
        bench.out.mkdir(parents=True, exist_ok=True)
        write_json(bench.out / "bench.json", benchmark.as_record(rows, {"title": title, "run": about}))
    print(benchmark.markdown(rows, title, bench.out / "bench.md" if bench.out else None))
    return 0


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Our own flags, and those that are passed on to `train`'s parser."""
    names = {f"--{item.name}" for item in fields(BenchConfig)} | {"--no-plain", "--help", "-h"}
    check_flags(argv, [*names, *train_flags(_architecture(argv)), *flags_of(BenchConfig)])
    own: list[str] = []
    passed: list[str] = []
    target = passed
    for argument in argv:
        if argument.startswith("-"):
            target = own if argument.split("=")[0] in names else passed
        target.append(argument)
    return own, passed


def _architecture(argv: list[str]) -> type:
    from vdvae_patch.cli.arguments import peek
    from vdvae_patch.hosts import HOSTS
    from vdvae_patch.hosts.trainable import trainable

    entry: TrainableEntry = trainable(HOSTS.get(peek(argv, "--host") or "vdvae"))
    return entry.architecture
