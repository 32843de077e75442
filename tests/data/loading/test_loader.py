"""Loaders: the same images whatever the ranks and processes, exact resuming, and unreadable files."""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raydet.config import Config, override
from raydet.data.columns import Ints
from raydet.data.formats.index import DetectionIndex, Index
from raydet.data.formats.open_split import open_split
from raydet.data.loading.batch import Batch
from raydet.data.loading.loader import EvalLoader, TrainLoader
from raydet.data.storage.files import Files, Source
from raydet.exceptions import DataError


@contextmanager
def training(cfg: Config, rank: int = 0, world: int = 1) -> Iterator[TrainLoader]:
    loader = TrainLoader(cfg, open_split(cfg, "train"), rank, world)
    try:
        yield loader
    finally:
        loader.close()


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def prints(batches: list[Batch]) -> list[str]:
    """One hash a sample, over everything it holds but padding."""
    found = []
    for batch in batches:
        for i in range(len(batch)):
            parts = [batch.images_B3HW[i], batch.rows_B[i], batch.seeds_B[i]]
            if batch.labels_B is not None:
                parts.append(batch.labels_B[i])
            if batch.boxes_BM4 is not None and batch.classes_BM is not None:
                real_M = batch.classes_BM[i] >= 0
                parts += [batch.boxes_BM4[i][real_M], batch.classes_BM[i][real_M]]
            found.append(hashlib.sha256(b"".join(p.contiguous().numpy().tobytes() for p in parts)).hexdigest())
    return found


def epoch_prints(cfg: Config, world: int, epoch: int, first_step: int = 0) -> list[list[str]]:
    """Per step the samples' hashes in global order."""
    ranks = []
    for rank in range(world):
        with training(cfg, rank, world) as loader:
            ranks.append([prints(step) for step in loader.epoch(epoch, first_step)])
    return [[one for part in parts for one in part] for parts in zip(*ranks, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "dali-cpu"])
@pytest.mark.parametrize("task", ["coco", "folders"])
def test_images_are_the_same_for_any_ranks_loader_processes_and_backends(
    task: str, backend: str, request: pytest.FixtureRequest
) -> None:
    cfg: Config = request.getfixturevalue(task)
    expected = epoch_prints(cfg, 1, 2)
    cfg = override(cfg, {"data.backend": backend})
    assert epoch_prints(cfg, 1, 2) == expected
    assert len(expected) == 2 and all(len(step) == 6 for step in expected)
    for world in (2, 3):
        assert epoch_prints(cfg, world, 2) == expected
    assert epoch_prints(override(cfg, {"data.workers": 1}), 1, 2) == expected
    assert epoch_prints(override(cfg, {"data.workers": 2}), 3, 2) == expected
    assert epoch_prints(cfg, 1, 3) != expected


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "dali-cpu"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_within_an_epoch_gives_the_undisturbed_rest(coco: Config, workers: int, backend: str) -> None:
    cfg = override(coco, {"data.workers": workers, "optim.batch_size": 4, "data.backend": backend})
    whole = epoch_prints(cfg, 1, 1)
    assert epoch_prints(cfg, 1, 1, first_step=1) == whole[1:]


def test_an_epoch_that_was_left_early_does_not_disturb_the_next(coco: Config) -> None:
    cfg = override(coco, {"data.workers": 2})
    with training(cfg) as loader:
        next(loader.epoch(0))
        got = [prints(step) for step in loader.epoch(1)]
        assert got == epoch_prints(coco, 1, 1)


def test_batches_are_bytes_in_channels_last_with_padded_truth(coco: Config) -> None:
    with training(coco) as loader:
        steps = list(loader.epoch(0))
    assert (loader.steps_per_epoch, [len(step) for step in steps]) == (2, [3, 3])
    batch = steps[0][0]
    assert (batch.images_B3HW.dtype, batch.images_B3HW.shape) == (torch.uint8, (2, 3, 64, 64))
    assert batch.images_B3HW.is_contiguous(memory_format=torch.channels_last)
    assert batch.boxes_BM4 is not None and batch.classes_BM is not None and batch.labels_B is None
    empty_BM = batch.classes_BM < 0
    assert (batch.boxes_BM4[empty_BM] == 0).all() and batch.boxes_BM4.dtype == torch.float32
    assert batch.seeds_B.dtype == torch.int64 and (batch.seeds_B >= 0).all()
    with training(override(coco, {"data.max_boxes": 7})) as loader:
        assert all(b.boxes_BM4.shape == (2, 7, 4) for step in loader.epoch(0) for b in step)


def test_no_box_in_a_batch_still_pads_to_one(coco: Config) -> None:
    index = open_split(coco, "val")
    index.crowd[:] = True
    batch = next(iter(EvalLoader(coco, index)))
    assert batch.boxes_BM4.shape == (2, 1, 4)
    assert (batch.classes_BM == -1).all()


