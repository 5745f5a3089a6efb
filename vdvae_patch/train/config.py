"""The typed configuration of a run: the command line and `config.toml` are two spellings of it.

Nothing here imports torch, since the command line is built from these classes.
"""

from __future__ import annotations

import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from vdvae_patch.errors import InvalidValueError, RunError, UnknownNameError
from vdvae_patch.heads import Arithmetic
from vdvae_patch.hosts.preset import MOST, MOST_IMAGES, Optimization
from vdvae_patch.reading.fields import Between, checked, one_line, require, require_shallow, shown
from vdvae_patch.skips.whole import comment_agrees

Precision = Literal["fp32", "bf16", "fp16"]
Matmul = Literal["tf32", "ieee"]
A = TypeVar("A")
_LONGEST = 2**24  # bytes of a `config.toml`; it has four thousand, and eight for each of --limit-images
_DOTS = 500  # tables in tables take a time that grows with the square of their depth
_SEEN = {
    "global_batch": Annotated[int, Between(1, MOST_IMAGES)] | None,
    "weights": list[str] | None,
    "resumed": list[str] | None,
}
_NAMED = {
    **dict.fromkeys(("host", "preset", "variant", "patches", "upstream", "data", "out"), str | None),
    "allow_modified_upstream": bool | None,
}
_COUNTS = (
    "steps", "epochs", "limit_images", "max_consecutive_skips", "record_every", "checkpoint_every", "samples_every",
    "evaluate_every", "watch_every", "record_skips", "eval_batch", "test_images", "importance_samples",
    "importance_images", "seed", "nproc", "accumulate",
)  # fmt: skip
_MOST = {
    "seed": 2**63 - 1,  # TOML's integers have 64 bits
    "record_every": 2**20,  # rows that the device holds until they are written
    "nproc": 2**16,
    "accumulate": MOST_IMAGES,
    "eval_batch": MOST_IMAGES,
}
_OF_THE_PRESET: Any = None  # an architecture belongs to a host; the command line takes it from the preset


