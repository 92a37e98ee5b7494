"""The emulator itself, by small kernels whose results, traffic and mistakes are known."""

from __future__ import annotations

import re

import pytest
import torch

from tests import cuda_on_cpu

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason=cuda_on_cpu.NO_COMPILER)


def launched(kernel, *arguments, seed=0, count=True):
    """Run a toy kernel, and return its result and its one launch."""
    with cuda_on_cpu.running(seed, count) as report:
        result = cuda_on_cpu.op(f"toy_{kernel}")(*arguments)
    (launch,) = report.launches
    return result, launch


@pytest.mark.parametrize("seed", [0, 1])
def test_a_coalesced_copy_of_packs_moves_each_sector_once(seed):
    values = torch.randn(4 * 1000)
    copy, launch = launched("copy", values, 4, 1000, 0, 1, seed=seed)
    assert torch.equal(copy, values)
    assert launch.kernel == "toy::copy<float, 4>"
    assert (launch.grid, launch.block) == ((4, 1, 1), (256, 1, 1))
    for traffic in (launch.read, launch.written):
        assert traffic.bytes == values.nbytes
        assert traffic.sectors == traffic.distinct_sectors == values.nbytes // 32
        assert traffic.accesses == 32  # 31 whole warps, and 8 threads of one more
    assert launch.atomic.accesses == 0


def test_every_second_element_reads_twice_the_sectors():
    copy, launch = launched("copy", torch.arange(2.0 * 1024), 1, 1024, 0, 2)
    assert torch.equal(copy, torch.arange(1024.0) * 2)
    assert launch.read.sectors == 2 * 1024 * 4 // 32
    assert launch.written.sectors == 1024 * 4 // 32


def test_a_start_that_is_off_by_four_bytes_reads_one_sector_more_for_each_warp():
    _, launch = launched("copy", torch.zeros(1025), 1, 1024, 1, 1)
    assert launch.read.sectors == 1024 * 4 // 32 + 1024 // 32
    assert launch.read.distinct_sectors == 1024 * 4 // 32 + 1


def test_a_broadcast_reads_one_sector_for_each_warp():
    copy, launch = launched("copy", torch.tensor([7.0]), 1, 1024, 0, 0)
    assert (copy == 7).all()
    assert (launch.read.accesses, launch.read.sectors, launch.read.distinct_sectors) == (32, 32, 1)
    assert launch.read.bytes == 4 * 1024


@pytest.mark.parametrize("step", [8, 100, 4096])
def test_lanes_far_apart_read_a_sector_each(step):
    _, launch = launched("copy", torch.zeros(64 * step), 1, 64, 0, step)
    assert launch.read.sectors == launch.read.distinct_sectors == 64


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lanes_that_share_sectors_of_two_far_places_read_each_sector_once(seed):
    """The lanes read in turns from two places: 16 neighbours of each, which are two sectors."""
    values = torch.randn(2000)
    index = torch.stack([torch.arange(16), 1000 + torch.arange(16)], 1).flatten()
    result, launch = launched("gather", values, index, seed=seed)
    assert torch.equal(result, values[index])
    assert launch.read.accesses == 2
    assert launch.read.sectors == launch.read.distinct_sectors == 32 * 8 // 32 + 4


def test_the_turns_of_a_loop_are_accesses_of_their_own_and_lanes_may_sit_out():
    values = torch.randn(3, 72)
    sums, launch = launched("row_sums", values)
    torch.testing.assert_close(sums, values.sum(1))
    assert launch.read.accesses == 3 * 3
    assert launch.read.sectors == 3 * 72 * 4 // 32
    assert launch.written.sectors == 3
    assert launch.written.distinct_sectors == 1


def test_without_counting_the_launch_is_recorded_and_nothing_is_counted():
    _, launch = launched("copy", torch.zeros(256), 1, 256, 0, 1, count=False)
    assert launch.kernel == "toy::copy<float, 1>"
    assert launch.read.sectors == launch.written.bytes == 0


@pytest.mark.parametrize("seed", range(5))
def test_block_sums_through_shuffles_and_shared_memory_have_the_same_bits_for_every_seed(seed):
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    sums, _ = launched("block_sums", values, 3, seed=seed)
    torch.testing.assert_close(sums.sum(), values.double().sum())
    assert torch.equal(sums, launched("block_sums", values, 3)[0])


