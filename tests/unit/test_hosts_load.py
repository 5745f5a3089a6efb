"""A host is loaded by name: embedded, fetched, or from a checkout of the user's, and its origin goes on record."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import git
import pytest
import tomli_w

from vdvae_patch.errors import HostError, UnknownNameError
from vdvae_patch.hosts import HOSTS, HostEntry, HostRegistry, Upstream, load_entry, load_entry_file, load_host
from vdvae_patch.hosts.fetch import cached_path, fetch

VAE = "import utils\nclass VAE:\n    def __init__(self, width): self.width = utils.twice(width)\n"
UTILS = "def twice(x): return 2 * x\n"
ENTRY = """\
    from vdvae_patch.hosts import HostEntry

    class Toy(HostEntry):
        name = "toy"
        modules = ("vae", "utils")
        embedded = None

        def build(self, modules, hparams):
            return modules["vae"].VAE(**hparams)

        def heads(self, model):
            return [model.width]

    HOST = Toy()
    """


def write_entry(folder: Path, text: str = ENTRY, name: str = "my_host.py") -> Path:
    (folder / name).write_text(textwrap.dedent(text))
    return folder / name


@pytest.fixture
def registry() -> HostRegistry:
    return HostRegistry("vdvae_patch.patches", "vdvae_patch.hosts")


@pytest.fixture
def entry(tmp_path: Path, registry: HostRegistry) -> HostEntry:
    return load_entry_file(write_entry(tmp_path), registry)


@pytest.fixture
def remote(tmp_path: Path) -> Upstream:
    path = tmp_path / "remote"
    with git.Repo.init(path) as repository:
        for name, text in (("vae.py", VAE), ("utils.py", UTILS), ("extra.py", "VALUE = 1\n")):
            (path / name).write_text(text)
        repository.index.add(["vae.py", "utils.py", "extra.py"])
        author = git.Actor("Somebody", "somebody@example.org")
        commit = repository.index.commit("Start", author=author, committer=author).hexsha
    files = {n: hashlib.sha256(t.encode()).hexdigest() for n, t in (("vae.py", VAE), ("utils.py", UTILS))}
    return Upstream("toy", path.as_uri(), commit, "MIT", files)


@pytest.fixture
def checkout(remote: Upstream) -> Path:
    return Path(remote.url.removeprefix("file://"))


def test_a_verified_checkout_is_built_and_its_origin_is_on_record(
    entry: HostEntry, remote: Upstream, checkout: Path
) -> None:
    host = load_entry(entry, remote, checkout)
    model = host.build({"width": 4})
    assert host.heads(model) == [8]
    assert host.name == "toy"
    assert set(host.modules) == {"vae", "utils"}
    assert host.origin.record() == {
        "kind": "checkout",
        "path": str(checkout.resolve()),
        "commit": remote.commit,
        "verified": True,
        "modified": [],
    }
    assert "vae" not in sys.modules


def test_a_modified_checkout_is_refused_unless_asked_for(entry: HostEntry, remote: Upstream, checkout: Path) -> None:
    (checkout / "utils.py").write_text("import extra\ndef twice(x): return 20 * x + extra.VALUE\n")
    with pytest.raises(HostError, match=r"utils\.py has SHA-256 .* --allow-modified-upstream \(allow_modified=True\)"):
        load_entry(entry, remote, checkout)

    host = load_entry(entry, remote, checkout, allow_modified=True)
    assert host.heads(host.build({"width": 1})) == [21]
    assert not host.origin.verified
    assert len(host.origin.modified) == 1
    assert "utils.py has SHA-256" in host.origin.modified[0]
    assert "utils.py has SHA-256" in str(host.origin)


def test_another_commit_is_used_as_it_is_when_asked_for(entry: HostEntry, remote: Upstream, checkout: Path) -> None:
    pin = replace(remote, commit="e" * 40)
    with pytest.raises(HostError, match=f"it is at commit {remote.commit}, expected {'e' * 40}"):
        load_entry(entry, pin, checkout)
    origin = load_entry(entry, pin, checkout, allow_modified=True).origin
    assert origin.commit == remote.commit
    assert not origin.verified


def test_an_unmodified_checkout_stays_verified_when_modified_ones_are_allowed(
    entry: HostEntry, remote: Upstream, checkout: Path
) -> None:
    host = load_entry(entry, remote, checkout, allow_modified=True)
    assert host.origin.verified
    assert host.modules["vae"] is load_entry(entry, remote, checkout).modules["vae"]


def test_the_fetched_one_is_loaded_where_none_is_embedded(entry: HostEntry, remote: Upstream, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="'toy' was not fetched; run: python -m vdvae_patch upstream fetch toy"):
        load_entry(entry, remote, cache=tmp_path)
    fetch(remote, tmp_path)
    for upstream in (None, "genuine"):
        host = load_entry(entry, remote, upstream, cache=tmp_path)
        assert host.origin.kind == "genuine"
        assert host.origin.path == cached_path(remote, tmp_path).resolve()


def test_a_fetched_one_that_was_changed_is_refused_unless_asked_for(
    entry: HostEntry, remote: Upstream, tmp_path: Path
) -> None:
    (fetch(remote, tmp_path).path / "utils.py").write_text("def twice(x): return 0\n")
    with pytest.raises(HostError, match=r"utils\.py has SHA-256"):
        load_entry(entry, remote, "genuine", cache=tmp_path)
    assert not load_entry(entry, remote, "genuine", cache=tmp_path, allow_modified=True).origin.verified


def test_a_pinned_host_whose_scripts_start_in_a_subfolder(entry: HostEntry, tmp_path: Path) -> None:
    for name, text in (("vae.py", VAE), ("utils.py", UTILS)):
        (tmp_path / "top" / "src").mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / "src" / name).write_text(text)
    files = {f"src/{n}": hashlib.sha256(t.encode()).hexdigest() for n, t in (("vae.py", VAE), ("utils.py", UTILS))}
    pin = Upstream("toy", "https://example.org/toy", "a" * 40, "MIT", files, root="src")
    assert load_entry(entry, pin, tmp_path / "top").origin.verified

    (tmp_path / "top" / "src" / "utils.py").write_text("def twice(x): return 3 * x\n")
    host = load_entry(entry, pin, tmp_path / "top", allow_modified=True)
    assert host.heads(host.build({"width": 1})) == [3]
    assert host.origin.commit is None


def test_a_host_that_nothing_pins_is_loaded_unverified(entry: HostEntry, remote: Upstream, checkout: Path) -> None:
    host = load_entry(entry, None, checkout)
    assert host.heads(host.build({"width": 4})) == [8]
    assert (host.origin.commit, host.origin.verified) == (remote.commit, False)
    assert str(host.origin).endswith("not verified")
    for upstream in (None, "genuine"):
        with pytest.raises(HostError, match="'toy' is not in the manifest; give a checkout with --upstream PATH"):
            load_entry(entry, None, upstream)
    with pytest.raises(HostError, match="'toy' has no embedded code"):
        load_entry(entry, None, "embedded")


def test_a_checkout_path_may_start_with_a_tilde(
    entry: HostEntry, remote: Upstream, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(checkout.parent))
    assert load_entry(entry, remote, f"~/{checkout.name}").origin.verified


def test_the_record_of_an_origin_can_be_saved(entry: HostEntry, checkout: Path, remote: Upstream) -> None:
    for origin in (load_entry(entry, remote, checkout).origin, load_entry(entry, None, checkout).origin):
        assert json.loads(json.dumps(origin.record())) == origin.record()
        assert "kind" in tomli_w.dumps(origin.record())


@pytest.fixture
def embedded(tmp_path: Path, entry: HostEntry, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    package = tmp_path / "packages" / "toys_embedded"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "utils.py").write_text(UTILS)
    (package / "vae.py").write_text(VAE.replace("import utils", "from . import utils"))
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(entry, "embedded", package.name, raising=False)
    yield package.name
    for name in [name for name in sys.modules if name.partition(".")[0] == package.name]:
        del sys.modules[name]


def test_the_embedded_host_is_the_default_and_an_ordinary_package(
    entry: HostEntry, remote: Upstream, embedded: str
) -> None:
    host = load_entry(entry, remote)
    assert host.modules["vae"] is sys.modules[f"{embedded}.vae"]
    assert host.heads(host.build({"width": 4})) == [8]
    assert (host.origin.kind, host.origin.path.name, host.origin.verified) == ("embedded", embedded, True)
    assert "commit" not in host.origin.record()


def test_an_embedded_package_without_a_module_is_one_line(
    entry: HostEntry, embedded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "modules", ("vae", "flows"), raising=False)
    with pytest.raises(HostError, match=f"embedded {embedded} cannot be imported: No module named '{embedded}.flows'"):
        load_entry(entry, None)


def test_an_unknown_host_gets_the_nearest_name() -> None:
    nearest = HOSTS.names()[0]
    with pytest.raises(UnknownNameError, match=f"unknown host '{nearest}x'; did you mean .*{nearest}"):
        load_host(f"{nearest}x")


def test_a_patch_file_adds_its_host(tmp_path: Path, registry: HostRegistry) -> None:
    file = write_entry(tmp_path)
    entry = load_entry_file(file, registry)
    assert entry is load_entry_file(str(file), registry) is registry.get("toy")
    assert "toy" in registry.names()


def test_an_edited_patch_file_replaces_its_host(tmp_path: Path, registry: HostRegistry) -> None:
    load_entry_file(write_entry(tmp_path), registry)
    load_entry_file(write_entry(tmp_path, ENTRY.replace('("vae", "utils")', '("vae",)')), registry)
    assert registry.get("toy").modules == ("vae",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HOST = Toy()", "", r"defines no HOST; end it with: HOST = YourHost\(\)"),
        ("HOST = Toy()", "HOST = Toy", "HOST must be an instance of a HostEntry subclass, not <class"),
        ('name = "toy"', "", "Toy must set name"),
        ('name = "toy"', 'name = "my-toy"', "name 'my-toy' must be letters, digits and underscores"),
        ('("vae", "utils")', "()", "Toy must set modules"),
        ('("vae", "utils")', '("vae")', "modules must be a tuple of names, not the text 'vae'"),
        ("def heads", "def haeds", "TypeError: Can't instantiate abstract class Toy .*heads"),
        ("HOST = Toy()", "HOST = 1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("HOST = Toy()", "HOST = (", r"failed: SyntaxError: '\(' was never closed"),
    ],
)
def test_a_patch_file_that_cannot_be_used_says_why(
    tmp_path: Path, registry: HostRegistry, old: str, new: str, message: str
) -> None:
    assert old in ENTRY
    with pytest.raises(HostError, match=rf"my_host\.py.*{message}"):
        load_entry_file(write_entry(tmp_path, ENTRY.replace(old, new)), registry)
    assert "toy" not in registry.names()


def test_a_patch_file_that_is_not_there_says_so(tmp_path: Path, registry: HostRegistry) -> None:
    with pytest.raises(HostError, match=r"patch file '.*nowhere\.py' does not exist"):
        load_entry_file(tmp_path / "nowhere.py", registry)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(HostError, match=r"notes\.txt is not a Python file"):
        load_entry_file(tmp_path / "notes.txt", registry)


def test_two_files_cannot_define_one_host(tmp_path: Path, registry: HostRegistry) -> None:
    first = load_entry_file(write_entry(tmp_path), registry)
    with pytest.raises(HostError, match=r"other\.py: host 'toy' is defined by .*my_host\.py already; give it another"):
        load_entry_file(write_entry(tmp_path, name="other.py"), registry)
    assert registry.get("toy") is first


def test_an_installed_package_adds_a_host_through_an_entry_point(
    tmp_path: Path, registry: HostRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_entry(tmp_path, name="plugin_of_somebody.py")
    metadata = tmp_path / "plugin_of_somebody-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-of-somebody\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[vdvae_patch.hosts]\ntoy = plugin_of_somebody:HOST\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.get("toy").modules == ("vae", "utils")
    assert "toy" in registry.names()

    (metadata / "entry_points.txt").write_text("[vdvae_patch.hosts]\ntoy = plugin_of_somebody:NOTHING\n")
    other = HostRegistry("vdvae_patch.patches", "vdvae_patch.hosts")
    with pytest.raises(HostError, match=r"entry point toy = plugin_of_somebody:NOTHING .* cannot be loaded"):
        other.names()
    del sys.modules["plugin_of_somebody"]


def test_names_are_known_without_importing_torch_or_git() -> None:
    code = (
        "import sys, vdvae_patch.cli.upstream; from vdvae_patch.hosts import HOSTS; HOSTS.names();"
        "print(sorted({'torch', 'git', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.genuine
def test_the_genuine_vdvae_is_imported_beside_the_embedded_one() -> None:
    path = os.environ.get("VDVAE_PATCH_GENUINE_VDVAE")
    if not path:
        pytest.skip("VDVAE_PATCH_GENUINE_VDVAE names no checkout of openai/vdvae")
    genuine, embedded = load_host("vdvae", path), load_host("vdvae", "embedded")
    assert genuine.origin.verified
    assert genuine.modules["vae"].__file__ == str(Path(path).resolve() / "vae.py")
    assert genuine.modules["vae"] is not embedded.modules["vae"]
    assert genuine.modules["vae"].VAE.__module__ == genuine.modules["vae"].__name__
    assert not {"hps", "vae", "vae_helpers"} & set(sys.modules)
    presets = [host.modules["hps"].HPARAMS_REGISTRY["cifar10"] for host in (genuine, embedded)]
    assert dict(presets[0])["width"] == dict(presets[1])["width"] == 384
