"""DALI's windows are Pillow's, bit for bit; what it cannot decode is handed back, and the next batch is sound."""

import importlib.util
import io
import multiprocessing
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydet.config import Config, Data, override
from raydet.data.images import dali_decoder
from raydet.data.images.dali_decoder import Header, WindowDecoder, check_installed, installed, plain_jpeg
from raydet.data.images.resample import Pixels
from raydet.exceptions import ConfigError
from tests.data.makers import make_image

needs_dali = pytest.mark.skipif(not installed(), reason="needs nvidia-dali")


@pytest.fixture
def decoder() -> Iterator[WindowDecoder]:
    made = WindowDecoder()
    yield made
    made.close()


def jpeg(seed: int, hw: tuple[int, int], mode: str = "RGB", **options: Any) -> bytes:
    rng = np.random.default_rng(seed)
    noise_HW3 = rng.integers(-40, 40, (*hw, 3)) + np.asarray(make_image(seed, hw))
    return encoded(Image.fromarray(noise_HW3.clip(0, 255).astype(np.uint8)).convert(mode), "JPEG", **options)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pillow(data: bytes, window: tuple[int, int, int, int]) -> Pixels:
    x1, y1, x2, y2 = window
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[y1:y2, x1:x2]


def some_window(rng: np.random.Generator, hw: tuple[int, int], at_least: int = 2) -> tuple[int, int, int, int]:
    width, height = int(rng.integers(min(at_least, hw[1]), hw[1] + 1)), int(rng.integers(1, hw[0] + 1))
    x, y = int(rng.integers(0, hw[1] - width + 1)), int(rng.integers(0, hw[0] - height + 1))
    return x, y, x + width, y + height


def same(decoder: WindowDecoder, files: list[bytes], windows: list[tuple[int, int, int, int]]) -> list[bool | None]:
    """Of each whether it is Pillow's; None: not decoded."""
    arrays = zip(decoder.decode(files, windows), files, windows, strict=True)
    return [None if array is None else np.array_equal(array, pillow(f, w)) for array, f, w in arrays]


@pytest.mark.slow
@needs_dali
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_windows_are_pillows(decoder: WindowDecoder, subsampling: int, progressive: bool) -> None:
    rng = np.random.default_rng(subsampling)
    files, windows = [], []
    for i, hw in enumerate([(1, 2), (2, 5), (16, 16), (17, 33), (37, 41), (120, 9), (60, 200)] * 6):
        options: dict[str, Any] = {
            "quality": int(rng.integers(20, 98)),
            "subsampling": subsampling,
            "progressive": progressive,
        }
        files.append(jpeg(i, hw, **options))
        windows.append(some_window(rng, hw))
    assert same(decoder, files, windows) == [True] * len(files)


@needs_dali
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("L", {}),
        ("RGB", {"keep_rgb": True}),
        ("RGB", {"restart_marker_blocks": 3}),
        ("RGB", {"icc_profile": b"x" * 70_000}),
    ],
)
def test_other_kinds_of_jpeg_are_pillows(decoder: WindowDecoder, mode: str, options: dict[str, Any]) -> None:
    data, rng = jpeg(1, (70, 90), mode, **options), np.random.default_rng(0)
    assert plain_jpeg(data, Data()) == Header((70, 90))
    assert same(decoder, [data] * 20, [some_window(rng, (70, 90)) for _ in range(20)]) == [True] * 20


@needs_dali
def test_exif_does_not_turn_the_window(decoder: WindowDecoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert same(decoder, [jpeg(1, (30, 50), exif=exif)], [(20, 3, 50, 9)]) == [True]


@needs_dali
def test_a_window_of_one_column_is_left_to_pillow(decoder: WindowDecoder) -> None:
    data = jpeg(1, (30, 50))
    assert same(decoder, [data] * 3, [(0, 0, 50, 30), (49, 3, 50, 9), (3, 3, 9, 4)]) == [True, None, True]


@needs_dali
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 40])
def test_any_number_of_images_comes_back_in_order(decoder: WindowDecoder, count: int) -> None:
    files = [jpeg(i, (20 + i, 30)) for i in range(count)]
    windows = [(0, 0, 30, 20 + i) for i in range(count)]
    for _ in range(2):
        assert same(decoder, files, windows) == [True] * count


