"""The order of images: a function of seed and epoch, shared out among processes, resumable at any batch."""

from __future__ import annotations

import pytest

from train.errors import ConfigError
from train.sampler import EpochBatchSampler, epoch_order


def batches(sampler: EpochBatchSampler, epoch: int, start: int = 0) -> list[list[tuple[int, int]]]:
    sampler.set_position(epoch, start)
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
    assert batches(sampler, 5, start=2) == batches(sampler, 5)[2:]
    assert batches(sampler, 5, start=6) == []


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
