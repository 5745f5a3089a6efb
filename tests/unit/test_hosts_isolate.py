"""Hosts are imported in isolation: no bare name reaches sys.modules, and every tool still finds their functions."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import linecache
import pickle
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from vdvae_patch.errors import HostError
from vdvae_patch.hosts.isolate import ROOT, Checkout, import_isolated


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def pinned(folder: Path, *names: str, label: str = "host") -> Checkout:
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    return Checkout(folder.resolve(), label, digests, closed=True)


def unpinned(folder: Path, label: str = "host") -> Checkout:
    return Checkout(folder.resolve(), label, {}, closed=False)


@pytest.fixture(autouse=True)
def only_new_names_are_isolated_ones() -> Iterator[None]:
    """Whatever a test imports from its hosts, the names it leaves in sys.modules are below the one root package."""
    bare = {"utils", "vae", "data", "model", "lazy", "broken", "helpers", "layers", "star", "computed"}
    before = bare.intersection(sys.modules)
    yield
    assert bare.intersection(sys.modules) == before


def modules_of(checkout: Checkout) -> list[str]:
    return [name for name in sys.modules if name.startswith(checkout.prefix)]


def test_two_hosts_with_modules_of_the_same_names_live_in_one_process(tmp_path: Path) -> None:
    source = "import utils\nfrom utils import NAME\n\ndef who():\n    return utils.NAME, NAME\n"
    first = unpinned(write(tmp_path / "first", {"utils.py": "NAME = 'first'\n", "vae.py": source}))
    second = unpinned(write(tmp_path / "second", {"utils.py": "NAME = 'second'\n", "vae.py": source}))

    a, b = import_isolated(first, ["vae"])["vae"], import_isolated(second, ["vae"])["vae"]

    assert a.who() == ("first", "first")
    assert b.who() == ("second", "second")


def test_importing_the_same_checkout_again_gives_the_same_modules(tmp_path: Path) -> None:
    folder = write(tmp_path, {"vae.py": "class VAE: ...\n"})
    assert import_isolated(pinned(folder, "vae.py"), ["vae"]) == import_isolated(pinned(folder, "vae.py"), ["vae"])


def test_a_changed_checkout_is_another_package_and_the_first_one_stays(tmp_path: Path) -> None:
    folder = write(tmp_path, {"vae.py": "VALUE = 1\n"})
    before = import_isolated(pinned(folder, "vae.py"), ["vae"])["vae"]
    write(tmp_path, {"vae.py": "VALUE = 2\n"})
    after = import_isolated(pinned(folder, "vae.py"), ["vae"])["vae"]
    assert (before.VALUE, after.VALUE) == (1, 2)


def test_every_form_of_import_finds_the_host_own_module(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "utils.py": "__all__ = ['public']\npublic = 'public'\nhidden = 'hidden'\n",
            "layers/__init__.py": "from .conv import SIZE\nfrom . import conv as relative\n",
            "layers/conv.py": "import utils\nfrom ..utils import public\nSIZE = 3\n",
            "model/deep/net.py": "DEPTH = 7\n",  # folders without __init__.py
            "vae.py": """\
                import os.path, utils, layers.conv
                import layers.conv as c
                import model.deep.net
                import model.deep.net as net
                from layers import conv, SIZE
                from utils import *
                import importlib
                spelled_out = importlib.import_module("utils")

                def inside():
                    import utils as u
                    from utils import hidden as h
                    import layers.conv
                    class Deeper:
                        from utils import public
                    return u.hidden, h, layers.SIZE, layers.conv.SIZE, Deeper.public
                """,
        },
    )
    vae = import_isolated(unpinned(tmp_path), ["vae"])["vae"]

    assert vae.inside() == ("hidden", "hidden", 3, 3, "public")
    assert vae.public == "public"
    assert not hasattr(vae, "hidden")
    assert vae.layers.conv is vae.c is vae.conv is vae.layers.relative
    assert vae.SIZE == 3
    assert vae.model.deep.net is vae.net
    assert vae.net.DEPTH == 7
    assert vae.spelled_out is vae.utils
    assert vae.os is importlib.import_module("os")


def test_a_lazy_import_is_resolved_when_its_function_runs(tmp_path: Path) -> None:
    write(tmp_path, {"vae.py": "def late():\n    import lazy\n    return lazy.VALUE\n", "lazy.py": "VALUE = 5\n"})
    checkout = unpinned(tmp_path)
    vae = import_isolated(checkout, ["vae"])["vae"]
    assert f"{checkout.prefix}.lazy" not in sys.modules
    assert vae.late() == 5
    assert f"{checkout.prefix}.lazy" in sys.modules


def test_modules_that_import_each_other_in_a_circle_load(tmp_path: Path) -> None:
    write(tmp_path, {"vae.py": "import utils\nVALUE = 1\n", "utils.py": "import vae\ndef f(): return vae.VALUE\n"})
    assert import_isolated(unpinned(tmp_path), ["vae"])["vae"].utils.f() == 1


def test_a_folder_without_init_does_not_hide_an_installed_package_but_a_file_does(tmp_path: Path) -> None:
    write(tmp_path, {"pooch/run.py": "", "vae.py": "import pooch, json\n", "json.py": "MINE = True\n"})
    vae = import_isolated(unpinned(tmp_path), ["vae"])["vae"]
    assert hasattr(vae.pooch, "retrieve")
    assert vae.json.MINE
    assert not hasattr(importlib.import_module("json"), "MINE")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("import utils\nraise RuntimeError('no GPU')\n", "RuntimeError: no GPU"),
        ("import utils\nimport a_package_nobody_has\n", "No module named 'a_package_nobody_has'"),
        ("import utils\nfrom utils import missing\n", "cannot import name 'missing' from 'utils'"),
        ("import utils\ndef f(:\n", "SyntaxError"),
    ],
)
def test_a_failing_import_says_which_module_and_leaves_nothing_behind(tmp_path: Path, broken: str, reason: str) -> None:
    write(tmp_path, {"vae.py": "import broken\n", "broken.py": broken, "utils.py": ""})
    checkout = unpinned(tmp_path)
    with pytest.raises(HostError) as caught:
        import_isolated(checkout, ["utils", "vae"])
    assert "importing 'vae'" in str(caught.value)
    assert reason in str(caught.value)
    assert modules_of(checkout) == []

    write(tmp_path, {"broken.py": "FIXED = True\n"})
    assert import_isolated(checkout, ["vae"])["vae"].broken.FIXED


def test_a_failing_import_keeps_what_was_imported_earlier(tmp_path: Path) -> None:
    checkout = unpinned(write(tmp_path, {"vae.py": "", "broken.py": "1 / 0\n"}))
    vae = import_isolated(checkout, ["vae"])["vae"]
    with pytest.raises(HostError, match="ZeroDivisionError"):
        import_isolated(checkout, ["broken"])
    assert import_isolated(checkout, ["vae"])["vae"] is vae


def test_a_missing_module_is_one_clear_line(tmp_path: Path) -> None:
    write(tmp_path, {"vae.py": ""})
    with pytest.raises(HostError, match=r"importing 'vea' of .* failed: ModuleNotFoundError: No module named 'vea'"):
        import_isolated(unpinned(tmp_path), ["vea"])


def test_a_file_that_is_not_pinned_is_not_imported(tmp_path: Path) -> None:
    write(tmp_path, {"vae.py": "import data\n", "data.py": "raise SystemExit('this ran')\n"})
    with pytest.raises(HostError, match=r"data\.py is not among the pinned files"):
        import_isolated(pinned(tmp_path, "vae.py"), ["vae"])
    with pytest.raises(HostError, match=r"data\.py is not among the pinned files"):
        import_isolated(pinned(tmp_path, "vae.py"), ["data"])


def test_a_package_put_in_front_of_a_pinned_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"vae.py": "", "vae/__init__.py": "raise SystemExit('this ran')\n"})
    with pytest.raises(HostError, match=r"vae/__init__\.py is not among the pinned files"):
        import_isolated(pinned(tmp_path, "vae.py"), ["vae"])


def test_pinned_files_in_subfolders_are_imported(tmp_path: Path) -> None:
    write(tmp_path, {"utils/utils.py": "from model import net\n", "model/__init__.py": "", "model/net.py": "X = 1\n"})
    checkout = pinned(tmp_path, "utils/utils.py", "model/__init__.py", "model/net.py")
    assert import_isolated(checkout, ["utils.utils"])["utils.utils"].net.X == 1


def test_the_bytes_that_run_are_the_bytes_that_were_hashed(tmp_path: Path) -> None:
    checkout = pinned(write(tmp_path, {"vae.py": "import utils\n", "utils.py": ""}), "vae.py", "utils.py")
    write(tmp_path, {"utils.py": "raise SystemExit('this ran')\n"})
    with pytest.raises(HostError, match=r"utils\.py was changed: SHA-256 \w{16}, expected \w{16}"):
        import_isolated(checkout, ["vae"])
    assert modules_of(checkout) == []


def test_nothing_is_written_into_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    write(tmp_path, {"vae.py": "import utils\n", "utils.py": ""})
    import_isolated(unpinned(tmp_path), ["vae"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["utils.py", "vae.py"]


def test_old_byte_code_in_the_checkout_is_not_used(tmp_path: Path) -> None:
    write(tmp_path, {"vae.py": "VALUE = 1\n"})
    subprocess.run([sys.executable, "-c", "import vae"], cwd=tmp_path, check=True, env={"PYTHONPATH": str(tmp_path)})
    code = next(tmp_path.rglob("*.pyc"))
    code.write_bytes(code.read_bytes()[:16] + b"not byte code")
    assert import_isolated(unpinned(tmp_path), ["vae"])["vae"].VALUE == 1


def test_a_computed_import_that_escapes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "name = 'computed'\n__import__(name)\n"
    write(tmp_path, {"vae.py": source, "computed.py": "import helpers\n", "helpers.py": ""})
    monkeypatch.syspath_prepend(str(tmp_path))
    checkout = unpinned(tmp_path)
    with pytest.raises(HostError, match="'computed', 'helpers' by a computed name"):
        import_isolated(checkout, ["vae"])
    assert modules_of(checkout) == []


def test_source_lines_and_file_are_those_of_the_file(tmp_path: Path) -> None:
    function = "def f(x: Unknown):\n    return utils.g(x)\n"
    text = f'"""Doc."""\nfrom __future__ import annotations\nimport utils\n\n\n{function}'
    write(tmp_path, {"vae.py": text, "utils.py": "def g(x):\n    raise ValueError(x)\n"})
    vae = import_isolated(unpinned(tmp_path), ["vae"])["vae"]

    assert vae.__doc__ == "Doc."
    assert vae.__file__ == str(tmp_path.resolve() / "vae.py")
    assert inspect.getsource(vae) == text
    assert inspect.getsource(vae.f) == function
    with pytest.raises(ValueError, match="1") as caught:
        vae.f(1)
    frames = traceback.extract_tb(caught.value.__traceback__)[-2:]
    assert [(Path(frame.filename).name, frame.lineno) for frame in frames] == [("vae.py", 7), ("utils.py", 2)]


def test_source_is_what_ran_even_if_the_file_changes_later(tmp_path: Path) -> None:
    vae = import_isolated(pinned(write(tmp_path, {"vae.py": "def f():\n    return 1\n"}), "vae.py"), ["vae"])["vae"]
    write(tmp_path, {"vae.py": "def f():\n    return 'something else'\n"})
    linecache.checkcache()
    assert inspect.getsource(vae.f) == "def f():\n    return 1\n"


def test_a_file_in_another_encoding_is_read_as_python_reads_it(tmp_path: Path) -> None:
    (tmp_path / "vae.py").write_bytes("# -*- coding: latin-1 -*-\nNAME = 'Dehaène'\n".encode("latin-1"))
    vae = import_isolated(unpinned(tmp_path), ["vae"])["vae"]
    assert vae.NAME == "Dehaène"


def test_classes_and_functions_are_pickled_by_their_isolated_name(tmp_path: Path) -> None:
    text = """\
        from dataclasses import dataclass

        @dataclass
        class Hparams:
            width: "int"

        def f():
            return 1
        """
    vae = import_isolated(unpinned(write(tmp_path, {"vae.py": text})), ["vae"])["vae"]
    assert pickle.loads(pickle.dumps(vae.Hparams(3))) == vae.Hparams(3)
    assert pickle.loads(pickle.dumps(vae.f)) is vae.f
    assert vae.Hparams.__module__.startswith(f"{ROOT}.host_")


def test_a_model_of_a_host_is_scripted_and_compiled_whole(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    write(
        tmp_path,
        {
            "utils.py": """\
                import torch

                SCALE = 2.0

                @torch.jit.script
                def scripted(x):
                    return x * 3

                def scaled(x):
                    import helpers
                    return helpers.shift(x) * SCALE
                """,
            "helpers.py": "def shift(x):\n    return x + 1\n",
            "vae.py": """\
                import torch
                import utils
                from utils import scaled, scripted

                @torch.jit.script
                def calls_scripted(x):
                    return scripted(x) + 1

                def compute(x):
                    return scaled(x) + utils.scaled(x)
                """,
        },
    )
    vae = import_isolated(unpinned(tmp_path), ["vae"])["vae"]
    x = torch.arange(3.0)

    torch.testing.assert_close(vae.calls_scripted(x), 3 * x + 1)
    compiled = torch.compile(vae.compute, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), 4 * (x + 1))
    vae.utils.SCALE = 5.0
    torch.testing.assert_close(compiled(x), 10 * (x + 1))


def test_the_modules_of_a_host_are_found_by_their_own_name(tmp_path: Path) -> None:
    found = import_isolated(unpinned(write(tmp_path, {"vae.py": "", "layers/conv.py": ""})), ["vae", "layers.conv"])
    for module in found.values():
        assert isinstance(module, ModuleType)
        assert importlib.import_module(module.__name__) is module
    assert found["vae"].__package__ == found["vae"].__name__.rpartition(".")[0]
