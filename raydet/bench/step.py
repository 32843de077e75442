"""`raydet bench step`: what a training step costs, beside the same step of a peer, in turn in one process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydet.bench.timing import in_turn, machine, shares
from raydet.config import Config, Optim, override
from raydet.data import Batch
from raydet.distributed import WorkerGroup
from raydet.exceptions import ConfigError
from raydet.recipes import recipe
from raydet.tasks.base import MEAN, STD
from raydet.tasks.build import make_task
from raydet.training.cuda_graph import WARM_UP
from raydet.training.memory import keep_freed_memory
from raydet.training.precision import autocast, prepare_device
from raydet.training.state import build_model, new_state, resolve_model
from raydet.training.step import Trainer

BOXES = 7
"""Boxes per image: COCO's mean is 7.3."""


@dataclass(frozen=True)
class Synthetic:
    """A batch of noise with boxes or labels, for both sides of a comparison."""

    images_B3HW: Tensor
    boxes_BM4: Tensor
    classes_BM: Tensor


def synthetic(batch: int, side: int, num_classes: int, seed: int = 0) -> Synthetic:
    """Return `batch` images of `side` pixels with BOXES boxes each, uint8."""
    generator = torch.Generator().manual_seed(seed)
    images_B3HW = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)
    size_BM2 = torch.rand(batch, BOXES, 2, generator=generator) * side / 2 + side / 32
    corner_BM2 = torch.rand(batch, BOXES, 2, generator=generator) * (side - size_BM2)
    classes_BM = torch.randint(0, num_classes, (batch, BOXES), generator=generator)
    return Synthetic(images_B3HW, torch.cat([corner_BM2, corner_BM2 + size_BM2], dim=-1), classes_BM)


def bench_step(
    name: str,
    changes: Mapping[str, Any],
    vs: str | None,
    batch: int,
    rounds: int,
    threads: int = 1,
    *,
    compiled: bool = False,
    keep_memory: bool = False,
    profile: bool = False,
) -> dict[str, float | str]:
    """Time whole training steps: targets, forward, loss, backward, clipping, optimiser, EMA.

    Args:
        name: recipe whose model and settings are used; the average is on (decay 0.9998) unless `changes` say otherwise.
        vs: effdet or timm, or None for ours alone.
        batch: images a step.
        rounds: timed steps of each side, in turn, after some that are not counted.
        threads: CPU threads of torch.
        compiled: time our step with precision.compile beside; its compilation takes minutes on a CPU.
        keep_memory: keep freed memory, as workers of `fit` do; for all sides, since it is the process that keeps it.
        profile: add the share of our step's time that each of torch's dearest operations takes.

    Returns:
        `ours_s` and `effdet_s` (medians; CPU time on a CPU, wall time on a GPU), their spread, and `ratio`, the peer's
        time over ours; with `compiled` also `compiled_s` and `compiled_ratio`, ours over it.
    """
    cfg = resolve_model(override(recipe(name), {"ema.decay": 0.9998, "data.batch_size": batch, **changes}))
    cfg = override(cfg, {"optim.batch_size": batch})
    torch.set_num_threads(threads)
    if keep_memory:
        keep_freed_memory()
    device = prepare_device(cfg)
    classes = cfg.model.num_classes or 10
    data = synthetic(batch, int(cfg.model.image_size or 0), classes)
    sides: dict[str, Callable[[], object]] = {"ours": ours(cfg, data, classes, device)}
    if vs is not None:
        if vs not in PEERS:
            raise ConfigError(f"--vs must be one of {', '.join(PEERS)}, got {vs}")
        sides[vs] = PEERS[vs](cfg, data, classes, device)
    if compiled:
        sides["compiled"] = ours(override(cfg, {"precision.compile": True}), data, classes, device)
    values: dict[str, float | str] = {"recipe": name, "batch": batch, "image_size": data.images_B3HW.shape[-1]}
    values |= {"threads": threads, "rounds": rounds, "machine": machine(device), "torch": torch.__version__}
    # A step that is to be captured runs three times before, and once more to be captured.
    times = in_turn(sides, device, rounds, warm_up=2 + (WARM_UP if cfg.precision.cuda_graph else 0))
    for side, taken in times.items():
        values |= {f"{side}_s": taken.median, f"{side}_min_s": taken.least, f"{side}_max_s": taken.most}
    if vs is not None:
        values["ratio"] = times[vs].median / times["ours"].median
    if compiled:
        values["compiled_ratio"] = times["ours"].median / times["compiled"].median
    if profile:
        values |= {f"share of {name}": share for name, share in shares(sides["ours"], device).items()}
    return values


