"""Loader processes share the index: what each has for itself does not grow while it goes through a large data set."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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


def grown_kb(cfg: Config) -> list[tuple[int, int]]:
    """Return each loader process's own memory early in an epoch, and 25 600 images later."""
    before = children()
    loader = TrainLoader(cfg, open_split(cfg, "train"))
    try:
        early: dict[str, int] = {}
        for step, _ in enumerate(loader.epoch(0)):
            if step == 40:
                early = {process: private_kb(process) for process in children() - before}
            elif step == 440:
                return [(kb, private_kb(process)) for process, kb in early.items()]
    finally:
        loader.close()
    raise AssertionError("the epoch has too few steps")


@pytest.mark.soak
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
    # In a new process: of this one's, which has run other tests, loader processes write into whatever lies free.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        grown = pool.submit(grown_kb, cfg).result()
    assert len(grown) == 2
    # 640 000 boxes later an index of Python objects would have grown by over 100 MB in each.
    assert all(late - early < 8_000 for early, late in grown), grown
