"""What the columns of a parquet file mean, found by name and type, and its rows' truth in the form of an index."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raydet.data.validation.faults import Faults
from raydet.exceptions import DataError

_IMAGE = ("image", "img", "picture", "image_bytes", "bytes", "jpg", "jpeg", "png", "webp", "content")
_BOXES = ("bbox", "boxes", "bboxes", "box", "bounding_box", "bounding_boxes")
_LABELS = ("category", "categories", "label", "labels", "category_id", "category_ids", "class", "classes", "class_id")
_LABEL = ("label", "labels", "class", "category", "target", "fine_label", "class_id", "cls", "y")
_FORMATS = {"xywh": "xywh", "coco": "xywh", "xyxy": "xyxy", "pascal_voc": "xyxy"}


@dataclass(frozen=True, slots=True)
class Meaning:
    """Columns by what they hold; a dot leads into a struct."""

    image: str
    labels: str
    boxes: str | None
    width: str | None
    height: str | None
    image_id: str | None
    xyxy: bool
    class_names: tuple[str, ...] | None

    @property
    def truth(self) -> list[str]:
        """Everything but the images."""
        parts = (self.labels, self.boxes, self.width, self.height, self.image_id)
        return [part for part in parts if part is not None]


def find_columns(schema: Any, detection: bool, file: str) -> Meaning:
    """Return what the columns of a pyarrow schema mean.

    Args:
        detection: boxes are wanted, not one label per image.

    Raises:
        DataError: a column that is needed is missing, or bbox_format is unknown.
    """
    import pyarrow.types as types

    leaves: dict[str, Any] = {}
    for field in schema:
        leaves[field.name] = field.type
        inner = field.type.value_type if types.is_list(field.type) else field.type
        if types.is_struct(inner):
            leaves |= {f"{field.name}.{part.name}": part.type for part in inner}

    def find(names: tuple[str, ...], fits: Callable[[Any], bool]) -> str | None:
        found = (leaf for name in names for leaf in leaves if leaf.rpartition(".")[2].lower() == name)
        return next((leaf for leaf in found if fits(leaves[leaf])), None)

    binary = [leaf for leaf in leaves if types.is_binary(leaves[leaf]) or types.is_large_binary(leaves[leaf])]
    named = [leaf for name in _IMAGE for leaf in binary if name in leaf.lower().split(".")]
    image = next(iter(named or (binary if len(binary) == 1 else [])), None)
    boxes = find(_BOXES, lambda kind: not types.is_binary(kind)) if detection else None
    labels = find(_LABELS if detection else _LABEL, _nests if detection else _single)
    lacking = [
        word
        for word, column, wanted in (("images", image, True), ("boxes", boxes, detection), ("labels", labels, True))
        if wanted and column is None
    ]
    if image is None or labels is None or lacking:
        what = f"no column of {' or '.join(lacking)}; it has {', '.join(f'{n}: {t}' for n, t in leaves.items())}"
        hint = f"Known: image; {'objects.bbox or boxes; objects.category or labels' if detection else 'label'}."
        raise DataError(what, file=file, rule="PARQUET-E02", hint=hint)
    metadata = schema.metadata or {}
    form = metadata.get(b"bbox_format", b"xywh").decode("utf-8", "replace").lower()
    if form not in _FORMATS:
        what = f"bbox_format in the schema's metadata must be one of {', '.join(_FORMATS)}, got {form!r}"
        raise DataError(what, file=file, rule="PARQUET-E02")
    sizes = [find(names, types.is_integer) for names in (("width", "image_width"), ("height", "image_height"))]
    image_id = find(("image_id", "id"), types.is_integer)
    own = {"width": sizes[0], "height": sizes[1], "image_id": image_id}
    own = {key: leaf if leaf is not None and "." not in leaf else None for key, leaf in own.items()}
    names = _class_names(metadata, labels.rpartition(".")[2], file)
    return Meaning(image, labels, boxes, xyxy=_FORMATS[form] == "xyxy", class_names=names, **own)


def _nests(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)) or _single(kind)


def _single(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind) or _coded(kind))


def _coded(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_dictionary(kind))


def _class_names(metadata: dict[bytes, bytes], label: str, file: str) -> tuple[str, ...] | None:
    """Names that the schema's metadata holds: `class_names`, or those of a ClassLabel of Hugging Face's datasets."""
    try:
        if b"class_names" in metadata:
            names = json.loads(metadata[b"class_names"])
        else:
            features = json.loads(metadata.get(b"huggingface", b"{}"))
            names = _class_label(features, label, 0)
    except (ValueError, RecursionError):
        names = "no JSON"
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        what = f"the class names in the schema's metadata must be a JSON list of texts, got {str(names)[:80]}"
        raise DataError(what, file=file, rule="PARQUET-E02")
    return tuple(names)


def _class_label(node: object, label: str, depth: int) -> object:
    """The names of the ClassLabel under a key, wherever it is."""
    if depth > 12:
        return None
    if isinstance(node, list):
        parts = node
    elif isinstance(node, dict):
        if label in node and (found := _names_in(node[label], 0)) is not None:
            return found
        parts = list(node.values())
    else:
        return None
    return next((found for part in parts if (found := _class_label(part, label, depth + 1)) is not None), None)


def _names_in(node: object, depth: int) -> object:
    if isinstance(node, list):
        node = node[0] if node else None
    if not isinstance(node, dict) or depth > 4:
        return None
    return node["names"] if "names" in node else _names_in(node.get("feature"), depth + 1)


def cell(row: dict[str, Any], column: str) -> Any:
    """Return what a row holds in a column; of a list of structs: the list of what they hold."""
    outer, _, inner = column.partition(".")
    value = row.get(outer)
    if not inner or value is None:
        return value
    if isinstance(value, list):
        return [None if item is None else item.get(inner) for item in value]
    return value.get(inner)


def boxes_of_row(value: Any, labels: Any, xyxy: bool) -> tuple[list[list[float]], list[Any]] | tuple[str, str]:
    """Return a row's boxes as x, y, width, height with their labels; or the rule that it breaks, and how."""
    boxes, labels = ([] if part is None else part for part in (value, labels))
    if not isinstance(labels, list):
        labels = [labels]
    if boxes and not isinstance(boxes[0], (list, type(None))):
        boxes = [boxes[i : i + 4] for i in range(0, len(boxes), 4)]
    if len(boxes) != len(labels):
        return "PARQUET-E04", f"{len(boxes)} boxes and {len(labels)} labels"
    found: list[list[float]] = []
    for box in boxes:
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
            return "PARQUET-E05", str(box)
        x, y, right, bottom = map(float, box)
        xywh = [x, y, right - x, bottom - y] if xyxy else [x, y, right, bottom]
        if not np.isfinite(xywh).all() or xywh[2] < 0 or xywh[3] < 0:
            return "PARQUET-E05", str(box)
        found.append(xywh)
    return found, labels


