"""What a batch becomes and what it costs, against plain definitions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raydet.bench.step import ours, synthetic
from raydet.config import Config, override
from raydet.data import Batch, EvalLoader, open_split
from raydet.distributed import WorkerGroup
from raydet.models import EfficientDet
from raydet.ops import ImageDetections
from raydet.tasks.base import MEAN, STD
from raydet.tasks.build import make_task, score_name
from raydet.tasks.classification import Classification
from raydet.tasks.detection import Detection, to_file_pixels
from raydet.training.scoring import score
from raydet.training.state import build_model, resolve_model

CPU = torch.device("cpu")


def batch_of(size: int = 4, side: int = 64, seed: int = 0) -> Batch:
    data = synthetic(size, side, 10, seed)
    return Batch(
        images_B3HW=data.images_B3HW,
        rows_B=torch.arange(size),
        seeds_B=torch.arange(size),
        labels_B=data.classes_BM[:, 0],
        boxes_BM4=data.boxes_BM4,
        classes_BM=data.classes_BM,
    )


def task_of(cfg: Config) -> Detection | Classification:
    cfg = resolve_model(cfg)
    return make_task(cfg, build_model(cfg, 10), CPU)


def test_inputs_are_normalised_by_imagenets_statistics(classification: Config) -> None:
    batch = batch_of()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    expected = (batch.images_B3HW.double() / 255 - mean) / std
    torch.testing.assert_close(task_of(classification).inputs(batch).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layout", "form"), [("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)]
)
def test_inputs_have_the_configured_layout(classification: Config, layout: str, form: torch.memory_format) -> None:
    task = task_of(override(classification, {"precision.memory_format": layout}))
    assert task.inputs(batch_of()).is_contiguous(memory_format=form)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [None, 2.0])
def test_anchors_have_the_configured_scale_or_the_variant_s(scale: float | None, detection: Config) -> None:
    cfg = resolve_model(override(detection, {"model.anchor_scale": scale}))
    model = build_model(cfg, 10)
    task = make_task(cfg, model, CPU)
    assert isinstance(task, Detection) and isinstance(model, EfficientDet)
    y0, x0, y1, x1 = task.anchors_A4[0].tolist()
    stride = 2**model.min_level
    assert y1 - y0 == x1 - x0 == pytest.approx((scale or 3.0) * stride)


def test_the_detection_loss_is_effdets_total(detection: Config) -> None:
    """(class loss + 50 x box loss) / (positives of the whole batch + 1), arXiv:1911.09070 and effdet's loss.py."""
    task = task_of(detection)
    assert isinstance(task, Detection)
    targets = task.targets(batch_of())
    torch.manual_seed(0)
    logits_BAC, codes_BA4 = torch.randn(4, *task.anchors_A4.shape[:1], 10), torch.randn(4, *task.anchors_A4.shape)
    total, class_loss, box_loss = task.loss((logits_BAC, codes_BA4), targets, task.weight(targets))
    hit = F.one_hot(targets.labels_BA.clamp(min=0), 10) * (targets.labels_BA >= 0).unsqueeze(-1)
    p = logits_BAC.sigmoid()
    right = torch.where(hit.bool(), p, 1 - p)
    focal = -torch.where(hit.bool(), 0.25, 0.75) * (1 - right) ** 1.5 * right.log()
    positives = targets.positives_B.sum() + 1
    torch.testing.assert_close(class_loss, focal.sum() / positives, rtol=1e-4, atol=0)
    huber = F.huber_loss(codes_BA4, targets.codes_BA4, reduction="none", delta=0.1) * (targets.codes_BA4 != 0)
    torch.testing.assert_close(box_loss, huber.sum() / 4 / positives, rtol=1e-4, atol=0)
    torch.testing.assert_close(total, class_loss + 50 * box_loss)


def test_shares_of_a_batch_add_up_to_the_whole(detection: Config) -> None:
    task = task_of(detection)
    assert isinstance(task, Detection)
    whole = batch_of()
    outputs = (torch.randn(4, *task.anchors_A4.shape[:1], 10), torch.randn(4, *task.anchors_A4.shape))
    targets = task.targets(whole)
    total = task.loss(outputs, targets, task.weight(targets))
    parts = torch.zeros(3)
    for i in range(4):
        one = type(targets)(*(t[i : i + 1] for t in targets))
        parts += task.loss((outputs[0][i : i + 1], outputs[1][i : i + 1]), one, task.weight(targets))
    torch.testing.assert_close(parts, total, rtol=1e-5, atol=0)


def test_a_batch_without_boxes_has_a_finite_loss(detection: Config) -> None:
    task, batch = task_of(detection), batch_of()
    assert isinstance(task, Detection) and batch.classes_BM is not None
    batch.classes_BM.fill_(-1)
    targets = task.targets(batch)
    outputs = (torch.zeros(4, *task.anchors_A4.shape[:1], 10), torch.zeros(4, *task.anchors_A4.shape))
    losses = task.loss(outputs, targets, task.weight(targets))
    assert losses.isfinite().all() and losses[2] == 0 and losses[1] > 0


