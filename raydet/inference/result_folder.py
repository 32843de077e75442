"""The folder that predictions go to: predictions.json in COCO's results format, images.json, a drawing of each image.

pycocotools' `COCO("images.json").loadRes("predictions.json")` works, and so does the data set's own annotation file
where the ids are its own. A drawing is whole or not there; predictions.json appears at the end. No file that is not
ours is replaced.
"""

import json
import os
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from raydet.exceptions import ConfigError, Refused
from raydet.io.files import replace_file, replaced

PREDICTIONS, IMAGES, METRICS = "predictions.json", "images.json", "metrics.json"
_MODE = 0o666
"""To be handed on, unlike the files of a run."""
_LONGEST = 180
"""Bytes of a drawing's name; file systems take 255."""


class ResultFolder:
    """Takes answers as they come, and holds none of them."""

    def __init__(self, folder: Path, images: Sequence[Path], keep: Sequence[Path] = ()) -> None:
        """Check that nothing is lost by writing there, and make the folder.

        Args:
            images: what will be predicted; each gets a drawing of its own name.
            keep: further files that must stay.

        Raises:
            Refused: a file could be lost: an image lies in the folder, or what is there is not an earlier prediction.
            ConfigError: it cannot be written to.
        """
        self.folder = folder
        self.drawings = [f"{name}.png" for name in drawing_names(images)]
        self._refuse_inputs([*images, *keep])
        self._refuse_others()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Without a name, so that a kill leaves nothing behind.
            self._rows = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise ConfigError(f"--out {folder} cannot be written to: {error.strerror}; choose another folder") from None
        self._count = 0
        (folder / PREDICTIONS).unlink(missing_ok=True)  # of an earlier call, with other images

    def draw(self, i: int, drawing: Image.Image) -> None:
        """Write the drawing of image i."""
        data = BytesIO()
        drawing.save(data, "PNG", compress_level=1)
        replace_file(self.folder / self.drawings[i], data.getvalue(), _MODE, sync=False)

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take the rows of an image for predictions.json."""
        for row in rows:
            self._rows.write(f"{',' if self._count else ''}\n{json.dumps(row)}".encode())
            self._count += 1

    def write_images(self, images: Sequence[dict[str, Any]], categories: Sequence[dict[str, Any]]) -> None:
        """Write images.json: COCO's lists of images and categories, without annotations."""
        content = {"info": {"description": "raydet"}, "images": list(images), "categories": list(categories)}
        replace_file(self.folder / IMAGES, json.dumps(content) + "\n", _MODE)

    def finish(self) -> None:
        """Write predictions.json."""
        self._rows.seek(0)
        with replaced(self.folder / PREDICTIONS, _MODE) as file:
            file.write(b"[")
            shutil.copyfileobj(self._rows, file)
            file.write(b"\n]\n" if self._count else b"]\n")

    def close(self) -> None:
        """Let the rows go that are not written."""
        self._rows.close()

    def _refuse_inputs(self, paths: Iterable[Path]) -> None:
        try:
            there = os.stat(self.folder)
        except OSError:
            return  # nothing lies in it
        held: dict[str, bool] = {}
        for path in paths:
            for parent in {os.path.dirname(os.path.abspath(path)), os.path.dirname(os.path.realpath(path))}:
                if parent not in held:
                    held[parent] = os.path.isdir(parent) and os.path.samestat(os.stat(parent), there)
                if held[parent]:
                    what = f"--out {self.folder} holds {path}, which is read"
                    raise Refused(f"{what}; nothing is written beside it: choose another folder")

    def _refuse_others(self) -> None:
        """Refuse a folder where something would be replaced that is not of an earlier call."""
        if not self.folder.is_dir():
            return
        there = {_folded(name): name for name in os.listdir(self.folder)}
        if PREDICTIONS in there or (IMAGES in there and _is_ours(self.folder / IMAGES)):
            return
        lost = [there[_folded(name)] for name in (*self.drawings, IMAGES, METRICS) if _folded(name) in there]
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            what = f"--out {self.folder}: {lost[0]}{more} would be replaced, and is not of an earlier prediction"
            raise Refused(f"{what}; choose another folder")


def _is_ours(file: Path) -> bool:
    try:
        return '"description": "raydet"' in file.read_text(encoding="utf-8")[:200]
    except (OSError, ValueError):
        return False


def coco_rows(
    image_ids_K: npt.NDArray[np.integer[Any]],
    xywh_K4: npt.NDArray[np.floating[Any]],
    category_ids_K: npt.NDArray[np.int64],
    scores_K: npt.NDArray[np.floating[Any]],
) -> Iterator[dict[str, Any]]:
    """Yield detections in COCO's results format, boxes to a thousandth of a pixel."""
    columns = (column.tolist() for column in (image_ids_K, xywh_K4, category_ids_K, scores_K))
    for image_id, box, category, score in zip(*columns, strict=True):
        rounded = [round(v, 3) for v in box]
        yield {"image_id": image_id, "category_id": category, "bbox": rounded, "score": round(score, 6)}


def drawing_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each path, without ending: no two are the same, on file systems that ignore case neither.

    The stem where that is unique; else the whole name; else with the folders below what all have in common.
    """
    common = len(Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths])).parts) if paths else 0
    forms = [(path.stem, path.name, "-".join(Path(os.path.abspath(path)).parts[common:])) for path in paths]
    names = [""] * len(paths)
    taken: set[str] = set()
    for level in range(3):
        wanted = [_cut(form[level]) for form in forms]
        counts = Counter(map(_folded, wanted))
        for i, name in enumerate(wanted):
            if not names[i] and counts[_folded(name)] == 1 and _folded(name) not in taken:
                names[i] = name
                taken.add(_folded(name))
    for i, (_, whole, _) in enumerate(forms):
        number = 2
        while not names[i]:
            name = f"{_cut(whole)}-{number}"
            if _folded(name) not in taken:
                names[i] = name
                taken.add(_folded(name))
            number += 1
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _cut(name: str) -> str:
    return os.fsencode(name)[:_LONGEST].decode("utf-8", "ignore") if len(os.fsencode(name)) > _LONGEST else name
