"""The order of images: a function of seed and epoch, shared out among processes, resumable at any batch."""

from __future__ import annotations

import itertools

import pytest

from mdnkernels.train.data.sampler import EpochBatchSampler, epoch_order
from mdnkernels.train.errors import ConfigError


def batches(sampler: EpochBatchSampler, epoch: int, done: int = 0) -> list[list[tuple[int, int]]]:
    sampler.set_position(epoch, done)
    assert len(sampler) == len(list(sampler))
    return list(sampler)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert sorted(epoch_order(50, 1, 2)) == list(range(50))
    assert (epoch_order(50, 1, 2) == epoch_order(50, 1, 2)).all()
    assert (epoch_order(50, 1, 2) != epoch_order(50, 1, 3)).any()
    assert (epoch_order(50, 1, 2) != epoch_order(50, 2, 2)).any()


def test_epoch_takes_every_image_once_and_leaves_out_the_rest_of_a_batch() -> None:
    got = batches(EpochBatchSampler(26, 4, seed=3), epoch=5)
    assert [len(batch) for batch in got] == [4] * 6
    keys = [key for batch in got for key in batch]
    assert {epoch for epoch, _ in keys} == {5}
    assert len({index for _, index in keys}) == 24


def test_start_in_mid_epoch_continues_the_same_epoch() -> None:
    sampler = EpochBatchSampler(26, 4, seed=3)
    assert batches(sampler, 5, done=8) == batches(sampler, 5)[2:]
    assert batches(sampler, 5, done=24) == []


def test_epoch_that_goes_on_with_another_batch_takes_every_image_once() -> None:
    """An epoch of up to 14 images stops wherever it can and goes on with another batch size and more processes."""
    for length, first, second, processes in itertools.product(range(1, 15), range(1, 8), range(1, 8), (1, 2, 3)):
        if min(second, length) % processes:
            continue
        whole = batches(EpochBatchSampler(length, first, seed=3), 1)
        after = [EpochBatchSampler(length, second, seed=3, process=r, processes=processes) for r in range(processes)]
        for stop in range(len(whole) + 1):
            taken = [key for batch in whole[:stop] for key in batch]
            shares = [batches(sampler, 1, len(taken)) for sampler in after]
            assert len({len(share) for share in shares}) == 1
            assert all(len(batch) >= 1 for share in shares for batch in share)
            rest = [key for share in shares for batch in share for key in batch]
            assert len({*taken, *rest}) == len(taken) + len(rest)
            # After whole batches of the second size as much is left out as in an epoch of that size. Otherwise only
            # images are left out that cannot give one to every process.
            dropped = length % min(second, length) if len(taken) % min(second, length) == 0 else processes - 1
            assert length - len(taken) - len(rest) <= dropped


def test_processes_share_out_the_same_global_batches() -> None:
    whole = batches(EpochBatchSampler(26, 6, seed=3), 1)
    shares = [batches(EpochBatchSampler(26, 6, seed=3, process=r, processes=3), 1) for r in range(3)]
    for number, batch in enumerate(whole):
        assert sorted(key for share in shares for key in share[number]) == sorted(batch)
        assert {len(share[number]) for share in shares} == {2}


def test_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--batch: 6 images .* among 4 processes"):
        EpochBatchSampler(26, 6, seed=0, processes=4)


def test_small_data_set_makes_one_smaller_batch() -> None:
    assert [len(batch) for batch in batches(EpochBatchSampler(5, 12, seed=0), 0)] == [5]
