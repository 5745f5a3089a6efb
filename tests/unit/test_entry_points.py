"""What an installed package adds: a class is called what its entry point is called, in every registry alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vdvae_patch import conventions, scales
from vdvae_patch.data import DATASETS, load
from vdvae_patch.errors import HostError, InvalidValueError
from vdvae_patch.hosts import HostRegistry, load_entry_file
from vdvae_patch.registry import Registry

PLUGIN = '''
import numpy as np
import torch

from vdvae_patch.conventions import CONVENTIONS, Convention
from vdvae_patch.data import DATASETS, DataSet
from vdvae_patch.data.images import Splits
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.hosts import HostEntry
from vdvae_patch.scales import SCALES, Exp, ExpLin


class Plain(Exp):
    """Has no name of its own, and would be called exp."""


@SCALES.register("decorated", "its-alias")
class Decorated(ExpLin):
    pass


class Power(Convention):
    """sigma = v ** exponent + floor"""

    def __init__(self, exponent: float, floor: float = 0.0):
        self.exponent, self.floor = exponent, floor

    def sigma(self, v):
        return v**self.exponent + self.floor

    def preimage(self, scale, p):
        return (scale.sigma(p) - self.floor) ** (1 / self.exponent)


@CONVENTIONS.register("decorated")
class Marked(Power):
    pass


class Flat(DataSet):
    """Grey squares."""

    def __init__(self, size: float = 8):
        self.size = int(size)

    def read(self, root, *, download):
        pixels = np.zeros((4, self.size, self.size, 1), np.uint8)
        return Splits(pixels, pixels, pixels, Normalization(0.0, 1.0), "made up", "none")


@DATASETS.register("decorated")
class Striped(Flat):
    pass


class Host(HostEntry):
    modules = ("anything",)

    def build(self, modules, hparams):
        return torch.nn.Linear(2, 2)

    def heads(self, model):
        return []


class Named(Host):
    name = "its_own"


HOST = Host()
'''

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package as pip leaves it, with these entry points, `name = object` of a group; no registry has looked.

    Another `package` is another one, and `text` what it has instead.
    """
    registries: list[Registry[Any]] = [scales.SCALES, conventions.CONVENTIONS, DATASETS]
    for registry in registries:
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
        monkeypatch.setattr(registry, "_aliases", dict(registry._aliases))
        monkeypatch.setattr(registry, "_entry_points_loaded", False)
    packages: list[str] = []

    def call(group: str, *points: str, package: str = "vdvae_patch_test_things", text: str = PLUGIN) -> None:
        packages.append(package)
        (tmp_path / f"{package}.py").write_text(text)
        metadata = tmp_path / f"{package}-1.0.dist-info"
        metadata.mkdir(exist_ok=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name.strip()} = {package}{value.strip()}" for name, _, value in (p.partition("=") for p in points)]
        (metadata / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))

    monkeypatch.syspath_prepend(str(tmp_path))
    yield call
    for package in packages:
        sys.modules.pop(package, None)


def test_a_scale_without_a_decorator_is_called_what_its_entry_point_is(install: Install) -> None:
    install("vdvae_patch.scales", "My-Scale = :Plain")
    scale = scales.get("my-scale")
    assert type(scale).__name__ == "Plain"
    assert str(scale) == "my-scale"
    assert str(scale.shifted(0.5, 1)) == "my-scale(gain=0.5, shift=1)"
    assert scales.get(str(scale.shifted(0.5, 1))) == scale.shifted(0.5, 1)
    assert (str(scales.Exp()), "my-scale" in scales.SCALES.names()) == ("exp", True)


