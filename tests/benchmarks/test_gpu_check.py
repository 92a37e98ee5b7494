"""The GPU check as far as a CPU goes: a dry run of the whole check, and the reports that it makes of results."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import memory
from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import agreement, build, clock, execution, networks, plan, report, worker
from benchmarks.gpu_check.items import Absent, Options, run_items
from benchmarks.gpu_check.records import ABSENT, FAILED, PASSED, append, read
from benchmarks.gpu_check.supervisor import Stage
from mdnkernels import backends
from tests.ops.table import CASES

ROOT = Path(__file__).parents[2]
# What the machine that has the GPU lacks.
EXTRAS = ("pycocotools", "cattrs", "tyro")
BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def check(*arguments: str, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    program = [sys.executable, "-m", "benchmarks.gpu_check", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(program, cwd=ROOT, env=environment, **pipes, **options)


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """Run --dry-run under an interpreter without the extras, and return the folder, exit status and output."""
    blocked, folder = tmp_path_factory.mktemp("blocked"), tmp_path_factory.mktemp("dry") / "run"
    (blocked / "sitecustomize.py").write_text(BLOCKER)
    process = check("--dry-run", "--minutes", "8", "--output", str(folder), env={"PYTHONPATH": str(blocked)})
    output, errors = process.communicate()
    return SimpleNamespace(folder=folder, status=process.returncode, output=output, errors=errors)


@pytest.mark.long
def test_a_dry_run_passes_without_the_extras(dry_run):
    assert dry_run.status == 0, dry_run.output + dry_run.errors
    assert "everything that can run here ran and passed" in dry_run.output.splitlines()[-2]
    assert "0 failed, 0 were not run" in dry_run.output.splitlines()[-3]


@pytest.mark.long
def test_a_dry_run_goes_through_every_stage_but_the_devices_own(dry_run):
    ran = {path.stem for path in dry_run.folder.glob("*.jsonl") if read(path).of(PASSED)}
    assert ran == {"agreement.native", "timing.plain", "timing.compiled", "matrix.0", "execution.native", "networks"}
    on_gpu = {stage.name.split(".")[0] for group in plan.groups(dry_run.folder, "cuda", "9.0", 16) for stage in group}
    assert on_gpu - {name.split(".")[0] for name in ran} == {"build", "ahead", "sanitizer"}


@pytest.mark.long
def test_what_a_cpu_lacks_is_said_to_be_absent_and_not_passed(dry_run):
    graphs = [r for r in read(dry_run.folder / "execution.native.jsonl").of(ABSENT) if "CUDA graph" in r["item"]]
    assert len(graphs) == len(CASES)
    triton = [r for r in read(dry_run.folder / "timing.plain.jsonl").of(ABSENT) if "triton" in r["item"]]
    assert all("interpreter" in record["detail"] for record in triton)
    assert triton


@pytest.mark.long
def test_the_reports_have_a_row_for_every_case_and_a_time_for_every_way(dry_run):
    with (dry_run.folder / "timings.csv").open() as file:
        rows = list(csv.DictReader(file))
    for case in CASES:
        assert {row["way"] for row in rows if row["case"] == str(case)} >= {"copy", "native", "eager"}
    assert {row["way"] for row in rows} == {"copy", "native", "eager", "compile", "max-autotune"}
    assert all(float(row["ms"]) > 0 and int(row["bytes"]) > 0 for row in rows)
    text = (dry_run.folder / "report.md").read_text()
    assert "dry run on the CPU: no number here says anything of a GPU" in text
    assert all(f"| {case} | float32 |" in text for case in CASES)
    for network in ("hourglass_small | detection | training step", "hourglass_small | pose | inference"):
        assert f"| {network} | 3 components, sparse |" in text


def test_without_a_gpu_it_says_so_and_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "describe", lambda folder: {"gpu": None, "torch": "2.11"})
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert command.main(["--output", str(tmp_path)]) == 2
    assert "needs a GPU that torch 2.11 can use, and found none" in capsys.readouterr().err


def test_results_of_another_check_are_not_mixed_with_new_ones(tmp_path, capsys):
    append(tmp_path / "networks.jsonl", {"planned": []})
    with pytest.raises(SystemExit) as stopped:
        command.main(["--output", str(tmp_path)])
    assert stopped.value.code == 2
    assert "holds the results of another check" in capsys.readouterr().err


def test_an_interrupted_check_keeps_what_it_has_and_says_what_is_missing(tmp_path):
    process = check("--dry-run", "--output", str(tmp_path))
    first = tmp_path / "agreement.native.jsonl"
    end = time.monotonic() + 120
    while len(read(first).outcomes) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == report.INCOMPLETE, output + errors
    assert len(read(first).of(PASSED)) >= 3
    text = (tmp_path / "report.md").read_text()
    assert "not complete, for the time was up or it was interrupted" in text
    assert "| networks in bfloat16 | not complete | 0 | 0 | not begun |" in text


def test_make_calls_it_and_leaves_the_architectures_to_it():
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_CUDA_ARCH_LIST"}

    def recipe(**more: str) -> str:
        command = ["make", "-n", "gpu-check", "MINUTES=8", "OUTPUT=there"]
        return subprocess.run(command, cwd=ROOT, env={**environment, **more}, capture_output=True, text=True).stdout

    assert "-m benchmarks.gpu_check --minutes 8 --output there" in recipe()
    assert "env -u TORCH_CUDA_ARCH_LIST" in recipe()
    assert "env -u" not in recipe(TORCH_CUDA_ARCH_LIST="8.0")


def test_shares_of_a_stage_are_all_of_its_items_once(tmp_path):
    def stage_of(backend: str) -> list[Stage]:
        everything = (stage for group in plan.groups(tmp_path, "cuda", "9.0", 16) for stage in group)
        return [stage for stage in everything if stage.name.startswith(f"agreement.{backend}")]

    assert len(stage_of("eager")) == 1
    triton = stage_of("triton")
    assert [stage.command[-1] for stage in triton] == [f"{i}/4" for i in range(4)]
    assert all(str(stage.records(tmp_path)) in stage.command for stage in triton)
    assert len({stage.records(tmp_path) for stage in triton}) == 4


def test_a_worker_runs_its_share(tmp_path, monkeypatch):
    items = {name: lambda: None for name in "abcde"}
    monkeypatch.setattr(agreement, "items", lambda options: items)
    for part in range(2):
        arguments = ["worker", "agreement", "--records", str(tmp_path / f"{part}.jsonl"), "--share", f"{part}/2"]
        monkeypatch.setattr(sys, "argv", [*arguments, "--device", "cpu"])
        assert worker.main() == 0
    assert [list(read(tmp_path / f"{part}.jsonl").outcomes) for part in range(2)] == [["a", "c", "e"], ["b", "d"]]


def test_the_library_is_built_for_the_gpu_at_hand_unless_asked_otherwise(monkeypatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    assert plan.build("9.0").environment == {"MDNKERNELS_BUILD_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "9.0"}
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    assert "TORCH_CUDA_ARCH_LIST" not in plan.build("9.0").environment


# B = 2 images of 24 x 24 cells, P = 1152 positions, M = 3, S = 2, N = 32 objects an image; elements of 4 bytes.
P = 2 * 24 * 24
POSE_READ, POSE_WRITTEN = 4 * P * (3 + 102 + 6 + 34) + 17 * P, 4 * P * (3 + 102 + 6)
INDEXED_READ = 64 * 8 + 4 * 64 * 34 + 32 * 64 * (3 + 102 + 6)
PATCHES = 4 * 64 * 256 * 9
BY_HAND = {
    "mixture_nll, pose": (POSE_READ, POSE_READ + POSE_WRITTEN),
    "heatmap_focal_loss": (8 * 80 * P, 12 * 80 * P),
    "topk_peaks, k = 100": (4 * 80 * P // 2 + 100 * 20, 4 * 80 * P // 2 + 100 * 20),
    "splat_gaussians": (4 * 80 * P + 64 * 32, 4 * 80 * P + 64 * 32),
    "center_focal_loss": (4 * 80 * P + 64 * 32, 8 * 80 * P + 64 * 32),
    "mixture_mode, pose": (4 * P * (3 + 36 + 37) + 8 * P, 4 * P * (3 + 36 + 37) + 8 * P),
    "gather_patches, channels_last": (512 + 2 * PATCHES, 512 + 2 * PATCHES + 512 + PATCHES + 4 * 256 * P),
    "mixture_nll, detection": (4 * P * (3 + 6 + 6 + 2) + P, 4 * P * (17 + 15) + P),
    "mixture_nll, rows": (4 * 500 * 16, 4 * 500 * 31),
    "mixture_nll, pose, 32 objects by index": (INDEXED_READ, INDEXED_READ + POSE_WRITTEN),
    "gather_patches, planar": (
        512 + 32 * 64 * 256 * 3 + PATCHES,
        512 + 32 * 64 * 256 * 3 + PATCHES + 512 + PATCHES + 4 * 256 * P,
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_bytes_are_those_of_a_count_by_hand(name):
    case = next(case for case in CASES if str(case) == name)
    assert tuple(case.entry.moved(case.call(small=True).arguments)) == BY_HAND[name]


def test_half_precision_halves_all_bytes_but_masks_targets_and_integers():
    cases = {str(case): case for case in CASES}

    def moved(name: str) -> tuple[int, int]:
        return tuple(cases[name].entry.moved(cases[name].call("cpu", torch.bfloat16, small=True).arguments))

    assert moved("mixture_nll, pose") == ((POSE_READ + 17 * P) // 2, (POSE_READ + 17 * P + POSE_WRITTEN) // 2)
    assert moved("heatmap_focal_loss") == (6 * 80 * P, 8 * 80 * P)  # its target stays float32


def test_a_wrong_result_fails_and_the_next_op_is_checked_all_the_same(tmp_path, monkeypatch):
    right = backends.TABLE["topk_peaks"]["native"]

    def wrong(*arguments):
        score, label, index = right(*arguments)
        return score, label, index.flip(1)

    monkeypatch.setitem(backends.TABLE["topk_peaks"], "native", wrong)
    options = Options("cpu", "native", small=True)
    assert run_items(agreement.items(options), tmp_path / "a.jsonl") == 0
    failed = [record["item"] for record in read(tmp_path / "a.jsonl").of(FAILED)]
    assert failed == [name for name in agreement.items(options) if name.startswith("topk_peaks")]
    assert len(read(tmp_path / "a.jsonl").of(PASSED)) == len(agreement.items(options)) - len(failed)


def test_on_a_gpu_a_backend_that_is_not_there_is_a_failure(monkeypatch):
    monkeypatch.setattr(backends, "missing", lambda op, backend, device: "it was not built")
    with pytest.raises(AssertionError, match="it was not built"):
        agreement.items(Options("cuda", "native"))["it is there"]()


# Results as a GPU would give them


def stages(*titles: str) -> list[Stage]:
    return [Stage(title, title, ("true",), 1) for title in titles]


def measured(way: str, milliseconds: float) -> dict:
    row = {"case": "mixture_nll, pose", "dtype": "float32", "passes": "forward", "bytes": 200_000_000}
    return {"item": way, "outcome": PASSED, **row, "way": way, "ms": milliseconds, "called_ms": 1, "peak_bytes": 10**6}


def test_the_share_of_a_copy_is_of_the_copy_of_as_many_bytes(tmp_path):
    path = tmp_path / "times.jsonl"
    append(path, {"planned": ["copy", "native", "eager"]})
    for record in (measured("copy", 0.08), measured("native", 0.1), measured("eager", 1.6)):
        append(path, record)
    report.write(stages("times"), tmp_path)
    with (tmp_path / "timings.csv").open() as file:
        native = next(row for row in csv.DictReader(file) if row["way"] == "native")
    assert float(native["gb_per_s"]) == pytest.approx(2000)
    assert float(native["share_of_copy"]) == pytest.approx(0.8)
    row = next(line for line in (tmp_path / "report.md").read_text().splitlines() if "| mixture_nll, pose |" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3:6] == ["200.00", "80.0 (2500)", "2000"]
    assert cells[7:10] == ["100.0 (80%)", "-", "1600.0 (5%)"]


@pytest.mark.parametrize(
    ("outcomes", "state", "status"),
    [
        (("passed", "passed"), "passed", 0),
        (("passed", "absent"), "passed", 0),
        (("passed", None), "not complete", 3),
        (("passed", "cut off"), "not complete", 3),
        (("passed", "crashed"), "FAILED", 1),
        (("hung", None), "FAILED", 1),
        (("absent", "absent"), "not there", 0),
    ],
)
def test_what_was_not_run_is_never_called_passed(tmp_path, outcomes, state, status):
    path = tmp_path / "one.jsonl"
    append(path, {"planned": ["a", "b"]})
    for name, outcome in zip("ab", outcomes, strict=True):
        if outcome is not None:
            append(path, {"item": name, "outcome": outcome, "detail": ""})
    summary = report.write(stages("one"), tmp_path)
    assert (summary.state("one"), summary.status) == (state, status)
    assert f"| one | {state} |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("records", [[], [{"planned": []}]], ids=["never began", "found nothing to do"])
def test_a_stage_that_did_nothing_is_not_complete(tmp_path, records):
    for record in records:
        append(tmp_path / "one.jsonl", record)
    assert report.write(stages("one"), tmp_path).status == report.INCOMPLETE


def test_errors_of_compilers_are_told_from_their_command_lines():
    said = ["x.cu(3): error: identifier is undefined", "FAILED: [code=1] x.o", "fatal error: a.h: No such file"]
    assert all(build.ERROR.search(line) for line in said)
    assert not build.ERROR.search("[1/9] c++ -Werror=return-type -fno-error-x -c error_codes.cpp -o error_codes.o")


def test_a_program_of_the_toolkit_is_found_where_path_lacks_it(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "compute-sanitizer"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    assert plan.path_in_toolkit("compute-sanitizer") == str(program)
    assert plan.path_in_toolkit("not-there") == "not-there"


def test_networks_of_the_report_are_compared_with_the_base(tmp_path):
    path = tmp_path / "networks.jsonl"
    for variant, speed in (("sparse", 150.0), ("base", 100.0)):
        row = {"arch": "dla34", "task": "pose", "variant": variant, "work": "inference", "batch": 32, "ms": 1.0}
        numbers = {"images_per_second": speed, "peak_bytes": 5 * 10**9, "note": "out of memory at 64 images at once"}
        append(path, {"item": variant, "outcome": PASSED, **row, **numbers})
    report.write(stages("networks"), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| 3 components, sparse | 32 | 1.0 | 150.0 | 1.50 | 5.00 | out of memory at 64 images at once |" in text


# The device's own, with a device that is not there


class Event:
    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = Event.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


@pytest.fixture
def device(monkeypatch):
    """Replace what is called of torch.cuda on a machine without a GPU, and return what the replacement notes."""
    device = SimpleNamespace(pauses=[], allocated=100, peak=0)
    nothing = {name: lambda *_: None for name in ("synchronize", "empty_cache", "reset_peak_memory_stats")}
    properties = SimpleNamespace(L2_cache_size=50 * 2**20)
    for name, value in {
        **nothing,
        "Event": Event,
        "_sleep": device.pauses.append,
        "get_device_properties": lambda _: properties,
        "memory_allocated": lambda: device.allocated,
        "max_memory_allocated": lambda: device.peak,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return device


def test_the_median_is_of_the_devices_time_behind_a_pause_with_inputs_in_turn(device):
    seen = []

    def run(value: int) -> None:
        seen.append(value)
        Event.now += 3.0 if len(seen) % 10 else 50.0

    result = clock.measure(run, [0, 1, 2, 3], "cuda", 0.0)
    assert result["ms"] == 3.0
    assert result["rounds"] == len(device.pauses) == clock.LEAST_ROUNDS
    assert min(device.pauses) >= 0.05 * 2e6
    assert seen[-10:] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("input_bytes", [1, 2**20, 2**26, 2**30])
def test_inputs_in_turn_leave_nothing_in_the_second_level_cache(device, input_bytes):
    copies = clock.copies_for(input_bytes, "cuda")
    assert copies >= 2
    assert copies == 64 or (copies - 1) * input_bytes >= 3 * 50 * 2**20 - input_bytes


def test_peak_memory_is_counted_beside_what_was_there(device):
    device.peak = 350
    assert memory.peak_bytes(lambda: 0, "cuda") == 250


def test_a_batch_without_memory_for_it_is_halved_and_said(device, monkeypatch):
    def measure(batch: int, options: Options) -> dict:
        if batch > 8:
            raise torch.OutOfMemoryError("too much")
        return {"ms": 4.0, "steps": 5, "peak_bytes": 1}

    monkeypatch.setattr(networks, "prepare", lambda arch, task, variant, work, batch, options: batch)
    monkeypatch.setattr(networks, "measure", measure)
    row = networks.run_row("dla34", "pose", "dense", "training step", Options())
    assert (row["batch"], row["images_per_second"]) == (8, 2000)
    assert row["note"] == "out of memory at 32, 16 images at once"


def test_waits_are_counted_by_the_profilers_names_and_are_a_failure(monkeypatch):
    names = ["aten::add", "Memcpy HtoD (Pinned -> Device)", "cudaMemcpyAsync", "cudaLaunchKernel"]
    assert networks.waits_among(names) == {"copies_to_host": 0, "stream_waits": 0}
    waiting = [*names, "Memcpy DtoH (Device -> Pageable)", "cudaStreamSynchronize", "Memcpy DtoH (Device -> Pinned)"]
    assert networks.waits_among(waiting) == {"copies_to_host": 2, "stream_waits": 1}
    monkeypatch.setattr(
        networks, "prepare", lambda *_: lambda: torch.profiler.record_function("Memcpy DtoH").__enter__()
    )
    with pytest.raises(AssertionError, match="'copies_to_host': 1"):
        networks.check_waits("dla34", "pose", "inference", Options("cpu"))
    monkeypatch.setattr(networks, "prepare", lambda *_: lambda: torch.ones(3).sum())
    assert networks.check_waits("dla34", "pose", "inference", Options("cpu"))["stream_waits"] == 0


def test_a_network_whose_loss_is_not_finite_fails():
    with pytest.raises(AssertionError, match="not finite"):
        networks.measure(lambda: torch.tensor(torch.nan), Options("cpu"))


class Context:
    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass

    def replay(self) -> None:
        pass


def test_a_graph_that_replays_nothing_is_seen(device, monkeypatch):
    for name in ("Stream", "stream", "graph", "CUDAGraph", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Context)
    monkeypatch.setattr(execution, "need_gpu", lambda case, options: None)
    options = Options("cpu", "native", small=True)
    for case in CASES:
        with pytest.raises(AssertionError, match="differs"):
            execution.check_graph(case, options)
        execution.check_stream(case, options)


def test_execution_needs_a_gpu():
    with pytest.raises(Absent, match="neither CUDA graphs nor streams"):
        execution.check_waits(CASES[0], Options("cpu"))


def test_a_thread_that_gets_something_else_is_seen(monkeypatch):
    steps = iter(range(10**6))
    real = execution.step
    first = len(CASES)

    def step(call):
        results = real(call)
        return [value + 1 for value in results] if next(steps) > first else results

    monkeypatch.setattr(execution, "step", step)
    with pytest.raises(AssertionError, match="differs"):
        execution.check_threads(Options("cpu", "native", small=True))


def test_the_machine_is_described(dry_run):
    facts = json.loads((dry_run.folder / "machine.json").read_text())
    assert facts["torch"] == torch.__version__
    assert facts["processor"]
    assert len(facts["commit"]) == 40
