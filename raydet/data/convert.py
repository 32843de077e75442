"""A data set of any format written again as COCO or YOLO, its images linked or copied; what is lost is counted.

COCO: annotations/instances_SPLIT.json and SPLIT/. YOLO: data.yaml, images/SPLIT/ and labels/SPLIT/.
"""

import itertools
import json
import os
import posixpath
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from raydet.config import Config
from raydet.data.columns import Ints
from raydet.data.formats.detect_format import guess
from raydet.data.formats.index import DetectionIndex
from raydet.data.formats.open_split import open_split
from raydet.data.formats.split_names import SPLITS, Split
from raydet.data.images.decode import EXTENSIONS, open_image
from raydet.data.storage.files import Blob, Source
from raydet.exceptions import ConfigError

Target = Literal["coco", "yolo"]
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}


@dataclass
class Conversion:
    """What was written."""

    dir: Path
    to: Target
    images: dict[str, int] = field(default_factory=dict)
    """Images of each split."""
    boxes: dict[str, int] = field(default_factory=dict)
    """Boxes of each split."""
    crowds_left_out: int = 0
    """Crowds, which YOLO has no way to write."""
    outside_left_out: int = 0
    """Boxes wholly outside their image, which YOLO cannot hold."""


def convert(data: Config | Path | str, out: Path | str, to: Target, *, copy: bool = False) -> Conversion:
    """Write a data set as COCO or YOLO.

    The folder is made under another name and renamed when it is whole: a killed conversion leaves no half of a data
    set. Images keep their base names where these are unique in their split, else their folders become part of the name.
    What the data set's own format refuses is refused here too; with data.on_bad=skip it is left out.

    Args:
        data: a configuration whose data section says what to read, or the path of a data set, whose format is guessed.
        out: folder to make; it must not exist, or be empty.
        to: coco or yolo.
        copy: copy the images. False: hard links where the file system allows, which need no space, else copies.

    Raises:
        ConfigError: `out` holds something, nothing is known at the path, or the data set has no boxes but classes.
        DataError: the data set is malformed.
    """
    if to not in ("coco", "yolo"):
        raise ConfigError(f"to must be coco or yolo, got {to!r}")
    cfg = data if isinstance(data, Config) else guess(Path(data).expanduser())
    target = Path(os.path.abspath(Path(out).expanduser()))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not empty; choose another folder to write to")
    indexes = dict(_opened(cfg))
    class_names, class_ids = _classes(list(indexes.values()))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    part.mkdir()
    try:
        result = Conversion(target, to)
        for split, index in indexes.items():
            _write_split(part, split, index, class_names, class_ids, result, copy)
        if to == "yolo":
            _write_yaml(part, list(indexes), class_names)
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return result


def _opened(cfg: Config) -> Iterator[tuple[Split, DetectionIndex]]:
    """Each split that is not the same as one before it."""
    seen: set[str] = set()
    for split in SPLITS:
        place: str | None = getattr(cfg.data, split)
        if place is None or place in seen:
            continue
        seen.add(place)
        index = open_split(cfg, split)
        if not isinstance(index, DetectionIndex):
            raise ConfigError(f"{cfg.data.root} has a class for each image, and no boxes that COCO or YOLO could hold")
        yield split, index


def _classes(indexes: list[DetectionIndex]) -> tuple[list[str], Ints]:
    """The names of all classes, and their ids in COCO: the data set's own where all splits agree on them."""
    first = indexes[0]
    same = all(index.class_names == first.class_names for index in indexes)
    if same and all(np.array_equal(index.category_ids, first.category_ids) for index in indexes):
        names, ids = first.class_names, np.asarray(first.category_ids, np.int64)
        ids = ids if ids.min(initial=1) > 0 else np.arange(1, len(names) + 1)
    else:
        names = list(dict.fromkeys(name for index in indexes for name in index.class_names))
        ids = np.arange(1, len(names) + 1)
    return [name or f"class_{i}" for i, name in enumerate(names)], ids


def _write_split(
    root: Path,
    split: Split,
    index: DetectionIndex,
    class_names: list[str],
    class_ids: Ints,
    result: Conversion,
    copy: bool,
) -> None:
    images = root / (f"images/{split}" if result.to == "yolo" else split)
    images.mkdir(parents=True)
    names = _file_names(index, by_stem=result.to == "yolo")
    for i, name in enumerate(names):
        _put(index.image(i), images / name, copy)
    whole = index.class_names == class_names or len(index.class_names) == len(class_names)
    class_of = list(range(len(class_names))) if whole else [class_names.index(name) for name in index.class_names]
    if result.to == "yolo":
        boxes = _write_labels(root / "labels" / split, index, names, class_of, result)
    else:
        boxes = _write_instances(root / "annotations", split, index, names, class_of, class_names, class_ids)
    result.images[split], result.boxes[split] = len(index), boxes


