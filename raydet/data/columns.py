"""Packed columns: what the indexes keep instead of lists of records. numpy only.

A Python list shared with forked loader processes is copied page by page as reference counts are touched; an array is
not. 30 000 images x 7 boxes: lists of dicts grew by 42 MiB in each loader process, arrays by nothing measurable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Texts:
    """Many strings in one byte array; text i is bytes[first[i]:first[i + 1]]."""

    bytes: npt.NDArray[np.uint8]
    first: Ints

    @classmethod
    def pack(cls, texts: Sequence[str]) -> "Texts":
        """The texts packed; lone surrogates (undecodable file names) survive."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        lengths = np.array([len(e) for e in encoded], np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), first_of(lengths))

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, i: int) -> str:
        if i < 0 or i >= len(self):
            raise IndexError(f"text {i} of {len(self)}")
        return self.bytes[self.first[i] : self.first[i + 1]].tobytes().decode("utf-8", "surrogateescape")

    def tolist(self) -> list[str]:
        """All texts, unpacked."""
        return [self[i] for i in range(len(self))]


def first_of(counts: npt.NDArray[np.signedinteger[Any]]) -> Ints:
    """Return where each of so many counts begins when they lie one after the other, and where the last ends."""
    first = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=first[1:])
    return first


def spread_over(count: int, most: int) -> Ints:
    """Return up to `most` positions spread evenly over `count`, the first and the last among them, in order."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


def image_columns(names: Sequence[str]) -> Columns:
    """Return the ids, counted from 1, and the names of the images of a format that has no ids of its own."""
    packed = Texts.pack(names)
    return {
        "ids": np.arange(1, len(names) + 1, dtype=np.int64),
        "name_bytes": packed.bytes,
        "name_first": packed.first,
    }


def box_columns(
    sizes_B2: npt.NDArray[np.int32],
    xywh_N4: Floats,
    labels_N: npt.NDArray[np.int32],
    image_N: Ints,
    crowd_N: npt.NDArray[np.bool_] | None = None,
) -> Columns:
    """Return the images' sizes and the boxes of a format that has no ids and areas of its own.

    Args:
        image_N: the image of each box, in order.
        crowd_N: None: no box is a crowd.
    """
    return {
        "sizes": sizes_B2,
        "boxes": xywh_N4,
        "areas": xywh_N4[:, 2] * xywh_N4[:, 3],
        "labels": labels_N,
        "crowd": np.zeros(len(xywh_N4), bool) if crowd_N is None else crowd_N,
        "ann_ids": np.arange(1, len(xywh_N4) + 1, dtype=np.int64),
        "first": first_of(np.bincount(image_N, minlength=len(sizes_B2))),
    }
