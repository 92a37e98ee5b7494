"""Instructions that move: special registers, what lanes give one another, shared and global memory."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from benchmarks.sass.machine import I64, LANES, U32, U64, Group, Step, Warp
from benchmarks.sass.operands import I32, Operands, Value


class Moves(Operands):
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
        """Read from the constants, at an address of its own for each lane, or at a fixed one."""
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


def shared_wavefronts(addresses: np.ndarray, size: int) -> int:
    """Count the cycles that 32 banks of 4 bytes need: 8- and 16-byte accesses go by halves and quarters of a warp."""
    cycles = 0
    lanes = 32 * 4 // max(size, 4)
    for first in range(0, len(addresses), lanes):
        words = np.unique((addresses[first : first + lanes, None] // 4 + np.arange(max(size // 4, 1))).ravel())
        cycles += int(np.bincount(words.astype(I64) % 32).max()) if len(words) else 0
    return cycles


def global_wavefronts(addresses: np.ndarray, size: int) -> int:
    """Count the different lines of 128 bytes, at least one for each 128 bytes asked for."""
    return max(len(np.unique(addresses // U64(128))), len(addresses) * size // 128)
