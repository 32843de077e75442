"""Two small data sets made on the spot: handwritten digits on photo texture, to detect and to classify.

Sources, both shipped with scikit-learn: the UCI digits (1797 of 8 x 8 pixels, CC BY 4.0) and two photos (CC BY 2.0).
Validation shares neither digits (the last quarter, mostly other writers) nor photo pixels (the right 28 %) with
training. Mirrored digits are other signs, so train with augment.hflip=0. An image depends on its number alone; bytes
also depend on the versions of Pillow and its JPEG library.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from raydet.data.formats.demo.digits import Ink, Paper, draw_many, draw_one
from raydet.data.storage.cache import cache_dir
from raydet.exceptions import DataError

VERSION = 1
_SPLITS = ("train", "val")


def make_detection(
    root: Path | str | None = None,
    train: int = 600,
    val: int = 120,
    size: tuple[int, int] = (160, 128),
    digits: tuple[int, int] = (2, 6),
    side: tuple[int, int] = (26, 72),
    wash: float = 0.7,
    seed: int = 0,
) -> Path:
    """Return the folder of a COCO data set (annotations/instances_{train,val}.json, train/, val/), made if missing.

    Args:
        root: where. None: in raydet's cache folder, under a name made of the settings.
        size: width and height; 30 % of the images stand upright.
        digits: fewest and most per image.
        side: smallest and largest height of a digit's cell in pixels, drawn log-uniformly.
        wash: share of paper colour in the background, 0: the raw photo, far harder to learn.

    Raises:
        DataError: `root` holds something else, or scikit-learn is not installed.
    """
    settings = {"train": train, "val": val, "size": size, "digits": digits, "side": side, "wash": wash, "seed": seed}

    def make(folder: Path) -> None:
        ink, paper = _sources()
        (folder / "annotations").mkdir()
        for which, split in enumerate(_SPLITS):
            (folder / split).mkdir()
            images, found = [], []
            for i in range((train, val)[which]):
                rng = np.random.default_rng([seed, which, i])
                wh = size if rng.random() < 0.7 else size[::-1]
                count = int(rng.integers(digits[0], digits[1] + 1))
                image, boxes = draw_many(rng, ink.part(split), paper.part(split, wash), wh, count, side)
                image.save(folder / split / f"{i:06d}.jpg", quality=92)
                images.append({"id": i + 1, "file_name": f"{i:06d}.jpg", "width": wh[0], "height": wh[1]})
                found += [(i + 1, digit, box) for digit, box in boxes]
            text = json.dumps(_coco(images, found))
            (folder / "annotations" / f"instances_{split}.json").write_text(text)

    return _made(root, "detection", settings, make)


def make_classification(
    root: Path | str | None = None, train: int = 3000, val: int = 449, size: int = 64, wash: float = 0.7, seed: int = 0
) -> Path:
    """Return the folder of an ImageFolder data set (train/0 ... val/9) of one digit an image, made if missing.

    Arguments and errors as `make_detection`; `size` is the side of the square images.
    """
    settings = {"train": train, "val": val, "size": size, "wash": wash, "seed": seed}

    def make(folder: Path) -> None:
        ink, paper = _sources()
        for which, split in enumerate(_SPLITS):
            for digit in range(10):
                (folder / split / str(digit)).mkdir(parents=True)
            for i in range((train, val)[which]):
                rng = np.random.default_rng([seed, 10 + which, i])
                image, digit = draw_one(rng, ink.part(split), paper.part(split, wash), size, i)
                image.save(folder / split / str(digit) / f"{i:06d}.jpg", quality=92)

    return _made(root, "classification", settings, make)


def _coco(images: list[dict[str, Any]], found: list[tuple[int, int, tuple[int, int, int, int]]]) -> dict[str, Any]:
    return {
        "info": {"description": "raydet demo: digits on photos", "version": str(VERSION)},
        "images": images,
        "annotations": [
            {
                "id": i,
                "image_id": image,
                "category_id": digit + 1,
                "bbox": [float(v) for v in box],
                "area": float(box[2] * box[3]),
                "iscrowd": 0,
            }
            for i, (image, digit, box) in enumerate(found, start=1)
        ],
        "categories": [{"id": digit + 1, "name": str(digit)} for digit in range(10)],
    }


def _sources() -> tuple[Ink, Paper]:
    try:
        from sklearn.datasets import load_digits, load_sample_images
    except ImportError:
        hint = 'pip install "raydet[demo]"'
        raise DataError("the demo data is made from scikit-learn's digits", rule="DIR-E01", hint=hint) from None
    source = load_digits()
    photos = [np.asarray(photo) for photo in load_sample_images().images]
    return Ink(source.images / 16.0, source.target), Paper(photos)


def _made(root: Path | str | None, kind: str, settings: dict[str, Any], make: Callable[[Path], None]) -> Path:
    """The folder with this content. It appears by one rename, so it is whole whenever it is there."""
    stamp = json.dumps({"kind": kind, "version": VERSION, **settings}, sort_keys=True)
    key = hashlib.sha256(stamp.encode()).hexdigest()[:12]
    target = Path(root) if root is not None else cache_dir() / f"demo-v{VERSION}" / f"{kind}-{key}"
    if _is_made(target, stamp):
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        hint = "Name a folder that does not exist, or remove this one."
        raise DataError("holds something else than the demo data asked for", file=target, rule="DIR-E06", hint=hint)
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    try:
        building.mkdir()
        make(building)
        (building / "demo.json").write_text(stamp)
        os.rename(building, target)  # onto a missing or empty folder; fails if another process was first
    except OSError:
        if not _is_made(target, stamp):
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _is_made(target: Path, stamp: str) -> bool:
    try:
        return (target / "demo.json").read_text() == stamp
    except OSError:
        return False
