"""Stages that crash, hang, fail or run out of time, and the results that are kept of the others."""

from __future__ import annotations

import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.gpu_check import plan, report
from benchmarks.gpu_check.pytest_records import Recorder
from benchmarks.gpu_check.records import ABSENT, CRASHED, FAILED, HUNG, PASSED, WHOLE, append, read
from benchmarks.gpu_check.supervisor import Stage, supervise

ROOT = Path(__file__).parents[2]
NEVER = threading.Event()


def stage(folder: Path, items: str, name: str = "one", **options) -> Stage:
    """Return a stage with these items, which are the body of a dict."""
    script = f"""if True:
        import os, sys, time
        from pathlib import Path
        sys.path.insert(0, {str(ROOT)!r})
        from benchmarks.gpu_check.items import Absent, run_items
        path = Path({str(folder / f"{name}.jsonl")!r})
        def fail(error): raise error
        sys.exit(run_items({{{items}}}, path))
    """
    return Stage(name, name, (sys.executable, "-c", script), 10, **options)


def outcomes(folder: Path, name: str = "one") -> dict[str, str]:
    return {item: record["outcome"] for item, record in read(folder / f"{name}.jsonl").outcomes.items()}


def test_a_crash_of_one_item_costs_no_other(tmp_path):
    items = """
        "a": lambda: {"number": 3}, "b": lambda: print("in b", flush=True) or os.abort(),
        "c": lambda: fail(AssertionError("too large")), "d": lambda: fail(Absent("no such thing")), "e": lambda: None
    """
    supervise(stage(tmp_path, items), tmp_path, 60, NEVER)
    assert outcomes(tmp_path) == {"a": PASSED, "b": CRASHED, "c": FAILED, "d": ABSENT, "e": PASSED}
    records = read(tmp_path / "one.jsonl").outcomes
    assert records["a"]["number"] == 3
    assert "SIGABRT" in records["b"]["detail"]
    assert "in b" in records["b"]["detail"]
    assert records["c"]["detail"] == "AssertionError: too large"
    assert records["d"]["detail"] == "no such thing"


def test_an_item_that_hangs_is_killed_and_the_others_run(tmp_path):
    items = '"a": lambda: time.sleep(1000), "b": lambda: None'
    supervise(stage(tmp_path, items, item_seconds=1), tmp_path, 60, NEVER)
    assert outcomes(tmp_path) == {"a": HUNG, "b": PASSED}


def test_a_device_that_takes_no_more_work_costs_the_failed_item_alone(tmp_path):
    items = '"a": lambda: fail(RuntimeError("illegal access")), "b": lambda: os.environ["FIRST"], "c": lambda: None'
    one = stage(tmp_path, items)
    script = one.command[2].replace(
        "sys.exit(run_items(",
        "import benchmarks.gpu_check.items as items; items.device_works = lambda: False; sys.exit(run_items(",
    )
    supervise(Stage("one", "one", (*one.command[:2], script), 10), tmp_path, 60, NEVER)
    assert outcomes(tmp_path) == {"a": FAILED, "b": FAILED, "c": PASSED}


def test_a_stage_that_cannot_begin_fails_as_a_whole(tmp_path):
    supervise(Stage("one", "one", (sys.executable, "-c", "import nowhere"), 10), tmp_path, 60, NEVER)
    assert outcomes(tmp_path) == {WHOLE: FAILED}
    assert "No module named 'nowhere'" in read(tmp_path / "one.jsonl").outcomes[WHOLE]["detail"]


def test_an_error_after_the_last_item_is_the_stages(tmp_path):
    """compute-sanitizer ends like this: its exit status tells of errors."""
    one = stage(tmp_path, '"a": lambda: None')
    script = one.command[2].replace("sys.exit(", "(lambda _: os._exit(86))(")
    supervise(Stage("one", "one", (*one.command[:2], script), 10), tmp_path, 60, NEVER)
    assert outcomes(tmp_path) == {"a": PASSED, WHOLE: FAILED}
    assert "status 86" in read(tmp_path / "one.jsonl").outcomes[WHOLE]["detail"]


def test_when_time_is_up_what_was_not_run_is_known(tmp_path):
    one = stage(tmp_path, '"a": lambda: None, "b": lambda: time.sleep(1000), "c": lambda: None')
    supervise(one, tmp_path, 2, NEVER)
    assert read(tmp_path / "one.jsonl").not_run == ["b", "c"]
    assert report.write([one], tmp_path).status == report.INCOMPLETE


