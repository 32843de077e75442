"""A cache folder of each test's own, and small data sets made once."""

from pathlib import Path

import pytest

from raydet.config import Config, override
from tests.data.makers import make_image, truth, write_coco


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYDET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def coco(tmp_path: Path) -> Config:
    """Eleven images with boxes; batches of 2 in steps of 6."""
    write_coco(tmp_path / "coco", truth(11))
    changes = {
        "data.root": str(tmp_path / "coco"),
        "data.train": "annotations/instances_train.json",
        "data.val": "annotations/instances_train.json",
        "data.batch_size": 2,
        "data.workers": 0,
        "optim.batch_size": 6,
        "model.image_size": 64,
        "augment.scale": (0.5, 1.5),
    }
    return override(Config(), changes)


@pytest.fixture
def folders(tmp_path: Path) -> Config:
    """Three classes of four images, varied in every way there is."""
    for c, name in enumerate(("ant", "bee", "cow")):
        (tmp_path / "folders" / "train" / name).mkdir(parents=True)
        for i in range(4):
            make_image(10 * c + i, (50, 70)).save(tmp_path / "folders" / "train" / name / f"{i}.png")
    changes = {
        "model.name": "efficientnet_b0",
        "data.format": "folder",
        "data.root": str(tmp_path / "folders"),
        "data.train": "train",
        "data.val": "train",
        "data.batch_size": 2,
        "data.workers": 0,
        "optim.batch_size": 6,
        "model.image_size": 32,
        "augment.autoaugment": "imagenet",
        "augment.color_jitter": 0.4,
    }
    return override(Config(), changes)
