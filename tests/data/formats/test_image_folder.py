"""The folder index: classes by name, images by path, and what is refused."""

from pathlib import Path

import pytest

from raydet.data.formats.image_folder import load_folder
from raydet.exceptions import DataError


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    return root


def test_classes_are_folders_by_name_and_images_sorted_by_path(tmp_path: Path) -> None:
    index = load_folder(tree(tmp_path, "b/2.JPG", "b/1.png", "a/sub/é 3.webp", "a/9.bmp", "top.jpg"))
    assert index.class_names == ["a", "b"]
    assert index.names.tolist() == ["a/9.bmp", "a/sub/é 3.webp", "b/1.png", "b/2.JPG"]
    assert index.labels.tolist() == [0, 0, 1, 1]
    assert (len(index), index.num_classes, index.category_ids.tolist()) == (4, 2, [0, 1])
    assert index.image(2) == tmp_path / "b" / "1.png"
    assert index.warnings == ["1 images: in no class folder, left out; top.jpg (DIR-W08)"]


def test_other_files_are_left_out_and_counted(tmp_path: Path) -> None:
    index = load_folder(tree(tmp_path, "a/1.jpg", "a/notes.txt", "a/.DS_Store", ".ipynb_checkpoints/x.jpg"))
    assert index.class_names == ["a"]
    assert index.warnings == ["2 files: no images, left out; a/.DS_Store (DIR-W05)"]


def test_links_to_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    tree(tmp_path, "real/1.jpg", "set/a/0.jpg")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "real")
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set" / "a")
    assert load_folder(tmp_path / "set").names.tolist() == ["a/0.jpg", "b/1.jpg"]


@pytest.mark.parametrize(
    ("files", "rule", "message"),
    [
        ((), "DIR-E01", "No such file"),
        (("set/1.jpg",), "DIR-E03", "one folder of images per class"),
        (("set/a/1.jpg", "set/b/1.txt"), "DIR-E02", "b: hold no image; 1 of 2 class folders"),
        (("set",), "DIR-E01", "Not a directory"),
    ],
)
def test_layouts_that_hold_no_classes_are_refused(
    tmp_path: Path, files: tuple[str, ...], rule: str, message: str
) -> None:
    tree(tmp_path, *files)
    with pytest.raises(DataError, match=message) as caught:
        load_folder(tmp_path / "set")
    assert caught.value.rule == rule


def test_class_folders_without_images_are_skipped_within_the_share_that_is_allowed(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "b/notes.txt", "c/2.jpg")
    with pytest.raises(DataError, match=r"1 of 3 class folders are faulty, more than data.max_bad=0.3") as caught:
        load_folder(tmp_path, on_bad="skip", max_bad=0.3)
    assert caught.value.rule == "DIR-E02"
    index = load_folder(tmp_path, on_bad="skip", max_bad=0.5)
    assert (index.class_names, index.labels.tolist()) == (["a", "c"], [0, 1])
    assert [(f.rule, f.count, f.record) for f in index.faults] == [("DIR-E02", 1, "b"), ("DIR-W05", 1, "b/notes.txt")]


def test_folders_all_without_images_are_refused_whatever_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="DIR-E03"):
        load_folder(tree(tmp_path, "a/1.txt"), on_bad="skip", max_bad=1.0)
