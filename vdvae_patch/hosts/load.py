"""From a name to an imported host: the embedded one, the fetched genuine one, or a checkout of the user's."""

from __future__ import annotations

import contextlib
import importlib
import os
from importlib import metadata
from pathlib import Path
from types import ModuleType

from vdvae_patch.errors import HostError
from vdvae_patch.hosts.discovery import HOSTS
from vdvae_patch.hosts.entry import HostEntry
from vdvae_patch.hosts.fetch import cached_path, verify_cached
from vdvae_patch.hosts.host import Host, Origin, OriginKind
from vdvae_patch.hosts.isolate import Checkout, import_isolated
from vdvae_patch.hosts.manifest import Upstream, import_root, upstreams
from vdvae_patch.hosts.pinned import Verification, existing_folder, file_digest, head_commit, inspect_checkout, verify


def load_host(name: str, upstream: Path | str | None = None, *, allow_modified: bool = False) -> Host:
    """Import a host.

    Args:
        name: a name of `HOSTS`.
        upstream: None is the embedded host or the installed package; where there is neither, the fetched one of a
            host that the manifest has, and else the modules beside the file of the user's entry. `"embedded"` and
            `"genuine"` ask for one of the two; anything else is the folder of a checkout.
        allow_modified: use a checkout that is at another commit, or has changed files, as it is; the differences are
            in `Host.origin`. Without it, only files that the manifest pins are imported.

    Raises:
        UnknownNameError: no such host.
        HostError: there is nothing there, it is not what the manifest pins, or its import fails.
    """
    return load_entry(HOSTS.get(name), upstreams().get(name), upstream, allow_modified=allow_modified)


def load_entry(
    entry: HostEntry,
    pin: Upstream | None,
    upstream: Path | str | None = None,
    *,
    allow_modified: bool = False,
    cache: Path | None = None,
) -> Host:
    """`load_host` for an entry and a pin at hand; a checkout of a host that nothing pins is imported unverified."""
    if upstream is None and entry.installed:
        return _load_installed(entry)
    if upstream is None and entry.file is not None and pin is None and not entry.embedded:
        return _load_unpinned(entry, _folder_beside(entry, entry.file))
    if upstream is None:
        upstream = "embedded" if entry.embedded else "genuine"
    if upstream == "embedded":
        return _load_embedded(entry)
    if upstream == "genuine":
        if pin is None:
            raise HostError(f"host {entry.name!r} is not in the manifest; give a checkout with --upstream PATH")
        folder = cached_path(pin, cache)
        as_it_is = allow_modified and folder.is_dir()
        found = inspect_checkout(folder, pin) if as_it_is else verify_cached(pin, cache)
        return _load_pinned(entry, pin, found, "genuine")
    if pin is None:
        return _load_unpinned(entry, existing_folder(upstream))
    found = inspect_checkout(upstream, pin) if allow_modified else verify(upstream, pin)
    return _load_pinned(entry, pin, found, "checkout")


def _load_embedded(entry: HostEntry) -> Host:
    if entry.embedded is None:
        raise HostError(f"host {entry.name!r} has no embedded code; give a checkout you have with --upstream PATH")
    try:
        package = importlib.import_module(entry.embedded)
        modules = {name: importlib.import_module(f"{entry.embedded}.{name}") for name in entry.modules}
    except Exception as error:  # whatever a user's package raises while it is imported
        raise HostError(f"host {entry.name!r}: embedded {entry.embedded} cannot be imported: {_said(error)}") from error
    path = Path(os.path.commonpath(package.__path__))
    return Host(entry.name, entry, modules, Origin("embedded", path, None, verified=True))


def _load_installed(entry: HostEntry) -> Host:
    try:
        modules = {name: importlib.import_module(name) for name in entry.modules}
    except ModuleNotFoundError as error:
        ours = any(base.__module__.startswith(f"{HOSTS.package}.") for base in type(entry).__mro__)
        remedy = "pip install 'vdvae-patch[hosts]'" if ours else "install it, or put its folder on PYTHONPATH"
        raise HostError(f"host {entry.name!r} is not installed ({error}); {remedy}") from error
    except Exception as error:  # whatever a user's module raises while it is imported
        raise HostError(f"host {entry.name!r} cannot be imported: {_said(error)}") from error
    path = _folder_of(next(iter(modules.values())))
    version = _version_of(entry.modules[0].partition(".")[0])
    if version is not None:
        return Host(entry.name, entry, modules, Origin("installed", path, version, verified=False))
    commit = head_commit(path) if (path / ".git").exists() else None
    return Host(entry.name, entry, modules, Origin("checkout", path, commit, verified=False))


def _folder_of(module: ModuleType) -> Path:
    """Where a module lies: a package, or a single file."""
    if hasattr(module, "__path__"):
        return Path(os.path.commonpath(module.__path__))
    return Path(str(module.__file__)).resolve().parent


def _version_of(package: str) -> str | None:
    """The version of what pip installed under a name to import, or None if it installed nothing of that name."""
    for name in (package, *metadata.packages_distributions().get(package, ())):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None


def _folder_beside(entry: HostEntry, file: Path) -> Path:
    for name in entry.modules:
        base = file.parent / name.replace(".", "/")
        if not (base.is_dir() or base.with_name(f"{base.name}.py").is_file()):
            raise HostError(
                f"host {entry.name!r} is not in the manifest; give a checkout with --upstream PATH, or put "
                f"{base.name}.py into {base.parent}, where {file.name} looks for it"
            )
    return file.parent


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"


def _load_pinned(entry: HostEntry, pin: Upstream, verification: Verification, kind: OriginKind) -> Host:
    pinned = pin.importable()
    if not verification.verified:
        # The files as they were seen: what the record says was used is what is executed.
        prefix = f"{pin.root}/" if pin.root else ""
        pinned = {path: seen for path in pinned if (seen := verification.digests.get(prefix + path)) is not None}
    commit = verification.commit or (pin.commit if verification.verified else None)
    root = import_root(verification.path, pin)
    checkout = Checkout(root, _label(entry, commit), pinned, verification.verified, entry.stand_ins(root))
    modified = tuple(map(str, verification.differences))
    origin = Origin(kind, verification.path, commit, verification.verified, modified)
    return _imported(entry, checkout, origin)


def _load_unpinned(entry: HostEntry, folder: Path) -> Host:
    files = (f"{name.replace('.', '/')}.py" for name in entry.modules)
    digests = {file: digest for file in files if (digest := file_digest(folder / file)) is not None}
    commit = head_commit(folder) if (folder / ".git").exists() else None
    checkout = Checkout(folder, _label(entry, commit), digests, False, entry.stand_ins(folder))
    return _imported(entry, checkout, Origin("checkout", folder, commit, verified=False))


def _imported(entry: HostEntry, checkout: Checkout, origin: Origin) -> Host:
    modules = import_isolated(checkout, entry.modules)
    entry.adapt(modules)
    return Host(entry.name, entry, modules, origin)


def _label(entry: HostEntry, commit: str | None) -> str:
    return f"{entry.name}_{commit[:8]}" if commit else entry.name
