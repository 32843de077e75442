"""What lies at a path is told from the layouts that people and tools make; what is no data set is said so."""

import io
import shutil
from pathlib import Path

import pytest

from raydet.audit.check import check
from raydet.config import Config, override
from raydet.data.formats.detect_format import guess
from raydet.data.formats.open_split import open_split
from raydet.exceptions import ConfigError, DataError
from tests.data.formats.annotated.layouts import forty, write_voc


def test_guess_names_what_it_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for path in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(ConfigError, match=r"data\.yaml"):
            guess(path)


def test_guess_finds_splits_by_their_names(shop: Path, toy_classification: Path, tmp_path: Path) -> None:
    assert (guess(shop).data.train, guess(shop).data.val) == (
        "annotations/instances_train.json",
        "annotations/instances_val.json",
    )
    alone = guess(shop / "annotations" / "instances_val.json").data
    assert (alone.root, alone.train, alone.val) == (str(shop), *["annotations/instances_val.json"] * 2)
    folder = guess(toy_classification)
    assert (folder.data.format, folder.data.train, folder.model.name) == ("folder", "train", "efficientnet_b0")
    assert guess(toy_classification / "train").data.train == "."
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "data.yaml").write_text("names: [a]")
    assert guess(tmp_path / "yolo").data.format == "yolo"


def places(root: Path) -> tuple[str, str, str]:
    data = guess(root).data
    return data.format, data.train, data.val


def test_guess_knows_the_layouts_that_tools_export(shop: Path, toy_classification: Path, tmp_path: Path) -> None:
    roboflow = tmp_path / "roboflow"
    for split, folder in (("train", "train"), ("val", "valid")):
        shutil.copytree(shop / split, roboflow / folder)
        told = shop / "annotations" / f"instances_{split}.json"
        shutil.copy(told, roboflow / folder / "_annotations.coco.json")
    assert places(roboflow) == ("coco", "train/_annotations.coco.json", "valid/_annotations.coco.json")
    assert check(guess(roboflow), stream=io.StringIO()).verdict is None
    kaggle = tmp_path / "kaggle"
    shutil.copytree(toy_classification / "train", kaggle / "train")
    shutil.copytree(shop / "val", kaggle / "test")
    assert places(kaggle) == ("folder", "train", "train")
    (tmp_path / "ultralytics").mkdir()
    (tmp_path / "ultralytics" / "coco8.yaml").write_text("names: [a]")
    assert guess(tmp_path / "ultralytics").data.root.endswith("coco8.yaml")


