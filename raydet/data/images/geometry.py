"""Which part of an image lands where on the input, drawn in numpy; `raydet.data.images.resample` or DALI execute it.

All draws come from the generator that is passed in, `generator(seed, epoch, row)`: the same images whatever the
ranks, loader processes or back end. Scale law and fill as google/automl and NVIDIA's EfficientDet; boxes are clipped to
the canvas, where NVIDIA clips to the scaled image and leaves 3.8 % of them outside. The content is flipped before it
is padded, so that it stays top left, as in evaluation.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean in 8-bit levels: after normalisation the padding is about 0."""

Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Geometry:
    """A window of the file's image, resized to `content` and laid top left on the `canvas`."""

    window: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the file; whole ones but for `centre_crop`'s."""
    content: tuple[int, int]
    """Height and width of the resized window."""
    canvas: tuple[int, int]
    """Height and width of the input; what the content does not cover is filled."""
    flip: bool = False
    """The content is mirrored left to right."""

    @property
    def whole_pixels(self) -> tuple[int, int, int, int] | None:
        """The window where it cuts no pixel of the file; else None."""
        x1, y1, x2, y2 = (int(edge) for edge in self.window)
        return (x1, y1, x2, y2) if (x1, y1, x2, y2) == self.window else None

    @property
    def scale(self) -> tuple[float, float]:
        """Input pixels per pixel of the file, along x and y."""
        x1, y1, x2, y2 = self.window
        return self.content[1] / (x2 - x1), self.content[0] / (y2 - y1)


def generator(seed: int, epoch: int, row: int) -> np.random.Generator:
    """Return the generator of one sample in one epoch."""
    return np.random.default_rng([seed, epoch, row])


def detection_window(
    rng: np.random.Generator, hw: tuple[int, int], size: int, scale_range: tuple[float, float], hflip: float
) -> Geometry:
    """Return a scale-jittered view: the image scaled by min(size / h, size / w) x U(range), at a random offset where
    it is larger than the canvas.

    The window has whole pixels of the file, so that a decoder can cut it; the two axes' scales differ by what rounding
    it takes, under 0.1 % for images of 1000 pixels.
    """
    scale = min(size / hw[0], size / hw[1]) * rng.uniform(*scale_range)
    whole = [max(1, math.floor(side * scale + 0.5)) for side in hw]
    content = (min(whole[0], size), min(whole[1], size))
    height, width = (max(1, round(side * a / b)) for side, a, b in zip(hw, content, whole, strict=True))
    y, x = int(rng.integers(0, hw[0] - height + 1)), int(rng.integers(0, hw[1] - width + 1))
    window = (float(x), float(y), float(x + width), float(y + height))
    return Geometry(window, content, (size, size), bool(rng.random() < hflip))


def letterbox(hw: tuple[int, int], size: int) -> Geometry:
    """Return the whole image as large as fits, padded right or at the bottom."""
    scale = min(size / hw[0], size / hw[1])
    content = (max(1, math.floor(hw[0] * scale + 0.5)), max(1, math.floor(hw[1] * scale + 0.5)))
    return Geometry((0.0, 0.0, float(hw[1]), float(hw[0])), content, (size, size))


def random_resized_crop(
    rng: np.random.Generator,
    hw: tuple[int, int],
    size: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    hflip: float,
) -> Geometry:
    """Return a crop of random area share and aspect ratio (GoogLeNet's, arXiv:1409.4842); after 10 misses the central
    one with the nearest allowed ratio, as torchvision does."""
    height, width = hw
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            break
    else:
        w = min(width, max(1, round(height * ratio[1])))
        h = min(height, max(1, round(width / ratio[0])))
        y, x = (height - h) // 2, (width - w) // 2
    window = (float(x), float(y), float(x + w), float(y + h))
    return Geometry(window, (size, size), (size, size), bool(rng.random() < hflip))


def centre_crop(hw: tuple[int, int], size: int, margin: int) -> Geometry:
    """Return the centre of the image resized so that its short side is size + margin.

    The long side is cut to whole pixels as torchvision does; the offset is (side - size) // 2, where torchvision
    rounds halves to even.
    """
    short, long = min(hw), max(hw)
    other = int((size + margin) * long / short)
    whole = (size + margin, other) if hw[0] <= hw[1] else (other, size + margin)
    offset = ((whole[0] - size) // 2, (whole[1] - size) // 2)
    return Geometry(_window(hw, whole, offset, (size, size)), (size, size), (size, size))


def _window(
    hw: tuple[int, int], whole: tuple[int, int], offset: tuple[int, int], content: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Where `content` at `offset` of the image resized to `whole` lies in the file."""
    y, x = hw[0] / whole[0], hw[1] / whole[1]
    right, bottom = (offset[1] + content[1]) * x, (offset[0] + content[0]) * y
    return offset[1] * x, offset[0] * y, min(right, float(hw[1])), min(bottom, float(hw[0]))


def apply_to_boxes(geometry: Geometry, boxes_K4: Boxes, min_box: float) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    """Return the boxes in input pixels, and which of the K given they are.

    Every box lies within the content, so within the canvas; those cut to less than `min_box` pixels of width or
    height, or to nothing, are left out.
    """
    height, width = geometry.content
    (x, y), scale = geometry.window[:2], geometry.scale
    moved_K4 = (boxes_K4 - np.array([x, y, x, y])) * np.array([*scale, *scale])
    if geometry.flip:
        moved_K4[:, [0, 2]] = width - moved_K4[:, [2, 0]]
    np.maximum(moved_K4, 0, out=moved_K4)
    np.minimum(moved_K4, np.array([width, height, width, height]), out=moved_K4)
    extent_K = (moved_K4[:, 2:] - moved_K4[:, :2]).min(axis=1)
    kept_K = (extent_K >= min_box) & (extent_K > 0)
    return moved_K4[kept_K].astype(np.float32), kept_K