def test_a_patch_with_it_can_be_written_down_and_read_again(install: Install) -> None:
    import vdvae_patch

    install("vdvae_patch.scales", "mine = :Plain")
    others = PLUGIN.replace('"decorated"', '"others"').replace("its-alias", "their-alias")
    install("vdvae_patch.conventions", "power = :Power", package="vdvae_patch_test_others", text=others)
    head = vdvae_patch.Head("", "posterior", 2, 4, convention="power(2, floor=0.5)")
    model = torch.nn.Linear(3, 4)
    with pytest.warns(UserWarning, match=r"the host keeps σ at 0.5 or above, mine does not"):
        vdvae_patch.patch(model, posterior="mine", heads=[head], verify=False)
    again = torch.nn.Linear(3, 4)
    handle = vdvae_patch.apply(again, vdvae_patch.patch_json(model))
    assert str(handle.variant) == "mine/vanilla"
    assert (str(handle.heads[0].scale), str(handle.heads[0].head.convention)) == (
        "mine",
        "power(exponent=2, floor=0.5)",
    )
    torch.nn.init.constant_(model.bias, 3.0)  # exp(3 ± 1.8) is above the floor
    x = torch.rand(2, 3)
    again.load_state_dict(model.state_dict())
    assert torch.equal(model(x), again(x))


def test_a_convention_is_written_with_its_name_and_arguments(install: Install) -> None:
    install("vdvae_patch.conventions", "power = :Power")
    convention = conventions.get("power(2)")
    assert str(convention) == "power(exponent=2)"
    assert conventions.get(str(convention)) == convention != conventions.get("power(3)")
    assert str(conventions.get("softplus(beta=2)")) == "softplus(beta=2)"


def test_a_data_set_is_found_by_the_name_of_its_entry_point(install: Install) -> None:
    install("vdvae_patch.datasets", "Flat = :Flat")
    data = load("FLAT(size=4)", None)
    assert (data.name, data.image_size, data.channels) == ("flat(size=4)", 4, 1)
    assert "flat" in DATASETS.names()


@pytest.mark.parametrize(
    ("registry", "thing"),
    [(scales.SCALES, "Decorated"), (conventions.CONVENTIONS, "Marked"), (DATASETS, "Striped")],
    ids=["scale", "convention", "data set"],
)
def test_a_decorator_names_the_class_and_another_entry_point_is_an_alias(
    install: Install, registry: Registry[Any], thing: str
) -> None:
    install(registry.group, f"decorated = :{thing}", f"other = :{thing}")
    known = registry.names()
    assert "decorated" in known
    assert "other" not in known
    assert registry.canonical("other") == "decorated"
    assert registry.get_class("other") is registry.get_class("decorated")
    assert registry.get_class("decorated").name == "decorated"  # type: ignore[attr-defined]


def test_an_entry_point_for_one_of_ours_renames_nothing(install: Install) -> None:
    install("vdvae_patch.scales", "exponential = :Exp")
    assert scales.get("exponential") == scales.Exp()
    assert str(scales.Exp()) == "exp"


def test_a_name_that_is_taken_is_said(install: Install) -> None:
    install("vdvae_patch.scales", "exp = :Plain", "plain = :Plain")
    with pytest.warns(
        UserWarning, match=r"scale 'exp' is vdvae_patch\.scales\.paper\.Exp; that of the entry point 'vdv"
    ):
        assert "plain" in scales.SCALES.names()
    assert type(scales.get("exp")) is scales.Exp
    assert str(scales.get("plain")) == "plain"


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (
            "mine = :HOST",
            r"is <vdvae_patch_test_things\.Host object .*, not a subclass of vdvae_patch\.scales\.scale\.Scale",
        ),
        ("mine = :Flat", r"not a subclass of vdvae_patch\.scales\.scale\.Scale"),
        ("mine = ", r"is <module 'vdvae_patch_test_things' .*, not a subclass"),
        ("my scale = :Plain", "'my scale' of entry point .* a name is of letters, digits"),
        ("mine = :Nothing", "'mine' cannot be loaded from 'vdvae_patch_test_things:Nothing'"),
    ],
)
def test_an_entry_point_that_is_no_scale_says_what_it_is(install: Install, point: str, message: str) -> None:
    install("vdvae_patch.scales", point)
    for _ in range(2):
        with pytest.raises(InvalidValueError, match=message):
            scales.SCALES.names()


