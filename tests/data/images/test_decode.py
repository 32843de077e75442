"""Odd image files: each is read as it should be, or refused with the true cause."""

import io
import os
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from raydet.data.images.decode import open_image, read_rgb, read_size
from raydet.exceptions import DataError
from tests.data.makers import make_image


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def base() -> Image.Image:
    return make_image(1, (40, 60)).point(lambda v: 64 + v // 2)  # soft enough for 256 colours and JPEG


READ: dict[str, Callable[[Path], Path]] = {
    "rgb jpeg": lambda p: saved(p / "a.jpg", base(), quality=95),
    "progressive jpeg": lambda p: saved(p / "a.jpg", base(), quality=95, progressive=True),
    "cmyk jpeg": lambda p: saved(p / "a.jpg", base().convert("CMYK"), quality=95),
    "png named jpg": lambda p: saved(p / "a.jpg", base(), format="PNG"),
    "palette png": lambda p: saved(p / "a.png", base().quantize(256)),
    "palette png, transparent": lambda p: saved(p / "a.png", base().quantize(255), transparency=bytes([9] * 256)),
    "rgba png": lambda p: saved(p / "a.png", base().convert("RGBA")),
    "webp": lambda p: saved(p / "a.webp", base(), quality=95),
    "bmp": lambda p: saved(p / "a.bmp", base()),
    "tiff": lambda p: saved(p / "a.tiff", base()),
    "animated webp": lambda p: saved(p / "a.webp", base(), save_all=True, append_images=[base().rotate(180)]),
    "animated gif": lambda p: saved(p / "a.gif", base(), save_all=True, append_images=[base().rotate(180)]),
    "animated png": lambda p: saved(p / "a.png", base(), save_all=True, append_images=[base().rotate(180)]),
}


@pytest.mark.parametrize("kind", READ)
@pytest.mark.filterwarnings("error")
def test_kinds_of_files_read_as_the_image_they_show(tmp_path: Path, kind: str) -> None:
    pixels_HW3 = read_rgb(READ[kind](tmp_path))
    assert (pixels_HW3.shape, pixels_HW3.dtype) == ((40, 60, 3), np.uint8)
    assert np.abs(pixels_HW3.astype(int) - np.asarray(base())).mean() < 8


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, mode: str) -> None:
    pixels_HW3 = read_rgb(saved(tmp_path / "a.png", base().convert(mode)))
    assert np.array_equal(pixels_HW3[..., 0], pixels_HW3[..., 2])
    assert np.array_equal(pixels_HW3[..., 0], np.asarray(base().convert(mode).convert("L")))


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bit_grey_is_scaled_not_saturated(tmp_path: Path, ending: str) -> None:
    grey_HW = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    pixels_HW3 = read_rgb(saved(tmp_path / f"a.{ending}", Image.fromarray(grey_HW)))
    assert np.array_equal(pixels_HW3[..., 1], grey_HW >> 8)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_is_scaled(tmp_path: Path) -> None:
    rows = (b"\0" + struct.pack(">HHH", 0x1234, 0x8000, 0xFFFF) * 4) * 4
    (tmp_path / "a.png").write_bytes(png(4, 4, 16, 2, rows))
    assert read_rgb(tmp_path / "a.png")[0, 0].tolist() == [0x12, 0x80, 0xFF]


