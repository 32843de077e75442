"""Which samples a step takes, and which of them a rank. Its whole state is (epoch, steps done), so skipping is free."""

from collections.abc import Iterator

import numpy as np

from raydet.data.columns import Ints


class EpochSampler:
    """Each epoch a new order of the rows, cut into global batches, these into ranks' shares and micro-batches.

    The global batches depend on seed and epoch alone, not on rank, world or micro_batch.
    """

    def __init__(
        self,
        rows: Ints,
        seed: int,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        """Args:
        rows: the samples to draw from.
        drop_last: leave out the last, incomplete global batch; otherwise it is filled from the epoch's start.

        Raises:
            ValueError: no step can be made, or a rank would get no sample.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank must be 0 to {world - 1}, got {rank}")
        if global_batch < world:
            raise ValueError(f"a global batch of {global_batch} leaves some of {world} workers without a sample")
        self._rows, self._seed, self._global = rows, seed, global_batch
        share_R = _shares(global_batch, world)
        self._begin = sum(share_R[:rank])
        # As many micro-batches on every rank, or their exchanges (DDP, SyncBatchNorm) would wait for each other.
        self._parts = _split(share_R[rank], -(-max(share_R) // micro_batch), micro_batch)
        self.steps_per_epoch = len(rows) // global_batch if drop_last else -(-len(rows) // global_batch)
        """Steps of every epoch."""
        if self.steps_per_epoch == 0:
            cure = "set data.drop_last=false or a smaller batch" if len(rows) else "the data set is empty"
            raise ValueError(f"{len(rows)} samples make no global batch of {global_batch}; {cure}")

    def global_batches(self, epoch: int, first_step: int = 0) -> Iterator[Ints]:
        """Yield each step's rows over all ranks, from `first_step` to the epoch's end."""
        order = self._rows[np.random.default_rng([self._seed, epoch]).permutation(len(self._rows))]
        for step in range(first_step, self.steps_per_epoch):
            yield order[np.arange(step * self._global, (step + 1) * self._global) % len(order)]

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[list[Ints]]:
        """Yield this rank's micro-batches of each step, from `first_step` to the epoch's end."""
        ends = np.cumsum(self._parts) + self._begin
        for rows in self.global_batches(epoch, first_step):
            yield [rows[end - size : end] for end, size in zip(ends, self._parts, strict=True)]


def eval_shard(n: int, rank: int, world: int) -> range:
    """Return the rank's samples of an evaluation: each of n once over all ranks, no padding with repeats."""
    return range(rank, n, world)


def _shares(total: int, parts: int) -> list[int]:
    """Sizes that differ by at most 1, the even ones first: mixup's pairs break at odd borders only."""
    sizes = [total // parts + (i < total % parts) for i in range(parts)]
    return sorted(sizes, key=lambda size: size % 2)


def _split(total: int, parts: int, most: int) -> list[int]:
    """At most `parts` sizes of at most `most`, as equal as can be; all even where `total` and `most` allow it."""
    if total % 2 == 0 and most % 2 == 0 and total >= 2 * parts:
        return [2 * size for size in _shares(total // 2, parts) if size]
    return [size for size in _shares(total, parts) if size]
