"""Instructions on float32 and float64, and conversions."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from benchmarks.sass.integers import COMPARISONS, combine
from benchmarks.sass.machine import I64, U32, U64, Group, Step, Warp
from benchmarks.sass.operands import F32, F64, I32, Operands, pair

KINDS = (*COMPARISONS, *(kind + "U" for kind in COMPARISONS), "NUM", "NAN")


def compare(kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compare numbers by one of IEEE's ordered and (U) unordered kinds."""
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


def rounded(exact: np.ndarray, how: frozenset[str]) -> np.ndarray:
    """Convert float64 to float32, rounded in the direction that `how` names."""
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


class Floats(Operands):
    def floating(self, operation: Callable[..., np.ndarray]) -> Step:
        """Return a step in float32, computed in float64 and rounded once (FFMA: nearly always once)."""
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
        least, most = (np.minimum, np.maximum) if "NAN" in self.how else (np.fmin, np.fmax)

        def value(warp: Warp) -> np.ndarray:
            left, right = a(warp), b(warp)
            return np.where(p(warp), least(left, right), most(left, right)).view(U32)

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

    def do_i2f(self) -> Step:
        out, text = self.operands
        if self.instruction.opcode == "I2F.U8":
            byte = re.fullmatch(r"(R\d+|RZ)(?:\.B([0-3]))?", text)
            if byte is None:
                raise self.unknown()
            word, shift = self.word(byte[1]), U32(8 * int(byte[2] or 0))
            return self.into(out, lambda warp: (word(warp) >> shift & U32(255)).astype(F32).view(U32))
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
        """Move a constant, whose halves are named: the compiler adds it to zero times zero."""
        out, a, b, *halves = self.operands
        if a.lstrip("-") != "RZ" or b.lstrip("-") != "RZ":
            raise self.unknown()
        high, low = (int(np.float16(float(text)).view(np.uint16)) for text in halves)
        constant = np.full(32, high << 16 | low, dtype=U32)
        return self.into(out, lambda warp: constant)
