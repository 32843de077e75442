"""Drawing handwritten digits on crops of photos, with the tight box of their ink."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Grey = npt.NDArray[np.floating[Any]]
Box = tuple[int, int, int, int]
"""x, y, width, height in whole pixels."""

_PAPER = 235.0
_TRAIN_DIGITS, _TRAIN_PHOTO = 0.75, 0.72
_INKED = 0.35
"""Opacity from which a pixel counts as ink for the box."""
_TRIES = 8


@dataclass(frozen=True)
class Ink:
    """Digits of 8 x 8 pixels in 0..1, in the order of their source: grouped by writer."""

    images: Grey
    labels: npt.NDArray[np.int64]

    def part(self, split: str) -> "Ink":
        """The split's digits: cut once, so that validation has mostly other writers."""
        cut = int(len(self.labels) * _TRAIN_DIGITS)
        part = slice(None, cut) if split == "train" else slice(cut, None)
        return Ink(self.images[part], self.labels[part])


@dataclass(frozen=True)
class Paper:
    """Photos to write on."""

    photos: list[npt.NDArray[np.uint8]]
    wash: float = 0.0

    def part(self, split: str, wash: float) -> "Paper":
        """The split's side of each photo (no pixel in both), washed out by that share."""
        cuts = [int(photo.shape[1] * _TRAIN_PHOTO) for photo in self.photos]
        sides = [p[:, :c] if split == "train" else p[:, c:] for p, c in zip(self.photos, cuts, strict=True)]
        return Paper(sides, wash)

    def sheet(self, rng: np.random.Generator, wh: tuple[int, int]) -> npt.NDArray[np.float32]:
        """A random crop at a random zoom, perhaps mirrored."""
        photo = self.photos[rng.integers(len(self.photos))]
        zoom = rng.uniform(0.6, 1.6)
        width, height = (min(photo.shape[1 - k], max(16, int(wh[k] * zoom))) for k in (0, 1))
        x, y = rng.integers(0, photo.shape[1] - width + 1), rng.integers(0, photo.shape[0] - height + 1)
        crop = Image.fromarray(photo[y : y + height, x : x + width]).resize(wh, Image.Resampling.BILINEAR)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(crop).astype(np.float32) * (1 - self.wash) + _PAPER * self.wash


def draw_many(
    rng: np.random.Generator, ink: Ink, paper: Paper, wh: tuple[int, int], count: int, side: tuple[int, int]
) -> tuple[Image.Image, list[tuple[int, Box]]]:
    """Return an image with up to `count` digits that hardly overlap, and each one's value and box."""
    sheet = paper.sheet(rng, wh)
    found: list[tuple[int, Box]] = []
    for _ in range(count):
        for _ in range(_TRIES):
            which = int(rng.integers(len(ink.labels)))
            height = int(np.exp(rng.uniform(np.log(side[0]), np.log(side[1]))))
            stroke = _stroke(rng, ink.images[which], height)
            if stroke is None or stroke.shape[0] >= wh[1] or stroke.shape[1] >= wh[0]:
                continue
            box = _somewhere(rng, stroke, wh)
            if all(_shared(box, other) <= 0.1 for _, other in found):
                _write(rng, sheet, stroke, box)
                found.append((int(ink.labels[which]), box))
                break
    return _finished(rng, sheet), found


def draw_one(rng: np.random.Generator, ink: Ink, paper: Paper, size: int, i: int) -> tuple[Image.Image, int]:
    """Return a square image that the i-th digit (they repeat) nearly fills, and its value."""
    which = i % len(ink.labels)
    sheet = paper.sheet(rng, (size, size))
    stroke = None
    while stroke is None:
        stroke = _stroke(rng, ink.images[which], int(rng.uniform(0.75, 0.98) * size))
    _write(rng, sheet, stroke, _somewhere(rng, stroke, (size, size)))
    return _finished(rng, sheet), int(ink.labels[which])


def _stroke(rng: np.random.Generator, digit: Grey, height: int) -> Grey | None:
    """The digit's opacity, enlarged, turned by up to 12 degrees and cut to its ink; None if too small to read."""
    cell = Image.fromarray((digit * 255).astype(np.uint8)).resize((2 * height, 2 * height), Image.Resampling.BICUBIC)
    turned = cell.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BILINEAR, expand=True)
    grey = np.asarray(turned.resize((height, height), Image.Resampling.BILINEAR)).astype(np.float32) / 255
    opacity = np.clip((grey - 0.25) / 0.35, 0, 1)
    ys, xs = np.nonzero(opacity > _INKED)
    if len(ys) == 0 or np.ptp(ys) < 5 or np.ptp(xs) < 2:
        return None
    return opacity[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]


def _somewhere(rng: np.random.Generator, stroke: Grey, wh: tuple[int, int]) -> Box:
    height, width = stroke.shape
    return int(rng.integers(0, wh[0] - width + 1)), int(rng.integers(0, wh[1] - height + 1)), width, height


def _shared(a: Box, b: Box) -> float:
    """Overlap as a share of the smaller box."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height) / min(a[2] * a[3], b[2] * b[3])


def _write(rng: np.random.Generator, sheet: npt.NDArray[np.float32], stroke: Grey, box: Box) -> None:
    x, y, width, height = box
    colour = rng.uniform(0, 70, 3)  # dark on washed-out paper
    patch = sheet[y : y + height, x : x + width]
    patch[:] = patch * (1 - stroke[..., None]) + colour * stroke[..., None]


def _finished(rng: np.random.Generator, sheet: npt.NDArray[np.float32]) -> Image.Image:
    noisy = sheet + rng.normal(0, 4, sheet.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