@pytest.mark.parametrize("where", ["data/train-{}.parquet", "train-{}.parquet", "train/{}.parquet"])
def test_guess_takes_all_parts_of_a_parquet_split(tmp_path: Path, where: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": [b"x", b"y"], "label": [0, 1]})
    for name in (where.format("00000-of-00002"), where.format("00001-of-00002"), where.replace("train", "test")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / name)
    cfg = guess(tmp_path)
    assert (cfg.data.format, cfg.task) == ("parquet", "classification")
    audit = check(cfg, stream=io.StringIO())
    assert {split.name: len(split.index) for split in audit.splits} == {"train": 4, "val": 2}


@pytest.mark.parametrize(
    ("folders", "hint"), [("images/train labels/train", "data.yaml"), ("train/images train/labels", "data.yaml")]
)
def test_parts_of_a_data_set_are_not_taken_for_classes(shop: Path, tmp_path: Path, folders: str, hint: str) -> None:
    for name in folders.split():
        shutil.copytree(shop / "val", tmp_path / "parts" / name)
    with pytest.raises(ConfigError, match=hint):
        guess(tmp_path / "parts")
    with pytest.raises(ConfigError):
        guess(tmp_path / "parts" / folders.split()[0].partition("/")[0])
    with pytest.raises(ConfigError, match="holds images and nothing"):
        guess(shop / "val")


def test_a_class_may_be_called_train(shop: Path, tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        shutil.copytree(shop / "val", tmp_path / "vehicles" / name)
    assert places(tmp_path / "vehicles") == ("folder", ".", ".")


def splits_of(root: Path) -> tuple[str, str | None, str | None, str | None]:
    data = guess(root).data
    return data.format, data.train, data.val, data.test


def test_val_is_val_and_test_is_test_in_every_layout(shop: Path, toy_classification: Path, tmp_path: Path) -> None:
    source = (shop / "annotations" / "instances_val.json").read_text()
    table = {
        "annotations/instances_test.json annotations/instances_train.json annotations/instances_val.json": "tvT",
        "annotations/instances_test2017.json annotations/instances_train2017.json": "tT",
        "annotations/a_test.json annotations/captions_train.json annotations/instances_train.json": "t",
        "test/_annotations.coco.json train/_annotations.coco.json valid/_annotations.coco.json": "tvT",
        "test.json trainset.json valset.json": "tvT",
        "annotations/instances_default.json": "d",
        "deep/annotations/instances_train.json deep/annotations/instances_val.json": "tv",
    }
    for k, (files, has) in enumerate(table.items()):
        root = tmp_path / str(k)
        names = {word: name for name in files.split() for word in ("train", "val", "test", "default") if word in name}
        for name in files.split():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(source)
        said: list[str] = []
        data = guess(root, said.append).data
        prefix = "deep/" if "deep" in files else ""
        assert data.root == str(root / prefix).rstrip("/")
        train = names["default" if has == "d" else "train"].removeprefix(prefix)
        val = names["val"].removeprefix(prefix) if "v" in has else names["test"] if "T" in has else train
        assert (data.train, data.val, data.test) == (train, val, names["test"] if "T" in has else None), files
        assert bool(said) == ("v" not in has), files
    for split in ("train", "val", "test"):
        shutil.copytree(toy_classification / "val", tmp_path / "classes" / split)
    assert splits_of(tmp_path / "classes") == ("folder", "train", "val", "test")
    yolo = tmp_path / "yolo"
    for split in ("train", "valid", "test"):
        shutil.copytree(shop / "val", yolo / split / "images")
    (yolo / "data.yaml").write_text("train: train/images\nval: valid/images\ntest: test/images\nnames: [a]")
    assert splits_of(yolo) == ("yolo", "train", "val", "test")
    (yolo / "data.yaml").write_text("train: train/images\ntest: test/images\nnames: [a]")
    assert splits_of(yolo) == ("yolo", "train", "test", "test")
    (yolo / "data.yaml").write_text("train: train/images\nval: valid/images\ntest: gone/images\nnames: [a]")
    assert splits_of(yolo)[3] is None


def test_a_path_means_the_same_however_it_is_spelt(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voc(tmp_path / "voc", forty())
    (tmp_path / "link").symlink_to(tmp_path / "voc")
    monkeypatch.chdir(tmp_path / "voc" / "Annotations")
    want = splits_of(tmp_path / "voc")
    for path in ("..", "../", "../../voc", "../../link", ".", str(tmp_path / "voc" / "JPEGImages" / "..")):
        assert splits_of(Path(path)) == want == ("voc", ".", ".", None), path
        assert len(open_split(guess(Path(path)), "train")) == 8
    for path in ("0.xml", "../Annotations/0.xml"):
        assert splits_of(Path(path)) == want
    monkeypatch.chdir(shop / "annotations")
    assert guess(Path("instances_val.json")).data.root == str(shop)


def test_what_is_recognized_and_not_read_is_named_with_the_remedy(shop: Path, tmp_path: Path) -> None:
    table = {
        "train/shop.tfrecord": ("x", "TFRecord"),
        "00000.tar": ("x", "WebDataset"),
        "annotations/panoptic_val.json": ('{"annotations": [{"segments_info": []}]}', "instances_"),
        "via_region_data.json": ('{"a.jpg9": {"regions": [{"shape_attributes": {}}]}}', "as COCO in VIA"),
        "via.csv": ("filename,file_size,region_shape_attributes\n", "as COCO in VIA"),
        "map.json": ('{"type": "FeatureCollection", "features": []}', "GeoJSON"),
        "ds/ann/a.json": ('{"objects": [{"classTitle": "a"}]}', "Supervisely"),
        "annotations.xml": ("<annotations><track id='0'></track></annotations>", "CVAT for images"),
    }
    for k, (name, (text, remedy)) in enumerate(table.items()):
        file = tmp_path / str(k) / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
        for path in (tmp_path / str(k), file):
            with pytest.raises(ConfigError, match=remedy):
                guess(path)
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "a.csv").write_text("name,x,y,w,h\n")
    for path in (tmp_path / "csv", tmp_path / "csv" / "a.csv"):
        with pytest.raises(ConfigError, match=r"a\.csv has the columns name, x, y, w, h; wanted is"):
            guess(path)
    for name in ("VOC2007", "VOC2012"):
        write_voc(tmp_path / "devkit" / name, {})
        (tmp_path / "devkit" / name / "Annotations" / "a.xml").write_text("<annotation/>")
    with pytest.raises(ConfigError, match=r"several data sets; name one of them: VOC2007, VOC2012"):
        guess(tmp_path / "devkit")


def test_parts_of_exports_are_no_classes_and_hidden_folders_never_train(shop: Path, tmp_path: Path) -> None:
    for name in ("JPEGImages", "ImageSets", "train2017", "val2017", "SegmentationClass"):
        shutil.copytree(shop / "val", tmp_path / "parts" / name)
    with pytest.raises(ConfigError, match="parts of a data set without its annotations"):
        guess(tmp_path / "parts")
    write_voc(tmp_path / "voc", forty())
    with pytest.raises(ConfigError, match=rf"{tmp_path}/voc looks like voc: name that"):
        guess(tmp_path / "voc" / "JPEGImages")
    for name in ("bus", "bus/.ipynb_checkpoints", "car", ".ipynb_checkpoints", "__MACOSX"):
        shutil.copytree(shop / "val", tmp_path / "classes" / name)
    index = open_split(guess(tmp_path / "classes"), "train")
    assert (index.class_names, len(index)) == (["bus", "car"], 8)
    both = tmp_path / "both"
    write_voc(both, forty())
    shutil.copytree(shop / "annotations", both / "annotations")
    said: list[str] = []
    assert guess(both, said.append).data.format == "coco" and "coco and voc" in said[0]
    assert (guess(both, wanted="voc").data.format, guess(both, wanted="voc").data.train) == ("voc", ".")


def test_a_set_of_another_format_than_was_set_is_told_its_own(tmp_path: Path) -> None:
    write_voc(tmp_path, forty())
    with pytest.raises(DataError, match=r"It looks like voc: set data\.format=voc"):
        open_split(override(Config(), {"data.root": str(tmp_path)}), "train")
