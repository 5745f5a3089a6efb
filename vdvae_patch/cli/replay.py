"""`vdvae-patch replay RUN --skip K`: do a skipped update again, and say which head and which operation did it.

RUN is a folder of `train`, or what a guard recorded: `vdvae-patch replay guard/skip-0001 --model my_vae:VAE --call
my_vae:loss`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vdvae_patch.cli.arguments import check_flags, flags_of, load_patches, parse
from vdvae_patch.cli.named_code import require_said_again
from vdvae_patch.errors import InvalidValueError, RunError, visible
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
        device: auto is the kind that it was recorded on, or the CPU where this machine has none; cpu, cuda or cuda:N.
        variant: also do the step with the same weights under this variant.
        limit: a value above it counts as exploding.
        image: where to draw log sigma and KL by head; beside the recording unless given.
        model: PACKAGE.MODULE:FACTORY, for what a guard recorded: what makes the model, without arguments.
        call: PACKAGE.MODULE:LOSS, for what a guard recorded: LOSS(model, *inputs) gives the loss; not needed where the
            model does.
        rank: of several ranks that recorded it, whose share of the batch; the first that was to blame unless given.
        path: where to import these from, beside the current folder.
        patches: the patch file that the run was trained with, which is code and is not taken from its folder alone.
        upstream: so the checkout that it was trained with.
        allow_modified_upstream: accept a checkout that has changed files, as the run did.
    """

    run: Annotated[Path, tyro.conf.Positional]
    skip: int = 1
    device: str = "auto"
    variant: str | None = None
    limit: float = 1e6
    image: Path | None = None
    model: str | None = None
    call: str | None = None
    rank: int | None = None
    path: Path = Path()
    patches: Path | None = None
    upstream: str | None = None
    allow_modified_upstream: bool = False

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise InvalidValueError(f"--limit must be a positive number, or inf, not {self.limit:g}")


def run(argv: list[str]) -> int:
    """Do a recorded skipped update again, and find the head and the operation at fault."""
    check_flags(argv, flags_of(ReplayCommand))
    command = parse(ReplayCommand, argv, description=run.__doc__ or "", prog="vdvae-patch replay")
    recorded = _recorded_by_guard(command.run, command.skip)
    if recorded is not None:
        return _replay_guards(command, recorded)
    if command.rank is not None:
        raise InvalidValueError(
            f"--rank chooses a share of what a guard recorded; {command.run} is a run, whose ranks are all done again"
        )
    config = read_run(
        command.run,
        patches=command.patches,
        upstream=command.upstream,
        allow_modified_upstream=command.allow_modified_upstream,
    )

    from vdvae_patch.train import flight
    from vdvae_patch.train.replay import replay
    from vdvae_patch.train.verdict import draw, report

    path = flight.choose(command.run / "recordings", command.skip)
    recording = flight.read(path)
    seen = RunFile.read(command.run / "config.toml").seen.get("data")
    own = replay(config, recording, limit=command.limit, device=command.device, seen=seen)
    other = None
    if command.variant is not None:
        other = replay(config, recording, command.variant, limit=command.limit, device=command.device)
    print(visible(report(own, other, recording.config(config).optimization.skip_threshold)))
    suffix = "" if other is None else f"-{slug(other.variant)}"
    image = command.image or path.parent / f"{path.name}{suffix}.png"
    draw(image, [own] if other is None else [own, other])
    print(visible(f"\nimage: {image}"))
    return 0


def _recorded_by_guard(folder: Path, number: int) -> Path | None:
    """The folder of a skip that a guard recorded, or of the guard's; None for anything else."""
    if (folder / "config.toml").exists():
        return None
    if (folder / "manifest.json").exists():
        return folder
    from vdvae_patch.skips.sealed import MANIFEST, numbered

    found = [path for path in numbered(folder, "skip") if (path / MANIFEST).exists()]
    if not found:
        return None
    if not 1 <= number <= len(found):
        raise RunError(f"{folder} has no skip {number}; it recorded {', '.join(path.name for path in found)}")
    return found[number - 1]


def _replay_guards(command: ReplayCommand, folder: Path) -> int:
    from vdvae_patch.cli.scan import build, import_from, resolve
    from vdvae_patch.guarding.folder import as_it_lies
    from vdvae_patch.guarding.replaying import replay as replay_again
    from vdvae_patch.guarding.skip import read

    recorded = read(folder, command.rank)
    if command.model is None:
        raise InvalidValueError(
            f"{folder} holds weights of a {recorded.info.get('model_class')}, and no code; name what makes the model: "
            "--model PACKAGE.MODULE:FACTORY, and its loss, --call PACKAGE.MODULE:LOSS, if the model does not give it"
        )
    import_from([str(command.path)])
    model = build(resolve(command.model, [str(command.path)]), command.model)
    call = None if command.call is None else resolve(command.call, [str(command.path)])
    print(visible(str(replay_again(recorded, model, call, command.variant, command.device))))
    log = as_it_lies(folder.parent)
    for problem in [] if log is None else log.problems():
        print(visible(f"note: {problem}"))
    return 0


def read_run(folder: Path, **said: object) -> TrainConfig[Any]:
    """The configuration of the run in a folder.

    Args:
        said: what the command line says of code: `patches`, `upstream`, `allow_modified_upstream`.

    Raises:
        RunError: there is none; or it names code that the command line does not.
    """
    file = RunFile.read(folder / "config.toml")
    require_said_again(file.told, said, file.path)
    if "patches" in file.told:
        load_patches(file.told["patches"])
    return file.config(trainable(HOSTS.get(str(file.told.get("host")))).architecture)
