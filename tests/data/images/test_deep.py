"""More than 8 bits a channel: what becomes of every kind of file, narrow and broad, against the values written."""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from raydet.data.images.decode import open_image, read_rgb
from raydet.data.images.deep import to_eight_bits
from tests.data.images.test_decode import png

RAMP_HW = np.linspace(0, 1, 50 * 64).reshape(50, 64)


def sixteen(path: Path, values_HWC: npt.NDArray[np.uint16]) -> Path:
    """A 16-bit PNG of 1 (grey), 2 (with transparency), 3 or 4 channels; Pillow writes none of several."""
    height, width, channels = values_HWC.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    path.write_bytes(png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows))
    return path


def tiff(path: Path, values_HW3: npt.NDArray[np.uint16], order: str) -> Path:
    """A plain 16-bit RGB TIFF in either order of bytes."""
    height, width, _ = values_HW3.shape
    entries = [(256, 1, width), (257, 1, height), (258, 3, 122), (259, 1, 1), (262, 1, 2), (273, 1, 128)]
    entries += [(277, 1, 3), (278, 1, height), (279, 1, values_HW3.size * 2)]
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(entries))
    for tag, count, value in entries:
        long = tag in (258, 273, 279)
        packed = struct.pack(f"{order}I", value) if long else struct.pack(f"{order}HH", value, 0)
        head += struct.pack(f"{order}HHI", tag, 4 if tag in (273, 279) else 3, count) + packed
    bits = struct.pack(f"{order}3H", 16, 16, 16)
    path.write_bytes((head + bytes(4)).ljust(122, b"\0") + bits + values_HW3.astype(f"{order}u2").tobytes())
    return path


def test_sixteen_bits_are_scaled_by_their_range_where_that_is_narrow(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for low, high in ((51241, 52181), (0, 4095), (0, 16000), (0, 65535), (20000, 40000)):
        values_HW = (low + (high - low) * RAMP_HW).round().astype(np.uint16)
        narrow = (high - low) < 0.25 * 65535
        expected_HW = (values_HW - low) / (high - low) * 255 if narrow else values_HW >> 8
        for channels in (1, 2, 3, 4):
            values_HWC = np.repeat(values_HW[..., None], channels, 2)
            if channels in (2, 4):
                values_HWC[..., -1] = 65535  # transparency takes no part
            paths = [sixteen(tmp_path / "a.png", values_HWC)]
            if channels == 1:
                Image.fromarray(values_HW).save(tmp_path / "a.tif")
                paths.append(tmp_path / "a.tif")
            elif channels == 3:
                paths += [tiff(tmp_path / f"{i}.tif", values_HWC, order) for i, order in enumerate("<>")]
            for path in paths:
                with subtests.test(low=low, high=high, channels=channels, file=path.name):
                    pixels_HW3 = read_rgb(path)
                    assert np.abs(pixels_HW3 - expected_HW[..., None]).max() <= (1 if narrow else 0)
                    with open_image(path) as opened:
                        opened.load()
                        assert opened.scaled is not None and opened.scaled.narrow is narrow
                        assert f"{opened.scaled.low:g}" in str(opened.scaled)


def test_colours_keep_their_proportions(tmp_path: Path) -> None:
    values_HWC = np.zeros((20, 20, 3), np.uint16)
    values_HWC[:10] = (4000, 2000, 0)
    assert read_rgb(sixteen(tmp_path / "a.png", values_HWC))[0, 0].tolist() == [255, 128, 0]


def test_thirty_two_bits_are_read_by_their_range(tmp_path: Path, subtests: pytest.Subtests) -> None:
    cases = [
        (RAMP_HW.astype(np.float32), RAMP_HW * 255),
        ((RAMP_HW * 255).astype(np.float32), RAMP_HW * 255),
        ((RAMP_HW * 65535).astype(np.float32), RAMP_HW * 255.99),
        ((20 + RAMP_HW * 16).astype(np.float32), RAMP_HW * 255),  # degrees
        ((RAMP_HW * 3000 - 1000).astype(np.float32), RAMP_HW * 255),
        ((RAMP_HW * 1e6).astype(np.int32), RAMP_HW * 255),
        ((RAMP_HW * 3000 - 1000).astype(np.int32), RAMP_HW * 255),  # Hounsfield units
        ((RAMP_HW * 255).astype(np.int32), RAMP_HW * 255),
    ]
    for i, (values_HW, expected_HW) in enumerate(cases):
        with subtests.test(case=i):
            Image.fromarray(values_HW).save(tmp_path / "a.tif")
            assert np.abs(read_rgb(tmp_path / "a.tif")[..., 1] - expected_HW).max() <= 1.01


def test_dead_pixels_and_pixels_without_a_value_do_not_set_the_range() -> None:
    values_HW = (51241 + 940 * RAMP_HW.repeat(10, 0)).astype(np.uint16)
    values_HW[0, 0], values_HW[1, 1] = 0, 65535
    found = to_eight_bits(values_HW)
    assert found.narrow and found.low > 51000 and found.high < 52200 and len(np.unique(found.pixels)) == 256
    floats_HW = values_HW.astype(np.float32)
    floats_HW[5], floats_HW[6] = np.nan, np.inf
    assert len(np.unique(to_eight_bits(floats_HW).pixels)) == 256


def test_one_value_and_a_few_bright_pixels_come_through() -> None:
    assert np.unique(to_eight_bits(np.full((9, 9), 700, np.uint16)).pixels).tolist() == [2]
    assert np.unique(to_eight_bits(np.full((9, 9), -3.0, np.float32)).pixels).tolist() == [128]
    star_HW = np.zeros((200, 200), np.uint16)
    star_HW[5, 5] = 3000
    assert to_eight_bits(star_HW).pixels[5, 5] > 200
