"""A host that was imported, and where it came from."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.hosts.entry import HostEntry

if TYPE_CHECKING:
    from torch import nn

    from vdvae_patch.heads import Head
    from vdvae_patch.seams import DecoderSeam, TopPriorSeam

OriginKind = Literal["embedded", "genuine", "checkout", "installed"]
"""`embedded`: kept with this project; `genuine`: fetched by it; `checkout`: a folder of the user's; `installed`: a
package that pip installed, whose version stands for the commit."""


@dataclass(frozen=True)
class Origin:
    """Which code a host is, for a run's record.

    Attributes:
        kind: where it came from.
        path: the folder it was imported from.
        commit: the commit of a genuine code base or a checkout; None if it cannot be told.
        verified: every imported file is as the manifest pins it, or belongs to this project.
        modified: what was not as pinned and was used all the same, one phrase a difference.
    """

    kind: OriginKind
    path: Path
    commit: str | None
    verified: bool
    modified: tuple[str, ...] = ()

    def record(self) -> dict[str, str | bool | list[str]]:
        """For TOML or JSON; an unknown commit is left out."""
        record: dict[str, str | bool | list[str]] = {
            "kind": self.kind,
            "path": str(self.path),
            "verified": self.verified,
            "modified": list(self.modified),
        }
        return record if self.commit is None else {**record, "commit": self.commit}

    def __str__(self) -> str:
        commit = f" at {self.commit[:12]}" if self.commit else ""
        modified = f", modified: {'; '.join(self.modified)}" if self.modified else ", not verified"
        state = "" if self.verified else modified
        return f"{self.kind} {self.path}{commit}{state}"


@dataclass(frozen=True)
class Host:
    """An imported host: its entry in `patches/`, its modules by the names that it calls them, and its origin."""

    name: str
    entry: HostEntry
    modules: Mapping[str, ModuleType]
    origin: Origin

    @cached_property
    def sources(self) -> str:
        """The beginning of a SHA-256 of the files of its entry and its modules, and of what these import from beside.

        A commit says nothing of a patch file of the user's, nor of a checkout that has changes.
        """
        own = {Path(file) for module in self.modules.values() if (file := getattr(module, "__file__", None))}
        imported = [Path(file) for module in [*sys.modules.values()] if (file := getattr(module, "__file__", None))]
        entry = getattr(sys.modules.get(type(self.entry).__module__), "__file__", None)
        beside = {file.parent for file in own if file.parent.name != "site-packages"}
        files = own | {file for file in imported if file.parent in beside}
        files |= set() if entry is None else {Path(entry)}
        digest = hashlib.sha256()
        for file in sorted(files, key=lambda file: (file.name, str(file))):
            with contextlib.suppress(OSError):  # of a package in an archive
                digest.update(f"{file.name}\0".encode() + file.read_bytes())
        return digest.hexdigest()[:12]

    def build(self, hparams: Mapping[str, Any]) -> nn.Module:
        """A freshly initialized model.

        Raises:
            InvalidValueError: the host refuses the hyperparameters, such as layers that do not fit the image.
        """
        from vdvae_patch import seams

        try:
            model = self.entry.build(self.modules, hparams)
        except ValueError as error:
            raise InvalidValueError(f"host {self.name!r} refuses these hyperparameters: {error}") from error
        with contextlib.suppress(TypeError):  # of an entry that gives something else than a module
            seams.remember(model, self.entry)
        return model

    def heads(self, model: nn.Module) -> list[Head]:
        """The Normal heads of a model that `build` made."""
        # an entry of the user's may give something of its own, which `patch` refuses and not this
        return [replace(h, host=self.name) if is_dataclass(h) else h for h in self.entry.heads(model)]

    def decoder_seam(self, model: nn.Module) -> DecoderSeam:
        """Where the likelihood of a model that `build` made is computed.

        Raises:
            HostError: there is no such place, and why.
        """
        return self.entry.decoder_seam(model)

    def top_prior_seam(self, model: nn.Module) -> TopPriorSeam:
        """Where the prior of the top latent of a model that `build` made is read.

        Raises:
            HostError: there is no such place, and why.
        """
        return self.entry.top_prior_seam(model)
