"""The flags of `compare` that `train` does not have, and how they are told from those that it has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdvae_patch.compare.executor import Executor
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.registry import split_top_level


@dataclass(frozen=True)
class CompareOptions:
    """What is compared, and how the runs share the machine.

    Attributes:
        variants: variants with commas between them, each as `train --variant` takes it.
        seeds: seeds with commas between them.
        executor: processes of this machine, or jobs that submitit hands to slurm (or, to try it, to this machine).
        jobs: how many runs go on side by side.
        threads: processor threads of each run; 0 is the number of cores over --jobs.
        out: the folder of the comparison, one folder a run inside it; runs/compare-PRESET unless given.
    """

    variants: str = "vanilla,upbounded,explin,vanilla/constant,upbounded/constant,explin/constant"
    seeds: str = "0,1,2"
    executor: Executor = "processes"
    jobs: int = 1
    threads: int = 0
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise InvalidValueError(f"--jobs must be at least 1, not {self.jobs}")
        if self.threads < 0:
            raise InvalidValueError(f"--threads must not be negative, not {self.threads}")

    def variant_list(self) -> list[str]:
        """The variants as they were written; commas inside parentheses belong to a scale's arguments."""
        names = [name.strip() for name in split_top_level(self.variants, ",")]
        if not all(names):
            raise InvalidValueError(f"--variants {self.variants!r} has an empty name; write vanilla,upbounded")
        return names

    def seed_list(self) -> list[int]:
        """The seeds, each once."""
        seeds: list[int] = []
        for text in self.seeds.split(","):
            if not (text.strip().isascii() and text.strip().isdecimal()):
                raise InvalidValueError(f"--seeds {self.seeds!r}: {text.strip()!r} is no seed; write 0,1,2")
            seeds.append(int(text))
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            raise InvalidValueError(f"--seeds {self.seeds!r} names {twice} twice")
        return seeds


def separate(argv: Sequence[str], own: Sequence[str], switches: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """The arguments of `own` flags, one value each but for the `switches`, and all others, in their order."""
    mine: list[str] = []
    others: list[str] = []
    rest = iter(argv)
    for argument in rest:
        if argument.split("=", 1)[0] not in own:
            others.append(argument)
            continue
        mine.append(argument)
        if "=" not in argument and argument not in switches:
            mine.extend([value] if (value := next(rest, None)) is not None else [])
    return mine, others
