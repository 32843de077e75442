"""YOLO data sets: where things lie, what a row means, and every fault by its rule."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydet.config import Config, override
from raydet.data.formats.index import DetectionIndex
from raydet.data.formats.open_split import open_split
from raydet.data.formats.yolo.load import load_yolo
from raydet.data.images.decode import read_rgb
from raydet.data.loading.samples import EVAL, sample
from raydet.data.storage.files import Folder
from raydet.data.validation.rules import RULES
from raydet.exceptions import DataError
from tests.data.makers import make_image
from tests.data.s3_stub import serving
from tests.data.storage.test_object_store import upload

ROWS = ["0 .5 .5 .5 .5\n2 0.25 0.25 .1 .2\n", "", "1 .5 .5 1 1", "0 0.1 .1 .05 .05\r\n\r\n1 .2 .2 .1 .1\r\n"]


def write(root: Path, rows: list[str] = ROWS, yaml: str = "", layout: str = "images/{split}") -> Path:
    """A set of images of 80 x 60, the same labels in train and val; the second image has no label file."""
    for split in ("train", "val"):
        images = root / layout.format(split=split)
        labels = Path("/labels/".join(f"{images}/".rsplit("/images/", 1)))
        images.mkdir(parents=True)
        labels.mkdir(parents=True, exist_ok=True)
        for i, text in enumerate(rows):
            make_image(i, (60, 80)).save(images / f"{i}.jpg", quality=95)
            if text or i != 1:
                (labels / f"{i}.txt").write_bytes(text.encode())
    train, val = (layout.format(split=split) for split in ("train", "val"))
    (root / "data.yaml").write_text(yaml or f"path: .\ntrain: {train}\nval: {val}\nnc: 3\nnames: [cat, dog, bus]\n")
    return root


def load(root: Path, **options: Any) -> DetectionIndex:
    return load_yolo(Folder(root), None, "train", **options)


def rules(index: DetectionIndex) -> set[str]:
    return {fault.rule for fault in index.faults}


def config(root: str, **changes: object) -> Config:
    return override(Config(), {"data.format": "yolo", "data.root": root, "model.image_size": 64} | changes)


def test_rows_become_boxes_in_pixels_of_the_image(tmp_path: Path) -> None:
    index = load(write(tmp_path))
    assert index.names.tolist() == [f"images/train/{i}.jpg" for i in range(4)]
    assert index.sizes.tolist() == [[60, 80]] * 4
    expected = [[20, 15, 40, 30], [16, 9, 8, 12], [0, 0, 80, 60], [6, 4.5, 4, 3], [12, 9, 8, 6]]
    assert np.allclose(index.boxes, expected)
    assert np.allclose(index.areas, [1200, 96, 4800, 12, 48])
    assert index.labels.tolist() == [0, 2, 1, 0, 1]
    assert index.first.tolist() == [0, 2, 2, 3, 5]
    assert (index.ids.tolist(), index.ann_ids.tolist()) == ([1, 2, 3, 4], [1, 2, 3, 4, 5])
    assert (index.class_names, index.category_ids.tolist()) == (["cat", "dog", "bus"], [0, 1, 2])
    assert not index.crowd.any()
    assert index.file == str(tmp_path / "data.yaml")
    assert rules(index) == {"YOLO-W17"}


def test_images_and_boxes_come_out_as_a_loader_wants_them(tmp_path: Path) -> None:
    index = load(write(tmp_path))
    boxes_K4, labels_K, crowd_K = index.boxes_of(0)
    assert np.allclose(boxes_K4, [[20, 15, 60, 45], [16, 9, 24, 21]])
    assert (labels_K.tolist(), crowd_K.any()) == ([0, 2], False)
    assert read_rgb(index.image(0)).shape == (60, 80, 3)


def test_a_split_of_another_format_is_told_with_the_keys_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one of the YAML's keys: train, val\.$") as caught:
        load_yolo(Folder(write(tmp_path)), None, "train", "annotations/instances_train.json")
    assert caught.value.rule == "YOLO-E06"


def test_images_without_rows_are_kept_and_counted(tmp_path: Path) -> None:
    index = load(write(tmp_path, ["0 .5 .5 .1 .1", "", "", "\n  \n"]))
    assert len(index) == 4
    told = "3 of 4 images: an image has no label file, or one without rows; images/train/1.jpg (YOLO-W17)"
    assert index.warnings == [told]


def test_the_cache_follows_every_file(tmp_path: Path) -> None:
    root = write(tmp_path)
    assert len(load(root).boxes) == 5
    assert load(root).warnings == load(root).warnings
    (root / "labels/train/1.txt").write_text("1 .5 .5 .5 .5\n")
    assert len(load(root).boxes) == 6
    (root / "labels/train/2.txt").write_text("2 .5 .5 1 1")
    assert load(root).labels[3] == 2
    (root / "labels/train/0.txt").unlink()
    assert len(load(root).boxes) == 4
    make_image(3, (30, 40)).save(root / "images/train/3.jpg")
    assert load(root).sizes[3].tolist() == [30, 40]
    (root / "images/train/2.jpg").unlink()
    assert len(load(root)) == 3
    assert "YOLO-W18" in rules(load(root))
    (root / "data.yaml").write_text("train: images/train\nnames: {0: a, 1: b, 2: c}")
    assert load(root).class_names == ["a", "b", "c"]


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images/train\nval: images/val\nnames: {2: bus, 0: cat, 1: dog}",
        "train: ./images/train/\nnames:\n- cat\n- dog\n- bus",
        "train: [images/train]\nnames: [cat, dog, bus]",
        "train: ../images/train\nval: ../images/val\nnames: [cat, dog, bus]",
        "train: SET/images/train\nnames: [cat, dog, bus]",
        "train: ../SET/images/train\nnames: [cat, dog, bus]",
        "train: other/images/train\nnames: [cat, dog, bus]",
        "train: /content/SET/images/train\nnames: [cat, dog, bus]",
        "train: SET/own.txt\nnames: [cat, dog, bus]",
        "path: ../datasets/set\ntrain: images/train\nnames: [cat, dog, bus]",
        "path: /home/me/set\ntrain: images/train\nnames: [cat, dog, bus]",
        "path: images\ntrain: train\nnames: [cat, dog, bus]",
        "path: ROOT\ntrain: ROOT/images/train\nnames: [cat, dog, bus]",
        "train: train.txt\nnames: [cat, dog, bus]",
        "train: images/near.txt\nnames: [cat, dog, bus]",
        "\ufefftrain: images/train\nnames: [cat, dog, bus]\ndownload: https://host/x.zip",
    ],
)
def test_a_yaml_may_name_the_images_in_many_ways(tmp_path: Path, yaml: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, yaml=yaml.replace("ROOT", str(tmp_path)).replace("SET", tmp_path.name))
    (root / "own.txt").write_text("".join(f"/content/{tmp_path.name}/images/train/{i}.jpg\n" for i in range(4)))
    (root / "train.txt").write_text("".join(f"images/train/{i}.jpg\n" for i in range(4)))
    (root / "images" / "near.txt").write_text("".join(f"./train/{i}.jpg\r\n" for i in range(4)))
    monkeypatch.chdir(tmp_path.parent)
    for spelt in (root, Path(tmp_path.name), Path(tmp_path.name, "images", "..")):
        index = load(spelt)
        assert index.names.tolist() == [f"images/train/{i}.jpg" for i in range(4)]
        assert (len(index.boxes), index.class_names) == (5, ["cat", "dog", "bus"])
        assert ("YOLO-W08" in rules(index)) == any(word in yaml for word in ("../", "/home", "SET", "other/"))


def test_labels_lie_beside_images_that_are_in_no_images_folder(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    make_image(0, (60, 80)).save(tmp_path / "train" / "a.b.jpg")
    (tmp_path / "train" / "a.b.txt").write_text("0 .5 .5 .5 .5")
    (tmp_path / "train" / "classes.txt").write_text("cat")
    (tmp_path / "my.yaml").write_text("train: train\nnames: [cat]")
    index = load(tmp_path)
    assert len(index.boxes) == 1
    assert index.warnings == []


def test_the_last_images_in_a_path_counts(tmp_path: Path) -> None:
    index = load(write(tmp_path, layout="images/x/{split}/images"))
    assert len(index.boxes) == 5


def test_the_config_chooses_a_key_a_folder_or_the_yaml_itself(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    (root / "labels/val/0.txt").unlink()
    assert len(open_split(config(str(root)), "train").labels) == 5
    assert len(open_split(config(str(root)), "val").labels) == 3
    assert len(open_split(config(str(root / "data.yaml")), "val").labels) == 3
    assert len(open_split(config(str(root), **{"data.train": "val"}), "train").labels) == 3
    assert len(open_split(config(str(root), **{"data.test": "images/train"}), "test").labels) == 5
    with pytest.raises(DataError, match="YOLO-E06"):
        open_split(config(str(root)), "test")


@pytest.mark.slow
def test_a_remote_set_gives_the_same_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    root = write(tmp_path / "set")
    with serving() as stub:
        stub.buckets["shop"] = {}
        upload(stub, root, "set")
        here, there = (open_split(config(place), "train") for place in (str(root), stub.root("shop/set")))
        named = open_split(config(stub.root("shop/set/data.yaml")), "train")
        again = len(stub.requests)
        open_split(config(stub.root("shop/set")), "train")
    assert isinstance(here, DetectionIndex) and isinstance(there, DetectionIndex) and isinstance(named, DetectionIndex)
    assert np.array_equal(here.boxes, there.boxes) and np.array_equal(here.sizes, named.sizes)
    assert there.names.tolist() == here.names.tolist()
    assert len(stub.requests) - again < 12, "what has not changed comes from the cache"


def test_listed_images_that_are_missing_are_counted(tmp_path: Path) -> None:
    root = write(tmp_path, yaml="train: train.txt\nnames: [a, b, c]")
    (root / "train.txt").write_text("images/train/0.jpg\nimages/train/9.jpg\n\nnowhere/1.jpg\n")
    with pytest.raises(DataError, match=r"2 of 3 images: images/train/9.jpg, nowhere/1.jpg") as caught:
        load(root)
    assert caught.value.rule == "YOLO-E21"
    assert load(root, on_bad="skip", max_bad=0.9).names.tolist() == ["images/train/0.jpg"]


@pytest.mark.parametrize(
    ("yaml", "rule", "message"),
    [
        ("train: images/train\nnames: [a, b]\nnc: 3", "YOLO-E04", "nc is 3, but there are 2 names"),
        ("train: images/train", "YOLO-E03", "names must be"),
        ("train: images/train\nnames: [a, no, c]", "YOLO-E03", "name 1 must be text, got False.*\n.*quotes"),
        ("train: images/train\nnames: {0: a, 2: b}", "YOLO-E03", "without gaps"),
        ("train: images/train\nnames: cat", "YOLO-E03", "got cat"),
        ("- images/train", "YOLO-E03", "got list"),
        ("val: images/val\nnames: [a, b, c]", "YOLO-E06", "train must be .* got None .*\nIt has val, names"),
        ("train: 3\nnames: [a, b, c]", "YOLO-E06", "got 3"),
        (
            "train: photos\nnames: [a, b, c]",
            "YOLO-E06",
            "no image in photos .*\n.* holds .*data.yaml, images/, labels/",
        ),
        ("train: images/train\nnames: [a, b", "YOLO-E01", "not YAML at line"),
        ("train: &x images/train\nval: *x\nnames: [a]", "YOLO-E01", r"line 2: holds an alias \(\*x\)"),
        ("train: images/train\ntrain: images/val\nnames: [a]", "YOLO-E01", "the key 'train' a second time"),
        ("train: !!python/name:os.system x\nnames: [a]", "YOLO-E01", "holds a tag"),
        ("train: " + "[" * 21 + "]" * 21, "YOLO-E01", "more than 20 levels"),
        ("train: x\n---\ntrain: y", "YOLO-E01", "a second document"),
        ("? [a]\n: b", "YOLO-E01", "a key that is no plain text"),
        ("#" * (1 << 20) + "\ntrain: x", "YOLO-E01", "more than 1048576 bytes"),
        ("train: \0", "YOLO-E01", "is not YAML"),
        ("", "YOLO-E03", "got NoneType"),
    ],
)
def test_malformed_yamls_are_refused(tmp_path: Path, yaml: str, rule: str, message: str) -> None:
    root = write(tmp_path)
    (root / "data.yaml").write_text(yaml)
    with pytest.raises(DataError, match=message) as caught:
        load(root)
    assert caught.value.rule == rule


def test_same_names_are_kept_apart_and_missing_ones_are_numbers(tmp_path: Path) -> None:
    index = load(write(tmp_path / "a", yaml="train: images/train\nnames: [a, 7, a]"))
    assert (index.class_names, "YOLO-W05" in rules(index)) == (["a", "7", "a"], True)
    assert load(write(tmp_path / "b", yaml="train: images/train\nnc: 3")).class_names == ["0", "1", "2"]


def test_it_is_said_which_yaml_was_looked_for(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "data.yaml").rename(root / "one.yaml")
    assert len(load(root)) == 4
    (root / "two.yml").write_text("")
    with pytest.raises(
        DataError, match=r"looked for data\.yaml, .* found one\.yaml, two\.yml .*\n.*data\.root"
    ) as caught:
        load(root)
    assert caught.value.rule == "YOLO-E02"


def test_a_split_without_any_label_is_refused_unless_it_is_the_test_split(tmp_path: Path) -> None:
    root = write(tmp_path, ["", ""])
    with pytest.raises(DataError, match=r"none of 2 images has a box; .*labels/train/0\.txt") as caught:
        load(root)
    assert caught.value.rule == "YOLO-E19"
    assert len(load_yolo(Folder(root), None, "test", "images/train")) == 2


@pytest.mark.parametrize("what", ["image", "folder", "root of images"])
def test_links_that_lead_out_are_refused_aloud(tmp_path: Path, what: str) -> None:
    root, out = write(tmp_path / "set"), tmp_path / "elsewhere"
    if what == "root of images":
        (root / "images").rename(out)
        (root / "images").symlink_to(out)
    else:
        out.mkdir()
        make_image(5, (60, 80)).save(out / "5.jpg")
        name, target = ("5.jpg", out / "5.jpg") if what == "image" else ("more", out)
        (root / "images/train" / name).symlink_to(target)
    with pytest.raises(DataError, match="leads out") as caught:
        load(root)
    assert caught.value.rule == "COCO-E24"


def test_every_rule_is_in_the_list() -> None:
    source = Path(load_yolo.__code__.co_filename)
    texts = "".join(source.with_name(f"{name}.py").read_text() for name in ("load", "labels", "safe_yaml"))
    used = set(re.findall(r"YOLO-[EW]\d\d", texts))
    assert used == {rule for rule in RULES if rule.startswith("YOLO")}


def test_rows_are_shares_of_the_image_as_it_is_shown(tmp_path: Path) -> None:
    root, exif = write(tmp_path), Image.Exif()
    exif[0x0112] = 6
    make_image(0, (60, 80)).save(root / "images" / "train" / "0.jpg", exif=exif)
    exif[0x0112] = 3
    make_image(2, (60, 80)).save(root / "images" / "train" / "2.jpg", quality=95, exif=exif)
    for how, hw in (("auto", [80, 60]), (True, [80, 60]), (False, [60, 80])):
        cfg = config(str(root), **{"data.exif": how})
        index = open_split(cfg, "train")
        assert isinstance(index, DetectionIndex) and index.sizes[0].tolist() == hw
        assert sample(cfg, index, EVAL, 0).size == (hw[1], hw[0])
        shown_HW3 = sample(cfg, index, EVAL, 2).pixels_HW3[:48]
        upright_HW3 = sample(override(cfg, {"data.exif": False}), index, EVAL, 2).pixels_HW3[:48]
        assert np.array_equal(shown_HW3, upright_HW3[::-1, ::-1] if how else upright_HW3)
