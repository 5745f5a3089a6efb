"""A folder of images: all formats and colour modes become RGB of one square size."""

from __future__ import annotations

import threading
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from data_samples import random_images
from PIL import Image

from vdvae_patch.data import folder, load
from vdvae_patch.data.folder import FolderPixels, read_image
from vdvae_patch.data.listing import list_images
from vdvae_patch.data.normalization import FFHQ1024
from vdvae_patch.data.pixels import UInt8
from vdvae_patch.errors import DataError


def write_images(root: Path, n: int, size: int = 8) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    images = random_images(n, size)
    for index, image in enumerate(images):
        path = root / f"class{index % 2}" / f"{index // 2:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(path, image)
    return np.concatenate([images[::2], images[1::2]])  # in the order of their paths


def test_images_are_split_by_a_permutation_of_their_sorted_paths(tmp_path: Path) -> None:
    images = write_images(tmp_path, 30)
    (tmp_path / "notes.txt").write_text("not an image")
    data = load("images", tmp_path)
    permutation = np.random.RandomState(11172018).permutation(30)
    np.testing.assert_array_equal(data.valid, images[permutation[:3]])
    np.testing.assert_array_equal(data.test, images[permutation[3:6]])
    np.testing.assert_array_equal(data.train, images[permutation[6:]])
    assert data.normalization.shift == pytest.approx(images[permutation[6:]].mean(dtype=np.float64))


def test_images_too_many_for_memory_are_decoded_when_they_are_indexed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_images(tmp_path, 6)
    monkeypatch.setattr(folder, "IN_MEMORY_BYTES", 0)
    opened = folder.open_images(tmp_path)
    assert isinstance(opened, FolderPixels)
    np.testing.assert_array_equal(opened[np.array([5, 0])], images[[5, 0]])
    np.testing.assert_array_equal(opened[2:4], images[2:4])


def test_ffhq1024_takes_its_two_folders_and_publishes_the_same_numbers(tmp_path: Path) -> None:
    for part, value in (("train", 10), ("valid", 200)):
        (tmp_path / "ffhq1024" / part / "0").mkdir(parents=True)
        iio.imwrite(tmp_path / "ffhq1024" / part / "0" / "00000.png", np.full((1024, 1024, 3), value, np.uint8))
    data = load("ffhq1024", tmp_path)
    assert load("ffhq1024", tmp_path / "ffhq1024").provenance.fingerprint == data.provenance.fingerprint
    assert (data.train[0][0, 0, 0], data.valid[0][0, 0, 0]) == (10, 200)
    assert data.test is data.valid
    unit = np.arange(256) / 255
    np.testing.assert_allclose(
        (np.arange(256) - FFHQ1024.shift) * FFHQ1024.scale, (unit - 0.4387) / 0.2743, rtol=1e-12, atol=1e-14
    )
    np.testing.assert_allclose((np.arange(256) - 127.5) * FFHQ1024.target_scale, (unit - 0.5) * 2, atol=1e-14)


def test_ffhq1024_of_another_size_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 2)
    write_images(tmp_path / "valid", 2)
    with pytest.raises(DataError, match="8x8 pixels, but this data set has 1024x1024"):
        load("ffhq1024", tmp_path)


def test_grey_palette_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    grey = random_images(1, 8, 1)[0, :, :, 0]
    iio.imwrite(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([grey] * 3, axis=-1))

    rgba = random_images(1, 8, 4)[0]
    iio.imwrite(tmp_path / "rgba.png", rgba)
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), rgba[:, :, :3])

    from PIL import Image

    flat = np.full((8, 8, 3), (10, 200, 30), np.uint8)
    Image.fromarray(flat).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), flat)


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, 4)
    iio.imwrite(tmp_path / "class1" / "odd.png", np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(DataError, match=r"odd\.png: 9x8 pixels, but 8x8 are expected, as in 000\.png; crop or resize"):
        load("images", tmp_path)


def test_an_image_that_is_not_square_is_named(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "wide.png", np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(DataError, match=r"wide\.png: 9x8 pixels, not square"):
        load("images", tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("keep", [0, 5, 40, 150])
def test_a_damaged_image_is_named(tmp_path: Path, suffix: str, keep: int) -> None:
    write_images(tmp_path, 4, size=16)
    broken = tmp_path / f"broken.{suffix}"
    iio.imwrite(broken, random_images(1, 16)[0])
    broken.write_bytes(broken.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"broken\.{suffix}: not a whole image \([^\n]*\); replace or remove it"):
        load("images", tmp_path)


def test_a_folder_without_images_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images in it or below it; looked for \.bmp, \.gif, .*\.webp$"):
        load("images", tmp_path)


def test_two_images_are_too_few(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    with pytest.raises(DataError, match=r"2 image\(s\); at least 3"):
        load("images", tmp_path)


def test_images_are_decoded_by_threads_as_one_by_one_and_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    kinds = ("png", "jpg", "bmp", "gif", "tif", "ppm", "webp")
    for number in range(70):
        values = generator.integers(0, 256, (9, 9, 3), np.uint8)
        image = Image.fromarray(values if number % 3 else values[:, :, 0])
        turned = Image.Exif()
        turned[0x0112] = number % 9
        more = {"exif": turned} if kinds[number % 7] in ("jpg", "png", "webp") else {}
        image.save(tmp_path / f"{number:02d}.{kinds[number % 7]}", **more)
    paths = list_images(tmp_path).paths
    threads = set()

    def seen(path: Path) -> UInt8:
        threads.add(threading.get_ident())
        return read_image(path)

    monkeypatch.setattr(folder, "usable_cores", lambda: 4)
    monkeypatch.setattr(folder, "read_image", seen)
    monkeypatch.setattr(folder, "_A_PART", 32)
    order = generator.permutation(70)
    found = folder.FolderPixels(paths, 9)[order]
    assert found.tobytes() == np.stack([read_image(paths[index]) for index in order]).tobytes()
    assert threading.get_ident() not in threads


def test_of_several_bad_images_the_first_is_named_whichever_thread_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{number:02d}.png")
    (tmp_path / "39.png").write_bytes(b"nothing")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "17.png")
    monkeypatch.setattr(folder, "usable_cores", lambda: 4)
    with pytest.raises(DataError, match=r"17\.png: 4x4 pixels"):
        folder.open_images(tmp_path)
