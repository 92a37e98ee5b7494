"""The command `mdnkernels`, which is also `python -m mdnkernels`.

Without arguments it prints versions, what was built, and the state of each backend with its reason. With them it is the
command line of mdnkernels.train, whose packages are those of the extra `train`.
"""

from __future__ import annotations

import platform
import re
import sys
from importlib import metadata

import torch

import mdnkernels
from mdnkernels import backends, command_line, native
from mdnkernels.native import library


def report() -> str:
    """Return the state of this installation as text."""
    cuda, device = torch.version.cuda or "none", "present" if torch.cuda.is_available() else "absent"
    lines = [
        f"mdnkernels {mdnkernels.__version__}, Python {platform.python_version()}, {platform.machine()}",
        f"torch {torch.__version__}, built for CUDA {cuda}, device {device}",
        f"native library: {native.problem or f'loaded, SIMD level {native.simd_level()}, {library.PATH}'}",
        f"native CUDA library: {native.cuda_problem or 'loaded'}",
        f"asked for: {backends.chosen() or 'nothing (the first that is there runs)'}",
        "",
        f"{'op':20}" + "".join(f"{device + ' runs':14}" for device in ("cpu", "cuda")) + "backends",
    ]
    for op, implementations in backends.TABLE.items():
        default = "".join(f"{backends.chosen_by_default(op, device):14}" for device in ("cpu", "cuda"))
        lines.append(f"{op:20}{default}{', '.join(implementations)}")
    lines.append("")
    for backend in backends.BACKENDS:
        for device in ("cpu", "cuda"):
            reasons = {op: backends.missing(op, backend, device) for op in backends.TABLE}
            there = [op for op, reason in reasons.items() if reason is None]
            state = "all ops" if len(there) == len(reasons) else ", ".join(there) or "none"
            why = next((reason for reason in reasons.values() if reason is not None), None)
            lines.append(f"{backend:8}{device:6}{state}" + (f" ({why})" if why else ""))
    return "\n".join(lines)


# Of mdnkernels.train, named here for those who do not have its packages.
COMMANDS = ("fit", "evaluate", "predict", "analyse", "export", "check-data", "demo", "reproduce")
HELP = """\
usage: {program} [COMMAND ...]

Without a command: versions, what was built, and which backend each op runs on. --version: the version alone.
Commands: {commands}, which need what
{advice} brings."""


def absent(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed; none for a checkout that never was installed."""
    try:
        needed = metadata.requires("mdnkernels") or []
    except metadata.PackageNotFoundError:
        return []
    of_extra = [line for line in needed if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    return [name for name in (re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in of_extra) if not _installed(name)]


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> int:
    """Run what the arguments say; return the exit status: 2 without such a command, or its packages."""
    arguments, program = sys.argv[1:], command_line.program()
    if not arguments:
        print(report())
        return 0
    if arguments == ["--version"]:
        print(f"mdnkernels {mdnkernels.__version__}")
        return 0
    missing = absent("train")
    if not missing:
        from mdnkernels.train.__main__ import main as train

        return train(arguments)
    advice = "pip install 'mdnkernels[train]'"
    if arguments[0] in ("-h", "--help"):
        print(HELP.format(program=program, commands=", ".join(COMMANDS), advice=advice))
        return 0
    if arguments[0] not in COMMANDS:
        print(f"error: there is no command {arguments[0]!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    print(f"error: {program} {arguments[0]} needs {', '.join(missing)}: {advice}", file=sys.stderr)
    return 2


def run() -> int:
    """Run the console script; return its exit status."""
    return command_line.exit_status(main)


if __name__ == "__main__":
    sys.exit(run())
