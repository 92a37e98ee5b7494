"""Instructions on integers, bits and predicates."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from benchmarks.sass.machine import I64, U32, U64, Group, Step, Warp
from benchmarks.sass.operands import F64, I32, LOW, Operands, pair

COMPARISONS: dict[str, Callable[..., np.ndarray]] = {
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "EQ": np.equal,
    "NE": np.not_equal,
}


def combine(how: frozenset[str], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a | b if "OR" in how else a ^ b if "XOR" in how else a & b


def lookup(table: int, a: np.ndarray, b: np.ndarray, c: np.ndarray, ones: object) -> np.ndarray:
    """Apply a function of three bits, given by its eight values."""
    result = a & ~a
    for i in range(8):
        if table >> i & 1:
            result = result | ((a if i & 4 else a ^ ones) & (b if i & 2 else b ^ ones) & (c if i & 1 else c ^ ones))
    return result


def leading(values: np.ndarray) -> np.ndarray:
    """Find the place of the highest bit, -1 where there is none."""
    return np.where(values == 0, -1, np.floor(np.log2(np.maximum(values.astype(F64), 1)))).astype(I64)


class Integers(Operands):
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
