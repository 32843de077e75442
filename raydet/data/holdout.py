"""A validation split for a data set that has none: a share of its images, drawn by their content.

Copies, near copies and what comes of one source (crops of a photo, frames of a video, by their names) stay on one side,
or the score would be too good. Classes of images are divided each for itself.
"""

import hashlib
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from raydet.config import Config
from raydet.data.columns import Ints
from raydet.data.formats.index import ClassificationIndex, Index
from raydet.data.image_checks import Looked
from raydet.data.validation.duplicates import joined
from raydet.exceptions import DataError

_NUMBER = re.compile(r"[-_ .]*\d+$")
_MOST_COPIES = 10
_FEWEST_SOURCES = 5
_LARGEST_SOURCE = 0.3
"""Share of the images above which a name tells nothing of their source."""


def divided(cfg: Config, index: Index, seen: Sequence[Looked], groups: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """Return the rows to train on and those to validate on, each in order.

    Args:
        seen: what each image is recognized by.
        groups: rows of images that are one, or nearly.

    Raises:
        DataError: there are too few images that differ.
    """
    assert cfg.data.val_fraction is not None
    most = max(_MOST_COPIES, len(index) // 20)  # more are no copies but things that look alike: cells, digits
    copies = [group for group in groups if len(group) <= most]
    pairs = [(group[0], row) for group in (*copies, *_sources(index.names.tolist())) for row in group[1:]]
    together = joined(pairs)
    alone = set(range(len(index))) - {row for rows in together for row in rows}
    members = sorted([*together, *([row] for row in alone)])
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    for rows in members:
        by_class[int(index.labels[rows[0]]) if isinstance(index, ClassificationIndex) else 0].append(rows)
    val: list[int] = []
    for units in by_class.values():
        units.sort(key=lambda rows: _drawn(cfg.run.seed, min(seen[row].sha1 for row in rows)))
        wanted = max(1, round(cfg.data.val_fraction * sum(map(len, units))))
        taken = 0
        for rows in units[:-1]:  # one is left to train on
            if not taken or taken + len(rows) <= wanted:
                val += rows
                taken += len(rows)
    if not val:
        what = f"has {len(members)} images that differ: too few to hold some of them back (data.val_fraction)"
        raise DataError(what, file=index.file, rule="DIR-E15", hint="Name a validation split: data.val.")
    chosen = np.zeros(len(index), bool)
    chosen[val] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _drawn(seed: int, content: bytes) -> bytes:
    return hashlib.sha1(b"%d:" % seed + content, usedforsecurity=False).digest()


def _sources(names: Sequence[str]) -> list[list[int]]:
    """Rows of one source, by their names without the number at the end; [] where these tell nothing."""
    stems = [_NUMBER.sub("", posixpath.splitext(posixpath.basename(name))[0]) for name in names]
    counts = Counter(stems)
    if len(counts) < _FEWEST_SOURCES or counts.most_common(1)[0][1] > _LARGEST_SOURCE * len(names):
        return []
    rows: dict[str, list[int]] = defaultdict(list)
    for row, stem in enumerate(stems):
        rows[stem].append(row)
    return [group for group in rows.values() if len(group) > 1]
