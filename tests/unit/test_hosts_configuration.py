"""Configuration files of expressions are read without running them; stand-ins are served to one host alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vdvae_patch.errors import HostError
from vdvae_patch.hosts.configuration import read_sections
from vdvae_patch.hosts.isolate import Checkout, import_isolated
from vdvae_patch.hosts.stand_ins import unused

FILE = """
[run]
name = cifar10_baseline
seed = 420

[model]
# a comment
strides = [1] * 3 + [2]
size = (1, -2)
rate = 1e-3
batch = 32 * 2 / 4
source = 'cifar-10'
use = True
"""


def test_values_are_numbers_text_and_lists_as_the_expressions_say(tmp_path: Path) -> None:
    (tmp_path / "hparams.cfg").write_text(FILE)
    assert read_sections(tmp_path / "hparams.cfg") == {
        "run": {"name": "cifar10_baseline", "seed": 420},
        "model": {
            "strides": [1, 1, 1, 2], "size": (1, -2), "rate": 1e-3, "batch": 16.0, "source": "cifar-10", "use": True,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("__import__('os').remove('x')", r"\[a\] b = .* is more than numbers"),
        ("2 ** 10 ** 10", "is more than numbers"),
        ("[1] * 10 ** 9", "is more than numbers"),
        ("[1] * 100000", "a list of more than 10000 items"),
        ("[c for c in 'ab']", "is more than numbers"),
    ],
)
def test_an_expression_that_is_more_is_refused_and_named(tmp_path: Path, value: str, message: str) -> None:
    (tmp_path / "x.cfg").write_text(f"[a]\nb = {value}\n")
    with pytest.raises(HostError, match=message):
        read_sections(tmp_path / "x.cfg")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"configuration .*none.cfg cannot be read"):
        read_sections(tmp_path / "none.cfg")


def test_a_stand_in_is_found_by_its_host_and_by_no_other_code(tmp_path: Path) -> None:
    (tmp_path / "vae.py").write_text("import logger\nfrom logger import Writer\n")
    stand_in = unused("logger", "Writer")
    vae = import_isolated(Checkout(tmp_path.resolve(), "host", {}, False, {"logger": stand_in}), ["vae"])["vae"]
    assert vae.logger is stand_in
    assert "logger" not in sys.modules
    with pytest.raises(HostError, match=r"logger\.Writer is used, but logger is not installed; pip install logger"):
        vae.Writer("folder")


def test_a_package_that_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "vae.py").write_text("from surely_not_installed.writer import Writer\n")
    with pytest.raises(HostError, match="No module named 'surely_not_installed'; install the package"):
        import_isolated(Checkout(tmp_path.resolve(), "host", {}, False), ["vae"])
