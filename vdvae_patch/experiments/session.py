"""Ensembles that are trained in pieces: state is saved, and a command that was stopped goes on from there.

What is read again carries its checksum: a table is made of results that lie in files, some of them since weeks. It also
says what it is of, its settings and its images, so that a file of another folder is not taken for one of this.

    settings.json    what the results depend on, as it was asked for
    data.json        fingerprints of the images, by data set
    KEY.json         a finished part; KEY.pt the state of one that is under way, or tensors that belong to a result
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import Tensor

from vdvae_patch.data.fingerprints import WholeFingerprints
from vdvae_patch.data.fingerprints import fingerprint as pixels_fingerprint
from vdvae_patch.data.pixels import Pixels
from vdvae_patch.errors import CheckpointError, RunError
from vdvae_patch.experiments.ensemble import Ensemble
from vdvae_patch.reading.fields import checked, one_line, require, shown
from vdvae_patch.reading.tensor_files import require_bounded
from vdvae_patch.skips.whole import digest, json_record, json_text, replaced, write_whole
from vdvae_patch.train.provenance import code_commit, machine


class Observer(Protocol):
    """Looks at an ensemble after every step, and is saved and restored with it."""

    def __call__(self, ensemble: Ensemble) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


Result = dict[str, Any]
"""What is kept of a finished ensemble: plain values, as they go into a JSON file."""


_CPU = torch.device("cpu")


def computed_on(device: torch.device) -> list[str]:
    """Where something is computed: the machine with its threads, and the version of torch."""
    return [f"{machine(device)}, threads: {torch.get_num_threads()}", str(torch.__version__)]


@dataclass
class By:
    """The commits and the places that a part was trained by, each once; a state keeps them for the piece behind it."""

    commits: list[str] = field(default_factory=list)
    places: list[list[str]] = field(default_factory=list)

    def add(self, commit: str, where: list[str]) -> None:
        self.commits = sorted({*self.commits, commit})
        if where not in self.places:
            self.places = [*self.places, where]

    def state(self) -> dict[str, Any]:
        """As part of a state."""
        return {"commits": self.commits, "places": self.places}

    @classmethod
    def of(cls, state: dict[str, Any]) -> By:
        """What a state says; those of earlier versions say less."""
        return cls([str(commit) for commit in state.get("commits", ["unknown"])], list(state.get("places", [])))


@dataclass
class Session:
    """One experiment's folder, and the time that this piece of it has.

    Args:
        folder: where the state and the finished results lie.
        settings: plain values that the results depend on; a folder with results of others is refused.
        minutes: stop, with the state saved, after this time; None trains to the end.
        save_seconds, say_seconds: time between two saves, and between two lines of progress.

    Raises:
        RunError: the folder holds results of other settings.
    """

    folder: Path
    settings: Result
    minutes: float | None = None
    clock: Callable[[], float] = time.monotonic
    console: Console = field(default_factory=lambda: Console(file=sys.stderr))
    save_seconds: float = 60.0
    say_seconds: float = 15.0

    def __post_init__(self) -> None:
        self.started = self.clock()
        self._has_trained = False
        self._told: set[str] = set()
        self._commit = code_commit()  # of the code that is running, whatever is committed meanwhile
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "settings.json"
        text = json.dumps(self.settings, indent=2, sort_keys=True)
        if path.exists() and path.read_text() != text:
            changed = _differences(_read(path)[0], json.loads(text))
            raise RunError(
                f"{self.folder} holds results of other settings ({changed}); name another --out, or delete it"
            )
        write_whole(path, text)
        self._settings = digest(text)
        self._data = self._known_data()

    def same_data(self, name: str, *parts: Tensor | Pixels | None) -> None:
        """Compare images with those that the folder's results are of; those of a new folder are written down.

        Args:
            name: of the data set.
            parts: its images, and what else of it is used; every one that decides a result.

        Raises:
            RunError: they are others.
        """
        found = fingerprint(*parts)
        known = self._data.get(name)
        if known is not None and known != found:
            raise RunError(
                f"{self.folder} holds results of other images of {name} (their SHA-256 begins with {known[:8]}, and "
                f"that of those here with {found[:8]}); name the --data-root that it was begun with, or another --out"
            )
        if known is None:
            if any(path.stem not in _OWN and path.suffix in (".json", ".pt") for path in self.folder.iterdir()):
                self.console.print(
                    f"{self.folder} does not say of which images of {name} its results are: of a version that wrote "
                    "no fingerprint, or of other data sets alone",
                    highlight=False,
                    soft_wrap=True,
                )
            self._data = {**self._known_data(), name: found}
            write_whole(self.folder / "data.json", json_text(self._data, checksum=True))

    def _known_data(self) -> dict[str, str]:
        path = self.folder / "data.json"
        return checked(_read(path)[0], dict[str, str], str(path), RunError) if path.exists() else {}

    def _of(self, key: str) -> dict[str, Any]:
        """What a part is of."""
        return {"key": key, "settings": self._settings, "data": self._data}

    def _why_not_ours(self, key: str, of: Any) -> str:
        """Why a file is none of this folder's; empty if it is one, or does not say what it is of."""
        if of is None:
            return ""
        told = require(of, {"key": str, "settings": str, "data": dict[str, str]}, f"{self.folder / key}: of", RunError)
        if told["key"] != key:
            return f"it is {told['key']}, under another name"
        if told["settings"] != self._settings:
            return "it was made with other settings"
        others = [name for name, value in told["data"].items() if self._data.get(name, value) != value]
        return f"it is of other images of {others[0]}" if others else ""

    @property
    def out_of_time(self) -> bool:
        """Whether this piece's minutes are over."""
        return self.minutes is not None and self.clock() - self.started >= 60 * self.minutes

    def finished(self, key: str) -> Result | None:
        """The result of an ensemble that was finished in this piece or an earlier one.

        Raises:
            RunError: its file is not what was written.
        """
        path = self.folder / f"{key}.json"
        if not path.exists():
            return None
        try:
            result, vouched = _read(path)
        except RunError as error:
            raise RunError(f"{error}; delete it to do this part again") from None
        if why := self._why_not_ours(key, result.get("of")):
            raise RunError(f"{path} is no result of this folder: {why}; delete it to do this part again")
        if not vouched and key not in self._told:
            self._told.add(key)
            self.console.print(
                f"no checksum vouches for {path}: of a version that wrote none", highlight=False, soft_wrap=True
            )
        return result

    def keep(
        self, key: str, seconds: float, result: Result, device: torch.device = _CPU, by: By | None = None
    ) -> Result:
        """Write a result that was found without an ensemble, with its seconds, commit and place; returns it with these.

        Args:
            device: where it was computed.
            by: what earlier pieces of it were computed by.
        """
        by = By() if by is None else by
        self.add_here(by, device)
        how = {"seconds": seconds, "commit": ", ".join(by.commits), "places": by.places}
        result = {**how, "of": self._of(key), **result}
        self._has_trained = True
        write_whole(self.folder / f"{key}.json", json_text(result, checksum=True))
        return result

    def add_here(self, by: By, device: torch.device) -> None:
        """Add the code that is running, and where."""
        by.add(self._commit, computed_on(device))

    def kept(self, key: str) -> dict[str, Any]:
        """The tensors that lie beside a finished result, see `write_state`.

        Raises:
            RunError, CheckpointError: they are gone, damaged, or of another part.
        """
        path = self.folder / f"{key}.pt"
        state = self.read_state(path)
        if state is None:
            raise RunError(f"{path} is gone; delete {path.with_suffix('.json')} to do this part again")
        return state

    @property
    def may_start(self) -> bool:
        """Whether another part may be started in this piece's time; the first always may."""
        return not (self.out_of_time and self._has_trained)

    def train(
        self,
        key: str,
        make: Callable[[], Ensemble],
        steps: int,
        summarize: Callable[[Ensemble], Result],
        *,
        observer: Observer | None = None,
        place: str = "",
    ) -> Result | None:
        """Train an ensemble to its end, or to the end of this piece's time.

        Args:
            key: its name in the folder; must be a file name.
            make: builds it at its start.
            summarize: its result, once it has ended.
            observer: called after every step, for evaluation along the way.
            place: where it stands among the others, such as `3/12`.

        Returns:
            Its result, or None if the time is over: its state is saved, and the next piece goes on with it.
        """
        if (done := self.finished(key)) is not None:
            return done
        if not self.may_start:  # however short a piece is, it gets something done
            return None
        self._has_trained = True
        ensemble = make()
        state_path = self.folder / f"{key}.pt"
        before, by = self._load(ensemble, observer, state_path)
        self.add_here(by, ensemble.device)
        watch = _Watch(self, f"{key} {place}".strip(), ensemble, steps, state_path, before, observer, by)
        ensemble.train(steps, go_on=watch.go_on)
        ensemble.drop_failed()
        if ensemble.step_count < steps and ensemble.alive:
            watch.save()
            return None
        how = {"seconds": watch.seconds, "commit": ", ".join(by.commits), "places": by.places, "how": ensemble.how}
        how["of"] = self._of(key)
        result = {**how, **summarize(ensemble)}
        write_whole(self.folder / f"{key}.json", json_text(result, checksum=True))
        state_path.unlink(missing_ok=True)
        watch.say()
        return result

    def _load(self, ensemble: Ensemble, observer: Observer | None, path: Path) -> tuple[float, By]:
        """Load a saved state if there is one; the seconds that went into it, and what it was made by."""
        state = self.read_state(path)
        if state is None:
            return 0.0, By()
        try:
            seconds = float(state["seconds"])
            by = By.of(state)
            ensemble.load_state_dict(state["ensemble"])
            if observer is not None:
                observer.load_state_dict(state["observer"])
        except CheckpointError:
            raise
        except Exception as error:  # of a file that is damaged, or of another ensemble, half a dozen types are raised
            raise damaged(path, error) from None
        return seconds, by

    def write_state(self, path: Path, state: dict[str, Any]) -> None:
        """Keep tensors and plain values of the part that the file is named after, and what they are of.

        Raises:
            RunError: the file cannot be written.
        """
        write_state(path, state | {"of": self._of(path.stem)})

    def read_state(self, path: Path) -> dict[str, Any] | None:
        """What `write_state` wrote; None if there is none.

        Raises:
            CheckpointError: the file is damaged, or of another part or folder.
        """
        state = read_state(path)
        if state is not None and (why := self._why_not_ours(path.stem, state.pop("of", None))):
            raise CheckpointError(f"{path} is no state of this folder: {why}; delete it to start this part again")
        return state


