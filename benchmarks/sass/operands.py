"""The operands of an instruction: what it takes from a warp, and where its results go."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from benchmarks.sass.listing import Instruction
from benchmarks.sass.machine import U32, U64, Group, Machine, Step, Warp

I32 = np.int32
F32, F64 = np.float32, np.float64
LOW = U64(0xFFFFFFFF)

Value = Callable[[Warp], np.ndarray]


class UnknownInstructionError(NotImplementedError):
    """Nobody has needed it yet."""


def pair(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return high.astype(U64) << U64(32) | low.astype(U64)


class Operands:
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
            f"{one.address:#x} {one.opcode} {', '.join(one.operands)} {why}: benchmarks/sass does not know it"
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
        """Return 32 bits of an operand without sign, `offset` words behind those it names."""
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
        """Return 32 bits with the operand's sign or inversion."""
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
        """Return 64 bits, where a negative number is its complement and one: what carries come from."""
        if text.startswith("-") and not text.startswith("-0x"):
            inner = self.word(text[1:])
            return lambda warp: (~inner(warp)).astype(U64) + U64(1)
        inner = self.integer(text)
        return lambda warp: inner(warp).astype(U64)

    def wide(self, text: str) -> Value:
        """Return 64 bits of an operand."""
        if re.fullmatch(r"-?0x[0-9a-f]+", text):
            constant = np.full(32, int(text, 0) & (1 << 64) - 1, dtype=U64)
            return lambda warp: constant
        if text.startswith("-"):
            inner = self.wide(text[1:])
            return lambda warp: ~inner(warp) + U64(1)
        low, high = self.word(text), self.word(text, 1)
        return lambda warp: pair(low(warp), high(warp))

    def number(self, text: str, double: bool = False) -> Value:
        """Return the value of an operand that is a float."""
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
        """Return what writes a register of the group's threads; a uniform one has one value for all."""
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
        """Take the predicates that stand behind the first result."""
        taken = []
        while len(self.operands) > 1 and re.fullmatch(r"U?P[0-7T]", self.operands[1]):
            taken.append(self.operands.pop(1))
        return taken

    def take_carries(self) -> list[Value]:
        """Take the predicates at the end."""
        taken = []
        while re.fullmatch(r"!?U?P[0-7T]", self.operands[-1]):
            taken.insert(0, self.predicate(self.operands.pop()))
        return taken