def classes_of(
    labels: list[Any], names: tuple[str, ...] | None, file: str, faults: Faults
) -> tuple[npt.NDArray[np.int32], list[str]]:
    """Return the class of each label, and the classes' names: those given, or made from the labels.

    Raises:
        DataError: a label is no class.
    """
    kinds = {type(label) for label in labels}
    strange = next((label for label in labels if type(label) not in (int, str)), None)
    if kinds - {int, str} or len(kinds) > 1:
        what = f"labels must be all whole numbers or all texts, got {strange if kinds - {int, str} else 'both'!r}"
        raise DataError(what, file=file, rule="PARQUET-E07")
    if names is None:
        names = _from_labels(labels, file)
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        hint = 'To fix them for all splits, write {"class_names": "[...]"} into the schema\'s metadata.'
        faults.add("PARQUET-W12", f"{len(names)} classes made from the labels: {shown}", file=file, hint=hint)
    known: dict[Any, int] = {name if str in kinds else i: i for i, name in enumerate(names)}
    wrong = [label for label in labels if label not in known]
    if wrong:
        what = f"{len(wrong)} of {len(labels)} labels are no class, e.g. {wrong[0]!r}; there are {len(names)} names"
        raise DataError(what, file=file, rule="PARQUET-E07", hint="Numbers count from 0, in the order of the names.")
    return np.array([known[label] for label in labels], np.int32), list(names)


def _from_labels(labels: list[Any], file: str) -> tuple[str, ...]:
    if labels and isinstance(labels[0], str):
        return tuple(sorted(set(labels)))
    low, high = min(labels, default=0), max(labels, default=0)
    if low < 0 or high >= 100_000:
        what = f"labels must be from 0 to 99999, got {low if low < 0 else high}"
        raise DataError(what, file=file, rule="PARQUET-E07")
    return tuple(str(i) for i in range(high + 1))
