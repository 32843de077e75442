"""AutoAugment repeats by its generator alone and shows what torchvision's shows for the same draws."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydet.data.images.autoaugment import _POLICY, GREY, Operation, Pixels, _magnitude, apply, draw, draw_jitter
from tests.data.makers import make_image

_SIZES = [(1, 1), (1, 9), (8, 1), (37, 61), (96, 96)]
_PLAIN = ["AutoContrast", "Equalize", "Invert"]
_SIGNED = ["Rotate", "ShearX", "Sharpness", "Color", "Contrast", "Brightness"]
_LEVELS = {"Posterize": range(10), "Solarize": range(1, 9)}


def _images(hw: tuple[int, int]) -> list[Pixels]:
    """Smooth, noise, black, one colour with one other pixel."""
    flat_HW3 = np.full((*hw, 3), 77, np.uint8)
    flat_HW3[0, 0] = 3
    noise_HW3 = np.random.default_rng(1).integers(0, 256, (*hw, 3), np.uint8)
    return [np.array(make_image(0, hw)), noise_HW3, np.zeros((*hw, 3), np.uint8), flat_HW3]


@pytest.fixture(scope="module")
def v2() -> Any:
    return pytest.importorskip("torchvision.transforms.v2")


def _torchvisions(v2: Any, pixels_HW3: Pixels, name: str, magnitude: float) -> Any:
    transform, image = v2.AutoAugment(fill=[GREY] * 3), Image.fromarray(pixels_HW3)
    nearest = v2.InterpolationMode.NEAREST
    return np.asarray(transform._apply_image_or_video_transform(image, name, magnitude, nearest, transform._fill))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*_PLAIN, *_SIGNED, *_LEVELS])
def test_every_operation_shows_what_torchvisions_shows(v2: Any, name: Any) -> None:
    for hw, pixels_HW3 in [(size, pixels_HW3) for size in _SIZES for pixels_HW3 in _images(size)]:
        told = v2.AutoAugment._AUGMENTATION_SPACE[name][0](10, *hw)
        for level in _LEVELS.get(name, range(10)):
            for negative in (False, True) if name in _SIGNED else (False,):
                theirs = 0.0 if told is None else float(told[level]) * (-1) ** negative
                expected_HW3 = _torchvisions(v2, pixels_HW3, name, theirs)
                got_HW3 = apply(pixels_HW3, (Operation(name, _magnitude(name, level, negative)),))
                apart = np.abs(got_HW3.astype(int) - expected_HW3).max()
                assert apart <= 1, (hw, level, negative)  # theirs are 32-bit magnitudes


def test_the_policy_is_torchvisions(v2: Any) -> None:
    theirs = v2.AutoAugment()._get_policies(v2.AutoAugmentPolicy.IMAGENET)
    assert [tuple((n, p, m or 0) for n, p, m in pair) for pair in theirs] == list(_POLICY)


def test_operations_follow_one_another_in_their_order() -> None:
    pixels_HW3 = _images((20, 30))[0]
    chain = (
        Operation("Posterize", 4.0),
        Operation("Rotate", 20.0),
        Operation("Solarize", 100.0),
        Operation("Color", 1),
    )
    one_by_one_HW3 = pixels_HW3
    for operation in chain:
        one_by_one_HW3 = apply(one_by_one_HW3, (operation,))
    assert np.array_equal(apply(pixels_HW3, chain), one_by_one_HW3)
    assert not np.array_equal(apply(pixels_HW3, chain[::-1]), one_by_one_HW3)


def test_no_operation_leaves_the_array_itself() -> None:
    pixels_HW3 = _images((5, 6))[1]
    assert apply(pixels_HW3, ()) is pixels_HW3


@pytest.mark.parametrize("name", [*_PLAIN, *_SIGNED, *_LEVELS])
def test_the_given_array_is_not_changed_and_the_result_is_writable(name: Any) -> None:
    for pixels_HW3 in _images((12, 9)):
        before = pixels_HW3.copy()
        changed_HW3 = apply(pixels_HW3, (Operation(name, _magnitude(name, 7, True)),))
        changed_HW3[0, 0] = 1
        assert changed_HW3.shape == (12, 9, 3) and changed_HW3.dtype == np.uint8
        assert np.array_equal(pixels_HW3, before)


@pytest.mark.parametrize("operation", [Operation("Rotate", 45.0), Operation("ShearX", 0.5)])
def test_what_is_left_empty_is_grey(operation: Operation) -> None:
    turned_HW3 = apply(np.full((64, 64, 3), 255, np.uint8), (operation,))
    assert set(np.unique(turned_HW3)) == {GREY, 255}


def test_draws_depend_on_the_generator_alone() -> None:
    first = [draw(np.random.default_rng(seed)) for seed in range(50)]
    np.random.default_rng(3).random(5)
    assert [draw(np.random.default_rng(seed)) for seed in range(50)] == first
    assert len(set(first)) > 25


def test_draws_follow_the_policys_probabilities() -> None:
    rng, count = np.random.default_rng(0), 8_000
    seen = Counter(operation.name for _ in range(count) for operation in draw(rng))
    expected = dict.fromkeys(seen, 0.0)
    for pair in _POLICY:
        for name, probability, _ in pair:
            expected[name] += probability / len(_POLICY)
    for name, share in expected.items():
        assert seen[name] / count == pytest.approx(share, abs=0.02), name


def test_both_signs_are_drawn_alike() -> None:
    rng = np.random.default_rng(0)
    rotations = [o.magnitude for _ in range(8_000) for o in draw(rng) if o.name == "Rotate"]
    assert np.mean(np.array(rotations) > 0) == pytest.approx(0.5, abs=0.03)
    assert {round(abs(degrees)) for degrees in rotations} == {10, 27, 30}


@pytest.mark.parametrize(("strength", "low", "high"), [(0.4, -0.4, 0.4), (3.0, -1.0, 3.0)])
def test_jitter_draws_three_factors_none_below_zero(strength: float, low: float, high: float) -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_jitter(rng, strength) for _ in range(500)]
    assert {tuple(o.name for o in operations) for operations in drawn} == {("Brightness", "Contrast", "Color")}
    changes = [o.magnitude for operations in drawn for o in operations]
    assert low <= min(changes) < low + 0.05 and high - 0.05 < max(changes) <= high
