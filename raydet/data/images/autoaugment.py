"""AutoAugment with draws of our own: what to do with an image is drawn first, then executed by whoever holds it.

ImageNet policy of arXiv:1805.09501 (table 9), ten magnitudes as in torchvision's v2.AutoAugment, grey fill 128 as in
google/automl's and NVIDIA's code. Draws come from a numpy generator, so that the CPU (here, by Pillow) and DALI's graph
(`raydet.data.images.dali_graph`) show the same variation, and torch's generators stay as they are. Given the same draws
the pixels are those of v2 on Pillow images. Given up: other policies, and shifts, which this one does not have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

Pixels = npt.NDArray[np.uint8]

GREY = 128
"""Where rotating and shearing leave nothing, in each channel."""

Name = Literal[
    "Posterize",
    "Solarize",
    "Invert",
    "AutoContrast",
    "Equalize",
    "Rotate",
    "ShearX",
    "Sharpness",
    "Color",
    "Contrast",
    "Brightness",
]


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of an image."""

    name: Name
    magnitude: float = 0.0
    """Posterize: bits that stay. Solarize: level from which on a value is inverted. Rotate: degrees, anticlockwise.
    ShearX: pixels to the left per row. Sharpness, Color, Contrast, Brightness: factor - 1. The others: 0."""


_Step = tuple[Name, float, int]
"""Operation, probability, magnitude 0 to 9."""

_POLICY: tuple[tuple[_Step, _Step], ...] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 0), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 0)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 0)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 0), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 0)),
    (("Equalize", 0.0, 0), ("Equalize", 0.8, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 0)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 0)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 0)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
)
"""The paper lists some pairs twice: they are drawn twice as often."""

_LARGEST = {"Rotate": 30.0, "ShearX": 0.3, "Sharpness": 0.9, "Color": 0.9, "Contrast": 0.9, "Brightness": 0.9}
"""Magnitude 9 of the operations that go either way."""


def draw(rng: np.random.Generator) -> tuple[Operation, ...]:
    """Return what AutoAugment does with one image: none, one or two operations."""
    pair = _POLICY[int(rng.integers(len(_POLICY)))]
    chance_2, negative_2 = rng.random(2), rng.integers(0, 2, 2)
    return tuple(
        Operation(name, _magnitude(name, level, bool(negative)))
        for (name, probability, level), chance, negative in zip(pair, chance_2, negative_2, strict=True)
        if chance < probability
    )


def draw_jitter(rng: np.random.Generator, strength: float) -> tuple[Operation, ...]:
    """Return colour jitter: factors U(1 - strength, 1 + strength), not below 0, in a fixed order (torchvision's is
    random)."""
    factor_3 = rng.uniform(max(0.0, 1 - strength), 1 + strength, 3).tolist()
    names: tuple[Name, ...] = ("Brightness", "Contrast", "Color")
    return tuple(Operation(name, factor - 1) for name, factor in zip(names, factor_3, strict=True))


def _magnitude(name: Name, level: int, negative: bool) -> float:
    if name == "Posterize":
        return 8.0 - round(level * 4 / 9)
    if name == "Solarize":  # torchvision's threshold is 255 x (1 - level / 9), and what lies below it stays
        return 255.0 * (9 - level) // 9 + 1
    largest = _LARGEST.get(name, 0.0) * level / 9
    return -largest if negative and largest else largest


def apply(pixels_HW3: Pixels, operations: tuple[Operation, ...]) -> Pixels:
    """Return the image after the operations, in their order; the array itself when there are none."""
    if not operations:
        return pixels_HW3
    now: Pixels | Image.Image = pixels_HW3
    for operation in operations:
        if operation.name in _ON_ARRAYS:
            now = _ON_ARRAYS[operation.name](_array(now), round(operation.magnitude))
        else:
            now = _ON_IMAGES[operation.name](_image(now), operation.magnitude)
    return _array(now)


def _array(image: Pixels | Image.Image) -> Pixels:
    # np.asarray of an image would be read-only, which torch.from_numpy warns of.
    return np.array(image) if isinstance(image, Image.Image) else image


def _image(image: Pixels | Image.Image) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def _posterize(pixels_HW3: Pixels, bits: int) -> Pixels:
    return pixels_HW3 & np.uint8(256 - 2 ** (8 - bits))


def _solarize(pixels_HW3: Pixels, first: int) -> Pixels:
    if first > 255:
        return pixels_HW3
    return pixels_HW3 ^ -(pixels_HW3 >= first).view(np.uint8)  # 255 - v is v ^ 255; five times as fast as np.where


def _invert(pixels_HW3: Pixels, _: int) -> Pixels:
    return ~pixels_HW3


_ON_ARRAYS: dict[Name, Callable[[Pixels, int], Pixels]] = {
    "Posterize": _posterize,
    "Solarize": _solarize,
    "Invert": _invert,
}


def _autocontrast(image: Image.Image, _: float) -> Image.Image:
    histogram_3V = np.array(image.histogram()).reshape(3, 256)
    tables_3V = np.tile(np.arange(256), (3, 1))
    for histogram_V, table_V in zip(histogram_3V, tables_3V, strict=True):
        low, high = (int(level) for level in np.flatnonzero(histogram_V)[[0, -1]])
        if high > low:
            scale = 255.0 / (high - low)
            table_V[:] = (table_V * scale - low * scale).clip(0, 255)  # cut to whole levels, as ImageOps does
    return image.point(tables_3V.ravel().tolist())


def _equalize(image: Image.Image, _: float) -> Image.Image:
    histogram_3V = np.array(image.histogram()).reshape(3, 256)
    tables_3V = np.tile(np.arange(256), (3, 1))
    for histogram_V, table_V in zip(histogram_3V, tables_3V, strict=True):
        step = (image.width * image.height - int(histogram_V[np.flatnonzero(histogram_V)[-1]])) // 255
        if step:
            table_V[:] = (step // 2 + np.cumsum(histogram_V) - histogram_V) // step
    return image.point(tables_3V.clip(0, 255).ravel().tolist())


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, fillcolor=(GREY,) * 3)


def _shear_x(image: Image.Image, pixels: float) -> Image.Image:
    # The output pixel at (x, y) is the input's at (x + pixels (y + 1/2), y).
    return image.transform(image.size, Image.Transform.AFFINE, (1, pixels, 0, 0, 1, 0), fillcolor=(GREY,) * 3)


def _color(image: Image.Image, change: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(1 + change)


def _sharpness(image: Image.Image, change: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(1 + change)


def _contrast(image: Image.Image, change: float) -> Image.Image:
    histogram_V = np.array(image.convert("L").histogram())
    mean = int(histogram_V @ np.arange(256) / histogram_V.sum() + 0.5)
    return _blended(image, mean, change)


def _brightness(image: Image.Image, change: float) -> Image.Image:
    return _blended(image, 0, change)


def _blended(image: Image.Image, level: int, change: float) -> Image.Image:
    """ImageEnhance blends with an image of one grey level; the same by a table is twice as fast."""
    ramp, flat = Image.frombytes("L", (256, 1), bytes(range(256))), Image.new("L", (256, 1), level)
    return image.point(list(Image.blend(flat, ramp, 1 + change).tobytes()) * 3)


_ON_IMAGES: dict[Name, Callable[[Image.Image, float], Image.Image]] = {
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Rotate": _rotate,
    "ShearX": _shear_x,
    "Sharpness": _sharpness,
    "Color": _color,
    "Contrast": _contrast,
    "Brightness": _brightness,
}
