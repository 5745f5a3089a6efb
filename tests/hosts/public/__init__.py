"""Models of public code that nobody here has written, each with its true heads beside it.

A case names the repository and the commit, or the package and the version, that its code is of. None of that code is
kept here: a repository is imported from a checkout in the folder that `VDVAE_PATCH_PUBLIC` names, in isolation; a
package from where it is installed. What a machine lacks is skipped, and said.

The third look's models (`third_images`, `third_sequences`) are the exception: they stand here, in our own words, with
the structure, names and conventions of the code that each of them names (`Retold`), so that they run on every
machine. What they show of public code is less than the code itself would.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from zoo import TrueHead

from vdvae_patch.errors import HostError
from vdvae_patch.hosts.isolate import Checkout, import_isolated
from vdvae_patch.hosts.stand_ins import unused
from vdvae_patch.scanning import ScanResult, scan

FOLDER = "VDVAE_PATCH_PUBLIC"


class NotHereError(Exception):
    """The machine has no such checkout or package; says what to do."""


def without(**attributes: str) -> dict[str, ModuleType]:
    """Stand-ins for modules that the code imports and its models never use: dotted names, a dot written as `__`, and
    the names that are imported from each, as in `without(torchvision="", torchvision__models="vgg19_bn resnet18")`."""
    made = {
        name.replace("__", "."): unused(name.replace("__", "."), *names.split()) for name, names in attributes.items()
    }
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        if parent in made:
            setattr(made[parent], child, module)
    return made


@dataclass(frozen=True)
class Repository:
    """A public git repository at one commit, checked out as `$VDVAE_PATCH_PUBLIC/<owner>+<name>`.

    Attributes:
        name: `owner/name`.
        commit: the full commit that the truth was written for.
        root: folder inside it that its scripts are started in.
        stand_ins: modules that its code imports and its models do not need.
    """

    name: str
    commit: str
    root: str = ""
    stand_ins: Mapping[str, ModuleType] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"{self.name}@{self.commit[:7]}"

    def load(self, *modules: str) -> list[ModuleType]:
        """Its modules by their bare names, in that order."""
        folder = Path(os.environ.get(FOLDER, "")) / self.name.replace("/", "+")
        if FOLDER not in os.environ or not folder.is_dir():
            raise NotHereError(f"no checkout {folder}; set {FOLDER} and check {self.name} out there")
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        if head.stdout.strip() != self.commit:
            raise NotHereError(f"{folder} is at {head.stdout.strip()[:12]}; git checkout {self.commit}")
        label = re.sub(r"\W", "_", folder.name.partition("+")[2].lower())
        checkout = Checkout(folder / self.root, label, {}, False, self.stand_ins)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                loaded = import_isolated(checkout, modules)
            except HostError as error:
                if isinstance(error.__cause__, ModuleNotFoundError):
                    raise NotHereError(str(error)) from None
                raise
        return [loaded[name] for name in modules]


@dataclass(frozen=True)
class Package:
    """An installed package, by its name in the package index, at the version that the truth was written for."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def load(self, *modules: str) -> list[ModuleType]:
        """Its modules, in that order."""
        try:
            version = importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            raise NotHereError(f"{self.name} is not installed; pip install {self.name}=={self.version}") from None
        if version != self.version:
            raise NotHereError(f"{self.name} is {version}; pip install {self.name}=={self.version}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [importlib.import_module(name) for name in modules]


@dataclass(frozen=True)
class Retold:
    """The public code whose structure a model in our own words has, and which was read for its truth.

    Attributes:
        name: `owner/name`.
        commit: the full commit that was read.
        file: the file, or files, that the model and its loss stand in there.
    """

    name: str
    commit: str
    file: str

    def __str__(self) -> str:
        return f"{self.name}@{self.commit[:7]}"


@dataclass(frozen=True)
class PublicCase:
    """A model of public code: how it is built and called, and what is to be found.

    Attributes:
        name: the model's name, as its authors call it.
        source: where its code is; of a `Retold` one, the code that it is like.
        build: makes a small one; called after a seed was set.
        inputs: what it is called with, the same every time.
        heads: the true heads, from reading the code.
        call: `call(model, *inputs)`, the loss that its training takes; the model's forward if left out.
        truth: where the code says so: file and line of each head's σ, and what was hard to decide.
    """

    name: str
    source: Repository | Package | Retold
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    heads: tuple[TrueHead, ...]
    call: Callable[..., Any] | None = None
    truth: str = ""

    def made(self) -> nn.Module:
        """The model from seed 0."""
        torch.manual_seed(0)
        return self.build()

    def scanned(self) -> tuple[nn.Module, ScanResult]:
        """The model from seed 0, and its scan from seed 3."""
        model = self.made()
        inputs = self.inputs()
        torch.manual_seed(3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model, scan(model, *inputs, call=self.call)


FIELDS = (
    "images",
    "sequences",
    "packages",
    "second_images",
    "second_sequences",
    "third_images",
    "third_sequences",
    "third_originals",
    "fourth_sequences",
    "fourth_images",
    "fifth_images",
    "fifth_sequences",
    "sixth_images",
    "sixth_sequences",
    "seventh_images",
    "seventh_sequences",
    "eighth_images",
    "eighth_sequences",
    "ninth_images",
    "ninth_sequences",
    "tenth_images",
    "tenth_sequences",
    "eleventh_images",
    "eleventh_sequences",
)


def all_cases() -> Iterator[tuple[str, PublicCase]]:
    """Every case, with the file that it stands in."""
    for field_of in FIELDS:
        for case in importlib.import_module(f"public.{field_of}").CASES:
            yield field_of, case
