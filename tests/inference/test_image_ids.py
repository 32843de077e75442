"""Ids and names of images: those of the data set where it is known, no id and no drawing's name twice."""

import json
from pathlib import Path

import pytest

from raydet.config import Config, override
from raydet.exceptions import ConfigError
from raydet.inference.image_ids import image_ids
from raydet.inference.result_folder import drawing_names

PATHS = [Path(name) for name in ("c1/a.jpg", "c2/a.jpg", "c2/b.jpg")]


def listed(folder: Path, names: dict[str, int]) -> Path:
    """An annotation file without annotations."""
    images = [{"id": i, "file_name": name, "width": 4, "height": 3} for name, i in names.items()]
    (folder / "images.json").write_text(json.dumps({"images": images, "categories": []}))
    return folder / "images.json"


def test_ids_of_an_annotation_file_follow_names_and_where_they_repeat_folders(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for names, expected in (
        ({"c1/a.jpg": 7, "c2/a.jpg": 9, "b.jpg": 3}, [7, 9, 3]),
        ({"x\\c1\\a.jpg": 7, "x\\c2\\a.jpg": 9}, [7, 9, 10]),
        ({"other/b.jpg": 5}, [6, 7, 5]),
        ({"y/a.jpg": 1, "z/a.jpg": 2, "b.jpg": 3}, [4, 5, 3]),  # neither folder is one of theirs
    ):
        with subtests.test(names=names):
            found = image_ids(Config(), PATHS, listed(tmp_path, names))
            assert [one.id for one in found] == expected
            assert [one.hw for one in found] == [(3, 4) if one.known else None for one in found]
    with pytest.raises(ConfigError, match=r"c1/a\.jpg and c2/a\.jpg are both a\.jpg"):
        image_ids(Config(), PATHS, listed(tmp_path, {"a.jpg": 1}))
    with pytest.raises(ConfigError, match=r"names none of the 3 images; it names 1, e.g. q.jpg"):
        image_ids(Config(), PATHS, listed(tmp_path, {"q.jpg": 1}))


def test_ids_of_the_runs_own_data_are_those_of_one_split(detection: Config, toy_detection: Path) -> None:
    val, train = (sorted((toy_detection / split).glob("*.jpg")) for split in ("val", "train"))
    truth = json.loads((toy_detection / "annotations" / "instances_val.json").read_text())["images"]
    ids = {image["file_name"]: image["id"] for image in truth}
    found = image_ids(detection, [*val, train[0], Path("else.jpg")], None)
    assert [one.id for one in found[:-2]] == [ids[path.name] for path in val]
    assert [one.known for one in found[-3:]] == [True, False, False]
    assert [one.id for one in found[-2:]] == [max(ids.values()) + 1, max(ids.values()) + 2]
    gone = override(detection, {"data.root": "/no/such"})
    assert [one.id for one in image_ids(gone, val, None)] == list(range(1, len(val) + 1))


def test_no_two_images_share_the_name_of_a_drawing(subtests: pytest.Subtests) -> None:
    for paths, expected in (
        (["x/a.jpg", "x/b.png"], ["a", "b"]),
        (["x/a.jpg", "x/a.png"], ["a.jpg", "a.png"]),
        (["c1/a.jpg", "c2/a.jpg"], ["c1-a.jpg", "c2-a.jpg"]),
        (["x/A.jpg", "x/a.jpg"], ["A.jpg-2", "a.jpg-3"]),  # the same file to some systems
        (["x/a.jpg", "x/a.png", "x/a.jpg.bmp"], ["a.jpg-2", "a.png", "a.jpg"]),
        (["a/b-c.jpg", "a-b/c.jpg", "a/b/c.jpg"], ["b-c", "c.jpg-2", "c.jpg-3"]),
        (["x/é.jpg", "x/é.jpg"], None),  # two Unicode forms of one name
        (["x/" + "é" * 120 + ".jpg", "y/" + "é" * 120 + ".jpg"], None),
    ):
        with subtests.test(paths=paths):
            names = drawing_names([Path(path) for path in paths])
            assert len({name.casefold() for name in names}) == len(paths)
            assert max(len(name.encode()) for name in names) < 200
            if expected is not None:
                assert names == expected