@needs_dali
def test_a_damaged_file_costs_its_neighbours_nothing_but_time(decoder: WindowDecoder) -> None:
    sound, bad = jpeg(1, (64, 64)), b"\xff\xd8\xff" + b"no image at all" * 9 + b"\xff\xd9"
    files = [sound] * 20
    files[10] = bad
    found = [
        None if a is None else np.array_equal(a, pillow(sound, (4, 5, 33, 30)))
        for a in decoder.decode(files, [(4, 5, 33, 30)] * 20)
    ]
    assert found == [True] * 8 + [None] * 8 + [True] * 4
    assert same(decoder, [sound], [(0, 0, 64, 64)]) == [True]


@needs_dali
@pytest.mark.parametrize("window", [(0, 0, 65, 64), (60, 60, 70, 61), (5, 5, 5, 9), (9, 9, 4, 4), (-3, 0, 9, 9)])
def test_a_window_outside_the_image_is_not_decoded(decoder: WindowDecoder, window: tuple[int, int, int, int]) -> None:
    assert list(decoder.decode([jpeg(1, (64, 64))], [window])) == [None]


@needs_dali
def test_mutated_files_are_pillows_or_left_to_pillow(decoder: WindowDecoder) -> None:
    rng, sound = np.random.default_rng(0), [jpeg(i, (48, 64)) for i in range(4)]
    window, decoded = (8, 7, 60, 40), 0
    for i in range(60):
        data = bytearray(sound[i % 4])
        data[int(rng.integers(2, len(data) - 2))] = int(rng.integers(0, 256))
        (array,) = (None if a is None else a.copy() for a in decoder.decode([bytes(data)], [window]))
        if array is not None:
            decoded += 1
            assert np.array_equal(array, pillow(bytes(data), window))
    assert decoded > 20


@needs_dali
def test_large_windows_run_alone(decoder: WindowDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_decoder, "_PIXELS", 700)
    files = [jpeg(i, (40, 40)) for i in range(5)]
    windows = [(0, 0, 40, 40), (0, 0, 10, 40), (0, 0, 10, 30), (0, 0, 40, 40), (0, 0, 4, 4)]
    assert [len(part) for part in dali_decoder._parts(files, windows)] == [1, 2, 1, 1]
    assert same(decoder, files, windows) == [True] * 5


def _decode_in_child(decoder: WindowDecoder, data: bytes, out: Any) -> None:
    out.put(same(decoder, [data], [(3, 4, 30, 30)]))


@needs_dali
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used before"])
def test_it_works_in_forked_processes(decoder: WindowDecoder, used: bool) -> None:
    data = jpeg(1, (40, 40))
    if used:
        assert same(decoder, [data], [(0, 0, 40, 40)]) == [True]
    fork = multiprocessing.get_context("fork")
    out = fork.Queue()
    children = [fork.Process(target=_decode_in_child, args=(decoder, data, out), daemon=True) for _ in range(2)]
    for child in children:
        child.start()
    assert [out.get(timeout=60) for _ in children] == [[True], [True]]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert same(decoder, [data], [(0, 0, 40, 40)]) == [True]


@needs_dali
def test_it_travels_by_pickle_and_works_again_after_close(decoder: WindowDecoder) -> None:
    data = jpeg(1, (40, 40))
    assert same(decoder, [data], [(0, 0, 40, 40)]) == [True]
    other = pickle.loads(pickle.dumps(decoder))
    decoder.close()
    decoder.close()
    for one in (other, decoder):
        assert same(one, [data], [(1, 1, 40, 40)]) == [True]
    other.close()


