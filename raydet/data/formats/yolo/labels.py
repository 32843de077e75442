"""YOLO label files: rows of class, centre x, centre y, width, height as shares of the image, checked all together."""

from array import array
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from raydet.data.columns import Columns, Floats, Ints, box_columns, image_columns
from raydet.data.formats.box_rules import MAX_LEAVING
from raydet.data.formats.image_sizes import THREADS, image_sizes
from raydet.data.images.decode import Exif
from raydet.data.storage.files import Tree
from raydet.data.validation.faults import SHOWN, Example, Faults
from raydet.exceptions import DataError

_SLACK = 0.01
"""What writers' rounding may add to 0 and 1; clipped later."""
_KIND = "label rows"
_POLYGON = "a polygon: the box around it is taken"
_CORNERS = "four corners, as of a rotated box: the upright box around them is taken"
_POSE = "a box and key points: the box is taken"
_LEAST_POSE = 11
"""Columns of a box and two key points with visibility; one alone might be a triangle."""
_MOST_BYTES = 16 << 20
"""Largest label file."""


def read_columns(
    tree: Tree,
    label_of: dict[str, str],
    stamps: dict[str, str],
    whole: bool,
    classes: int,
    keypoints: tuple[int, int] | None,
    faults: Faults,
    exif: Exif = "auto",
) -> Columns:
    """Return the columns of a DetectionIndex, from all label files and the images' headers.

    Args:
        label_of: image -> its label file.
        stamps: all files in the folders of label files.
        whole: the images are all that their folders hold, so that a label file without one is reported.
        keypoints: how many follow each box, and the numbers of one; None: longer rows are polygons.
        exif: data.exif, of which the sizes are.
    """
    names, sizes = _sizes(tree, list(label_of), faults, exif)
    texts = _texts(tree, {name: label_of[name] for name in names if label_of[name] in stamps}, faults)
    known = [i for i, name in enumerate(names) if texts.get(name, "") is not None]
    # An image whose labels cannot be read is left out with them: shown without boxes, all in it would be background.
    names, sizes = [names[i] for i in known], sizes[known]
    rows = Rows(faults, keypoints)
    bare = {name for i, name in enumerate(names) if not rows.add(i, label_of[name], texts.get(name) or "")}
    if bare:
        what, shown = "an image has no label file, or one without rows", [Example(n) for n in sorted(bare)[:SHOWN]]
        faults.add("YOLO-W17", what, kind="images", count=len(bare), examples=shown)
    claimed = set(label_of.values())
    over = [name for name in stamps if name.endswith(".txt") and name not in claimed and whole]
    over = [name for name in over if not name.endswith("classes.txt")]
    if over:
        shown = [Example(f"file {name}") for name in over[:SHOWN]]
        faults.add("YOLO-W18", "a label file without an image", kind="label files", count=len(over), examples=shown)
    image_N, class_N, shares_N4 = rows.checked([label_of[name] for name in names], classes)
    extent_N4 = sizes[image_N][:, [1, 0, 1, 0]].astype(np.float64)
    boxes_N4 = np.concatenate([shares_N4[:, :2] - shares_N4[:, 2:] / 2, shares_N4[:, 2:]], axis=1) * extent_N4
    return image_columns(names) | box_columns(sizes, boxes_N4, class_N.astype(np.int32), image_N)


def _texts(tree: Tree, label_of: dict[str, str], faults: Faults) -> dict[str, str | None]:
    """The text of each image's label file; None where it cannot be read."""
    found: dict[str, str | None] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        texts = pool.map(lambda label: _text(tree, label), label_of.values())
        for (name, label), text in zip(label_of.items(), texts, strict=True):
            found[name] = None if isinstance(text, DataError) else text
            if isinstance(text, DataError):
                shown = Example(f"file {label}", text.what, name)
                faults.add("YOLO-E20", "a label file cannot be read", kind="label files", examples=[shown])
                faults.unusable.append((name, "YOLO-E20"))
    return found


