"""From a data set's place to a configuration that fits it: what `raydet fit DATA` trains, and why.

Nothing that the user gives is changed. What is chosen depends on the data and the machine's size alone, so the same
command means the same run again.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydet import models, recipes
from raydet.config import Config, differences, nearest, override
from raydet.data import DetectionIndex, Index, open_split
from raydet.data.columns import spread_over
from raydet.data.formats.detect_format import guess
from raydet.data.images.decode import read_size
from raydet.data.storage.address import is_remote
from raydet.data.validation.anchor_coverage import Floats, at_input, best_iou
from raydet.driver.expected_memory import activation_bytes
from raydet.driver.resources import cores, machine_bytes, wanted_address
from raydet.exceptions import ConfigError, DataError
from raydet.models import weights
from raydet.models.efficientdet_variants import EfficientDetVariant
from raydet.models.weights.published import published_for
from raydet.recipes.own_data import LR_BATCH, OWN_DATA, lr_share
from raydet.training.state import build_model, resolve_model

_MET = 0.9
"""Share of each class's boxes that should have an anchor with an IoU of 0.5."""
_FEW_BOXES = 20
_MOST_BOXES = 20_000
_LEAST_INPUT = 256
_LEAST_STEPS_PER_EPOCH = 20
_STEPS = {("cpu", "detection"): 1000, ("cpu", "classification"): 500, ("cuda", "any"): 4000}
"""Budget of optimizer steps. On a CPU half an hour of one core for efficientdet_lite0 at 384 px and 4 images a step."""
_MOST_PER_STEP = {("cpu", "detection"): 4, ("cpu", "classification"): 16, ("cuda", "any"): 32}
"""Images. On a CPU a large step saves no time: on bccd six epochs of 4 images a step came to AP50 0.50, of 8 to 0.28
(each at its own learning rate, 0.0015 and 0.0021)."""
_LEAST_EPOCHS = {"cpu": 3, "cuda": 10}
_MOST_EPOCHS = 300
_LR_OF_DETECTOR = 0.25
"""Chosen, not measured: no published detector can be had where this is developed."""
_MEMORY_SHARE = 0.5
"""Of the memory of the GPU or the machine that a step's activations may take."""


@dataclass(frozen=True)
class OwnData:
    """A configuration that fits a data set."""

    cfg: Config
    chosen: tuple[tuple[str, str, str], ...]
    """Setting, value and reason of what was chosen."""
    assumed: tuple[str, ...] = ()
    """What was assumed of the data set."""
    came_from: str | None = None
    """What was taken from another run."""

    def lines(self) -> list[str]:
        """Return lines for people: what was found, what was assumed or taken from a run, and each choice."""
        data = self.cfg.data
        splits = [f"{name} {where}" for name in ("train", "val", "test") if (where := getattr(data, name)) is not None]
        found = f"found     {data.format} in {data.root}: {', '.join(splits)}"
        assumed = [f"assumed   {text}" for text in self.assumed]
        came = [] if self.came_from is None else [f"from      {self.came_from}"]
        return [found, *assumed, *came, *(f"chosen    {key} {value}: {why}" for key, value, why in self.chosen)]


def own_data(place: str | Path | None, changes: Mapping[str, Any]) -> OwnData:
    """Return the configuration to train on a data set of one's own.

    Args:
        place: a folder, annotation file or data.yaml, as `raydet check` takes them; None: `changes` say where.
        changes: dotted keys that the user has given; none of them is chosen here.

    Raises:
        ConfigError: nothing known lies there, or no such model. DataError: the data.
    """
    assumed: list[str] = []
    found = {} if place is None else _found(str(place), changes.get("data.format"), assumed)
    name = str(changes.get("model.name", found.get("model.name", "efficientdet_d0")))
    if name not in OWN_DATA:
        close = nearest(name, OWN_DATA) or ["efficientdet_d0", "efficientnet_b0"]
        raise ConfigError(f"no model {name!r} with defaults for own data; did you mean {' or '.join(close)}?")
    cfg = override(recipes.recipe(name), {**found, **changes, "model.name": name})
    if place is not None and "run.name" not in changes:
        cfg = override(cfg, {"run.name": _run_name(str(place))})
    return replace(_fitted(cfg, frozenset(changes)), assumed=tuple(assumed))


def _found(place: str, wanted: str | None, assumed: list[str]) -> dict[str, Any]:
    if is_remote(place):  # not shown again: it may hold a password
        how = "name a model and where its data are: raydet fit efficientdet_d0 --data.root s3://..."
        raise ConfigError(f"what lies in a store is not guessed; {how} --data.format ... --data.train ...")
    found = differences(Config(), guess(Path(place).expanduser(), assumed.append, wanted))
    return {key: value for key, (_, value) in found.items()}