_OWN = ("settings", "data")


def fingerprint(*parts: Tensor | Pixels | None) -> str:
    """SHA-256 of shapes, types and values, in order; of images as `data.fingerprints` has it, hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            values = part.detach().cpu().contiguous()
            found.update(f"{values.dtype} {tuple(values.shape)}".encode())
            found.update(values.numpy().data)
        else:
            found.update(b"none" if part is None else _of_images(part).encode())
    return found.hexdigest()


def _of_images(pixels: Pixels) -> str:
    return WholeFingerprints().of(pixels) or pixels_fingerprint(pixels)


def damaged(path: Path, error: Exception) -> CheckpointError:
    """What a file that cannot be read as a state is answered with."""
    reason = one_line(error, 120)
    return CheckpointError(f"{path} is damaged ({reason}); delete it to start this part again")


def _read(path: Path) -> tuple[Result, bool]:
    """What was written, and whether a checksum vouches for it; raises `RunError` if it is something else."""
    return json_record(path.read_bytes(), path)


class _Watch:
    """Progress, saves and the end of a piece, after every step of one ensemble."""

    def __init__(
        self,
        session: Session,
        label: str,
        ensemble: Ensemble,
        steps: int,
        path: Path,
        before: float,
        observer: Observer | None,
        by: By,
    ) -> None:
        self.by = by
        self.session, self.label, self.ensemble, self.steps, self.path = session, label, ensemble, steps, path
        self.before, self.observer = before, observer
        self.first = ensemble.step_count
        self.started = self.saved = self.said = session.clock()

    @property
    def seconds(self) -> float:
        return self.before + self.session.clock() - self.started

    def go_on(self) -> bool:
        if self.observer is not None:
            self.observer(self.ensemble)
        now = self.session.clock()
        if now - self.said >= self.session.say_seconds:
            self.said = now
            self.say()
        if now - self.saved >= self.session.save_seconds:
            self.save()
            self.saved = now
        return not self.session.out_of_time

    def say(self) -> None:
        done = self.ensemble.step_count - self.first
        speed = done / max(self.session.clock() - self.started, 1e-9)
        left = (self.steps - self.ensemble.step_count) / speed if speed else float("inf")
        self.session.console.print(
            f"{self.label}: step {self.ensemble.step_count}/{self.steps}, {len(self.ensemble.alive)} alive, "
            f"{len(self.ensemble.failures)} failed, {speed:.2f} steps/s, {left:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )

    def save(self) -> None:
        observed = self.observer.state_dict() if self.observer is not None else {}
        state = {"seconds": self.seconds, **self.by.state()}
        self.session.write_state(self.path, state | {"ensemble": self.ensemble.state_dict(), "observer": observed})


def read_state(path: Path) -> dict[str, Any] | None:
    """What `write_state` wrote, on the CPU; None if there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        require_bounded(path, str(path))
        loaded = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(loaded, dict):
            raise CheckpointError(
                f"{path} is no state of this version, but {shown(loaded)}; name another --out, or delete the folder to "
                "begin anew"
            )
        state: dict[str, Any] = checked(loaded, dict[str, Any], str(path), CheckpointError)
    except CheckpointError:
        raise
    except Exception as error:  # of a file that is damaged half a dozen types are raised
        raise damaged(path, error) from None
    return state


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Tensors and plain values, in one move: a command that is killed meanwhile leaves the state before."""
    with replaced(path) as partial:
        torch.save(state, partial)


def _differences(old: Result, new: Result) -> str:
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return ", ".join(f"{key}: {old.get(key)} there, {new.get(key)} asked for" for key in keys[:3])