@pytest.mark.parametrize(
    ("form", "mode", "expected"),
    [
        ("JPEG", "RGB", True),
        ("JPEG", "L", True),
        ("JPEG", "CMYK", False),
        ("PNG", "RGB", False),
        ("PNG", "P", False),
        ("WEBP", "RGB", False),
        ("BMP", "RGB", False),
        ("GIF", "P", False),
        ("TIFF", "RGB", False),
    ],
)
def test_only_plain_jpegs_are_dalis(form: str, mode: str, expected: bool) -> None:
    data = encoded(make_image(0, (8, 9)).convert(mode), form)
    assert plain_jpeg(data, Data()) == (Header((8, 9)) if expected else None)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"comment": b"\xff\xc0" * 99}, {"icc_profile": b"x" * 99_999}]
)
@pytest.mark.parametrize("hw", [(1, 1), (3, 700), (700, 3)])
def test_the_header_is_read_as_pillow_reads_it(hw: tuple[int, int], options: dict[str, Any]) -> None:
    assert plain_jpeg(jpeg(0, hw, **options), Data()) == Header(hw)


@pytest.mark.parametrize("cut", [1, 2, 100, 500])
def test_a_file_that_is_cut_is_left_to_pillow(cut: int) -> None:
    assert plain_jpeg(jpeg(1, (64, 64))[:-cut], Data()) is None


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xe0\0\0" * 9 + b"\xff\xd9"]
)
def test_no_image_at_all_is_left_to_pillow(data: bytes) -> None:
    assert plain_jpeg(data, Data()) is None


def test_headers_of_random_bytes_end_and_raise_nothing() -> None:
    rng, sound = np.random.default_rng(0), jpeg(1, (20, 20))
    for _ in range(2000):
        data = bytearray(sound)
        for _ in range(int(rng.integers(1, 5))):
            data[int(rng.integers(2, 700)) % len(data)] = int(rng.integers(0, 256))
        found = plain_jpeg(bytes(data), Data())
        assert found is None or min(found.hw) > 0


def test_too_many_pixels_are_left_to_pillow() -> None:
    data = jpeg(1, (20, 30))
    assert plain_jpeg(data, Data(max_pixels=600)) is not None
    assert plain_jpeg(data, Data(max_pixels=599)) is None


def test_a_jpeg_that_may_have_to_be_turned_is_left_to_pillow(subtests: pytest.Subtests) -> None:
    turned, upright = Image.Exif(), Image.Exif()
    turned[0x0112], upright[0x010F] = 6, "a maker"
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    cases = [
        (dict(exif=turned), False, None, False),
        (dict(exif=turned), True, None, True),
        (dict(exif=turned), "auto", None, True),
        (dict(exif=turned), "auto", (9, 8), True),
        (dict(exif=turned), "auto", (8, 9), False),
        (dict(exif=upright), True, None, False),
        (dict(xmp=xmp), "auto", None, True),
        (dict(xmp=xmp), False, None, False),
        ({}, "auto", (9, 8), False),
    ]
    for marks, exif, stated, left in cases:
        with subtests.test(marks=marks, exif=exif, stated=stated):
            found = plain_jpeg(jpeg(0, (8, 9), **marks), Data(exif=exif), stated)  # type: ignore[arg-type]
            assert found == (None if left else Header((8, 9)))


def _no_dali(name: str) -> None:
    return None


def _no_nvidia(name: str) -> None:
    raise ModuleNotFoundError("No module named 'nvidia'")


@pytest.mark.parametrize("find", [_no_dali, _no_nvidia])
@pytest.mark.parametrize("backend", ["dali-cpu", "dali-gpu"])
def test_a_missing_dali_is_said_with_its_remedy(backend: str, find: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(ConfigError, match=rf'data.backend={backend} .*not installed: pip install "raydet\[dali\]"'):
        check_installed(override(Config(), {"data.backend": backend, "scaling.use_gpu": True}))
    check_installed(Config())