def test_soft_suppression_is_a_setting(detection: Config) -> None:
    torch.manual_seed(0)
    found = []
    for sigma in (None, 0.5):
        task = task_of(override(detection, {"evaluation.soft_nms_sigma": sigma, "evaluation.nms_iou": 0.1}))
        assert isinstance(task, Detection)
        logits_BAC = torch.full((1, len(task.anchors_A4), 10), -9.0)
        logits_BAC[0, 80:89, 3] = torch.linspace(1, 2, 9)  # all anchors of one place
        (one,) = task.detect((logits_BAC, torch.zeros(1, len(task.anchors_A4), 4)))
        found.append(one.scores_K[one.scores_K > 0.05])
    assert len(found[0]) < len(found[1]) and found[0][0] == found[1][0] > 0.8
    assert (found[1][1:] < found[1][0]).all()


def test_the_classification_loss_is_smoothed_cross_entropy(classification: Config) -> None:
    task = task_of(override(classification, {"loss.label_smoothing": 0.1}))
    batch, logits_BC = batch_of(), torch.randn(4, 10)
    assert batch.labels_B is not None
    targets = task.targets(batch)
    (loss,) = task.loss(logits_BC, targets, task.weight(targets))
    torch.testing.assert_close(loss, F.cross_entropy(logits_BC, batch.labels_B, label_smoothing=0.1))


def test_mixup_mixes_images_and_targets_alike(classification: Config) -> None:
    task = task_of(override(classification, {"augment.mixup": 0.2}))
    batch = batch_of()
    plain, targets = task.inputs(batch), task.targets(batch)
    mixed, both = task.training_inputs(batch, targets, task.random_numbers(0, 1))
    weight = float(both[0].max()) if both[0].max() < 1 else 1.0
    partner = torch.tensor([1, 0, 3, 2])
    share = weight if torch.allclose(mixed, weight * plain + (1 - weight) * plain[partner], atol=1e-4) else 1 - weight
    torch.testing.assert_close(mixed, share * plain + (1 - share) * plain[partner], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both.sum(1), torch.ones(4))
    again, _ = task.training_inputs(batch, targets, task.random_numbers(0, 1))
    assert torch.equal(mixed, again) and not torch.equal(
        mixed, task.training_inputs(batch, targets, task.random_numbers(0, 2))[0]
    )


def test_boxes_go_back_to_pixels_of_the_file_and_stay_inside() -> None:
    found = ImageDetections(torch.tensor([[10.0, 20.0, 100.0, 900.0]]), torch.ones(1), torch.zeros(1))
    boxes_K4 = to_file_pixels(found, torch.tensor([0.5, 0.25]), torch.tensor([150, 300]))
    assert boxes_K4.tolist() == [[20.0, 80.0, 150.0, 300.0]]


def test_each_task_names_its_score(detection: Config, classification: Config) -> None:
    assert (score_name(detection), score_name(classification)) == ("AP", "top1")


@pytest.mark.slow
def test_the_networks_draws_belong_to_samples(detection: Config) -> None:
    """Drop path in a batch of two is that of the same samples alone, whatever the order."""
    cfg = resolve_model(override(detection, {"model.name": "efficientdet_d0", "model.image_size": 128}))
    model = build_model(override(cfg, {"model.drop_path": 0.5}), 3).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    images, seeds = torch.randn(3, 3, 128, 128), torch.tensor([5, 6, 7])
    order = np.array([2, 0, 1])
    with torch.no_grad():
        one, other, fresh = (
            model.backbone.features(images[rows], seeds[rows] + shift)[-1]
            for rows, shift in ((slice(None), 0), (order, 0), (slice(None), 100))
        )
    scale = one.std()
    torch.testing.assert_close(one[order] / scale, other / scale, rtol=0, atol=1e-4)
    assert ((fresh - one) / scale).abs().max() > 0.1


def test_a_step_moves_no_further_than_the_clipped_gradient(detection: Config) -> None:
    changes = {"optim.name": "sgd", "optim.weight_decay": 0.0, "optim.grad_clip": 1e-3, "optim.batch_size": 2}
    cfg = resolve_model(override(detection, changes | {"data.batch_size": 2}))
    for clip, longest in ((1e-3, 1e-3), (None, float("inf"))):
        step = ours(override(cfg, {"optim.grad_clip": clip, "optim.lr": 1.0}), synthetic(2, 64, 10), 10, CPU)
        before = build_model(cfg, 10).state_dict()  # the same seed, hence the same weights
        parameters = dict(step().state.model.named_parameters())
        moved = sum(float((p.detach() - before[name]).square().sum()) for name, p in parameters.items()) ** 0.5
        assert 0 < moved <= longest * 1.01 and (clip is None) == (moved > 1e-2)


@pytest.mark.slow
def test_scoring_neither_depends_on_the_models_mode_nor_changes_it(detection: Config) -> None:
    cfg = resolve_model(detection)
    index, model = open_split(cfg, "val"), build_model(cfg, 10)
    task = make_task(cfg, model, CPU)
    figures = []
    for train in (False, True):
        model.train(train)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        figures.append(score(model, task, index, EvalLoader(cfg, index, 0, 1), cfg, WorkerGroup())["eval_loss"])
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert figures[0] == figures[1]
