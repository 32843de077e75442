"""The verb `raydet bench`: what a training step costs, beside the same step of a peer, in turn in one process."""

import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn

from raydet.config import Config, ConfigError, override
from raydet.data import Batch
from raydet.loop import Trainer
from raydet.peers import Peers
from raydet.precision import prepare_device
from raydet.recipes import recipe
from raydet.state import build_model, new_state, resolve_model
from raydet.tasks import make_task

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
    name: str, changes: Mapping[str, Any], vs: str | None, batch: int, rounds: int, threads: int = 1
) -> dict[str, float | str]:
    """Time whole training steps: targets, forward, loss, backward, clipping, optimiser, moving average.

    Args:
        name: recipe whose model and settings are used; the average is on (decay 0.9998) unless `changes` say otherwise.
        vs: effdet, or None for ours alone.
        batch: images a step.
        rounds: timed steps of each side, in turn, after two that are not counted.
        threads: CPU threads of torch.

    Returns:
        `ours_s` and `effdet_s` (medians; CPU time on a CPU, wall time on a GPU), their spread, and `ratio`, the peer's
        time over ours.
    """
    cfg = resolve_model(override(recipe(name), {"ema.decay": 0.9998, "data.batch_size": batch, **changes}))
    cfg = override(cfg, {"optim.batch_size": batch})
    torch.set_num_threads(threads)
    device = prepare_device(cfg)
    classes = cfg.model.num_classes or 10
    data = synthetic(batch, int(cfg.model.image_size or 0), classes)
    sides: dict[str, Callable[[], object]] = {"ours": ours(cfg, data, classes, device)}
    if vs == "effdet":
        sides["effdet"] = effdet(cfg, data, classes, device)
    elif vs is not None:
        raise ConfigError(f"--vs must be effdet, got {vs}")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for i in range(rounds + 2):
        for side, step in sides.items():
            taken = _timed(step, device)
            if i >= 2:
                seconds[side].append(taken)
    values: dict[str, float | str] = {"recipe": name, "batch": batch, "image_size": data.images_B3HW.shape[-1]}
    values |= {"threads": threads, "rounds": rounds, "machine": machine(device), "torch": torch.__version__}
    for side, times in seconds.items():
        values |= {f"{side}_s": statistics.median(times), f"{side}_min_s": min(times), f"{side}_max_s": max(times)}
    if vs is not None:
        values["ratio"] = float(values[f"{vs}_s"]) / float(values["ours_s"])
    return values


def _timed(step: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        start = perf_counter()
        step()
        torch.cuda.synchronize()
        return perf_counter() - start
    start = process_time()
    step()
    return process_time() - start


def machine(device: torch.device) -> str:
    """Return the name of what computes."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def ours(cfg: Config, data: Synthetic, classes: int, device: torch.device) -> Callable[[], Trainer]:
    """Return raydet's step on `data`, exactly as the loop runs it."""
    model = build_model(cfg, classes)
    task = make_task(cfg, model, device)
    state = new_state(cfg, model, len(task.loss_names), device)
    trainer = Trainer(cfg, task, state, Peers(device=device))
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
    decayed = [p for p in bench.parameters() if p.ndim > 1]
    spared = [p for p in bench.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": cfg.optim.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=cfg.optim.lr, momentum=cfg.optim.momentum)
    average = ModelEmaV2(bench, decay=cfg.ema.decay or 0.9998)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1) * 255
    target = {
        "bbox": list(data.boxes_BM4[..., [1, 0, 3, 2]].to(device)),  # effdet's boxes are yxyx, its labels start at 1
        "cls": list((data.classes_BM + 1).float().to(device)),
    }

    def step() -> None:
        images_B3HW = data.images_B3HW.to(device).float().sub_(mean).div_(std)
        bench(images_B3HW, target)["loss"].backward()
        if cfg.optim.grad_clip is not None:
            nn.utils.clip_grad_norm_(bench.parameters(), cfg.optim.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        average.update(bench)

    return step
