"""What DALI's graph of a sample is fed with, in numbers: windows, regions, flips and operations. numpy only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raydet.data.images.autoaugment import Operation
from raydet.data.images.geometry import Geometry

Device = Literal["cpu", "gpu"]

SLOTS = 2
"""Operations of AutoAugment per image, at most."""

NONE, LEVELS, AFFINE, GREY_BLEND, MEAN_BLEND, SMOOTH_BLEND, STRETCH, EQUALIZE = range(8)
"""Kinds of operation, as the graph tells them apart."""

_KINDS = {
    "Posterize": LEVELS,
    "Solarize": LEVELS,
    "Invert": LEVELS,
    "Rotate": AFFINE,
    "ShearX": AFFINE,
    "Color": GREY_BLEND,
    "Contrast": MEAN_BLEND,
    "Sharpness": SMOOTH_BLEND,
    "AutoContrast": STRETCH,
    "Equalize": EQUALIZE,
}
Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a graph is made for."""

    device: Device
    device_id: int | None
    batch: int
    """Images at most."""
    size: int
    """Side of the input."""
    interpolation: Literal["bilinear", "bicubic"]
    fill: tuple[int, int, int]
    jitter: bool
    autoaugment: bool
    threads: int = 2


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """What the graph does with one file."""

    encoded: bytes
    view: Geometry
    hw: tuple[int, int]
    """Height and width of the file's image."""
    operations: tuple[Operation, ...] = ()
    """`raydet.data.images.color.variation`: three of colour jitter if the graph has it, then AutoAugment's."""


def feed(pipeline: Any, shape: Shape, jobs: Sequence[DecodeJob]) -> None:
    """Hand a batch over to the graph."""
    pipeline.feed_input("encoded", [np.frombuffer(job.encoded, np.uint8) for job in jobs])
    views = [job.view for job in jobs]
    windows_B4 = np.array([v.whole_pixels or (0, 0, *w.hw[::-1]) for v, w in zip(views, jobs, strict=True)], np.int32)
    pipeline.feed_input("start", np.ascontiguousarray(windows_B4[:, 1::-1]))
    pipeline.feed_input("shape", windows_B4[:, :1:-1] - windows_B4[:, 1::-1])
    made_B = [_frame(shape, job, window_4) for job, window_4 in zip(jobs, windows_B4.tolist(), strict=True)]
    for i, name in enumerate(("margin", "end", "roi_start", "roi_end", "rows", "columns")):
        pipeline.feed_input(name, [frame[i] for frame in made_B])
    pipeline.feed_input("content", np.array([v.content for v in views], np.float32))
    pipeline.feed_input("flip", np.array([v.flip for v in views], np.int32))
    split = 3 if shape.jitter else 0
    if shape.jitter:
        factors_B3 = [[1 + o.magnitude for o in job.operations[:3]] or [1.0] * 3 for job in jobs]
        pipeline.feed_input("jitter", np.array(factors_B3, np.float32))
    for slot in range(SLOTS if shape.autoaugment else 0):
        chosen = [job.operations[split + slot : split + slot + 1] for job in jobs]
        pipeline.feed_input(f"kind{slot}", np.array([_KINDS[o[0].name] if o else NONE for o in chosen], np.int32))
        numbers_BN = [_numbers(o[0], shape.size) if o else _unchanged() for o in chosen]
        pipeline.feed_input(f"numbers{slot}", np.stack(numbers_BN))


def _unchanged() -> Numbers:
    """Bits that stay, level from which on values are inverted, factor, 2 x 3 matrix."""
    return np.array([255, 256, 1, *(1, 0, 0, 0, 1, 0)], np.float32)


def _numbers(operation: Operation, size: int) -> Numbers:
    made_N, magnitude = _unchanged(), operation.magnitude
    made_N[2] = 1 + magnitude
    if operation.name == "Posterize":
        made_N[0] = 256 - 2 ** (8 - round(magnitude))
    elif operation.name in ("Solarize", "Invert"):
        made_N[1] = magnitude
    elif operation.name == "ShearX":
        made_N[4] = magnitude
    elif operation.name == "Rotate":
        cos, sin = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
        centre = size / 2
        made_N[3:9] = cos, -sin, centre * (1 - cos + sin), sin, cos, centre * (1 - cos - sin)
    return made_N


def _frame(shape: Shape, job: DecodeJob, window: list[int]) -> tuple[npt.NDArray[Any], ...]:
    """Black around the decoded window, where to cut with it, the region to resize there, and its rows' and columns'
    make-weights."""
    x1, y1, x2, y2 = job.view.window
    axes = [(y1, y2, window[1], window[3], job.view.content[0]), (x1, x2, window[0], window[2], job.view.content[1])]
    support = 2 if shape.interpolation == "bicubic" else 1
    margin_2 = np.array([math.ceil(support * max(1.0, (b - a) / n)) + 1 for a, b, _, _, n in axes], np.int32)
    end_2 = np.array([last - first for _, _, first, last, _ in axes], np.int32) + margin_2
    start_2 = np.array([a - first for a, _, first, _, _ in axes]) + margin_2
    stop_2 = np.array([b - first for _, b, first, _, _ in axes]) + margin_2
    rows, columns = (
        _make_weights(shape.interpolation, a - first, b - first, last - first, n) for a, b, first, last, n in axes
    )
    return (
        margin_2,
        end_2,
        start_2.astype(np.float32),
        stop_2.astype(np.float32),
        rows[:, None, None],
        columns[None, :, None],
    )


def _make_weights(interpolation: str, start: float, stop: float, side: int, count: int) -> Numbers:
    """For each of `count` pixels that start to stop of a side are resized to, 1 / the weight within the side."""
    scale = (stop - start) / count
    wide = max(1.0, scale)
    reach = (2 if interpolation == "bicubic" else 1) * wide
    near = math.ceil(reach / scale)  # only so many pixels from an end weigh what is beyond it
    at_N = np.arange(count) if 2 * near >= count else np.r_[0:near, count - near : count]
    centre_N1 = (start + (at_N + 0.5) * scale)[:, None]
    source_NT = np.floor(centre_N1) + np.arange(-math.ceil(reach) - 1, math.ceil(reach) + 2)
    weight_NT = _filter(interpolation, np.abs(source_NT + 0.5 - centre_N1) / wide)
    inside_N = (weight_NT * ((source_NT >= 0) & (source_NT < side))).sum(axis=1)
    made_N = np.ones(count, np.float32)
    made_N[at_N] = weight_NT.sum(axis=1) / inside_N
    return made_N


def _filter(interpolation: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Triangle, or cubic with a = -1/2 (Keys 1981), of distances."""
    if interpolation == "bilinear":
        return np.maximum(0.0, 1 - x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