def test_batch_moves_as_a_whole(folders: Config) -> None:
    with training(folders) as loader:
        batch = next(loader.epoch(0))[0].to("meta")
    assert {batch.images_B3HW.device.type, batch.labels_B.device.type, batch.rows_B.device.type} == {"meta"}
    assert batch.boxes_BM4 is None


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_shows_each_row_once_over_all_ranks(coco: Config, workers: int) -> None:
    cfg = override(coco, {"data.workers": workers, "data.eval_batch_size": 3})
    index = open_split(cfg, "val")
    rows: list[int] = []
    for rank in range(2):
        loader = EvalLoader(cfg, index, rank, 2)
        batches = list(loader)
        assert len(batches) == len(loader) == 2
        assert [prints([b]) for b in loader] == [prints([b]) for b in batches]
        rows += [int(row) for batch in batches for row in batch.rows_B]
        assert batches[0].scale_B2[0].tolist() == pytest.approx([0.8, 0.8])
        assert batches[0].size_B2[0].tolist() == [80, 60]
        loader.close()
    assert sorted(rows) == list(range(11))


def test_more_ranks_than_images_leaves_some_without(coco: Config) -> None:
    assert list(EvalLoader(coco, open_split(coco, "val"), 12, 13)) == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_reaches_the_caller_as_it_is(coco: Config, workers: int) -> None:
    cfg = override(coco, {"data.workers": workers})
    bad = open_split(cfg, "train").image(4)
    bad.write_bytes(b"")
    before = children()
    loader = TrainLoader(cfg, open_split(cfg, "train"))
    with pytest.raises(DataError) as caught:
        list(loader.epoch(0))
    assert children() == before
    assert str(caught.value) == f"{bad}: is empty (IMG-E02)"
    with pytest.raises(DataError, match="is empty"):
        list(EvalLoader(cfg, open_split(cfg, "val")))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_replaced_by_the_next_and_named(coco: Config, workers: int) -> None:
    cfg = override(coco, {"data.workers": workers, "data.on_bad": "skip", "data.max_bad": 0.2})
    index = open_split(cfg, "train")
    for row in (4, 10):
        index.image(row).write_bytes(b"no image")
    with training(cfg) as loader:
        rows = [int(row) for step in loader.epoch(0) for batch in step for row in batch.rows_B]
        assert loader.bad.keys() == {"4.jpg", "10.jpg"}
        assert "text, not an image" in loader.bad["4.jpg"]
    assert len(rows) == 12
    assert {4, 10} & set(rows) == set()
    assert rows.count(5) >= 2 and rows.count(0) >= 2
    loader = EvalLoader(cfg, index)
    assert sorted(int(row) for batch in loader for row in batch.rows_B) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert set(loader.bad) == {"4.jpg", "10.jpg"}
    loader.close()


def test_too_many_unreadable_images_end_the_run(coco: Config) -> None:
    cfg = override(coco, {"data.on_bad": "skip", "data.max_bad": 0.1})
    index = open_split(cfg, "train")
    for row in (4, 5):
        index.image(row).write_bytes(b"no image")
    with training(cfg) as loader, pytest.raises(DataError, match=r"2 of 11 images are unreadable.*\(IMG-E07\)"):
        list(loader.epoch(0))


def test_no_readable_image_at_all_ends_too(coco: Config) -> None:
    cfg = override(coco, {"data.on_bad": "skip", "data.max_bad": 1.0})
    index = open_split(cfg, "train")
    for row in range(11):
        index.image(row).write_bytes(b"no image")
    with training(cfg) as loader, pytest.raises(DataError, match="none of 11 images can be read"):
        list(loader.epoch(0))


def test_close_ends_the_loader_processes(coco: Config) -> None:
    before = children()
    with training(override(coco, {"data.workers": 2})) as loader:
        list(loader.epoch(0))
        assert len(children() - before) == 2
        held = loader.epoch(1)
        next(held)
    assert children() - before == set()


def test_closed_loader_starts_anew(coco: Config) -> None:
    with training(override(coco, {"data.workers": 1})) as loader:
        first = [prints(step) for step in loader.epoch(0)]
        loader.close()
        assert [prints(step) for step in loader.epoch(0)] == first


def test_loading_leaves_torchs_generator_alone(folders: Config) -> None:
    for workers in (0, 1):
        before = torch.get_rng_state()
        with training(override(folders, {"data.workers": workers})) as loader:
            list(loader.epoch(0))
        assert torch.equal(before, torch.get_rng_state())


def test_unresolved_image_size_is_refused_at_once(coco: Config) -> None:
    cfg = override(coco, {"model.image_size": None})
    with pytest.raises(ValueError, match="image_size"):
        TrainLoader(cfg, open_split(cfg, "train"))


