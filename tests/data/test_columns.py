"""The cache of columns: it changes nothing but the time, follows the file, and may be missing, damaged, read-only."""

import os
from pathlib import Path

import numpy as np
import pytest

from raydet.data import columns
from raydet.data.formats.coco.load import load_coco
from raydet.data.storage.cache import load_columns, save_columns
from raydet.exceptions import DataError
from tests.data.makers import load_content as load
from tests.data.makers import truth
from tests.data.malformed import annotation


def test_second_load_comes_from_the_cache_and_is_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(tmp_path, truth())
    monkeypatch.setattr("raydet.data.formats.coco.load.parse", lambda *_: pytest.fail("parsed again"))
    again = load_coco(first.file, tmp_path / "train")
    assert all(np.array_equal(getattr(first, n), getattr(again, n)) for n in ("ids", "boxes", "labels", "first"))
    assert (again.names.tolist(), again.warnings) == (first.names.tolist(), first.warnings)


def test_changed_file_and_damaged_cache_are_read_anew(tmp_path: Path, own_cache: Path) -> None:
    load(tmp_path, truth())
    assert len(load(tmp_path, truth(4))) == 4
    for held in (own_cache / "index").iterdir():
        held.write_bytes(held.read_bytes()[:200])
    assert len(load(tmp_path, truth(4))) == 4


def test_edit_at_the_end_of_a_long_file_is_noticed_even_with_the_same_size_and_time(tmp_path: Path) -> None:
    content = truth(2000)
    first = load(tmp_path, content)
    before = Path(first.file).stat()
    Path(first.file).write_text(Path(first.file).read_text().replace('"dog"', '"cow"'))
    os.utime(first.file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Path(first.file).stat().st_size == before.st_size > 1 << 17
    assert load_coco(first.file, tmp_path).class_names == ["cat", "cow", "bus"]


def test_nothing_is_written_beside_the_data_and_an_unwritable_cache_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("RAYDET_CACHE", str(blocked))
    load(tmp_path, truth())
    assert sorted(os.listdir(tmp_path)) == ["annotations", "file", "train"]
    assert os.listdir(tmp_path / "annotations") == ["instances_train.json"]


def test_failed_cache_write_leaves_no_file(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(columns.np, "savez", full)
    save_columns("key", {})
    assert list((own_cache / "index").iterdir()) == []


def test_faults_come_from_the_cache_as_they_were(tmp_path: Path, own_cache: Path) -> None:
    content = truth(200)
    annotation(bbox=[1])(content)
    first = load(tmp_path, content, on_bad="skip")
    held = load_columns(next((own_cache / "index").iterdir()).stem)
    assert held is not None
    again = load_coco(first.file, tmp_path / "train", on_bad="skip")
    assert (again.warnings, again.faults.to_dict()) == (first.warnings, first.faults.to_dict())
    assert any("1 of 400 annotations: bbox must be four numbers; annotation 102 ([1])" in w for w in again.warnings)
    with pytest.raises(DataError, match="annotation 102"):
        load_coco(first.file, tmp_path / "train")


def test_cached_faults_name_the_file_as_it_is_given_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = truth()
    annotation(bbox=[1])(content)
    path = Path(load(tmp_path, content, on_bad="skip", max_bad=1.0).file)
    monkeypatch.chdir(path.parent)
    with pytest.raises(DataError, match=r"^instances_train.json: annotation 102: .*; 1 of 6 annotations"):
        load_coco(path.name, tmp_path / "train")
