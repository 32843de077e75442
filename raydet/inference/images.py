"""The images an export needs: held-out ones to check it on, training ones to measure ranges on, made-up ones at need.

Of a split a few rows are taken, spread evenly, for a folder's images come class by class; as evaluation shows them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raydet.config import Config, override
from raydet.data import Batch, EvalLoader, Index, open_split
from raydet.data.columns import spread_over
from raydet.data.loading.samples import input_size
from raydet.exceptions import DataError
from raydet.tasks.base import Task

_FEW = 512
"""Images that are read in this process: loader processes take longer to start."""


@dataclass(frozen=True)
class ImageSample:
    """Images to compare models on."""

    index: Index | None
    """The part of the split; None: they are made up and have no truth."""
    batches: EvalLoader | list[Batch]
    what: str
    """Which they are, in words."""

    def __enter__(self) -> "ImageSample":
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self.batches, EvalLoader):
            self.batches.close()


def held_out(cfg: Config, most: int, *, needed: bool) -> ImageSample:
    """Return up to `most` images of the validation split, or as many made-up ones where it cannot be opened.

    Args:
        needed: the user has named the data, so that it must be there.

    Raises:
        DataError: a split that is `needed` cannot be opened.
    """
    try:
        whole = open_split(cfg, "val")
    except (DataError, ModuleNotFoundError) as error:  # the demo's data are made with scikit-learn
        if needed and isinstance(error, DataError):
            hint = f"{error.hint or ''} To export without the data: --images made-up.".strip()
            raise DataError(error.what, rule=error.rule, file=error.file, record=error.record, hint=hint) from None
        if needed:
            raise
        why = str(error).partition("\n")[0]
        return ImageSample(None, made_up(cfg, most), f"{most} made-up images, for the data are not there: {why}")
    index = whole.select(spread_over(len(whole), most))
    return ImageSample(index, _loader(cfg, index), f"{len(index)} images of {cfg.data.root} ({cfg.data.val})")


def training_inputs(cfg: Config, task: Task, *, needed: bool) -> Iterator[Tensor]:
    """Return images_B3HW of the training split, not varied: quantization.batches batches; none if it cannot be opened.

    Args:
        needed: as in `held_out`.

    Raises:
        DataError: a split that is `needed` cannot be opened; or, while it is read, an image.
    """
    quantization = cfg.quantization
    if quantization is None:
        return iter(())
    try:
        whole = open_split(cfg, "train")
    except (DataError, ModuleNotFoundError):
        if needed:
            raise
        return iter(())
    cfg = override(cfg, {"data.eval_batch_size": None})  # batches of data.batch_size
    wanted = quantization.batches * cfg.data.batch_size
    return _inputs(_loader(cfg, whole.select(spread_over(len(whole), wanted))), task)


def _inputs(loader: EvalLoader, task: Task) -> Iterator[Tensor]:
    try:
        for batch in loader:
            yield task.inputs(batch)
    finally:
        loader.close()


def _loader(cfg: Config, index: Index) -> EvalLoader:
    return EvalLoader(override(cfg, {"data.workers": 0}) if len(index) <= _FEW else cfg, index)


def made_up(cfg: Config, count: int) -> list[Batch]:
    """Return batches of images of coloured clouds, always the same: no noise, whose answers tell nothing."""
    side = input_size(cfg)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for start in range(0, count, cfg.data.batch_size):
        size = min(cfg.data.batch_size, count - start)
        coarse, fine = (torch.rand(size, 3, n, n, generator=generator) for n in (4, 16))
        clouds = F.interpolate(coarse, (side, side), mode="bicubic") + F.interpolate(fine, (side, side)) / 4
        images_B3HW = (clouds.clamp(0, 1) * 255).to(torch.uint8)
        rows_B = torch.arange(start, start + size)
        batches.append(Batch(images_B3HW=images_B3HW, rows_B=rows_B, seeds_B=torch.zeros_like(rows_B)))
    return batches
