"""Boxes on images: where the pixels change, that tags stay inside, that odd input is drawn or refused."""

import math

import numpy as np
import pytest
from PIL import Image

from raydet.visualization.boxes import (
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    Colour,
    _contrast,
    caption,
    class_colour,
    contact_sheet,
    draw_comparison,
    draw_detections,
)

RED: Colour = (255, 0, 0)


def grey(height: int = 400, width: int = 600) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def changed(drawn: Image.Image) -> tuple[int, int, int, int] | None:
    return Image.fromarray((np.asarray(drawn) != 128).any(2)).getbbox()


def colours(drawn: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(c) for c in np.asarray(drawn).reshape(-1, 3).tolist()}


def test_a_box_is_drawn_on_its_edges_and_the_input_stays() -> None:
    image = grey()
    drawn = draw_detections(image, np.array([[100, 100, 300, 250]]), [""], colour=RED)
    assert (image == 128).all()
    assert changed(drawn) == (100, 100, 301, 251)
    pixels = np.asarray(drawn)
    assert (
        tuple(pixels[100, 200]) == tuple(pixels[250, 200]) == tuple(pixels[180, 100]) == tuple(pixels[180, 300]) == RED
    )
    assert tuple(pixels[175, 200]) == (128, 128, 128)


@pytest.mark.parametrize(
    "box", [[0, 0, 5, 5], [590, 390, 600, 400], [590, 0, 600, 4], [0, 395, 3, 400], [-50, -50, 900, 900]]
)
def test_a_tag_stays_inside_the_image(box: list[float]) -> None:
    boxed = draw_detections(grey(), np.array([box]), [""], colour=RED)
    tagged = draw_detections(grey(), np.array([box]), ["a rather long class name"], [0.5], colour=RED)
    plate = (np.asarray(tagged) != np.asarray(boxed)).any(2)
    assert tagged.size == (600, 400)
    assert plate.sum() > 1500, "the whole plate is visible"


def test_a_name_wider_than_the_image_is_cut() -> None:
    assert draw_detections(grey(), np.array([[5, 5, 50, 50]]), ["x" * 500], [0.5]).size == (600, 400)


def test_tags_of_equal_boxes_do_not_cover_each_other() -> None:
    box = [100, 100, 300, 250]
    one = draw_detections(grey(), np.array([box]), ["cat"], [0.9], colour=RED)
    three = draw_detections(grey(), np.array([box] * 3), ["cat"] * 3, [0.9, 0.8, 0.7], colour=RED)
    dark = [(np.asarray(p) == 0).all(2).sum() for p in (one, three)]
    assert dark[1] > 2.5 * dark[0]


def test_a_small_image_is_enlarged_with_its_boxes() -> None:
    drawn = draw_detections(grey(40, 64), np.array([[16, 10, 32, 20]]), [""], colour=RED)
    assert drawn.size == (320, 200)
    assert changed(drawn) == (80, 50, 161, 101)


def test_boxes_that_are_not_finite_or_turned_round_do_no_harm() -> None:
    boxes = np.array([[np.nan, 0, 10, 10], [300, 250, 100, 100], [50, 50, np.inf, 60]])
    drawn = draw_detections(grey(), boxes, ["", "", ""], [math.nan, 0.5, 0.1], colour=RED)
    assert changed(drawn) == (100, 100, 301, 251)
    assert draw_detections(grey(), np.zeros((0, 4)), [], []).size == (600, 400)


@pytest.mark.parametrize("name", ["naïve", "物", "a\nb\0c", "<script>", " ", "🐱", "‮abc"])
def test_any_class_name_can_be_drawn(name: str) -> None:
    draw_detections(grey(), np.array([[100, 100, 300, 250]]), [name], [0.5])


def test_a_class_keeps_its_colour_and_others_differ() -> None:
    assert class_colour("cat") == (60, 234, 200)
    assert len({class_colour(f"class {i}") for i in range(90)}) == 90


def test_tag_text_always_contrasts_with_its_plate() -> None:
    def luminance(colour: Colour) -> float:
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in [*(class_colour(str(i)) for i in range(500)), TRUTH_COLOUR, PREDICTION_COLOUR]:
        low, high = sorted((luminance(colour), luminance(_contrast(colour))))
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour


@pytest.mark.slow
def test_truth_and_prediction_stay_visible_where_they_coincide() -> None:
    box = np.array([[100, 100, 300, 250]])
    drawn = draw_comparison(grey(), box, ["cat"], box, ["cat"], [0.9])
    assert {TRUTH_COLOUR, PREDICTION_COLOUR} <= colours(drawn)
    edge = {tuple(p) for p in np.asarray(drawn)[100:110, 200].tolist()}
    assert {TRUTH_COLOUR, PREDICTION_COLOUR} <= edge


def test_a_caption_stands_in_the_upper_left_corner() -> None:
    found = changed(caption(grey(), "golden retriever 0.93"))
    assert found is not None and found[:2] == (0, 0) and found[2] < 300 and found[3] < 30
    assert caption(grey(32, 32), "x").size == (320, 320)


def test_a_sheet_has_room_for_all_images_and_captions() -> None:
    images = [Image.new("RGB", size, RED) for size in ((100, 50), (80, 90), (60, 60))]
    page = contact_sheet(images, 2, ["one", "two", "three" * 50])
    red = (np.asarray(page) == RED).all(2).sum()
    assert red == 100 * 50 + 80 * 90 + 60 * 60
    assert page.width == 2 * 100 + 3 * 8
    assert contact_sheet(images, 9).width == 3 * 100 + 4 * 8


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="0 images"):
        contact_sheet([], 2)
    with pytest.raises(ValueError, match="got 1 for 2"):
        contact_sheet([Image.new("RGB", (9, 9))] * 2, 2, ["a"])
    with pytest.raises(ValueError, match="2 boxes need as many labels, got 1"):
        draw_detections(grey(), np.zeros((2, 4)), ["a"])
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got float64"):
        draw_detections(grey().astype(float), np.zeros((0, 4)), [])
