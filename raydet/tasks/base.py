"""What training, evaluation and inference ask of a task."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from raydet.config import Config
from raydet.data import Batch
from raydet.distributed import WorkerGroup

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's channel means and deviations, of intensities from 0 to 1."""


def pixel_statistics(cfg: Config) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the mean and the deviation of each channel that images are normalised with."""
    return cfg.data.mean or MEAN, cfg.data.std or STD


class Task(Protocol):
    """What the loop needs to know of a task."""

    score: str
    """Name of the metric that decides which checkpoint is best; higher is better."""
    loss_names: tuple[str, ...]
    """Names of what `loss` returns; the first is what is minimised."""

    def inputs(self, batch: Batch) -> Tensor:
        """Return the network's input_B3HW: float, normalised, in the configured memory format."""
        ...

    def targets(self, batch: Batch) -> Any:
        """Return what the network should say of a training batch, on the device."""
        ...

    def weight(self, targets: Any) -> Tensor:
        """Return what this batch adds to the number that the losses of the global batch are divided by."""
        ...

    def loss(self, outputs: Any, targets: Any, weight: Tensor) -> Tensor:
        """Return this batch's share of the global batch's losses, one per loss name."""
        ...

    def random_numbers(self, epoch: int, step: int) -> Sequence[float]:
        """Return the random numbers of a step that all its samples share; always as many."""
        ...

    def training_inputs(self, batch: Batch, targets: Any, random: Sequence[float | Tensor]) -> tuple[Tensor, Any]:
        """Return `inputs` and targets as they are trained on (mixed up by `random`, if the configuration says so)."""
        ...

    def scorer(self, index: Any) -> "Scorer":
        """Return a fresh scorer for the split that `index` describes."""
        ...


class Scorer(Protocol):
    """Collects a network's answers over a split and scores them."""

    def add(self, outputs: Any, batch: Batch) -> None:
        """Take in one batch."""
        ...

    def result(self, workers: WorkerGroup) -> dict[str, float]:
        """Return the metrics over all workers' batches, on every worker."""
        ...


class ImageInputs:
    """Batches of images as network input: on the device, normalised, in the configured memory format."""

    def __init__(self, cfg: Config, device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        mean, std = (torch.tensor(values, device=device) for values in pixel_statistics(cfg))
        std = std * 255
        self._scale = (1 / std).view(1, 3, 1, 1)
        self._shift = (-mean * 255 / std).view(1, 3, 1, 1)
        channels_last = cfg.precision.memory_format == "channels_last"
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def inputs(self, batch: Batch) -> Tensor:
        images = batch.images_B3HW.to(self.device, non_blocking=True).contiguous(memory_format=self._format)
        return torch.addcmul(self._shift, images.float(), self._scale)
