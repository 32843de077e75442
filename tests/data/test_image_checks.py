"""Each kind of bad or unusual image is told by its own rule, and none stops the look at the others."""

import io
import os
import re
import resource
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydet.config import Config, override
from raydet.data.formats.index import DetectionIndex
from raydet.data.formats.open_split import open_split
from raydet.data.image_checks import Looked, dhash, look, quick_look
from raydet.data.storage.files import Folder
from raydet.data.validation.duplicates import candidates, near, same
from raydet.data.validation.rules import RULES
from raydet.exceptions import DataError
from tests.data.images.test_decode import png
from tests.data.makers import make_image


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def sound() -> Image.Image:
    return make_image(3, (60, 80))


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(sound(), exif=exif)


def zeroed(data: bytes) -> bytes:
    return data[:200] + bytes(100) + data[300:]


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there over and over."""
    data = encoded(sound(), progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:-2] + data[at:-2] * count + data[-2:]


def deep() -> bytes:
    rows = (b"\0" + bytes(range(240)) * 2) * 60
    return png(80, 60, 16, 2, rows)


KINDS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "cut short": (lambda: encoded(sound())[:900], "IMG-E04", "cut short"),
    "cut in its header": (lambda: encoded(sound())[:40], "IMG-E0[34]", "cut|damaged"),
    "empty": (lambda: b"", "IMG-E02", "is empty"),
    "zeros": (lambda: bytes(500), "IMG-E03", "zeros"),
    "a web page": (lambda: b"<!DOCTYPE html><html>not found</html>", "IMG-E03", "web page"),
    "text": (lambda: b"version https://git-lfs.github.com/spec/v1", "IMG-E03", "text"),
    "cmyk": (lambda: encoded(sound().convert("CMYK")), "IMG-W09", "CMYK"),
    "16 bit grey": (
        lambda: encoded(Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80)), "PNG"),
        "IMG-W10",
        "16 bits",
    ),
    "16 bit colour": (deep, "IMG-W10", "16 bits"),
    "32 bit": (lambda: encoded(Image.new("I", (80, 60)), "TIFF"), "IMG-W10", "32 bits .*nearly blank, 1 grey"),
    "turned by exif": (turned, "IMG-W11", "orientation 6"),
    "animated": (
        lambda: encoded(sound(), "GIF", save_all=True, append_images=[sound().rotate(90)]),
        "IMG-W12",
        "2 frames",
    ),
    "another format than its name": (lambda: encoded(sound(), "PNG"), "IMG-W08", "is a PNG"),
    "another size than told": (lambda: encoded(make_image(3, (60, 81))), "COCO-E22", "81 x 60"),
    "a bomb": (lambda: png(20_000, 20_000, 8, 0, zlib.compress(bytes(1000))), "IMG-E05", "max_pixels"),
    "hundreds of scans": (lambda: with_scans(300), "IMG-E18", "has 3.. scans"),
    "zeros at the end": (lambda: encoded(make_image(3, (60, 80)), quality=100) + bytes(5000), "IMG-W19", "in zeros"),
    "damaged within": (lambda: zeroed(encoded(sound(), "PNG")), "IMG-E04", "damaged|cut"),
}


def looked_at(coco: Config, data: bytes) -> Looked:
    index = open_split(coco, "train")
    assert isinstance(index, DetectionIndex)
    Path(str(index.image(4))).write_bytes(data)
    return look(coco, index, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_told_by_its_rule(coco: Config, kind: str) -> None:
    make, rule, words = KINDS[kind]
    seen = looked_at(coco, make())
    told = [what for found, what, _ in seen.notes if re.fullmatch(rule, found)]
    assert told and re.search(words, told[0]), seen.notes
    assert all(found in RULES for found, _, _ in seen.notes)
    assert seen.broken == ("-E" in rule)


def test_a_sound_image_has_no_notes_and_both_prints(coco: Config) -> None:
    seen = looked_at(coco, encoded(sound()))
    assert (seen.notes, seen.hw, seen.broken) == ([], (60, 80), False)
    assert len(seen.sha1) == 20 and seen.dhash is not None


def test_a_missing_file_is_named_and_a_name_in_other_letters_is_hinted_at(coco: Config) -> None:
    index = open_split(coco, "train")
    path = Path(str(index.image(4)))
    path.rename(path.with_suffix(".JPG"))
    ((rule, what, hint),) = look(coco, index, 4).notes
    assert rule == "IMG-E01" and "No such file" in what and "4.JPG" in str(hint)


def test_turned_images_are_fine_where_that_is_asked_for(coco: Config) -> None:
    exif = Image.Exif()
    for how, hw, orientation, said, hinted in (
        (True, (80, 60), 6, "it is turned", False),
        ("auto", (80, 60), 6, "it is turned", False),
        ("auto", (60, 80), 6, "not turned, as its annotations are for the stored size", False),
        ("auto", (60, 80), 3, "not turned, as its size is the same either way", True),
        (False, (60, 80), 6, "not turned (data.exif=false)", True),
    ):
        exif[0x0112] = orientation
        seen = looked_at(override(coco, {"data.exif": how}), encoded(make_image(1, hw), exif=exif))
        ((rule, what, hint),) = seen.notes
        assert rule == "IMG-W11" and said in what and (hint is not None) == hinted


def test_a_bomb_costs_no_memory(coco: Config) -> None:
    data = KINDS["a bomb"][0]()
    looked_at(coco, encoded(sound()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    looked_at(coco, data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
def test_what_is_no_file_is_refused_and_never_read(coco: Config, kind: str, tmp_path: Path) -> None:
    index = open_split(coco, "train")
    path = Path(str(index.image(4)))
    path.unlink()
    {"a pipe": os.mkfifo, "a device": lambda p: p.symlink_to("/dev/zero"), "a folder": os.mkdir}[kind](path)
    trusted = replace(index, files=Folder(path.parent, trusted=True))  # as of class folders, whose links are followed
    ((rule, what, _),) = look(coco, trusted, 4).notes
    assert (rule, what) == ("IMG-E01", "is not a file")


def test_a_huge_file_is_hashed_without_being_held(coco: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(sound()) + b"x" * 5000
    small = looked_at(coco, data)
    monkeypatch.setattr("raydet.data.image_checks._MOST_HELD", 1000)
    monkeypatch.setattr("raydet.data.image_checks.loaded", lambda _: pytest.fail("it is read as a whole"))
    assert looked_at(coco, data) == small


@pytest.mark.slow
def test_any_mutated_file_is_looked_at_without_an_error(coco: Config) -> None:
    rng = np.random.default_rng(0)
    whole = encoded(sound(), quality=80)
    broken = 0
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 12)):
            data[at] = rng.integers(0, 256)
        broken += looked_at(coco, bytes(data[: rng.integers(1, len(data) + 1)])).broken
    assert broken > 100


def test_quick_look_refuses_a_bad_image_and_with_skip_only_many(coco: Config) -> None:
    index = open_split(coco, "train")
    quick_look(coco, index)
    Path(str(index.image(4))).write_bytes(b"")
    with pytest.raises(DataError, match=r"4\.jpg: is empty .*IMG-E02"):
        quick_look(coco, index)
    skip = override(coco, {"data.on_bad": "skip"})
    quick_look(skip, index)
    for row in range(6):
        Path(str(index.image(row))).write_bytes(b"")
    with pytest.raises(DataError, match=r"6 .*IMG-E02"):
        quick_look(skip, index)


def test_equal_files_are_grouped_and_unreadable_ones_are_not() -> None:
    assert same([b"a", b"b", b"a", b"", b"", b"a"]) == [[0, 2, 5]]


def test_candidates_are_every_pair_within_five_bits_and_no_other() -> None:
    rng = np.random.default_rng(1)
    prints: list[int | None] = [int(p) for p in rng.integers(0, 2**63, 400)]
    for i in range(0, 100, 2):
        flips = rng.choice(64, i // 2 % 8, replace=False)
        prints[i + 1] = int(prints[i] or 0) ^ sum(1 << int(bit) for bit in flips)
    prints += [None, 0, 0, 2**64 - 1, 2**64 - 1]
    differ = {
        (a, b): bin(int(prints[a] or 0) ^ int(prints[b] or 0)).count("1") for a in range(400) for b in range(a + 1, 400)
    }
    expected = [(a, b, bits) for (a, b), bits in differ.items() if bits <= 5]
    assert len(expected) >= 30 and {bits for *_, bits in expected} == {0, 1, 2, 3, 4, 5}
    assert candidates(prints) == expected


def test_the_same_image_saved_again_smaller_is_near() -> None:
    images = [sound(), make_image(9, (60, 80)), sound().resize((48, 36)), sound().point(lambda v: v * 0.9 + 10)]
    greys = [image.convert("L") for image in images]
    small = [grey.resize((16, 16)).tobytes() for grey in greys]
    assert near([dhash(grey) for grey in greys], small) == [[0, 2, 3]]
    assert near([5 << 40 | 0xFFFF] * 2, [bytes(range(256)), bytes(255 - i for i in range(256))]) == []
