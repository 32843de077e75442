"""Which file a written name means, whatever tool wrote it; which split a name says."""

import unicodedata

from raydet.data.formats.image_names import ImageNames
from raydet.data.formats.split_names import by_split, split_of

NFD = unicodedata.normalize("NFD", "images/café.jpg")


def found(names: list[str], written: str, beside: str = "") -> str | None:
    match = ImageNames(names).find(written, beside)
    return match and match.name + "*" * match.renamed


def test_a_written_name_finds_its_image() -> None:
    both = ["train/a.jpg", "valid/a.jpg"]
    table = [
        (["a.jpg"], "a.jpg", "", "a.jpg"),
        (["a.jpg"], "./a.jpg", "", "a.jpg"),
        (["train/a.jpg"], "a.jpg", "train", "train/a.jpg"),
        (["JPEGImages/a.jpg"], "a.jpg", "Annotations", "JPEGImages/a.jpg"),
        (["images/a.jpg"], "../images/a.jpg", "annotations", "images/a.jpg"),
        (["images/a.jpg"], "..\\images\\a.jpg", "annotations", "images/a.jpg"),
        (["a.jpg"], "C:\\Users\\me\\photos\\a.jpg", "", "a.jpg"),
        (["a.jpg"], "/home/me/photos/a.jpg", "", "a.jpg"),
        (["a.jpg"], "https://x.y/z/a.jpg?token=1", "", "a.jpg"),
        (["images/my photo.jpg"], "my%20photo.jpg", "", "images/my photo.jpg"),
        (["images/a%20b.jpg", "images/a b.jpg"], "images/a%20b.jpg", "", "images/a%20b.jpg"),
        ([NFD], "café.jpg", "", NFD),
        (["images/train/a.jpg", "images/val/a.jpg"], "val/a.jpg", "", "images/val/a.jpg"),
        (both, "a.jpg", "valid", "valid/a.jpg"),
        (["thumbs/a.jpg", "images/a.jpg"], "a.jpg", "labels", "images/a.jpg"),
        (["a.JPG"], "a.jpg", "", "a.JPG*"),
        (["a.jpg"], "a.png", "", "a.jpg*"),
        (["images/0a1b.jpg"], "0a1b", "", "images/0a1b.jpg"),
        (both, "a.jpg", "", None),
        (["x/a.jpg", "y/a.jpg"], "a.jpg", "", None),
        (["train/a.jpg"], "val/a.jpg", "", None),
        (["train/a.jpg"], "a.jpg", "valid", None),
        (["a.jpg"], "b.jpg", "", None),
        (["a.jpg"], "../../etc/passwd", "", None),
        (["a.jpg"], "", "", None),
    ]
    wrong = [(written, got) for names, written, beside, want in table if (got := found(names, written, beside)) != want]
    assert not wrong


def test_a_name_says_its_split_by_a_whole_word() -> None:
    table = {
        "instances_val2017.json": "val",
        "valid": "val",
        "Train": "train",
        "train_labels.csv": "train",
        "test.txt": "test",
        "coco-dev": "val",
        "annotationsTest.json": "test",
        "trainval.txt": None,
        "trains": None,
        "contest": None,
        "train_val.json": None,
        "a": None,
    }
    assert {name: split_of(name) for name in table} == table
    assert by_split(["train/a.xml", "a.xml"]) == {"train": ["train/a.xml"], None: ["a.xml"]}
