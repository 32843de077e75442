"""data.backend=dali-gpu on a GPU: the torch backend's batches, but for what nvJPEG and the GPU's arithmetic round."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raydet.config import Config, override
from raydet.data.formats.open_split import open_split
from raydet.data.images.dali_decoder import installed
from raydet.data.loading.batch import Batch
from raydet.data.loading.batch_dataset import Key, Maker
from raydet.data.loading.dali_gpu import GpuFeed
from raydet.data.loading.samples import EVAL
from raydet.exceptions import DataError
from tests.data.makers import make_image, truth, write_coco
from tests.gpu.marks import NEEDS_GPU

pytestmark = [*NEEDS_GPU, pytest.mark.skipif(not installed(), reason="needs nvidia-dali")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDET_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["detection", "classification"])
def cfg(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """Twelve JPEGs; their views are not shrunk so far that Pillow would decode smaller ones."""
    changes = {"data.root": str(tmp_path), "data.backend": "dali-gpu", "data.workers": 2, "scaling.use_gpu": True}
    if request.param == "detection":
        write_coco(tmp_path, truth(12))
        name = "annotations/instances_train.json"
        changes |= {"data.train": name, "data.val": name, "model.image_size": 128, "augment.scale": (0.7, 1.5)}
        return override(Config(), changes)
    for i in range(12):
        path = tmp_path / "train" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise_HW3 = np.random.default_rng(i).integers(-20, 20, (180, 240, 3)) + np.asarray(make_image(i, (180, 240)))
        Image.fromarray(noise_HW3.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    changes |= {"data.format": "folder", "data.train": "train", "data.val": "train", "model.name": "efficientnet_b0"}
    return override(Config(), {**changes, "model.image_size": 160})


def keys(epoch: int, size: int = 4) -> list[Key]:
    rows = np.arange(12, dtype=np.int64)
    return [(epoch, rows[i : i + size]) for i in range(0, 12, size)]


def by_gpu(cfg: Config, wanted: list[Key]) -> list[Batch]:
    index = open_split(cfg, "train")
    feed = GpuFeed(cfg, index, np.arange(len(index), dtype=np.int64))
    try:
        return sound(list(feed.batches(wanted)))
    finally:
        feed.close()


def sound(batches: list[Batch | DataError]) -> list[Batch]:
    assert not [batch for batch in batches if isinstance(batch, DataError)]
    return [batch for batch in batches if isinstance(batch, Batch)]


def by_torch(cfg: Config, wanted: list[Key]) -> list[Batch]:
    cfg, index = override(cfg, {"data.backend": "torch"}), open_split(cfg, "train")
    maker = Maker(cfg, index, np.arange(len(index), dtype=np.int64))
    return sound([maker[key] for key in wanted])


def compared(one: list[Batch], other: list[Batch]) -> torch.Tensor:
    """Levels between the images; everything else is equal."""
    apart = []
    for a, b in zip(one, other, strict=True):
        for name in ("rows_B", "seeds_B", "labels_B", "boxes_BM4", "classes_BM", "scale_B2", "size_B2"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None and y is None) or torch.equal(x, y), name
        apart.append((a.images_B3HW.cpu().int() - b.images_B3HW.int()).abs())
    return torch.cat(apart).float()


@pytest.mark.parametrize("epoch", [EVAL, 0, 1])
def test_batches_are_the_torch_backends_but_for_rounding(cfg: Config, epoch: int) -> None:
    cfg = override(cfg, {"augment.autoaugment": None})
    apart = compared(by_gpu(cfg, keys(epoch)), by_torch(cfg, keys(epoch)))
    assert apart.mean() < 1.0 and (apart > 8).float().mean() < 0.01


@pytest.mark.parametrize("cfg", ["classification"], indirect=True)
def test_autoaugment_and_jitter_are_the_same_draws(cfg: Config) -> None:
    cfg = override(cfg, {"augment.autoaugment": "imagenet", "augment.color_jitter": 0.4})
    wanted = [key for epoch in range(6) for key in keys(epoch)]
    apart = compared(by_gpu(cfg, wanted), by_torch(cfg, wanted)).mean(dim=(1, 2, 3))
    assert apart.median() < 1.5 and apart.max() < 12


def test_images_lie_on_the_gpu_channels_last(cfg: Config) -> None:
    for batch in by_gpu(cfg, keys(0)):
        assert batch.images_B3HW.is_cuda and batch.images_B3HW.dtype == torch.uint8
        assert batch.images_B3HW.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_is_taken_without_waiting_for_the_gpu(cfg: Config) -> None:
    index = open_split(cfg, "train")
    feed = GpuFeed(cfg, index, np.arange(12, dtype=np.int64))
    passing = feed.batches([key for epoch in range(3) for key in keys(epoch)])
    next(passing)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(sound(list(passing))) == 8
    finally:
        torch.cuda.set_sync_debug_mode("default")
        feed.close()


def test_a_batch_stays_as_it_is_while_later_ones_are_made(cfg: Config) -> None:
    batches = by_gpu(cfg, [key for epoch in range(8) for key in keys(epoch, 2)])
    assert torch.equal(batches[0].images_B3HW, by_gpu(cfg, keys(0, 2))[0].images_B3HW)


def test_a_pass_that_is_left_does_not_disturb_the_next(cfg: Config) -> None:
    expected, index = by_gpu(cfg, keys(0)), open_split(cfg, "train")
    feed = GpuFeed(cfg, index, np.arange(12, dtype=np.int64))
    next(feed.batches(keys(0)))
    again = sound(list(feed.batches(keys(0))))
    feed.close()
    assert all(torch.equal(a.images_B3HW, b.images_B3HW) for a, b in zip(again, expected, strict=True))


@pytest.mark.filterwarnings("ignore:DALI failed")
@pytest.mark.parametrize("how", ["cut", "damaged"])
def test_an_unreadable_image_is_replaced_and_named(cfg: Config, how: str) -> None:
    cfg = override(cfg, {"data.on_bad": "skip", "data.max_bad": 0.5, "augment.autoaugment": None})
    path = sorted((Path(cfg.data.root) / "train").rglob("*.jpg"))[5]
    data = path.read_bytes()
    path.write_bytes(data[:-60] if how == "cut" else data[:300] + b"\0" * 60 + b"\xff\xd9")
    one, other = by_gpu(cfg, keys(0)), by_torch(cfg, keys(0))
    assert compared(one, other).mean() < 1.0
    assert [batch.bad for batch in one] == [batch.bad for batch in other]
    assert any(path.name in name for batch in one for name in batch.bad)
