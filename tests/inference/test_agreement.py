"""How near two models' answers are: counted as told, in AP with what chance does to it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydet import ops
from raydet.config import Config, override
from raydet.data import Batch, DetectionIndex, EvalLoader, open_split
from raydet.inference.agreement import Agreement, Opened, compare
from raydet.inference.images import held_out, made_up, training_inputs
from raydet.tasks.build import make_task
from raydet.tasks.detection import Detection
from raydet.training.state import build_model, resolve_model

CPU = torch.device("cpu")


class Told(nn.Module):
    """Answers what it was told to, batch after batch."""

    def __init__(self, answers: list[Any]) -> None:
        super().__init__()
        self.answers = iter(answers)

    def forward(self, images_B3HW: Tensor) -> Any:
        return next(self.answers)


class Oracle:
    """Batches of a split, and detections as good as one likes: the truth, some of it moved or left out."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = resolve_model(cfg)
        index = open_split(self.cfg, "val")
        assert isinstance(index, DetectionIndex)
        self.index = index
        task = make_task(self.cfg, build_model(self.cfg, 10), CPU)
        assert isinstance(task, Detection)
        self.task = task
        self.batches: list[Batch] = list(EvalLoader(self.cfg, index))

    def answers(self, seed: int, share: float) -> list[ops.BatchDetections]:
        """Each box found, or with this probability moved off."""
        rng = np.random.default_rng(seed)
        found = []
        for batch in self.batches:
            assert batch.boxes_BM4 is not None and batch.classes_BM is not None
            boxes_BD4, classes_BD = batch.boxes_BM4.clone(), batch.classes_BM.clone()
            off_BD = torch.from_numpy(rng.random(classes_BD.shape) < share)
            boxes_BD4[off_BD] += 500
            counts_B = (classes_BD >= 0).sum(1)
            scores_BD = torch.from_numpy(rng.random(classes_BD.shape).astype(np.float32))
            found.append(ops.BatchDetections(boxes_BD4, scores_BD, classes_BD, counts_B))
        return found

    def logits(self) -> list[tuple[Tensor, Tensor]]:
        anchors = len(self.task.anchors_A4)
        return [(torch.full((len(b), anchors, 10), -9.0), torch.zeros(len(b), anchors, 4)) for b in self.batches]

    def compared(self, answers: list[ops.BatchDetections]) -> Agreement:
        outputs, graph = self.logits(), Told(self.logits())
        (found,) = compare(Told(outputs), [Opened(graph, Told(answers))], self.task, self.index, self.batches)
        return found


@pytest.fixture
def oracle(detection: Config) -> Iterator[Oracle]:
    yield Oracle(override(detection, {"data.batch_size": 4}))


def test_argmax_and_rms_are_those_counted(classification: Config) -> None:
    cfg = resolve_model(classification)
    task = make_task(cfg, build_model(cfg, 10), CPU)
    torch.manual_seed(0)
    ours = [torch.randn(8, 10), torch.randn(4, 10)]
    theirs = [o + 0.1 for o in ours]  # moves all logits alike: no other class
    theirs[1][:3] = -theirs[1][:3]
    batches = made_up(override(cfg, {"data.batch_size": 8}), 12)
    (found,) = compare(Told(list(ours)), [Opened(Told(list(theirs)))], task, None, batches)
    assert (found.images, found.differing, found.ap, found.made_up) == (12, 3, None, True)
    assert found.argmax == pytest.approx(0.75)
    a, b = torch.cat(ours).double(), torch.cat(theirs).double()
    assert found.rms == pytest.approx(float((a - b).square().mean().sqrt() / a.square().mean().sqrt()), rel=1e-6)


def test_the_file_that_detects_is_scored_by_its_own_detections(oracle: Oracle) -> None:
    found = oracle.compared(oracle.answers(0, 0.0))
    assert found.ap == (0.0, pytest.approx(1.0)) and found.rms == 0 and found.differing is None and not found.made_up


@pytest.mark.slow
def test_equal_models_differ_by_nothing_and_not_by_chance(oracle: Oracle) -> None:
    answers = oracle.answers(0, 0.3)
    file = Opened(Told(oracle.logits()), Told(list(answers)))
    (found,) = compare(Told(answers), [file], oracle.task, oracle.index, [])
    assert found.images == 0  # no batch at all
    model = Told(oracle.logits())
    (same,) = compare(model, [Opened(Told(oracle.logits()))], oracle.task, oracle.index, oracle.batches)
    assert same.ap == (0.0, 0.0) and same.ap_chance == 0


def test_chance_is_of_the_size_that_other_images_would_make(oracle: Oracle) -> None:
    """Against a bootstrap of images: the jackknife is rough, but of the same order."""
    answers = oracle.answers(1, 0.4)
    chance = oracle.compared(answers).ap_chance
    rows = [one for answer in answers for one in answer.images()]
    assert len(rows) == len(oracle.index) == 10 and 0.01 < chance < 0.3


def test_unreadable_images_left_out_do_not_shift_the_others(oracle: Oracle) -> None:
    """data.on_bad=skip: fewer images come than the split has rows."""
    answers = oracle.answers(0, 0.0)
    oracle.batches, answers = oracle.batches[1:], answers[1:]
    found = oracle.compared(answers)
    assert found.ap is not None and 0 < found.ap[1] < 1 and found.ap_chance < 1


def test_without_a_box_there_is_no_ap(oracle: Oracle) -> None:
    empty = replace(
        oracle.index, boxes=oracle.index.boxes[:0], labels=oracle.index.labels[:0], first=oracle.index.first * 0
    )
    file = Opened(Told(oracle.logits()))
    (found,) = compare(Told(oracle.logits()), [file], oracle.task, empty, oracle.batches)
    assert found.ap is None and found.ap_chance == 0 and found.images == len(oracle.index)


# --- images


def test_held_out_images_are_spread_over_the_split(classification: Config) -> None:
    cfg = resolve_model(classification)
    with held_out(cfg, 10, needed=True) as images:
        labels = [label for batch in images.batches for label in batch.labels_B.tolist()]  # type: ignore[union-attr]
        assert len(labels) == 10 and len(set(labels)) >= 7  # a folder's come class by class, three of each here
        assert images.index is not None and "10 images of" in images.what


def test_held_out_images_are_as_many_as_there_are(detection: Config) -> None:
    with held_out(resolve_model(detection), 1000, needed=True) as images:
        assert images.index is not None and len(images.index) == 10


def test_training_images_are_those_of_so_many_batches_not_varied(classification: Config) -> None:
    cfg = resolve_model(override(classification, {"quantization.batches": 3, "data.batch_size": 8}))
    task = make_task(cfg, build_model(override(cfg, {"quantization": None}), 10), CPU)
    first, again = (list(training_inputs(cfg, task, needed=True)) for _ in range(2))
    assert [batch.shape for batch in first] == [(8, 3, 64, 64)] * 3
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not list(training_inputs(override(cfg, {"quantization": None}), task, needed=True))
    gone = override(cfg, {"data.root": "/no/such"})
    assert not list(training_inputs(gone, task, needed=False))


def test_made_up_images_are_always_the_same_and_no_two_alike(classification: Config) -> None:
    cfg = override(resolve_model(classification), {"data.batch_size": 4})
    first, again = (torch.cat([batch.images_B3HW for batch in made_up(cfg, 6)]) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (6, 3, 64, 64) and first.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in first}) == 6


def test_a_part_keeps_the_classes(detection: Config) -> None:
    whole = open_split(detection, "val")
    some = whole.select(np.array([3]))
    assert some.class_names == whole.class_names and len(some) == 1
