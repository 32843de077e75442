"""predict on a run that was trained for a moment: answers, files, ids, what a broken image costs, what is refused."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import raydet
from raydet.cli import main as cli
from raydet.exceptions import ConfigError, DataError, Refused
from raydet.inference.predict import Classes, Detections, Predictions, Unreadable, describe

ALL = {"evaluation.score_threshold": 0.0}


@pytest.fixture
def photos(toy_detection: Path, tmp_path: Path) -> Path:
    """A folder of four images, the third cut short, the fourth turned by EXIF."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, path in enumerate(sorted((toy_detection / "val").glob("*.jpg"))[:3]):
        data = path.read_bytes()
        (folder / f"{i}.jpg").write_bytes(data[: len(data) // 2] if i == 2 else data)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "0.jpg").resize((300, 120)).save(folder / "phone.jpg", exif=exif)
    return folder


def test_answers_drawings_and_coco_results(trained_detector: Path, toy_detection: Path, tmp_path: Path) -> None:
    images = sorted((toy_detection / "val").glob("*.jpg"))[:3]
    found = raydet.predict(trained_detector, images, ALL, score_threshold=0.0, out=tmp_path / "out")
    assert [type(answer) for answer in found] == [Detections] * 3
    for answer, path in zip(found, images, strict=True):
        width, height = Image.open(path).size
        assert isinstance(answer, Detections) and answer.image == path and len(answer.boxes_K4) == 100
        assert (answer.boxes_K4 >= 0).all() and (answer.boxes_K4 <= [width, height] * 2).all()
        assert set(answer.category_ids_K.tolist()) <= set(range(1, 11))
        assert (np.diff(answer.scores_K) <= 0).all()
        assert Image.open(tmp_path / "out" / f"{path.stem}.png").size >= (width, height)
    truth = json.loads((toy_detection / "annotations" / "instances_val.json").read_text())
    ids = {image["file_name"]: image["id"] for image in truth["images"]}
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(rows) == 300 and {row["image_id"] for row in rows} == {ids[path.name] for path in images}
    for source in (toy_detection / "annotations" / "instances_val.json", tmp_path / "out" / "images.json"):
        assert len(COCO(str(source)).loadRes(str(tmp_path / "out" / "predictions.json")).getAnnIds()) == 300


def test_a_classifier_names_five_classes(trained_classifier: Path, toy_classification: Path, tmp_path: Path) -> None:
    image = sorted((toy_classification / "val").rglob("*.jpg"))[0]
    (answer,) = raydet.predict(trained_classifier, [image], out=tmp_path / "out")
    assert isinstance(answer, Classes) and len(answer.names) == 5
    assert answer.probabilities_K.sum() <= 1 + 1e-6 and (np.diff(answer.probabilities_K) <= 0).all()
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["category_id"] for row in rows] == answer.category_ids_K.tolist() and rows[0]["image_id"] == 1


def test_a_broken_image_costs_one_line(
    trained_detector: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for on_bad, code in (("fail", 65), ("skip", 0)):
        words = ["predict", str(trained_detector), str(photos), "--out", str(out), "--data.on_bad", on_bad]
        assert cli.run(words) == code
        printed = capsys.readouterr()
        lines = printed.out.splitlines()
        assert len(lines) == 5 and "2.jpg: not read: is cut short" in lines[2] and "IMG-E04" in lines[2]
        assert ("1 of 4 images cannot be read" in printed.err) == bool(code)
        assert sorted(path.name for path in out.glob("*.png")) == ["0.png", "1.png", "phone.png"]
        records = json.loads((out / "images.json").read_text())["images"]
        assert [("error" in record, record["id"]) for record in records] == [(i == 2, i + 1) for i in range(4)]
    with pytest.raises(DataError, match=r"2\.jpg: is cut short"):
        raydet.predict(trained_detector, [photos])
    assert len(raydet.predict(trained_detector, [photos], {"data.on_bad": "skip"})) == 3
    with pytest.raises(DataError, match="cut short"):
        raydet.predict(trained_detector, [photos / "2.jpg"], {"data.on_bad": "skip"})


def test_a_turned_image_is_drawn_as_its_boxes_are(trained_detector: Path, photos: Path, tmp_path: Path) -> None:
    """120 x 300 as it is shown; with data.exif=false 300 x 120, as it is stored."""
    for how, size in ((True, (120, 300)), ("auto", (120, 300)), (False, (300, 120))):
        out, changes = tmp_path / str(how), {"data.exif": how, **ALL}
        (answer,) = raydet.predict(trained_detector, [photos / "phone.jpg"], changes, score_threshold=0, out=out)
        assert isinstance(answer, Detections) and (answer.boxes_K4[:, 2:] <= size).all()
        drawn = Image.open(out / "phone.png").size
        assert (drawn[0] > drawn[1]) == (size[0] > size[1])
        (record,) = json.loads((out / "images.json").read_text())["images"]
        assert (record["width"], record["height"]) == size


def test_where_nothing_is_above_the_threshold_the_best_is_named(trained_detector: Path, photos: Path) -> None:
    (answer,) = raydet.predict(trained_detector, [photos / "0.jpg"], ALL, score_threshold=1.0)
    assert isinstance(answer, Detections) and len(answer.boxes_K4) == 0 and answer.best is not None
    name, score = answer.best
    assert describe(answer, threshold=1.0) == f"{photos / '0.jpg'}: nothing above 1.00; best {score:.2g} {name}"
    (answer,) = raydet.predict(trained_detector, [photos / "0.jpg"], {"evaluation.score_threshold": 1.0})
    assert describe(answer, threshold=0.3) == f"{photos / '0.jpg'}: nothing above 0.30"


def test_results_come_as_they_are_made_and_whole(trained_detector: Path, photos: Path, tmp_path: Path) -> None:
    """Left in the middle, as by a kill: no half file, and no predictions of an earlier call beside new drawings."""
    out = tmp_path / "out"
    raydet.predict(trained_detector, [photos / "0.jpg"], out=out)
    answers: Iterator[object] = iter(Predictions(trained_detector, [photos], out=out))
    next(answers)
    assert {path.name for path in out.iterdir()} == {"0.png", "images.json"}
    next(answers)
    assert {path.name for path in out.iterdir()} == {"0.png", "1.png", "images.json"}
    assert isinstance(next(answers), Unreadable)
    del answers
    assert {path.name for path in out.iterdir()} == {"0.png", "1.png", "images.json"}
    raydet.predict(trained_detector, [photos / "1.jpg"], out=out)  # what a kill left is no hindrance
    assert (out / "predictions.json").is_file()


def test_writing_beside_an_image_is_refused_however_the_folder_is_spelt(
    trained_detector: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in photos.iterdir()}
    (tmp_path / "alias").symlink_to(photos)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.jpg").symlink_to(photos / "0.jpg")
    monkeypatch.chdir(photos)
    for images, out in (
        ([photos], photos),
        ([photos / "0.jpg"], tmp_path / "alias"),
        ([photos / "0.jpg"], photos / ".." / "photos"),
        (["0.jpg"], "."),
        ([tmp_path / "links"], photos),
        ([tmp_path / "alias" / "0.jpg"], photos),
    ):
        with pytest.raises(Refused, match="choose another folder"):
            raydet.predict(trained_detector, images, out=out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "PHONE.png").write_bytes(b"mine")
    with pytest.raises(Refused, match=r"PHONE\.png would be replaced"):
        raydet.predict(trained_detector, [photos / "phone.jpg"], out=other)
    assert {path: path.read_bytes() for path in photos.iterdir()} == before and len(list(other.iterdir())) == 1


def test_a_hard_link_in_the_results_does_not_lead_to_an_image(
    trained_detector: Path, photos: Path, tmp_path: Path
) -> None:
    out, image = tmp_path / "out", photos / "0.jpg"
    raydet.predict(trained_detector, [image], out=out)
    before = image.read_bytes()
    (out / "0.png").unlink()
    os.link(image, out / "0.png")
    raydet.predict(trained_detector, [image], out=out)
    assert image.read_bytes() == before != (out / "0.png").read_bytes()


@pytest.mark.parametrize(
    ("source", "images", "said"),
    [
        ("no/such/run", ["x.jpg"], "no checkpoint, run folder or recipe"),
        (None, ["no.jpg"], "no such image"),
        (None, ["https://me:secret@host/a.jpg?key=1"], "^https://host/a.jpg is a URL.*curl"),
        ("efficientdet_d0_coco", ["x.jpg"], "model.weights"),
    ],
)
def test_what_is_not_there_is_named(trained_detector: Path, source: str | None, images: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        raydet.predict(source or trained_detector, images)