def _run_name(place: str) -> str:
    path = Path(place).expanduser().absolute()
    named = path.parent if path.is_file() and path.stem in ("data", "dataset") else path
    return re.sub(r"[^\w.-]+", "_", named.stem if named.is_file() else named.name).strip("._-") or "own_data"


class Choices:
    """The configuration as it is chosen, with reasons; what was given stays."""

    def __init__(self, cfg: Config, given: frozenset[str]) -> None:
        self.cfg, self._given = cfg, given
        self.made: list[tuple[str, str, str]] = []

    def is_given(self, key: str) -> bool:
        """Whether the user has said so."""
        return key in self._given

    def set(self, key: str, value: Any, why: str) -> None:
        """Choose a value, unless one was given."""
        if key in self._given:
            return
        self.cfg = override(self.cfg, {key: value})
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        self.made.append((key, f"{value:g}" if isinstance(value, float) else str(shown), why))


def _fitted(cfg: Config, given: frozenset[str]) -> OwnData:
    choices = Choices(cfg, given)
    if cfg.data.train == cfg.data.val and cfg.data.val_fraction is None:
        choices.set("data.val_fraction", 0.2, "there is one split; copies and images of one source stay together")
    tolerant = override(choices.cfg, {"data.on_bad": "skip", "data.max_bad": 1.0})
    index = open_split(tolerant, "train")
    _choose_weights(choices)
    _fit_machine(choices)
    if isinstance(index, DetectionIndex):
        _fit_boxes(choices, index)
    else:
        _fit_input_to_images(choices, index)
    _fit_training(choices, len(index.train_rows(choices.cfg)))
    return OwnData(choices.cfg, tuple(choices.made))


def _choose_weights(choices: Choices) -> None:
    """Start from published weights of the model, unless others were given."""
    named = published_for(choices.cfg.model.name)
    if choices.cfg.model.backbone_weights is None and named is not None:
        trained = "COCO" if choices.cfg.task == "detection" else "ImageNet"
        choices.set("model.weights", named, f"trained on {trained}; padding and normalization follow them")


def _fit_boxes(choices: Choices, index: DetectionIndex) -> None:
    """Choose the input size and the anchors by the boxes."""
    live_N = ~index.crowd & (index.boxes[:, 2:] > 0).all(axis=1)
    boxes_N4 = index.boxes[live_N]
    sizes_N2 = index.sizes[np.repeat(np.arange(len(index)), np.diff(index.first))[live_N]].astype(np.float64)
    if not len(boxes_N4):
        raise DataError("has no box to train on", file=index.file, rule="COCO-E26")
    labels_N = index.labels[live_N]
    if len(boxes_N4) > _MOST_BOXES:
        drawn = np.random.default_rng(0).choice(len(boxes_N4), _MOST_BOXES, replace=False)
        boxes_N4, sizes_N2, labels_N = boxes_N4[drawn], sizes_N2[drawn], labels_N[drawn]
    name = choices.cfg.model.name
    variant = models.MODELS[name]
    assert isinstance(variant, EfficientDetVariant)
    cfg = choices.cfg.model
    usual = variant.image_size
    sizes = [*range(_LEAST_INPUT, usual, 1 << variant.max_level), usual] if cfg.image_size is None else [cfg.image_size]
    factors = (1.0, 0.75, 0.5) if cfg.anchor_scale is None else (cfg.anchor_scale / variant.anchor_scale,)
    # The smallest input and the largest anchors that will do: larger ones cost time, smaller ones have fewer cells.
    met: dict[tuple[int, float], float] = {}
    for size, factor in product(sizes, factors):
        share = met[size, variant.anchor_scale * factor] = _met(boxes_N4, sizes_N2, labels_N, size, variant, factor)
        if share >= _MET:
            break
    size, scale = max(met, key=lambda choice: (met[choice] >= _MET, round(met[choice], 1), -choice[0], choice[1]))
    why = f"{met[size, scale]:.0%} of the boxes, of each class or more, then have an anchor with an IoU of 0.5"
    choices.set("model.image_size", size, why)
    if scale != variant.anchor_scale:
        choices.set("model.anchor_scale", scale, f"smaller than usual ({variant.anchor_scale:g}), for small boxes")


def _met(
    boxes_N4: Floats, sizes_N2: Floats, labels_N: Any, size: int, variant: EfficientDetVariant, factor: float
) -> float:
    """The share of boxes that have an anchor with an IoU of 0.5, of the class that is worst off.

    A class of few boxes counts with all others together.
    """
    smaller = replace(variant, anchor_scale=variant.anchor_scale * factor)
    iou_N = best_iou(at_input(boxes_N4, sizes_N2, size), size, smaller)
    classes = [c for c, count in zip(*np.unique(labels_N, return_counts=True), strict=True) if count >= _FEW_BOXES]
    shares = [float((iou_N >= 0.5).mean()), *(float((iou_N[labels_N == c] >= 0.5).mean()) for c in classes)]
    return min(shares)


