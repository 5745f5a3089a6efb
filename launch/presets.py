"""The published runs, by name."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from vdvae_patch.errors import InvalidValueError, UnknownNameError

_OF_A_RUN = {"--variant", "--seed", "--out"}


@dataclass(frozen=True)
class RunPreset:
    """Variants and seeds that belong together, and the flags of `train` that they share."""

    name: str
    about: str
    flags: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]

    def commands(self, more: tuple[str, ...] = ()) -> Iterator[list[str]]:
        """The arguments of `vdvae-patch train`, one list a run; `more` come last and so have the last word.

        Raises:
            InvalidValueError: `more` has what the runs differ in, or a folder, which each has for itself.
        """
        told = {argument.partition("=")[0] for argument in more}
        if own := sorted(told & _OF_A_RUN):
            raise InvalidValueError(
                f"launch {self.name} gives {' and '.join(own)} to each of its {len(self.variants) * len(self.seeds)} "
                "runs; leave it out, or give one run to train yourself"
            )
        flags = _without(self.flags, "--epochs") if "--steps" in told else self.flags
        for variant in self.variants:
            for seed in self.seeds:
                yield [*flags, "--variant", variant, "--seed", str(seed), *more]

    def script(self, more: tuple[str, ...] = ()) -> str:
        """The commands, one a line."""
        return "\n".join(shlex.join(["python", "-m", "vdvae_patch", "train", *c]) for c in self.commands(more))


def _without(flags: tuple[str, ...], name: str) -> list[str]:
    """Flags and their values, but for one."""
    pairs = zip(flags[::2], flags[1::2], strict=True)
    return [part for pair in pairs if pair[0] != name for part in pair]


def presets() -> dict[str, RunPreset]:
    """All of `presets.toml`."""
    table = tomllib.loads(resources.files(__package__).joinpath("presets.toml").read_text(encoding="utf-8"))
    return {
        name: RunPreset(name, v["about"], tuple(v["flags"]), tuple(v["variants"]), tuple(v["seeds"]))
        for name, v in table.items()
    }


def preset(name: str) -> RunPreset:
    """A preset; raises `UnknownNameError` with the nearest."""
    known = presets()
    if name not in known:
        raise UnknownNameError("run preset", name, known)
    return known[name]
