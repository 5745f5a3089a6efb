"""The manifest pins commits and files, and refuses anything that would pin nothing."""

from __future__ import annotations

import importlib.util
import re

import pytest

from vdvae_patch.errors import HostError, UnknownNameError
from vdvae_patch.hosts.manifest import Upstream, get_upstream, read_manifest, upstreams

GOOD = """
[nvae]
url = "https://example.org/nvae"
commit = "{commit}"
license = "MIT"
root = "src"

[nvae.files]
"src/model.py" = "{digest}"
"src/utils/utils.py" = "{digest}"
"LICENSE" = "{digest}"
""".format(commit="a" * 40, digest="b" * 64)


def test_the_projects_own_manifest_pins_vdvae() -> None:
    vdvae = get_upstream("vdvae")
    assert vdvae.url == "https://github.com/openai/vdvae"
    assert vdvae.commit == "ea35b490313bc33e7f8ac63dd8132f3cc1a729b4"
    assert set(vdvae.files) == {"hps.py", "vae.py", "vae_helpers.py"}
    assert vdvae.license == "MIT"


@pytest.mark.parametrize("upstream", upstreams().values(), ids=lambda upstream: upstream.name)
def test_every_embedded_package_of_the_manifest_is_there(upstream: Upstream) -> None:
    assert upstream.embedded is None or importlib.util.find_spec(upstream.embedded) is not None


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match="unknown upstream 'vdve'; did you mean 'vdvae'"):
        get_upstream("vdve")


def test_files_below_the_root_are_importable_by_their_path_from_it() -> None:
    assert set(read_manifest(GOOD)["nvae"].importable()) == {"model.py", "utils/utils.py"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('commit = "' + "a" * 40, 'commit = "aaaa', "all 40 hexadecimal digits, not 'aaaa'"),
        ("https://", "http://", "url must start with https://"),
        ("https://", "ext::sh -c ", "url must start with https://"),
        ("b" * 64, "b" * 63, "a SHA-256 is 64 hexadecimal digits"),
        ('"src/model.py"', '"../model.py"', "'../model.py' must be a path inside the repository"),
        ('"src/model.py"', '"/src/model.py"', "'/src/model.py' must be a path inside the repository"),
        ('"src/model.py"', '"src//model.py"', "'src//model.py' must be a path inside the repository"),
        ('root = "src"', 'root = "../src"', "root '../src' must be a folder inside the repository"),
        ('license = "MIT"', "", "lacks license"),
        ('license = "MIT"', 'licence = "MIT"', "unknown key 'licence'; did you mean 'license'"),
        ('license = "MIT"', "license = 3", "license is not text: 3"),
        ("[nvae.files]", '[nvae.files]\n"x.py" = 3', "files is not text"),
        ("[nvae]", "[NVAE-2]", "lower case letters, digits and underscores"),
        ('root = "src"', "root = src", "not TOML"),
    ],
)
def test_a_manifest_that_pins_nothing_is_refused_in_one_line(old: str, new: str, message: str) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new).replace("[nvae.", "[NVAE-2." if "NVAE" in new else "[nvae.")
    with pytest.raises(HostError, match=re.escape(message)) as caught:
        read_manifest(text)
    assert "\n" not in str(caught.value)


def test_a_manifest_without_files_is_refused() -> None:
    with pytest.raises(HostError, match="no files are pinned"):
        read_manifest(GOOD.partition("[nvae.files]")[0] + "files = {}")
    with pytest.raises(HostError, match="must be a table"):
        read_manifest("nvae = 3")
