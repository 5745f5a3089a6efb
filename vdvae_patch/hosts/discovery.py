"""Which hosts there are: the files of `patches/`, entry points of installed packages, and files the user names."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from vdvae_patch.errors import HostError, UnknownNameError
from vdvae_patch.hosts.entry import HostEntry

ATTRIBUTE = "HOST"


class HostRegistry:
    """Entries by name.

    Args:
        package: every module of it that defines `HOST` is an entry. One whose name begins with an underscore is left
            for an entry to import: it may need torch, or the host, which a list of names must not wait for.
        group: the entry point group under which an installed package adds its own: the instance, its class, or a
            module that defines `HOST`. A host that states no name is called what its entry point is called.
    """

    def __init__(self, package: str, group: str) -> None:
        self.package = package
        self.group = group
        self._entries: dict[str, HostEntry] = {}
        self._sources: dict[str, str] = {}
        self._package_read = False
        self._entry_points_read = False

    def names(self) -> list[str]:
        """All names, in alphabetical order."""
        self._read_package()
        self._read_entry_points()
        return sorted(self._entries)

    def get(self, name: str) -> HostEntry:
        """The entry of that name; raises `UnknownNameError` with the nearest one."""
        self._read_package()
        if name not in self._entries:
            self._read_entry_points()
        if name not in self._entries:
            raise UnknownNameError("host", name, self._entries)
        return self._entries[name]

    def add(self, entry: Any, source: str) -> HostEntry:
        """Add an entry; `source` says where it is from, and adding from the same source again replaces it.

        Raises:
            HostError: it is no `HostEntry`, lacks an attribute, or has the name of an entry from elsewhere.
        """
        if not isinstance(entry, HostEntry):
            raise HostError(f"{source}: {ATTRIBUTE} must be an instance of a HostEntry subclass, not {entry!r}")
        missing = [name for name in ("name", "modules") if not getattr(entry, name, None)]
        if missing:
            raise HostError(f"{source}: {type(entry).__name__} must set {' and '.join(missing)}")
        if not entry.name.isidentifier():
            raise HostError(f"{source}: name {entry.name!r} must be letters, digits and underscores")
        if isinstance(entry.modules, str):
            raise HostError(f"{source}: modules must be a tuple of names, not the text {entry.modules!r}")
        other = self._sources.get(entry.name, source)
        if other != source:
            raise HostError(f"{source}: host {entry.name!r} is defined by {other} already; give it another name")
        self._entries[entry.name] = entry
        self._sources[entry.name] = source
        return entry

    def _read_package(self) -> None:
        if self._package_read:
            return
        package = importlib.import_module(self.package)
        for found in pkgutil.iter_modules(package.__path__, f"{self.package}."):
            if found.name.rpartition(".")[2].startswith("_"):
                continue
            module = importlib.import_module(found.name)
            if hasattr(module, ATTRIBUTE):
                self.add(getattr(module, ATTRIBUTE), found.name)
        self._package_read = True

    def _read_entry_points(self) -> None:
        if self._entry_points_read:
            return
        for point in entry_points(group=self.group):
            source = f"entry point {point.name} = {point.value} of {self.group}"
            entry = self.add(_loaded(point.load, source, point.name), source)
            entry.file = _file_of(entry)
        self._entry_points_read = True


def _loaded(load: Callable[[], Any], source: str, name: str) -> Any:
    try:
        entry = load()
        if isinstance(entry, ModuleType):
            entry = getattr(entry, ATTRIBUTE)
        if isinstance(entry, type) and issubclass(entry, HostEntry):
            entry = entry()
    except Exception as error:  # whatever a user's module raises while it is imported
        said = error if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise HostError(f"{source} cannot be loaded: {said}") from error
    if isinstance(entry, HostEntry) and not getattr(entry, "name", None):
        entry.name = name
    return entry


def _file_of(entry: HostEntry) -> Path | None:
    """The file that an entry of an installed package is defined in."""
    file = getattr(sys.modules.get(type(entry).__module__), "__file__", None)
    return None if file is None else Path(file).resolve()


HOSTS = HostRegistry("vdvae_patch.patches", "vdvae_patch.hosts")


def load_entry_file(path: Path | str, registry: HostRegistry = HOSTS) -> HostEntry:
    """Import a user's own patch file, which defines `HOST`, and add its entry to the known hosts.

    Loading the same file again gives the same entry; after an edit, the new one. `load_host` finds the modules of the
    host beside the file, unless the entry says where else they are.

    Raises:
        HostError: no such file, it fails while it is imported, it defines no `HOST`, or its name is taken.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise HostError(f"patch file {str(path)!r} does not exist")
    source = file.read_bytes()
    # In sys.modules under a name of its own: pickling and torch.compile look functions up by their module.
    name = f"vdvae_patch_entry_{hashlib.sha256(str(file).encode() + source).hexdigest()[:12]}"
    module = sys.modules.get(name)
    if module is None:
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise HostError(f"patch file {file} is not a Python file (.py)")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever a user's file raises while it runs, they need to know which file it was
            del sys.modules[name]
            raise HostError(f"patch file {file} failed: {type(error).__name__}: {error}") from error
    if not hasattr(module, ATTRIBUTE):
        raise HostError(f"patch file {file} defines no {ATTRIBUTE}; end it with: {ATTRIBUTE} = YourHost()")
    entry = registry.add(getattr(module, ATTRIBUTE), str(file))
    entry.file = file
    return entry
