"""Batches for training and evaluation, made in loader processes that keep no state of their own.

What a batch needs (epoch and rows) travels with its key, so pictures do not depend on the number of ranks or loader
processes, and an epoch can be entered at any step at no cost.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from raydet.config import Config
from raydet.data import augment
from raydet.data.batch import Batch
from raydet.data.coco import CocoIndex
from raydet.data.columns import Ints
from raydet.data.errors import DataError
from raydet.data.sampler import EpochSampler, eval_shard
from raydet.data.samples import Index, Sample, eval_sample, input_size, sample_seed, train_sample

_TIMEOUT_S = 300
"""A loader process that has made no batch for so long is taken for dead."""
_EVAL = -1
"""The epoch of an evaluation key."""

_Key = tuple[int, Ints]


class TrainLoader:
    """Training batches of one rank."""

    def __init__(self, cfg: Config, index: Index, rank: int = 0, world: int = 1) -> None:
        """Raises:
        DataError: no row of the index can be trained on.
        ValueError: batch and world do not fit each other, or model.image_size is None.
        """
        rows = index.train_rows(cfg) if isinstance(index, CocoIndex) else np.arange(len(index), dtype=np.int64)
        autoaugment = cfg.augment.autoaugment if cfg.task == "classification" else None
        augment.prepare(autoaugment, cfg.augment.color_jitter)
        data = cfg.data
        self._sampler = EpochSampler(rows, cfg.run.seed, cfg.global_batch, data.batch_size, rank, world, data.drop_last)
        self.steps_per_epoch = self._sampler.steps_per_epoch
        self.rows = rows
        """Rows of the index that are trained on."""
        self._feed = _Feed(cfg, index, rows)

    @property
    def bad(self) -> dict[str, str]:
        """Unreadable files this rank met and replaced so far, with the cause."""
        return self._feed.bad

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """Yield each step's micro-batches, from `first_step` to the epoch's end.

        Raises:
            DataError: an unreadable picture (data.on_bad=fail), or too many of them (skip).
        """
        steps = list(self._sampler.batches(epoch, first_step))
        made = self._feed.batches([(epoch, rows) for step in steps for rows in step])
        for step in steps:
            yield [next(made) for _ in step]

    def close(self) -> None:
        """End the loader processes; another pass starts new ones."""
        self._feed.close()


class EvalLoader:
    """Evaluation batches of one rank: each row of the index once over all ranks, in order, without padding."""

    def __init__(self, cfg: Config, index: Index, rank: int = 0, world: int = 1) -> None:
        """Raises ValueError when model.image_size is None."""
        size = cfg.data.eval_batch_size or cfg.data.batch_size
        rows = np.array(eval_shard(len(index), rank, world), np.int64)
        self._keys: list[_Key] = [(_EVAL, rows[i : i + size]) for i in range(0, len(rows), size)]
        self._feed = _Feed(cfg, index, np.arange(len(index), dtype=np.int64))

    @property
    def bad(self) -> dict[str, str]:
        """Unreadable files this rank met and left out so far, with the cause."""
        return self._feed.bad

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in self._feed.batches(self._keys) if len(batch))

    def close(self) -> None:
        """End the loader processes; another pass starts new ones."""
        self._feed.close()


class _Feed:
    """Turns keys into batches, here or in loader processes, and watches over unreadable pictures."""

    def __init__(self, cfg: Config, index: Index, rows: Ints) -> None:
        input_size(cfg)
        self.bad: dict[str, str] = {}
        self._cfg, self._rows = cfg, rows
        self._maker = _Maker(cfg, index, rows)
        self._keys: list[_Key] = []
        self._loader: DataLoader[Batch | DataError] | None = None
        self._passing: Iterator[Batch | DataError] | None = None

    def batches(self, keys: list[_Key]) -> Iterator[Batch]:
        for batch in self._made(keys):
            if isinstance(batch, DataError):
                self.close()
                raise batch
            self.bad.update(batch.bad)
            if batch.bad and len(self.bad) > self._cfg.data.max_bad * len(self._rows):
                self.close()
                name, why = next(iter(batch.bad.items()))
                count = f"{len(self.bad)} of {len(self._rows)}"
                what = f"{count} pictures are unreadable, more than data.max_bad allows: {why}"
                raise DataError(what, file=name, rule="IMG-E07")
            yield batch

    def _made(self, keys: list[_Key]) -> Iterator[Batch | DataError]:
        if not self._cfg.data.workers:
            return map(self._maker.__getitem__, keys)
        self._keys[:] = keys
        if self._loader is None:
            self._loader = self._started()
        self._passing = iter(self._loader)
        return self._passing

    def _started(self) -> DataLoader[Batch | DataError]:
        return DataLoader(
            self._maker,
            batch_size=None,
            sampler=_Current(self._keys),
            num_workers=self._cfg.data.workers,
            collate_fn=_unchanged,
            pin_memory=self._cfg.scaling.use_gpu and torch.cuda.is_available(),
            timeout=_TIMEOUT_S,
            # Forked, they share the index; they never touch a GPU. Python 3.14's default would import all anew.
            multiprocessing_context="fork",
            generator=torch.Generator(),  # or each epoch would draw from the global one
            prefetch_factor=self._cfg.data.prefetch,
            persistent_workers=True,
        )

    def close(self) -> None:
        # Left to the garbage collector (an error's traceback may hold it for long), each process costs 5 s of waiting.
        shut = getattr(self._passing, "_shutdown_workers", None)
        if shut is not None:
            shut()
        self._loader = self._passing = None


class _Current:
    """The keys of the pass that is about to begin; DataLoader reads them in this process."""

    def __init__(self, keys: list[_Key]) -> None:
        self._keys = keys

    def __iter__(self) -> Iterator[_Key]:
        return iter(list(self._keys))

    def __len__(self) -> int:
        return len(self._keys)


def _unchanged(batch: Any) -> Any:
    return batch


class _Maker(Dataset["Batch | DataError"]):
    """Makes a batch from its key. An error is handed over as a value: DataLoader would wrap it in a traceback."""

    def __init__(self, cfg: Config, index: Index, rows: Ints) -> None:
        self._cfg, self._index, self._rows = cfg, index, rows

    def __getitem__(self, key: _Key) -> Batch | DataError:
        epoch, rows = key
        samples: list[Sample] = []
        bad: dict[str, str] = {}
        for row in rows.tolist():
            try:
                sample = self._sample(epoch, row, bad)
            except DataError as error:
                return error
            if sample is not None:
                samples.append(sample)
        return _collated(self._cfg, epoch, samples, bad)

    def _sample(self, epoch: int, row: int, bad: dict[str, str]) -> Sample | None:
        """The row's sample; in place of an unreadable one the next readable row's, in evaluation None."""
        at = int(np.searchsorted(self._rows, row))
        for _ in range(len(self._rows)):
            try:
                if epoch == _EVAL:
                    return eval_sample(self._cfg, self._index, row)
                return train_sample(self._cfg, self._index, epoch, row)
            except DataError as error:
                if self._cfg.data.on_bad == "fail":
                    raise
                bad[self._index.names[row]] = str(error)
            if epoch == _EVAL:
                return None
            at = (at + 1) % len(self._rows)
            row = int(self._rows[at])
        raise DataError(f"none of {len(self._rows)} pictures can be read", rule="IMG-E07")


def _collated(cfg: Config, epoch: int, samples: list[Sample], bad: dict[str, str]) -> Batch:
    size = input_size(cfg)
    pixels_BHW3 = np.empty((len(samples), size, size, 3), np.uint8)
    for i, sample in enumerate(samples):
        pixels_BHW3[i] = sample.pixels_HW3
    batch = Batch(
        images_B3HW=torch.from_numpy(pixels_BHW3).permute(0, 3, 1, 2),
        rows_B=torch.tensor([s.row for s in samples], dtype=torch.int64),
        seeds_B=torch.tensor([sample_seed(cfg.run.seed, epoch, s.row) for s in samples], dtype=torch.int64),
        bad=bad,
    )
    if cfg.task == "classification":
        batch.labels_B = torch.tensor([cast(int, s.label) for s in samples], dtype=torch.int64)
        return batch
    batch.boxes_BM4, batch.classes_BM = _padded(samples, cfg.data.max_boxes)
    if epoch == _EVAL:
        batch.scale_B2 = torch.tensor([s.scale for s in samples], dtype=torch.float32).reshape(-1, 2)
        batch.size_B2 = torch.tensor([s.size for s in samples], dtype=torch.int64).reshape(-1, 2)
    return batch


def _padded(samples: list[Sample], most: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes with zeros and classes with -1 up to M: `most`, or as many as the fullest sample has, at least 1."""
    truths = [(cast(npt.NDArray[np.float32], s.boxes_K4), cast(npt.NDArray[np.int64], s.classes_K)) for s in samples]
    width = most or max([1, *(len(boxes_K4) for boxes_K4, _ in truths)])
    boxes_BM4 = torch.zeros(len(samples), width, 4)
    classes_BM = torch.full((len(samples), width), -1, dtype=torch.int64)
    for i, (boxes_K4, classes_K) in enumerate(truths):
        boxes_BM4[i, : len(boxes_K4)] = torch.from_numpy(boxes_K4)
        classes_BM[i, : len(classes_K)] = torch.from_numpy(classes_K)
    return boxes_BM4, classes_BM
