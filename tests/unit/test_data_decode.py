"""An image file gives the pixels that a viewer shows, whatever its colour mode, and nothing but images is decoded."""

from __future__ import annotations

import io
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from data_samples import random_images
from PIL import Image, ImageCms

from vdvae_patch.data.decode import FORMATS, read_image
from vdvae_patch.errors import DataError

COLOURS = ((200, 30, 40), (20, 180, 60), (30, 50, 190), (240, 240, 240))


def blocks(size: int = 32) -> np.ndarray:
    """Four squares of one colour each: every mode and every compression can hold them."""
    image = np.empty((size, size, 3), np.uint8)
    half = size // 2
    for n, colour in enumerate(COLOURS):
        image[n // 2 * half : (n // 2 + 1) * half, n % 2 * half : (n % 2 + 1) * half] = colour
    return image


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "ppm", "tif"])
def test_an_ordinary_image_is_read_as_it_always_was(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    iio.imwrite(path, random_images(1, 16)[0])
    np.testing.assert_array_equal(read_image(path), iio.imread(path, plugin="pillow", index=0))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_ink_and_not_light(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"print.{suffix}"
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(blocks()).convert("CMYK").save(path, **options)
    assert np.abs(read_image(path).astype(int) - blocks()).max() <= 6


def test_lab_is_converted_by_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "lab.tif"
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    made = ImageCms.profileToProfile(Image.fromarray(blocks()), srgb, lab, outputMode="LAB")
    assert made is not None
    made.save(path)
    with Image.open(path) as again:
        assert again.mode == "LAB"
    assert np.abs(read_image(path).astype(int) - blocks()).max() <= 12  # of the 8 bits of L, a and b


@pytest.mark.parametrize("suffix", ["png", "pgm", "tif"])
def test_grey_of_16_bits_is_scaled_to_8(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 257, 40_000, 65_535]] * 4, np.uint16)
    path = tmp_path / f"deep.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 4 4 65535\n" + deep.astype(">u2").tobytes())
    else:
        Image.fromarray(deep).save(path)
    expected = np.round(deep / 257).astype(np.uint8)
    np.testing.assert_array_equal(read_image(path), np.stack([expected] * 3, axis=-1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_scan_whose_zero_is_white_is_no_negative(tmp_path: Path, dtype: type) -> None:
    steps = (np.arange(16).reshape(4, 4) * 17).astype(dtype) * (np.iinfo(dtype).max // 255)
    Image.fromarray(steps).save(tmp_path / "scan.tif", tiffinfo={262: 0})
    shown = 255 - np.arange(16).reshape(4, 4) * 17
    if dtype is np.uint8:  # Pillow turns these over when it writes, too
        shown = 255 - shown
    np.testing.assert_array_equal(read_image(tmp_path / "scan.tif")[:, :, 0], shown)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_of_32_bits_are_refused_by_their_mode(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "wide.tif")
    with pytest.raises(DataError, match=r"wide\.tif: its values are of Pillow's mode '[FI]'.*convert it first"):
        read_image(tmp_path / "wide.tif")


def test_black_and_white_palettes_and_alpha_are_the_colours_that_they_name(tmp_path: Path) -> None:
    flags = np.eye(8, dtype=bool)
    Image.fromarray(flags).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png")[..., 1], flags * 255)

    palette = Image.fromarray(blocks()).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "transparent.png", transparency=0)
    for name in ("palette", "transparent"):
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), blocks())

    grey = random_images(1, 8, 2)[0]
    Image.fromarray(grey, mode="LA").save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([grey[..., 0]] * 3, axis=-1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_an_image_is_turned_as_its_exif_says(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = blocks(16)
    # what must be done to show the stored pixels, and the other way round
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossy = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **lossy)
    assert np.abs(read_image(path).astype(int) - upright).max() <= 6


def test_damaged_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    Image.fromarray(blocks()).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x01", quality=100, subsampling=0)
    assert np.abs(read_image(path).astype(int) - blocks()).max() <= 3


def test_the_first_picture_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.fromarray(blocks()), Image.fromarray(255 - blocks())]
    for name in ("film.gif", "film.png", "pages.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert np.abs(read_image(tmp_path / name).astype(int) - blocks()).max() <= 8, name


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
            "it is an EPS or PostScript file",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html><body>404</body></html>", r"it is a web page \(HTML\)"),
        (b"", "it is an empty file"),
        (bytes(900), "nothing but zeros"),
    ],
)
def test_what_is_called_an_image_and_is_none_is_named_and_not_decoded(
    tmp_path: Path, content: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("ghostscript was started"))
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"image\.png: not a whole image \(.*{says}.*\); replace or remove it"):
        read_image(tmp_path / "image.png")


def test_no_format_is_decoded_that_is_not_named(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(blocks()).save(content, "PCX")
    (tmp_path / "image.png").write_bytes(content.getvalue())
    assert "PCX" not in FORMATS
    with pytest.raises(DataError, match="not a whole image"):
        read_image(tmp_path / "image.png")
