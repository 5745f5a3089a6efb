"""A host in a file of the user: `--patches FILE` means it, and its code is where the file says, or beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from vdvae_patch.cli import bench, compare
from vdvae_patch.cli.arguments import chosen_entry, parse_train
from vdvae_patch.cli.replay import read_run
from vdvae_patch.errors import HostError, InvalidValueError, UnknownNameError
from vdvae_patch.hosts import HOSTS, HostRegistry, load_entry, load_entry_file

VAE = "from my_layers_xyz import WIDTH\nclass VAE:\n    width = WIDTH\n"
LAYERS = "WIDTH = 7\n"
PLAIN = """\
    from vdvae_patch import HostEntry

    class Mine(HostEntry):
        name = "mine_xyz"
        modules = ("my_vae_xyz",)

        def build(self, modules, hparams):
            return modules["my_vae_xyz"].VAE()

        def heads(self, model):
            return []

    HOST = Mine()
    """
TRAINED = """\
    from dataclasses import dataclass

    from my_layers_xyz import WIDTH
    from vdvae_patch import TrainableEntry
    from vdvae_patch.hosts.preset import Optimization, Preset

    @dataclass(frozen=True)
    class Architecture:
        width: int = WIDTH

    class Mine(TrainableEntry):
        name = "mine_xyz"
        modules = ("my_vae_xyz",)
        architecture = Architecture

        def presets(self):
            return {name: Preset(Optimization(), Architecture(), "builtin") for name in NAMES}

        def build(self, modules, hparams): ...
        def heads(self, model): ...
        def hyperparameters(self, architecture, **options): ...
        def losses(self, model, x, target): ...
        def latents(self, model, x): ...
        def sample(self, model, n, temperature, latents=()): ...

    NAMES = ["only"]
    HOST = Mine()
    """


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two modules of a code base in a folder that nothing imports from; afterwards nobody knows of the host."""
    (tmp_path / "my_vae_xyz.py").write_text(VAE)
    (tmp_path / "my_layers_xyz.py").write_text(LAYERS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    HOSTS._entries.pop("mine_xyz", None)
    HOSTS._sources.pop("mine_xyz", None)
    for name in ("my_vae_xyz", "my_layers_xyz", "my_package_xyz", "my_package_xyz.my_vae_xyz"):
        sys.modules.pop(name, None)


def write(folder: Path, text: str, name: str = "my_host.py") -> Path:
    (folder / name).write_text(textwrap.dedent(text))
    return folder / name


def own_registry() -> HostRegistry:
    return HostRegistry("vdvae_patch.patches", "vdvae_patch.hosts")


# --- the command line -------------------------------------------------------------------------------------------------


def test_a_file_of_patches_without_a_host_means_its_own(folder: Path) -> None:
    file = write(folder, TRAINED)
    config = parse_train([f"--patches={file}", "--width", "3"])
    assert (config.host, config.preset, config.architecture.width) == ("mine_xyz", "only", 3)
    assert chosen_entry(["--patches", str(file)]).name == "mine_xyz"


def test_a_host_that_is_named_is_taken_in_spite_of_the_file(folder: Path) -> None:
    file = str(write(folder, TRAINED))
    assert parse_train(["--patches", file, "--host", "vdvae"]).host == "vdvae"
    assert parse_train(["--host=mine_xyz", "--patches", file]).preset == "only"
    with pytest.raises(UnknownNameError, match="unknown host 'mine_xy'; did you mean 'mine_xyz'"):
        parse_train(["--patches", file, "--host", "mine_xy"])


def test_several_presets_have_to_be_chosen_from(folder: Path) -> None:
    file = str(write(folder, TRAINED.replace('["only"]', '["small", "large"]')))
    with pytest.raises(
        InvalidValueError, match="host 'mine_xyz' has the presets small, large; choose one with --preset"
    ):
        parse_train(["--patches", file])
    assert parse_train(["--patches", file, "--preset", "large"]).preset == "large"
    with pytest.raises(InvalidValueError, match="host 'mine_xyz' has no preset"):
        parse_train(["--patches", str(write(folder, TRAINED.replace('["only"]', "[]")))])


def test_the_path_of_the_file_is_kept_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(folder, TRAINED)
    monkeypatch.chdir(folder)
    config = parse_train(["--patches", "my_host.py"])
    assert config.patches == file.resolve()

    import tomli_w

    (folder / "config.toml").write_text(tomli_w.dumps(config.to_toml()))
    monkeypatch.chdir("/")
    assert read_run(folder, patches=file) == config


@pytest.mark.parametrize("command", [parse_train, compare.run, bench.run])
def test_a_file_without_a_host_says_what_to_add(command: object, folder: Path) -> None:
    assert callable(command)
    file = write(folder, "x = 1\n", "notes.py")
    with pytest.raises(HostError, match=r"notes\.py defines no HOST; end it with: HOST = YourHost\(\)"):
        command(["--patches", str(file)])
    with pytest.raises(HostError, match=r"nowhere\.py' does not exist"):
        command(["--patches", str(folder / "nowhere.py")])


@pytest.mark.parametrize("command", [parse_train, compare.run])
def test_a_host_that_is_not_trained_says_so(command: object, folder: Path) -> None:
    assert callable(command)
    with pytest.raises(HostError, match="host 'mine_xyz' can be patched but not trained here: its entry has no loss"):
        command(["--patches", str(write(folder, PLAIN))])


def test_bench_takes_the_host_of_the_file(folder: Path) -> None:
    with pytest.raises(HostError, match="host 'mine_xyz' gives no example to measure"):
        bench.run(["--patches", str(write(folder, PLAIN)), "--device", "cpu"])


# --- where its code is ------------------------------------------------------------------------------------------------


def test_modules_beside_the_file_are_found_and_imported_apart(folder: Path) -> None:
    entry = load_entry_file(write(folder, PLAIN), own_registry())
    host = load_entry(entry, None)
    assert host.build({}).width == 7  # type: ignore[comparison-overlap]
    assert (host.origin.kind, host.origin.path, host.origin.verified) == ("checkout", folder.resolve(), False)
    assert not {"my_vae_xyz", "my_layers_xyz"} & set(sys.modules)
    other = folder / "other"
    other.mkdir()
    (other / "my_vae_xyz.py").write_text("class VAE:\n    width = 8\n")
    assert load_entry(entry, None, other).build({}).width == 8  # type: ignore[comparison-overlap]


def test_a_module_that_is_not_there_is_named_with_the_places_to_put_it(folder: Path) -> None:
    (folder / "my_vae_xyz.py").unlink()
    entry = load_entry_file(write(folder, PLAIN), own_registry())
    with pytest.raises(
        HostError, match=r"give a checkout with --upstream PATH, or put my_vae_xyz\.py into .*my_host\.py"
    ):
        load_entry(entry, None)


def test_a_single_file_that_import_finds_is_a_host(folder: Path) -> None:
    entry = load_entry_file(write(folder, PLAIN.replace("modules =", "installed = True; modules =")), own_registry())
    with pytest.raises(
        HostError, match=r"'mine_xyz' is not installed \(No module named 'my_vae_xyz'\); install it, or"
    ):
        load_entry(entry, None)
    sys.path.append(str(folder))
    host = load_entry(entry, None)
    assert host.modules["my_vae_xyz"] is sys.modules["my_vae_xyz"]
    assert (host.origin.kind, host.origin.path, host.origin.commit) == ("checkout", folder.resolve(), None)


def test_an_installed_package_under_another_name_than_the_hosts_has_its_version(folder: Path) -> None:
    text = PLAIN.replace('("my_vae_xyz",)', '("safetensors.torch",)').replace(
        "modules =", "installed = True; modules ="
    )
    origin = load_entry(load_entry_file(write(folder, text), own_registry()), None).origin
    from importlib.metadata import version

    assert (origin.kind, origin.commit) == ("installed", version("safetensors"))


def test_a_package_of_the_users_holds_the_modules(folder: Path) -> None:
    package = folder / "my_package_xyz"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "my_vae_xyz.py").write_text("class VAE:\n    width = 9\n")
    sys.path.append(str(folder))
    text = PLAIN.replace("modules =", 'embedded = "my_package_xyz"; modules =')
    host = load_entry(load_entry_file(write(folder, text), own_registry()), None)
    assert host.modules["my_vae_xyz"] is sys.modules["my_package_xyz.my_vae_xyz"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("", "ZeroDivisionError: division by zero"),
        ("installed = True; ", "host 'mine_xyz' cannot be imported: ZeroDivisionError: division by zero"),
        (
            'embedded = "my_package_xyz"; ',
            "embedded my_package_xyz cannot be imported: ZeroDivisionError: division by zero",
        ),
    ],
    ids=["beside", "installed", "embedded"],
)
def test_code_that_fails_while_it_is_imported_is_one_line(folder: Path, how: str, message: str) -> None:
    package = folder / "my_package_xyz"
    package.mkdir()
    for file in (package / "__init__.py", folder / "my_vae_xyz.py"):
        file.write_text("1 / 0\n")
    sys.path.append(str(folder))
    entry = load_entry_file(write(folder, PLAIN.replace("modules =", f"{how}modules =")), own_registry())
    with pytest.raises(HostError, match=message):
        load_entry(entry, None)


def test_a_users_script_finds_it_from_anywhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write(folder, PLAIN)
    script = write(folder, "import sys, vdvae_patch\nentry = vdvae_patch.load_entry_file(sys.argv[1])\n"
        "print(vdvae_patch.load_host(entry.name).build({}).width)\n", "script.py")  # fmt: skip
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, str(script), str(folder / "my_host.py")]
    done = subprocess.run(
        command, cwd=elsewhere, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


@pytest.mark.parametrize("changed", ["my_host.py", "my_vae_xyz.py", "my_layers_xyz.py"])
def test_a_host_says_when_one_of_its_files_is_another(folder: Path, changed: str) -> None:
    def sources() -> str:
        for name in ("my_vae_xyz", "my_layers_xyz"):
            sys.modules.pop(name, None)
        return load_entry(load_entry_file(folder / "my_host.py", own_registry()), None).sources

    write(folder, PLAIN)
    before = sources()
    assert sources() == before
    (folder / changed).write_text((folder / changed).read_text() + "# another\n")
    assert sources() != before