def test_dali_really_decodes_and_shows_what_pillow_shows(coco: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from raydet.data.loading import batch_dataset

    cfg = override(coco, {"augment.scale": (0.7, 2.0)})  # below 0.5 Pillow decodes smaller images faster
    expected = epoch_prints(cfg, 1, 0)
    by_pillow = []
    monkeypatch.setattr(batch_dataset, "sample", lambda *a: by_pillow.append(a))
    assert epoch_prints(override(cfg, {"data.backend": "dali-cpu"}), 1, 0) == expected
    assert by_pillow == []


@pytest.mark.parametrize("on_bad", ["fail", "skip"])
def test_a_file_that_dali_cannot_decode_is_told_or_replaced_as_ever(coco: Config, on_bad: str) -> None:
    index = open_split(coco, "train")
    path = Path(str(index.image(4)))
    path.write_bytes(path.read_bytes()[:700])
    changes = {"data.on_bad": on_bad, "data.max_bad": 0.2, "data.backend": "dali-cpu"}
    cfg = override(coco, changes)
    if on_bad == "fail":
        with training(cfg) as loader, pytest.raises(DataError, match=r"4\.jpg: is cut short"):
            list(loader.epoch(0))
        return
    assert epoch_prints(cfg, 1, 0) == epoch_prints(override(cfg, {"data.backend": "torch"}), 1, 0)


@pytest.mark.parametrize("backend", ["torch", "dali-cpu"])
def test_evaluation_images_are_the_same_by_either_backend(coco: Config, folders: Config, backend: str) -> None:
    for cfg in (coco, folders):
        expected = [prints([batch]) for batch in EvalLoader(cfg, open_split(cfg, "val"))]
        one = override(cfg, {"data.backend": backend})
        assert [prints([batch]) for batch in EvalLoader(one, open_split(one, "val"))] == expected


class Together:
    """A store that answers only when three ask at the same time."""

    forkable, at_once, place = True, 3, "far away"

    def __init__(self, files: Files) -> None:
        self._files, self._gate = files, threading.Barrier(3)

    def image(self, name: str) -> Source:
        self._gate.wait(timeout=20)
        return self._files.image(name)


@pytest.mark.parametrize("backend", ["torch", "dali-cpu"])
def test_images_of_a_far_store_are_asked_for_together(coco: Config, backend: str) -> None:
    cfg = override(coco, {"data.batch_size": 3, "optim.batch_size": 3, "data.backend": backend})
    index = open_split(cfg, "train")
    assert isinstance(index, DetectionIndex)
    expected = [prints(step) for step in TrainLoader(cfg, index).epoch(0)]
    loader = TrainLoader(cfg, replace(index, files=Together(index.files)))
    assert [prints(step) for step in loader.epoch(0)] == expected


def test_of_images_asked_for_together_a_missing_one_is_told(coco: Config) -> None:
    class Silent(Together):
        def image(self, name: str) -> Source:
            raise DataError("does not answer", file=name, rule="IMG-E01")

    index = open_split(coco, "train")
    assert isinstance(index, DetectionIndex)
    with pytest.raises(DataError, match=r"\.jpg: does not answer"):
        next(TrainLoader(coco, replace(index, files=Silent(index.files))).epoch(0))


@pytest.mark.slow
def test_the_loaders_hand_dali_gpu_its_keys_and_close_it(coco: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of the GPU, run on the CPU: what is tested is how loaders and feed fit together."""
    from raydet.data.loading import loader as module
    from raydet.data.loading.dali_gpu import GpuFeed

    closed = []

    class OnCpu(GpuFeed):
        def __init__(self, cfg: Config, index: Index, rows: Ints) -> None:
            super().__init__(cfg, index, rows, device="cpu")

        def close(self) -> None:
            closed.append(self)
            super().close()

    monkeypatch.setattr(module, "GpuFeed", OnCpu)
    bad = open_split(coco, "train").image(4)
    Path(str(bad)).write_bytes(b"no image")
    skip = override(coco, {"data.on_bad": "skip", "data.max_bad": 0.2})
    cfg = override(skip, {"data.backend": "dali-gpu", "scaling.use_gpu": True})
    index = open_split(cfg, "train")
    with training(skip) as torch_loader, training(cfg) as loader:
        for epoch, first_step in ((0, 0), (1, 1)):
            theirs = [b for step in torch_loader.epoch(epoch, first_step) for b in step]
            ours = [b for step in loader.epoch(epoch, first_step) for b in step]
            assert [b.rows_B.tolist() for b in ours] == [b.rows_B.tolist() for b in theirs]
            far = max(
                (a.images_B3HW.int() - b.images_B3HW.int()).abs().max() for a, b in zip(ours, theirs, strict=True)
            )
            assert far <= 40  # small views, which Pillow decodes at a half, differ at single pixels
        assert loader.bad == torch_loader.bad and set(loader.bad) == {"4.jpg"}
    evaluation = EvalLoader(cfg, index)
    assert sorted(int(row) for batch in evaluation for row in batch.rows_B) == [0, 1, 2, 3, *range(5, 11)]
    evaluation.close()
    assert len(closed) == 2
    with (
        training(override(cfg, {"data.on_bad": "fail"})) as loader,
        pytest.raises(DataError, match="text, not an image"),
    ):
        list(loader.epoch(0))