@pytest.mark.parametrize("block", [1, 33, 64, 1000])
@pytest.mark.parametrize("seed", [0, 1])
def test_dynamic_shared_memory_holds_arrays_of_several_types(block, seed):
    values = torch.randn(3 * block)
    result, launch = launched("reverse", values, block, seed=seed)
    assert torch.equal(result.view(3, block), values.view(3, block).flip(1))
    assert launch.shared_bytes == 12 * block


@pytest.mark.parametrize("seed", range(4))
def test_warp_operations_are_those_of_the_programming_guide(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-500, 500, (32,), generator=generator, dtype=torch.int32)
    v = values.tolist()
    unsigned = [x % 2**32 for x in v]
    lanes = range(32)

    def folded(start, step, items):
        for item in items:
            start = step(start, item)
        return [start] * 32

    def remainder(x):  # as C has it, towards zero
        return abs(x) % 3 * (1 if x >= 0 else -1)

    expected = [
        [v[(lane * 7 + 3) % 32] for lane in lanes],
        [v[lane // 8 * 8 + 5] for lane in lanes],
        [v[lane + 3] if lane + 3 < 32 else v[lane] for lane in lanes],
        [v[lane + 3] if lane % 16 + 3 < 16 else v[lane] for lane in lanes],
        [v[lane - 2] if lane >= 2 else v[lane] for lane in lanes],
        [v[lane - 2] if lane % 4 >= 2 else v[lane] for lane in lanes],
        [v[lane ^ 9] for lane in lanes],
        [v[lane ^ 5] if lane ^ 5 < lane // 4 * 4 + 4 else v[lane] for lane in lanes],
        [sum(1 << lane for lane in lanes if v[lane] > 0)] * 32,
        [int(all(x > 0 for x in v))] * 32,
        [1] * 32,
        [0] * 32,
        [int(any(x > 0 for x in v))] * 32,
        [sum(v)] * 32,
        [min(v)] * 32,
        [max(v)] * 32,
        [min(unsigned)] * 32,
        [max(unsigned)] * 32,
        folded(2**32 - 1, lambda a, b: a & b, (x | 1 for x in unsigned)),
        folded(0, lambda a, b: a | b, (x & 12 for x in unsigned)),
        folded(0, lambda a, b: a ^ b, unsigned),
        [sum(1 << other for other in lanes if remainder(v[other]) == remainder(v[lane])) for lane in lanes],
        [v[lane ^ 1] if lane < 16 else -1 for lane in lanes],  # -1: what the kernel left unwritten
        [4 * v[31 - lane] + 1 for lane in lanes],
    ]
    result, _ = launched("warp_operations", values, seed=seed)
    assert [[x % 2**32 for x in row] for row in result.tolist()] == [[x % 2**32 for x in row] for row in expected]


@pytest.mark.parametrize("threads", [1, 32, 77, 1024])
def test_votes_of_a_block(threads):
    values = torch.randint(-1, 2, (threads,), dtype=torch.int32)
    result, _ = launched("block_votes", values, seed=1)
    positive = values > 0
    expected = [positive.sum(), positive.all(), positive.any()]
    assert result.tolist() == [[int(x)] * threads for x in expected]


def test_every_thread_of_a_grid_of_three_axes_runs_once():
    result, _ = launched("indices", torch.empty(0), (3, 2, 4), (5, 3, 2), seed=2)
    assert torch.equal(result, torch.arange(24, dtype=torch.int32)[:, None] * 1000 + torch.arange(30))


@pytest.mark.parametrize("seed", [0, 1])
def test_atomics(seed):
    values = torch.randint(0, 1000, (500,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    (histogram, slots, total), launch = launched("atomics", values, 13, seed=seed)
    assert torch.equal(histogram, torch.bincount(values % 13, minlength=13).int())
    bits_or, bits_and, bits_xor = 0, -1, 0
    for value in values.tolist():
        bits_or, bits_and, bits_xor = bits_or | value, bits_and & (value | 8), bits_xor ^ value
    expected = [values.max().item(), values.min().item(), bits_or, bits_and, bits_xor, -values.sum().item(), 7, 1, 5]
    assert slots.tolist() == expected
    assert total.item() == 250
    assert launch.atomic.accesses > 0
    assert launch.written.accesses == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_half_precision_rounds_as_torch_does(dtype, wide):
    generator = torch.Generator().manual_seed(0)
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).to(wide)  # all values there are
    between = (every + every.nextafter(torch.tensor(torch.inf, dtype=wide))) / 2
    halfway = torch.cat([(every + every.roll(-1)) / 2, every * (1 + 2.0**-9), every * (1 + 2.0**-12)])
    sizes = torch.randn(4000, generator=generator, dtype=wide) * torch.logspace(-46, 39, 4000, dtype=wide)
    values = torch.cat([every, between, halfway, sizes])
    (rounded, back), _ = launched("convert", values, dtype == torch.bfloat16, count=False)
    expected = values.to(dtype)
    if wide == torch.float64:  # torch rounds twice, by way of float32: where that differs, ours must be nearer
        differs = ~((rounded == expected) | (rounded.isnan() & expected.isnan()))
        ours, theirs = (value.double()[differs] - values[differs] for value in (rounded, expected))
        assert differs.double().mean() < 0.01
        assert (ours.abs() <= theirs.abs()).all()
        expected = torch.where(differs, rounded, expected)
    assert torch.equal(rounded.isnan(), expected.isnan())
    numbers = ~expected.isnan()
    assert torch.equal(rounded[numbers].view(torch.int16), expected[numbers].view(torch.int16))
    torch.testing.assert_close(back, rounded.float(), rtol=0, atol=0, equal_nan=True)


def test_the_seed_decides_the_order_of_threads_and_of_blocks():
    threads, blocks = set(), set()
    for seed in range(10):
        (of_block, of_grid), _ = launched("racy", torch.empty(0), 6, seed=seed)
        again, _ = launched("racy", torch.empty(0), 6, seed=seed)
        assert torch.equal(again[0], of_block)
        assert torch.equal(again[1], of_grid)
        threads.add(tuple(of_block.tolist()))
        blocks.add(of_grid.item())
    assert len(threads) == 10
    assert len(blocks) > 2
    natural, _ = launched("racy", torch.empty(0), 6)
    assert natural[0].tolist() == [63] * 6
    assert natural[1].item() == 5


WHERE = r"toy::mistaken: block \(1, 0, 0\), thread \(37, 0, 0\): "
LINE = r"toy_kernels\.cuh:\d+"
MISTAKES = {
    "reads_behind_the_end": rf"reads 4 bytes at 0x\w+, 0 bytes behind the end of a buffer of 512 bytes \({LINE}\)",
    "reads_before_the_start": rf"reads 4 bytes at 0x\w+, 4 bytes before a buffer of 512 bytes \({LINE}\)",
    "writes_behind_the_end": rf"writes 4 bytes at 0x\w+, 0 bytes behind the end of a buffer of 512 bytes \({LINE}\)",
    "writes_an_input": rf"writes 4 bytes at 0x\w+, in a buffer of 512 bytes that is an input \({LINE}\)",
    "loads_a_pack_misaligned": rf"reads 8 bytes at 0x\w+, which is not a multiple of 8 \({LINE}\)",
    "adds_behind_the_end": rf"updates 4 bytes at 0x\w+, 0 bytes behind the end of a buffer of 512 bytes \({LINE}\)",
    "skips_a_barrier": rf"waits in __syncthreads at {LINE} while thread \(0, 0, 0\) waits in __syncthreads at {LINE}",
    "leaves_a_barrier_waiting": rf"waits in __shfl_sync with mask 0xffffffff at {LINE}, "
    rf"but lane 0 waits in __syncthreads at {LINE}",
    "mixes_barriers": rf"waits in __syncthreads_count at {LINE} "
    rf"while thread \(0, 0, 0\) waits in __syncthreads at {LINE}",
    "shuffles_from_outside_the_mask": rf"__shfl_sync reads from lane 6, which its mask 0x20 does not name \({LINE}\)",
    "is_not_in_its_own_mask": rf"__shfl_sync with mask 0x40, which does not name its own lane 5 \({LINE}\)",
    "shuffles_across_odd_segments": rf"shuffles in segments of 3 lanes, not of a power of two up to 32 \({LINE}\)",
    "reads_unwritten_shared": r"reads element 37 of a shared array that no thread of the block has written "
    rf"\({LINE}\)",
    "reads_unwritten_dynamic_shared": r"reads element 37 of a shared array that no thread of the block has written "
    rf"\({LINE}\)",
    "indexes_behind_shared": rf"accesses element 64 of a shared array of 64 \({LINE}\)",
    "asks_for_too_much_dynamic_shared": rf"asks for bytes 4 to 260 of 256 bytes of dynamic shared memory \({LINE}\)",
}
# The threads that suffer, lanes 0 of the warp whose lane 5 is missing, are the ones that are named.
VICTIM = WHERE.replace("37", "32")
MISSING = {
    "leaves_before_a_shuffle": rf"waits in __shfl_sync with mask 0xffffffff at {LINE}, but lane 5 has finished",
    "sits_out_a_vote": rf"waits in __any_sync with mask 0xffffffff at {LINE}, "
    rf"but lane 5 waits in __syncthreads at {LINE}",
}


def assert_reported(pattern, mistake, seed, values):
    for count in (True, False):
        with (
            pytest.raises(cuda_on_cpu.KernelError) as caught,
            cuda_on_cpu.running(seed, count),
        ):
            cuda_on_cpu.op("toy_mistaken")(mistake, values)
        assert re.fullmatch(pattern, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_with_its_kernel_block_and_thread(mistake, seed):
    assert_reported(WHERE + MISTAKES[mistake], mistake, seed, torch.zeros(128))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("mistake", MISSING)
def test_a_missing_lane_is_reported_by_a_lane_that_waits_for_it(mistake, seed):
    assert_reported(VICTIM + MISSING[mistake], mistake, seed, torch.zeros(128))


def test_a_mask_may_not_name_lanes_that_the_block_does_not_have():
    pattern = (
        r"toy::mistaken: block \(0, 0, 0\), thread \(32, 0, 0\): "
        rf"waits in __shfl_sync with mask 0xffffffff at {LINE}, but lane 18 is not in the block"
    )
    assert_reported(pattern, "names_lanes_beyond_the_block", 0, torch.zeros(100))


def test_what_one_call_wrote_is_an_input_of_the_next():
    copy, _ = launched("copy", torch.zeros(128), 1, 128, 0, 1)
    assert_reported(WHERE + MISTAKES["writes_an_input"], "writes_an_input", 0, copy)


def test_after_a_mistake_the_next_launch_is_as_good_as_any():
    for mistake in MISTAKES:
        with pytest.raises(cuda_on_cpu.KernelError):
            cuda_on_cpu.op("toy_mistaken")(mistake, torch.zeros(128))
        test_block_sums_through_shuffles_and_shared_memory_have_the_same_bits_for_every_seed(3)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("toy_indices", ((1, 1, 1), (32, 33, 1)), "a block of (32, 33, 1) threads"),
        ("toy_indices", ((0, 1, 1), (32, 1, 1)), "a grid of (0, 1, 1) blocks"),
        ("toy_indices", ((1, 65536, 1), (1, 1, 1)), "a grid of (1, 65536, 1) blocks"),
        ("toy_atomics", (100_000,), "400000 bytes of dynamic shared memory are more than a GPU has"),
        ("toy_atomics", (20_000,), "80000 bytes of dynamic shared memory are more than cudaFuncSetAttribute allowed"),
    ],
)
def test_a_launch_that_no_gpu_takes_is_refused(name, arguments, words):
    with pytest.raises(cuda_on_cpu.KernelError, match=re.escape(words)):
        cuda_on_cpu.op(name)(torch.zeros(1).int(), *arguments)


def test_running_puts_the_kernels_in_place_of_the_cpus_until_the_block_ends():
    library = torch.library.Library("mdnkernels", "FRAGMENT")
    library.define("toy_row_sums(Tensor values) -> Tensor")
    library.impl("toy_row_sums", lambda values: torch.full(values.shape[:1], -1.0), "CPU")
    values = torch.randn(4, 40)
    try:
        with cuda_on_cpu.running() as report:
            sums = torch.ops.mdnkernels.toy_row_sums(values)
        torch.testing.assert_close(sums, values.sum(1))
        assert [launch.kernel for launch in report.launches] == ["toy::row_sums"]
        assert report.sectors_read == 4 * 40 * 4 // 32
        assert torch.ops.mdnkernels.toy_row_sums(values).tolist() == [-1] * 4
        with pytest.raises(KeyError), cuda_on_cpu.running():
            raise KeyError
        assert torch.ops.mdnkernels.toy_row_sums(values).tolist() == [-1] * 4
    finally:
        library._destroy()
