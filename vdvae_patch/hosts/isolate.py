"""Import a folder of flat scripts as one package of its own, so that its `utils` is nobody else's `utils`.

A checkout becomes the package `vdvae_patch_hosts.<label>_<hash of its path and files>`. Its modules are ordinary ones
with a unique name: pickling, `inspect`, TorchScript and `torch.compile` find them through `sys.modules`, and two
checkouts, or two states of one, live side by side. The bytes that are executed are the bytes that were hashed, and
nothing is written into the checkout.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import linecache
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.abc import Loader, MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, ModuleType

from vdvae_patch.errors import HostError
from vdvae_patch.hosts.redirect import compile_redirected

ROOT = "vdvae_patch_hosts"


@dataclass(frozen=True)
class Checkout:
    """A folder that modules are imported from.

    Attributes:
        root: the folder that the scripts would be started in.
        label: readable start of the package's name.
        digests: SHA-256 of files by their path from `root`; such a file is refused if its bytes are others.
        closed: whether `digests` names all that may be imported; else other files of the folder may be, unverified.
        stand_ins: modules that its code finds under these names instead of installed ones.
    """

    root: Path
    label: str
    digests: Mapping[str, str]
    closed: bool
    stand_ins: Mapping[str, ModuleType] = field(default_factory=dict, compare=False)

    @cached_property
    def prefix(self) -> str:
        """The name of the package; the same for the same folder with the same files, in every process."""
        identity = "\n".join([str(self.root), str(self.closed), *(f"{k}={v}" for k, v in sorted(self.digests.items()))])
        return f"{ROOT}.{self.label}_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

    @cached_property
    def own_names(self) -> frozenset[str]:
        """The top-level module names that mean a file of this folder, as they would for a script started in it."""
        names = {path.partition("/")[0].removesuffix(".py") for path in self.digests} | set(self.stand_ins)
        for entry in self.root.iterdir():
            is_module = entry.suffix == ".py" or (entry / "__init__.py").is_file()
            if is_module or (entry.is_dir() and entry.name.isidentifier() and not _installed(entry.name)):
                names.add(entry.stem)
        return frozenset(name for name in names if name.isidentifier())

    def locate(self, dotted: str) -> _Source | _Folder | None:
        """The file behind a module's name, as Python would choose it; `ImportError` if it may not be imported."""
        base = dotted.replace(".", "/")
        for path, is_package in ((f"{base}/__init__.py", True), (f"{base}.py", False)):
            if (self.root / path).is_file():
                if self.closed and path not in self.digests:
                    raise ImportError(f"{self.root / path} is not among the pinned files", name=dotted)
                return _Source(path, is_package)
        return _Folder() if (self.root / base).is_dir() else None


@dataclass(frozen=True)
class _Source:
    path: str
    is_package: bool


class _Folder:
    """A folder without `__init__.py`."""


def import_isolated(checkout: Checkout, modules: Iterable[str]) -> dict[str, ModuleType]:
    """Import modules of a checkout by their bare dotted names; importing the same state again gives the same modules.

    Raises:
        HostError: a module is missing, may not be imported, was changed since it was hashed, fails while it is
            imported, or imports another one in a way that escapes. No module of the checkout is left in `sys.modules`
            that was not there before.
    """
    before = frozenset(sys.modules)
    known = checkout.prefix in _FINDER.checkouts
    _FINDER.install(checkout)
    imported = False
    try:
        for name, module in checkout.stand_ins.items():
            sys.modules.setdefault(f"{checkout.prefix}.{name}", module)
        loaded = {name: _import_one(checkout, name) for name in modules}
        imported = True
    finally:
        escaped = _escaped(checkout, before)
        for name in escaped:
            _forget(name, before)
        if escaped or not imported:
            _forget(checkout.prefix, before)
            if not known:
                del _FINDER.checkouts[checkout.prefix]
    if escaped:
        names = ", ".join(map(repr, escaped))
        raise HostError(f"{checkout.root} imports its own {names} by a computed name, which cannot be isolated")
    return loaded


