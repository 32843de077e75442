"""The task that a configuration means."""

import torch
from torch import nn

from raydet.config import Config
from raydet.tasks.classification import Classification
from raydet.tasks.detection import Detection


def score_name(cfg: Config) -> str:
    """Return the name of the metric that decides which checkpoint is best."""
    return (Detection if cfg.task == "detection" else Classification).score


def make_task(cfg: Config, model: nn.Module, device: torch.device) -> Detection | Classification:
    """Return the task that the model of `cfg` is for."""
    return (Detection if cfg.task == "detection" else Classification)(cfg, model, device)
