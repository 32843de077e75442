"""Images that are there twice: the same bytes (SHA-1), or nearly the same image (64-bit difference hash)."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

NEAR = 5
"""Bits in which two prints may differ. Six parts of ten or eleven bits then share one, which is how pairs are found."""
_PARTS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))
"""First bit and number of bits of each part of a print."""
_LEVELS = {0: 6.0, 1: 6.0, 2: 6.0, 3: 6.0, 4: 3.0, 5: 3.0}
"""Mean difference in grey levels, brightness apart, that the miniatures of one image may have, by the bits in which
their prints differ: 64 bits alone take handwritten digits on like paper for one another."""
_PLAIN = 6
"""A print with fewer bits of one kind than this is of an even image (sky, paper), which resembles any other."""
_CROWD = 200
"""Of the prints that share a part each is compared with so many others; a part shared by more tells little."""


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
    pairs = [(a, b) for a, b, bits in candidates(prints) if _levels(miniatures[a], miniatures[b]) <= _LEVELS[bits]]
    return joined(pairs)


def candidates(prints: Sequence[int | None]) -> list[tuple[int, int, int]]:
    """Return the pairs of positions whose prints differ in at most NEAR of 64 bits, and in how many.

    Even images are left out. All other pairs are found, but for those that share only parts with over 200 others.
    """
    kept = np.array([i for i, one in enumerate(prints) if one is not None and _telling(one)], np.int64)
    hashes = np.array([prints[i] for i in kept.tolist()], np.uint64)
    found: dict[tuple[int, int], int] = {}
    for first, length in _PARTS:
        part = (hashes >> np.uint64(first)) & np.uint64((1 << length) - 1)
        order = np.argsort(part, kind="stable")
        part, sorted_hashes = part[order], hashes[order]
        for step in range(1, _CROWD + 1):
            shared = np.flatnonzero(part[:-step] == part[step:])
            if not len(shared):
                break
            bits = np.bitwise_count(sorted_hashes[shared] ^ sorted_hashes[shared + step])
            near_by = shared[bits <= NEAR]
            one, two = kept[order[near_by]], kept[order[near_by + step]]
            pairs = zip(np.minimum(one, two).tolist(), np.maximum(one, two).tolist(), strict=True)
            found |= dict(zip(pairs, bits[bits <= NEAR].tolist(), strict=True))
    return sorted((a, b, bits) for (a, b), bits in found.items())


def _levels(a: bytes, b: bytes) -> float:
    """The mean difference of two miniatures in grey levels, brightness apart."""
    one, two = (np.frombuffer(m, np.uint8).astype(np.float64) for m in (a, b))
    return float(np.abs((one - one.mean()) - (two - two.mean())).mean())


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
