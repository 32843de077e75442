"""Windows, boxes and pixels: against slow references, and properties that hold for any image."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raydet.data.images import geometry as geo
from raydet.data.images import resample as px
from tests.data.makers import make_image

SIDES = st.integers(1, 400)
SEEDS = st.integers(0, 2**32)


def detection(seed: int, hw: tuple[int, int], size: int = 128, low: float = 0.1, high: float = 2.0) -> geo.Geometry:
    return geo.detection_window(geo.generator(seed, 0, 0), hw, size, (low, high), 0.5)


def to_file(view: geo.Geometry, boxes_K4: Any) -> Any:
    """Boxes in pixels of the file: the inverse of `apply_to_boxes` where nothing was clipped."""
    boxes_K4 = boxes_K4.astype(np.float64)
    if view.flip:
        boxes_K4[:, [0, 2]] = view.content[1] - boxes_K4[:, [2, 0]]
    return boxes_K4 / np.tile(view.scale, 2) + np.tile(view.window[:2], 2)


@settings(max_examples=200, deadline=None, database=None)
@given(SIDES, SIDES, SEEDS)
def test_boxes_always_lie_within_the_content(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(-20, max(height, width) + 20, (30, 2, 2)), axis=1)
    boxes_K4 = corners.reshape(30, 4).astype(np.float32)
    for view in (detection(seed, (height, width)), geo.letterbox((height, width), 128)):
        moved_K4, kept_K = geo.apply_to_boxes(view, boxes_K4, 1.0)
        assert len(moved_K4) == kept_K.sum()
        assert (moved_K4 >= 0).all()
        assert (moved_K4[:, [1, 3]] <= view.content[0]).all() and (moved_K4[:, [0, 2]] <= view.content[1]).all()
        assert ((moved_K4[:, 2:] - moved_K4[:, :2]) >= 0.999).all()
        assert view.content[0] <= 128 and view.content[1] <= 128


@settings(max_examples=200, deadline=None, database=None)
@given(SIDES, SIDES, SEEDS)
def test_windows_lie_within_the_image(height: int, width: int, seed: int) -> None:
    rng = geo.generator(seed, 0, 0)
    views = [
        detection(seed, (height, width)),
        geo.letterbox((height, width), 128),
        geo.random_resized_crop(rng, (height, width), 32, (0.08, 1), (3 / 4, 4 / 3), 0.5),
        geo.centre_crop((height, width), 32, 8),
    ]
    for view in views:
        x1, y1, x2, y2 = view.window
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert min(view.content) >= 1


@settings(max_examples=100, deadline=None, database=None)
@given(SIDES, SIDES, SEEDS)
def test_letterbox_and_back_is_the_identity(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes_K4 = np.sort(rng.uniform(0, 1, (20, 2, 2)), axis=1).reshape(20, 4).astype(np.float32)
    boxes_K4 *= np.array([width, height] * 2, np.float32)
    view = geo.letterbox((height, width), 512)
    moved_K4, kept_K = geo.apply_to_boxes(view, boxes_K4, 0.0)
    assert np.allclose(to_file(view, moved_K4), boxes_K4[kept_K], atol=1e-2)


def test_flipped_window_and_back_is_the_identity_for_boxes_inside() -> None:
    view = geo.detection_window(geo.generator(0, 0, 0), (90, 120), 128, (1.0, 1.0), 1.0)
    boxes_K4 = np.array([[10, 20, 50, 60], [0, 0, 120, 90]], np.float32)
    moved_K4, _ = geo.apply_to_boxes(view, boxes_K4, 1.0)
    assert view.flip
    assert moved_K4[0].tolist() == pytest.approx([70 / 120 * 128, 20 / 90 * 96, 110 / 120 * 128, 60 / 90 * 96])
    assert np.allclose(to_file(view, moved_K4), boxes_K4, atol=1e-3)


def test_small_boxes_are_dropped_after_clipping() -> None:
    view = geo.Geometry((50.0, 0.0, 100.0, 50.0), (50, 50), (64, 64))
    boxes_K4 = np.array([[0, 0, 50.5, 50], [0, 0, 51, 50], [0, 0, 50, 50], [60, 10, 70, 10.2]], np.float32)
    moved_K4, kept_K = geo.apply_to_boxes(view, boxes_K4, 1.0)
    assert kept_K.tolist() == [False, True, False, False]
    assert moved_K4.tolist() == [[0, 0, 1, 50]]
    assert geo.apply_to_boxes(view, boxes_K4, 0.0)[1].tolist() == [True, True, False, True]


def test_scale_law_is_the_cards() -> None:
    views = [detection(seed, (480, 640), 512, 0.5, 0.5 + 1e-9) for seed in range(3)]
    assert {view.content for view in views} == {(192, 256)}
    scales = [detection(seed, (300, 600), 512).scale[0] * 600 / 512 for seed in range(2000)]
    assert np.quantile(scales, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx([0.1, 0.575, 1.05, 1.525, 2], abs=0.06)


def test_large_views_are_cut_at_random_places_and_half_are_flipped() -> None:
    views = [geo.detection_window(geo.generator(1, 0, i), (100, 100), 100, (2.0, 2.0), 0.5) for i in range(500)]
    corners = np.array([view.window[:2] for view in views])
    assert corners.min() == 0 and corners.max() == 50
    assert corners.mean() == pytest.approx(25, abs=2)
    assert np.mean([view.flip for view in views]) == pytest.approx(0.5, abs=0.07)


def slow_reference(image: Image.Image, view: geo.Geometry, whole: tuple[int, int], offset: tuple[int, int]) -> Image:
    big = image.resize(whole[::-1], Image.Resampling.BILINEAR)
    y, x = offset
    part = big.crop((x, y, x + view.content[1], y + view.content[0]))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else part


@pytest.mark.parametrize("seed", range(8))
def test_pixels_equal_pillows_of_the_window_flipped_afterwards(seed: int) -> None:
    image = make_image(seed, (120 + seed * 7, 160))
    view = detection(seed, (image.height, image.width), 128, 0.4, 2.0)
    expected = image.crop(view.window).resize(view.content[::-1], Image.Resampling.BILINEAR)
    if view.flip:
        expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    content = px.cut(view, image, "bilinear")
    assert np.abs(content.astype(int) - np.asarray(expected)).max() <= 1
    x1, y1, x2, y2 = view.whole_pixels
    window = np.asarray(image)[y1:y2, x1:x2]
    assert np.array_equal(px.cut_array(view, window, "bilinear"), content)
    cubic = image.crop(view.window).resize(view.content[::-1], Image.Resampling.BICUBIC)
    cubic = cubic.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else cubic
    assert np.abs(px.cut(view, image, "bicubic").astype(int) - np.asarray(cubic)).max() <= 2


def test_windows_have_whole_pixels_and_nearly_the_scale_asked_for() -> None:
    for seed in range(200):
        view = detection(seed, (427, 640), 512)
        assert view.whole_pixels == view.window
        x, y = view.scale
        # Half a pixel of the narrowest window (a quarter of the image's shorter side) is what rounding can move.
        assert x / y == pytest.approx(1, abs=1 / min(view.content) + 0.5 / 213)


def test_centre_crop_pixels_equal_torchvisions_steps() -> None:
    for hw in ((375, 500), (500, 333), (224, 224), (60, 200)):
        image = make_image(3, hw)
        view = geo.centre_crop(hw, 224, 32)
        short, long = 256, int(256 * max(hw) / min(hw))
        whole = (short, long) if hw[0] <= hw[1] else (long, short)
        offset = ((whole[0] - 224) // 2, (whole[1] - 224) // 2)
        content = px.apply_to_image(view, image).astype(int)
        assert np.abs(content - np.asarray(slow_reference(image, view, whole, offset))).max() <= 1


def test_content_is_flipped_before_it_is_padded() -> None:
    image = make_image(1, (60, 100))
    view = geo.Geometry((0.0, 0.0, 100.0, 60.0), (60, 100), (128, 128), flip=True)
    pixels_HW3 = px.apply_to_image(view, image)
    assert np.array_equal(pixels_HW3[:60, :100], np.asarray(image)[:, ::-1])
    assert (pixels_HW3[60:] == geo.MEAN_COLOUR).all() and (pixels_HW3[:, 100:] == geo.MEAN_COLOUR).all()


def test_boxes_follow_the_pixels() -> None:
    dark = np.full((200, 300, 3), 250, np.uint8)
    dark[60:120, 90:200] = 5
    for seed in range(30):
        view = detection(seed, (200, 300), 128, 0.5, 1.6)
        boxes_K4, _ = geo.apply_to_boxes(view, np.array([[90, 60, 200, 120]], np.float32), 1.0)
        pixels_HW = px.apply_to_image(view, Image.fromarray(dark), (250, 250, 250))[..., 0]
        ys, xs = np.nonzero(pixels_HW < 128)
        if len(boxes_K4) == 0:
            assert len(ys) <= 128
            continue
        assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == pytest.approx(boxes_K4[0].tolist(), abs=1)


def test_smaller_decoded_image_gives_nearly_the_same_pixels() -> None:
    image = make_image(5, (400, 600))
    view = detection(3, (400, 600), 128, 0.8, 0.9)
    half = image.resize((300, 200), Image.Resampling.BOX)
    fast = np.asarray(px.cut(view, half, "bilinear", factor=2)).astype(int)
    assert np.abs(fast - np.asarray(px.cut(view, image, "bilinear"))).max() <= 3


@pytest.mark.slow
def test_random_crops_are_distributed_as_torchvisions() -> None:
    torch = pytest.importorskip("torch")
    v2 = pytest.importorskip("torchvision.transforms.v2")
    theirs = v2.RandomResizedCrop(224, (0.08, 1.0), (3 / 4, 4 / 3))
    for hw in ((375, 500), (200, 800)):
        blank = torch.zeros(3, *hw, dtype=torch.uint8)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            params = [theirs.make_params([blank]) for _ in range(2000)]
        expected = np.array([p["height"] * p["width"] for p in params]) / math.prod(hw)
        crops = [
            geo.random_resized_crop(geo.generator(0, 0, i), hw, 224, (0.08, 1), (3 / 4, 4 / 3), 0) for i in range(2000)
        ]
        windows = np.array([view.window for view in crops])
        area = (windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1]) / math.prod(hw)
        quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
        assert np.quantile(area, quantiles) == pytest.approx(np.quantile(expected, quantiles), abs=0.04)


def test_same_key_same_view_and_any_other_key_another() -> None:
    views = {detection(s, (400, 500)) for s in (1, 2)} | {
        geo.detection_window(geo.generator(1, e, r), (400, 500), 128, (0.1, 2), 0.5) for e, r in ((0, 1), (1, 0))
    }
    assert len(views) == 4
    assert detection(1, (400, 500)) in views
