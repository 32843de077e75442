"""Faults are counted exactly, named by their first records, merged, written and read back."""

import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.data.validation.faults import SHOWN, Example, Faults
from raydet.data.validation.rules import RULES
from raydet.exceptions import DataError


def some(count: int = 7, rule: str = "COCO-E14", start: int = 0) -> Faults:
    faults = Faults()
    for i in range(start, start + count):
        example = Example(f"annotation {i}", f"[{i}]", f"{i}.jpg")
        faults.add(
            rule, "bbox must be four numbers", file="a.json", kind="annotations", examples=[example], hint="Fix."
        )
    faults.looked_at("annotations", 100, count, "a.json")
    return faults


def test_equal_faults_are_counted_together_and_the_first_five_kept() -> None:
    (fault,) = some(7)
    assert (fault.count, [e.record for e in fault.examples]) == (7, [f"annotation {i}" for i in range(SHOWN)])
    assert (fault.record, fault.value, fault.severe) == ("annotation 0", "[0]", True)


def test_line_holds_rule_count_records_values_and_hint() -> None:
    said = "2 of 100 annotations: bbox must be four numbers; annotation 0 ([0]), annotation 1 ([1]). Fix."
    assert some(2).lines() == [f"COCO-E14 a.json: {said}"]


def test_line_names_the_file_within_the_data_sets_place() -> None:
    faults = Faults()
    faults.add("COCO-E01", "is empty", file="/data/shop/annotations/train.json")
    faults.add("COCO-E05", "no categories", file="/data/shop")
    faults.add("COCO-E06", "no annotations", file="/elsewhere/b.json")
    assert faults.lines("/data/shop") == [
        "COCO-E01 annotations/train.json: is empty",
        "COCO-E05 no categories",
        "COCO-E06 /elsewhere/b.json: no annotations",
    ]


def test_what_has_no_file_is_counted_under_that_of_the_whole() -> None:
    whole, part = Faults(), Faults()
    part.add("YOLO-E09", "columns", kind="rows")
    part.looked_at("rows", 7, 1)
    whole.extend(part, "train")
    assert whole.lines() == ["YOLO-E09 train: 1 of 7 rows: columns"]
    assert whole.counted("rows", "train") and not whole.counted("rows") and not whole.counted("boxes", "train")


def test_error_names_the_first_record_and_counts_all() -> None:
    error = some(7).error()
    assert str(error) == (
        "a.json: annotation 0: bbox must be four numbers, got [0]; 7 of 100 annotations: 0, 1, 2, 3, 4 (COCO-E14)\n"
        "Fix. `raydet check` shows all."
    )
    assert str(some(1).error()).endswith("got [0]; 1 of 100 annotations (COCO-E14)\nFix.")
    assert isinstance(error.faults, Faults)


def test_fault_of_the_whole_file_comes_first_and_the_others_are_listed() -> None:
    faults = some(1)
    faults.add("COCO-W15", "no width")
    faults.add("COCO-E17", "3 of 4 boxes leave their image", file="a.json", count=3)
    assert str(faults.error()) == (
        "a.json: 3 of 4 boxes leave their image (COCO-E17)\nAlso COCO-E14. `raydet check` shows all."
    )
    assert [fault.rule for fault in faults.errors] == ["COCO-E17", "COCO-E14"]
    assert [fault.rule for fault in faults.warnings] == ["COCO-W15"]


@pytest.mark.parametrize(("bad", "raises"), [(0, False), (10, False), (11, True), (100, True)])
def test_skipping_ends_above_the_share_that_is_allowed(bad: int, raises: bool) -> None:
    faults = some(bad)
    if raises:
        with pytest.raises(DataError, match=rf"{bad} of 100 annotations are faulty, more than data.max_bad=0.1; bbox"):
            faults.check(skip=True, max_bad=0.1)
    else:
        faults.check(skip=True, max_bad=0.1)


def test_too_many_faults_of_one_file_are_told_with_that_files_fault() -> None:
    faults = some(1)
    faults.looked_at("annotations", 5, 5, "b.json")
    faults.add("COCO-E16", "bbox is negative", file="b.json", kind="annotations", count=5)
    with pytest.raises(DataError, match=r"b.json: 5 of 5 annotations are faulty.*\(COCO-E16\)"):
        faults.check(skip=True, max_bad=0.5)


def test_without_skipping_any_error_ends_and_warnings_do_not() -> None:
    some(3, "COCO-W15").check(skip=False, max_bad=0.1)
    with pytest.raises(DataError, match="COCO-E14"):
        some(1).check(skip=False, max_bad=1.0)


def test_fault_of_the_whole_file_ends_even_when_skipping() -> None:
    faults = Faults()
    faults.add("COCO-E05", "no categories")
    with pytest.raises(DataError, match="COCO-E05"):
        faults.check(skip=True, max_bad=1.0)


def test_merged_faults_are_those_counted_in_one() -> None:
    parts = some(3)
    parts.extend(some(4, start=3))
    whole = some(7)
    whole.looked_at("annotations", 100, 0, "a.json")
    assert parts.to_dict() == whole.to_dict()
    assert parts.share("annotations") == 7 / 200


def test_same_fault_of_two_files_stays_apart() -> None:
    faults = Faults()
    for file in ("a.json", "b.json"):
        faults.add("COCO-E05", "no categories", file=file)
    assert [(f.file, f.count) for f in faults] == [("a.json", 1), ("b.json", 1)]


def test_sentences_that_differ_each_time_are_counted_under_the_rules_own_text() -> None:
    faults = Faults()
    for i in range(1000):
        faults.add("IMG-E04", f"is damaged at {i}", kind="images", examples=[Example(f"{i}.jpg")])
    assert len(faults) < 30
    assert sum(f.count for f in faults) == 1000
    assert RULES["IMG-E04"] in {f.what for f in faults}


def test_an_error_is_counted_by_rule_with_its_text_as_value() -> None:
    faults = Faults()
    for i in range(3):
        faults.add_error(
            DataError(f"is cut at {i}", file=f"{i}.jpg", rule="IMG-E04", hint="h"), kind="images", file="d"
        )
    (fault,) = faults
    assert (fault.count, fault.file, fault.what) == (3, "d", RULES["IMG-E04"])
    assert fault.examples[1] == Example("1.jpg", "is cut at 1", "1.jpg")
    whole = Faults()
    whole.add_error(DataError("is cut", file="a.json", rule="COCO-E01"))
    assert str(whole.error()) == "a.json: is cut (COCO-E01)"


TEXTS = st.text(max_size=20) | st.sampled_from(["\x1b[31m", "\ud800", "a\nb", "x" * 1000, "\u202e", "=cmd()"])


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    found=st.lists(
        st.tuples(
            st.sampled_from(sorted(RULES)), TEXTS, TEXTS, st.sampled_from(["", "images"]), st.integers(1, 9), TEXTS
        )
    )
)
def test_all_survive_json_and_pickling_in_one_printable_line_each(found: list[tuple[Any, ...]]) -> None:
    faults = Faults()
    for rule, what, file, kind, count, value in found:
        faults.add(rule, what, file=file, kind=kind, count=count, examples=[Example(value, value)], hint=value)
        faults.looked_at("images", 5, 1, file)
    again = Faults.from_dict(json.loads(faults.to_json()))
    assert again.to_dict() == faults.to_dict() == pickle.loads(pickle.dumps(faults)).to_dict()
    assert faults.to_json().isascii()
    lines = faults.lines() + [faults.said(fault) for fault in faults]
    assert all(line.isprintable() for line in lines)
