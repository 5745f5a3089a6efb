"""Pickles: arrays are read, and nothing is ever run."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_samples import python2_batch, random_images

from vdvae_patch.data.pickles import read_arrays
from vdvae_patch.errors import DataError


class Hostile:
    """Makes a file when it is unpickled by the ordinary `pickle.load`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data_batch_1"


def test_a_python_2_pickle_gives_its_array(file: Path) -> None:
    images = random_images(5)
    file.write_bytes(python2_batch(images))
    reference = pickle.loads(file.read_bytes(), encoding="bytes")[b"data"]
    np.testing.assert_array_equal(read_arrays(file)["data"], reference)
    np.testing.assert_array_equal(reference.reshape(5, 3, 32, 32).transpose(0, 2, 3, 1), images)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("key", ["data", b"data"])
def test_what_python_3_writes_is_read_too(file: Path, protocol: int, order: Any, key: str | bytes) -> None:
    array = np.array(random_images(4).reshape(4, -1), order=order)
    file.write_bytes(pickle.dumps({key: array, b"labels": [1, 2, 3, 4], b"numbers": np.arange(3)}, protocol=protocol))
    arrays = read_arrays(file)
    assert list(arrays) == ["data"]  # arrays of anything but uint8 are left out
    np.testing.assert_array_equal(arrays["data"], array)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_tries_to_run_code_is_refused_and_nothing_runs(file: Path, tmp_path: Path, protocol: int) -> None:
    file.write_bytes(pickle.dumps({b"data": Hostile(tmp_path / "made")}, protocol=protocol))
    with pytest.raises(DataError, match=r"data_batch_1: the pickle asks for \w+\.mkdir, .* nothing of it was run"):
        read_arrays(file)
    assert not (tmp_path / "made").exists()
    pickle.loads(file.read_bytes())  # the ordinary reader would have run it
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "name",
    ["builtins eval", "builtins getattr", "numpy load", "numpy.f2py compile", "numpy.core.multiarray scalar",
     "_codecs decode", "copyreg _reconstructor", "vdvae_patch.data.pickles read_arrays"],
)  # fmt: skip
def test_only_what_rebuilds_an_array_may_be_named(file: Path, name: str) -> None:
    module, attribute = name.split()
    file.write_bytes(f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(DataError, match=rf"asks for {module}\.{attribute}, which no array of pixels needs"):
        read_arrays(file)


def test_an_array_of_objects_is_no_way_in(file: Path, tmp_path: Path) -> None:
    file.write_bytes(pickle.dumps({"data": np.array([Hostile(tmp_path / "made")], dtype=object)}))
    with pytest.raises(DataError, match="nothing of it was run"):
        read_arrays(file)
    assert not (tmp_path / "made").exists()


def test_other_codecs_are_not_looked_up(file: Path) -> None:
    file.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")
    with pytest.raises(DataError, match="bytes in an unknown encoding"):
        read_arrays(file)


def test_an_array_whose_bytes_do_not_fill_its_shape_is_not_taken(file: Path) -> None:
    content = python2_batch(random_images(2))
    file.write_bytes(content.replace(b"J\x02\x00\x00\x00J\x00\x0c\x00\x00", b"J\x09\x00\x00\x00J\x00\x0c\x00\x00"))
    assert read_arrays(file) == {}


def test_every_cut_of_a_pickle_is_reported_in_one_line(file: Path) -> None:
    content = python2_batch(random_images(1))
    boundaries = {position for _, _, position in pickletools.genops(io.BytesIO(content)) if position}
    for cut in sorted(boundaries | {1, 100, len(content) - 1}):
        file.write_bytes(content[:cut])
        with pytest.raises(DataError, match=r"data_batch_1: cut off or damaged \([^\n]+\); delete it") as caught:
            read_arrays(file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x02}b.", bytes(100), b"\x80\xff", b"(((((("])
def test_bytes_that_are_no_pickle_are_damage(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(DataError, match="cut off or damaged"):
        read_arrays(file)


def test_damage_anywhere_gives_an_error_of_ours_or_an_array(file: Path) -> None:
    content = bytearray(python2_batch(random_images(1)))
    random = np.random.RandomState(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[random.randint(250)] = random.randint(256)
        file.write_bytes(damaged)
        try:
            arrays = read_arrays(file)
        except DataError:
            continue
        assert all(array.dtype == np.uint8 for array in arrays.values())


def test_a_pickle_of_something_else_says_what_it_is(file: Path) -> None:
    file.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match="holds a list, not a dictionary"):
        read_arrays(file)


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(DataError, match="data_batch_1: cannot be read"):
        read_arrays(file)
