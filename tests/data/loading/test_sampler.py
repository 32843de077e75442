"""Order, shares and resuming of the samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.data.loading.sampler import EpochSampler, eval_shard


def flat(sampler: EpochSampler, epoch: int, first_step: int = 0) -> list[list[int]]:
    return [[int(r) for rows in step for r in rows] for step in sampler.batches(epoch, first_step)]


@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 9), st.integers(1, 5), st.booleans(), st.integers(0, 3))
def test_ranks_together_take_each_global_batch_once(
    n: int, batch: int, micro: int, world: int, drop_last: bool, epoch: int
) -> None:
    if batch < world or (drop_last and n < batch):
        return
    rows = np.arange(n) * 3
    ranks = [EpochSampler(rows, 7, batch, micro, r, world, drop_last) for r in range(world)]
    whole = [step.tolist() for step in EpochSampler(rows, 7, batch, batch, 0, 1, drop_last).global_batches(epoch)]
    per_rank = [flat(sampler, epoch) for sampler in ranks]
    assert [[row for part in parts for row in part] for parts in zip(*per_rank, strict=True)] == whole
    assert all(len(step) == batch for step in whole)
    assert len(whole) == ranks[0].steps_per_epoch == (n // batch if drop_last else -(-n // batch))
    sizes = [len(steps[0]) for steps in per_rank]
    assert max(sizes) - min(sizes) <= 1
    micros = [[len(m) for m in next(s.batches(epoch))] for s in ranks]
    assert all(1 <= m <= micro for one in micros for m in one)
    assert micro == 1 or len({len(one) for one in micros}) == 1


def test_an_epoch_shows_every_sample_once_and_fills_up_from_its_start() -> None:
    sampler = EpochSampler(np.arange(10), 0, 4, 4)
    steps = flat(sampler, 3)
    order = [row for step in steps for row in step]
    assert sorted(order[:10]) == list(range(10))
    assert order[10:] == order[:2]


def test_fewer_samples_than_a_batch_wrap_as_often_as_needed() -> None:
    steps = flat(EpochSampler(np.arange(3), 0, 8, 8), 0)
    assert len(steps) == 1
    assert steps[0] == (steps[0][:3] * 3)[:8]


def test_drop_last_leaves_the_rest_out_and_refuses_an_empty_epoch() -> None:
    assert EpochSampler(np.arange(10), 0, 4, 4, drop_last=True).steps_per_epoch == 2
    with pytest.raises(ValueError, match=r"data\.drop_last=false"):
        EpochSampler(np.arange(3), 0, 4, 4, drop_last=True)


@pytest.mark.parametrize(("batch", "rank", "world"), [(2, 0, 3), (4, 2, 2), (4, -1, 2)])
def test_shares_that_cannot_be_are_refused(batch: int, rank: int, world: int) -> None:
    with pytest.raises(ValueError, match=r"worker|rank"):
        EpochSampler(np.arange(10), 0, batch, 4, rank, world)


def test_orders_differ_by_epoch_and_seed_and_repeat() -> None:
    a, b = EpochSampler(np.arange(50), 1, 5, 5), EpochSampler(np.arange(50), 2, 5, 5)
    assert flat(a, 0) == flat(a, 0)
    assert flat(a, 0) != flat(a, 1)
    assert flat(a, 0) != flat(b, 0)


def test_resuming_gives_the_undisturbed_rest() -> None:
    sampler = EpochSampler(np.arange(50), 1, 8, 3, 1, 2)
    assert flat(sampler, 4, 3) == flat(sampler, 4)[3:]
    assert flat(sampler, 4, sampler.steps_per_epoch) == []


@pytest.mark.parametrize("world", [1, 2, 4])
def test_even_shares_keep_mixups_pairs_together(world: int) -> None:
    whole = EpochSampler(np.arange(100), 0, 24, 24)
    pairs = {tuple(step[i : i + 2]) for step in flat(whole, 0) for i in range(0, 24, 2)}
    for rank in range(world):
        for step in EpochSampler(np.arange(100), 0, 24, 4, rank, world).batches(0):
            assert all(len(m) % 2 == 0 for m in step)
            assert {tuple(m[i : i + 2].tolist()) for m in step for i in range(0, len(m), 2)} <= pairs


def test_micro_batches_are_as_equal_as_can_be() -> None:
    sizes = [len(m) for m in next(EpochSampler(np.arange(100), 0, 10, 8).batches(0))]
    assert sorted(sizes) == [4, 6]


def test_evaluation_shards_cover_everything_once() -> None:
    assert sorted(i for r in range(3) for i in eval_shard(10, r, 3)) == list(range(10))
    assert list(eval_shard(1, 2, 3)) == []