def _fit_input_to_images(choices: Choices, index: Index) -> None:
    """Choose the input of a classifier: no larger than most of its images."""
    usual = models.default_image_size(choices.cfg.model.name)
    rows = spread_over(len(index), 100).tolist()
    sides = []
    for row in rows:
        try:
            sides.append(min(read_size(index.image(row))))
        except DataError:
            continue
    side = float(np.quantile(sides, 0.75)) if sides else float(usual)
    size = min(usual, max(64, 32 * math.ceil(side / 32)))
    if size < usual:
        choices.set("model.image_size", size, f"three of four images are at most {side:.0f} pixels wide or high")


def _fit_machine(choices: Choices) -> None:
    """Choose where to train: on this machine's GPUs, or in this process; a cluster is the user's to say."""
    cfg = choices.cfg
    if wanted_address(cfg) is not None:
        return
    gpus = torch.cuda.device_count()
    if gpus and not choices.is_given("scaling.use_gpu"):
        choices.set("scaling.use_gpu", True, f"{gpus} found")
        choices.set("scaling.num_workers", gpus, "one worker a GPU")
        choices.set("precision.mode", "bf16" if torch.cuda.is_bf16_supported() else "fp16", "half the memory, faster")
    elif not cfg.scaling.use_gpu:
        choices.set("scaling.num_workers", 0, "no GPU here: trained in this process; 1 or more start Ray")
    choices.set("data.workers", min(cfg.data.workers, max(1, cores() - 1)), f"loader processes beside {cores()} cores")


def _fit_training(choices: Choices, images: int) -> None:
    """Choose batch, epochs, learning rate and average by the number of images and the machine."""
    cfg = resolve_model(choices.cfg)
    device = "cuda" if cfg.scaling.use_gpu else "cpu"
    kind = (device, "any" if device == "cuda" else cfg.task)
    if not choices.is_given("optim.batch_size") and not choices.is_given("data.batch_size"):
        workers = max(1, cfg.scaling.worker_range[1])
        most = max(1, _power_of_two(_images_in_memory(cfg, device)))
        limit = min(most, _MOST_PER_STEP[kind])
        batch = min(limit, max(4, _power_of_two(images / _LEAST_STEPS_PER_EPOCH / workers)))
        why = f"{_steps(images, batch * workers)} steps an epoch of {images} images"
        choices.set("data.batch_size", batch, why + (", as many as fit into memory" if batch == most else ""))
    batch = choices.cfg.global_batch
    steps = _steps(images, batch)
    budget, where = _STEPS[kind], "a GPU" if device == "cuda" else "CPUs"
    epochs = min(_MOST_EPOCHS, max(_LEAST_EPOCHS[device], round(budget / steps)))
    choices.set("schedule.epochs", epochs, f"{epochs * steps} steps in all; the budget on {where} is {budget}")
    total = steps * choices.cfg.schedule.total_epochs
    warmup = max(total / 20, min(50, total / 4)) / steps
    choices.set("schedule.warmup_epochs", round(warmup, 2), f"{warmup * steps:.0f} of {total} steps")
    lr, share = choices.cfg.optim.lr, lr_share(batch)
    whys = [f"times the root of {batch} / {LR_BATCH}"] if share < 1 else []
    if _starts_from_detector(cfg):
        share *= _LR_OF_DETECTOR
        whys.append(f"times {_LR_OF_DETECTOR} for weights of a whole detector")
    if whys:
        choices.set("optim.lr", float(f"{lr * share:.2g}"), f"{lr:g} is for {LR_BATCH} images; {', '.join(whys)}")
    decay = min(0.9998, max(0.9, 1 - 15 / total))
    choices.set("ema.decay", round(decay, 4), f"an average over about {1 / (1 - decay):.0f} of {total} steps")


def _starts_from_detector(cfg: Config) -> bool:
    """Whether the weights asked for hold pyramid and heads too, which want smaller steps than fresh ones."""
    spec = cfg.model.weights
    if cfg.task != "detection" or spec is None:
        return False
    return spec.startswith("effdet:") or (
        weights.files.is_path(spec) and Path(spec).exists() and weights.holds_detector(spec)
    )


def _steps(images: int, batch: int) -> int:
    return max(1, -(-images // batch))


def _images_in_memory(cfg: Config, device: str) -> float:
    """How many images' activations fit into the share of memory that a step may take."""
    with torch.device("meta"):
        model = build_model(override(cfg, {"quantization": None}), cfg.model.num_classes or 1)
    each = activation_bytes(model, int(cfg.model.image_size or 0))
    return _MEMORY_SHARE * machine_bytes(device == "cuda") / each


def _power_of_two(number: float) -> int:
    """The largest power of two that is not above the number; 1 at least."""
    return 1 << max(0, int(math.log2(max(1.0, number))))
