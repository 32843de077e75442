"""One sample: a file's picture and truth, brought to the network's input. Imports torch only for colour changes."""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from raydet.config import Config
from raydet.data import geometry as geo
from raydet.data.coco import CocoIndex
from raydet.data.decode import Picture, open_picture
from raydet.data.errors import DataError
from raydet.data.folder import FolderIndex

Index = CocoIndex | FolderIndex


@dataclass(frozen=True, slots=True)
class Sample:
    """What a picture becomes."""

    pixels_HW3: npt.NDArray[np.uint8]
    row: int
    label: int | None = None
    boxes_K4: geo.Boxes | None = None
    classes_K: npt.NDArray[np.int64] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    size: tuple[int, int] = (0, 0)
    """Width and height of the file's picture."""


def sample_seed(seed: int, epoch: int, row: int) -> int:
    """Return a 63-bit hash for draws on this sample that are not made here (AutoAugment, dropout)."""
    digest = hashlib.blake2b(struct.pack("<QQQ", seed % 2**64, epoch % 2**64, row), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def train_sample(cfg: Config, index: Index, epoch: int, row: int) -> Sample:
    """Return a training sample; every draw depends on (run.seed, epoch, row).

    Raises:
        DataError: the picture cannot be read, or has another size than its annotations are for.
    """
    rng, augment, size = geo.generator(cfg.run.seed, epoch, row), cfg.augment, input_size(cfg)
    with open_picture(index.picture(row), exif=cfg.data.exif, max_pixels=cfg.data.max_pixels) as picture:
        if isinstance(index, CocoIndex):
            _check_size(index, row, picture)
            view = geo.detection_window(rng, picture.hw, size, augment.scale, augment.hflip)
        else:
            area, ratio = augment.crop_area, augment.crop_ratio
            view = geo.random_resized_crop(rng, picture.hw, size, area, ratio, augment.hflip)
        image, factor = picture.load(shrink=max(view.scale))
    content = geo.cut(view, image, augment.interpolation, factor=factor, fast=True)
    pixels_HW3 = geo.place(view, _varied(cfg, content, epoch, row), fill_colour(cfg))
    if isinstance(index, FolderIndex):
        return Sample(pixels_HW3, row, label=int(index.labels[row]))
    boxes_K4, classes_K = _truth(cfg, index, row, view, cfg.data.min_box)
    return Sample(pixels_HW3, row, boxes_K4=boxes_K4, classes_K=classes_K)


def eval_sample(cfg: Config, index: Index, row: int) -> Sample:
    """Return an evaluation sample: letterbox (detection) or centre crop (classification), nothing random.

    Raises:
        DataError: as `train_sample`.
    """
    size = input_size(cfg)
    with open_picture(index.picture(row), exif=cfg.data.exif, max_pixels=cfg.data.max_pixels) as picture:
        if isinstance(index, CocoIndex):
            _check_size(index, row, picture)
            view = geo.letterbox(picture.hw, size)
        else:
            view = geo.centre_crop(picture.hw, size, cfg.augment.eval_margin)
        image, _ = picture.load()
    pixels_HW3 = geo.apply_to_image(view, image, fill_colour(cfg), cfg.augment.interpolation)
    if isinstance(index, FolderIndex):
        return Sample(pixels_HW3, row, label=int(index.labels[row]))
    boxes_K4, classes_K = _truth(cfg, index, row, view, 0.0)
    return Sample(pixels_HW3, row, None, boxes_K4, classes_K, view.scale, picture.hw[::-1])


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
    fill = cfg.augment.fill
    return geo.MEAN_COLOUR if isinstance(fill, str) else (fill, fill, fill)


def _varied(cfg: Config, content: Image.Image, epoch: int, row: int) -> Image.Image:
    autoaugment = cfg.augment.autoaugment if cfg.task == "classification" else None
    if autoaugment is None and cfg.augment.color_jitter == 0:
        return content
    from raydet.data.augment import vary

    return vary(content, sample_seed(cfg.run.seed, epoch, row), autoaugment, cfg.augment.color_jitter)


def _check_size(index: CocoIndex, row: int, picture: Picture) -> None:
    told = (int(index.sizes[row, 0]), int(index.sizes[row, 1]))
    if picture.hw == told:
        return
    swapped = picture.hw == told[::-1]
    what = f"the picture is {picture.hw[1]} x {picture.hw[0]}, {Path(index.file).name} says {told[1]} x {told[0]}"
    hint = "Width and height are swapped: its EXIF data may turn it, see data.exif." if swapped else None
    record = f"image {index.ids[row]}"
    raise DataError(what, file=index.picture(row), record=record, rule="COCO-E22", hint=hint)


def _truth(
    cfg: Config, index: CocoIndex, row: int, view: geo.Geometry, min_box: float
) -> tuple[geo.Boxes, npt.NDArray[np.int64]]:
    boxes_K4, labels_K, crowd_K = index.boxes_of(row)
    wanted_K = ~crowd_K & ((boxes_K4[:, 2:] - boxes_K4[:, :2]) >= min_box).all(axis=1)
    boxes_K4, labels_K = boxes_K4[wanted_K], labels_K[wanted_K]
    boxes_K4, kept_K = geo.apply_to_boxes(view, boxes_K4, min_box)
    labels_K = labels_K[kept_K]
    if cfg.data.max_boxes is not None and len(boxes_K4) > cfg.data.max_boxes:
        area_K = (boxes_K4[:, 2:] - boxes_K4[:, :2]).prod(axis=1)
        largest = np.argsort(-area_K, kind="stable")[: cfg.data.max_boxes]
        boxes_K4, labels_K = boxes_K4[largest], labels_K[largest]
    return boxes_K4, labels_K
