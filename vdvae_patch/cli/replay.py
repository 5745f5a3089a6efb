"""`vdvae-patch replay RUN --skip K`: do a skipped update again, and say which head and which operation did it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vdvae_patch.cli.arguments import check_flags, flags_of, load_patches, parse
from vdvae_patch.hosts import HOSTS
from vdvae_patch.hosts.trainable import trainable
from vdvae_patch.train.config import RunFile, TrainConfig, slug

ABOUT = "do a skipped update again: which head, which operation"


@dataclass(frozen=True)
class ReplayCommand:
    """What to replay.

    Attributes:
        run: the run's folder.
        skip: which of its recorded skipped updates, from 1.
        variant: also do the step with the same weights under this variant.
        limit: a value above it counts as exploding.
        image: where to draw log sigma and KL by head; beside the recording unless given.
    """

    run: Annotated[Path, tyro.conf.Positional]
    skip: int = 1
    variant: str | None = None
    limit: float = 1e6
    image: Path | None = None


def run(argv: list[str]) -> int:
    """Do a recorded skipped update again, and find the head and the operation at fault."""
    check_flags(argv, flags_of(ReplayCommand))
    command = parse(ReplayCommand, argv, description=run.__doc__ or "", prog="vdvae-patch replay")
    config = read_run(command.run)

    from vdvae_patch.train import flight
    from vdvae_patch.train.replay import replay
    from vdvae_patch.train.verdict import draw, report

    path = flight.choose(command.run / "recordings", command.skip)
    recording = flight.read(path)
    own = replay(config, recording, limit=command.limit)
    other = None if command.variant is None else replay(config, recording, command.variant, limit=command.limit)
    print(report(own, other, recording.config(config).optimization.skip_threshold))
    suffix = "" if other is None else f"-{slug(other.variant)}"
    image = command.image or path.parent / f"{path.name}{suffix}.png"
    draw(image, [own] if other is None else [own, other])
    print(f"\nimage: {image}")
    return 0


def read_run(folder: Path) -> TrainConfig[Any]:
    """The configuration of the run in a folder.

    Raises:
        RunError: there is none.
    """
    file = RunFile.read(folder / "config.toml")
    if "patches" in file.told:
        load_patches(file.told["patches"])
    return file.config(trainable(HOSTS.get(str(file.told.get("host")))).architecture)
