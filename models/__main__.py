"""Print what a network costs: python -m models ARCH TASK."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mdnkernels import command_line
from mdnkernels.models import ARCHITECTURES, TASKS, build_model
from mdnkernels.models.cost import Cost, count


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command line; exit, with help or a message, as argparse does."""
    parser = argparse.ArgumentParser(
        prog=command_line.program_of_models("models"),
        description="Parameters, multiply-accumulates (GMAC) and output shapes of a network, for one image.",
    )
    parser.add_argument("arch", choices=ARCHITECTURES, help="backbone")
    parser.add_argument("task", choices=TASKS, help="what its heads predict")
    parser.add_argument(
        "--classes", type=int, help="classes to detect (default: 80 for detection; pose has one, the person)"
    )
    parser.add_argument("--components", type=int, default=3, help="of the mixture; 0 is the single-mode base (3)")
    parser.add_argument("--size", type=int, default=512, help="side of the square image in pixels (512)")
    parser.add_argument(
        "--objects", type=int, help="objects to an image in sparse training (default: 128 for detection, 32 for pose)"
    )
    parser.add_argument("--peaks", type=int, default=100, help="peaks to an image in sparse inference (100)")
    options = parser.parse_args(arguments)
    detection = options.task == "detection"
    if options.classes is None:
        options.classes = 80 if detection else 1
    if options.objects is None:
        options.objects = 128 if detection else 32
    for name in ("size", "objects", "peaks"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(options, name)}")
    return options


def table(cost: Cost) -> str:
    """Return the numbers as text, a line each."""
    lines = [
        f"parameters                 {cost.parameters:>12,}",
        *(f"GMAC {name:<21} {value / 1e9:>12.1f}" for name, value in cost.multiply_accumulates.items()),
        "",
        f"{'output':<18} {'dense':<22} sparse, in training",
    ]
    for name, dense in cost.dense_shapes.items():
        lines.append(f"{name:<18} {dense!s:<22} {cost.sparse_shapes[name]}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the exit status: 0, or 2 after a mistake that the message on stderr names."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        cost = count(
            lambda: build_model(
                options.arch, task=options.task, num_classes=options.classes, components=options.components
            ),
            size=options.size,
            objects=options.objects,
            peaks=options.peaks,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    many = f", {options.classes} classes" if options.task == "detection" else ""
    print(f"{options.arch} {options.task}{many}, {options.components} components, {options.size} x {options.size}\n")
    print(table(cost))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.exit_status(main))
