"""What `raydet bench ops` measures: each operation at the size of EfficientDet-D0's training, its rivals beside it.

Peers are left out where they are not installed: torchvision's NMS and focal loss, torch's optimisers, effdet's labeler,
loss and post-processing, timm's EMA.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from raydet import models, ops
from raydet.bench.step import synthetic
from raydet.bench.timing import Work, has
from raydet.config import Ema, Optim
from raydet.models.anchors import grid_cells, make_anchors
from raydet.ops.assignment import by_definition
from raydet.training.ema import ModelEma
from raydet.training.optim import build_optimizer

_SIDE, _CLASSES, _LEVELS = 512, 90, (3, 7)


@dataclass(frozen=True)
class Case:
    """One operation at one size."""

    size: str
    floor_bytes: int
    """Fewest bytes to move: each input read once, each output written once."""
    sides: Mapping[str, Work]
    """What to time, by name; raydet's own is called raydet."""


def focal_loss(device: torch.device, compiled: bool) -> Case:
    """Class loss of all anchors, forward and backward."""
    cuda = device.type == "cuda"
    batch, dtype = (32, torch.bfloat16) if cuda else (2, torch.float32)
    labels_BA = torch.randint(0, _CLASSES, (batch, 49104), device=device)
    labels_BA[torch.rand(labels_BA.shape, device=device) > 0.001] = -1
    logits = (torch.randn(batch, 49104, _CLASSES, device=device) * 0.5 - 4.6).to(dtype).requires_grad_()

    def trained(loss: Callable[[Tensor, Tensor], Tensor]) -> Work:
        return lambda: torch.autograd.grad(loss(logits, labels_BA), logits)

    def torchvisions(x: Tensor, labels: Tensor) -> Tensor:
        value: Tensor = torchvision.ops.sigmoid_focal_loss(x, _one_hot(labels, x.dtype), 0.25, 1.5, reduction="sum")
        return value

    sides = {"raydet": trained(lambda x, y: ops.focal_loss(x, y, 0.25, 1.5)), "pytorch": trained(_focal_definition)}
    if compiled:
        sides["compiled"] = trained(torch.compile(_focal_definition))
    sides["torchvision"] = trained(torchvisions)
    if has("effdet"):
        from effdet.loss import new_focal_loss

        one = torch.ones((), device=device)
        sides["effdet"] = trained(
            lambda x, y: (
                new_focal_loss(x.float(), _one_hot(y, torch.float32), 0.25, 1.5, one, 0.0) * (y != -2).unsqueeze(-1)
            ).sum()
        )
    moved = 3 * logits.numel() * logits.element_size() + 2 * 8 * labels_BA.numel()
    return Case(f"{batch} x 49104 x {_CLASSES} {dtype}, value and gradient", moved, sides)


def _one_hot(labels_BA: Tensor, dtype: torch.dtype) -> Tensor:
    return (labels_BA.unsqueeze(-1) == torch.arange(_CLASSES, device=labels_BA.device)).to(dtype)


def _focal_definition(x: Tensor, labels_BA: Tensor) -> Tensor:
    target = _one_hot(labels_BA, torch.float32)
    cost = F.binary_cross_entropy_with_logits(x.float(), target, reduction="none")
    p = x.float().sigmoid()
    wrong = target * (1 - p) + (1 - target) * p
    weight = target * 0.25 + (1 - target) * 0.75
    return (weight * wrong**1.5 * cost * (labels_BA != -2).unsqueeze(-1)).sum()