def test_a_package_that_fails_while_it_is_imported_is_named_with_what_it_raised_every_time(install: Install) -> None:
    text = "from vdvae_patch.scales import *\n@SCALES.register('half')\nclass Half(Exp): pass\n1 / 0\n"
    install("vdvae_patch.scales", "half = :Half", text=text)
    for _ in range(2):
        with pytest.raises(
            InvalidValueError, match=r"'half' cannot be loaded from .*ZeroDivisionError: division by zero"
        ):
            scales.get("quarter")


def test_a_class_that_lacks_a_formula_says_which(install: Install) -> None:
    text = (
        "from vdvae_patch.scales import Scale\nfrom vdvae_patch.data import DataSet\n"
        "class Half(Scale):\n    def _sigma(self, p): return p\n    def _log_sigma(self, p): return p\n"
        "class Empty(DataSet): pass\n"
    )
    install("vdvae_patch.scales", "half = :Half", text=text)
    with pytest.raises(InvalidValueError, match=r"Half does not define _log_sigma_slope and _sigma_slope and inverse"):
        scales.get("half")


def test_a_cell_that_defines_a_scale_may_be_run_twice() -> None:
    registry: Registry[scales.Scale] = Registry("scale", "nobody", lambda: scales.Scale)
    cell = "@registry.register('mine', 'also')\nclass Mine(Exp): pass\n"
    for _ in range(2):
        scope: dict[str, Any] = {"registry": registry, "Exp": scales.Exp, "__name__": "__main__"}
        exec(cell, scope)
        assert type(registry.get("also")) is scope["Mine"]
    with pytest.raises(InvalidValueError, match="'also' is registered twice"):
        registry.register("other", "also")(type("Other", (scales.Exp,), {}))


def test_a_patch_file_that_registers_a_scale_may_be_edited(tmp_path: Path, install: Install) -> None:
    file = tmp_path / "my_host.py"
    text = PLUGIN.replace('modules = ("anything",)', 'name, modules = "mine", ("anything",)')
    registry = hosts()
    for exponent in (2, 3):
        file.write_text(text.replace("v**self.exponent", f"v**self.exponent * {exponent}"))
        load_entry_file(file, registry)
        one = torch.ones(1)
        assert conventions.get("decorated(1)").sigma(one) == exponent


def test_an_argument_whose_default_nobody_can_write_is_not_shown() -> None:
    registry: Registry[object] = Registry("thing", "nobody")

    @registry.register("thing")
    class Thing:
        def __init__(self, size: float = 2, root: str | None = None) -> None: ...

    assert registry.usage("thing") == "thing(size=2)"


# --- hosts ------------------------------------------------------------------------------------------------------------


def hosts() -> HostRegistry:
    return HostRegistry("vdvae_patch.patches", "vdvae_patch.hosts")


@pytest.mark.parametrize("value", [":HOST", ":Host", ""], ids=["instance", "class", "module"])
def test_a_host_without_a_name_is_called_what_its_entry_point_is(install: Install, value: str) -> None:
    install("vdvae_patch.hosts", f"my_host = {value}")
    entry = hosts().get("my_host")
    assert (entry.name, type(entry).__name__) == ("my_host", "Host")


def test_a_host_with_a_name_keeps_it(install: Install) -> None:
    install("vdvae_patch.hosts", "my_host = :Named")
    assert hosts().get("its_own").name == "its_own"


@pytest.mark.parametrize(
    ("value", "text", "message"),
    [
        (":Plain", PLUGIN, "HOST must be an instance of a HostEntry subclass, not <class .*Plain"),
        ("", "x = 1", "cannot be loaded: module 'vdvae_patch_test_things' has no attribute 'HOST'"),
        (":HOST", "1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
        (":Host", PLUGIN.replace("def heads", "def haeds"), "cannot be loaded: TypeError: Can't instantiate abstract"),
    ],
)
def test_a_host_that_cannot_be_used_says_why(install: Install, value: str, text: str, message: str) -> None:
    install(
        "vdvae_patch.hosts", f"my_host = {value}", text=text if value != ":Host" else text.replace("HOST = Host()", "")
    )
    with pytest.raises(HostError, match=rf"entry point my_host = vdvae_patch_test_things.*{message}"):
        hosts().names()
