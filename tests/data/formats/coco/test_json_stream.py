"""JSON read as a stream: whatever its order, spacing and size of window; what is no JSON is named by its byte."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from raydet.data.formats.coco.json_stream import parts
from raydet.data.formats.coco.load import load_coco
from raydet.data.formats.coco.reader import parse
from raydet.data.storage.files import Folder
from raydet.exceptions import DataError
from tests.data.makers import truth


def joined(path: Path) -> dict[str, Any]:
    """All parts of the file, put together again."""
    found: dict[str, Any] = {}
    for key, part in parts(path, []):
        found[key] = found[key] + part if isinstance(part, list) and key in found else part
    return found


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_windows_of_any_size_read_the_same_as_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ascii_only: bool, indent: int | None
) -> None:
    odd = [{"a": "}, {", "b": [{}, {"c": "}, {\\"}]}, {"d": "x" * 150 + "äß€😀" * 9, "e": -math.inf}, {}, {"f": [1e-7]}]
    content = {
        "images": odd * 4,
        "n": -12345678901,
        "none": None,
        "yes": True,
        "empty": [],
        "mixed": [1, "}, {", {}, [2]],
    }
    content["last"] = [{"id": i, "t": "\n\t\x7f\u2028"} for i in range(9)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content, ensure_ascii=ascii_only, indent=indent), encoding="utf-8")
    for window in (*range(1, 60), 100, 300, 1000, 4000, 1 << 22):
        monkeypatch.setattr("raydet.data.formats.coco.json_stream._WINDOW", window)
        assert joined(path) == content


def test_records_of_later_batches_are_named_by_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydet.data.formats.coco.json_stream._WINDOW", 1500)
    content = truth(300)
    del content["annotations"][451]["id"]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    assert [fault.record for fault in parse(path, [Folder(tmp_path)])[2].errors] == ["annotations[451]"]


@pytest.mark.parametrize("before", [False, True], ids=["images-first", "annotations-first"])
@pytest.mark.parametrize("indent", [None, 1], ids=["one-line", "indented"])
def test_order_and_spacing_of_the_file_do_not_matter(
    tmp_path: Path, before: bool, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydet.data.formats.coco.json_stream._WINDOW", 1500)
    content = truth(300)
    content["annotations"][7]["segmentation"] = {"counts": [1, 2], "size": [60, 80]}
    if before:
        content = {"annotations": content.pop("annotations"), **content}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"info": {"a": [{}, {"b": "}, {"}]}, **content}, indent=indent), encoding="utf-8")
    columns, alone, faults = parse(path, [Folder(tmp_path)])
    assert alone
    assert [fault.rule for fault in faults] == ["COCO-W27"]
    assert columns["ids"].tolist() == [10 + i for i in range(300)]
    assert sorted(columns["ann_ids"].tolist()) == [100 + i for i in range(600)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(truth())[:-40], "byte .* the file is cut"),
        (json.dumps(truth())[:300], "byte .* the file is cut"),
        ('{"images": [], "annot', "the file is cut"),
        ('{"images": [{"id": 1}', "the file is cut"),
        ('{"images": ', "the file is cut"),
        ("", "is empty: the file is cut"),
        ("  \n", "the file is cut"),
        ('{"images": }', "byte 11 of 12"),
        ('{"a": "é", "images": }', "byte 22 of 23"),
        ('{"images": [{"id": 1} {"id": 2}]}', "byte 22 of 33: Expecting ',' delimiter"),
        ('{"images": [{"id": 1},]}', "byte 22 of 24: Expecting value"),
        ('{"images": [], }', "byte 15 of 16: Expecting property name"),
        ('{"images": []} {}', "byte 15 of 17: Extra data"),
        ('{"images" []}', "byte 10 of 13: Expecting ':'"),
        ("{'images': []}", "byte 1 of 14"),
        ("[" * 100_000, "not usable JSON|the file is cut"),
        ('{"images": [{"a": ' + "[" * 100_000, "not usable JSON"),
        ('{"images": ' + "9" * 5000 + "}", "not usable JSON"),
        ("<annotation><folder>VOC</folder></annotation>", "XML"),
        ("0 0.5 0.5 0.1 0.2\n", "YOLO"),
    ],
)
def test_broken_json_names_the_byte(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        load_coco(path, tmp_path)
    assert caught.value.rule == "COCO-E01"


@pytest.mark.slow
def test_cut_at_any_byte_is_named_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydet.data.formats.coco.json_stream._WINDOW", 100)
    whole = json.dumps(truth(2) | {"info": {"x": "äö"}}, ensure_ascii=False).encode()
    path = tmp_path / "a.json"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut|not UTF-8") as caught:
            parse(path, [Folder(tmp_path)])
        assert caught.value.rule == "COCO-E01"
    path.write_bytes(whole)
    assert len(parse(path, [Folder(tmp_path)])[0]["ids"]) == 2


def test_top_level_list_other_encodings_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    detections = b'[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]'
    for data, rule, message in (
        (b"[1]", "COCO-E03", "a list"),
        (b'[{"file": "a.jpg", "boxes": []}]', "COCO-E03", "a list of objects with file, boxes"),
        (detections, "COCO-E03", "detections"),
        (b"5", "COCO-E03", "one value"),
        (b'{"images": "x"}', "COCO-E03", "got str"),
        (b'{"images": []}', "COCO-E03", "empty"),
        (b'{"images": null}', "COCO-E03", "NoneType"),
        (b'{"a": "\xff"}', "COCO-E01", "UTF-8 text at byte 7"),
        (b'{"a": "' + "é".encode("latin-1"), "COCO-E01", "UTF-8 text at byte 7"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "COCO-E01", "Git LFS"),
        ('{"a": 1}'.encode("utf-16"), "COCO-E01", "UTF-16"),
        (gzip.compress(b"{}"), "COCO-E01", "gzip"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message) as caught:
            load_coco(path, tmp_path)
        assert caught.value.rule == rule
    for missing in (tmp_path / "b.json", tmp_path):
        with pytest.raises(DataError) as caught:
            load_coco(missing, tmp_path)
        assert caught.value.rule == "DIR-E01"
