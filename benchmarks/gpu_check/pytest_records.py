"""A pytest plugin that writes each test's outcome as it comes, and runs one share of the tests.

    pytest -p benchmarks.gpu_check.pytest_records --records FILE --share 0/4 ...

A test that left the device unusable ends the process. The next process leaves out the tests that have an outcome.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check.items import device_works
from benchmarks.gpu_check.records import ABSENT, FAILED, PASSED, append, read
from benchmarks.gpu_check.supervisor import START_AGAIN

# The native kernels come first, because the time may be up before all tests have run.
ORDER = ("-native", "-triton", "-eager")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--records", type=Path, required=True)
    parser.addoption("--share", default="0/1", help="which part of how many, from 0")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(config.getoption("--records"), config.getoption("--share")))


def name_of(nodeid: str) -> str:
    return nodeid.split("::", 1)[-1]


def rank(name: str) -> int:
    return next((i for i, backend in enumerate(ORDER) if backend in name), len(ORDER))


class Recorder:
    def __init__(self, path: Path, share: str) -> None:
        self.path = path
        self.part, self.parts = map(int, share.split("/"))

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        ordered = sorted(items, key=lambda item: rank(name_of(item.nodeid)))[self.part :: self.parts]
        append(self.path, {"planned": [name_of(item.nodeid) for item in ordered]})
        done = read(self.path).outcomes
        items[:] = [item for item in ordered if name_of(item.nodeid) not in done]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        append(self.path, {"begun": name_of(nodeid)})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        record: dict[str, Any] = {"item": name_of(report.nodeid), "seconds": round(report.duration, 3)}
        if report.passed:
            record["outcome"] = PASSED
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            record.update(outcome=ABSENT, detail=reason)
        else:
            crash = getattr(report.longrepr, "reprcrash", None)
            record.update(outcome=FAILED, detail=(crash.message if crash else str(report.longrepr))[-2000:])
        append(self.path, record)
        if report.failed and not device_works():
            print(f"\n{report.longreprtext}\nthe device takes no more work from this process", flush=True)
            os._exit(START_AGAIN)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.OK  # the outcomes are written
