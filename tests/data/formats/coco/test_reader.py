"""Malformed annotation files: each fault is found by its rule, its record named, alone and among others."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raydet.data.formats.coco.load import load_coco
from raydet.data.formats.coco.reader import parse
from raydet.data.storage.files import Folder
from raydet.data.validation.rules import RULES
from raydet.exceptions import DataError
from tests.data.makers import load_content as load
from tests.data.makers import parse_coco, truth, write_coco
from tests.data.malformed import MALFORMED, SWAPPED, Edit, annotation, boxes, category, every, image, rename


def named(path_faults: Any, rule: str) -> list[str | None]:
    return [e.record for fault in path_faults if fault.rule == rule for e in fault.examples]


def test_malformed_records_are_found_by_rule_and_named(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for i, (rule, record, edit) in enumerate(MALFORMED):
        with subtests.test(f"{rule}, row {i} of the table"):
            check_malformed(tmp_path / str(i), rule, record, edit)


def check_malformed(folder: Path, rule: str, record: str | None, edit: Edit) -> None:
    content = truth()
    edit(content)
    _, faults = parse_coco(folder, content)
    found = [fault for fault in faults if fault.rule == rule]
    assert found
    assert record is None or record in named(faults, rule)
    assert all(fault.count >= 1 for fault in found)
    severe = rule[-3] == "E"
    if severe:
        with pytest.raises(DataError) as caught:
            load(folder, content)
        assert caught.value.rule in {fault.rule for fault in faults if fault.severe}
        assert "instances_train.json" in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 6
        assert caught.value.faults is not None
    elif not faults.errors:
        assert any(f"({rule})" in line for line in load(folder, content).warnings)


@pytest.mark.slow
def test_faults_are_found_among_two_others_too(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for i, (rule, record, edit) in enumerate(MALFORMED):
        with subtests.test(f"{rule}, row {i} of the table"):
            check_among_others(tmp_path / str(i), rule, record, edit)


def check_among_others(folder: Path, rule: str, record: str | None, edit: Edit) -> None:
    content = truth(40)
    edit(content)
    if isinstance(content.get("annotations"), list):
        content["annotations"].append({"id": 9001, "image_id": 10, "category_id": 1, "bbox": [1], "area": 1})
    content["images"].append({"id": 9002, "file_name": "https://x.org/a.jpg", "width": 80, "height": 60})
    _, faults = parse_coco(folder, content)
    assert [fault for fault in faults if fault.rule == rule]
    assert record is None or record in named(faults, rule)
    assert "image 9002" in named(faults, "COCO-E28")
    if isinstance(content.get("annotations"), list):
        assert "annotation 9001" in named(faults, "COCO-E14")


def test_every_rule_of_annotation_files_is_in_the_table_or_tested_beside_it() -> None:
    beside = {
        "COCO-E01",
        "COCO-E22",
        "COCO-W23",
        "COCO-E26",
        "COCO-W26",
        "COCO-E27",
        "COCO-E30",
        "COCO-E33",
        "COCO-E40",
        "COCO-W51",
        "COCO-E55",
    }
    assert {rule for rule in RULES if rule.startswith("COCO-")} - {rule for rule, _, _ in MALFORMED} <= beside


def test_several_faults_of_one_record_are_all_counted(tmp_path: Path) -> None:
    content = truth()
    content["annotations"][2] = {"id": 102, "image_id": "11", "category_id": 5, "bbox": [1], "area": "x", "iscrowd": 7}
    columns, faults = parse_coco(tmp_path, content)
    assert sorted(fault.rule for fault in faults if fault.severe) == ["COCO-E12", "COCO-E14"] + ["COCO-E29"] * 3
    assert all(fault.record == "annotation 102" for fault in faults.errors)
    assert 102 not in columns["ann_ids"]
    assert faults.to_dict()["records"][2] == {
        "file": faults.errors[0].file,
        "kind": "annotations",
        "total": 6,
        "faulty": 1,
    }


def test_an_id_that_is_no_number_is_one_fault_and_not_an_unknown_image_too(tmp_path: Path) -> None:
    content = truth()
    annotation(image_id="1.jpg", category_id="cat")(content)
    assert [fault.rule for fault in parse_coco(tmp_path, content)[1].errors] == ["COCO-E29", "COCO-E29"]


def test_a_wrong_box_is_one_fault_and_not_a_wrong_area_too(tmp_path: Path) -> None:
    content = truth()
    for a, box in zip(content["annotations"], ([1, 2, -math.inf, 4], [1, 2, -3, 4], [1, 2]), strict=False):
        a["bbox"] = box
        del a["area"]
    found = {fault.rule: fault.count for fault in parse_coco(tmp_path, content)[1].errors}
    assert found == {"COCO-E04": 1, "COCO-E16": 1, "COCO-E14": 1}


def test_counts_are_exact_and_only_the_first_five_are_named(tmp_path: Path) -> None:
    content = truth(2000)
    for a in content["annotations"][::4]:
        a["bbox"] = [1, 2, 3]
    columns, faults = parse_coco(tmp_path, content)
    fault = faults.errors[0]
    assert (fault.count, len(fault.examples), fault.record) == (1000, 5, "annotation 100")
    assert fault.examples[1].image == "2.jpg"
    assert len(columns["boxes"]) == 3000
    assert (
        str(faults.error())
        .splitlines()[0]
        .endswith("got [1, 2, 3]; 1000 of 4000 annotations: 100, 104, 108, 112, 116 (COCO-E14)")
    )


def test_boxes_count_as_normalised_from_a_fifth_on_and_only_with_fractions(tmp_path: Path) -> None:
    for share, box, rule in ((25, [0.1, 0.2, 0.5, 0.5], "COCO-E34"), (15, [0.1, 0.2, 0.5, 0.5], "COCO-W42")):
        content = truth(50)
        for a in content["annotations"][:share]:
            a.update(bbox=box, area=0.25)
        found = {fault.rule: fault.count for fault in parse_coco(tmp_path, content)[1]}
        assert found[rule] == share, found
    content = truth(1)
    every("annotations", bbox=[0, 0, 1, 1])(content)
    found = {fault.rule: fault.count for fault in parse_coco(tmp_path, content)[1]}
    assert "COCO-E34" not in found
    assert found["COCO-W41"] == 2


def test_annotations_of_a_faulty_image_are_left_out_unsaid(tmp_path: Path) -> None:
    content = truth()
    image(file_name="/etc/passwd")(content)
    columns, faults = parse_coco(tmp_path, content)
    assert [fault.rule for fault in faults.errors] == ["COCO-E25"]
    assert columns["ids"].tolist() == [10, 12]
    assert columns["ann_ids"].tolist() == [100, 101, 104, 105]
    assert columns["first"].tolist() == [0, 2, 4]


def test_boxes_of_a_faulty_category_are_counted(tmp_path: Path) -> None:
    content = truth()
    category(name=5)(content)
    columns, faults = parse_coco(tmp_path, content)
    counts = {fault.rule: fault.count for fault in faults.errors}
    assert counts == {"COCO-E29": 1, "COCO-E49": sum(a["category_id"] == 13 for a in content["annotations"])}
    assert set(columns["categories"].tolist()) == {1, 90}


def test_sound_file_has_no_fault_but_the_mapping(tmp_path: Path) -> None:
    assert [fault.rule for fault in parse_coco(tmp_path, truth())[1]] == ["COCO-W27"]


def test_a_key_that_stands_twice_is_found_in_records_and_at_the_top(tmp_path: Path) -> None:
    path = write_coco(tmp_path, truth(), images=False)
    text = path.read_text().replace('"id": 102,', '"id": 102, "bbox": [1, 2, 3, 4],')
    path.write_text(text[:-1] + ', "annotations": []}')
    _, _, faults = parse(path, [Folder(tmp_path)])
    found = [(fault.record, fault.value) for fault in faults if fault.rule == "COCO-E40"]
    assert found == [("annotation 102", "['bbox']"), (None, None)]


def test_hints_say_what_the_file_looks_like(tmp_path: Path) -> None:
    cases: list[tuple[Edit, str]] = [
        (every("annotations", category_id=0), "counted from 0"),
        (every("annotations", **SWAPPED), "swapped"),
        (boxes(lambda b: [v / 80 for v in b]), "normalised"),
        (every("annotations", bbox=[1, 2, 9, 2, 9, 9, 1, 9]), "four corners"),
        (rename("images", "file_name", "fileName"), '"fileName"'),
        (rename("images", "id", "ID"), '"ID"'),
        (lambda c: c.update(Images=c.pop("images")), '"Images"'),
        (lambda c: (c.clear(), c.update(shapes=[], imagePath="a.jpg")), "LabelMe"),
    ]
    for edit, message in cases:
        content = truth()
        path = write_coco(tmp_path, content, images=False)
        edit(content)
        if message == "counted from 0":
            content["categories"] = [{"id": i, "name": str(i)} for i in (1, 13, 90)]
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            load_coco(path, tmp_path)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 10, 100, -1, 2**31, 2**63, -(2**63), 10**400])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1", "../x", "0.jpg", "\ud800", "\0"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    held = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, inner in held for p in places(inner, (*path, key)))]


PLACES = places(truth())[1:]


@pytest.mark.slow
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(edits=st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=4))
def test_mutated_files_end_in_an_index_that_holds_or_a_data_error(
    tmp_path: Path, edits: list[tuple[tuple[Any, ...], Any]]
) -> None:
    content = truth()
    for place, value in edits:
        holder: Any = content
        try:
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    try:
        columns, _, faults = parse(path, [Folder(tmp_path / "train")])
    except DataError:
        return
    json.loads(faults.to_json())
    assert all(line.isprintable() for line in faults.lines())
    check_columns(columns)
    options: dict[str, Any] = {} if not faults.errors else {"on_bad": "skip", "max_bad": 1.0}
    try:
        index = load_coco(path, tmp_path / "train", role="test", **options)
    except DataError as error:
        assert error.faults is not None
        return
    assert index.labels.size == 0 or 0 <= index.labels.min() <= index.labels.max() < index.num_classes
    for i in range(len(index)):
        index.boxes_of(i)


def check_columns(columns: dict[str, Any]) -> None:
    assert np.isfinite(columns["boxes"]).all()
    assert (columns["boxes"][:, 2:] > 0).all()
    assert np.isfinite(columns["areas"]).all()
    assert (columns["sizes"] > 0).all()
    assert (np.diff(columns["first"]) >= 0).all()
    assert len(columns["first"]) == len(columns["ids"]) + 1 == len(columns["sizes"]) + 1
    assert columns["first"][-1] == len(columns["boxes"]) == len(columns["ann_ids"]) == len(columns["crowd"])
    assert set(columns["categories"].tolist()) <= set(columns["category_ids"].tolist())
    assert len(set(columns["ids"].tolist())) == len(columns["ids"])