def assign_anchors(device: torch.device, compiled: bool) -> Case:
    """Targets of a batch of 32 with 7 boxes an image, COCO's mean."""
    batch = 32
    data = synthetic(batch, _SIDE, _CLASSES)
    boxes_BM4, classes_BM = data.boxes_BM4.to(device), data.classes_BM.to(device)
    anchors_A4 = make_anchors((_SIDE, _SIDE), *_LEVELS, 4.0).to(device)
    cells = grid_cells((_SIDE, _SIDE), *_LEVELS)
    sides: dict[str, Work] = {
        "raydet": lambda: ops.assign_anchors(anchors_A4, boxes_BM4, classes_BM, cells=cells),
        "pytorch": lambda: by_definition(anchors_A4, boxes_BM4, classes_BM, 0.5, False),
    }
    if has("effdet"):
        from effdet.anchors import AnchorLabeler, Anchors
        from effdet.config import get_efficientdet_config

        labeler = AnchorLabeler(
            Anchors.from_config(get_efficientdet_config("efficientdet_d0")).to(device), _CLASSES, match_threshold=0.5
        )
        yxyx, labels = list(boxes_BM4[..., [1, 0, 3, 2]]), list((classes_BM + 1).float())
        sides["effdet"] = lambda: labeler.batch_label_anchors(yxyx, labels)
    anchors = len(anchors_A4)
    return Case(f"{batch} images x {anchors} anchors x 7 boxes", 16 * anchors + 24 * batch * anchors, sides)


def detect(device: torch.device, compiled: bool) -> Case:
    """From a fresh network's output to 100 detections an image, of 5000 candidates."""
    batch = 64 if device.type == "cuda" else 8
    torch.manual_seed(0)
    anchors_A4 = make_anchors((_SIDE, _SIDE), *_LEVELS, 4.0).to(device)
    logits_BAC = torch.randn(batch, len(anchors_A4), _CLASSES, device=device) * 0.5 - 4.6
    codes_BA4 = torch.randn(batch, len(anchors_A4), 4, device=device) * 0.2
    sides: dict[str, Work] = {
        "raydet": lambda: ops.detect(
            logits_BAC, codes_BA4, anchors_A4, top_k=5000, score_threshold=0.0, nms_iou=0.5, max_detections=100
        ),
    }
    if has("effdet"):
        from effdet.bench import _batch_detection, _post_process

        cells = grid_cells((_SIDE, _SIDE), *_LEVELS)
        sizes = [rows * columns * 9 for rows, columns in cells]
        scores, codes = (
            [
                part.reshape(batch, *cell, -1).permute(0, 3, 1, 2)
                for part, cell in zip(torch.split(x, sizes, 1), cells, strict=True)
            ]
            for x in (logits_BAC, codes_BA4[..., [1, 0, 3, 2]])
        )
        yxyx = anchors_A4[:, [1, 0, 3, 2]]
        sides["effdet"] = lambda: _batch_detection(batch, *_reordered(_post_process(scores, codes, 5, _CLASSES), yxyx))
    return Case(f"{batch} images x 49104 x {_CLASSES}", 4 * (logits_BAC.numel() + codes_BA4.numel()), sides)


def _reordered(selected: tuple[Tensor, ...], anchors: Tensor) -> tuple[Tensor, ...]:
    logits, codes, indices, classes = selected
    return logits, codes, anchors, indices, classes


def batched_nms(device: torch.device, compiled: bool) -> Case:
    """5000 candidates an image to 100, greedily and softly."""
    batch = 64 if device.type == "cuda" else 8
    torch.manual_seed(0)
    size = torch.rand(batch, 5000, 2, device=device) * 100 + 4
    corner = torch.rand(batch, 5000, 2, device=device) * 400
    boxes_BK4 = torch.cat([corner, corner + size], 2)
    scores_BK = torch.rand(batch, 5000, device=device)
    classes_BK = torch.randint(0, _CLASSES, (batch, 5000), device=device)
    every = list(zip(boxes_BK4, scores_BK, classes_BK, strict=True))
    sides: dict[str, Work] = {
        "raydet": lambda: ops.batched_nms(boxes_BK4, scores_BK, classes_BK, 0.5, 100),
        "raydet soft": lambda: ops.batched_nms(boxes_BK4, scores_BK, classes_BK, 0.5, 100, 0.5, 0.001),
        "torchvision": lambda: [torchvision.ops.batched_nms(*one, 0.5)[:100] for one in every],
    }
    return Case(f"{batch} images x 5000 candidates, {_CLASSES} classes", 28 * boxes_BK4.shape[0] * 5000, sides)


