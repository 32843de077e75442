"""From the annotations of a split to the columns of an index: what holds for boxes of every one of these formats."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from raydet.data.columns import Columns, Floats, Ints, box_columns, image_columns
from raydet.data.formats.annotated.records import BOXES, IMAGES
from raydet.data.formats.annotated.table import Mask, Sizes, Table
from raydet.data.formats.box_rules import MAX_LEAVING, beyond
from raydet.data.validation.faults import SHOWN, Example, Faults

_MAX_WITHIN = 0.2
"""Share of boxes within the image's first pixel before they are taken for normalised ones."""


def pack_rows(table: Table, rows: Ints, states_size: bool, faults: Faults) -> Columns:
    """Return the columns of a DetectionIndex of some images of a table, in the order of `rows`.

    Args:
        states_size: the format usually says how large images are, so that a missing size is worth a word.
        faults: takes what is wrong; what refuses is left out.
    """
    bad_boxes, refused = _tell_notes(table, rows, faults)
    rows = rows[~table.broken[rows] | np.isin(rows, refused)]
    rows = _sound_images(table, rows, states_size, faults)
    stated_N1 = (table.written_hw[rows] > 0).all(axis=1, keepdims=True)
    sizes: Sizes = np.where(stated_N1, table.written_hw[rows], table.header_hw[rows]).astype(np.int32)
    position = np.full(len(table), -1, np.int64)
    position[rows] = np.arange(len(rows))
    mine = np.flatnonzero(position[table.image] >= 0)
    mine = mine[np.argsort(position[table.image[mine]], kind="stable")]
    boxes = _Boxes(table, mine, position[table.image[mine]], sizes, faults)
    boxes.check(bad_boxes)
    image_N, xywh_N4, at = boxes.kept()
    names = [table.names[row] for row in rows.tolist()]
    bare = np.flatnonzero(np.bincount(image_N, minlength=len(rows)) == 0)
    if bare.size:
        shown = [Example(table.records[int(rows[i])], image=names[i]) for i in bare[:SHOWN]]
        faults.add("ANN-W09", "an image has no box", kind=IMAGES, count=bare.size, examples=shown)
    return image_columns(names) | box_columns(sizes, xywh_N4, table.labels[at], image_N, table.crowd[at])


def _tell_notes(table: Table, rows: Ints, faults: Faults) -> tuple[int, list[int]]:
    """Count what the reader met in these images; return how many boxes it could not read, and images it refused."""
    wanted, bad, refused = set(rows.tolist()), 0, list[int]()
    for row, note in table.image_notes():
        if row in wanted:
            example = Example(note.record, note.value, table.names[row] or None)
            faults.add(note.rule, note.what, kind=note.kind, examples=[example], hint=note.hint)
            if "-E" in note.rule:
                bad += note.kind == BOXES
                if note.kind == IMAGES:
                    refused.append(row)
                    faults.unusable += [(table.names[row], note.rule)] if table.names[row] else []
    return bad, refused


def _sound_images(table: Table, rows: Ints, states_size: bool, faults: Faults) -> Ints:
    """Return the rows whose image is there, once, with the size that is written; the others are counted."""
    live = ~table.broken[rows]
    names = np.array([table.names[row] for row in rows.tolist()], object)

    def tell(rule: str, what: str, wrong: Mask, value: Callable[[int], str], hint: str | None = None) -> None:
        found = np.flatnonzero(wrong & live)
        if found.size:
            shown = [Example(table.records[int(rows[i])], value(int(i)), names[i] or None) for i in found[:SHOWN]]
            faults.add(rule, what, kind=IMAGES, count=found.size, examples=shown, hint=hint)
            if "-E" in rule:
                live[found] = False
                faults.unusable += [(names[i], rule) for i in found.tolist() if names[i]]

    written, header = table.written_hw[rows], table.header_hw[rows]
    hint = "Annotations and images belong together: put them into one folder, or into images/ beside them."
    if len(table.links):
        hint = f"{table.links[0]} is a link that leads out of data.root: link the data set's folder as a whole."
    tell("ANN-E04", "the image is not there", names == "", lambda i: table.written[int(rows[i])], hint)
    twice = np.ones(len(rows), bool)
    twice[np.unique(names.astype(str), return_index=True)[1]] = False
    tell("ANN-E05", "an image is annotated twice", twice, lambda i: str(names[i]), "Remove all but one.")
    what = "the image is there under a name in other letters or with another suffix"
    tell("ANN-W06", what, table.renamed[rows], lambda i: table.written[int(rows[i])])
    other = ~_any(written <= 0) & _any(written != header) & ~table.upright[rows]
    what = "the image has another size than its annotations say"
    tell("ANN-E07", what, other, lambda i: f"{_shown(written[i])}, the image {_shown(header[i])}")
    if states_size:
        tell(
            "ANN-W08",
            "width or height is missing or 0, read from the image",
            _any(written <= 0),
            lambda i: _shown(header[i]),
        )
    faults.looked_at(IMAGES, len(rows), int((~live).sum()))
    return rows[live]


