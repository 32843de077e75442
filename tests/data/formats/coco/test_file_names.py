"""Names of images as tools write them: the files they mean are found, one way for a whole split, and it is said."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from raydet.config import Config, override
from raydet.data import open_split
from raydet.data.columns import Texts
from raydet.data.formats.coco.file_names import NameReading, locate
from raydet.data.storage.files import Folder
from raydet.exceptions import DataError
from tests.data.makers import make_image, truth

NFC, NFD = (unicodedata.normalize(form, "Äpfel é") for form in ("NFC", "NFD"))
LAYOUTS: list[tuple[str, str, str, str]] = [
    # annotation file, the image's file, its name as written, what is said
    ("result.json", "images/{i}.jpg", "images/{i}.jpg", "COCO-W51"),
    ("annotations/instances_train.json", "train/{i}.jpg", "train/{i}.jpg", "COCO-W51"),
    ("annotations/instances_train.json", "images/train/{i}.jpg", "images/train/{i}.jpg", "COCO-W51"),
    ("annotations/instances_train.json", "images/train/{i}.jpg", "train/{i}.jpg", "COCO-W51"),
    ("annotations/instances_train.json", "images/train/{i}.jpg", "old-name/images/train/{i}.jpg", "COCO-W51"),
    ("annotations/instances_train.json", "JPEGImages/{i}.jpg", "JPEGImages/{i}.jpg", ""),
    ("annotations/instances_train.json", "train/a b/{i}.jpg", "a%20b/{i}.jpg", "COCO-W51"),
    ("annotations/instances_train.json", "train/a%20b/{i}.jpg", "a%20b/{i}.jpg", ""),
    ("annotations/instances_train.json", "train/sub/{i}.jpg", "sub\\{i}.jpg", "COCO-W51"),
    ("annotations/instances_train.json", "train/sub/{i}.jpg", "train\\sub\\{i}.jpg", "COCO-W51"),
    ("annotations/instances_train.json", "images/é {i}.jpg", "images\\%C3%A9%20{i}.jpg", "COCO-W51"),
    ("annotations/instances_train.json", f"train/{NFD}{{i}}.jpg", f"{NFC}{{i}}.jpg", "COCO-W51"),
    ("annotations/instances_train.json", f"train/{NFC}/{{i}}.jpg", f"train/{NFD}/{{i}}.jpg", "COCO-W51"),
]


def write(
    root: Path, annotations: str, file: Callable[[int], str], name: Callable[[int], str], images: int = 4
) -> None:
    content = truth(images)
    for i, image in enumerate(content["images"]):
        path = root / file(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        make_image(i, (60, 80)).save(path)
        image["file_name"] = name(i)
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    (root / annotations).write_text(json.dumps(content))


def opened(root: Path, annotations: str) -> Config:
    return override(Config(), {"data.root": str(root), "data.train": annotations, "data.val": annotations})


def test_the_files_are_found_however_their_names_are_written(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (annotations, file, name, rule) in enumerate(LAYOUTS):
        with subtests.test(f"{file} written {name}"):
            root = tmp_path / str(number)
            write(root, annotations, lambda i, f=file: f.format(i=i), lambda i, n=name: n.format(i=i))  # type: ignore[misc]
            for _ in range(2):  # the second time from the cache
                index = open_split(opened(root, annotations), "train")
                assert all(index.files.exists(name) for name in index.names.tolist())
                assert ["COCO-W51"] * bool(rule) == [f.rule for f in index.faults if f.rule == "COCO-W51"]


def test_names_of_both_unicode_forms_are_found_in_one_folder(tmp_path: Path) -> None:
    write(
        tmp_path,
        "annotations/instances_train.json",
        lambda i: f"train/{(NFC, NFD)[i % 2]}{i}.jpg",
        lambda i: f"{NFC}{i}.jpg",
    )
    index = open_split(opened(tmp_path, "annotations/instances_train.json"), "train")
    assert all(index.files.exists(name) for name in index.names.tolist())


def test_two_images_never_become_one(tmp_path: Path) -> None:
    """a/1.jpg and b/1.jpg are not both train/1.jpg."""
    write(
        tmp_path,
        "annotations/instances_train.json",
        lambda i: f"train/{i // 2}.jpg",
        lambda i: f"{'ab'[i % 2]}/{i // 2}.jpg",
    )
    with pytest.raises(DataError) as caught:
        open_split(opened(tmp_path, "annotations/instances_train.json"), "train")
    assert caught.value.rule == "COCO-E30"


def test_a_name_leads_nowhere_by_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").touch()
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "b c.jpg").touch()
    names = ["a/b%20c.jpg", "%2e%2e/secret.jpg", "a/%2e%2e/%2e%2e/secret.jpg", "%2Fetc%2Fpasswd", "a/%00.jpg"]
    found = locate(Texts.pack(names), [Folder(tmp_path / "images")])
    assert found.found == 1 and found.reading == NameReading(decode=True)
    assert [found.reading(name) for name in names] == ["a/b c.jpg", *names[1:]]


def test_sizes_are_read_from_the_files_that_are_meant(tmp_path: Path) -> None:
    write(tmp_path, "result.json", lambda i: f"images/{i}.jpg", lambda i: f"images\\{i}.jpg")
    content = json.loads((tmp_path / "result.json").read_text())
    for image in content["images"]:
        del image["width"]
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert open_split(opened(tmp_path, "result.json"), "train").sizes.tolist() == [[60, 80]] * 4  # type: ignore[union-attr]
