"""DALI's graph, run on the CPU, shows what Pillow shows: every operation, every window, whatever is in the batch."""

import functools
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydet.data.images.autoaugment import GREY, Operation, _magnitude, apply
from raydet.data.images.dali_decoder import installed
from raydet.data.images.dali_graph import build
from raydet.data.images.dali_inputs import DecodeJob, Shape, feed
from raydet.data.images.geometry import Geometry, letterbox
from raydet.data.images.resample import Pixels, cut, place
from tests.data.makers import make_image

pytestmark = pytest.mark.skipif(not installed(), reason="needs nvidia-dali")
SIZE = 160
FILL = (10, 200, 30)


def shape(**changes: Any) -> Shape:
    options = {"device": "cpu", "device_id": None, "batch": 8, "size": SIZE, "interpolation": "bilinear"}
    return Shape(**{**options, "fill": FILL, "jitter": False, "autoaugment": False, **changes})


def file(seed: int, hw: tuple[int, int]) -> bytes:
    rng, found = np.random.default_rng(seed), io.BytesIO()
    noise_HW3 = rng.integers(-30, 30, (*hw, 3)) + np.asarray(make_image(seed, hw))
    Image.fromarray(noise_HW3.clip(0, 255).astype(np.uint8)).save(found, "JPEG", quality=92)
    return found.getvalue()


def whole(seed: int, operations: tuple[Operation, ...] = ()) -> DecodeJob:
    """All of an image, not resized."""
    view = Geometry((0.0, 0.0, float(SIZE), float(SIZE)), (SIZE, SIZE), (SIZE, SIZE))
    return DecodeJob(file(seed, (SIZE, SIZE)), view, (SIZE, SIZE), operations)


built = functools.cache(build)
"""A graph takes half a second to build and any number of batches."""


def by_graph(made_for: Shape, works: list[DecodeJob]) -> Pixels:
    pipeline = built(made_for)
    feed(pipeline, made_for, works)
    pipeline.schedule_run()
    (images,) = pipeline.share_outputs()
    pixels_BHW3 = np.array(images.as_tensor())
    pipeline.release_outputs()
    return pixels_BHW3


def by_pillow(made_for: Shape, works: list[DecodeJob]) -> Pixels:
    pixels_BHW3 = np.empty((len(works), made_for.size, made_for.size, 3), np.uint8)
    for work, canvas_HW3 in zip(works, pixels_BHW3, strict=True):
        content_HW3 = cut(work.view, Image.open(io.BytesIO(work.encoded)).convert("RGB"), made_for.interpolation)
        place(work.view, apply(content_HW3, work.operations), made_for.fill, canvas_HW3)
    return pixels_BHW3


def levels(made_for: Shape, works: list[DecodeJob]) -> Any:
    """Per image, how far the two are from each other."""
    apart_BHW3 = np.abs(by_graph(made_for, works).astype(int) - by_pillow(made_for, works))
    return apart_BHW3.reshape(len(works), -1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Posterize", "Solarize", "Invert", "Sharpness", "Color", "Contrast"])
def test_an_operation_is_pillows_to_the_bit(name: Any) -> None:
    levels_8 = (1, 2, 3, 4, 5, 6, 7, 8)
    works = [whole(i, (Operation(name, _magnitude(name, i, i % 2 == 0)),)) for i in levels_8]
    assert levels(shape(autoaugment=True), works).max() == 0


@pytest.mark.parametrize(("name", "most"), [("AutoContrast", 1), ("Equalize", 3)])
def test_an_operation_is_pillows_but_for_levels(name: Any, most: int) -> None:
    assert levels(shape(autoaugment=True), [whole(i, (Operation(name),)) for i in range(8)]).max() <= most


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize"])
def test_a_image_of_one_colour_stays_as_it_is(name: Any) -> None:
    data = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (77, 77, 77)).save(data, "JPEG")
    work = DecodeJob(data.getvalue(), whole(0).view, (SIZE, SIZE), (Operation(name),))
    assert (by_graph(shape(autoaugment=True), [work]) == 77).all()


@pytest.mark.parametrize(
    ("name", "magnitudes"), [("Rotate", [-30, -80 / 3, -10, 10, 80 / 3, 30]), ("ShearX", [-1 / 6, 1 / 6])]
)
def test_turning_takes_pillows_pixels(name: Any, magnitudes: list[float]) -> None:
    found = levels(shape(autoaugment=True), [whole(i, (Operation(name, m),)) for i, m in enumerate(magnitudes)])
    assert (found > 0).mean() < 0.002  # where the source lies on a border between two pixels


