"""Loader processes share the index: what each has for itself does not grow while it goes through a large data set."""

import json
from pathlib import Path

import numpy as np
import pytest

from raydet.config import Config, override
from raydet.data.formats.open_split import open_split
from raydet.data.loading.loader import TrainLoader
from tests.data.loading.test_loader import children
from tests.data.makers import make_image

_IMAGES, _BOXES = 40_000, 25


def private_kb(process: str) -> int:
    """Memory that only this process has, in kilobytes."""
    rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    return sum(int(row.split()[1]) for row in rows if row.startswith(("Private_Clean", "Private_Dirty")))


@pytest.mark.slow
def test_loader_processes_do_not_grow_over_a_million_boxes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "train").mkdir()
    make_image(0, (60, 80)).save(tmp_path / "train" / "0.jpg")
    images, annotations = [], []
    corners = rng.uniform(0, 40, (_IMAGES * _BOXES, 2)).round(2).tolist()
    for i in range(_IMAGES):
        (tmp_path / "train" / f"{i}.jpg").symlink_to("0.jpg") if i else None
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 80, "height": 60})
        for k in range(_BOXES):
            x, y = corners[i * _BOXES + k]
            box = [x, y, 20.0, 15.0]
            annotations.append({"id": len(annotations), "image_id": i, "category_id": 1 + k % 80, "bbox": box})
    classes = [{"id": i, "name": str(i)} for i in range(1, 81)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": classes})
    (tmp_path / "train.json").write_text(text)
    del images, annotations, corners, text
    places = {"data.root": str(tmp_path), "data.train": "train.json", "data.train_images": "train"}
    small = {"data.batch_size": 64, "data.workers": 2, "model.image_size": 64}
    cfg = override(Config(), {**places, **small})
    before = children()
    loader = TrainLoader(cfg, open_split(cfg, "train"))
    try:
        early: dict[str, int] = {}
        for step, _ in enumerate(loader.epoch(0)):
            if step == 40:
                early = {process: private_kb(process) for process in children() - before}
            elif step == 440:
                late = {process: private_kb(process) for process in early}
                break
    finally:
        loader.close()
    assert len(early) == 2
    # 25 600 images, 640 000 boxes later: an index of Python objects would have grown by over 100 MB in each. What
    # pytest holds is shared too and becomes private where a reference is counted: 10 MB after many other tests.
    assert all(late[process] - early[process] < 25_000 for process in early), (early, late)
