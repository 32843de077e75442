"""Learning-rate schedules: warm-up, decay, noise."""

import math

import torch

from raydet.config import Config, Schedule


def learning_rate(cfg: Config, epoch: float) -> float:
    """Return the learning rate at `epoch` (a fraction if per_step), scaled by the global batch.

    Warm-up and forms as in timm's schedulers and NVIDIA's `lr_cosine_policy`; see the fields of config.Schedule.
    """
    schedule, peak = cfg.schedule, cfg.optim.lr
    if epoch >= schedule.epochs:
        return cfg.lr_scale * (schedule.min_lr if schedule.cooldown_epochs else _decayed(schedule, peak, 1.0, epoch))
    if epoch < schedule.warmup_epochs:
        done = (epoch + (1.0 if schedule.warmup_first else 0.0)) / schedule.warmup_epochs
        return cfg.lr_scale * (schedule.warmup_lr + (peak - schedule.warmup_lr) * min(1.0, done))
    start = schedule.warmup_epochs if schedule.warmup_prefix else 0.0
    share = (epoch - start) / (schedule.epochs - start)
    return cfg.lr_scale * _decayed(schedule, peak, share, epoch) * (1.0 + _noise(schedule, cfg.run.seed, epoch))


def _decayed(schedule: Schedule, peak: float, share: float, epoch: float) -> float:
    span = peak - schedule.min_lr
    if schedule.name == "cosine":
        return schedule.min_lr + span * (1 + math.cos(math.pi * share)) / 2
    if schedule.name == "linear":
        return schedule.min_lr + span * (1 - share)
    if schedule.name == "step":
        return float(peak * schedule.step_factor ** sum(epoch >= m for m in schedule.milestones))
    return peak


def _noise(schedule: Schedule, seed: int, epoch: float) -> float:
    """Relative noise of this epoch: normal, drawn again until it is below the limit; the same on all workers."""
    if schedule.noise is None:
        return 0.0
    first, last = (share * schedule.epochs for share in schedule.noise)
    if not first <= epoch < last:
        return 0.0
    generator = torch.Generator().manual_seed(seed + int(epoch))
    while True:
        value = torch.randn((), generator=generator).item()
        if abs(value) < schedule.noise_limit:
            return value
