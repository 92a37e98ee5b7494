"""How many threads a command takes: what it is told, what the environment says, or the cores that are free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

import mdnkernels.train.threads
from mdnkernels.train.threads import count_free_cores, use_free_cores

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def stat(idle: Sequence[int], busy: Sequence[int]) -> str:
    """Return /proc/stat of cores that were idle and busy for so many ticks."""
    lines = ["cpu  9 9 9 9 9 9 9 9 0 0"]
    for core, (free, used) in enumerate(zip(idle, busy, strict=True)):
        lines.append(f"cpu{core} {used // 2} 0 {used - used // 2} {free // 2} {free - free // 2} 0 0 0 7 7")
    return "\n".join([*lines, "intr 1 2 3", "ctxt 5"]) + "\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, ...]]]:
    """Pretend to a machine; return a list that takes the busy share of each of its cores. Four threads are set."""
    file = tmp_path / "stat"

    class Shares(list[tuple[float, ...]]):
        def append(self, one: tuple[float, ...]) -> None:
            super().append(one)
            file.write_text(stat([1000] * len(one), [500] * len(one)))

    shares = Shares()

    def pass_time(seconds: float) -> None:
        busy = [round(100 * share) for share in shares[-1]]
        file.write_text(stat([1000 + 100 - one for one in busy], [500 + one for one in busy]))

    monkeypatch.setattr(mdnkernels.train.threads, "STAT", file)
    monkeypatch.setattr(mdnkernels.train.threads.time, "sleep", pass_time)
    monkeypatch.setattr(mdnkernels.train.threads, "_settled", False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(len(shares[-1]))), raising=False)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield shares
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("busy", "free"),
    [
        ((0, 0, 0, 0), 4),
        ((1, 0, 0, 0), 3),
        ((1, 0), 1),
        ((0.1, 0.1), 2),
        ((0.5, 0.5), 1),
        ((1, 1, 1, 1), 1),
        ((0.5, 0.5, 0.5, 0.5), 2),
    ],
)
def test_free_cores_are_what_others_leave(machine: list[tuple[float, ...]], busy: tuple[float, ...], free: int) -> None:
    machine.append(busy)
    assert count_free_cores(0.1) == free


def test_cores_of_others_do_not_count(machine: list[tuple[float, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    machine.append((1, 1, 0, 0))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {1, 2}, raising=False)
    assert count_free_cores(0.1) == 1


def test_busy_cores_are_left_to_others_once_and_that_is_said(
    machine: list[tuple[float, ...]], warned: list[str]
) -> None:
    machine.append((1, 0, 0, 0))
    use_free_cores(CPU, None)
    assert torch.get_num_threads() == 3
    assert len(warned) == 1
    assert "3 of 4 threads" in warned[0]
    assert "--threads" in warned[0]
    machine.append((1, 1, 1, 0))
    use_free_cores(CPU, None)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("reason", ["free", "gpu", "environment", "no such file", "another file", "no affinity"])
def test_threads_stay_as_they_are(
    reason: str, machine: list[tuple[float, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, warned: list[str]
) -> None:
    machine.append((0, 0, 0, 0) if reason == "free" else (1, 1, 0, 0))
    if reason == "environment":
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
    if reason == "no such file":
        monkeypatch.setattr(mdnkernels.train.threads, "STAT", tmp_path / "absent")
    if reason == "another file":
        monkeypatch.setattr(mdnkernels.train.threads, "STAT", tmp_path / "other")
        (tmp_path / "other").write_text("cpu0 a b\ncpux\n")
    if reason == "no affinity":
        monkeypatch.delattr("os.sched_getaffinity")
    use_free_cores(GPU if reason == "gpu" else CPU, None)
    assert torch.get_num_threads() == 4
    assert not warned


def test_a_number_that_is_named_wins(machine: list[tuple[float, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    machine.append((1, 1, 0, 0))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    use_free_cores(CPU, 2)
    assert torch.get_num_threads() == 2