def _text(tree: Tree, label: str) -> str | DataError:
    try:
        return tree.read(label, _MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return DataError(f"is not UTF-8 text at byte {error.start}", rule="YOLO-E20")
    except DataError as error:
        return error


def _sizes(tree: Tree, names: list[str], faults: Faults, exif: Exif) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The images whose header can be read, with height and width."""
    sizes = image_sizes(tree, names, exif)
    bad = [(name, size) for name, size in zip(names, sizes, strict=True) if isinstance(size, DataError)]
    for name, error in bad:
        wrong = DataError(error.what, rule=error.rule, record=f"image {name}", hint=error.hint)
        faults.add_error(wrong, file=tree.place, kind="images")
        faults.unusable.append((name, error.rule))
    faults.looked_at("images", len(names), len(bad), tree.place)
    good = [(name, size) for name, size in zip(names, sizes, strict=True) if not isinstance(size, DataError)]
    return [name for name, _ in good], np.array([size for _, size in good], np.int32).reshape(-1, 2)


class Rows:
    """The rows of all label files so far."""

    def __init__(self, faults: Faults, keypoints: tuple[int, int] | None = None) -> None:
        self._values, self._image, self._line = array("d"), array("q"), array("q")
        self._faults, self._total, self._bad = faults, 0, 0
        self._pose = None if keypoints is None else 5 + keypoints[0] * keypoints[1]
        self._long, self._flagged = 0, list[str]()

    def add(self, image: int, name: str, text: str) -> bool:
        """Take a label file's rows for an image; return whether there was one."""
        lines = text.splitlines()
        rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line and not line.isspace()]
        self._total += len(rows)
        for number, parts in rows:
            record = f"label {name}:{number}"
            values = self._values_of(parts, record)
            if values is None:
                self._bad += 1
                continue
            if len(parts) > 5:
                rule, what = "YOLO-W16", _POLYGON
                if self._pose is not None:
                    rule, what = "YOLO-W24", _POSE
                elif len(parts) == 9:
                    rule, what = "YOLO-W25", _CORNERS
                self._faults.add(rule, what, kind=_KIND, examples=[Example(record)])
            self._values.extend(values)
            self._image.append(image)
            self._line.append(number)
        return bool(rows)

    def _values_of(self, parts: list[str], record: str) -> Iterable[float] | None:
        try:
            values = [float(part) for part in parts]
            if any("_" in part for part in parts):  # Python reads 1_0 as 10
                raise ValueError
        except ValueError:
            what = "a row of a label file must hold numbers only"
            example = Example(record, " ".join(parts))
            self._faults.add("YOLO-E10", what, kind=_KIND, examples=[example])
            return None
        if len(values) == 5 or len(values) == self._pose:
            return values[:5]
        if len(values) < 7 or len(values) % 2 == 0 or self._pose is not None:
            what = "a row must have 5 columns (class, centre x, centre y, width, height), or a class and a polygon"
            if self._pose is not None:
                what = f"a row must have 5 columns, or {self._pose}: a box and key points (kpt_shape in data.yaml)"
            example = Example(record, f"{len(values)} columns")
            self._faults.add("YOLO-E09", what, kind=_KIND, examples=[example], hint=self._columns_hint(len(values)))
            return None
        self._long += 1
        if len(values) >= _LEAST_POSE and len(values) % 3 == 2 and set(values[7::3]) <= {0, 1, 2}:
            self._flagged.append(record)
        x1, x2, y1, y2 = min(values[1::2]), max(values[1::2]), min(values[2::2]), max(values[2::2])
        if not all(np.isfinite(values[1:])):
            return values[:1] + [float("nan")] * 4  # min and max pass over some NaN
        return [values[0], (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]

    def _columns_hint(self, columns: int) -> str | None:
        if columns == 6:
            return "A sixth column is a prediction's score: remove it."
        if self._pose is None and columns > 7 and columns % 3 == 2:
            return f"Are these a box and key points? Then data.yaml needs kpt_shape: [{(columns - 5) // 3}, 3]."
        return None

    def checked(self, names: list[str], classes: int) -> tuple[Ints, Ints, Floats]:
        """Return image_N, class_N and shares_N4 (centre and extent) of the sound rows; the rest is counted.

        Args:
            names: label file of each image.
            classes: how many there are.
        """
        if self._flagged and len(self._flagged) == self._long:
            what = "every longer row is a box and key points (x, y and a visibility of 0, 1 or 2), not a polygon"
            flagged = [Example(record) for record in self._flagged[:SHOWN]]
            self._faults.add(
                "YOLO-E09",
                what,
                count=self._long,
                examples=flagged,
                hint="Write kpt_shape: [key points, 3] into data.yaml.",
            )
        values_N5 = np.frombuffer(self._values, np.float64).reshape(-1, 5)
        image_N, line_N = np.frombuffer(self._image, np.int64), np.frombuffer(self._line, np.int64)
        live_N = np.ones(len(values_N5), bool)

        def shown(rows: Ints) -> list[Example]:
            return [
                Example(f"label {names[image_N[r]]}:{line_N[r]}", " ".join(f"{v:.6g}" for v in values_N5[r]))
                for r in rows[:SHOWN]
            ]

        def drop(rule: str, what: str, wrong_N: npt.NDArray[np.bool_], hint: str | None = None) -> None:
            rows = np.flatnonzero(wrong_N & live_N)
            live_N[rows] = False
            if rows.size:
                self._faults.add(rule, what, kind=_KIND, count=rows.size, examples=shown(rows), hint=hint)

        with np.errstate(invalid="ignore"):
            class_N, shares_N4 = values_N5[:, 0], values_N5[:, 1:]
            drop("YOLO-E10", "a row of a label file must hold finite numbers", _any(~np.isfinite(values_N5)))
            wrong_N = (class_N % 1 != 0) | (class_N < 0) | (class_N >= classes)
            hint = "Classes count from 0, in the order of names." if (class_N == classes).any() else None
            drop("YOLO-E11", f"the class must be a whole number from 0 to {classes - 1}", wrong_N, hint)
            drop("YOLO-E13", "width and height must not be negative", _any(shares_N4[:, 2:] < 0))
            wrong_N = _any((shares_N4 < -_SLACK) | (shares_N4 > 1 + _SLACK))
            pixels = wrong_N.any() and np.median(np.nan_to_num(shares_N4[wrong_N]).max(axis=1)) > 2
            hint = "These look like pixels: divide x and width by the image's width, y and height by its height."
            drop("YOLO-E12", "centre, width and height must be from 0 to 1", wrong_N, hint if pixels else None)
            leaving_N = live_N & _any(np.abs(shares_N4[:, :2] - 0.5) + shares_N4[:, 2:] / 2 > 0.5 + _SLACK)
        self._faults.looked_at(_KIND, self._total, self._bad + int((~live_N).sum()))
        self._tell_leaving(np.flatnonzero(leaving_N), int(live_N.sum()), shown)
        drop("YOLO-W14", "a box has no width or no height: dropped", _any(shares_N4[:, 2:] == 0))
        drop("YOLO-W15", "a row is there twice: taken once", _repeated(image_N, values_N5))
        return image_N[live_N], class_N[live_N].astype(np.int64), shares_N4[live_N]

    def _tell_leaving(self, rows: Ints, of: int, shown: Callable[[Ints], list[Example]]) -> None:
        if rows.size > MAX_LEAVING * of:
            what = f"{rows.size} of {of} boxes leave their image"
            hint = "A row is class, centre x, centre y, width, height; these look like corners: x1 y1 x2 y2."
            self._faults.add("YOLO-E22", what, count=rows.size, examples=shown(rows), hint=hint)
        elif rows.size:
            what = "a box leaves its image: clipped"
            self._faults.add("YOLO-W22", what, kind=_KIND, count=rows.size, examples=shown(rows))


def _any(found_NM: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    rows_N: npt.NDArray[np.bool_] = np.asarray(found_NM.any(axis=1))
    return rows_N


def _repeated(image_N: Ints, values_N5: Floats) -> npt.NDArray[np.bool_]:
    """Which rows say the same as an earlier one of their image."""
    if not len(image_N):
        return np.zeros(0, bool)
    keys_N6 = np.column_stack([image_N.astype(np.float64), values_N5])
    order = np.lexsort(keys_N6.T[::-1])  # stable: of equal rows the first comes first
    same = np.zeros(len(order), bool)
    same[order[1:]] = (keys_N6[order][1:] == keys_N6[order][:-1]).all(axis=1)
    return same
