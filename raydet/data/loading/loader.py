"""Batches for training and evaluation, made in loader processes that keep no state of their own.

What a batch needs (epoch and rows) travels with its key, so images do not depend on the number of ranks or loader
processes, and an epoch can be entered at any step at no cost.
"""

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from raydet.config import Config
from raydet.data.columns import Ints
from raydet.data.formats.index import Index
from raydet.data.images.dali_decoder import check_installed
from raydet.data.loading.batch import Batch
from raydet.data.loading.batch_dataset import Key, Maker
from raydet.data.loading.dali_gpu import GpuFeed
from raydet.data.loading.sampler import EpochSampler, eval_shard
from raydet.data.loading.samples import EVAL
from raydet.exceptions import DataError

_TIMEOUT_S = 300
"""A loader process that has made no batch for so long is taken for dead."""


class TrainLoader:
    """Training batches of one rank."""

    def __init__(self, cfg: Config, index: Index, rank: int = 0, world: int = 1) -> None:
        """Raises:
        DataError: no row of the index can be trained on.
        ValueError: batch and world do not fit each other, or model.image_size is None.
        """
        rows = index.train_rows(cfg)
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
            DataError: an unreadable image (data.on_bad=fail), or too many of them (skip).
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
        self._keys: list[Key] = [(EVAL, rows[i : i + size]) for i in range(0, len(rows), size)]
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
    """Turns keys into batches, here or in loader processes, and watches over unreadable images."""

    def __init__(self, cfg: Config, index: Index, rows: Ints) -> None:
        check_installed(cfg)
        self.bad: dict[str, str] = {}
        self._cfg, self._rows = cfg, rows
        self._maker = Maker(cfg, index, rows)
        # Forked, they share the index, and they never touch a GPU; but clients of object stores do not survive a fork.
        self._start = "fork" if index.files.forkable else "forkserver"
        self._gpu = GpuFeed(cfg, index, rows) if cfg.data.backend == "dali-gpu" else None
        self._keys: list[Key] = []
        self._loader: DataLoader[Batch | DataError] | None = None
        self._passing: Iterator[Batch | DataError] | None = None

    def batches(self, keys: list[Key]) -> Iterator[Batch]:
        for batch in self._made(keys):
            if isinstance(batch, DataError):
                self.close()
                raise batch
            self.bad.update(batch.bad)
            if batch.bad and len(self.bad) > self._cfg.data.max_bad * len(self._rows):
                self.close()
                name, why = next(iter(batch.bad.items()))
                count = f"{len(self.bad)} of {len(self._rows)}"
                what = f"{count} images are unreadable, more than data.max_bad allows: {why}"
                raise DataError(what, file=name, rule="IMG-E07")
            yield batch

    def _made(self, keys: list[Key]) -> Iterator[Batch | DataError]:
        if self._gpu is not None:
            return self._gpu.batches(keys)
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
            worker_init_fn=_leave_signals_to_the_trainer,
            pin_memory=self._cfg.scaling.use_gpu and torch.cuda.is_available(),
            timeout=_TIMEOUT_S,
            multiprocessing_context=self._start,
            generator=torch.Generator(),  # or each epoch would draw from the global one
            prefetch_factor=self._cfg.data.prefetch,
            persistent_workers=True,
        )

    def close(self) -> None:
        # Left to the garbage collector (an error's traceback may hold it for long), each process costs 5 s of waiting.
        shut = getattr(self._passing, "_shutdown_workers", None)
        if shut is not None:
            shut()
        if self._gpu is not None:
            self._gpu.close()
        self._loader = self._passing = None


class _Current:
    """The keys of the pass that is about to begin; DataLoader reads them in this process."""

    def __init__(self, keys: list[Key]) -> None:
        self._keys = keys

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._keys))

    def __len__(self) -> int:
        return len(self._keys)


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_trainer(number: int) -> None:
    """Let a loader process outlive what a terminal or Slurm sends to a whole group, for the step that is still made.

    Of SIGTERM only the first is ignored: it is also how the process is ended if it does not end by itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