def _network(device: torch.device) -> nn.Module:
    # D5 on a GPU: D0's weights, average and gradients would stay in an H200's 50 MB of L2 cache.
    return models.build("efficientdet_d5" if device.type == "cuda" else "efficientdet_d0", _CLASSES).to(device)


def ema_update(device: torch.device, compiled: bool) -> Case:
    """EMA of all parameters and buffers."""
    model = _network(device)
    average = ModelEma(model, Ema(decay=0.9998))
    decay = torch.full((), 0.9998, device=device)
    sides: dict[str, Work] = {"raydet": lambda: average.update(decay if device.type == "cuda" else 0.9998)}
    if has("timm"):
        from timm.utils import ModelEmaV2, ModelEmaV3

        second, third = ModelEmaV2(model, 0.9998), ModelEmaV3(model, 0.9998)
        sides["timm V2"], sides["timm V3"] = lambda: second.update(model), lambda: third.update(model)
    count = sum(t.numel() for t in model.state_dict().values())
    return Case(f"{count / 1e6:.1f} M values, {len(model.state_dict())} tensors", 12 * count, sides)


def sgd(device: torch.device, compiled: bool) -> Case:
    """SGD with momentum: torch's fused step, which raydet uses."""
    return _optimizer(device, "sgd", lambda p, **k: torch.optim.SGD(p, lr=1e-3, momentum=0.9, **k), 20)


def rmsprop(device: torch.device, compiled: bool) -> Case:
    """RMSprop with momentum."""
    return _optimizer(device, "rmsprop", lambda p, **k: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, **k), 28)


def _optimizer(
    device: torch.device, name: str, theirs: Callable[..., torch.optim.Optimizer], bytes_a_value: int
) -> Case:
    model = _network(device)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    parameters = list(model.parameters())
    settings = Optim(name=name, lr=1e-3, weight_decay=0.0)  # type: ignore[arg-type]
    sides: dict[str, Work] = {
        "raydet": build_optimizer(model, settings).step,
        "torch foreach": theirs(parameters, foreach=True).step,
        "torch loop": theirs(parameters, foreach=False).step,
    }
    count = sum(p.numel() for p in parameters)
    return Case(f"{count / 1e6:.1f} M values, {len(parameters)} tensors", bytes_a_value * count, sides)


def fusion(device: torch.device, compiled: bool) -> Case:
    """One BiFPN node, forward and backward: no kernel is written for it unless this is over 1 % of a step."""
    batch = 32 if device.type == "cuda" else 4
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    layout = torch.channels_last
    fine = torch.randn(batch, 64, 64, 64, device=device, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    coarse = (
        torch.randn(batch, 64, 32, 32, device=device, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    )
    weights = torch.ones(2, device=device, requires_grad=True)

    def node(fine: Tensor, coarse: Tensor) -> Tensor:
        positive = weights.relu()
        first, second = (positive / (positive.sum() + 1e-4)).to(fine.dtype).unbind()
        return F.silu(fine * first + F.interpolate(coarse * second, scale_factor=2.0, mode="nearest"))

    def trained(function: Callable[[Tensor, Tensor], Tensor]) -> Work:
        return lambda: torch.autograd.grad(function(fine, coarse).sum(), (fine, coarse, weights))

    sides = {"raydet": trained(node)}
    if compiled:
        sides["compiled"] = trained(torch.compile(node))
    # forward: both maps read, one written; backward: the same maps and the gradient read, two gradients written
    values = 5 * fine.numel() + 3 * coarse.numel()
    return Case(f"{batch} x 64 x 64 x 64 and 32 x 32 {dtype}", values * fine.element_size(), sides)


CASES: Mapping[str, Callable[[torch.device, bool], Case]] = {
    "focal_loss": focal_loss,
    "assign_anchors": assign_anchors,
    "detect": detect,
    "batched_nms": batched_nms,
    "ema_update": ema_update,
    "sgd": sgd,
    "rmsprop": rmsprop,
    "fusion": fusion,
}
"""Every operation that can be measured, by name."""
