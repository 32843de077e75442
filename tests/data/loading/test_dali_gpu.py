"""The batches of data.backend=dali-gpu, its graph run on the CPU: the torch backend's but for a level in the pixels."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raydet.config import Config, override
from raydet.data.columns import Ints
from raydet.data.formats.index import Index
from raydet.data.formats.open_split import open_split
from raydet.data.images.dali_decoder import installed
from raydet.data.images.dali_inputs import DecodeJob, Shape, feed
from raydet.data.loading import dali_gpu
from raydet.data.loading.batch import Batch
from raydet.data.loading.batch_dataset import Key, Maker
from raydet.data.loading.dali_gpu import GpuFeed
from raydet.data.loading.sampler import EpochSampler, eval_shard
from raydet.data.loading.samples import EVAL
from raydet.exceptions import DataError
from tests.data.makers import make_image

pytestmark = pytest.mark.skipif(not installed(), reason="needs nvidia-dali")
without_failure = pytest.mark.filterwarnings("error:DALI failed")
_PLAIN = {"augment.autoaugment": None, "augment.color_jitter": 0.0}


@pytest.fixture
def folders(folders: Config) -> Config:
    """The classes as JPEG, with detail at every scale."""
    for i, path in enumerate(sorted(Path(folders.data.root).glob("train/*/*.png"))):
        noise_HW3 = np.random.default_rng(i).integers(-30, 30, (50, 70, 3)) + np.asarray(Image.open(path))
        Image.fromarray(noise_HW3.clip(0, 255).astype(np.uint8)).save(path.with_suffix(".jpg"), quality=90)
        path.unlink()
    return folders


@contextmanager
def feeding(cfg: Config, index: Index) -> Iterator[GpuFeed]:
    feed = GpuFeed(cfg, index, rows_of(cfg, index), device="cpu")
    try:
        yield feed
    finally:
        feed.close()


def rows_of(cfg: Config, index: Index) -> Ints:
    return np.arange(len(index), dtype=np.int64)


def training_keys(cfg: Config, rank: int = 0, world: int = 1, epoch: int = 1, first_step: int = 0) -> list[Key]:
    rows = np.arange(len(open_split(cfg, "train")), dtype=np.int64)
    sampler = EpochSampler(rows, cfg.run.seed, cfg.global_batch, cfg.data.batch_size, rank, world)
    return [(epoch, part) for step in sampler.batches(epoch, first_step) for part in step]


def eval_keys(cfg: Config) -> list[Key]:
    rows = np.array(eval_shard(len(open_split(cfg, "train")), 0, 1), np.int64)
    return [(EVAL, rows[i : i + 4]) for i in range(0, len(rows), 4)]


def by_graph(cfg: Config, keys: list[Key]) -> list[Batch]:
    with feeding(cfg, open_split(cfg, "train")) as feed:
        return sound(feed.batches(keys))


def by_torch(cfg: Config, keys: list[Key]) -> list[Batch]:
    index = open_split(cfg, "train")
    return sound(iter([Maker(cfg, index, rows_of(cfg, index))[key] for key in keys]))


def sound(batches: Iterator[Batch | DataError]) -> list[Batch]:
    found = []
    for batch in batches:
        assert isinstance(batch, Batch), batch
        found.append(batch)
    return found


def levels(one: list[Batch], other: list[Batch]) -> torch.Tensor:
    pairs = zip(one, other, strict=True)
    return torch.cat([(a.images_B3HW.int() - b.images_B3HW.int()).abs() for a, b in pairs])


def same_but_pixels(one: list[Batch], other: list[Batch]) -> bool:
    names = ("rows_B", "seeds_B", "labels_B", "boxes_BM4", "classes_BM", "scale_B2", "size_B2")
    for a, b in zip(one, other, strict=True):
        for name in names:
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None), name
            assert x is None or torch.equal(x, y), name
    return True


def order_hash(batches: list[Batch]) -> str:
    return hashlib.sha256(torch.cat([batch.rows_B for batch in batches]).numpy().tobytes()).hexdigest()


@pytest.mark.slow
@without_failure
@pytest.mark.parametrize("task", ["coco", "folders"])
def test_evaluation_is_the_torch_backends_but_for_a_level(task: str, request: pytest.FixtureRequest) -> None:
    cfg: Config = request.getfixturevalue(task)
    keys = eval_keys(cfg)
    one, other = by_graph(cfg, keys), by_torch(cfg, keys)
    assert same_but_pixels(one, other)
    assert levels(one, other).max() <= 1


@pytest.mark.slow
@without_failure
@pytest.mark.parametrize("task", ["coco", "folders"])
def test_training_windows_are_the_torch_backends_but_for_a_level(task: str, request: pytest.FixtureRequest) -> None:
    # Not at half size and below, where Pillow decodes a smaller image.
    cfg = override(request.getfixturevalue(task), {**_PLAIN, "augment.scale": (0.7, 2.0)})
    keys = training_keys(cfg)
    one, other = by_graph(cfg, keys), by_torch(cfg, keys)
    assert same_but_pixels(one, other)
    found = levels(one, other)
    assert found.max() <= 1 and found.float().mean() < 0.3
    assert any(batch.images_B3HW.float().std() > 10 for batch in one)


def test_bicubic_images_differ_little(folders: Config) -> None:
    cfg = override(folders, {**_PLAIN, "augment.interpolation": "bicubic"})
    for keys in (training_keys(cfg), eval_keys(cfg)):
        found = levels(by_graph(cfg, keys), by_torch(cfg, keys))
        assert found.max() <= 12 and found.float().mean() < 0.3  # torch cuts overshoots to 8 bits after each axis


@pytest.mark.slow
@without_failure
def test_autoaugment_and_jitter_are_the_same_draws(folders: Config) -> None:
    cfg = override(folders, {"model.image_size": 160})  # Pillow equalizes small images coarsely
    keys = [key for epoch in range(4) for key in training_keys(cfg, epoch=epoch)]
    found = levels(by_graph(cfg, keys), by_torch(cfg, keys)).float().mean(dim=(1, 2, 3))
    assert len(found) == 48
    assert found.median() < 0.5 and found.max() < 3


@pytest.mark.slow
def test_images_do_not_depend_on_what_else_is_in_the_batch(folders: Config) -> None:
    cfg = override(folders, {"data.batch_size": 6})
    whole, parts = by_graph(cfg, training_keys(cfg)), by_graph(folders, training_keys(folders))
    assert torch.equal(torch.cat([b.images_B3HW for b in whole]), torch.cat([b.images_B3HW for b in parts]))


@pytest.mark.parametrize("world", [2, 3])
def test_the_order_is_the_same_for_any_ranks(coco: Config, world: int) -> None:
    expected = by_graph(coco, training_keys(coco))
    ranks = [by_graph(coco, training_keys(coco, rank, world)) for rank in range(world)]
    steps, micro = 2, [len(rank) // 2 for rank in ranks]
    merged = [b for s in range(steps) for rank, m in zip(ranks, micro, strict=True) for b in rank[s * m : (s + 1) * m]]
    assert order_hash(merged) == order_hash(expected)
    assert order_hash(expected) == order_hash(by_torch(coco, training_keys(coco)))
    one, other = (torch.cat([b.images_B3HW for b in batches]) for batches in (merged, expected))
    assert torch.equal(one, other)


@pytest.mark.slow
def test_a_pass_can_begin_in_the_middle_of_an_epoch(folders: Config) -> None:
    whole = by_graph(folders, training_keys(folders))
    rest = by_graph(folders, training_keys(folders, first_step=1))
    assert torch.equal(torch.cat([b.images_B3HW for b in whole[3:]]), torch.cat([b.images_B3HW for b in rest]))


@without_failure
def test_a_pass_that_is_left_in_the_middle_does_not_disturb_the_next(coco: Config) -> None:
    keys = training_keys(coco)
    with feeding(coco, open_split(coco, "train")) as feed:
        expected = sound(feed.batches(keys))
        for taken in range(3):
            leaving = feed.batches(keys)
            for _ in range(taken):
                next(leaving)
            again = sound(feed.batches(keys))
            assert all(torch.equal(a.images_B3HW, b.images_B3HW) for a, b in zip(again, expected, strict=True))
        feed.close()
        feed.close()
        assert len(sound(feed.batches(keys))) == len(keys)
        assert list(feed.batches([])) == []


@without_failure
def test_batches_of_a_pass_may_grow(coco: Config) -> None:
    keys: list[Key] = [(EVAL, np.arange(n, dtype=np.int64)) for n in (1, 5, 2, 11)]
    one, other = by_graph(coco, keys), by_torch(coco, keys)
    assert same_but_pixels(one, other) and levels(one, other).max() <= 1


def test_a_graph_that_takes_no_batch_costs_no_image(coco: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    fed = 0

    def third_fails(pipeline: Any, shape: Shape, works: list[DecodeJob]) -> None:
        nonlocal fed
        fed += 1
        if fed == 3:
            raise RuntimeError("Error in the pipeline:\nout of memory")
        feed(pipeline, shape, works)

    expected = by_torch(coco, eval_keys(coco) * 2)
    monkeypatch.setattr(dali_gpu, "feed", third_fails)
    with pytest.warns(RuntimeWarning, match="made by Pillow: out of memory"):
        found = by_graph(coco, eval_keys(coco) * 2)
    assert same_but_pixels(found, expected) and levels(found, expected).max() <= 1


def test_memory_is_channels_last(coco: Config) -> None:
    for batch in by_graph(coco, eval_keys(coco)):
        assert batch.images_B3HW.dtype == torch.uint8
        assert batch.images_B3HW.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("form", ["PNG", "CMYK", "BMP"])
def test_what_the_graph_does_not_take_is_made_by_pillow(folders: Config, form: str) -> None:
    paths = sorted(Path(folders.data.root).glob("train/*/*.jpg"))
    for path in paths[::3]:
        image = Image.open(path)
        image.load()
        image.convert("CMYK").save(path, "JPEG") if form == "CMYK" else image.save(path, form)
    keys = eval_keys(folders)
    one, other = by_graph(folders, keys), by_torch(folders, keys)
    assert same_but_pixels(one, other)
    found = levels(one, other).amax(dim=(1, 2, 3))
    assert found.max() <= 1 and found[::3].max() == 0


def spoil(cfg: Config, how: str) -> Path:
    path = sorted(Path(cfg.data.root).glob("train/**/*.jpg"))[5]
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-60], "text": b"no image", "end": data[:300] + b"\0" * 60 + b"\xff\xd9"}[how])
    return path


@pytest.mark.filterwarnings("ignore:DALI failed")
@pytest.mark.parametrize("how", ["cut", "text", "end"])
@pytest.mark.parametrize("task", ["coco", "folders"])
def test_an_unreadable_image_is_replaced_and_named(task: str, how: str, request: pytest.FixtureRequest) -> None:
    changes = {"data.on_bad": "skip", "data.max_bad": 0.5, "augment.scale": (0.7, 1.5), **_PLAIN}
    cfg = override(request.getfixturevalue(task), changes)
    path = spoil(cfg, how)
    keys = training_keys(cfg)
    one, other = by_graph(cfg, keys), by_torch(cfg, keys)
    assert same_but_pixels(one, other)
    assert [batch.bad for batch in one] == [batch.bad for batch in other]
    assert any(path.name in name for batch in one for name in batch.bad)
    assert levels(one, other).max() <= 1


@pytest.mark.filterwarnings("ignore:DALI failed")
@pytest.mark.parametrize("how", ["cut", "text", "end"])
def test_evaluation_leaves_an_unreadable_image_out(coco: Config, how: str) -> None:
    cfg = override(coco, {"data.on_bad": "skip"})
    spoil(cfg, how)
    one, other = by_graph(cfg, eval_keys(cfg)), by_torch(cfg, eval_keys(cfg))
    assert sum(map(len, one)) == 10
    assert same_but_pixels(one, other) and levels(one, other).max() <= 1


@pytest.mark.filterwarnings("ignore:DALI failed")
@pytest.mark.parametrize("how", ["cut", "text", "end"])
def test_an_unreadable_image_ends_the_run_by_name_if_it_is_to(coco: Config, how: str) -> None:
    path = spoil(coco, how)
    with feeding(coco, open_split(coco, "train")) as feed:
        found = list(feed.batches(eval_keys(coco)))
    assert isinstance(found[0], Batch) and isinstance(found[1], DataError) and isinstance(found[2], Batch)
    assert path.name in str(found[1])


def test_a_image_that_only_dali_refuses_costs_no_image(coco: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_torch(coco, eval_keys(coco))
    refused = sorted(Path(coco.data.root).glob("train/*.jpg"))[5].read_bytes()

    def mangled(pipeline: Any, shape: Shape, works: list[DecodeJob]) -> None:
        feed(pipeline, shape, [replace(w, encoded=b"\xff\xd8x") if w.encoded == refused else w for w in works])

    monkeypatch.setattr(dali_gpu, "feed", mangled)
    with pytest.warns(RuntimeWarning, match="DALI failed, the batches it had are made by Pillow: "):
        found = by_graph(coco, eval_keys(coco))
    assert same_but_pixels(found, expected) and levels(found, expected).max() <= 1


@without_failure
def test_tiny_and_long_images_pass(coco: Config) -> None:
    index = open_split(coco, "train")
    with feeding(coco, index) as feed:
        assert len(sound(feed.batches(training_keys(coco)))) == 6
    for name, hw in {"ant/0.jpg": (1, 1), "ant/1.jpg": (1, 300), "ant/2.jpg": (400, 2), "ant/3.jpg": (3, 5)}.items():
        path = Path(coco.data.root) / "few" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_image(1, hw).save(path)
    changes = {"data.format": "folder", "data.train": "few", "data.val": "few", "model.name": "efficientnet_b0"}
    cfg = override(coco, {**changes, "model.image_size": 32})
    keys = [*eval_keys(cfg)]
    assert levels(by_graph(cfg, keys), by_torch(cfg, keys)).max() <= 1
    keys = [(epoch, np.arange(4)) for epoch in range(3)]
    assert levels(by_graph(cfg, keys), by_torch(cfg, keys)).max() <= 1
