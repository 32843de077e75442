"""Images and annotation files that the tests of raydet.data are made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raydet.data.columns import Columns
from raydet.data.formats.coco.load import load_coco
from raydet.data.formats.coco.reader import parse
from raydet.data.formats.index import DetectionIndex
from raydet.data.storage.files import Folder
from raydet.data.validation.faults import Faults


def make_image(seed: int, hw: tuple[int, int]) -> Image.Image:
    """Smooth noise: resizing and JPEG change it little."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(hw[::-1], Image.Resampling.BICUBIC)


def truth(images: int = 3) -> dict[str, Any]:
    """A sound annotation file: `images` images of 80 x 60 with two boxes each, categories 1 cat, 13 dog, 90 bus."""
    return {
        "images": [{"id": 10 + i, "file_name": f"{i}.jpg", "width": 80, "height": 60} for i in range(images)],
        "annotations": [
            {
                "id": 100 + 2 * i + k,
                "image_id": 10 + i,
                "category_id": (1, 13, 90)[(i + k) % 3],
                "bbox": [5.0 + 10 * k, 4.0 + i % 8, 30.0 + k, 20.5],
                "area": 600.0,
                "iscrowd": 0,
            }
            for i in range(images)
            for k in range(2)
        ],
        "categories": [{"id": 90, "name": "bus"}, {"id": 1, "name": "cat"}, {"id": 13, "name": "dog"}],
    }


def write_coco(root: Path, content: dict[str, Any], images: bool = True) -> Path:
    """The data set under `root`: instances_train.json and train/."""
    (root / "train").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    path = root / "annotations" / "instances_train.json"
    path.write_text(json.dumps(content))
    if images:
        for i, image in enumerate(content["images"]):
            make_image(i, (image["height"], image["width"])).save(root / "train" / image["file_name"], quality=95)
    return path


def write_shop(root: Path) -> Path:
    """A COCO set of 12 training and 4 validation images, all different, all sound."""
    for split, count, seed in (("train", 12, 0), ("val", 4, 100)):
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        content = truth(count)
        for i, image in enumerate(content["images"]):
            image["file_name"] = f"{split}_{i}.jpg"
            make_image(seed + i, (60, 80)).save(root / split / image["file_name"], quality=95)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def parse_coco(tmp_path: Path, content: dict[str, Any]) -> tuple[Columns, Faults]:
    """The columns and faults of that content, without images."""
    path = write_coco(tmp_path, content, images=False)
    columns, _, faults = parse(path, [Folder(tmp_path / "train")])
    return columns, faults


def load_content(tmp_path: Path, content: dict[str, Any], **options: Any) -> DetectionIndex:
    """The index of that content, without images."""
    path = write_coco(tmp_path, content, images=False)
    return load_coco(path, tmp_path / "train", **options)
