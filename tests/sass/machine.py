"""A GPU's instructions (SASS, sm_80 to sm_90) carried out on the CPU: what a compiled kernel does, and how often.

A warp's registers are rows of 32 numbers. Threads part at a branch and meet again where the code says so (BSSY, BSYNC,
WARPSYNC), as on the device, so that what is counted is what its schedulers issue. Values are those of IEEE arithmetic;
the special functions (MUFU) come exactly rounded, where a device has an error in the last bits.

Memory is the process's own: kernels get the addresses of tensors, of buffers that are copied unless they are to be
written. Accesses elsewhere, and instructions that nobody has needed yet, are errors.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tests.sass.listing import Instruction, Kernel

LANES = np.arange(32)
ALL = np.ones(32, dtype=bool)
U32, U64, I32, I64 = np.uint32, np.uint64, np.int32, np.int64
F32, F64 = np.float32, np.float64
LOW = U64(0xFFFFFFFF)
# Where a kernel's parameters begin in bank 0 of its constants.
PARAMETERS = {"sm_80": 0x160, "sm_86": 0x160, "sm_89": 0x160, "sm_90": 0x210}
SHARED_BYTES = 256 << 10

Value = Callable[["Warp"], np.ndarray]
Step = Callable[["Warp", "Group"], "int | None"]  # gives the next address where it is not the next instruction's


class UnknownInstructionError(NotImplementedError):
    pass


# --- Memory ----------------------------------------------------------------------------------------------------------


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
        """For each range that is touched: its elements of `size` bytes, which of `addresses` are there, and where."""
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


# --- Warps -----------------------------------------------------------------------------------------------------------


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
        """Lets those who meet go on where all are there."""
        if not (meeting.members & ~meeting.arrived).any() and meeting.arrived.any():
            mask = meeting.arrived.copy()
            meeting.arrived[:] = False
            self.ready.append(Group(meeting.at, mask, dict(group.meetings), bool(mask.all())))

    def run(self) -> Iterator[None]:
        """Until the end; gives way where all of its threads wait for the block."""
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
        """The instructions of the warp that has most."""
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
        """Runs blocks of the grid, all unless they are named."""
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
    """Translated when it is first met: most of a kernel's instructions never are."""

    def first(warp: Warp, group: Group) -> int | None:
        at = machine.index_of[instruction.address]
        machine.steps[at] = Translation(machine, instruction).step()
        return machine.steps[at](warp, group)

    return first


# --- Instructions ----------------------------------------------------------------------------------------------------


