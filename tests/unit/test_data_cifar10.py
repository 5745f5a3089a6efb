"""CIFAR-10: where it is looked for, how it is split, and what is said when it is not right."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from data_samples import FileServer, serving, write_cifar10, write_cifar10_archive
from sklearn.model_selection import train_test_split

from vdvae_patch.data import cifar10, load
from vdvae_patch.data.cifar10 import ARCHIVE, FOLDER, TRAIN_FILES
from vdvae_patch.data.split import hold_out
from vdvae_patch.errors import DataError

SUBSET = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("VDVAE_PATCH_CACHE", str(folder))
    monkeypatch.setenv("no_proxy", "*")
    return folder


def test_pixels_come_back_channels_last_and_in_the_order_of_the_files(tmp_path: Path) -> None:
    images = write_cifar10(tmp_path, rows=20)
    split = hold_out(100, seed=11172018, count=5000, end="first", source="test")

    data = load("cifar10", tmp_path)

    np.testing.assert_array_equal(data.train, images[:100][split.train])
    np.testing.assert_array_equal(data.valid, images[:100][split.held])
    np.testing.assert_array_equal(data.test, images[100:])
    assert (data.name, data.image_size, data.channels) == ("cifar10", 32, 3)


@pytest.mark.parametrize(("rows", "held"), [(50_000, 5_000), (5_170, 517)])
def test_the_split_is_scikit_learns(rows: int, held: int) -> None:
    train, valid = train_test_split(np.arange(rows), test_size=held, random_state=11172018)
    split = hold_out(rows, seed=11172018, count=5000, end="first", source="test")
    np.testing.assert_array_equal(split.train, train)
    np.testing.assert_array_equal(split.held, valid)


def test_a_subset_holds_out_a_tenth_and_says_so(tmp_path: Path) -> None:
    write_cifar10(tmp_path, rows=20)
    provenance = load("cifar10", tmp_path).provenance
    assert (provenance.train_count, provenance.valid_count, provenance.test_count) == (90, 10, 20)
    assert "10%, as this is a subset; 5,000 of the full set" in provenance.split
    assert "subset" not in hold_out(50_000, seed=1, count=5000, end="first", source="test").text


def test_the_root_may_be_the_folder_itself(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    outer, inner = load("cifar10", tmp_path), load("cifar10", tmp_path / FOLDER)
    assert outer.provenance.fingerprint == inner.provenance.fingerprint


@pytest.mark.parametrize("name_the_archive", [False, True])
def test_an_archive_is_verified_and_unpacked_beside_itself(tmp_path: Path, name_the_archive: bool) -> None:
    md5 = write_cifar10_archive(tmp_path / ARCHIVE, tmp_path / "made")
    root = tmp_path / ARCHIVE if name_the_archive else tmp_path
    splits = cifar10.read(root, download=False, md5=md5)
    assert len(splits.test) == 20
    assert (tmp_path / FOLDER / "test_batch").is_file()


def test_an_archive_in_a_folder_that_is_read_only_is_unpacked_to_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    md5 = write_cifar10_archive(root / ARCHIVE, tmp_path / "made")
    may_write = os.access  # the user who runs the tests may be root, to whom no folder is read-only
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != root and may_write(path, mode))
    assert cifar10.locate(root, allow_download=False, md5=md5) == cache / FOLDER
    assert [path.name for path in root.iterdir()] == [ARCHIVE]


def test_an_archive_that_is_cut_off_is_refused_by_its_md5(tmp_path: Path) -> None:
    md5 = write_cifar10_archive(tmp_path / ARCHIVE, tmp_path / "made")
    whole = (tmp_path / ARCHIVE).read_bytes()
    (tmp_path / ARCHIVE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"MD5 is \w+, not {md5}: it is cut off at [\d,]+ of 170,498,071 bytes"):
        cifar10.locate(tmp_path, allow_download=False, md5=md5)
    assert not (tmp_path / FOLDER).exists()


def test_a_root_without_the_data_says_what_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for data_batch_1, cifar-10-batches-py/ and .*leave --data-root out"):
        load("cifar10", tmp_path)


def test_missing_batch_files_are_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / FOLDER / "data_batch_3").unlink()
    with pytest.raises(DataError, match="has no data_batch_3: delete the folder and unpack"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("rows", [0, 7])
def test_a_batch_file_of_another_shape_is_refused(tmp_path: Path, rows: int) -> None:
    write_cifar10(tmp_path)
    mis_shaped = cifar10_rows(rows, 3072 if rows == 0 else 3071)
    (tmp_path / FOLDER / "data_batch_2").write_bytes(mis_shaped)
    with pytest.raises(DataError, match=rf"data_batch_2: `data` has shape \[{rows}, \d+\], not \[rows, 3072\]"):
        load("cifar10", tmp_path)


def cifar10_rows(rows: int, columns: int) -> bytes:
    import pickle

    return pickle.dumps({b"data": np.zeros((rows, columns), np.uint8)}, protocol=2)


def test_without_a_root_it_is_downloaded_once_into_the_cache(tmp_path: Path, cache: Path) -> None:
    md5 = write_cifar10_archive(tmp_path / ARCHIVE, tmp_path / "made")
    with serving(FileServer((tmp_path / ARCHIVE).read_bytes())) as server:
        first = cifar10.read(None, download=True, url=server.url, md5=md5)
        second = cifar10.read(None, download=True, url=server.url, md5=md5)
    assert server.asked == [None]
    np.testing.assert_array_equal(first.train, second.train)
    assert first.source == str(cache / FOLDER)


def test_ranks_that_ask_at_once_download_once(tmp_path: Path, cache: Path) -> None:
    md5 = write_cifar10_archive(tmp_path / ARCHIVE, tmp_path / "made")
    with serving(FileServer((tmp_path / ARCHIVE).read_bytes())) as server, ThreadPoolExecutor(4) as ranks:
        asks = [ranks.submit(cifar10.locate, None, allow_download=True, url=server.url, md5=md5) for _ in range(4)]
        assert [ask.result() for ask in asks] == [cache / FOLDER] * 4
    assert server.asked == [None]


def test_without_a_download_the_message_says_how_else(cache: Path) -> None:
    with pytest.raises(DataError, match=r"downloading is switched off; allow it, or download https://www\.cs\."):
        load("cifar10", None, download=False)


def test_a_damaged_archive_in_the_cache_is_not_unpacked_without_a_download(tmp_path: Path, cache: Path) -> None:
    cache.mkdir()
    md5 = write_cifar10_archive(tmp_path / ARCHIVE, tmp_path / "made")
    (cache / ARCHIVE).write_bytes((tmp_path / ARCHIVE).read_bytes() + b"more")
    with pytest.raises(DataError, match="MD5 is"):
        cifar10.locate(None, allow_download=False, md5=md5)


def test_a_cache_that_cannot_be_made_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VDVAE_PATCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="set VDVAE_PATCH_CACHE to a folder that can"):
        load("cifar10", None)


@pytest.mark.skipif(not (SUBSET / FOLDER).is_dir(), reason="no CIFAR-10 subset beside the repository")
def test_the_genuine_files_are_read_pixel_for_pixel(tmp_path: Path) -> None:
    import pickle

    data = load("cifar10", SUBSET)
    files = [pickle.loads((SUBSET / FOLDER / name).read_bytes(), encoding="bytes") for name in TRAIN_FILES]
    rows = np.concatenate([file[b"data"] for file in files]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    train, valid = train_test_split(rows, test_size=len(rows) // 10, random_state=11172018)
    np.testing.assert_array_equal(data.train, train)
    np.testing.assert_array_equal(data.valid, valid)
    inputs = (np.asarray(data.train, np.float64) - data.normalization.shift) * data.normalization.scale
    assert abs(inputs.mean()) < 0.05
    assert abs(inputs.std() - 1) < 0.05


@pytest.mark.skipif(not (SUBSET / FOLDER).is_dir(), reason="no CIFAR-10 subset beside the repository")
def test_a_genuine_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    shutil.copytree(SUBSET / FOLDER, tmp_path / FOLDER)
    (tmp_path / FOLDER).chmod(0o700)
    damaged = tmp_path / FOLDER / "data_batch_4"
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content[:1_000_000])
    with pytest.raises(DataError, match="data_batch_4: cut off or damaged"):
        load("cifar10", tmp_path)