def test_exif_turns_only_when_asked(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.jpg", base(), exif=exif, quality=95)
    assert read_rgb(path).shape == (40, 60, 3)
    turned_HW3 = read_rgb(path, exif=True)
    assert turned_HW3.shape == (60, 40, 3)
    assert np.abs(turned_HW3.astype(int) - np.rot90(np.asarray(base()), -1)).mean() < 4
    with open_image(path, exif=True) as turned:
        assert turned.hw == (60, 40)


def test_auto_turns_where_the_stated_size_is_the_turned_images(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """All orientations, against ImageOps; JPEG and PNG; a square and 180 degrees are told by no size."""
    for ending in ("jpg", "png"):
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = saved(tmp_path / f"{orientation}.{ending}", base(), exif=exif)
            stored_HW3, shown_HW3 = np.asarray(Image.open(path)), np.asarray(ImageOps.exif_transpose(Image.open(path)))
            swapped = [((60, 40), True)] * (orientation > 4)
            for stated, turned in (((40, 60), False), (None, True), *swapped):
                with subtests.test(ending=ending, orientation=orientation, stated=stated):
                    expected = shown_HW3 if turned else stored_HW3
                    assert np.array_equal(read_rgb(path, exif="auto", stated=stated), expected)
                    with open_image(path, exif="auto", stated=stated) as opened:
                        assert opened.hw == expected.shape[:2]
            assert read_size(path) == shown_HW3.shape[:2] and read_size(path, exif=False) == (40, 60)
    exif[0x0112] = 6
    square = saved(tmp_path / "square.png", base().crop((0, 0, 40, 40)), exif=exif)
    assert np.array_equal(read_rgb(square, exif="auto", stated=(40, 40)), np.asarray(Image.open(square)))


def test_a_tiff_is_upright_however_it_is_asked_for(tmp_path: Path) -> None:
    """Pillow turns it by itself."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.tif", base(), exif=exif)
    for how in (False, True, "auto"):
        with open_image(path, exif=how) as opened:  # type: ignore[arg-type]
            assert opened.hw == (60, 40) and opened.load()[0].size == (40, 60)


def jpeg(**options: int) -> bytes:
    data = io.BytesIO()
    make_image(1, (200, 300)).save(data, "JPEG", **options)
    return data.getvalue()


REFUSED: dict[str, tuple[bytes | None, str, str]] = {
    "missing": (None, "IMG-E01", "No such file"),
    "empty": (b"", "IMG-E02", "is empty"),
    "text": (b"hello, I am no image", "IMG-E03", "text, not an image: 'hello"),
    "html": (b"<!DOCTYPE html><html>404", "IMG-E03", "web page"),
    "zeros": (b"\0" * 500, "IMG-E03", "zeros"),
    "other": (b"%PDF-1.4\x00\x01\x02", "IMG-E03", r"not one of JPEG.* 25 50 44 46"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "IMG-E03", "not an image"),
    "cut jpeg": (jpeg()[:1500], "IMG-E04", "cut short"),
    "cut jpeg header": (jpeg()[:15], "IMG-E04", "cut short"),
    "cut png": (png(40, 40, 8, 2, bytes(40 * 121))[:60], "IMG-E04", "cut short|damaged"),
    "damaged png": (png(40, 40, 8, 2, bytes(100)), "IMG-E04", "cut short|damaged"),
    "bomb": (png(20_000, 20_000, 8, 0, b""), "IMG-E05", "data.max_pixels=100000000: .*400000000 pixels"),
    "large": (png(12_000, 10_000, 8, 0, b""), "IMG-E05", "data.max_pixels=100000000: 12000 x 10000 pixels"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unreadable_files_name_the_file_and_the_cause(tmp_path: Path, kind: str) -> None:
    data, rule, message = REFUSED[kind]
    path = tmp_path / "näme 1.jpg"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_rgb(path)
    assert caught.value.rule == rule
    assert str(path) in str(caught.value)


def test_bomb_is_refused_at_its_header_with_little_memory(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(20_000, 20_000, 8, 2, bytes(60_001) * 800))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="IMG-E05"):
        read_rgb(tmp_path / "a.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_limit_can_be_raised_beyond_pillows_own(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(20_000, 10_000, 1, 0, b""))
    limit = Image.MAX_IMAGE_PIXELS
    with open_image(tmp_path / "a.png", max_pixels=300_000_000) as opened:
        assert opened.hw == (10_000, 20_000)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tiff", Image.fromarray(np.full((8, 8), np.nan, np.float32)))
    with pytest.raises(DataError, match="IMG-E06"):
        read_rgb(path)


def test_folders_and_pipes_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(DataError, match="is not a file"):
            read_rgb(path)


def test_wrong_case_of_the_name_is_pointed_out(tmp_path: Path) -> None:
    saved(tmp_path / "A.JPG", base())
    with pytest.raises(DataError, match=r"There is A\.JPG"):
        read_rgb(tmp_path / "a.jpg")


@pytest.mark.parametrize(("shrink", "factor"), [(1.0, 1), (0.6, 1), (0.5, 2), (0.3, 2), (0.25, 4), (0.01, 8)])
def test_jpeg_is_decoded_smaller_only_at_half_scale_and_below(tmp_path: Path, shrink: float, factor: int) -> None:
    path = tmp_path / "a.jpg"
    make_image(1, (203, 301)).save(path, quality=95)
    with open_image(path) as opened:
        image, got = opened.load(shrink)
    assert got == factor
    assert image.size == (-(-301 // factor), -(-203 // factor))
    assert opened.hw == (203, 301)


def test_size_comes_from_the_header(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", make_image(1, (200, 300)))
    path.write_bytes(path.read_bytes()[:1500])
    assert read_size(path) == (200, 300)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mutated_files_never_raise_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gif, webp, tiff = (io.BytesIO() for _ in range(3))
    base().save(gif, "GIF")
    base().save(webp, "WEBP")
    base().save(tiff, "TIFF", compression="tiff_lzw")
    whole = [jpeg(quality=40), jpeg(progressive=1), png(40, 40, 8, 2, bytes(40 * 121))]
    whole += [file.getvalue() for file in (gif, webp, tiff)]
    path = tmp_path / "a"
    for i in range(2000):
        data = bytearray(whole[i % len(whole)])
        for at in rng.integers(0, len(data) if i % 3 else min(len(data), 400), rng.integers(1, 8)):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data[: rng.integers(1, len(data))] if i % 4 == 0 else data)
        try:
            read_rgb(path, exif=True, max_pixels=10_000_000)
        except DataError as error:
            assert str(path) in str(error)
