"""Images in parquet files: any row, in any order, in any process."""

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet.data.formats.parquet import images
from raydet.data.images.decode import read_rgb
from raydet.data.storage.files import Blob
from raydet.exceptions import DataError
from tests.data.formats.parquet.test_load import load, png, rows, write
from tests.data.makers import make_image


def test_any_order_of_rows_in_any_size_of_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 37
    columns = {
        "image": [png(i, (8, 8)) for i in range(count)],
        "bbox": [[[0.0, 0.0, 4.0, 4.0]]] * count,
        "label": [[0]] * count,
    }
    for group in (1, 5, 100):
        write(tmp_path / f"{group}" / "train.parquet", columns, row_group_size=group)
        for small in (0, 1 << 20):
            monkeypatch.setattr(images, "SMALL", small)
            index = load(tmp_path / f"{group}")
            for i in np.random.default_rng(0).permutation(count).tolist():
                blob = index.image(i)
                assert isinstance(blob, Blob)
                assert blob.data == columns["image"][i]
                assert blob.name.endswith(f"train.parquet/{i}")


def test_many_files_are_not_all_held_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_OPEN", 2)
    for i in range(4):
        write(tmp_path / f"train-{i}.parquet", rows())
    index = load(tmp_path)
    for i in (0, 11, 5, 3, 8, 1):
        assert read_rgb(index.image(i)).tobytes() == make_image(i % 3, (60, 80)).tobytes()
    assert len(index.files._files) == 2  # type: ignore[attr-defined]


def _lengths(files: images.ParquetImages, answers: Any) -> None:
    answers.put([len(files.image(f"train.parquet/{i}").data) for i in range(3)])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_images_are_read_in_other_processes(tmp_path: Path, method: str) -> None:
    write(tmp_path / "train.parquet", rows())
    index = load(tmp_path)
    index.image(0)
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(target=_lengths, args=(index.files, answers))  # type: ignore[attr-defined]
    child.start()
    assert answers.get(timeout=60) == [len(png(i)) for i in range(3)]
    child.join()
    again = pickle.loads(pickle.dumps(index.files))
    assert again.forkable
    assert again.image("train.parquet/1").data == png(1)


@pytest.mark.parametrize(
    "name",
    ["train.parquet/3", "train.parquet/-1", "other.parquet/0", "train.parquet", "../x/0", "/", "train.parquet/²"],
)
def test_names_of_no_row_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "train.parquet", rows())
    files = load(tmp_path).files
    assert not files.exists(name)
    with pytest.raises(DataError, match="no such row"):
        files.image(name)


def test_a_forked_process_opens_the_files_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.parquet", rows())
    index = load(tmp_path)
    opened: list[object] = []
    original = images.open_parquet
    monkeypatch.setattr(images, "open_parquet", lambda path: opened.append(path) or original(path))
    for i in (0, 1, 2):
        index.image(i)
    assert len(opened) == 1
    monkeypatch.setattr("os.getpid", lambda: -1)
    index.image(0)
    assert len(opened) == 2
