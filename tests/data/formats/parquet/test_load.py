"""Parquet data sets: columns by name and type, images row by row, and every fault by its rule."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydet.config import Config, override
from raydet.data.formats.index import ClassificationIndex, DetectionIndex
from raydet.data.formats.open_split import open_split
from raydet.data.formats.parquet.load import load_parquet
from raydet.data.images.decode import read_rgb
from raydet.data.storage.files import Folder
from raydet.data.validation.rules import RULES
from raydet.exceptions import DataError
from tests.data.makers import make_image
from tests.data.s3_stub import serving
from tests.data.storage.test_object_store import upload

BOXES = [[[5.0, 4.0, 30.0, 20.0], [1.0, 2.0, 3.0, 4.0]], [], [[0.0, 0.0, 80.0, 60.0]]]
CLASSES = [[0, 2], [], [1]]


def png(seed: int, hw: tuple[int, int] = (60, 80)) -> bytes:
    file = io.BytesIO()
    make_image(seed, hw).save(file, "PNG")
    return file.getvalue()


def rows(count: int = 3, **columns: Any) -> dict[str, Any]:
    """Flat columns of a detection set; None takes one away."""
    table = {"image": [png(i) for i in range(count)], "bbox": BOXES, "category": CLASSES} | columns
    return {name: values for name, values in table.items() if values is not None}


def write(path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata or {}), path, **options)
    return path


def load(root: Path, split: Any = "train", detection: bool = True, **options: Any) -> DetectionIndex:
    index = load_parquet(Folder(root), split, None, detection, **options)
    assert isinstance(index, DetectionIndex)
    return index


def test_boxes_that_are_clipped_or_dropped_are_named(tmp_path: Path) -> None:
    boxes = [[[5.0, 4.0, 30.0, 20.0], [70.0, 2.0, 30.0, 4.0]], [], [[1.0, 1.0, 0.0, 9.0]] + [[0.0, 0.0, 8.0, 6.0]] * 5]
    write(tmp_path / "train.parquet", rows(bbox=boxes, category=[[0, 2], [], [1] * 6]))
    found = {f.rule: (f.count, *map(str, f.examples)) for f in load(tmp_path).faults}
    assert found["PARQUET-W08"] == (1, "row train.parquet/0 ([70.0, 2.0, 30.0, 4.0])")
    assert found["PARQUET-W06"] == (1, "row train.parquet/2 ([1.0, 1.0, 0.0, 9.0])")


def test_a_pattern_names_the_parts_of_a_split(tmp_path: Path) -> None:
    for name in ("train-0.parquet", "train-1.parquet", "test-0.parquet"):
        write(tmp_path / "data" / name, rows())
    assert len(load_parquet(Folder(tmp_path), "train", "data/train-*.parquet", True)) == 6
    with pytest.raises(DataError, match=r"looked for data/x\*"):
        load_parquet(Folder(tmp_path), "train", "data/x*", True)


def config(root: str, **changes: object) -> Config:
    return override(Config(), {"data.format": "parquet", "data.root": root, "model.image_size": 64} | changes)


def hugging_face() -> tuple[dict[str, Any], dict[str, str]]:
    images = pa.array([{"bytes": png(i), "path": f"{i}.png"} for i in range(3)])
    objects = pa.array([{"bbox": b, "category": c} for b, c in zip(BOXES, CLASSES, strict=True)])
    label = {"feature": {"names": ["cat", "dog", "bus"], "_type": "ClassLabel"}, "_type": "Sequence"}
    features = {"image": {"_type": "Image"}, "objects": {"bbox": {"_type": "Sequence"}, "category": label}}
    return {"image": images, "objects": objects}, {"huggingface": json.dumps({"info": {"features": features}})}


def check(index: DetectionIndex) -> None:
    assert index.sizes.tolist() == [[60, 80]] * 3
    assert index.boxes.tolist() == [[5, 4, 30, 20], [1, 2, 3, 4], [0, 0, 80, 60]]
    assert index.labels.tolist() == [0, 2, 1]
    assert index.first.tolist() == [0, 2, 2, 3]
    assert index.areas.tolist() == [600, 12, 4800]
    assert [read_rgb(index.image(i)).tobytes() for i in range(3)] == [
        make_image(i, (60, 80)).tobytes() for i in range(3)
    ]


def test_rows_as_hugging_face_writes_them(tmp_path: Path) -> None:
    columns, metadata = hugging_face()
    write(tmp_path / "data" / "train-00000-of-00001.parquet", columns, metadata)
    index = load(tmp_path)
    check(index)
    assert (index.class_names, index.category_ids.tolist(), index.warnings) == (["cat", "dog", "bus"], [0, 1, 2], [])
    assert index.names.tolist() == [f"data/train-00000-of-00001.parquet/{i}" for i in range(3)]


@pytest.mark.parametrize(
    "columns",
    [
        rows(),
        rows(width=[80] * 3, height=[60] * 3),
        rows(bbox=None, boxes=pa.array(BOXES, pa.list_(pa.list_(pa.float32(), 4)))),
        rows(bbox=None, boxes=pa.array(BOXES, pa.large_list(pa.list_(pa.float64())))),
        rows(bbox=None, bboxes=[[v for box in row for v in box] for row in BOXES]),
        rows(image=None, img=pa.array([png(i) for i in range(3)], pa.large_binary())),
        rows(image=None, anything=[png(i) for i in range(3)], mask=["x"] * 3),
        rows(category=None, labels=CLASSES),
        rows(
            bbox=None,
            category=None,
            objects=[
                [{"bbox": b, "category": c} for b, c in zip(bs, cs, strict=True)]
                for bs, cs in zip(BOXES, CLASSES, strict=True)
            ],
        ),
    ],
)
def test_columns_are_found_by_name_and_type(tmp_path: Path, columns: dict[str, Any]) -> None:
    write(tmp_path / "train.parquet", columns, {"class_names": '["cat", "dog", "bus"]'})
    check(load(tmp_path))
    check(load(tmp_path))


def test_boxes_may_be_corners_when_the_schema_says_so(tmp_path: Path) -> None:
    corners = [[[x, y, x + w, y + h] for x, y, w, h in row] for row in BOXES]
    write(tmp_path / "train.parquet", rows(bbox=corners), {"bbox_format": "xyxy"})
    check(load(tmp_path))
    write(
        tmp_path / "train.parquet",
        rows(bbox=[[[50.0, 40.0, 70.0, 50.0]], [], [[0.0, 0.0, 80.0, 60.0]]], category=[[0], [], [1]]),
    )
    with pytest.raises(DataError, match=r"1 of 2 boxes leave their image.*\n.*bbox_format") as caught:
        load(tmp_path)
    assert caught.value.rule == "PARQUET-E08"
    write(tmp_path / "train.parquet", rows(), {"bbox_format": "polar"})
    with pytest.raises(DataError, match="one of xywh, coco, xyxy, pascal_voc, got 'polar'"):
        load(tmp_path)


def test_classes_without_names_are_made_from_the_labels_and_said(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows())
    index = load(tmp_path)
    assert index.class_names == ["0", "1", "2"]
    assert "3 classes made from the labels: 0, 1, 2" in index.warnings[0]
    write(tmp_path / "train.parquet", rows(category=[["cow", "ant"], [], ["bee"]]))
    index = load(tmp_path)
    assert (index.class_names, index.labels.tolist()) == (["ant", "bee", "cow"], [2, 0, 1])
    write(tmp_path / "train.parquet", rows(category=[["b", "a"], [], ["b"]]), {"class_names": '["b", "a", "c"]'})
    assert load(tmp_path).labels.tolist() == [0, 1, 0]


def test_ids_are_the_files_own_or_count_from_one(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows())
    assert load(tmp_path).ids.tolist() == [1, 2, 3]
    write(tmp_path / "train.parquet", rows(image_id=[7, 2**40, -3]))
    assert load(tmp_path).ids.tolist() == [7, 2**40, -3]
    write(tmp_path / "train.parquet", rows(image_id=[7, 8, 7]))
    with pytest.raises(DataError, match=r"image_id 7 is used twice \(train\.parquet/0, train\.parquet/2\)"):
        load(tmp_path)


@pytest.mark.parametrize("labels", [[0, 1, 2, 1], ["cat", "dog", "bus", "dog"]])
def test_a_label_a_row_is_classification(tmp_path: Path, labels: list[Any]) -> None:
    columns = {"image": pa.array([{"bytes": png(i), "path": None} for i in range(4)]), "label": labels}
    write(tmp_path / "train.parquet", columns, {"class_names": '["cat", "dog", "bus"]'})
    cfg = config(str(tmp_path), **{"model.name": "efficientnet_b0"})
    index = open_split(cfg, "train")
    assert isinstance(index, ClassificationIndex)
    assert (index.labels.tolist(), index.class_names) == ([0, 1, 2, 1], ["cat", "dog", "bus"])
    assert read_rgb(index.image(2)).tobytes() == make_image(2, (60, 80)).tobytes()


def test_splits_are_found_by_name_or_by_the_config(tmp_path: Path) -> None:
    for name, count in (("data/train-0.parquet", 3), ("data/train-1.parquet", 3), ("validation/a.parquet", 3)):
        write(tmp_path / name, rows(count))
    write(tmp_path / "x" / "trainer.parquet", rows(3))
    assert len(open_split(config(str(tmp_path)), "train")) == 6
    assert len(open_split(config(str(tmp_path)), "val")) == 3
    assert len(open_split(config(str(tmp_path), **{"data.train": "x/trainer.parquet"}), "train")) == 3
    assert len(open_split(config(str(tmp_path), **{"data.train": "x"}), "train")) == 3
    with pytest.raises(DataError, match=r"looked for test\.parquet, .*\n?.*data/, .*Set data\.test") as caught:
        open_split(config(str(tmp_path)), "test")
    assert caught.value.rule == "DIR-E01"


@pytest.mark.parametrize(
    ("columns", "rule", "message"),
    [
        (rows(category=[[0], [], [1]]), "PARQUET-E04", "2 boxes and 1 labels"),
        (rows(bbox=[[[1.0, 2.0, 3.0]], [], []], category=[[0], [], []]), "PARQUET-E05", r"\[1.0, 2.0, 3.0\]"),
        (rows(bbox=[[[1.0, 2.0, float("nan"), 3.0]], [], []], category=[[0], [], []]), "PARQUET-E05", "nan"),
        (rows(bbox=[[[1.0, 2.0, None, 3.0]], [], []], category=[[0], [], []]), "PARQUET-E05", "None"),
        (rows(bbox=[[[9.0, 9.0, -3.0, 3.0]], [], []], category=[[0], [], []]), "PARQUET-E05", "-3.0"),
        (rows(image=[None, png(1), png(2)]), "PARQUET-E03", "no image"),
        (rows(image=[b"<html>", png(1), png(2)]), "IMG-E03", "web page"),
        (rows(width=[0, 80, 80], height=[60] * 3), "PARQUET-E02", "60|0 x 60"),
        (rows(width=[None, 80, 80], height=[60] * 3), "PARQUET-E02", "None x 60"),
    ],
)
def test_a_faulty_row_is_refused_by_name_or_left_out_and_counted(
    tmp_path: Path, columns: dict[str, Any], rule: str, message: str
) -> None:
    write(tmp_path / "train.parquet", columns)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert (caught.value.rule, caught.value.record) == (rule, "row train.parquet/0")
    index = load_parquet(Folder(tmp_path), "test", "train.parquet", True, on_bad="skip", max_bad=0.5)
    assert index.names.tolist() == ["train.parquet/1", "train.parquet/2"]


@pytest.mark.parametrize(
    ("columns", "metadata", "rule", "message"),
    [
        (rows(image=None), {}, "PARQUET-E02", "no column of images; it has bbox: list"),
        (rows(bbox=None), {}, "PARQUET-E02", "no column of boxes"),
        (rows(category=None), {}, "PARQUET-E02", "no column of labels"),
        (rows(), {"class_names": "[cat"}, "PARQUET-E02", "must be a JSON list"),
        (rows(), {"class_names": '["cat", 3]'}, "PARQUET-E02", "must be a JSON list"),
        (rows(), {"class_names": "[" * 9999}, "PARQUET-E02", "must be a JSON list"),
        (rows(), {"class_names": '["a", "b"]'}, "PARQUET-E07", "1 of 3 labels are no class, e.g. 2; there are 2 names"),
        (rows(category=[[0, -1], [], [1]]), {}, "PARQUET-E07", "from 0 to 99999, got -1"),
        (rows(category=[[0, 10**9], [], [1]]), {}, "PARQUET-E07", "got 1000000000"),
        (rows(category=[[0, None], [], [1]]), {}, "PARQUET-E07", "got None"),
        (rows(bbox=[[], [], []], category=pa.array([[], [], []], pa.list_(pa.int64()))), {}, "PARQUET-E11", "no box"),
        (rows(bbox=[[[0.1, 0.1, 0.5, 0.5]], [], []], category=[[0], [], []]), {}, "PARQUET-E08", "within 0 to 1"),
    ],
)
def test_malformed_files_are_refused(
    tmp_path: Path, columns: dict[str, Any], metadata: dict[str, str], rule: str, message: str
) -> None:
    write(tmp_path / "train.parquet", columns, metadata)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert caught.value.rule == rule


def test_damaged_and_differing_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "train-1.parquet", rows())
    data = path.read_bytes()
    for content in (b"", b"PAR1", data[: len(data) // 2], b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(DataError, match="no parquet, or damaged") as caught:
            load(tmp_path)
        assert caught.value.rule == "PARQUET-E01"
    path.write_bytes(data[:200] + bytes(len(data) - 1200) + data[-1000:])
    with pytest.raises(DataError):
        load(tmp_path)
    write(tmp_path / "train-1.parquet", rows(category=None, label=CLASSES))
    write(tmp_path / "train-2.parquet", rows())
    with pytest.raises(DataError, match=r"train-2\.parquet: has other columns or class names than train-1"):
        load(tmp_path)
    write(
        tmp_path / "train-2.parquet", {name: values[:0] for name, values in rows(label=CLASSES, category=None).items()}
    )


def test_what_is_accepted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydet.data.formats.parquet.load.SMALL", 1000)
    boxes = [[[5.0, 4.0, 0.0, 20.0], [1.0, 2.0, 3.0, 4.0]], [[1.0, 1.0, 5.0, 5.0]] * 4, [[0.0, 0.0, 99.0, 60.0]]]
    write(tmp_path / "train.parquet", rows(bbox=boxes, category=[[0, 1], [0] * 4, [1]]))
    index = load(tmp_path)
    assert {fault.rule for fault in index.faults} == {f"PARQUET-{w}" for w in ("W06", "W08", "W10", "W12")}
    assert len(index.boxes) == 6
    assert any("row_group_size=100" in line for line in index.faults.lines())


def test_a_remote_file_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    write(tmp_path / "set" / "train.parquet", rows())
    with serving() as stub:
        stub.buckets["shop"] = {}
        upload(stub, tmp_path / "set", "set")
        index = open_split(config(stub.root("shop/set")), "train")
    assert isinstance(index, DetectionIndex)
    check(index)
    assert (index.file, index.files.forkable) == ("s3://shop/set/train.parquet", False)


def test_every_rule_is_in_the_list() -> None:
    source = Path(load_parquet.__code__.co_filename)
    texts = "".join(path.read_text() for path in source.parent.glob("*.py"))
    assert set(re.findall(r"PARQUET-[EW]\d\d", texts)) == {rule for rule in RULES if rule.startswith("PARQUET")}