def test_what_turning_leaves_empty_is_grey() -> None:
    work = whole(3, (Operation("Rotate", 30.0),))
    assert (by_graph(shape(autoaugment=True), [work])[0, [0, 0, -1, -1], [0, -1, 0, -1]] == GREY).all()


def test_two_operations_follow_one_another_and_neighbours_have_their_own() -> None:
    pairs = [("Posterize", "Invert"), ("Sharpness", "Solarize"), ("Color", "Contrast"), ("Solarize", "Posterize")]
    works = []
    for i, pair in enumerate(pairs):
        first, second = (Operation(name, _magnitude(name, 5, name == pair[1])) for name in pair)  # type: ignore[arg-type]
        works.append(whole(i, (first, second)))
    works += [whole(7), whole(8, (Operation("Invert"),))]
    assert levels(shape(autoaugment=True), works).max() <= 1


@pytest.mark.slow
def test_jitter_comes_first() -> None:
    drawn = [(0.3, -0.2, 0.4), (-0.4, 0.4, -0.4), (0.0, 0.0, 0.0)]
    works = []
    for i, (brightness, contrast, color) in enumerate(drawn):
        jitter = (Operation("Brightness", brightness), Operation("Contrast", contrast), Operation("Color", color))
        works += [whole(i, jitter), whole(i, (*jitter, Operation("Invert")))]
    assert levels(shape(autoaugment=True, jitter=True), works).max() <= 1
    assert levels(shape(jitter=True), works[::2]).max() <= 1


@pytest.mark.parametrize(("interpolation", "most"), [("bilinear", 1), ("bicubic", 12)])
def test_windows_of_all_sizes_are_pillows_up_to_their_borders(interpolation: str, most: int) -> None:
    rng, works = np.random.default_rng(0), []
    for i in range(40):
        hw = (int(rng.integers(2, 300)), int(rng.integers(2, 300)))
        width, height = int(rng.integers(2, hw[1] + 1)), int(rng.integers(1, hw[0] + 1))
        x, y = int(rng.integers(0, hw[1] - width + 1)), int(rng.integers(0, hw[0] - height + 1))
        content = (int(rng.integers(1, SIZE + 1)), int(rng.integers(1, SIZE + 1)))
        window = (float(x), float(y), float(x + width), float(y + height))
        works.append(DecodeJob(file(i, hw), Geometry(window, content, (SIZE, SIZE), bool(i % 2)), hw))
    found = levels(shape(interpolation=interpolation, batch=40), works)
    assert found.max() <= most and found.mean(axis=1).max() < 0.3


def test_the_content_is_flipped_before_it_is_padded() -> None:
    view = Geometry((0.0, 0.0, 40.0, 20.0), (30, 60), (SIZE, SIZE), True)
    (pixels_HW3,) = by_graph(shape(), [DecodeJob(file(1, (20, 40)), view, (20, 40))])
    assert (pixels_HW3[30:] == FILL).all() and (pixels_HW3[:, 60:] == FILL).all()
    assert not (pixels_HW3[:30, :60] == FILL).all(axis=2).any()
    (plain_HW3,) = by_graph(
        shape(), [DecodeJob(file(1, (20, 40)), Geometry(view.window, view.content, view.canvas), (20, 40))]
    )
    assert np.array_equal(pixels_HW3[:30, :60], plain_HW3[:30, :60][:, ::-1])


def test_exif_does_not_turn() -> None:
    marks, data = Image.Exif(), io.BytesIO()
    marks[0x0112] = 6
    make_image(2, (50, 80)).save(data, "JPEG", exif=marks)
    work = DecodeJob(data.getvalue(), letterbox((50, 80), SIZE), (50, 80))
    assert levels(shape(), [work]).max() <= 1


def test_batches_of_any_length_come_back_in_order() -> None:
    made_for = shape()
    pipeline, plain = built(made_for), [whole(i) for i in range(8)]
    expected = by_pillow(made_for, plain)
    for works in ([plain[:8], plain[:1]], [plain[3:5]], [plain[7:], plain[:7]]):
        for part in works:
            feed(pipeline, made_for, part)
            pipeline.schedule_run()
        for part in works:
            (images,) = pipeline.share_outputs()
            found = np.array(images.as_tensor())
            pipeline.release_outputs()
            first = plain.index(part[0])
            assert np.array_equal(found, expected[first : first + len(part)])
