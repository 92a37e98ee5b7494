"""For the first person with a GPU: do the ops work on it, and how long do they take? `make gpu-check` runs this.

    python -m benchmarks.gpu_check

It runs the op test matrix on the GPU, captures each op in a CUDA graph, repeats the native ops of the matrix under
compute-sanitizer where that is installed, and times every op, forward and backward, on each backend and under
torch.compile with CUDA events. The table that it prints is meant for an issue. Exit status 0 where everything passed.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

import mdnkernels
from mdnkernels import backends
from mdnkernels.__main__ import report

MATRIX, GRAPHS = "tests/ops/test_matrix.py", "tests/ops/test_cuda_graphs.py"


def calls(device: str, side: int = 128, batch: int = 8) -> dict[str, tuple[Callable[[], Tensor], list[Tensor]]]:
    """Each op on maps of `batch` x `side` x `side`: what gives its result, and the leaves that want a gradient."""
    generator = torch.Generator().manual_seed(0)

    def normal(*channels: int) -> Tensor:
        return torch.randn(batch, *channels, side, side, generator=generator).to(device)

    pose = [normal(channels).requires_grad_() for channels in (3, 102, 6)]
    box = [normal(channels).requires_grad_() for channels in (3, 6, 6)]
    index = torch.randint(side * side, (batch, 32), generator=generator).to(device)
    heatmap = (normal(80) - 2).requires_grad_()
    center = torch.stack([index % side, index // side], -1)
    label = torch.randint(80, (batch, 32), generator=generator).to(device)
    heat = mdnkernels.splat_gaussians(center, label % 8, label, 80, (side, side))
    feature = normal(256).requires_grad_()
    pose_target, box_target, points = normal(34), normal(2), normal(34).flatten(2)[:, :, :32].contiguous()
    seen = torch.rand(batch, 17, side, side, generator=generator).to(device) < 0.8
    return {
        "mixture_nll, pose": (lambda: mdnkernels.mixture_nll(*pose, pose_target, mask=seen), pose),
        "mixture_nll, detection": (lambda: mdnkernels.mixture_nll(*box, box_target), box),
        "mixture_nll, pose, 32 objects": (lambda: mdnkernels.mixture_nll(*pose, points, index=index), pose),
        "mixture_mode, pose": (lambda: mdnkernels.mixture_mode(*(value.detach() for value in pose)).loc, []),
        "topk_peaks, k = 100": (lambda: mdnkernels.topk_peaks(heatmap.detach(), min(100, side), logits=True).score, []),
        "gather_patches, 32 objects": (lambda: mdnkernels.gather_patches(feature, index), [feature]),
        "heatmap_focal_loss": (lambda: mdnkernels.heatmap_focal_loss(heatmap, heat), [heatmap]),
        "splat_gaussians": (lambda: mdnkernels.splat_gaussians(center, label % 8, label, 80, (side, side)), []),
    }


def milliseconds(run: Callable[[], object], device: str, rounds: int = 20) -> float:
    """The median time of one call: CUDA events on a GPU, the clock elsewhere."""
    for _ in range(3):
        run()
    times = []
    for _ in range(rounds):
        if device == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            run()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        else:
            clock = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - clock))
    return statistics.median(times)


def timings(device: str, side: int = 128, batch: int = 8, rounds: int = 20, compiled: bool = True) -> list[str]:
    """The rows of a Markdown table: milliseconds of each op by backend; "-" where a backend lacks it."""
    rows = ["| op, forward and backward, ms | native | triton | eager | torch.compile(eager) |", "|" + " --- |" * 5]
    for name, (function, leaves) in calls(device, side, batch).items():

        def step(result: Callable[[], Tensor], leaves: list[Tensor] = leaves) -> Callable[[], object]:
            return lambda: torch.autograd.grad(result().sum(), leaves) if leaves else result()

        cells = []
        for backend in (*backends.BACKENDS, "compiled"):
            chosen = "eager" if backend == "compiled" else backend
            left_out = backend == "compiled" and not compiled
            if left_out or backends.missing(name.split(",")[0], chosen, device) is not None:
                cells.append("-")
                continue
            with mdnkernels.use_backend(chosen):
                torch.compiler.reset()
                run = step(torch.compile(function) if backend == "compiled" else function)
                cells.append(f"{milliseconds(run, device, rounds):.3f}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows


def tested(title: str, command: list[str]) -> tuple[str, bool]:
    """One row about a command, whose output is shown as it comes."""
    print(f"\n$ {' '.join(command)}", flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line.strip() or last
    passed = process.wait() == 0
    return f"| {title} | {'passed' if passed else 'FAILED'} | {last.strip('= ')} |", passed


def main() -> int:
    if not torch.cuda.is_available():
        print(f"gpu-check needs a GPU that torch {torch.__version__} can use, and found none", file=sys.stderr)
        return 2
    python, on_gpu = [sys.executable, "-m", "pytest", "-q"], ["-k", "on_gpu"]
    checks = [
        tested("op test matrix", [*python, MATRIX, *on_gpu]),
        tested("CUDA graphs", [*python, GRAPHS, *on_gpu]),
    ]
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        checks.append(("| compute-sanitizer | not run | it is not installed |", True))
    else:
        for tool in ("memcheck", "racecheck", "synccheck"):
            command = [sanitizer, "--tool", tool, "--error-exitcode", "1", "--target-processes", "all"]
            narrow = ["-k", "native_on_gpu and (odd or aligned) and float32 and (contiguous or channels_last)"]
            checks.append(tested(f"compute-sanitizer {tool}", [*command, *python, MATRIX, *narrow]))
    capability = "".join(map(str, torch.cuda.get_device_capability()))
    print(f"\n{report()}\n\n{torch.cuda.get_device_name()}, sm_{capability}\n")
    print("\n".join(["| check | | |", "| --- | --- | --- |", *(row for row, _ in checks), "", *timings("cuda")]))
    return 0 if all(passed for _, passed in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
