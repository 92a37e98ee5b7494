"""Compiled kernels as nvdisasm lists them: instructions, where they branch to, and which unit of a GPU takes them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.native.cuobjdump import tool

# Which unit of a multiprocessor takes an instruction, by its name without modifiers; all others are "int".
UNITS = {
    "fp32": "FADD FMUL FFMA",
    "imad": "IMAD",  # the FP32 unit's too, at half its rate where that has 128 lanes
    "fp64": "DADD DMUL DFMA DSETP",
    "special": "MUFU I2F F2I F2F FCHK POPC FLO BREV",  # 16 lanes a cycle
    "global": "LDG STG ATOMG RED REDG",
    "shared": "LDS STS ATOMS SHFL",
    "uniform": "",  # whatever begins with U
    "control": "BRA BRX BRXU CALL RET EXIT BSSY BSYNC BREAK WARPSYNC BAR NOP YIELD B2R MEMBAR ERRBAR CGAERRBAR CCTL",
}
UNIT_OF = {name: unit for unit, names in UNITS.items() for name in names.split()}


@dataclass(frozen=True)
class Instruction:
    address: int
    guard: str  # a predicate, "!P0" for instance, or ""
    opcode: str  # with its modifiers
    operands: tuple[str, ...]
    target: int | None = None  # the address that a branch, a call or a barrier names

    @property
    def name(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def modifiers(self) -> frozenset[str]:
        return frozenset(self.opcode.split(".")[1:])

    @property
    def unit(self) -> str:
        return UNIT_OF.get(self.name, "uniform" if self.name[0] == "U" else "int")


@dataclass(frozen=True)
class Kernel:
    symbol: str
    instructions: tuple[Instruction, ...]
    constants: bytes  # of bank 2, which the compiler fills


def find(folder: Path, architecture: str, symbol: str) -> Kernel:
    """Find the kernel of that symbol among the cubins of a folder, SOURCE.ARCHITECTURE.cubin.

    Raises:
        KeyError: none has it.
    """
    for cubin in sorted(folder.glob(f"*.{architecture}.cubin")):
        if symbol.encode() + b"\0" in cubin.read_bytes():
            return kernel(_listing(cubin), symbol)
    raise KeyError(f"no cubin for {architecture} has {symbol}")


@cache
def _listing(cubin: Path) -> str:
    return subprocess.run([str(tool("nvdisasm")), cubin], check=True, capture_output=True, text=True).stdout


def kernel(listing: str, symbol: str) -> Kernel:
    """Read one kernel of a listing."""
    code = _section(listing, f".text.{symbol}")
    data = re.findall(r"\.(byte|short|word|dword)\t([^\n]*)", _section(listing, f".nv.constant2.{symbol}"))
    return Kernel(symbol, _instructions(code), b"".join(_bytes(kind, values) for kind, values in data))


def _section(listing: str, name: str) -> str:
    """Return the text of a section, which the next one ends; nothing where there is none."""
    begin = listing.find(f"\t.section\t{name},")
    if begin < 0:
        return ""
    end = listing.find("\t.section\t", begin + 1)
    return listing[begin : end if end >= 0 else len(listing)]


def _bytes(kind: str, values: str) -> bytes:
    size = {"byte": 1, "short": 2, "word": 4, "dword": 8}[kind]
    return b"".join(int(value, 0).to_bytes(size, "little") for value in values.split(","))


def _instructions(body: str) -> tuple[Instruction, ...]:
    labels: dict[str, int] = {}
    waiting: list[str] = []
    found = []
    for line in body.splitlines():
        label = re.match(r"([.$\w]+):", line)
        if label:
            waiting.append(label[1])
        code = re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(?:@(!?U?P\w+)\s+)?([A-Z]\w*(?:\.\w+)*)\s*([^;]*);", line)
        if code:
            address = int(code[1], 16)
            labels.update(dict.fromkeys(waiting, address))
            waiting = []
            found.append((address, code[2] or "", code[3], code[4]))
    instructions = []
    for address, guard, opcode, rest in found:
        named = re.search(r"`\(([^)]*)\)", rest)
        rest = re.sub(r"`\([^)]*\)|\(\*.*?\*\)|\.reuse\b", "", rest)
        operands = tuple(part for part in (part.strip() for part in rest.split(",")) if part)
        instructions.append(Instruction(address, guard, opcode, operands, labels.get(named[1]) if named else None))
    return tuple(instructions)