@dataclass(frozen=True)
class TrainConfig(Generic[A]):
    """Everything that decides a run.

    Attributes:
        host: the code base that is trained.
        preset: a named choice of architecture and hyperparameters; each of them has a flag of its own.
        variant: scales as posterior/prior, such as vanilla, upbounded, explin/constant or upbounded/bounded(0.1,1);
            then, after a plus each, a decoder, an objective and a top prior: explin/constant+optimal+vamp(100).
        decoder: the likelihood of the pixels, in the place of the host's own: optimal, per_pixel, logistic, ...
        objective: what is minimized, in the place of the ELBO: geco(kappa=0.06), beta(beta=4), warmup(epochs=10), ...
        top_prior: p of the top latent, in the place of the host's own: vamp(100), mixture(10), standard.
        arithmetic: whose KL and sampling a patched model uses; auto is the stable one.
        data: the data set; the preset's own unless given.
        data_root: the folder that holds the data.
        limit_images: train on this many random training images.
        steps: how many steps to train.
        epochs: how many epochs to train, instead of steps; 300 if neither is given.
        seed: of the initial weights, the order of the data, the noise and the choice of limit_images.
        out: the run's folder; runs/HOST-PRESET-VARIANT-seedN unless given.
        resume: go on with the run in the folder from its last good checkpoint.
        weights: start from these: the averaged weights of a checkpoint folder of ours, or a file (a state_dict such as
            VDVAE's, a Lightning checkpoint, safetensors); FILE:KEY chooses one of several in it.
        allow_other_variant: accept weights that were saved under another variant.
        upstream: a checkout of the genuine code base to use, or "genuine" for the fetched one.
        allow_modified_upstream: accept a checkout that is not at the pinned commit or has changed files.
        patches: a patch file of your own that defines HOST.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or fp16 (autocast with loss scaling).
        matmul: how a GPU multiplies float32, in convolutions and matrix products alike: tf32 (ten bits of mantissa, by
            tensor cores) or ieee. On a CPU both mean ieee.
        deterministic: only algorithms that give the same bits each time, so that a GPU, too, resumes bit for bit; costs
            time there.
        accumulate: compute a rank's batch in so many parts, one after the other; one update as of the whole batch, and
            the memory of a part.
        compile: compile the model with torch.compile; on one GPU the whole step is then one CUDA graph, too.
        cuda_graph: on one GPU: the whole step as one CUDA graph, without compiling anything.
        record_every: steps between two writes of the log; 0 is every step on a CPU and every 50 elsewhere.
        checkpoint_every: steps between two checkpoints; 0 is one at the end only.
        samples_every: steps between two sample grids; 0 is one at the end only.
        evaluate_every: steps between two evaluations of the averaged weights on the validation images; 0 is none.
        eval_batch: images a batch of an evaluation; 0 is batch_size. Another size draws other noise.
        eval_precision: of an evaluation: fp32, bf16 or fp16, whatever the precision of the training.
        eval_compile: compile the passes of an evaluation, too.
        test_images: how many test images the final evaluation uses; 0 is all of them.
        importance_samples: draws for each image of the log likelihood by importance sampling, of `large_vae` alone,
            whose rates are of draws and whose values are 8-bit ones; 0 leaves it out.
        importance_images: test images of the log likelihood, evenly spread; 0 is all of them.
        max_consecutive_skips: end the run, with a diagnosis, after this many skipped updates in a row.
        watch_every: steps between two looks at every head (extremes of log sigma, KL, gradient); 0 is none.
        record_skips: keep what is needed to do this many skipped updates again, for `replay`; 0 keeps none.
        tensorboard: write TensorBoard event files too.
        nproc: how many processes to start on this machine; each takes batch_size images a step.
        dry_run: say what the run would cost (steps, images, hours, checkpoint size), and write nothing.
    """

    host: str = "vdvae"
    preset: str = "cifar10"
    variant: str = "vanilla"
    decoder: str | None = None
    objective: str | None = None
    top_prior: str | None = None
    arithmetic: Arithmetic = "auto"
    data: str | None = None
    data_root: Path | None = None
    limit_images: int | None = None
    steps: int | None = None
    epochs: int | None = None
    seed: int = 0
    out: Path | None = None
    resume: bool = False
    weights: Path | None = None
    allow_other_variant: bool = False
    upstream: str | None = None
    allow_modified_upstream: bool = False
    patches: Path | None = None
    device: str = "auto"
    precision: Precision = "fp32"
    matmul: Matmul = "tf32"
    deterministic: bool = False
    accumulate: int = 1
    compile: bool = False
    cuda_graph: bool = False
    record_every: int = 0
    checkpoint_every: int = 1000
    samples_every: int = 0
    evaluate_every: int = 0
    eval_batch: int = 0
    eval_precision: Precision = "fp32"
    eval_compile: bool = False
    test_images: int = 0
    importance_samples: int = 500
    importance_images: int = 100
    max_consecutive_skips: int = 200
    watch_every: int = 100
    record_skips: int = 5
    tensorboard: bool = False
    nproc: int = 1
    dry_run: bool = False
    optimization: Annotated[Optimization, tyro.conf.OmitArgPrefixes] = field(default_factory=Optimization)
    architecture: Annotated[A, tyro.conf.OmitArgPrefixes] = _OF_THE_PRESET

    def __post_init__(self) -> None:
        if (self.decoder, self.objective, self.top_prior) != (None, None, None):
            # here and not above: it imports torch
            from vdvae_patch.patching.variant import with_seams

            chosen = with_seams(self.variant, self.decoder, self.objective, self.top_prior)
            for name, value in {"variant": str(chosen), "decoder": None, "objective": None, "top_prior": None}.items():
                object.__setattr__(self, name, value)  # one spelling, so that two runs can be compared
        if self.steps is not None and self.epochs is not None:
            raise InvalidValueError(f"--steps {self.steps} and --epochs {self.epochs} are both given; choose one")
        for name, most in {**dict.fromkeys(_COUNTS, MOST), **_MOST}.items():
            value = getattr(self, name)
            if value is not None and value > most:
                raise InvalidValueError(f"--{name.replace('_', '-')} must be at most {most:,}, not {shown(value)}")
        positive = ("steps", "epochs", "limit_images", "max_consecutive_skips", "nproc", "accumulate")
        for name in positive:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidValueError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        for name in _COUNTS:
            if (getattr(self, name) or 0) < 0:
                raise InvalidValueError(f"--{name.replace('_', '-')} must not be negative, not {getattr(self, name)}")

    @property
    def folder(self) -> Path:
        """The run's folder."""
        if self.out is not None:
            return self.out
        return Path("runs") / f"{self.host}-{self.preset}-{slug(self.variant)}-seed{self.seed}"

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps to train in all."""
        return self.steps if self.steps is not None else (self.epochs or 300) * steps_per_epoch

    def to_toml(self) -> dict[str, Any]:
        """Plain values for `tomli_w`; what is None is left out."""
        table: dict[str, Any] = _plain(self)
        return table

    def settings(self) -> dict[str, Any]:
        """Every setting by its name, those of the optimization and the architecture beside the others."""
        table = self.to_toml()
        nested = table.pop("optimization"), table.pop("architecture", {})
        return {**table, **nested[0], **nested[1]}


def slug(variant: str) -> str:
    """A variant as part of a file name: `upbounded(omega=2)/constant` to `upbounded-omega=2-constant`.

    As `str(Variant)` writes them, two that differ have two names. So 1e+06 becomes 1e06, and not 1e-06, another number.
    """
    numbers = re.sub(r"(?<=\de)\+(?=\d)", "", variant)
    kept = (c if c.isalnum() or c in "=._" else "-" for c in numbers)
    return "-".join(filter(None, "".join(kept).split("-")))


@dataclass(frozen=True)
class RunFile:
    """A run's `config.toml`.

    Attributes:
        path: where it lies, for messages.
        told: what the run was told, as plain values.
        seen: what it saw: code, machine, data, host; the file's table `[run]`.
        checked: whether a checksum vouches for it; older files have none.
    """

    path: Path
    told: Mapping[str, Any]
    seen: dict[str, Any]
    checked: bool = False

    @property
    def run(self) -> str:
        """The identity of the run; empty for one of before runs had any."""
        return str(self.seen.get("id", ""))

    @property
    def checks_logs(self) -> bool:
        """Whether every line of its logs has a checksum: not those of a run that was begun by an older version."""
        return bool(self.run) and "adopted" not in self.seen

    @classmethod
    def read(cls, path: Path) -> RunFile:
        """Read the file.

        Raises:
            RunError: it is missing, cannot be read, is not TOML or nested deeper than ours is, or is not what was
                written.
        """
        try:
            if path.stat().st_size > _LONGEST:
                raise RunError(f"{path} is longer than {_LONGEST:,} bytes, and no run's configuration is")
            text = path.read_bytes().decode("utf-8")  # not as text, which would change line breaks
            if any(line.count(".") > _DOTS for line in text.splitlines()):
                raise RunError(f"{path} has a line with more than {_DOTS} dots, and no run's configuration has")
            agrees = comment_agrees(text)
            table = tomllib.loads(text)
        except FileNotFoundError:
            raise RunError(f"{path} does not exist: there is no run in that folder") from None
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:  # TOMLDecodeError, and others of a number or a text
            raise RunError(f"{path} is not valid TOML ({one_line(error)})") from None
        require_shallow(table, str(path), RunError)
        seen = require(table.pop("run", {}), _SEEN, f"{path}: run", RunError)
        if agrees is False or (agrees is None and "id" in seen):
            raise RunError(
                f"{path} is damaged, or was changed by hand: its checksum does not match. Put it back, or begin again "
                "in another --out; settings are changed by flags (train --resume --lr ...). Without its first line and "
                "the line `id` of [run] it is shown by `report`, which says so, and not resumed"
            )
        if not table:
            raise RunError(f"{path} is damaged: it has no setting")
        named = require(table, _NAMED, str(path), RunError)  # what is asked for before the rest is typed
        if bad := [name for name in _NAMED if "\0" in str(named.get(name, ""))]:
            raise RunError(f"{path}.{bad[0]}: must be a name or a path, not {shown(named[bad[0]])}")
        return cls(path, table, seen, bool(agrees))

    def config(self, architecture: type) -> TrainConfig[Any]:
        """What the run was told, typed; `architecture` is the class of its host's.

        Raises:
            UnknownNameError: it has a setting that this version does not know.
            RunError: a setting is of another type than its field.
            InvalidValueError: one has a value that cannot be used.
        """
        nested = {"optimization": Optimization, "architecture": architecture}
        values = {
            key: self._read(nested[key], item, f"{self.path}: {key}") if key in nested else item
            for key, item in self.told.items()
        }
        config: TrainConfig[Any] = self._read(TrainConfig, values, str(self.path))
        return config

    def _read(self, cls: type, values: Any, where: str) -> Any:
        table = checked(values, dict[str, Any], where, RunError)
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(table) - set(known)):
            raise UnknownNameError("setting", unknown[0], known)
        hints = typing.get_type_hints(cls, include_extras=True)
        read = {name: _typed(hints[name], value, f"{where}.{name}") for name, value in table.items()}
        try:
            return cls(**read)
        except TypeError as error:  # a field of the user's own class that has no default
            raise RunError(f"{where}: {one_line(error)}") from None


def changed(old: TrainConfig[Any], new: TrainConfig[Any], allowed: frozenset[str]) -> list[str]:
    """`["lr: 0.0002, now 0.001", ...]`: the settings in which two configurations differ, `allowed` ones left out."""
    before, now = old.settings(), new.settings()
    return [
        f"{key}: {before.get(key)}, now {now.get(key)}"
        for key in sorted({*before, *now} - allowed)
        if before.get(key) != now.get(key)
    ]


def with_out(config: TrainConfig[A], out: Path) -> TrainConfig[A]:
    """The same configuration for another folder."""
    return replace(config, out=out)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        items = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        return {key: item for key, item in items.items() if item is not None}
    return str(value) if isinstance(value, Path) else value


def _typed(hint: Any, value: Any, where: str) -> Any:
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)  # the latter where a Literal is one of them
    options = typing.get_args(hint) if union else (hint,)
    if Path in options and isinstance(value, str):
        if "\0" in value:
            raise RunError(f"{where}: must be a path, not {shown(value)}")
        return Path(value)
    if isinstance(hint, TypeVar) or is_dataclass(value):
        return value  # the architecture, read already
    if isinstance(value, list) and any(typing.get_origin(option) is tuple for option in options):
        value = tuple(value)
    return checked(value, hint, where, RunError)