def _file_names(index: DetectionIndex, by_stem: bool) -> list[str]:
    """A name of each image, unique also where letters' case does not count and, by stem, without their suffixes."""

    def key(name: str) -> str:
        return (posixpath.splitext(name)[0] if by_stem else name).casefold()

    suffixes = [_suffix(index, i) for i in range(len(index))]
    bases = [posixpath.basename(index.names[i]) + suffix for i, suffix in enumerate(suffixes)]
    count = Counter(map(key, bases))
    names, taken = list[str](), set[str]()
    for i, base in enumerate(bases):
        name = base if count[key(base)] == 1 else index.names[i].replace("/", "_") + suffixes[i]
        stem, suffix = posixpath.splitext(name)
        tries = (name if n == 1 else f"{stem}_{n}{suffix}" for n in itertools.count(1))
        names.append(next(name for name in tries if key(name) not in taken))
        taken.add(key(names[-1]))
    return names


def _suffix(index: DetectionIndex, i: int) -> str:
    """What to add to an image's name for it to have a suffix, as the images of Parquet files have none."""
    if index.names[i].lower().endswith(EXTENSIONS):
        return ""
    with open_image(index.image(i)) as image:
        return _SUFFIXES.get(image.kind[0], ".png")


def _put(source: Source, path: Path, copy: bool) -> None:
    if isinstance(source, Blob):
        path.write_bytes(source.data)
        return
    if not copy:
        try:
            os.link(source, path)
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(source, path)


def _write_instances(
    folder: Path,
    split: Split,
    index: DetectionIndex,
    names: list[str],
    class_of: list[int],
    class_names: list[str],
    class_ids: Ints,
) -> int:
    """COCO's file of a split."""
    rows = np.repeat(index.ids, np.diff(index.first)).tolist()
    ids = class_ids[np.asarray(class_of, np.int64)][index.labels].tolist()
    content = {
        "images": [
            {"id": image_id, "file_name": name, "width": width, "height": height}
            for image_id, name, (height, width) in zip(index.ids.tolist(), names, index.sizes.tolist(), strict=True)
        ],
        "annotations": [
            {"id": n, "image_id": row, "category_id": c, "bbox": box, "area": area, "iscrowd": int(crowd)}
            for n, (row, c, box, area, crowd) in enumerate(
                zip(rows, ids, index.boxes.tolist(), index.areas.tolist(), index.crowd.tolist(), strict=True), 1
            )
        ],
        "categories": [{"id": i, "name": name} for i, name in zip(class_ids.tolist(), class_names, strict=True)],
    }
    folder.mkdir(exist_ok=True)
    with (folder / f"instances_{split}.json").open("w", encoding="utf-8") as file:
        json.dump(content, file, allow_nan=False)
    return len(ids)


def _write_labels(
    folder: Path, index: DetectionIndex, names: list[str], class_of: list[int], result: Conversion
) -> int:
    """YOLO's label files of a split: boxes within their images, without crowds."""
    folder.mkdir(parents=True)
    count = 0
    for i, name in enumerate(names):
        xyxy_K4, labels_K, crowd_K = index.boxes_of(i)
        height, width = index.sizes[i].tolist()
        lines = []
        for (x1, y1, x2, y2), label in zip(xyxy_K4[~crowd_K].tolist(), labels_K[~crowd_K].tolist(), strict=True):
            sides = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(f"{class_of[label]} " + " ".join(f"{side:.9g}" for side in sides) + "\n")
        (folder / f"{posixpath.splitext(name)[0]}.txt").write_text("".join(lines))
        count += len(lines)
        result.crowds_left_out += int(crowd_K.sum())
        result.outside_left_out += int(index.first[i + 1] - index.first[i]) - len(crowd_K)
    return count


def _write_yaml(root: Path, splits: list[Split], class_names: list[str]) -> None:
    """data.yaml, in JSON's notation, which is YAML that every reader takes for the same."""
    lines = [f"{split}: images/{split}" for split in splits]
    if "val" not in splits:  # Ultralytics asks for both
        lines.append(f"val: images/{splits[0]}")
    lines += [f"nc: {len(class_names)}", f"names: {json.dumps(class_names, ensure_ascii=False)}"]
    (root / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