def _import_one(checkout: Checkout, name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{checkout.prefix}.{name}")
    except HostError:
        raise
    except Exception as error:  # foreign code can raise anything while it runs; say which module it was
        reason = str(error).replace(f"{checkout.prefix}.", "")
        if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith(checkout.prefix):
            reason += f"; install the package that {error.name.partition('.')[0]!r} is in"
        raise HostError(f"importing {name!r} of {checkout.root} failed: {type(error).__name__}: {reason}") from error


def _escaped(checkout: Checkout, before: frozenset[str]) -> list[str]:
    """Own modules that came in by bare name: a computed name is not redirected, and the folder may be on `sys.path`."""
    found = []
    for name in sorted(set(sys.modules) - before):
        file = getattr(sys.modules[name], "__file__", None)
        own = name.partition(".")[0] in checkout.own_names
        if own and file and Path(file).resolve().is_relative_to(checkout.root):
            found.append(name)
    return found


def _forget(top: str, before: frozenset[str]) -> None:
    """Take the modules that were imported since `before` out again: `top`, and all below it."""
    for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
        if name not in before:
            module = sys.modules.pop(name)
            parent, _, child = name.rpartition(".")
            if parent in sys.modules and vars(sys.modules[parent]).get(child) is module:
                delattr(sys.modules[parent], child)


def _installed(name: str) -> bool:
    """Whether a regular package or module of that name is installed: it wins over a folder without `__init__.py`."""
    spec = PathFinder.find_spec(name)
    return name in sys.builtin_module_names or (spec is not None and spec.origin is not None)


class _Finder(MetaPathFinder):
    """Serves everything below `ROOT`, and nothing else."""

    def __init__(self) -> None:
        self.checkouts: dict[str, Checkout] = {}

    def install(self, checkout: Checkout) -> None:
        self.checkouts.setdefault(checkout.prefix, checkout)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == ROOT or fullname in self.checkouts:
            return ModuleSpec(fullname, _EmptyPackage(), is_package=True)
        for prefix, checkout in self.checkouts.items():
            if fullname.startswith(f"{prefix}."):
                return self._spec_of(fullname, checkout, checkout.locate(fullname.removeprefix(f"{prefix}.")))
        return None

    @staticmethod
    def _spec_of(fullname: str, checkout: Checkout, found: _Source | _Folder | None) -> ModuleSpec | None:
        if isinstance(found, _Folder):
            return ModuleSpec(fullname, _EmptyPackage(), is_package=True)
        if found is None:
            return None
        file = str(checkout.root / found.path)
        # A package's search path stays empty: with the folder on it, Python's own finder would serve unverified files.
        spec = ModuleSpec(fullname, _VerifyingLoader(checkout, found.path), origin=file, is_package=found.is_package)
        spec.has_location = True
        return spec


class _EmptyPackage(Loader):
    """The package that modules hang in, where there is no file for it."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        return None


class _VerifyingLoader(SourceLoader):
    """Reads a file once, compares its SHA-256, and compiles those very bytes; there is no byte code on disk."""

    def __init__(self, checkout: Checkout, path: str) -> None:
        self.checkout = checkout
        self.path = path

    def get_filename(self, fullname: str) -> str:
        return str(self.checkout.root / self.path)

    def get_data(self, path: str | bytes) -> bytes:
        data = Path(path if isinstance(path, str) else path.decode()).read_bytes()
        expected = self.checkout.digests.get(self.path)
        seen = hashlib.sha256(data).hexdigest()
        if expected is not None and seen != expected:
            raise HostError(f"{self.get_filename('')} was changed: SHA-256 {seen[:16]}, expected {expected[:16]}")
        return data

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        data = self.get_data(path)
        code = compile_redirected(data, path, self.checkout.own_names, self.checkout.prefix)
        # TorchScript compiles what `inspect` reads: give it the verified text, also if the file changes later.
        lines = importlib.util.decode_source(data).splitlines(keepends=True)
        linecache.cache[path] = (len(data), None, lines, path)
        return code


_FINDER = _Finder()
