"""From a command line to a typed configuration, with one clear line for whatever is wrong with it."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import tyro

from vdvae_patch.cli.named_code import require_said_again
from vdvae_patch.errors import InvalidValueError, RunError, UnknownNameError
from vdvae_patch.hosts import HOSTS, HostEntry, load_entry_file
from vdvae_patch.hosts.preset import Optimization
from vdvae_patch.hosts.trainable import TrainableEntry, trainable
from vdvae_patch.train.config import RunFile, TrainConfig

T = TypeVar("T")


def parse_train(argv: Sequence[str], description: str = "", prog: str = "vdvae-patch train") -> TrainConfig[Any]:
    """The configuration of `train`'s flags; the preset's values are the defaults of the hyperparameters' flags.

    With `--resume` those of the run in the folder are: what is not said again stays what it was.

    Raises:
        UnknownNameError: no such host, preset, data set, variant or flag; the message names the nearest.
        InvalidValueError: a value that cannot be used.
        RunError: the run that is to be resumed is of another host, or its `config.toml` cannot be read.
    """
    file = _resumed(argv)
    told: Mapping[str, Any] = {} if file is None else file.told
    entry = trainable(chosen_entry(argv, told))
    if file is not None and entry.name != told.get("host"):
        raise RunError(f"folder {file.path.parent} holds a run of --host {told.get('host')}, not {entry.name}")
    preset_name = peek(argv, "--preset") or told.get("preset") or _only_preset(entry)
    if file is not None and preset_name == told.get("preset"):
        default = _going_on(file.config(entry.architecture), argv)
    else:
        preset = entry.preset(preset_name)
        default = TrainConfig(
            host=entry.name, preset=preset_name, optimization=preset.optimization, architecture=preset.architecture
        )
    _require_own_names(entry)
    check_flags(argv, train_flags(entry.architecture))
    config: TrainConfig[Any] = parse(
        TrainConfig[entry.architecture],  # type: ignore[name-defined]
        argv,
        default=default,
        description=description,
        prog=prog,
    )
    if config.data is not None:
        _check_data(config.data)
    # whole, so that the run's folder says it to whoever reads it from another folder
    return config if config.patches is None else replace(config, patches=config.patches.expanduser().resolve())


def _require_own_names(entry: TrainableEntry) -> None:
    """Raise `InvalidValueError` where a host's architecture has a field whose flag is one of every run."""
    own = {field.name for field in fields(entry.architecture)} if is_dataclass(entry.architecture) else set()
    twice = own & {field.name for cls in (TrainConfig, Optimization) for field in fields(cls)}
    if twice:
        raise InvalidValueError(
            f"host {entry.name!r}: its architecture has {', '.join(sorted(twice))}, and every run has a flag of that "
            "name; call it something else in the host's patch file"
        )


def chosen_entry(argv: Sequence[str], told: Mapping[str, Any] | None = None) -> HostEntry:
    """The host of `--host`; without it that of the file of `--patches`, which is loaded first; else VDVAE.

    Raises:
        UnknownNameError: no such host.
        HostError: the file cannot be used.
    """
    told = {} if told is None else told  # what a run that goes on was told
    patches, name = peek(argv, "--patches") or told.get("patches"), peek(argv, "--host") or told.get("host")
    own = None if patches is None else load_patches(patches)
    return own if own is not None and name is None else HOSTS.get(name or TrainConfig.host)


def _resumed(argv: Sequence[str]) -> RunFile | None:
    """What the run that `argv` resumes was told; None if it resumes none, or there is none yet."""
    if "--resume" not in argv:
        return None
    names = ("preset", "variant", "decoder", "objective", "top_prior", "out")
    given = {name: value for name in names if (value := peek(argv, f"--{name.replace('_', '-')}")) is not None}
    out = given.get("out")
    entry = (
        None if out is not None else chosen_entry(argv)
    )  # its name is part of the folder's; what a folder names waits
    seed = peek(argv, "--seed") or "0"
    preset = given.get("preset") or (TrainConfig.preset if entry is None else _only_preset(trainable(entry)))
    where = TrainConfig[Any](
        host=TrainConfig.host if entry is None else entry.name,
        preset=preset,
        variant=given.get("variant", TrainConfig.variant),
        decoder=given.get("decoder"),
        objective=given.get("objective"),
        top_prior=given.get("top_prior"),
        seed=int(seed) if seed.isdecimal() else 0,
        out=None if out is None else Path(out),
    )
    path = where.folder / "config.toml"
    if not path.exists():
        return None
    file = RunFile.read(path)
    said = {"patches": peek(argv, "--patches"), "upstream": peek(argv, "--upstream")}
    require_said_again(file.told, {**said, "allow_modified_upstream": "--allow-modified-upstream" in argv}, path)
    return file


