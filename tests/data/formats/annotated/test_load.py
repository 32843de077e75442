"""What holds for the boxes and images of every annotated format: each fault by its rule, counted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydet.data.formats.annotated.load import load_annotated
from raydet.data.formats.index import DetectionIndex
from raydet.data.storage.files import Folder
from raydet.exceptions import DataError
from tests.data.formats.annotated.layouts import HW, save_images, voc_xml, write_createml, write_voc
from tests.data.makers import make_image

GOOD = ("bee", (10, 20, 30, 25))


def load(
    root: Path, kind: Any = "voc", split: Any = "train", chosen: str | None = ".", **options: Any
) -> DetectionIndex:
    return load_annotated(Folder(root), kind, split, chosen, **options)


def skipped(root: Path, **options: Any) -> DetectionIndex:
    return load(root, on_bad="skip", max_bad=1.0, **options)


def refused(*place: Any, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        load(*place, **options)
    return caught.value


def counts(index: DetectionIndex) -> dict[str, int]:
    return {fault.rule: fault.count for fault in index.faults}


def test_faulty_boxes_are_refused_by_name_or_left_out_and_counted(tmp_path: Path) -> None:
    table = [
        ((10, 20, "nan", 25), "ANN-E15", "object 2 of Annotations/0.xml", 1),
        ((10, 20, "1e999", 25), "ANN-E15", "inf", 1),
        ((30, 25, 10, 20), "ANN-E16", "smaller first", 1),
        ((10, 20, 10, 25), "ANN-W17", "10 20 10 25", 1),
        ((10, 20, 30, 25), "ANN-W19", "10 20 30 25", 1),
        ((70, 20, 90, 25), "ANN-W18", "70 20 90 25", 2),
        ((-9, 20, 30, 25), "ANN-W18", "-9 20 30 25", 2),
        ((200, 20, 230, 25), "ANN-W18", "wholly outside", 2),
    ]
    sound = [("bee", (1, 1, 5 + i, 5)) for i in range(8)]
    for k, (box, rule, shown, kept) in enumerate(table):
        root = tmp_path / str(k)
        write_voc(root, {"0.jpg": [GOOD, ("bee", box)], "1.jpg": sound})  # type: ignore[list-item]
        index = skipped(root)
        assert counts(index) == {rule: 1} and len(index.boxes) == 8 + kept, rule
        assert shown in " ".join(index.faults.lines()), rule
        if "-E" in rule:
            with pytest.raises(DataError, match=r"object 2 of .*1 of 10 boxes") as caught:
                load(root)
            assert caught.value.rule == rule
    assert np.allclose(skipped(tmp_path / "5").boxes_of(0)[0][1], [70, 20, 80, 25])


def test_a_set_whose_boxes_are_of_another_kind_is_refused_as_a_whole(tmp_path: Path) -> None:
    corners = {f"{i}.jpg": [("bee", (20, 20, 95 + i, 55 + i))] for i in range(3)}
    write_createml(tmp_path / "leaving", corners)  # type: ignore[arg-type]
    shares = {f"{i}.jpg": [("bee", (0.1, 0.2, 0.5, 0.6))] for i in range(3)}
    write_createml(tmp_path / "shares", shares)  # type: ignore[arg-type]
    for name, rule in (("leaving", "ANN-E18"), ("shares", "ANN-E20")):
        with pytest.raises(DataError, match="3 of 3 boxes") as caught:
            load(tmp_path / name, "createml", on_bad="skip", max_bad=1.0)
        assert caught.value.rule == rule


def test_images_that_do_not_fit_their_annotations_are_counted(tmp_path: Path) -> None:
    boxes = [("bee", (1, 1, 9 + i, 9)) for i in range(3)]
    write_voc(tmp_path, {f"{i}.jpg": boxes for i in range(7)})
    images, annotations = tmp_path / "JPEGImages", tmp_path / "Annotations"
    (images / "0.jpg").unlink()
    (images / "1.jpg").write_bytes(b"no image")
    make_image(1, (61, 80)).save(images / "2.jpg")
    (images / "3.jpg").rename(images / "3.PNG")
    (annotations / "4.xml").write_text(voc_xml("4.jpg", [], size="<size><width>0</width></size>"))
    (annotations / "again.xml").write_text(voc_xml("5.jpg", boxes))
    (annotations / "6.xml").write_text("<annotation>")
    save_images(images, ["nobody.jpg", ".hidden.jpg"])
    index = skipped(tmp_path)
    wanted = {"ANN-E04": 1, "IMG-E03": 1, "ANN-E07": 1, "ANN-W06": 1, "ANN-W08": 1, "ANN-W09": 1, "ANN-E05": 1}
    assert counts(index) == {**wanted, "XML-E01": 1, "ANN-W23": 2}  # that of 6.xml is named by nobody either
    assert index.names.tolist() == [f"JPEGImages/{name}" for name in ("3.PNG", "4.jpg", "5.jpg")]
    assert index.sizes.tolist() == [list(HW)] * 3
    assert "5 of 8 images" in str(refused(tmp_path, on_bad="skip", max_bad=0.5))


def test_a_linked_image_folder_is_named_not_followed(tmp_path: Path) -> None:
    write_voc(tmp_path / "set", {"0.jpg": [GOOD]})
    (tmp_path / "set" / "JPEGImages").rename(tmp_path / "elsewhere")
    (tmp_path / "set" / "JPEGImages").symlink_to(tmp_path / "elsewhere")
    error = refused(tmp_path / "set")
    assert error.rule == "ANN-E04" and "JPEGImages/ is a link that leads out of data.root" in str(error)


def test_a_size_turned_by_exif_is_kept_for_data_exif_to_decide(tmp_path: Path) -> None:
    write_voc(tmp_path, {"0.jpg": [GOOD]})
    exif = Image.Exif()
    exif[0x0112] = 6
    make_image(0, (HW[1], HW[0])).save(tmp_path / "JPEGImages" / "0.jpg", exif=exif)
    assert load(tmp_path).sizes.tolist() == [list(HW)]
    make_image(0, (HW[1], HW[0])).save(tmp_path / "JPEGImages" / "0.jpg")
    assert refused(tmp_path).rule == "ANN-E07"


def test_what_is_changed_is_read_again_and_what_is_not_comes_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_voc(tmp_path, {"0.jpg": [GOOD], "1.jpg": [("cat", GOOD[1])]})
    assert load(tmp_path).class_names == ["bee", "cat"]
    with monkeypatch.context() as context:
        context.setattr("raydet.data.formats.annotated.table.read_files", None)
        again = load(tmp_path)
    assert again.class_names == ["bee", "cat"] and len(again.boxes) == 2
    (tmp_path / "Annotations" / "1.xml").write_text(voc_xml("1.jpg", [("wasp", GOOD[1])]))
    assert load(tmp_path).class_names == ["bee", "wasp"]


def test_splits_that_are_not_there_and_images_of_none_are_named(tmp_path: Path) -> None:
    write_voc(tmp_path, {"0.jpg": [GOOD]}, "train", "train")
    write_voc(tmp_path, {"1.jpg": [("Bee", GOOD[1])]}, "other", "other")
    with pytest.raises(
        DataError, match=r"no image belongs to the split val.*\n.*Splits there are: train\. Set data\.val"
    ):
        load(tmp_path, chosen=None, split="val")
    index = load(tmp_path, chosen=None)
    assert counts(index) == {"ANN-W25": 1, "ANN-W22": 1} and len(index) == 1
    assert len(load(tmp_path, chosen="other")) == 1
    (tmp_path / "loose.xml").write_text("<annotation>")
    assert refused(tmp_path, chosen=None).rule == "XML-E01", "it may belong to any split"
    (tmp_path / "loose.xml").unlink()
    (tmp_path / "train" / "0.xml").write_text(voc_xml("0.jpg", []))
    assert refused(tmp_path, chosen=None).rule == "ANN-E21"
    assert len(load(tmp_path, chosen="train", split="val")) == 1
    with pytest.raises(DataError, match=r"looked for \.csv files") as caught:
        load(tmp_path, "csv")
    assert caught.value.rule == "ANN-E01"


def test_a_list_that_names_what_is_not_annotated_is_refused(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a b.jpg": [GOOD], "c.jpg": [GOOD]})
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "train.txt").write_text('"a b"\nc.jpg 1\nd\n')
    with pytest.raises(DataError, match=r"line 3 of ImageSets/train\.txt.*d") as caught:
        load(tmp_path, chosen=None)
    assert caught.value.rule == "VOC-E02"
    assert len(skipped(tmp_path, chosen=None)) == 2
    for text in ("JPEGImages/c.jpg", "/content/VOC/JPEGImages/c.jpg 0,0,1,1,2", "Annotations/c", "c.xml\r\n\r\n"):
        (tmp_path / "ImageSets" / "train.txt").write_text(text)
        assert load(tmp_path, chosen=None).names.tolist() == ["JPEGImages/c.jpg"], text
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "c.xml").write_text(voc_xml("a b.jpg", [GOOD]))
    (tmp_path / "ImageSets" / "train.txt").write_text("c\n")
    assert refused(tmp_path, chosen=None).rule == "VOC-E02"
    (tmp_path / "ImageSets" / "train.txt").write_text("again/c\n")
    assert load(tmp_path, chosen=None).names.tolist() == ["JPEGImages/a b.jpg"]


def test_other_files_of_the_kind_are_told_apart(tmp_path: Path) -> None:
    save_images(tmp_path, ["0.jpg"])
    shape = {"label": "bee", "points": [[10, 20], [30, 25]], "shape_type": "rectangle"}
    (tmp_path / "0.json").write_text(json.dumps({"shapes": [shape], "imageHeight": 60, "imageWidth": 80}))
    (tmp_path / "meta.json").write_text("{}")
    assert counts(load(tmp_path, "labelme")) == {"ANN-W26": 1}
    (tmp_path / "0.json").unlink()
    assert refused(tmp_path, "labelme").rule == "ANN-E03"