def ours(cfg: Config, data: Synthetic, classes: int, device: torch.device) -> Callable[[], Trainer]:
    """Return raydet's step on `data`, exactly as the loop runs it."""
    model = build_model(cfg, classes)
    task = make_task(cfg, model, device)
    state = new_state(cfg, model, len(task.loss_names), device)
    trainer = Trainer(cfg, task, state, WorkerGroup(device=device))
    size = len(data.images_B3HW)
    # On the device from the start, as a prefetching loader has them: copying is not what is timed.
    batch = Batch(
        images_B3HW=data.images_B3HW.contiguous(memory_format=torch.channels_last),
        rows_B=torch.arange(size),
        seeds_B=torch.arange(size),
        labels_B=data.classes_BM[:, 0],
        boxes_BM4=data.boxes_BM4,
        classes_BM=data.classes_BM,
    ).to(device)
    state.train()

    def step() -> Trainer:
        trainer.step([batch], cfg.optim.lr)
        return trainer

    return step


def effdet(cfg: Config, data: Synthetic, classes: int, device: torch.device) -> Callable[[], object]:
    """Return effdet's step on the same images and boxes: its train bench with its labeler, SGD, clipping, ModelEmaV2.

    In the configured precision, and in the memory layout that it has by itself.

    Raises:
        ConfigError: effdet is not installed, or does not know the model.
    """
    try:
        from effdet import create_model
        from timm.utils import ModelEmaV2
    except ImportError as error:
        raise ConfigError("--vs effdet needs effdet and timm: pip install effdet") from error
    side = int(cfg.model.image_size or 0)
    bench = create_model(
        cfg.model.name,
        bench_task="train",
        bench_labeler=True,
        num_classes=classes,
        pretrained=False,
        pretrained_backbone=False,
        image_size=(side, side),
    ).to(device)
    bench.train()
    optimizer = effdets_sgd(bench, cfg.optim)
    average = ModelEmaV2(bench, decay=cfg.ema.decay or 0.9998)
    images = data.images_B3HW.to(device)
    target = {
        "bbox": list(data.boxes_BM4[..., [1, 0, 3, 2]].to(device)),  # effdet's boxes are yxyx, its labels start at 1
        "cls": list((data.classes_BM + 1).float().to(device)),
    }

    return _peers_step(bench, lambda x_B3HW: bench(x_B3HW, target)["loss"], images, optimizer, average, cfg)


def effdets_sgd(bench: nn.Module, optim: Optim) -> torch.optim.SGD:
    """Return the optimizer of effdet's train.py: vectors and scalars do not decay."""
    decayed = [p for p in bench.parameters() if p.ndim > 1]
    spared = [p for p in bench.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum)


def timm(cfg: Config, data: Synthetic, classes: int, device: torch.device) -> Callable[[], object]:
    """Return timm's classification step on the same images: its model, RMSpropTF, clipping, ModelEmaV2.

    Raises:
        ConfigError: timm is not installed, or does not know the model.
    """
    try:
        from timm import create_model
        from timm.loss import LabelSmoothingCrossEntropy
        from timm.optim import RMSpropTF
        from timm.utils import ModelEmaV2
    except ImportError as error:
        raise ConfigError("--vs timm needs timm: pip install timm") from error
    try:
        model = create_model(cfg.model.name, num_classes=classes).to(device).train()
    except RuntimeError as error:
        raise ConfigError(f"--vs timm: {error}") from error
    channels_last = cfg.precision.memory_format == "channels_last"
    model = model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    optim = cfg.optim
    optimizer = RMSpropTF(model.parameters(), cfg.optim.lr, optim.alpha, optim.eps, optim.weight_decay, optim.momentum)
    average, criterion = ModelEmaV2(model, decay=cfg.ema.decay or 0.9998), LabelSmoothingCrossEntropy(0.1)
    labels_B, images = data.classes_BM[:, 0].to(device), data.images_B3HW.to(device)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)

    return _peers_step(model, lambda x_B3HW: criterion(model(x_B3HW), labels_B), images, optimizer, average, cfg)


def _peers_step(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    images: Tensor,
    optimizer: torch.optim.Optimizer,
    average: Any,
    cfg: Config,
) -> Callable[[], None]:
    """Return a step as the peers' scripts write it: normalise, loss, backward, clip, move, average."""
    device = images.device
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    scaler = torch.amp.GradScaler(device.type, enabled=cfg.precision.mode == "fp16")

    def step() -> None:
        x_B3HW = images.float().sub_(mean).div_(std)
        with autocast(cfg.precision, device):
            value = loss(x_B3HW)
        scaler.scale(value).backward()  # type: ignore[no-untyped-call]
        if cfg.optim.grad_clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), cfg.optim.grad_clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        average.update(model)

    return step


PEERS: Mapping[str, Callable[[Config, Synthetic, int, torch.device], Callable[[], object]]] = {
    "effdet": effdet,
    "timm": timm,
}
"""Whose step can be timed beside ours."""