def _any(found_NM: Mask) -> Mask:
    rows_N: Mask = np.asarray(found_NM.any(axis=1))
    return rows_N


def _shown(hw: Sizes) -> str:
    return f"{hw[1]} x {hw[0]}"


class _Boxes:
    """The boxes of the sound images, in the images' order."""

    def __init__(self, table: Table, at: Ints, image_N: Ints, sizes: Sizes, faults: Faults) -> None:
        self._table, self._at, self._image, self._faults = table, at, image_N, faults
        self._hw = sizes[image_N]
        scale = np.where(table.shares[table.image[at]][:, None], self._hw[:, [1, 0, 1, 0]], 1)
        self._shares = table.shares[table.image[at]]
        with np.errstate(invalid="ignore", over="ignore"):
            self._xyxy: Floats = table.boxes[at] * scale
            self._extent = self._xyxy[:, 2:] - self._xyxy[:, :2]
        self._live = np.ones(len(at), bool)

    def kept(self) -> tuple[Ints, Floats, Ints]:
        """Return image, x y width height, and place in the table of each box that is left."""
        live = self._live
        return self._image[live], np.concatenate([self._xyxy[:, :2], self._extent], axis=1)[live], self._at[live]

    def check(self, unread: int) -> None:
        """Leave out and count what cannot be a box, and tell what is unusual."""
        xyxy, extent = self._xyxy, self._extent
        with np.errstate(invalid="ignore"):
            self._drop("ANN-E15", "a box holds a value that is not a finite number", _any(~np.isfinite(extent)))
            hint = "Corners are x1 y1 x2 y2, the smaller first."
            self._drop("ANN-E16", "a box ends before it begins", _any(extent < 0), hint)
        self._faults.looked_at(BOXES, len(self._at) + unread, int((~self._live).sum()) + unread)
        self._drop("ANN-W17", "a box has no width or no height: dropped", _any(extent == 0))
        self._drop("ANN-W19", "a box of the same class is there twice: taken once", self._repeated())
        live = np.flatnonzero(self._live)
        xywh = np.concatenate([xyxy[live, :2], extent[live]], axis=1)
        self._check_scale(live, xywh)
        leaving = np.zeros(len(self._at), bool)
        leaving[live] = beyond(xywh, self._hw[live])
        if leaving.sum() > MAX_LEAVING * live.size:
            hint = "Are corners and extents mixed up, or are the images resized?"
            self._tell("ANN-E18", f"{leaving.sum()} of {live.size} boxes leave their image", leaving, "", hint)
            return
        outside = leaving & ((xyxy[:, :2] >= self._hw[:, ::-1]).any(axis=1) | (xyxy[:, 2:] <= 0).any(axis=1))
        self._tell("ANN-W18", "a box lies wholly outside its image: left out", outside)
        self._tell("ANN-W18", "a box leaves its image: clipped", leaving & ~outside)

    def _check_scale(self, live: Ints, xywh: Floats) -> None:
        tiny = np.zeros(len(self._at), bool)
        tiny[live] = ~self._shares[live] & (np.abs(xywh) <= 1).all(axis=1) & (xywh % 1 != 0).any(axis=1)
        if tiny.sum() > _MAX_WITHIN * live.size:
            hint = "They look normalised to 0..1: multiply them by width and height of the image."
            self._tell("ANN-E20", f"{tiny.sum()} of {live.size} boxes lie within one pixel", tiny, "", hint)

    def _drop(self, rule: str, what: str, wrong: Mask, hint: str | None = None) -> None:
        wrong &= self._live
        self._live &= ~wrong
        self._tell(rule, what, wrong, BOXES, hint)

    def _tell(self, rule: str, what: str, wrong: Mask, kind: str = BOXES, hint: str | None = None) -> None:
        found = np.flatnonzero(wrong)
        if found.size:
            self._faults.add(rule, what, kind=kind, count=found.size, examples=self._examples(found), hint=hint)

    def _examples(self, found: Sequence[int] | npt.NDArray[np.int64]) -> list[Example]:
        table = self._table
        return [
            Example(
                table.places[int(self._at[i])],
                " ".join(f"{value:.6g}" for value in self._xyxy[i]),
                table.names[int(table.image[self._at[i]])],
            )
            for i in found[:SHOWN]
        ]

    def _repeated(self) -> Mask:
        """Which boxes say the same as an earlier one of their image."""
        live = np.flatnonzero(self._live)
        keys = np.column_stack([self._image[live], self._table.labels[self._at[live]], self._xyxy[live]])
        again = np.zeros(len(self._at), bool)
        again[live] = True
        again[live[np.unique(keys, axis=0, return_index=True)[1]]] = False
        return again
