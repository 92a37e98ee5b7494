"""A GPU's instructions (SASS, sm_80 to sm_90) carried out on the CPU: what a compiled kernel does, and how often.

A warp's registers are rows of 32 numbers. Threads part at a branch and meet again where the code says so (BSSY, BSYNC,
WARPSYNC), as on the device, so that what is counted is what its schedulers issue. Values are those of IEEE arithmetic;
the special functions (MUFU) come exactly rounded, where a device has an error in the last bits.

Memory is that of the process: kernels get the addresses of tensors, and reach these, or copies of them, and nothing
else. An instruction that nobody has needed yet is an error.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from benchmarks.sass.listing import Instruction, Kernel

LANES = np.arange(32)
ALL = np.ones(32, dtype=bool)
U32, U64, I64 = np.uint32, np.uint64, np.int64
# Where a kernel's parameters begin in bank 0 of its constants.
PARAMETERS = {"sm_80": 0x160, "sm_86": 0x160, "sm_89": 0x160, "sm_90": 0x210}
SHARED_BYTES = 256 << 10

Step = Callable[["Warp", "Group"], "int | None"]  # gives the number of the next instruction, where it is not the next


class Memory:
    """Ranges of addresses, each (begin, end, writeable)."""

    def __init__(self, buffers: list[tuple[int, int, bool]], copied: bool):
        self.begins = np.array([begin for begin, _, _ in buffers], dtype=U64)
        self.ends = np.array([end for _, end, _ in buffers], dtype=U64)
        self.writeable = [writeable for *_, writeable in buffers]
        self.bytes = []
        for begin, end, _ in buffers:
            array = np.ctypeslib.as_array((ctypes.c_uint8 * (end - begin)).from_address(begin))
            self.bytes.append(array.copy() if copied else array)
        self.views: dict[tuple[int, int], np.ndarray] = {}

    def places(self, addresses: np.ndarray, size: int, write: bool) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return for each range touched its elements of `size` bytes, which of `addresses` are there, and where."""
        found = []
        left = np.ones(len(addresses), dtype=bool)
        while left.any():
            address = addresses[np.argmax(left)]
            inside = (self.begins <= address) & (address + U64(size) <= self.ends)
            if write:
                inside &= self.writeable
            if not inside.any():
                raise IndexError(f"{'writes' if write else 'reads'} {size} bytes at {address:#x}, outside all buffers")
            number = int(np.argmax(inside))
            here = left & (addresses >= self.begins[number]) & (addresses + U64(size) <= self.ends[number])
            offsets = (addresses[here] - self.begins[number]).astype(I64)
            if (addresses[here] % U64(size)).any():
                raise IndexError(f"an address that is no multiple of {size}")
            found.append((self.view(number, size), here, offsets // size))
            left &= ~here
        return found

    def view(self, number: int, size: int) -> np.ndarray:
        if (number, size) not in self.views:
            kind = {1: np.uint8, 2: np.uint16, 4: U32, 8: np.dtype((U32, 2)), 16: np.dtype((U32, 4))}[size]
            data = self.bytes[number]
            self.views[number, size] = data[: len(data) // size * size].view(U32 if size > 4 else kind)
            if size > 4:
                self.views[number, size] = self.views[number, size].reshape(-1, size // 4)
        return self.views[number, size]


@dataclass
class Meeting:
    """Where threads that parted meet again: who is to come, and who is there."""

    members: np.ndarray
    at: int = 0  # the instruction behind it
    arrived: np.ndarray = field(default_factory=lambda: np.zeros(32, dtype=bool))


@dataclass
class Group:
    """Threads of a warp that run together."""

    at: int  # instruction
    mask: np.ndarray
    meetings: dict[str, Meeting] = field(default_factory=dict)
    full: bool = True


class Warp:
    def __init__(self, block: Block, number: int, threads: int):
        self.block = block
        self.number = number
        self.r = np.full((256, 32), 0xDEADBEEF, dtype=U32)
        self.r[255] = 0
        self.u = np.zeros((64, 32), dtype=U32)
        self.p = np.zeros((8, 32), dtype=bool)
        self.up = np.zeros((8, 32), dtype=bool)
        self.p[7] = self.up[7] = True
        alive = LANES + 32 * number < threads
        self.alive = alive.copy()
        self.ready = [Group(0, alive, full=bool(alive.all()))]
        self.at_barrier: list[tuple[Group, np.ndarray]] = []
        self.voted = ALL  # what the last reducing barrier gave
        self.executed = 0
        self.together: dict[int, Meeting] = {}  # of the whole warp, by instruction

    def settle(self, meeting: Meeting, group: Group) -> None:
        """Let those who meet go on where all are there."""
        if not (meeting.members & ~meeting.arrived).any() and meeting.arrived.any():
            mask = meeting.arrived.copy()
            meeting.arrived[:] = False
            self.ready.append(Group(meeting.at, mask, dict(group.meetings), bool(mask.all())))

    def run(self) -> Iterator[None]:
        """Run to the end; yield where all threads of the warp wait for the block."""
        machine = self.block.machine
        steps, counts = machine.steps, self.block.counts
        while True:
            while self.ready:
                group = self.ready.pop()
                while True:
                    step = steps[group.at]
                    counts[group.at] += 1
                    self.executed += 1
                    next_at = step(self, group)
                    if next_at is None:
                        group.at += 1
                    elif next_at < 0:  # the group waits, has ended, or was replaced
                        break
                    else:
                        group.at = next_at
            if not self.at_barrier:
                if self.alive.any():
                    raise RuntimeError("threads wait for others that never come")
                return
            yield
            groups, self.at_barrier = self.at_barrier, []
            mask = np.logical_or.reduce([group.mask for group, _ in groups])
            first = groups[0][0]
            if any(group.at != first.at for group, _ in groups):
                self.ready = [group for group, _ in groups]
            else:
                self.ready = [Group(first.at, mask, first.meetings, bool(mask.all()))]


class Block:
    """One block's threads, from beginning to end."""

    def __init__(self, machine: Machine, index: tuple[int, int, int], counts: list[int]):
        self.machine = machine
        self.index = index
        self.counts = counts
        self.shared = np.full(SHARED_BYTES, 0xFF, dtype=np.uint8)
        self.shared_views = {size: self.shared.view(kind) for size, kind in ((1, np.uint8), (2, np.uint16), (4, U32))}
        self.wavefronts = {"shared": 0, "global": 0}

    def run(self) -> int:
        """Run the block's warps; return how many instructions the longest issued."""
        threads = int(np.prod(self.machine.block))
        warps = [Warp(self, number, threads) for number in range((threads + 31) // 32)]
        running = [(warp, warp.run()) for warp in warps]
        while running:
            waiting = []
            votes = False
            for warp, progress in running:
                for _ in progress:
                    waiting.append((warp, progress))
                    votes |= any((vote & group.mask).any() for group, vote in warp.at_barrier)
                    break
            for warp, _ in waiting:
                warp.voted = ALL if votes else ~ALL
            running = waiting
        return max(warp.executed for warp in warps)


@dataclass
class Execution:
    """What running some blocks of a launch took."""

    blocks: int
    counts: dict[Instruction, int]  # executions by warps
    wavefronts: dict[str, int]  # cycles of a multiprocessor's path to shared and to global memory
    longest_warp: int  # instructions

    def of_unit(self, unit: str) -> int:
        return sum(count for instruction, count in self.counts.items() if instruction.unit == unit)

    @property
    def issued(self) -> int:
        return sum(self.counts.values())


class Machine:
    """A kernel about to be launched.

    Args:
        parameters: as they lie in memory.
        buffers: (begin, end, writeable) of what it may access.
        copied: leave the buffers themselves as they are.
    """

    def __init__(
        self,
        kernel: Kernel,
        architecture: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        parameters: bytes,
        buffers: list[tuple[int, int, bool]],
        copied: bool = False,
    ):
        self.kernel, self.grid, self.block = kernel, grid, block
        self.memory = Memory(buffers, copied)
        bank = bytearray(PARAMETERS[architecture])
        bank[:24] = np.array([*block, *grid], dtype=U32).tobytes()
        bank = bytes(bank) + parameters + bytes(16)
        self.constants = {0: bank, 2: kernel.constants + bytes(8)}
        self.index_of = {instruction.address: i for i, instruction in enumerate(kernel.instructions)}
        self.steps = [_later(self, instruction) for instruction in kernel.instructions]

    def run(self, blocks: list[int] | None = None) -> Execution:
        """Run blocks of the grid, all unless they are named."""
        width, height, _ = self.grid
        numbers = range(int(np.prod(self.grid))) if blocks is None else blocks
        counts = [0] * len(self.steps)
        wavefronts = {"shared": 0, "global": 0}
        longest = 0
        with np.errstate(all="ignore"):
            for number in numbers:
                block = Block(self, (number % width, number // width % height, number // width // height), counts)
                longest = max(longest, block.run())
                for path, cycles in block.wavefronts.items():
                    wavefronts[path] += cycles
        executed = {self.kernel.instructions[i]: count for i, count in enumerate(counts) if count}
        return Execution(len(numbers), executed, wavefronts, longest)

    def constant(self, bank: int, offset: int, size: int = 4) -> int:
        return int.from_bytes(self.constants[bank][offset : offset + size], "little")


def _later(machine: Machine, instruction: Instruction) -> Step:
    """Return a step that is translated when it is first met: most of a kernel's instructions never are."""

    from benchmarks.sass.instructions import translate  # which needs what is defined here

    def first(warp: Warp, group: Group) -> int | None:
        at = machine.index_of[instruction.address]
        machine.steps[at] = translate(machine, instruction)
        return machine.steps[at](warp, group)

    return first
