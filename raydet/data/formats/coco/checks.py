"""What is wrong between the lists of a COCO file: ids that name nothing, boxes that cannot be their images'."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raydet.data.columns import Floats, Ints
from raydet.data.formats.box_rules import MAX_LEAVING, Mask, Sizes, beyond
from raydet.data.formats.coco.json_table import NOTHING, Log
from raydet.data.validation.faults import Example

_MAX_WITHIN = 0.2
"""Share of boxes within the image's first pixel before they are taken for normalised ones."""
_MOST_EMPTY = 0.5
"""Share of images that may be without annotations unsaid (COCO: 0.01)."""


@dataclass(slots=True)
class Annotations:
    """All annotations of a file by column, faulty ones too (`log.bad`)."""

    log: Log
    ids: Ints
    images: Ints
    categories: Ints
    boxes: Floats
    areas: Floats
    crowd: Mask
    outlines: Sizes


def shared(ids: Ints) -> tuple[Ints, Ints]:
    """Return the rows whose id another row has too, and of these the ones after the first of each id."""
    order = np.argsort(ids, kind="stable")
    same = (ids[order][1:] == ids[order][:-1]) & (ids[order][1:] != NOTHING)
    later = order[1:][same]
    return np.union1d(later, order[:-1][same]), np.sort(later)


def positions(wanted: Ints, known: Ints) -> tuple[Ints, Mask]:
    """Return where each wanted id is among the known ones, and which are there at all."""
    if not len(known):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    order = np.argsort(known, kind="stable")
    at = np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)
    rows: Ints = order[at]
    return rows, (known[rows] == wanted) & (wanted != NOTHING)


def check_ids(table: Annotations, image_ids: Ints, category_ids: Ints) -> tuple[Ints, Ints, Mask]:
    """Refuse what names no image or category; return the rows of both, and which annotations have both."""
    log = table.log
    _, later = shared(table.ids)
    hint = "Give each record an id of its own."
    log.refuse("COCO-E08", "id is used twice", later, lambda i: _both(table.ids, i), hint)
    log.warn("COCO-W48", "id is 0, which pycocotools counts as no match", table.ids == 0, hint="Number them from 1.")
    rows, found = positions(table.images, image_ids)
    what, hint = 'image_id is not in "images"', "Remove them, or add the images."
    log.refuse("COCO-E11", what, ~found & (table.images != NOTHING), lambda i: f"{table.images[i]}", hint)
    classes, known = positions(table.categories, category_ids)
    if len(category_ids):
        unknown = ~known & (table.categories != NOTHING)
        what, hint = 'category_id is not in "categories"', "Remove them, or add the categories."
        first = int(category_ids[category_ids != NOTHING].min(initial=2**62))
        if unknown.any() and (table.categories[unknown] == first - 1).all():
            hint = f"The categories begin at {first}, these at {first - 1}: probably counted from {first - 1}."
        log.refuse("COCO-E12", what, unknown, lambda i: f"{table.categories[i]}", hint)
    return rows, classes, found & known


def _both(ids: Ints, i: int) -> str:
    a, b = np.flatnonzero(ids == ids[i])[:2]
    return f"{ids[i]} (annotations[{a}] and annotations[{b}])"


def check_boxes(table: Annotations, keep: Mask, sizes: Sizes) -> Mask:
    """Check the boxes at `keep`, whose images have `sizes` (one per annotation); return those that have an extent."""
    empty = keep & (table.boxes[:, 2:] == 0).any(axis=1)
    table.log.warn("COCO-W15", "bbox has no width or no height, dropped", empty, _box(table))
    rows = np.flatnonzero(keep & ~empty)
    if rows.size:
        whole = len(rows) == len(sizes)  # nearly always; a copy of a million boxes less
        xywh, hw = (table.boxes, sizes) if whole else (table.boxes[rows], sizes[rows])
        _check_leaving(table, rows, xywh, hw)
        _check_scale(table, rows, xywh)
        _check_details(table, rows, xywh, hw)
    good: Mask = keep & ~empty
    return good


def _box(table: Annotations) -> Callable[[int], str]:
    return lambda i: str(table.boxes[i].tolist())


