"""What the parsers of single formats make of the shapes and fields that tools write, and of what is malformed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet.data.formats.annotated import xml_stream
from raydet.data.formats.annotated.createml import read_createml
from raydet.data.formats.annotated.csv_rows import read_classes, read_csv
from raydet.data.formats.annotated.cvat import read_cvat
from raydet.data.formats.annotated.labelme import read_labelme
from raydet.data.formats.annotated.labelstudio import read_labelstudio
from raydet.data.formats.annotated.records import AnnotatedImage
from raydet.data.formats.annotated.voc import read_voc
from raydet.exceptions import DataError
from tests.data.formats.annotated.layouts import cvat_box, cvat_image, region, voc_xml

BOX = (10.0, 20.0, 30.0, 25.0)
UPRIGHT = (17.5, 12.5, 22.5, 32.5)
"""BOX rotated by a quarter about its centre."""


def boxes(image: AnnotatedImage) -> list[tuple[float, ...]]:
    return [tuple(np.round(box, 6).tolist()) for box in image.boxes]


def rules(images: list[AnnotatedImage]) -> list[str]:
    return [note.rule for image in images for note in image.notes]


def voc(text: str) -> AnnotatedImage:
    (image,) = read_voc("a.xml", text.encode())
    return image


def test_voc_takes_boxes_as_written_and_difficult_ones_as_crowds() -> None:
    text = voc_xml("a.jpg", [("bee", (1, 1, 80, 60)), ("cat", (10.5, 2, 30, 40))]).replace(
        "<difficult>0</difficult><bndbox><xmin>10.5", "<difficult>1</difficult><bndbox><xmin> 10.5 "
    )
    image = voc(text)
    assert (image.name, image.hw, image.classes) == ("a.jpg", (60, 80), ["bee", "cat"])
    assert boxes(image) == [(1, 1, 80, 60), (10.5, 2, 30, 40)] and image.crowd == [False, True]
    assert rules([image]) == ["VOC-W01"]


def test_voc_objects_without_a_box_or_a_name_are_named() -> None:
    part = "<object><name>bee</name><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
    polygon = "<polygon><x1>10</x1><y1>20</y1><x2>30</x2><y2>20</y2><x3>20</x3><y3>25</y3></polygon>"
    rotated = "<robndbox><cx>20</cx><cy>22.5</cy><w>20</w><h>5</h><angle>1.5707963267948966</angle></robndbox>"
    table = [
        (part, [], ["ANN-E03"]),
        ("<object><name>bee</name><bndbox><xmin>a</xmin></bndbox></object>", [], ["ANN-E03"]),
        (f"<object><name>bee</name>{polygon}</object>", [BOX], ["ANN-W11"]),
        (f"<object><name>bee</name>{rotated}</object>", [UPRIGHT], ["ANN-W12"]),
        (voc_xml("a", [(" ", BOX)])[len("<annotation>") : -len("</annotation>")], [], ["ANN-E03"]),
    ]
    for extra, wanted, noted in table:
        image = voc(voc_xml("a.jpg", [], extra=extra))
        assert (boxes(image), rules([image])) == (wanted, noted), extra
        assert not image.notes or image.notes[0].record == "object 1 of a.xml"
    assert voc("<annotation><object/></annotation>").name == "a"
    assert voc(voc_xml("a.jpg", [], size="<size><width>0</width><height>0</height></size>")).hw is None
    for text in ("<annotations/>", "<html/>", "<annotation>", "", "{}"):
        assert voc(text).broken, text


def test_xml_that_would_exhaust_a_reader_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_stream, "_MOST_ELEMENTS", 2000)
    monkeypatch.setattr(xml_stream, "_MOST_BYTES", 1 << 19)
    monkeypatch.setattr(xml_stream, "MOST_FILE_BYTES", 5000)
    entities = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    table = {
        f'<!DOCTYPE a [<!ENTITY a "lol">{entities}]><a>&i;</a>': "XML-E02",
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:1/a.dtd"><a/>': "XML-E02",
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>': "XML-E02",
        "<a>" * 100 + "</a>" * 100: "XML-E03",
        f"<a><b>{'<c/>' * 3000}</b></a>": "XML-E03",
        f"<a><b c='{'x' * (1 << 20)}'/></a>": "XML-E03",
        "<a><b></a>": "XML-E01",
        "<a>": "XML-E01",
        "<a>&undefined;</a>": "XML-E01",
        "<?xml version='1.0' encoding='no-such'?><a/>": "XML-E01",
    }
    for text, rule in table.items():
        with pytest.raises(DataError) as caught:
            xml_stream.parse_xml(text.encode())
        assert caught.value.rule == rule, text[:60]
        (tmp_path / "a.xml").write_text(text)
        with pytest.raises(DataError) as caught:
            list(xml_stream.stream_xml(tmp_path / "a.xml", ("b",)))
        assert caught.value.rule == rule, text[:60]
    (tmp_path / "a.xml").write_text(f"<a x='1'><b><c>t</c></b><d><b/></d>{'<b/>' * 3000}</a>")
    root, first, *rest = xml_stream.stream_xml(tmp_path / "a.xml", ("b",))
    assert (root.tag, root.attrib, first.findtext("c"), len(rest)) == ("a", {"x": "1"}, "t", 3000)


def test_cvat_takes_bounds_of_rotated_boxes_and_outlines_and_counts_the_rest(tmp_path: Path) -> None:
    shapes = (
        cvat_box("a", BOX, 'rotation="90.00"')
        + cvat_box("b", BOX, 'rotation="0"')
        + '<polygon label="c" points="10.0,20.0;30.0,20.0;20,25"></polygon>'
        + '<ellipse label="d" cx="20" cy="22.5" rx="10" ry="2.5" rotation="90"/>'
        + '<polyline label="e" points="1,1;2,2"/><points label="f" points="1,1"/><tag label="g"/>'
        + '<box label="h" xtl="x" ytl="1" xbr="2" ybr="3"/><box xtl="1" ytl="1" xbr="2" ybr="3"/>'
    )
    text = f"<annotations>{cvat_image(7, 'x/a.jpg', shapes, 'Validation')}</annotations>"
    (tmp_path / "a.xml").write_text(text)
    (image,) = read_cvat("a.xml", tmp_path / "a.xml")
    assert (image.name, image.hw, image.split, image.classes) == ("x/a.jpg", (60, 80), "val", ["a", "b", "c", "d"])
    assert boxes(image) == [UPRIGHT, BOX, BOX, UPRIGHT]
    noted = ["ANN-W12", "ANN-W11", "ANN-W11", "ANN-W10", "ANN-W10", "ANN-E03", "ANN-E03"]
    assert rules([image]) == noted and image.notes[0].value == "90 degrees"
    for text, rule in {
        "<annotations><track id='0'><box frame='0'/></track></annotations>": "CVAT-E01",
        "<annotation/>": "ANN-E03",
        f"<annotations>{cvat_image(1, 'a', '')}": "XML-E01",
    }.items():
        (tmp_path / "a.xml").write_text(text)
        images = list(read_cvat("a.xml", tmp_path / "a.xml"))
        assert images[-1].broken and rules(images) == [rule]


def labelme(**fields: Any) -> AnnotatedImage:
    content = {"imagePath": "..\\x\\a.jpg", "imageHeight": 60, "imageWidth": 80, "shapes": []} | fields
    (image,) = read_labelme("a.json", json.dumps(content).encode())
    return image


def test_labelme_takes_the_bounds_of_every_shape_that_has_an_area() -> None:
    corners = [[10, 25], [30, 20]]
    table = [
        ({"shape_type": "rectangle", "points": corners}, [BOX], []),
        ({"shape_type": "rectangle", "points": [[10, 20], [30, 20], [30, 25], [10, 25]]}, [BOX], []),
        ({"shape_type": "rotation", "points": [[10, 22], [20, 20], [30, 22], [20, 25]]}, [BOX], ["ANN-W11"]),
        ({"points": [[10, 20], [30, 20], [20, 25]]}, [BOX], ["ANN-W11"]),
        ({"shape_type": "circle", "points": [[20, 20], [23, 24]]}, [(15, 15, 25, 25)], ["ANN-W11"]),
        ({"shape_type": "mask", "points": corners, "mask": "iVBO"}, [BOX], ["ANN-W11"]),
        ({"shape_type": "point", "points": [[1, 2]]}, [], ["ANN-W10"]),
        ({"shape_type": "linestrip", "points": corners}, [], ["ANN-W10"]),
        ({"shape_type": "polygon", "points": [[1, 2], [3, "x"], [4, 5]]}, [], ["ANN-E03"]),
        ({"shape_type": "rectangle", "points": []}, [], ["ANN-E03"]),
        ({"shape_type": "rectangle"}, [], ["ANN-E03"]),
    ]
    for shape, wanted, noted in table:
        image = labelme(shapes=[{"label": "a", **shape}])
        assert (boxes(image), rules([image])) == (wanted, noted), shape
    assert (labelme().name, labelme().hw) == ("..\\x\\a.jpg", (60, 80))
    assert rules([labelme(shapes=[{"shape_type": "rectangle", "points": corners, "label": None}])]) == ["ANN-E03"]
    for text in ("[]", "{}", '{"shapes": 1}', "{", "\udcff", "[" * 100_000):
        (image,) = read_labelme("a.json", text.encode("utf-8", "surrogateescape"))
        assert image.broken, text[:20]


def studio(tasks: Any) -> list[AnnotatedImage]:
    return list(read_labelstudio("a.json", json.dumps(tasks).encode()))


def task(*regions: dict[str, Any], image: str = "a.jpg", **more: Any) -> dict[str, Any]:
    return {"data": {"image": image}, "annotations": [{"result": list(regions)}], **more}


def test_labelstudio_regions_become_boxes_in_pixels() -> None:
    turned = region("a", BOX)
    turned["value"]["rotation"] = 90  # about the corner x y, clockwise
    polygon = region("b", BOX)
    polygon["value"] = {"points": [[12.5, 100 / 3], [37.5, 100 / 3], [25, 125 / 3]], "polygonlabels": ["b"]}
    ellipse = region("c", BOX)
    ellipse["value"] = {"x": 25, "y": 37.5, "radiusX": 12.5, "radiusY": 25 / 6, "ellipselabels": ["c"]}
    shape, label = region("", BOX, id="r1", type="rectangle"), region("d", BOX, id="r1", type="labels")
    del shape["value"]["rectanglelabels"]
    label["value"] = {"labels": ["d"]}
    brush = region("e", BOX)
    brush["value"] = {"format": "rle", "rle": [1, 2], "brushlabels": ["e"]}
    choice = {"value": {"choices": ["indoor"]}, "type": "choices"}
    (image,) = studio([task(turned, polygon, ellipse, shape, label, brush, choice)])
    assert image.classes == ["a", "b", "c", "d"]
    assert boxes(image) == [(5, 20, 10, 40), BOX, BOX, BOX]
    assert rules([image]) == ["ANN-W12", "ANN-W11", "ANN-W11", "ANN-W10"] and image.hw == (60, 80)


def test_labelstudio_names_images_as_its_exports_do() -> None:
    table = {
        "/data/upload/1/0a1b2c3d-my%20a.jpg": ("/data/upload/1/0a1b2c3d-my%20a.jpg", "/data/upload/1/my%20a.jpg"),
        "/data/local-files/?d=photos%2Fa.jpg": ("photos/a.jpg", "photos/a.jpg"),
        "s3://bucket/x/a.jpg": ("s3://bucket/x/a.jpg", "s3://bucket/x/a.jpg"),
        "https://h/x/a.jpg?token=1": ("https://h/x/a.jpg", "https://h/x/a.jpg"),
    }
    for written, wanted in table.items():
        (image,) = studio([task(image=written)])
        assert (image.name, image.also) == wanted
    (image,) = studio([{"data": {"note": "x", "photo": "b.png"}, "annotations": [{"result": []}]}])
    assert image.name == "b.png"


def test_labelstudio_tasks_that_are_not_for_training_are_counted() -> None:
    skipped = {"data": {"image": "a.jpg"}, "annotations": [{"result": [region("a", BOX)], "was_cancelled": True}]}
    twice = task(region("a", BOX))
    twice["annotations"] *= 2
    rotated = region("a", BOX)
    rotated["image_rotation"] = 90
    short = {"image": "a.jpg", "label": [region("a", BOX)["value"]]}
    nameless = region("a", BOX)
    del nameless["value"]["rectanglelabels"]
    table = [
        ([skipped], ["ANN-W14"], True),
        ([{"data": {"image": "a.jpg"}, "annotations": []}], ["ANN-W14"], True),
        ([twice], ["ANN-W13"], False),
        ([task(rotated)], ["ANN-E03"], True),
        ([short], ["ANN-E03"], False),
        ([task(nameless)], ["ANN-E03"], False),
        ([{"data": {"text": "no image"}}], ["ANN-E03"], True),
        ([1], ["ANN-E03"], True),
        ({"a": 1}, ["ANN-E03"], True),
    ]
    for tasks, noted, broken in table:
        images = studio(tasks)
        assert (rules(images), images[0].broken) == (noted, broken), tasks


def test_createml_boxes_are_given_by_their_centres() -> None:
    at = {"x": 20, "y": 22.5, "width": 20, "height": 5}
    old = {"imagefilename": "a.jpg", "annotation": [{"label": "a", "coordinates": at}]}
    for entry in (old, {"image": "a.jpg", "annotations": old["annotation"]}):
        (image,) = read_createml("a.json", json.dumps([entry]).encode())
        assert (image.name, boxes(image), image.classes) == ("a.jpg", [BOX], ["a"])
    for entry, broken in (({"image": "a.jpg", "annotations": [{"label": "a"}]}, False), ({"image": 1}, True)):
        (image,) = read_createml("a.json", json.dumps([entry]).encode())
        assert (image.broken, rules([image])) == (broken, ["ANN-E03"])


def table(text: str, **options: Any) -> list[AnnotatedImage]:
    return list(read_csv("a.csv", text.encode(), options.pop("class_of", {}), **options))


def test_csv_is_read_by_its_header_or_as_keras_retinanet_has_it() -> None:
    for text in (
        "a.jpg,10,20,30,25,bee\nb.jpg,,,,,\n",
        "\ufefffilename,width,height,class,xmin,ymin,xmax,ymax\r\na.jpg,80,60,bee,10,20,30,25\r\nb.jpg,80,60,,,,,\r\n",
        'class,image_path,x_min,y_min,x_max,y_max,more\nbee,a.jpg,10,20,30,25,"x, y"\n,b.jpg,,,,,\n',
    ):
        first, second = table(text)
        assert (first.name, boxes(first), first.classes, first.shares) == ("a.jpg", [BOX], ["bee"], False), text
        assert (second.name, second.boxes, rules([first, second])) == ("b.jpg", [], [])
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n"
    (image,) = table(head + "0a,x,/m/1,1,0.1,0.3,0.2,0.4,1\n", class_of={"/m/1": "Bee"})
    assert (image.shares, boxes(image), image.classes, image.crowd) == (True, [(0.1, 0.2, 0.3, 0.4)], ["Bee"], [True])
    assert rules([image]) == ["CSV-W03"]


def test_csv_rows_that_are_malformed_are_named_by_their_line() -> None:
    good = "a.jpg,10,20,30,25,bee\n"
    faults = [
        ("b.jpg,1,2,x,4,bee", "ANN-E03"),
        ("b.jpg,1,2,3,4,", "ANN-E03"),
        ("b.jpg,,,,,bee", "ANN-E03"),
        ("b.jpg,1,2,3", "CSV-E02"),
        (",1,2,3,4,bee", "CSV-E02"),
        ("b.jpg,1,2,3,4,wasp", "CSV-E04"),
    ]
    for row, rule in faults:
        images = table(good + row + "\n", classes=["bee"])
        assert rules(images) == [rule] and "a.csv:2" in images[1].notes[0].record, row
    for text in ("", "a;1;2;3;4;bee", "filename,x,y,width,height,class\n", "filename,label\n", 'a,"b', "\udcff"):
        (image,) = read_csv("a.csv", text.encode("utf-8", "surrogateescape"), {})
        assert image.broken and rules([image])[0] in ("CSV-E01", "ANN-E02"), text
    assert read_classes(b"dog,1\ncat,0\n") == (["cat", "dog"], {})
    assert read_classes(b"/m/1,Bee\n/m/2,Cat, tame\n") == ([], {"/m/1": "Bee"})
