"""Nothing outside a data set's root is read, whatever its own files say."""

import contextlib
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydet.data.formats.yolo.load import load_yolo
from raydet.data.storage.files import Folder, refusal
from raydet.exceptions import DataError
from tests.data.makers import make_image

opened: list[str] = []
watching = [False]


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if watching[0] and event in ("open", "os.listdir", "os.scandir"):
        opened.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes, os.PathLike)) else "")


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """Every path that is opened or listed during the test."""
    if not hasattr(sys, "raydet_watch"):  # an audit hook stays for the life of the process
        sys.addaudithook(_watch)
        sys.raydet_watch = True  # type: ignore[attr-defined]
    opened.clear()
    watching[0] = True
    yield opened
    watching[0] = False


OUT = "OUTSIDE"
"""Stands for the folder beside the data set, which holds an image and a label."""
EVIL = [
    *("..", "../", "../..", f"../{OUT}", f"../{OUT}/1.jpg", f"../../{OUT}/1.jpg", f"images/../../{OUT}/1.jpg"),
    *(f"./../{OUT}/1.jpg", f"images/train/../../../{OUT}/1.jpg", f"....//{OUT}/1.jpg", f"..//{OUT}/1.jpg"),
    *(f"/{OUT}/1.jpg", f"//{OUT}/1.jpg", "/etc/passwd", "/proc/self/environ", "~/1.jpg", "~root/1.jpg", "~"),
    *(f"%2e%2e/{OUT}/1.jpg", f"%2e%2e%2f{OUT}%2f1.jpg", f"..%2f{OUT}/1.jpg", f"..%00/{OUT}/1.jpg", "%00"),
    *(
        f"..\\{OUT}\\1.jpg",
        f"images\\..\\..\\{OUT}\\1.jpg",
        "C:\\Windows\\1.jpg",
        "C:1.jpg",
        "C:/1.jpg",
        "\\\\host\\1.jpg",
    ),
    *(f"..\u2215{OUT}\u22151.jpg", f"\u2024\u2024/{OUT}/1.jpg", f"..\uff0f{OUT}/1.jpg", f"\u200b../{OUT}/1.jpg"),
    *(f"images/1.jpg\0/../../{OUT}/1.jpg", f"images\n../../{OUT}/1.jpg", f"images\r/../../{OUT}/1.jpg", "\x1b[2J"),
    *(
        "file:///etc/passwd",
        f"file:../{OUT}/1.jpg",
        "http://169.254.169.254/latest/meta-data/1.jpg",
        "data:image/png,x",
    ),
    *(
        "https:\\\\host\\1.jpg",
        "s3://other/1.jpg",
        "link/1.jpg",
        "linked.jpg",
        "a" * 5000,
        "$HOME/1.jpg",
        "|id",
        "`id`",
    ),
]


def evil_set(tmp_path: Path) -> tuple[Path, Path]:
    root, out = tmp_path / "inner" / "set", tmp_path / "inner" / OUT
    for folder in (root / "images" / "train", root / "labels" / "train", out):
        folder.mkdir(parents=True)
    make_image(1, (60, 80)).save(out / "1.jpg")
    (out / "1.txt").write_text("0 .5 .5 .1 .1")
    (root / "link").symlink_to(out)
    (root / "linked.jpg").symlink_to(out / "1.jpg")
    make_image(2, (60, 80)).save(root / "images" / "train" / "good.jpg")
    (root / "labels" / "train" / "good.txt").write_text("0 .5 .5 .1 .1")
    return root, out


def outside(watched: list[str], tmp_path: Path, root: Path) -> list[str]:
    """What was read that is neither in the set nor raydet's own."""
    real = [os.path.realpath(path) for path in watched if "\0" not in path]
    suspects = [path for path in real if path.startswith(str(tmp_path)) and "cache" not in path]
    suspects += [
        path for path in real if path.startswith(("/etc/passwd", "/proc/self/environ", os.path.expanduser("~/1")))
    ]
    return [path for path in suspects if not path.startswith(str(root))]