def pair(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return high.astype(U64) << U64(32) | low.astype(U64)


def compare(kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of numbers, with IEEE's ordered and (U) unordered kinds."""
    if kind in ("NUM", "NAN"):
        unordered = np.isnan(a) | np.isnan(b)
        return unordered if kind == "NAN" else ~unordered
    base = kind if kind in COMPARISONS else kind[:-1]
    result = COMPARISONS[base](a, b)
    if kind in ("NE", "NEU") and a.dtype.kind == "f":
        unordered = np.isnan(a) | np.isnan(b)
        return (result & ~unordered) if kind == "NE" else (result | unordered)
    if kind != base:
        result = result | np.isnan(a) | np.isnan(b)
    return result


COMPARISONS: dict[str, Callable[..., np.ndarray]] = {
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "EQ": np.equal,
    "NE": np.not_equal,
}
KINDS = (*COMPARISONS, *(kind + "U" for kind in COMPARISONS), "NUM", "NAN")


def combine(how: frozenset[str], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a | b if "OR" in how else a ^ b if "XOR" in how else a & b


def rounded(exact: np.ndarray, how: frozenset[str]) -> np.ndarray:
    """float64 to float32."""
    near = exact.astype(F32)
    if "RM" in how:
        near = np.where(near.astype(F64) > exact, np.nextafter(near, F32(-np.inf)), near)
    elif "RP" in how:
        near = np.where(near.astype(F64) < exact, np.nextafter(near, F32(np.inf)), near)
    elif "RZ" in how:
        near = np.where(np.abs(near.astype(F64)) > np.abs(exact), np.nextafter(near, F32(0)), near)
    if "SAT" in how:
        near = np.where(near > 0, np.minimum(near, F32(1)), F32(0))
    return near.astype(F32)


def lookup(table: int, a: np.ndarray, b: np.ndarray, c: np.ndarray, ones: object) -> np.ndarray:
    """A function of three bits, given by its eight values."""
    result = a & ~a
    for i in range(8):
        if table >> i & 1:
            result = result | ((a if i & 4 else a ^ ones) & (b if i & 2 else b ^ ones) & (c if i & 1 else c ^ ones))
    return result


def leading(values: np.ndarray) -> np.ndarray:
    """The place of the highest bit, -1 where there is none."""
    return np.where(values == 0, -1, np.floor(np.log2(np.maximum(values.astype(F64), 1)))).astype(I64)


class Translation:
    """One instruction as a function of a warp and a group."""

    def __init__(self, machine: Machine, instruction: Instruction):
        self.machine, self.instruction = machine, instruction
        name = instruction.name
        self.uniform = name[0] == "U"
        self.name = name[1:] if self.uniform else name
        self.how = instruction.modifiers
        self.operands = list(instruction.operands)

    def unknown(self, why: str = "") -> UnknownInstructionError:
        one = self.instruction
        return UnknownInstructionError(
            f"{one.address:#x} {one.opcode} {', '.join(one.operands)} {why}: tests/sass/machine.py does not know it"
        )

    def step(self) -> Step:
        method = getattr(self, f"do_{self.name.lower()}", None)
        if method is None:
            raise self.unknown()
        try:
            step = method()
        except (ValueError, IndexError, KeyError) as error:
            raise self.unknown(str(error)) from error
        if not self.instruction.guard or self.name in ("BRA", "CALL", "EXIT", "BREAK"):
            return step
        guard = self.predicate(self.instruction.guard)

        def guarded(warp: Warp, group: Group) -> int | None:
            mask = group.mask & guard(warp)
            if not mask.any():
                return None
            if not (group.mask & ~mask).any():
                return step(warp, group)
            rest = Group(group.at, mask, group.meetings, bool(mask.all()))
            result = step(warp, rest)
            if result is not None:
                raise self.unknown("under a guard that parts a warp")
            return None

        return guarded

    # Operands.

    def predicate(self, text: str) -> Value:
        inverted = text.startswith("!")
        text = text.lstrip("!")
        bank = "up" if text.startswith("U") else "p"
        number = 7 if text.endswith("T") else int(text.lstrip("UP"))
        if inverted:
            return lambda warp: ~getattr(warp, bank)[number]
        return lambda warp: getattr(warp, bank)[number]

    def word(self, text: str, offset: int = 0) -> Value:
        """32 bits of an operand without sign; `offset` words behind those it names."""
        if match := re.fullmatch(r"(U?)R(\d+|Z)(?:\.64|\.U32)?", text):
            if match[2] == "Z":
                zero = np.zeros(32, dtype=U32)
                return lambda warp: zero
            number = int(match[2]) + offset
            return (lambda warp: warp.u[number]) if match[1] else (lambda warp: warp.r[number])
        if match := re.fullmatch(r"c\[(0x\w+)\]\[(0x\w+)\]", text):
            value = self.machine.constant(int(match[1], 16), int(match[2], 16) + 4 * offset)
            constant = np.full(32, value, dtype=U32)
            return lambda warp: constant
        if re.fullmatch(r"-?0x[0-9a-f]+|-?\d+", text):
            value = int(text, 0)
            constant = np.full(32, (value >> 32 * offset) & 0xFFFFFFFF, dtype=U32)
            return lambda warp: constant
        raise ValueError(text)

    def integer(self, text: str) -> Value:
        """32 bits with the operand's sign or inversion."""
        if text.startswith("-") and not text.startswith("-0x"):
            inner = self.integer(text[1:])
            return lambda warp: (U64(1 << 32) - inner(warp).astype(U64)).astype(U32)
        if text.startswith("~"):
            inner = self.word(text[1:])
            return lambda warp: ~inner(warp)
        if text.startswith("|"):
            inner = self.word(text[1:-1])
            return lambda warp: np.abs(inner(warp).view(I32)).view(U32)
        return self.word(text)

    def addend(self, text: str) -> Value:
        """As 64 bits, where a negative number is its complement and one: what carries come from."""
        if text.startswith("-") and not text.startswith("-0x"):
            inner = self.word(text[1:])
            return lambda warp: (~inner(warp)).astype(U64) + U64(1)
        inner = self.integer(text)
        return lambda warp: inner(warp).astype(U64)

    def wide(self, text: str) -> Value:
        """64 bits."""
        if re.fullmatch(r"-?0x[0-9a-f]+", text):
            constant = np.full(32, int(text, 0) & (1 << 64) - 1, dtype=U64)
            return lambda warp: constant
        low, high = self.word(text), self.word(text, 1)
        return lambda warp: pair(low(warp), high(warp))

    def number(self, text: str, double: bool = False) -> Value:
        """A float's value."""
        kind = F64 if double else F32
        literal = {"+INF": np.inf, "-INF": -np.inf, "+QNAN": np.nan, "-QNAN": np.nan}.get(text.strip())
        if literal is not None or re.fullmatch(r"-?[\d.]+(e[-+]?\d+)?", text):
            constant = np.full(32, literal if literal is not None else float(text), dtype=kind)
            return lambda warp: constant
        if text.startswith("-"):
            inner = self.number(text[1:], double)
            return lambda warp: -inner(warp)
        if text.startswith("|"):
            inner = self.number(text[1:-1], double)
            return lambda warp: np.abs(inner(warp))
        half = re.search(r"\.H([01])_H\1$", text)
        if half:
            inner, shift = self.word(text[: half.start()]), U32(16 * int(half[1]))
            return lambda warp: (inner(warp) >> shift).astype(np.uint16).view(np.float16).astype(F32)
        inner = self.wide(text) if double else self.word(text)
        return lambda warp: inner(warp).view(kind)

    # Results.

    def put(self, text: str, offset: int = 0) -> Callable[[Warp, Group, np.ndarray], None]:
        """Into a register, of the group's threads; a uniform one has one value for all."""
        if text.endswith("RZ"):
            return lambda warp, group, value: None
        match = re.fullmatch(r"(U?)R(\d+)(?:\.64)?", text)
        if match is None:
            raise ValueError(text)
        number = int(match[2]) + offset
        if match[1]:

            def put_uniform(warp: Warp, group: Group, value: np.ndarray) -> None:
                warp.u[number] = value[np.argmax(group.mask)] if value.shape else value

            return put_uniform

        def put_register(warp: Warp, group: Group, value: np.ndarray) -> None:
            if group.full:
                warp.r[number] = value
            else:
                np.copyto(warp.r[number], value, where=group.mask)

        return put_register

    def put_predicate(self, text: str) -> Callable[[Warp, Group, np.ndarray], None]:
        if text.endswith("PT"):
            return lambda warp, group, value: None
        number = int(text.lstrip("UP"))
        if text.startswith("U"):

            def put_uniform(warp: Warp, group: Group, value: np.ndarray) -> None:
                warp.up[number] = value[np.argmax(group.mask)]

            return put_uniform
        return lambda warp, group, value: np.copyto(warp.p[number], value, where=group.mask)

    def put_wide(self, text: str) -> Callable[[Warp, Group, np.ndarray], None]:
        low, high = self.put(text), self.put(text, 1)

        def put(warp: Warp, group: Group, value: np.ndarray) -> None:
            value = value.view(U64)
            low(warp, group, (value & LOW).astype(U32))
            high(warp, group, (value >> U64(32)).astype(U32))

        return put

    def into(self, text: str, value: Value) -> Step:
        put = self.put(text)
        return lambda warp, group: put(warp, group, value(warp))

    def into_wide(self, text: str, value: Value) -> Step:
        put = self.put_wide(text)
        return lambda warp, group: put(warp, group, value(warp))

    def take_predicates(self) -> list[str]:
        """The predicates that stand behind the first result."""
        taken = []
        while len(self.operands) > 1 and re.fullmatch(r"U?P[0-7T]", self.operands[1]):
            taken.append(self.operands.pop(1))
        return taken

    def take_carries(self) -> list[Value]:
        """The predicates at the end."""
        taken = []
        while re.fullmatch(r"!?U?P[0-7T]", self.operands[-1]):
            taken.insert(0, self.predicate(self.operands.pop()))
        return taken

    # Integers.

    def do_mov(self) -> Step:
        return self.into(self.operands[0], self.integer(self.operands[1]))

    def do_iadd3(self) -> Step:
        results = [self.put_predicate(text) for text in self.take_predicates()]
        carries = self.take_carries() if "X" in self.how else []
        put = self.put(self.operands[0])
        terms = [self.addend(text) for text in self.operands[1:]]

        def step(warp: Warp, group: Group) -> None:
            total = terms[0](warp) + terms[1](warp)
            for term in terms[2:]:
                total = total + term(warp)
            for carry in carries:
                total = total + carry(warp).astype(U64)
            put(warp, group, (total & LOW).astype(U32))
            for i, result in enumerate(results):
                result(warp, group, total >> U64(32) > U64(i))

        return step

    def do_viadd(self) -> Step:
        a, b = map(self.integer, self.operands[1:])
        return self.into(self.operands[0], lambda warp: a(warp) + b(warp))

    def do_imad(self) -> Step:
        results = [self.put_predicate(text) for text in self.take_predicates()]
        carries = self.take_carries() if "X" in self.how else []
        out, a_text, b_text, c_text = self.operands
        a, b = self.integer(a_text), self.integer(b_text)
        signed = "U32" not in self.how
        long = bool(self.how & {"WIDE", "HI"})
        c = self.wide(c_text) if long else self.integer(c_text)
        if not long:

            def step(warp: Warp, group: Group) -> None:
                total = a(warp) * b(warp) + c(warp)
                for carry in carries:
                    total = total + carry(warp).astype(U32)
                put(warp, group, total)

            put = self.put(out)
            return step
        put_wide, put_high = self.put_wide(out) if "WIDE" in self.how else None, self.put(out)

        def step_long(warp: Warp, group: Group) -> None:
            left, right = a(warp), b(warp)
            if signed:
                product = (left.view(I32).astype(I64) * right.view(I32).astype(I64)).view(U64)
            else:
                product = left.astype(U64) * right.astype(U64)
            total = product + c(warp)
            if put_wide is not None:
                put_wide(warp, group, total)
            else:
                put_high(warp, group, (total >> U64(32)).astype(U32))
            for result in results:
                result(warp, group, total < product)

        return step_long

    def do_lea(self) -> Step:
        results = [self.put_predicate(text) for text in self.take_predicates()]
        carries = self.take_carries() if "X" in self.how else []
        put = self.put(self.operands[0])
        shift = U64(int(self.operands[-1], 0))
        high = "HI" in self.how
        negative = self.operands[1].startswith("-R") or self.operands[1].startswith("-UR")
        if negative and high:
            raise self.unknown()
        a, b = (
            self.integer(self.operands[1].lstrip("-") if negative else self.operands[1]),
            self.addend(self.operands[2]),
        )
        c = self.integer(self.operands[3]) if high and "SX32" not in self.how else None

        def step(warp: Warp, group: Group) -> None:
            low = a(warp)
            if not high:
                shifted = low.astype(U64) << shift & LOW
                if negative:
                    shifted = (shifted ^ LOW) + U64(1)
            elif c is None:
                shifted = (low.view(I32).astype(I64).view(U64) << shift) >> U64(32)
            else:
                shifted = (pair(low, c(warp)) << shift) >> U64(32)
            total = shifted + b(warp)
            for carry in carries:
                total = total + carry(warp).astype(U64)
            put(warp, group, (total & LOW).astype(U32))
            for result in results:
                result(warp, group, total >> U64(32) > U64(0))

        return step

    def do_shf(self) -> Step:
        out, a_text, s_text, c_text = self.operands
        a, s, c = self.word(a_text), self.word(s_text), self.word(c_text)
        how = self.how

        def value(warp: Warp) -> np.ndarray:
            by = s(warp).astype(U64)
            by = by & U64(31) if "W" in how else np.minimum(by, U64(63 if how & {"U64", "S64"} else 32))
            both = pair(a(warp), c(warp))
            if "L" in how:
                shifted = both << by
                if "HI" not in how:
                    return (shifted & LOW).astype(U32)
                return (shifted >> U64(32)).astype(U32)
            shifted = (both.view(I64) >> by.view(I64)).view(U64) if how & {"S32", "S64"} else both >> by
            return (shifted >> U64(32) if "HI" in how else shifted & LOW).astype(U32)

        return self.into(out, value)

    def do_lop3(self) -> Step:
        result = None
        if re.fullmatch(r"U?P[0-7T]", self.operands[0]):
            result = self.put_predicate(self.operands.pop(0))
        out, *sources, table, other_text = self.operands
        a, b, c = map(self.integer, sources)
        other = self.predicate(other_text)
        put, bits = self.put(out), int(table, 0)
        ones = U32(0xFFFFFFFF)

        def step(warp: Warp, group: Group) -> None:
            value = lookup(bits, a(warp), b(warp), c(warp), ones)
            put(warp, group, value)
            if result is not None:
                result(warp, group, (value != 0) | other(warp))

        return step

    def do_plop3(self) -> Step:
        first, second = self.put_predicate(self.operands[0]), self.put_predicate(self.operands[1])
        a, b, c = map(self.predicate, self.operands[2:5])
        tables = [int(text, 0) for text in self.operands[5:7]]

        def step(warp: Warp, group: Group) -> None:
            bits = a(warp).copy(), b(warp).copy(), c(warp).copy()
            first(warp, group, lookup(tables[0], *bits, True))
            second(warp, group, lookup(tables[1], *bits, True))

        return step

    def do_prmt(self) -> Step:
        out, a_text, s_text, b_text = self.operands
        a, b, s = self.word(a_text), self.word(b_text), self.word(s_text)

        def value(warp: Warp) -> np.ndarray:
            both, selector = pair(a(warp), b(warp)), s(warp).astype(U64)
            result = np.zeros(32, dtype=U64)
            for i in range(4):
                which = selector >> U64(4 * i) & U64(15)
                byte = both >> (which & U64(7)) * U64(8) & U64(255)
                byte = np.where(which > U64(7), np.where(byte > U64(127), U64(255), U64(0)), byte)
                result |= byte << U64(8 * i)
            return result.astype(U32)

        return self.into(out, value)

    def do_sel(self) -> Step:
        a, b, p = self.integer(self.operands[1]), self.integer(self.operands[2]), self.predicate(self.operands[3])
        return self.into(self.operands[0], lambda warp: np.where(p(warp), a(warp), b(warp)))

    def do_imnmx(self) -> Step:
        kind = U32 if "U32" in self.how else np.uint16 if "U16" in self.how else I32
        a, b, p = self.integer(self.operands[1]), self.integer(self.operands[2]), self.predicate(self.operands[-1])

        def value(warp: Warp) -> np.ndarray:
            left, right = a(warp).view(kind), b(warp).view(kind)
            if kind is np.uint16:  # two of them
                least, most = np.minimum(left, right).view(U32), np.maximum(left, right).view(U32)
                return np.where(p(warp), least, most)
            return np.where(p(warp), np.minimum(left, right), np.maximum(left, right)).view(U32)

        return self.into(self.operands[0], value)

    do_vimnmx = do_imnmx

    def do_viaddmnmx(self) -> Step:
        kind = U32 if "U32" in self.how else I32
        a, b, c = map(self.integer, self.operands[1:4])
        p = self.predicate(self.operands[-1])

        def value(warp: Warp) -> np.ndarray:
            left, right = (a(warp) + b(warp)).view(kind), c(warp).view(kind)
            return np.where(p(warp), np.minimum(left, right), np.maximum(left, right)).view(U32)

        return self.into(self.operands[0], value)

    def do_vimnmx3(self) -> Step:
        kind = U32 if "U32" in self.how else np.uint16 if "U16" in self.how else I32
        if len(self.operands) != 5:
            raise self.unknown()
        a, b, c = map(self.integer, self.operands[1:4])
        p = self.predicate(self.operands[4])

        def value(warp: Warp) -> np.ndarray:
            values = [source(warp).view(kind) for source in (a, b, c)]
            return np.where(p(warp), np.minimum.reduce(values).view(U32), np.maximum.reduce(values).view(U32))

        return self.into(self.operands[0], value)

    def do_iabs(self) -> Step:
        a = self.integer(self.operands[1])
        return self.into(self.operands[0], lambda warp: np.abs(a(warp).view(I32)).view(U32))

    def do_isetp(self) -> Step:
        extended = "EX" in self.how
        kind = next(name for name in COMPARISONS if name in self.how)
        signed = "U32" not in self.how
        first, second = self.put_predicate(self.operands[0]), self.put_predicate(self.operands[1])
        a, b = self.integer(self.operands[2]), self.integer(self.operands[3])
        p = self.predicate(self.operands[4])
        low = self.predicate(self.operands[5]) if extended else None

        def step(warp: Warp, group: Group) -> None:
            left, right = a(warp), b(warp)
            if signed:
                left, right = left.view(I32), right.view(I32)
            if low is None:
                result = COMPARISONS[kind](left, right)
            else:  # of the high words, where the low words decide between equals
                strictly = {"LE": "LT", "GE": "GT", "EQ": ""}.get(kind, kind)
                result = (left == right) & low(warp)
                if strictly:
                    result = result | COMPARISONS[strictly](left, right)
            other = p(warp).copy()
            first(warp, group, combine(self.how, result, other))
            second(warp, group, combine(self.how, ~result, other))

        return step

    def do_popc(self) -> Step:
        a = self.integer(self.operands[1])

        def value(warp: Warp) -> np.ndarray:
            return np.unpackbits(a(warp).view(np.uint8).reshape(32, 4), axis=1).sum(axis=1).astype(U32)

        return self.into(self.operands[0], value)

    def do_flo(self) -> Step:
        if "U32" not in self.how:
            raise self.unknown()
        a = self.integer(self.operands[1])

        def value(warp: Warp) -> np.ndarray:
            place = leading(a(warp))
            if "SH" in self.how:
                place = np.where(place < 0, -1, 31 - place)
            return place.astype(U32)

        return self.into(self.operands[0], value)

    def do_brev(self) -> Step:
        a = self.integer(self.operands[1])

        def value(warp: Warp) -> np.ndarray:
            bits = np.unpackbits(a(warp).view(np.uint8).reshape(32, 4), axis=1, bitorder="little")
            return np.packbits(bits[:, ::-1], axis=1, bitorder="little").view(U32).reshape(32)

        return self.into(self.operands[0], value)

    # Floating point.

    def floating(self, operation: Callable[..., np.ndarray]) -> Step:
        """float32, computed in float64 and rounded once (FFMA: nearly always once)."""
        sources = [self.number(text) for text in self.operands[1:]]
        how = self.how

        def value(warp: Warp) -> np.ndarray:
            return rounded(operation(*(source(warp).astype(F64) for source in sources)), how).view(U32)

        return self.into(self.operands[0], value)

    def do_fadd(self) -> Step:
        return self.floating(lambda a, b: a + b)

    def do_fmul(self) -> Step:
        return self.floating(lambda a, b: a * b)

    def do_ffma(self) -> Step:
        return self.floating(lambda a, b, c: a * b + c)

    def double(self, operation: Callable[..., np.ndarray]) -> Step:
        sources = [self.number(text, double=True) for text in self.operands[1:]]

        def value(warp: Warp) -> np.ndarray:
            return operation(*(source(warp).astype(np.longdouble) for source in sources)).astype(F64)

        return self.into_wide(self.operands[0], value)

    def do_dadd(self) -> Step:
        return self.double(lambda a, b: a + b)

    def do_dmul(self) -> Step:
        return self.double(lambda a, b: a * b)

    def do_dfma(self) -> Step:
        return self.double(lambda a, b, c: a * b + c)

    def compared(self, double: bool) -> Step:
        kind = next(name for name in KINDS if name in self.how)
        first, second = self.put_predicate(self.operands[0]), self.put_predicate(self.operands[1])
        a, b = self.number(self.operands[2], double), self.number(self.operands[3], double)
        p = self.predicate(self.operands[4])

        def step(warp: Warp, group: Group) -> None:
            result, other = compare(kind, a(warp), b(warp)), p(warp).copy()
            first(warp, group, combine(self.how, result, other))
            second(warp, group, combine(self.how, ~result, other))

        return step

    def do_fsetp(self) -> Step:
        return self.compared(double=False)

    def do_dsetp(self) -> Step:
        if "MAX" in self.how or "MIN" in self.how:
            raise self.unknown()
        return self.compared(double=True)

    def do_fsel(self) -> Step:
        a, b, p = self.number(self.operands[1]), self.number(self.operands[2]), self.predicate(self.operands[3])
        return self.into(self.operands[0], lambda warp: np.where(p(warp), a(warp), b(warp)).view(U32))

    def do_fmnmx(self) -> Step:
        a, b, p = self.number(self.operands[1]), self.number(self.operands[2]), self.predicate(self.operands[3])

        def value(warp: Warp) -> np.ndarray:
            left, right = a(warp), b(warp)
            return np.where(p(warp), np.fmin(left, right), np.fmax(left, right)).view(U32)

        return self.into(self.operands[0], value)

    def do_mufu(self) -> Step:
        if self.how & {"RCP64H", "RSQ64H"}:
            a = self.word(self.operands[1])

            def high(warp: Warp) -> np.ndarray:
                x = pair(np.zeros(32, dtype=U32), a(warp)).view(F64)
                result = 1 / x if "RCP64H" in self.how else 1 / np.sqrt(x)
                return (result.view(U64) >> U64(32)).astype(U32)

            return self.into(self.operands[0], high)
        functions = {
            "RCP": lambda x: 1 / x,
            "RSQ": lambda x: 1 / np.sqrt(x),
            "SQRT": np.sqrt,
            "EX2": np.exp2,
            "LG2": np.log2,
        }
        function = next(functions[name] for name in functions if name in self.how)
        return self.floating(function)

    def do_fchk(self) -> Step:
        first = self.put_predicate(self.operands[0])
        a, b = self.number(self.operands[1]), self.number(self.operands[2])

        def step(warp: Warp, group: Group) -> None:
            exponents = [(source(warp).view(U32) >> U32(23) & U32(255)).astype(I64) for source in (a, b)]
            of_a, of_b = exponents
            hard = (of_b <= 1) | (of_b >= 253) | (of_a <= 24) | (of_a == 255) | (abs(of_a - of_b) >= 125)
            first(warp, group, hard & (a(warp) != 0) | (of_b <= 1) | (of_b >= 253))

        return step

    # Conversions.

    def do_i2f(self) -> Step:
        out, text = self.operands
        wide = bool(self.how & {"S64", "U64"})
        a = self.wide(text) if wide else self.integer(text)
        kind = I64 if "S64" in self.how else U64 if "U64" in self.how else U32 if "U32" in self.how else I32
        if "U8" in self.how or "U16" in self.how or "S16" in self.how or "S8" in self.how:
            raise self.unknown()
        if "F64" in self.how:
            return self.into_wide(out, lambda warp: a(warp).view(kind).astype(F64))

        def value(warp: Warp) -> np.ndarray:
            exact = a(warp).view(kind).astype(np.longdouble)
            near = exact.astype(F32)
            if "RP" in self.how:
                near = np.where(near.astype(np.longdouble) < exact, np.nextafter(near, F32(np.inf)), near)
            return near.astype(F32).view(U32)

        return self.into(out, value)

    def do_i2fp(self) -> Step:
        a = self.integer(self.operands[1])
        kind = U32 if "U32" in self.how else I32
        return self.into(self.operands[0], lambda warp: a(warp).view(kind).astype(F32).view(U32))

    def do_f2i(self) -> Step:
        out, text = self.operands
        a = self.number(text, "F64" in self.how)
        wide = bool(self.how & {"S64", "U64"})
        unsigned = bool(self.how & {"U32", "U64"})
        bits = 64 if wide else 32
        least, most = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        how = self.how

        def values(warp: Warp) -> list[int]:
            x = a(warp).astype(F64)
            x = np.trunc(x) if "TRUNC" in how else np.floor(x) if "FLOOR" in how else np.rint(x)
            return [0 if v != v else least if v < least else most if v > most else int(v) for v in x.tolist()]

        if wide:
            return self.into_wide(out, lambda warp: np.array([v & (1 << 64) - 1 for v in values(warp)], dtype=U64))
        return self.into(out, lambda warp: np.array([v & 0xFFFFFFFF for v in values(warp)], dtype=U32))

    def do_f2f(self) -> Step:
        out, text = self.operands
        if self.instruction.opcode == "F2F.F64.F32":
            a = self.number(text)
            return self.into_wide(out, lambda warp: a(warp).astype(F64))
        if self.instruction.opcode == "F2F.F32.F64":
            a = self.number(text, double=True)
            return self.into(out, lambda warp: a(warp).astype(F32).view(U32))
        raise self.unknown()

    def do_f2fp(self) -> Step:
        out, high_text, low_text = self.operands
        high, low = self.number(high_text), self.number(low_text)

        def half(values: np.ndarray) -> np.ndarray:
            if "BF16" not in self.how:
                return values.astype(np.float16).view(np.uint16).astype(U32)
            bits = values.view(U32)
            near = bits + U32(0x7FFF) + (bits >> U32(16) & U32(1)) >> U32(16)
            return np.where(np.isnan(values), U32(0x7FFF), near)

        return self.into(out, lambda warp: half(high(warp)) << U32(16) | half(low(warp)))

    def do_hadd2(self) -> Step:
        if "F32" not in self.how:
            raise self.unknown()
        a, b = self.number(self.operands[1]), self.number(self.operands[2])
        return self.into(self.operands[0], lambda warp: (a(warp) + b(warp)).astype(F32).view(U32))

    def do_hfma2(self) -> Step:
        """Zero times zero and a constant, whose halves are named: a way to move one."""
        out, a, b, *halves = self.operands
        if a.lstrip("-") != "RZ" or b.lstrip("-") != "RZ":
            raise self.unknown()
        high, low = (int(np.float16(float(text)).view(np.uint16)) for text in halves)
        constant = np.full(32, high << 16 | low, dtype=U32)
        return self.into(out, lambda warp: constant)

    # Special registers, predicates, and what lanes give one another.

    def do_s2r(self) -> Step:
        name = self.operands[1]
        width, height, _ = self.machine.block

        def value(warp: Warp) -> np.ndarray:
            thread = LANES + 32 * warp.number
            index = warp.block.index
            values = {
                "SR_TID.X": thread % width,
                "SR_TID.Y": thread // width % height,
                "SR_TID.Z": thread // width // height,
                "SR_LANEID": LANES,
                "SR_CTAID.X": np.full(32, index[0]),
                "SR_CTAID.Y": np.full(32, index[1]),
                "SR_CTAID.Z": np.full(32, index[2]),
                "SR_CgaCtaId": np.zeros(32),
                "SR_LTMASK": (1 << LANES) - 1,
            }
            return values[name].astype(U32)

        return self.into(self.operands[0], value)

    do_s2ur = do_s2r

    def do_cs2r(self) -> Step:
        if self.operands[1] != "SRZ":
            raise self.unknown()
        return self.into_wide(self.operands[0], lambda warp: np.zeros(32, dtype=U64))

    def do_ldc(self) -> Step:
        """From the constants, at an address of its own for each lane, or at a fixed one."""
        match = re.fullmatch(r"c\[(0x\w+)\]\[(?:(U?R\d+|RZ)\+?)?(-?0x\w+)?\]", self.operands[1])
        if match is None:
            raise self.unknown()
        bank, base = int(match[1], 16), int(match[3] or "0", 16)
        index = self.word(match[2] or "RZ")
        size, signed = next(
            ((n, s) for how, n, s in (("U8", 1, False), ("S8", 1, True), ("64", 8, False)) if how in self.how),
            (4, False),
        )
        constant = self.machine.constant

        def value(warp: Warp) -> np.ndarray:
            raw = [constant(bank, base + int(i), size) if base + int(i) < 1 << 16 else 0 for i in index(warp)]
            if signed:
                raw = [(v - 256 if v > 127 else v) & 0xFFFFFFFF for v in raw]
            return np.array(raw, dtype=U64)

        if match[2] is None:  # always the same
            fixed = np.full(32, constant(bank, base, size), dtype=U64)
            if signed:
                fixed = fixed.astype(np.int8).astype(I32).view(U32).astype(U64)
            value = lambda warp: fixed  # noqa: E731
        if size == 8:
            return self.into_wide(self.operands[0], value)
        return self.into(self.operands[0], lambda warp: value(warp).astype(U32))

    def do_p2r(self) -> Step:
        out, _, text, mask_text = self.operands
        a, mask = self.word(text), int(mask_text, 0)

        def value(warp: Warp) -> np.ndarray:
            bits = sum(warp.p[i].astype(U32) << U32(i) for i in range(7) if mask >> i & 1)
            return a(warp) & U32(~mask & 0xFFFFFFFF) | bits

        return self.into(out, value)

    def do_r2p(self) -> Step:
        _, text, mask_text = self.operands
        a, mask = self.word(text), int(mask_text, 0)

        def step(warp: Warp, group: Group) -> None:
            bits = a(warp)
            for i in range(7):
                if mask >> i & 1:
                    np.copyto(warp.p[i], (bits >> U32(i) & U32(1)).astype(bool), where=group.mask)

        return step

    def do_r2ur(self) -> Step:
        return self.into(self.operands[0], self.word(self.operands[-1]))

    def do_vote(self) -> Step:
        out = None if re.fullmatch(r"U?P[0-7T]", self.operands[0]) else self.put(self.operands.pop(0))
        result, p = self.put_predicate(self.operands[0]), self.predicate(self.operands[1])

        def step(warp: Warp, group: Group) -> None:
            votes = p(warp) & group.mask
            decided = votes.any() if "ANY" in self.how else not (group.mask & ~votes).any()
            if out is not None:
                out(warp, group, np.full(32, int((votes.astype(U64) << LANES.astype(U64)).sum()), dtype=U32))
            result(warp, group, np.full(32, bool(decided)))

        return step

    do_voteu = do_vote

    def do_shfl(self) -> Step:
        result, put = self.put_predicate(self.operands[0]), self.put(self.operands[1])
        a, b, c = map(self.word, self.operands[2:])
        how = self.how

        def step(warp: Warp, group: Group) -> None:
            by, limit = b(warp).astype(I64) & 31, c(warp).astype(I64)
            segment, clamp = limit >> 8 & 31, limit & 31
            least = LANES & segment
            most = least | clamp & ~segment
            if "UP" in how:
                source = LANES - by
                valid = source >= most
            elif "DOWN" in how:
                source = LANES + by
                valid = source <= most
            else:
                source = LANES ^ by if "BFLY" in how else least | by & ~segment
                valid = source <= most
            value = a(warp)[np.where(valid, source, LANES)]
            put(warp, group, value)
            result(warp, group, valid)

        return step

    def do_redux(self) -> Step:
        a = self.word(self.operands[1])
        put = self.put(self.operands[0])
        if "SUM" not in self.how:
            raise self.unknown()

        def step(warp: Warp, group: Group) -> None:
            total = int(a(warp)[group.mask].astype(U64).sum()) & 0xFFFFFFFF
            put(warp, group, np.full(32, total, dtype=U32))

        return step

    # Memory.

    def address(self, text: str, wide: bool) -> Value:
        text = re.sub(r"^desc\[UR\d+\]", "", text).strip("[]")
        offset = 0
        parts: list[tuple[Value, int]] = []
        for part in re.findall(r"[+-]?[^+-]+", text):
            part = part.lstrip("+")
            if re.fullmatch(r"-?0x[0-9a-f]+", part):
                offset += int(part, 16)
                continue
            scale = re.search(r"\.X(\d+)$", part)
            register = re.sub(r"\.X\d+$", "", part)
            value = self.wide(register) if wide and register.endswith(".64") else self.word(register)
            if wide and register[:2] == "UR" and register != "URZ":
                value = self.wide(register)
            parts.append((value, int(scale[1]) if scale else 1))
        mask = U64((1 << 64) - 1 if wide else (1 << 24) - 1)
        fixed = U64(offset % (1 << 64))

        def total(warp: Warp) -> np.ndarray:
            result = np.full(32, fixed)
            for value, scale in parts:
                result = result + value(warp).astype(U64) * U64(scale)
            return result & mask

        return total

    def size(self) -> int:
        sizes = {"U8": 1, "S8": 1, "8": 1, "U16": 2, "S16": 2, "16": 2, "64": 8, "128": 16}
        return next((sizes[how] for how in self.how if how in sizes), 4)

    def load(self, read: Callable[[Warp, Group, int], list[np.ndarray]], signed: bool) -> Step:
        size = self.size()
        puts = [self.put(self.operands[0], word) for word in range(max(size // 4, 1))]

        def step(warp: Warp, group: Group) -> None:
            words = read(warp, group, size)
            for put, word in zip(puts, words, strict=True):
                if signed and size < 4:
                    word = word.astype({1: np.uint8, 2: np.uint16}[size]).view({1: np.int8, 2: np.int16}[size])
                    word = word.astype(I32).view(U32)
                put(warp, group, word)

        return step

    def do_ldg(self) -> Step:
        address = self.address(self.operands[1], wide=True)

        def read(warp: Warp, group: Group, size: int) -> list[np.ndarray]:
            addresses = address(warp)[group.mask]
            warp.block.wavefronts["global"] += global_wavefronts(addresses, size)
            words = np.zeros((max(size // 4, 1), int(group.mask.sum())), dtype=U32)
            for view, here, at in self.machine.memory.places(addresses, size, write=False):
                words[:, here] = view[at].T if size > 4 else view[at]
            result = np.zeros((len(words), 32), dtype=U32)
            result[:, group.mask] = words
            return list(result)

        return self.load(read, bool(self.how & {"S8", "S16"}))

    def do_stg(self) -> Step:
        address, size = self.address(self.operands[0], wide=True), self.size()
        words = [self.word(self.operands[1], word) for word in range(max(size // 4, 1))]

        def step(warp: Warp, group: Group) -> None:
            addresses = address(warp)[group.mask]
            warp.block.wavefronts["global"] += global_wavefronts(addresses, size)
            values = np.stack([word(warp)[group.mask] for word in words], axis=1)
            for view, here, at in self.machine.memory.places(addresses, size, write=True):
                view[at] = values[here] if size > 4 else values[here, 0].astype(view.dtype)

        return step

    def do_lds(self) -> Step:
        address = self.address(self.operands[1], wide=False)

        def read(warp: Warp, group: Group, size: int) -> list[np.ndarray]:
            addresses = address(warp).astype(I64)
            block = warp.block
            block.wavefronts["shared"] += shared_wavefronts(addresses[group.mask], size)
            if (addresses[group.mask] % size).any():
                raise IndexError(f"an address in shared memory that is no multiple of {size}")
            view = block.shared_views[min(size, 4)]
            first = np.where(group.mask, addresses, 0) // min(size, 4)
            return [view[first + word].astype(U32) for word in range(max(size // 4, 1))]

        return self.load(read, bool(self.how & {"S8", "S16"}))

    def do_sts(self) -> Step:
        address, size = self.address(self.operands[0], wide=False), self.size()
        words = [self.word(self.operands[1], word) for word in range(max(size // 4, 1))]

        def step(warp: Warp, group: Group) -> None:
            addresses = address(warp)[group.mask].astype(I64)
            block = warp.block
            block.wavefronts["shared"] += shared_wavefronts(addresses, size)
            if (addresses % size).any():
                raise IndexError(f"an address in shared memory that is no multiple of {size}")
            view = block.shared_views[min(size, 4)]
            for i, word in enumerate(words):
                view[addresses // min(size, 4) + i] = word(warp)[group.mask].astype(view.dtype)

        return step

    def atomically(self, old: int, value: int, bits: int) -> int:
        most = (1 << bits) - 1
        if "ADD" in self.how:
            return old + value & most
        if "INC" in self.how:  # POPC.INC: one for each lane
            return old + 1 & most
        operation = next(name for name in ("OR", "MAX", "MIN", "AND") if name in self.how)
        return {"OR": old | value, "AND": old & value, "MAX": max(old, value), "MIN": min(old, value)}[operation]

    def do_atoms(self) -> Step:
        put = self.put(self.operands[0])
        address = self.address(self.operands[1], wide=False)
        value = self.word(self.operands[2]) if len(self.operands) > 2 else self.word("RZ")

        def step(warp: Warp, group: Group) -> None:
            addresses, values = address(warp), value(warp)
            view = warp.block.shared_views[4]
            different, times = np.unique(addresses[group.mask], return_counts=True)
            one_by_one = 1 if "POPC" in self.how else int(times.max())  # POPC: lanes of one address count as one
            warp.block.wavefronts["shared"] += max(shared_wavefronts(different.astype(I64), 4), one_by_one)
            old = np.zeros(32, dtype=U32)
            for lane in np.flatnonzero(group.mask):
                at = int(addresses[lane]) // 4
                old[lane] = view[at]
                view[at] = self.atomically(int(view[at]), int(values[lane]), 32)
            put(warp, group, old)

        return step

    def do_atomg(self) -> Step:
        if re.fullmatch(r"P[0-7T]", self.operands[0]):
            self.operands.pop(0)
        wide = "64" in self.how
        put = self.put_wide(self.operands[0]) if wide else self.put(self.operands[0])
        address = self.address(self.operands[1], wide=True)
        value = self.wide(self.operands[2]) if wide else self.word(self.operands[2])
        size = 8 if wide else 4

        def step(warp: Warp, group: Group) -> None:
            addresses, values = address(warp), value(warp)
            warp.block.wavefronts["global"] += global_wavefronts(addresses[group.mask], size)
            old = np.zeros(32, dtype=U64 if wide else U32)
            for lane in np.flatnonzero(group.mask):
                [(view, _, at)] = self.machine.memory.places(addresses[lane : lane + 1], size, write=True)
                element = view[at[0] : at[0] + 1].view(U64)[0] if wide else view[at[0] : at[0] + 1]
                old[lane] = element[0]
                element[0] = self.atomically(int(element[0]), int(values[lane]), 8 * size)
            put(warp, group, old)

        return step

    def do_red(self) -> Step:
        self.operands.insert(0, "RZ")
        return self.do_atomg()

    do_redg = do_red

    # Control.

    def jump(self, address: int) -> int:
        return self.machine.index_of[address]

    def do_nop(self) -> Step:
        return lambda warp, group: None

    do_yield = do_nop

    def do_bra(self) -> Step:
        assert self.instruction.target is not None
        target = self.jump(self.instruction.target)
        if "DIV" in self.how:  # where the warp is not together
            return lambda warp, group: None if group.full else target
        guard = self.predicate(self.instruction.guard or "PT")
        conditions = [self.predicate(text) for text in self.operands if re.fullmatch(r"!?U?P[0-7T]", text)]
        if len(conditions) != len(self.operands):
            raise self.unknown()

        def step(warp: Warp, group: Group) -> int | None:
            taken = group.mask & guard(warp)
            for condition in conditions:
                taken = taken & condition(warp)
            if not taken.any():
                return None
            if not (group.mask & ~taken).any():
                return target
            warp.ready.append(Group(target, taken, dict(group.meetings), False))
            group.mask = group.mask & ~taken
            group.full = False
            return None

        return step

    def do_brx(self) -> Step:
        text = self.operands[0].split()
        a = self.word(text[0])
        offset = int(text[1], 0) + self.instruction.address + 16

        def step(warp: Warp, group: Group) -> int:
            targets = a(warp).view(I32).astype(I64) + offset
            different = np.unique(targets[group.mask])
            for target in different[1:]:
                mask = group.mask & (targets == target)
                warp.ready.append(Group(self.jump(int(target)), mask, dict(group.meetings), False))
            if len(different) > 1:
                group.mask, group.full = group.mask & (targets == different[0]), False
            return self.jump(int(different[0]))

        return step

    do_brxu = do_brx

    do_call = do_bra

    def do_ret(self) -> Step:
        a = self.word(self.operands[0])

        def step(warp: Warp, group: Group) -> int:
            [address] = np.unique(a(warp)[group.mask])
            return self.jump(int(address))

        return step

    def do_exit(self) -> Step:
        guard = self.predicate(self.instruction.guard or "PT")

        def step(warp: Warp, group: Group) -> int | None:
            leaving = group.mask & guard(warp)
            if not leaving.any():
                return None
            warp.alive &= ~leaving
            for meeting in group.meetings.values():
                meeting.members &= ~leaving
                warp.settle(meeting, group)
            group.mask = group.mask & ~leaving
            group.full = False
            return None if group.mask.any() else -1

        return step

    def do_bssy(self) -> Step:
        name = self.operands[0]

        def step(warp: Warp, group: Group) -> None:
            group.meetings[name] = Meeting(group.mask.copy())

        return step

    def do_break(self) -> Step:
        name, guard = self.operands[-1], self.predicate(self.instruction.guard or "PT")

        def step(warp: Warp, group: Group) -> None:
            meeting = group.meetings[name]
            meeting.members &= ~(group.mask & guard(warp))
            warp.settle(meeting, group)

        return step

    def do_bsync(self) -> Step:
        name = self.operands[0]

        def step(warp: Warp, group: Group) -> int:
            meeting = group.meetings[name]
            meeting.arrived |= group.mask
            meeting.at = group.at + 1
            warp.settle(meeting, group)
            return -1

        return step

    def do_warpsync(self) -> Step:
        def step(warp: Warp, group: Group) -> int | None:
            if group.mask.sum() == warp.alive.sum():
                return None
            meeting = warp.together.setdefault(group.at, Meeting(warp.alive.copy(), group.at + 1))
            meeting.members &= warp.alive
            meeting.arrived |= group.mask
            warp.settle(meeting, group)
            return -1

        return step

    def do_bar(self) -> Step:
        vote = self.predicate(self.operands[1]) if "RED" in self.how else None
        if vote is not None and "OR" not in self.how:
            raise self.unknown()

        def step(warp: Warp, group: Group) -> int:
            votes = vote(warp).copy() if vote is not None else ~ALL
            group.at += 1
            warp.at_barrier.append((group, votes))
            return -1

        return step

    def do_b2r(self) -> Step:
        put = self.put_predicate(self.operands[1] if len(self.operands) > 1 else "PT")
        return lambda warp, group: put(warp, group, warp.voted)


def shared_wavefronts(addresses: np.ndarray, size: int) -> int:
    """Cycles that 32 banks of 4 bytes need: 8- and 16-byte accesses go by halves and quarters of a warp."""
    cycles = 0
    lanes = 32 * 4 // max(size, 4)
    for first in range(0, len(addresses), lanes):
        words = np.unique((addresses[first : first + lanes, None] // 4 + np.arange(max(size // 4, 1))).ravel())
        cycles += int(np.bincount(words.astype(I64) % 32).max()) if len(words) else 0
    return cycles


def global_wavefronts(addresses: np.ndarray, size: int) -> int:
    """The different lines of 128 bytes, at least one for each 128 bytes asked for."""
    return max(len(np.unique(addresses // U64(128))), len(addresses) * size // 128)