def _check_leaving(table: Annotations, rows: Ints, xywh: Floats, hw: Sizes) -> None:
    leaving = beyond(xywh, hw)
    count = int(leaving.sum())
    if count <= MAX_LEAVING * len(rows):
        outside = (xywh[:, :2] >= hw[:, ::-1]).any(axis=1) | (xywh[:, :2] + xywh[:, 2:] <= 0).any(axis=1)
        what = "bbox lies wholly outside its image, left out"
        table.log.warn("COCO-W17", what, rows[leaving & outside], _box(table))
        table.log.warn("COCO-W17", "bbox leaves its image, clipped", rows[leaving & ~outside], _box(table))
        return
    hint = "bbox is [x, y, width, height]; these look like [x1, y1, x2, y2], or the sizes are wrong."
    if beyond(xywh, hw[:, ::-1]).sum() < 0.5 * count:
        hint = "They fit when width and height of the images are swapped: are they?"
    what = f"{count} of {len(rows)} boxes leave their image"
    _whole_file(table, "COCO-E17", what, rows[leaving], hint)


def _check_scale(table: Annotations, rows: Ints, xywh: Floats) -> None:
    within = (np.abs(xywh) <= 1).all(axis=1) & (xywh % 1 != 0).any(axis=1)
    if within.sum() > _MAX_WITHIN * len(rows):
        hint = "They look normalised to 0..1; multiply by the width and height of the image."
        _whole_file(table, "COCO-E34", f"{within.sum()} of {len(rows)} boxes lie within one pixel", rows[within], hint)
    elif (xywh[:, 2:] <= 1).all():
        hint = "Are they points? A box needs its extent."
        _whole_file(table, "COCO-W41", f"all {len(rows)} boxes are at most one pixel wide and high", rows, hint)
    else:
        small = (xywh[:, 2:] < 1).any(axis=1)
        table.log.warn("COCO-W42", "bbox is narrower or lower than a pixel", rows[small], _box(table))


def _whole_file(table: Annotations, rule: str, what: str, rows: Ints, hint: str) -> None:
    """Tell of a fault that many boxes share, so that the file as a whole is wrong."""
    log, shown = table.log, rows[:5].tolist()
    examples = [Example(log.name(i), str(table.boxes[i].tolist()), log.image(i)) for i in shown]
    log.faults.add(rule, what, file=log.file, count=len(rows), examples=examples, hint=hint)


def _check_details(table: Annotations, rows: Ints, xywh: Floats, hw: Sizes) -> None:
    log = table.log
    twice = rows[_repeated(table.images[rows], table.categories[rows], table.crowd[rows], xywh)]
    log.warn("COCO-W37", "the same box of the same class is there already", twice, _box(table), "Remove the copies.")
    outlines = table.outlines[rows]
    other = rows[(outlines >= 0).all(axis=1) & (outlines != hw).any(axis=1)]
    what = "the run-length code is for an image of another size"
    log.warn("COCO-W43", what, other, lambda i: str(table.outlines[i].tolist()))
    area, sides = table.areas[rows], xywh[:, 2] * xywh[:, 3]
    odd = rows[(area == 0) | (area > 1.1 * sides + 1)]
    hint = "AP by size follows `area`, that of the outline or of the box."
    log.warn("COCO-W46", "area is 0, or larger than the box", odd, lambda i: f"{table.areas[i]:g}", hint)


def _repeated(images: Ints, categories: Ints, crowd: Mask, xywh: Floats) -> Ints:
    """Rows that are equal to an earlier one; found by a hash, as sorting six columns takes seconds for a million."""
    columns = [images, categories, *xywh.T]
    mixed = crowd.astype(np.uint64)
    for column in columns:
        mixed ^= np.ascontiguousarray(column + 0).view(np.uint64)  # + 0: -0.0 is 0.0
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    order = np.argsort(mixed, kind="stable")
    alike = mixed[order]
    at = np.flatnonzero(alike[1:] == alike[:-1])
    after, before = order[at + 1], order[at]
    same = crowd[after] == crowd[before]
    for column in columns:
        same &= column[after] == column[before]
    return np.sort(after[same])


def check_spread(table: Annotations, images: Log, categories: Log, per_image: Ints, per_class: Ints) -> None:
    """Say that most images, or some classes, have no box; the counts are of those that are kept, -1 of the others."""
    empty = per_image == 0
    if empty.sum() > _MOST_EMPTY * (per_image >= 0).sum():
        images.warn("COCO-W44", "image without annotations", empty, hint="Does this file belong to these images?")
    categories.warn("COCO-W45", "class without a box", per_class == 0)
