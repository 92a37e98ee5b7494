"""The report of all benchmarks, its parts, and a quick one made to the end."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks import floors, memory, ways
from benchmarks.alternating import alternating_times
from benchmarks.report import __main__ as command
from benchmarks.report import results
from benchmarks.report.page import milliseconds, page
from benchmarks.report.results import FLOOR, Result
from benchmarks.report.rows import BASE, OPS_TABLE, rows
from benchmarks.steps import leaves, require_gradients
from tests.ops.table import CASES, OPS, Case

RESULT = Result(OPS_TABLE, "op, work", "float32", "forward", None, "native", 2.0, 0.1, 9, 8_000_000, 2**20, 3 * 2**20)


def floor_of(milliseconds_: float) -> Result:
    return dataclasses.replace(RESULT, way=FLOOR, milliseconds=milliseconds_, peak_bytes=None)


def test_rows_are_every_workload_in_every_dtype_and_each_size_that_grows():
    found = list(rows(quick=False))
    tables = [(row.name, row.dtype) for row in found if row.part == OPS_TABLE]
    assert len(tables) == len(set(tables))
    assert set(tables) == {(str(case), dtype) for case in CASES for dtype in case.of.dtypes}
    assert {row.part for row in found} == {OPS_TABLE, "B", "M", "C", "side"}


@pytest.mark.parametrize("name", ["B", "M", "C", "side"])
def test_the_size_that_grows_is_that_of_the_call(name):
    row = [row for row in rows(quick=True) if row.part == name][-1]
    call = row.call("cpu", 0, small=True)
    logits, loc = call.arguments["logits"], call.arguments["loc"]
    components = logits.shape[1]
    sizes = {"B": logits.shape[0], "M": components, "C": loc.shape[1] // components, "side": logits.shape[-1]}
    assert sizes[name] == row.size
    assert sizes == row.sizes


def test_a_fast_contestant_has_more_turns_and_each_has_the_least():
    times = alternating_times({"fast": lambda: None, "slow": lambda: time.sleep(0.02)}, seconds=0.04, least=2, most=50)
    assert len(times["fast"]) == 50
    assert len(times["slow"]) == 2


@pytest.mark.skipif(not memory.CLEAR_REFS.exists(), reason="peaks are read from Linux's /proc")
def test_the_peak_is_what_was_held_at_once_above_what_was_held_before():
    held = torch.ones(4 * 2**20)

    def run() -> torch.Tensor:
        first = torch.ones(8 * 2**20)  # 32 MiB
        second = first + held.repeat(2)  # 64 more
        del first
        return second[:1] + torch.ones(2**18)  # 1 where 64 are held

    run()
    assert memory.peak_bytes(run) / 2**20 == pytest.approx(96, abs=3)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_floor_leaves_the_call_as_it_was(case: Case):
    call = case.call(small=True)
    require_gradients([call])
    before = {name: value.detach().clone() for name, value in call.tensors.items()}
    floors.floor(call)()
    for name, value in call.tensors.items():
        torch.testing.assert_close(value.detach(), before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "value", [torch.rand(3, 5, 7) > 0.5, torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)]
)
def test_words_are_all_bytes_in_the_order_of_memory(value):
    words = floors.as_words(value)
    assert words.numel() == value.numel() * value.element_size() // 8
    if value.numel() * value.element_size() % 8 == 0:
        assert words.data_ptr() == value.data_ptr()


@pytest.mark.parametrize("op", ways.OTHERS)
def test_what_stands_in_an_ops_place_gives_what_the_op_gives(op: str):
    case = next(case for case in CASES if case.entry.op == op)
    options = {"groups": None} if op == "mixture_nll" else {}
    call = case.call(small=True, batch=1, **options)
    for way in ways.OTHERS[op].values():
        assert way.suits(call.arguments)
        expected, found = call.function(**call.arguments), way.function(**call.arguments)
        for one, other in zip(*map(_tensors, (expected, found)), strict=False):
            torch.testing.assert_close(other.flatten(), one.to(other.dtype).flatten(), rtol=1e-4, atol=1e-5)
        if call.entry.trained:
            require_gradients([call])
            functions = (call.function, way.function)
            mine, theirs = (torch.autograd.grad(function(**call.arguments), leaves(call)) for function in functions)
            torch.testing.assert_close(theirs, mine, rtol=1e-3, atol=1e-6)


def _tensors(value: object) -> tuple[torch.Tensor, ...]:
    return (value,) if isinstance(value, torch.Tensor) else tuple(value)


def test_mixture_same_family_is_not_compared_where_it_knows_less():
    suits = ways.OTHERS["mixture_nll"]["MixtureSameFamily"].suits
    entry = OPS["mixture_nll"]
    assert suits(Case(entry, "rows").call(small=True).arguments)
    assert not suits(Case(entry, "pose").call(small=True).arguments)  # a mask of which some is not observed
    assert not suits(Case(entry, "pose, 32 objects by index").call(small=True).arguments)


def test_a_csv_gives_back_what_was_written(tmp_path):
    found = [RESULT, floor_of(1.5), dataclasses.replace(RESULT, part="M", size=5)]
    results.write(tmp_path / "report.csv", found)
    assert results.read(tmp_path / "report.csv") == found


def test_a_csv_of_something_else_is_refused_by_its_columns(tmp_path):
    path = tmp_path / "report.csv"
    path.write_text("case,ms\npose,7\n")
    with pytest.raises(ValueError, match=r"report\.csv is no report.*'case', 'ms'"):
        results.read(path)


def test_a_ratio_takes_the_machines_own_change_out():
    now = [dataclasses.replace(RESULT, milliseconds=4.0), floor_of(3.0)]
    [ratio] = results.ratios(now, [RESULT, floor_of(1.5)])
    assert (ratio.time, ratio.floor, ratio.changed) == (2.0, 2.0, False)
    [ratio] = results.ratios(now, [RESULT, floor_of(3.0)])
    assert (ratio.time, ratio.floor, ratio.changed) == (2.0, 1.0, True)


def test_the_page_has_the_share_of_the_floor_and_what_was_not_measured():
    found, left_out = [RESULT, floor_of(1.5)], ["triton: not there"]
    text = page(found, {"device": "a machine"}, left_out, [], None, {}, BASE)
    assert "| op, work | float32 | 8.00 | 1.5 | 2 (75%) |" in text
    assert "- device: a machine" in text
    assert "- triton: not there" in text
    assert "no earlier report" in text


@pytest.mark.parametrize(("value", "text"), [(0.01234, "0.0123"), (7.456, "7.46"), (56.78, "56.8"), (1234.5, "1234")])
def test_times_have_three_digits(value, text):
    assert milliseconds(value) == text


@pytest.mark.long
def test_a_quick_report_is_made_kept_and_compared_with(tmp_path: Path, monkeypatch):
    ops = ("mixture_nll, rows", "splat_gaussians")
    some = [row for row in rows(quick=True) if row.part != OPS_TABLE or row.name in ops]
    monkeypatch.setattr(command, "rows", lambda quick: some)
    line = ["--quick", "--device", "cpu", "--output", str(tmp_path)]
    assert command.main(line) == 0
    first = (tmp_path / "report.md").read_text()
    assert command.main([*line, "--against", str(tmp_path / "report.csv")]) == 0
    second = (tmp_path / "report.md").read_text()
    assert "no earlier report" in first
    assert "Compared with" in second
    for name in ("report.csv", "floors.png", "growth.png", "memory.png"):
        assert (tmp_path / name).stat().st_size > 0
    found = results.read(tmp_path / "report.csv")
    assert {result.way for result in found} >= {"native", "eager", "MixtureSameFamily", FLOOR}
    assert all(result.milliseconds > 0 and result.rounds > 0 for result in found)
    assert json.loads(next(tmp_path.glob("earlier/*.json")).read_text())["threads"] == torch.get_num_threads()


def test_rows_that_the_time_does_not_suffice_for_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "rows", lambda quick: [row for row in rows(quick) if row.name == "splat_gaussians"])
    command.main(["--quick", "--device", "cpu", "--output", str(tmp_path), "--minutes", "-1"])
    assert "- splat_gaussians, float32: -1 minutes were over" in (tmp_path / "report.md").read_text()
