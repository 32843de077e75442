"""BatchNorm has no variance over one image of one pixel: a share of the batch that comes down to that is refused."""

import numpy as np
import torch

from raydet.config import Config
from raydet.data.loading.sampler import EpochSampler
from raydet.exceptions import ConfigError
from raydet.training.state import build_model


def check_lone_images(cfg: Config, classes: int) -> None:
    """Raise ConfigError where a worker trains on a single image at a time and the network cannot.

    Args:
        cfg: with model.image_size resolved.
    """
    smallest = min(_micro_batches(cfg, world) for world in sorted({max(1, n) for n in cfg.scaling.worker_range}))
    if smallest > 1 or _takes_one(cfg, classes):
        return
    raise ConfigError(
        f"a worker gets a single image at a time (a global batch of {cfg.global_batch}, "
        f"scaling.num_workers={cfg.scaling.num_workers}, data.batch_size={cfg.data.batch_size}), of which "
        f"{cfg.model.name} makes a single pixel at model.image_size={cfg.model.image_size}: BatchNorm needs two. "
        "Choose batches that leave each worker two images or more, or a larger model.image_size"
    )


def _micro_batches(cfg: Config, world: int) -> int:
    """Images of the smallest micro-batch of any of `world` workers."""
    rows = np.arange(cfg.global_batch)
    sizes = []
    for rank in {0, world - 1}:
        sampler = EpochSampler(rows, 0, cfg.global_batch, cfg.data.batch_size, rank, world)
        sizes += [len(part) for step in sampler.batches(0) for part in step]
    return min(sizes)


def _takes_one(cfg: Config, classes: int) -> bool:
    side = int(cfg.model.image_size or 0)
    with torch.device("meta"):
        model = build_model(cfg, classes).train()
        try:
            model(torch.zeros(1, 3, side, side), torch.zeros(1, dtype=torch.int64))
        except ValueError as error:
            return "more than 1 value per channel" not in str(error)
    return True