def _going_on(config: TrainConfig[Any], argv: Sequence[str]) -> TrainConfig[Any]:
    """The folder's configuration, for the flags to be put on top: one length in place of the other."""
    steps = None if peek(argv, "--epochs") is not None else config.steps
    epochs = None if peek(argv, "--steps") is not None else config.epochs
    return replace(config, steps=steps, epochs=epochs, out=None, dry_run=False)


def load_patches(path: Path | str) -> HostEntry:
    """`load_entry_file`, and what the file imports is looked for beside it, as Python does for a script."""
    folder = str(Path(path).expanduser().resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    return load_entry_file(path)


def _only_preset(entry: TrainableEntry) -> str:
    presets = list(entry.presets())
    if len(presets) != 1 and TrainConfig.preset not in presets:
        known = f"has the presets {', '.join(presets)}; choose one with --preset" if presets else "has no preset"
        raise InvalidValueError(f"host {entry.name!r} {known}")
    return presets[0] if len(presets) == 1 else TrainConfig.preset


def parse(cls: Callable[..., T], argv: Sequence[str], **options: Any) -> T:
    """`tyro.cli`, with `one_line_errors`."""
    with one_line_errors():
        result: T = tyro.cli(cls, args=list(argv), **options)
    return result


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What tyro would print as a box, and exit with, is raised as an `InvalidValueError` of one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InvalidValueError(_one_line(said.getvalue())) from None


def check_flags(argv: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a flag that is not among `known`, naming the nearest."""
    for argument in argv:
        flag = argument.split("=", 1)[0].replace("_", "-")
        if flag.startswith("--") and flag not in known:
            raise UnknownNameError("flag", flag, known)


def flags_of(*classes: type) -> list[str]:
    """The flags that tyro gives to the fields of dataclasses, booleans with their `--no-` form."""
    flags = ["--help"]
    for cls in classes:
        for item in fields(cls):
            if item.name in ("optimization", "architecture"):
                continue
            flag = f"--{item.name.replace('_', '-')}"
            flags.append(flag)
            if item.type in (bool, "bool"):
                flags.append(f"--no-{flag[2:]}")
    return flags


def train_flags(architecture: type) -> list[str]:
    """The flags of `train` for a host."""
    nested = (architecture,) if is_dataclass(architecture) else ()
    return flags_of(TrainConfig, Optimization, *nested)


def peek(argv: Sequence[str], flag: str) -> str | None:
    """The value of a flag, before the rest can be parsed; the last one if it is given twice."""
    value = None
    for index, argument in enumerate(argv):
        if argument == flag and index + 1 < len(argv):
            value = argv[index + 1]
        elif argument.startswith(f"{flag}="):
            value = argument.split("=", 1)[1]
    return value


def _check_data(name: str) -> None:
    from vdvae_patch.data import DATASETS
    from vdvae_patch.registry import parse_spec

    DATASETS.canonical(parse_spec(name, DATASETS.kind)[0])


def _one_line(text: str) -> str:
    """What tyro says inside its box, joined; its title repeats the first line, or says which nesting it was in."""
    bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = (line.strip("╭╮╰╯│─┃━ \t") for line in bare.splitlines())
    titles = ("Parsing error", "For full helptext", "Value error", "Invalid choice", "Argument helptext")
    said = [line for line in lines if line and not line.startswith(titles)]
    joined = " ".join(said[1:] if len(said) > 1 and said[1].startswith(said[0]) else said)
    # of a flag that takes several types, what each of them said against the value
    several = re.search(r"(--\S+): no type matching (\S+) could be instantiated from \['(.*?)'\]", joined)
    if several:
        return "{} must be {}, not {!r}".format(several[1], several[2].replace("|", " or "), several[3])
    # of an argument without which a command does nothing: its name and its help
    missing = re.match(
        r"Required options .*?Missing from (vdvae-patch[\w -]+): (\S+) (.*?)\.? \(required\)", joined, re.IGNORECASE
    )
    if missing:
        return f"{missing[2]} is missing: {missing[3]}; `{missing[1]} --help` lists all options"
    joined = joined.replace("Missing subcommand Expected one of", "which subcommand? Expected one of")
    return re.sub(r"^Error parsing \w+: ", "", joined) or "the command line could not be parsed"