def test_there_are_forty_evil_names() -> None:
    assert len(set(EVIL)) >= 40


@pytest.mark.parametrize("name", EVIL)
def test_an_evil_name_reads_nothing_outside(tmp_path: Path, watched: list[str], name: str) -> None:
    root, out = evil_set(tmp_path)
    name = name.replace(OUT, str(out)[1:] if name.startswith("/") else OUT)
    watched.clear()
    with pytest.raises((DataError, OSError)):
        Folder(root).read(name, 1 << 20)
    with contextlib.suppress(DataError):
        assert not Folder(root).exists(name)
    assert Folder(root).walk(name.replace("\0", "")) == {}
    assert outside(watched, tmp_path, root) == []


@pytest.mark.slow
@pytest.mark.parametrize("where", ["path", "train", "trains", "list"])
def test_an_evil_name_in_a_yaml_or_a_list_reads_nothing_outside(tmp_path: Path, watched: list[str], where: str) -> None:
    root, out = evil_set(tmp_path)
    for name in EVIL:
        name = name.replace(OUT, str(out)[1:] if name.startswith("/") else OUT)
        write_evil(root, name, where)
        watched.clear()
        try:
            index = load_yolo(Folder(root), None, "train", on_bad="skip", max_bad=1.0)
            assert index.names.tolist() == ["images/train/good.jpg"], name
        except DataError as error:
            assert error.rule.startswith(("YOLO-", "COCO-E24", "DIR-")), name
        assert outside(watched, tmp_path, root) == [], name


def write_evil(root: Path, name: str, where: str) -> None:
    """A data.yaml that holds the name, or leads to a list that does."""
    quoted = f"'{name}'" if "\\" in name else '"' + name.encode("unicode_escape").decode() + '"'
    values = {"path": ".", "train": "images/train"}
    if where == "list":
        (root / "train.txt").write_text(f"{name}\nimages/train/good.jpg\n", newline="")
        values["train"] = "train.txt"
    else:
        values[where.removesuffix("s")] = f"[images/train, {quoted}]" if where == "trains" else quoted
    text = "".join(f"{key}: {value}\n" for key, value in values.items())
    (root / "data.yaml").write_text(text + "names: [a]\n", newline="")


def test_links_out_of_the_root_are_named_and_not_walked_into(tmp_path: Path, watched: list[str]) -> None:
    root, _ = evil_set(tmp_path)
    (root / "images" / "train" / "loop").symlink_to(root / "images")
    (root / "images" / "train" / "again.jpg").symlink_to(root / "images" / "train" / "good.jpg")
    (root / "images" / "train" / ".hidden.jpg").write_text("")
    watched.clear()
    inner = ["images/train/again.jpg", "images/train/good.jpg"]
    assert list(Folder(root).walk("images")) == inner
    assert list(Folder(root).walk("")) == [*inner, "labels/train/good.txt", "link/", "linked.jpg"]
    assert Folder(root).walk("nowhere") == {}
    assert outside(watched, tmp_path, root) == []


@pytest.mark.parametrize(
    "name", ["a.jpg", "ä/日本 1.jpg", "a..b/c.jpg", "..a.jpg", "%2e%2e/a.jpg", "ab:c.jpg", "a/./b.jpg", "a~"]
)
def test_plain_names_are_not_refused(name: str) -> None:
    assert refusal(name) is None


def test_a_file_larger_than_allowed_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * 11)
    assert Folder(tmp_path).read("a.txt", 11) == b"x" * 11
    with pytest.raises(DataError, match="larger than 10 bytes"):
        Folder(tmp_path).read("a.txt", 10)


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    before = Folder(tmp_path).walk("")
    (tmp_path / "a").write_text("three")
    assert before.keys() == Folder(tmp_path).walk("").keys()
    assert before != Folder(tmp_path).walk("")


def test_a_folder_may_be_forked_and_pickled(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("x")
    folder = pickle.loads(pickle.dumps(Folder(tmp_path)))
    assert folder.forkable
    assert folder.exists("a.jpg")
    assert folder.listing(3) == "a.jpg"