def test_a_command_without_items_passes_or_fails_with_its_last_lines(tmp_path):
    for name, code in (("good", 0), ("bad", 4)):
        script = f"print('error: no such header'); raise SystemExit({code})"
        one = Stage(name, name, (sys.executable, "-c", script), 10, plain=True)
        supervise(one, tmp_path, 60, NEVER)
    assert outcomes(tmp_path, "good") == {"good": PASSED}
    bad = read(tmp_path / "bad.jsonl").outcomes["bad"]
    assert bad["outcome"] == FAILED
    assert "error: no such header" in bad["detail"]


def test_a_program_that_is_not_installed_is_absent(tmp_path):
    missing = Stage("one", "one", ("compute-sanitizer-that-is-not-there", "x"), 10)
    plan.run([[missing]], tmp_path, time.monotonic() + 10, threading.Event(), lambda: None)
    assert outcomes(tmp_path) == {"compute-sanitizer-that-is-not-there": ABSENT}


def test_a_line_that_was_cut_short_costs_itself_alone(tmp_path):
    path = tmp_path / "one.jsonl"
    append(path, {"planned": ["a", "b"]})
    append(path, {"item": "a", "outcome": PASSED})
    with path.open("a") as file:
        file.write('{"item": "b", "outc')
    assert read(path).not_run == ["b"]


def test_stages_beside_each_other_fail_apart_and_the_background_ends_with_them(tmp_path):
    group = [
        stage(tmp_path, '"a": lambda: os.abort()', "crashing"),
        stage(tmp_path, '"a": lambda: None', "passing"),
        stage(tmp_path, '"a": lambda: time.sleep(1000)', "ahead", background=True),
    ]
    reports = []
    begin = time.monotonic()
    plan.run(
        [group, [stage(tmp_path, '"a": lambda: None', "later")]],
        tmp_path,
        begin + 200,
        threading.Event(),
        lambda: reports.append(report.write(group, tmp_path)),
    )
    assert outcomes(tmp_path, "crashing") == {"a": CRASHED}
    assert outcomes(tmp_path, "passing") == outcomes(tmp_path, "later") == {"a": PASSED}
    assert time.monotonic() - begin < 60
    assert len(reports) >= 3  # after every stage
    assert reports[-1].failed == ["crashing"]


def test_time_that_a_stage_does_not_use_goes_to_those_that_follow(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(plan, "supervise", lambda stage, folder, seconds, stop: given.append(seconds))
    groups = [[Stage(str(i), str(i), ("true",), seconds)] for i, seconds in enumerate((10, 30, 60))]
    plan.run(groups, tmp_path, time.monotonic() + 100, threading.Event(), lambda: None)
    assert given == pytest.approx([10, 100 / 3, 100], abs=2)


def test_outcomes_of_pytest_come_as_they_are_made_and_a_crash_costs_one_test(tmp_path):
    (tmp_path / "test_some.py").write_text(
        textwrap.dedent(
            """
            import os, pytest
            @pytest.mark.parametrize("backend", ["eager_on_gpu", "native_on_gpu"])
            @pytest.mark.parametrize("case", ["a-crash", "b-wrong", "c-right", "d-absent"])
            def test_it(case, backend):
                if backend.startswith("native"):
                    if "crash" in case:
                        os.abort()
                    if "absent" in case:
                        pytest.skip("not here")
                    assert "wrong" not in case, "error 0.5"
            """
        )
    )
    plugin = ("-p", "benchmarks.gpu_check.pytest_records", "--records", str(tmp_path / "one.jsonl"), "-c", "/dev/null")
    command = (sys.executable, "-m", "pytest", "-q", *plugin, "--rootdir", str(tmp_path), str(tmp_path))
    one = Stage("one", "one", command, 10, environment={"PYTHONPATH": str(ROOT)})
    supervise(one, tmp_path, 120, NEVER)
    native = {name: outcome for name, outcome in outcomes(tmp_path).items() if "native" in name}
    assert list(native.values()) == [CRASHED, FAILED, PASSED, ABSENT]
    assert list(outcomes(tmp_path).values())[4:] == [PASSED] * 4  # native first
    records = read(tmp_path / "one.jsonl").outcomes
    assert "error 0.5" in next(r["detail"] for name, r in records.items() if "wrong" in name and "native" in name)


def test_shares_of_the_tests_are_all_of_them_once_and_native_comes_first(tmp_path):
    names = [f"f.py::test_it[{i}-{backend}]" for i in range(4) for backend in ("eager", "native", "triton")]
    planned = []
    for part in range(3):
        items = [SimpleNamespace(nodeid=name) for name in names]
        Recorder(tmp_path / f"{part}.jsonl", f"{part}/3").pytest_collection_modifyitems(None, items)
        share = read(tmp_path / f"{part}.jsonl").planned
        assert [item.nodeid.split("::")[1] for item in items] == share
        assert "native" in share[0]
        planned += share
    assert sorted(planned) == sorted(name.split("::")[1] for name in names)
