"""Images of more than 8 bits a channel, to 8: by their own range where they use little of what their type can hold.

Thermal cameras, microscopes and 12-bit sensors write 16-bit files of which a sixteenth or less is used; the upper 8
bits of these are one grey. The rule looks at one image alone, so it is the same in training, evaluation and prediction.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

NARROW = 0.25
"""An image that uses less than this share of its type's range is scaled by its own range."""
_STRAY = 1e-4
"""Share of the darkest and of the brightest pixels that the range is taken without: dead pixels of a sensor."""
_TOPS = (1, 255, 65535)
"""White in 32-bit files: the least of these that no pixel exceeds."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """What became of a deep image."""

    pixels: Pixels
    """[H, W] or [H, W, C]."""
    bits: int
    """Of a channel in the file: 16 or 32."""
    low: float
    high: float
    """Range that the image uses, strays left out."""
    narrow: bool
    """Whether that range became 0 to 255. If not, all that the type holds did."""

    def __str__(self) -> str:
        """What the file is like and what was done, for IMG-W10."""
        used = f"has {self.bits} bits a channel, of which {self.low:g} to {self.high:g} is used"
        if self.narrow:
            return f"{used}: that range becomes 0 to 255"
        return f"{used}: the upper 8 bits are taken" if self.bits == 16 else f"{used}: scaled to 0 to 255"


def is_deep(image: Image.Image) -> bool:
    """Return whether a file that is opened but not loaded has more than 8 bits a channel."""
    return image.mode[0] in "IF" or any(";16" in _raw_mode(tile) for tile in getattr(image, "tile", ()))


def scaled(image: Image.Image, again: Image.Image | None) -> Scaled:
    """Return the 8-bit pixels of a deep image.

    Args:
        image: loaded.
        again: the same file, not loaded; needed where Pillow gives the upper 8 bits of 16 only (see `is_colour`).

    Raises:
        ValueError: it has no finite pixel.
    """
    if again is None:
        return to_eight_bits(np.asarray(image))
    upper, lower = _both_bytes(image, again)
    return to_eight_bits(upper.astype(np.uint16) << 8 | lower)


def is_colour(image: Image.Image) -> bool:
    """Return whether a deep image has channels, of which Pillow loads the upper 8 bits."""
    return image.mode[0] not in "IF"


def to_eight_bits(values: npt.NDArray[Any]) -> Scaled:
    """Return values_HW or values_HWC as 8 bits.

    16 bits: the upper 8, of 32 bits: 0 to 1, 0 to 255 or 0 to 65535, the least that holds all, to 0 to 255. An image
    that uses less than `NARROW` of that, or none of them holds, is scaled by the range it uses; what is outside is cut.

    Raises:
        ValueError: no value is finite.
    """
    bits = 8 * min(values.dtype.itemsize, 4)
    if bits == 16:
        low, high = _range_16(values)
        top: int | None = 65535
    else:
        finite_N = values[np.isfinite(values)]
        if not finite_N.size:
            raise ValueError("no pixel has a finite value")
        low, high = _range(finite_N)
        top = next((t for t in _TOPS if finite_N.min() >= 0 and finite_N.max() <= t), None)
    narrow = (top is None or high - low < NARROW * top) and high > low
    if bits == 16:
        table_V = _stretched(np.arange(65536), low, high) if narrow else (np.arange(65536) >> 8).astype(np.uint8)
        return Scaled(table_V[values], bits, low, high, narrow)
    with np.errstate(invalid="ignore", over="ignore"):
        values = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
        pixels = _stretched(values, low, high) if narrow else _whole(values, top)
    return Scaled(pixels, bits, low, high, narrow)


def _range_16(values: npt.NDArray[Any]) -> tuple[float, float]:
    ends_V = np.bincount(values.ravel(), minlength=65536).cumsum()
    stray = int(_STRAY * ends_V[-1])
    low = int(np.searchsorted(ends_V, stray, side="right"))
    high = int(np.searchsorted(ends_V, ends_V[-1] - stray))
    return (low, high) if high > low else (int(values.min()), int(values.max()))


def _range(values_N: npt.NDArray[Any]) -> tuple[float, float]:
    stray = int(_STRAY * len(values_N))
    ends = np.partition(values_N, (stray, len(values_N) - 1 - stray))
    low, high = float(ends[stray]), float(ends[len(values_N) - 1 - stray])
    return (low, high) if high > low else (float(values_N.min()), float(values_N.max()))


def _stretched(values: npt.NDArray[Any], low: float, high: float) -> Pixels:
    share = (values - low) / (high - low)
    return (share.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _whole(values: npt.NDArray[Any], top: int | None) -> Pixels:
    """Of one value, which has no range, the middle where nothing says what is white."""
    if top is None:
        return np.full(values.shape, 128, np.uint8)
    return (values * 255 + 0.5 if top == 1 else values / ((top + 1) // 256)).astype(np.uint8)


def _both_bytes(image: Image.Image, again: Image.Image) -> tuple[Pixels, Pixels]:
    """The upper and lower 8 bits of 16, without transparency; the upper ones twice where the lower cannot be had.

    Pillow's raw modes name which of two bytes it takes; the other order gives the lower ones.
    """
    grey = any(_raw_mode(tile).startswith("LA;16") for tile in again.tile)  # type: ignore[attr-defined]
    other = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "RGB;16L": "RGB;16B", "RGBA;16L": "RGBA;16B"}
    other |= {"RGB;16N": "RGB;16B", "RGBA;16N": "RGBA;16B", "LA;16B": "RGBA"}  # N: little-endian, as all CPUs here
    upper = np.asarray(image)[..., :3]
    try:
        again.tile = [_with_raw_mode(tile, other[_raw_mode(tile)]) for tile in again.tile]  # type: ignore[attr-defined]
        again.load()
    except (KeyError, ValueError):
        return upper, upper
    pixels = np.asarray(again)
    return (pixels[..., 0], pixels[..., 1]) if grey else (upper, pixels[..., :3])


def _raw_mode(tile: Any) -> str:
    return str(tile[3] if isinstance(tile[3], str) else tile[3][0] if tile[3] else "")


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    args = tile[3]
    return tile._replace(args=raw_mode if isinstance(args, str) else (raw_mode, *args[1:]))
