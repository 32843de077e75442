"""Looking through a data set: all that is wrong is told, counted and written, and the exit code says what fit would."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema  # comes with Ray
import numpy as np
import pytest
from PIL import Image

from raydet.audit.check import check
from raydet.audit.report import lines, to_dict
from raydet.audit.result import Audit
from raydet.cli import main as cli
from raydet.config import override
from raydet.data.formats.detect_format import guess
from raydet.data.validation.rules import RULES

Truth = dict[str, Any]
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "check_report.schema.json").read_text())


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDET_CACHE", str(tmp_path / "cache"))


def edited(root: Path, split: str, change: Any) -> None:
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def looked(root: Path, **changes: Any) -> Audit:
    return check(override(guess(root), {"model.image_size": 128, **changes}), stream=io.StringIO())


def rules(audit: Audit) -> dict[str, int]:
    return {fault.rule: fault.count for fault in audit.faults}


def test_a_sound_set_is_good_and_its_report_is_complete(shop: Path, tmp_path: Path) -> None:
    audit = check(override(guess(shop), {"model.image_size": 128}), out=tmp_path / "out", stream=io.StringIO())
    assert audit.verdict is None and set(rules(audit)) <= {"COCO-W27"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    assert report["ok"] and report["fit_trains"] and report["quarantine"] == [] and report["in_two_splits"] == 0
    train = report["splits"]["train"]
    assert (train["images"], train["boxes"], train["height_width_median"]) == (12, 24, [60, 80])
    assert [(c["id"], c["name"], c["count"]) for c in train["classes"]] == [
        (1, "cat", 8),
        (13, "dog", 8),
        (90, "bus", 8),
    ]
    assert set(report["anchor_coverage"]) == {"128", "256"}
    for name in ("labels", "anchors", "train", "val"):
        assert Image.open(tmp_path / "out" / "plots" / f"{name}.png").size[0] > 500
    assert lines(audit, None)[-1].startswith("result    good")


def test_faults_of_annotations_and_images_are_told_together(shop: Path) -> None:
    def spoil(content: Truth) -> None:
        content["annotations"][3]["bbox"][2] = -5
        content["annotations"][6]["category_id"] = 77
        content["annotations"][9]["bbox"][3] = 0

    edited(shop, "train", spoil)
    (shop / "train" / "train_2.jpg").write_bytes(b"")
    (shop / "train" / "train_5.jpg").unlink()
    (shop / "train" / "stray.jpg").write_bytes(b"x")
    audit = looked(shop)
    report = to_dict(audit)
    jsonschema.validate(report, SCHEMA)
    (finding,) = [one for one in report["findings"] if one["rule"] == "COCO-E12"]
    assert (finding["count"], finding["severe"], finding["examples"]) == (1, True, ["annotation 106 (77)"])
    found = rules(audit)
    expected = {"COCO-E16": 1, "COCO-E12": 1, "COCO-W15": 1, "IMG-E02": 1, "IMG-E01": 1, "DIR-W07": 1}
    assert expected.items() <= found.items()
    assert audit.verdict is not None
    assert sorted(audit.quarantine) == [("train", "train_2.jpg", "IMG-E02"), ("train", "train_5.jpg", "IMG-E01")]
    text = "\n".join(lines(audit, None))
    for word in ("annotation 103", "annotation 106", "77", "train_5.jpg", "image 12", "stray.jpg", "result    bad"):
        assert word in text, word


@pytest.mark.slow
def test_skipping_is_good_up_to_the_share_that_is_allowed(shop: Path) -> None:
    (shop / "train" / "train_2.jpg").write_bytes(b"")
    assert looked(shop).verdict is not None
    assert looked(shop, **{"data.on_bad": "skip", "data.max_bad": 0.2}).verdict is None
    bad = looked(shop, **{"data.on_bad": "skip", "data.max_bad": 0.05}).verdict
    assert bad is not None and "1 of 12 images" in str(bad) and "data.max_bad" in str(bad)


def test_images_in_two_splits_are_told_whether_equal_or_saved_again(shop: Path) -> None:
    shutil.copy(shop / "train" / "train_3.jpg", shop / "val" / "val_1.jpg")
    Image.open(shop / "train" / "train_7.jpg").save(shop / "val" / "val_2.jpg", quality=60)
    shutil.copy(shop / "train" / "train_8.jpg", shop / "train" / "train_9.jpg")
    audit = looked(shop)
    found = {fault.rule: str(fault.examples[0]) for fault in audit.faults if fault.rule.startswith("IMG")}
    assert found == {
        "IMG-W14": "train/train_8.jpg = train/train_9.jpg",
        "IMG-W15": "train/train_3.jpg = val/val_1.jpg",
        "IMG-W17": "train/train_7.jpg = val/val_2.jpg",
    }
    assert audit.leaks == 2 and audit.verdict is None


@pytest.mark.slow
def test_every_duplicate_is_written_with_its_group_split_and_kind(shop: Path, tmp_path: Path) -> None:
    for i in range(1, 12):
        shutil.copy(shop / "train" / "train_0.jpg", shop / "train" / f"train_{i}.jpg")
    shutil.copy(shop / "train" / "train_0.jpg", shop / "val" / "val_2.jpg")
    Image.open(shop / "val" / "val_0.jpg").save(shop / "val" / "val_1.jpg", quality=60)
    check(override(guess(shop), {"model.image_size": 128}), out=tmp_path / "out", stream=io.StringIO())
    head, *rows = (tmp_path / "out" / "duplicates.csv").read_text().splitlines()
    assert head == "group,split,name,kind"
    assert rows[:12] == [f"1,train,train_{i}.jpg,exact" for i in range(12)]
    assert rows[12:] == ["1,val,val_2.jpg,exact", "2,val,val_0.jpg,near", "2,val,val_1.jpg,near"]


@pytest.mark.slow
def test_what_check_finds_fit_leaves_out(shop: Path, tmp_path: Path) -> None:
    """quarantine.txt and on_leak=drop: after them check is good, and its next list still names what is left out."""
    (shop / "train" / "train_2.jpg").write_bytes(b"")
    shutil.copy(shop / "train" / "train_3.jpg", shop / "val" / "val_1.jpg")
    cfg = override(guess(shop), {"model.image_size": 128})
    assert check(cfg, out=tmp_path / "out", stream=io.StringIO()).verdict is not None
    cfg = override(cfg, {"data.quarantine": str(tmp_path / "out" / "quarantine.txt"), "data.on_leak": "drop"})
    audit = check(cfg, out=tmp_path / "out", stream=io.StringIO())
    assert audit.verdict is None and audit.leaks == 0 and len(audit.splits[0].index) == 10
    assert {"DIR-W11", "IMG-W20"} <= set(rules(audit)) and "DIR-W07" not in rules(audit)
    assert (tmp_path / "out" / "quarantine.txt").read_text() == "train\ttrain_2.jpg\tDIR-W11\n"


def test_a_rule_takes_one_line_however_often_it_fires(shop: Path) -> None:
    for i in range(12):
        (shop / "train" / f"train_{i}.jpg").write_bytes(b"x" * i)
    edited(shop, "train", lambda content: [a.update(category_id=70 + i) for i, a in enumerate(content["annotations"])])
    shown = [line.split()[0] for line in lines(looked(shop), None) if line.split()[0] in RULES]
    assert shown and len(shown) == len(set(shown))


def test_faults_of_a_test_split_are_its_own(shop: Path) -> None:
    shutil.copytree(shop / "val", shop / "test")
    shutil.copy(shop / "annotations" / "instances_val.json", shop / "annotations" / "instances_test.json")
    (shop / "test" / "val_0.jpg").write_bytes(b"")
    named = {f"data.{split}": f"annotations/instances_{split}.json" for split in ("train", "val", "test")}
    audit = check(override(guess(shop), {"model.image_size": 128, **named}), stream=io.StringIO())
    assert [split.name for split in audit.splits] == ["train", "val", "test"]
    assert audit.verdict is not None and audit.fit_verdict is None
    assert "fit would train, evaluate --split test would refuse" in lines(audit, None)[-1]


def test_classes_that_differ_between_splits_are_told(shop: Path) -> None:
    edited(shop, "val", lambda content: content["categories"].append({"id": 91, "name": "hat"}))
    audit = looked(shop)
    assert "DIR-E04" in rules(audit) and "hat" in "\n".join(lines(audit, None))


def test_a_split_that_cannot_be_opened_does_not_hide_the_other(shop: Path) -> None:
    (shop / "annotations" / "instances_val.json").write_text('{"images": [')
    (shop / "train" / "train_2.jpg").write_bytes(b"")
    audit = looked(shop)
    assert {"COCO-E01", "IMG-E02"} <= set(rules(audit)) and audit.verdict is not None
    assert [split.name for split in audit.splits] == ["train"]


@pytest.mark.slow
def test_a_set_without_any_readable_annotations_still_has_a_report(shop: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (shop / "annotations" / f"instances_{split}.json").write_text("[1, 2]")
    audit = check(guess(shop), out=tmp_path / "out", stream=io.StringIO())
    assert not json.loads((tmp_path / "out" / "report.json").read_text())["ok"]
    assert "nothing that could be opened" in lines(audit, None)[0]


def test_classification_folders_are_looked_through(toy_classification: Path) -> None:
    audit = looked(toy_classification, **{"model.image_size": 96})
    assert audit.cfg.task == "classification" and audit.verdict is None
    assert to_dict(audit)["splits"]["val"]["images"] == 30 and audit.anchors == {}


@pytest.mark.slow
def test_the_command_ends_with_65_for_bad_data_and_0_for_good(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydet.audit.report.draw_plots", lambda audit, folder: None)  # the tests above and below draw
    out = ["--out", str(tmp_path / "out")]
    assert cli.run(["check", str(shop), *out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ok"]
    (shop / "train" / "train_2.jpg").write_bytes(b"<html>")
    assert cli.run(["check", str(shop), *out]) == 65
    shown = capsys.readouterr().out
    assert "IMG-E03" in shown and "train_2.jpg" in shown and "Traceback" not in shown
    assert (tmp_path / "out" / "quarantine.txt").read_text() == "train\ttrain_2.jpg\tIMG-E03\n"
    assert cli.run(["check", str(shop), *out, "--split", "val"]) == 0
    assert cli.run(["check", str(shop / "annotations" / "instances_train.json"), *out]) == 65


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere/at/all"], "no such file or folder"),
        (["demo_detektion"], "demo_detection"),
        (["mydata"], "no such file or folder, and no recipe"),
        (["s3://bucket/shop"], "--data.root"),
        ([], "data"),
    ],
)
def test_what_cannot_be_checked_is_a_usage_error(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["check", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_told_before_the_look(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("raydet.audit.check.Look", lambda *_: pytest.fail("it has looked"))
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", Path("/proc/none/there")):
        assert cli.run(["check", str(shop), "--out", str(out)]) == 2
        assert f"--out {out} cannot be written to" in capsys.readouterr().err


def test_a_broken_parquet_file_is_bad_data_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1junk")
    assert cli.run(["check", str(tmp_path), "--out", str(tmp_path / "out")]) == 65
    assert "train.parquet" in capsys.readouterr().out


@pytest.mark.slow
def test_images_of_another_split_in_the_same_folder_are_listed(shop: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(shop / split, shop / "images", dirs_exist_ok=True)
        shutil.rmtree(shop / split)
    assert "DIR-W07" not in rules(looked(shop))
    cfg = override(guess(shop), {"model.image_size": 128})
    assert "DIR-W07" not in rules(check(cfg, ["train"], stream=io.StringIO()))
    (shop / "images" / "stray.jpg").write_bytes(b"x")
    assert rules(looked(shop))["DIR-W07"] == 1


def test_a_set_of_which_nothing_can_be_trained_on_is_bad(shop: Path) -> None:
    edited(shop, "train", lambda content: [a.update(iscrowd=1) for a in content["annotations"]])
    audit = looked(shop)
    assert audit.verdict is not None and audit.verdict.rule == "COCO-E33"


def test_validation_without_boxes_is_bad_as_it_is_for_fit(shop: Path) -> None:
    edited(shop, "val", lambda content: content.update(annotations=[]))
    audit = looked(shop)
    assert audit.verdict is not None and audit.verdict.rule == "COCO-E26"


def test_the_report_names_the_file_of_each_fault(shop: Path) -> None:
    for split in ("train", "val"):
        edited(shop, split, lambda content: content["annotations"][0].update(bbox=[1, 2, 0, 4]))
    (line,) = [line for line in lines(looked(shop), None) if "COCO-W15" in line]
    files = ", ".join(f"annotations/instances_{split}.json 1" for split in ("train", "val"))
    assert line.startswith(f"COCO-W15 2 files ({files}): 2 of 32 annotations: bbox has no width or no height")


@pytest.mark.slow
def test_classes_that_only_training_has_do_not_stop_the_plots(shop: Path, tmp_path: Path) -> None:
    def fewer(content: Truth) -> None:
        content["categories"] = [c for c in content["categories"] if c["id"] != 90]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 90]

    edited(shop, "val", fewer)
    audit = check(override(guess(shop), {"model.image_size": 128}), out=tmp_path / "out", stream=io.StringIO())
    assert audit.verdict is None and "DIR-W09" in rules(audit)
    assert (tmp_path / "out" / "plots" / "labels.png").is_file()


def test_images_of_yolo_are_counted_once(shop: Path, tmp_path: Path) -> None:
    root = tmp_path / "yolo"
    shutil.copytree(shop / "val", root / "images" / "train")
    (root / "labels" / "train").mkdir(parents=True)
    for path in (root / "images" / "train").iterdir():
        (root / "labels" / "train" / f"{path.stem}.txt").write_text("0 .5 .5 .5 .5")
    (root / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [a]")
    (root / "images" / "train" / "bad.jpg").write_bytes(b"x")
    cfg = override(guess(root), {"model.image_size": 128})
    audit = check(cfg, ["train"], stream=io.StringIO())
    assert [line for line in lines(audit, None) if "IMG-E03 1 of 5 images" in line]


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from raydet.terminal import progress_bar

    times = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(progress_bar, "monotonic", lambda: next(times))
    stream = io.StringIO()
    with progress_bar.Counter("check     train images", 400, stream) as tick:
        for _ in range(4):
            tick(100)
    assert stream.getvalue().splitlines() == [
        "check     train images: 200 of 400, 6/s, 31 s left",
        "check     train images: 400 of 400, 6/s, 0 s left",
    ]


@pytest.mark.slow
def test_many_images_are_looked_at_by_processes_in_order(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raydet.audit import check

    monkeypatch.setattr(check, "_PART", 2)
    (shop / "train" / "train_2.jpg").write_bytes(b"")
    audit = looked(shop)
    assert [one.name for one in audit.splits[0].seen] == [f"train_{i}.jpg" for i in range(12)]
    assert rules(audit)["IMG-E02"] == 1


@pytest.mark.slow
def test_on_a_cluster_the_images_are_looked_at_by_tasks(shop: Path, shared_ray: None) -> None:
    (shop / "train" / "train_2.jpg").write_bytes(b"")
    here, there = looked(shop), looked(shop, **{"scaling.address": "auto"})
    assert to_dict(there) == to_dict(here)
    assert np.array_equal([one.dhash for one in there.splits[0].seen], [one.dhash for one in here.splits[0].seen])


def test_python_has_the_verb_too(shop: Path) -> None:
    import raydet

    audit = raydet.check(override(guess(shop), {"model.image_size": 128}), stream=io.StringIO())
    assert audit.verdict is None and "check" in dir(raydet)


def test_a_data_set_is_looked_at_for_the_model_of_a_recipe(shop: Path) -> None:
    from raydet.cli.commands import _data_config

    cfg = _data_config(str(shop), "efficientdet_d2_coco", {"data.min_box": 2.0})
    assert (cfg.model.name, cfg.data.root, cfg.data.min_box) == ("efficientdet_d2", str(shop), 2.0)
    assert cfg.data.train == "annotations/instances_train.json"
    assert _data_config(str(shop), None, {}).model.name == "efficientdet_d0"
