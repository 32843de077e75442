"""One sample: a file's image and truth, brought to the network's input.

A sample is planned from the image's header alone, so that any decoder can be given the plan.
"""

import hashlib
import struct
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from raydet.config import Config
from raydet.data.formats.index import ClassificationIndex, DetectionIndex, Index
from raydet.data.images import geometry as geo
from raydet.data.images.autoaugment import Operation, apply
from raydet.data.images.color import variation
from raydet.data.images.decode import HW, ImageFile, open_image
from raydet.data.images.resample import Pixels, cut, place
from raydet.data.storage.files import Source
from raydet.exceptions import DataError

EVAL = -1
"""The epoch of evaluation: nothing is drawn."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What an image becomes."""

    pixels_HW3: npt.NDArray[np.uint8]
    row: int
    label: int | None = None
    boxes_K4: geo.Boxes | None = None
    classes_K: npt.NDArray[np.int64] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    size: tuple[int, int] = (0, 0)
    """Width and height of the file's image."""


def sample_seed(seed: int, epoch: int, row: int) -> int:
    """Return a 63-bit hash for draws on this sample that are not made here (AutoAugment, dropout)."""
    digest = hashlib.blake2b(struct.pack("<QQQ", seed % 2**64, epoch % 2**64, row), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Sized(Protocol):
    """An image of which no more than the header has been read."""

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width."""
        ...


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """Which part of which image becomes a sample; what it takes is its header."""

    row: int
    epoch: int
    view: geo.Geometry
    hw: tuple[int, int]
    """Height and width of the file's image."""


def plan_sample(cfg: Config, index: Index, epoch: int, row: int, image_file: Sized) -> SamplePlan:
    """Return what becomes of an image in an epoch, or in evaluation; every draw depends on (run.seed, epoch, row).

    Raises:
        DataError: the image has another size than its annotations are for.
    """
    size, augment, hw = input_size(cfg), cfg.augment, image_file.hw
    if isinstance(index, DetectionIndex):
        check_size(index, row, image_file)
    if epoch == EVAL:
        return SamplePlan(row, epoch, eval_view(cfg, hw), hw)
    rng = geo.generator(cfg.run.seed, epoch, row)
    if isinstance(index, DetectionIndex):
        view = geo.detection_window(rng, hw, size, augment.scale, augment.hflip)
    else:
        view = geo.random_resized_crop(rng, hw, size, augment.crop_area, augment.crop_ratio, augment.hflip)
    return SamplePlan(row, epoch, view, hw)


def eval_view(cfg: Config, hw: tuple[int, int]) -> geo.Geometry:
    """Return what evaluation and prediction show of an image: letterbox (detection) or centre (classification)."""
    if cfg.task == "detection":
        return geo.letterbox(hw, input_size(cfg))
    return geo.centre_crop(hw, input_size(cfg), cfg.augment.eval_margin)


def shrink(made: SamplePlan) -> float:
    """Return the scale that the image may be decoded at: 1 in evaluation."""
    return 1.0 if made.epoch == EVAL else max(made.view.scale)


def decoded(cfg: Config, made: SamplePlan, image_file: ImageFile) -> Pixels:
    """Return the plan's content_HW3, decoded by Pillow.

    Raises:
        DataError: the image is damaged.
    """
    image, factor = image_file.load(shrink(made))
    return cut(made.view, image, cfg.augment.interpolation, factor)


def finished(cfg: Config, index: Index, made: SamplePlan, content_HW3: Pixels, canvas_HW3: Pixels) -> Sample:
    """Vary the content, write it on the canvas, and return the sample with its truth."""
    content_HW3 = apply(content_HW3, operations(cfg, made))
    place(made.view, content_HW3, fill_colour(cfg), canvas_HW3)
    return with_truth(cfg, index, made, canvas_HW3)


def with_truth(cfg: Config, index: Index, made: SamplePlan, canvas_HW3: Pixels) -> Sample:
    """Return the sample whose image is on the canvas, or will be."""
    if isinstance(index, ClassificationIndex):
        return Sample(canvas_HW3, made.row, label=int(index.labels[made.row]))
    boxes_K4, classes_K = _truth(cfg, index, made.row, made.view, 0.0 if made.epoch == EVAL else cfg.data.min_box)
    return Sample(canvas_HW3, made.row, None, boxes_K4, classes_K, made.view.scale, made.hw[::-1])


def opened(cfg: Config, source: Source, stated: HW | None = None) -> AbstractContextManager[ImageFile]:
    """Return the image opened as the configuration says; `stated` is its annotations' size, see `stated_size`."""
    return open_image(source, exif=cfg.data.exif, stated=stated, max_pixels=cfg.data.max_pixels)


def stated_size(index: Index, row: int) -> HW | None:
    """Return the size that a row's annotations are for, which decides under data.exif=auto; None: nothing says it."""
    if not isinstance(index, DetectionIndex) or index.measured:
        return None
    return int(index.sizes[row, 0]), int(index.sizes[row, 1])


def sample(
    cfg: Config, index: Index, epoch: int, row: int, canvas_HW3: Pixels | None = None, source: Source | None = None
) -> Sample:
    """Return the sample of a row in an epoch, or in evaluation (epoch `EVAL`), decoded by Pillow.

    Args:
        canvas_HW3: where its pixels are written. None: new memory.
        source: the row's image. None: it is asked for.

    Raises:
        DataError: the image cannot be read, or has another size than its annotations are for.
    """
    with opened(cfg, source or index.image(row), stated_size(index, row)) as image_file:
        made = plan_sample(cfg, index, epoch, row, image_file)
        content_HW3 = decoded(cfg, made, image_file)
    if canvas_HW3 is None:
        canvas_HW3 = np.empty((*made.view.canvas, 3), np.uint8)
    return finished(cfg, index, made, content_HW3, canvas_HW3)


def input_size(cfg: Config) -> int:
    """Return model.image_size.

    Raises:
        ValueError: it is None; the caller must put in the variant's own before.
    """
    if cfg.model.image_size is None:
        raise ValueError("model.image_size must be resolved before data is loaded, got None")
    return cfg.model.image_size


def fill_colour(cfg: Config) -> tuple[int, int, int]:
    """Return augment.fill as a colour."""
    fill, mean = cfg.augment.fill, cfg.data.mean
    if not isinstance(fill, str):
        return fill, fill, fill
    return geo.MEAN_COLOUR if mean is None else tuple(round(255 * channel) for channel in mean)  # type: ignore[return-value]


def operations(cfg: Config, made: SamplePlan) -> tuple[Operation, ...]:
    """Return how the content's colours are varied: not at all in evaluation."""
    if made.epoch == EVAL:
        return ()
    autoaugment = cfg.augment.autoaugment if cfg.task == "classification" else None
    return variation(sample_seed(cfg.run.seed, made.epoch, made.row), autoaugment, cfg.augment.color_jitter)


def check_size(index: DetectionIndex, row: int, image_file: Sized) -> None:
    """Raise DataError if the image has another size than its annotations are for."""
    stated = (int(index.sizes[row, 0]), int(index.sizes[row, 1]))
    if image_file.hw == stated:
        return
    swapped = image_file.hw == stated[::-1]
    size = f"{image_file.hw[1]} x {image_file.hw[0]}"
    what = f"the image is {size}, {Path(index.file).name} says {stated[1]} x {stated[0]}"
    hint = "Width and height are swapped: data.exif=auto turns it if its EXIF orientation says so." if swapped else None
    record = f"image {index.ids[row]}"
    raise DataError(what, file=index.image(row), record=record, rule="COCO-E22", hint=hint)


def _truth(
    cfg: Config, index: DetectionIndex, row: int, view: geo.Geometry, min_box: float
) -> tuple[geo.Boxes, npt.NDArray[np.int64]]:
    boxes_K4, labels_K, crowd_K = index.boxes_of(row)
    wanted_K = ~crowd_K & ((boxes_K4[:, 2:] - boxes_K4[:, :2]).min(axis=1, initial=np.inf) >= min_box)
    if not wanted_K.all():
        boxes_K4, labels_K = boxes_K4[wanted_K], labels_K[wanted_K]
    boxes_K4, kept_K = geo.apply_to_boxes(view, boxes_K4, min_box)
    labels_K = labels_K[kept_K]
    if cfg.data.max_boxes is not None and len(boxes_K4) > cfg.data.max_boxes:
        area_K = (boxes_K4[:, 2:] - boxes_K4[:, :2]).prod(axis=1)
        largest = np.argsort(-area_K, kind="stable")[: cfg.data.max_boxes]
        boxes_K4, labels_K = boxes_K4[largest], labels_K[largest]
    return boxes_K4, labels_K
