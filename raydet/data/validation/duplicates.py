"""Images that are there twice: the same bytes (SHA-1), or nearly the same image (64-bit difference hash)."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from raydet.data.columns import Ints

NEAR = 3
"""Bits in which two prints may differ. Four quarters of 16 bits then share one, which is how pairs are found."""
_LEVELS = 6.0
"""Mean difference in grey levels, brightness apart, that the miniatures of one image may have: 64 bits alone take
handwritten digits on like paper for one another."""
_PLAIN = 6
"""A print with fewer bits of one kind than this is of an even image (sky, paper), which resembles any other."""
_CROWD = 200
"""A quarter shared by more prints than this tells nothing; such prints are compared by their other quarters."""


def same(prints: Sequence[bytes]) -> list[list[int]]:
    """Return the groups of positions whose prints are equal; an empty print equals none."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, one in enumerate(prints):
        if one:
            groups[one].append(i)
    return [group for group in groups.values() if len(group) > 1]


def near(prints: Sequence[int | None], miniatures: Sequence[bytes]) -> list[list[int]]:
    """Return the groups of positions of nearly the same image, each in order; even images are left out.

    Two are alike if their prints differ in at most NEAR bits and their miniatures hardly; a group holds whatever is
    like one of its members.
    """
    pairs = [(a, b) for a, b in candidates(prints) if _alike(miniatures[a], miniatures[b])]
    return joined(pairs)


def candidates(prints: Sequence[int | None]) -> list[tuple[int, int]]:
    """Return the pairs of positions whose prints differ in at most NEAR of 64 bits; even images are left out.

    All such pairs are found, but for those that share only quarters with more than 200 others.
    """
    kept = np.array([i for i, one in enumerate(prints) if one is not None and _telling(one)], np.int64)
    hashes = np.array([prints[i] for i in kept.tolist()], np.uint64)
    pairs: set[tuple[int, int]] = set()
    for shift in (0, 16, 32, 48):
        quarter = (hashes >> np.uint64(shift)) & np.uint64(0xFFFF)
        for group in _groups(quarter):
            for a, b in combinations(group.tolist(), 2):
                if int(hashes[a] ^ hashes[b]).bit_count() <= NEAR:
                    pairs.add((int(kept[a]), int(kept[b])))
    return sorted((min(pair), max(pair)) for pair in pairs)


def _alike(a: bytes, b: bytes) -> bool:
    one, two = (np.frombuffer(m, np.uint8).astype(np.float64) for m in (a, b))
    return float(np.abs((one - one.mean()) - (two - two.mean())).mean()) <= _LEVELS


def joined(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the groups of what the pairs connect, each in order."""
    group: dict[int, list[int]] = {}
    for a, b in pairs:
        one, two = group.setdefault(a, [a]), group.setdefault(b, [b])
        if one is not two:
            one += two
            group.update(dict.fromkeys(two, one))
    return sorted(sorted(members) for members in {id(g): g for g in group.values()}.values())


def _telling(one: int) -> bool:
    return _PLAIN <= one.bit_count() <= 64 - _PLAIN


def _groups(values: "np.ndarray[tuple[int, ...], np.dtype[np.uint64]]") -> list[Ints]:
    order = np.argsort(values, kind="stable")
    borders = np.flatnonzero(np.diff(values[order])) + 1
    return [group for group in np.split(order, borders) if 1 < len(group) <= _CROWD]
