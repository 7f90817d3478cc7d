"""What the run of the tests shows while it runs: each slow test as it starts, each file as it ends, how far it is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

OUTCOMES = ("failed", "skipped", "passed")


class FileProgress:
    """Writes a line in place of the dots: among Ray's stories a dot may take minutes.

    Works in one process and under xdist, where the tests run elsewhere and only their reports come here.
    """

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter
        self._left: Counter[str] = Counter()
        self._total, self._ended, self._ended_all = 0, 0, False
        self._outcomes: dict[str, Counter[str]] = {}
        self._started: dict[str, float] = {}
        reporter.showfspath = False

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._expect([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._expect(ids)

    def _expect(self, names: list[str]) -> None:
        self._left = Counter(map(_file, names))
        self._total = len(names)

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, tuple[str, str, Any], tuple[str, str, Any]]:
        # 只是不印字母；类别照旧计入 pytest 自己的总结，总结里也有词
        category, letter, word = yield
        return (category, letter, word) if self._ended_all else (category, "", "")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._ended_all = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = _file(report.nodeid)
        self._started.setdefault(name, time.monotonic() - report.duration)
        outcomes = self._outcomes.setdefault(name, Counter())
        if report.failed:
            self._write("FAILED", report.nodeid, red=True)
        elif report.when == "setup" and report.passed and "slow" in report.keywords:
            self._write("running", report.nodeid)
        if report.failed or report.skipped or report.when == "call":
            outcomes[report.outcome] += 1

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        name = _file(nodeid)
        self._ended += 1
        self._left[name] -= 1
        if not self._left[name]:
            outcomes = self._outcomes.get(name, Counter())
            counts = ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in OUTCOMES if outcomes[outcome])
            self._write(
                "done", f"{name}: {counts} in {time.monotonic() - self._started.get(name, time.monotonic()):.0f} s"
            )

    def _write(self, verb: str, text: str, **markup: bool) -> None:
        share = 100 * self._ended // max(self._total, 1)
        self._reporter.write_line(f"[{share:3d}%] {verb:7} {text}", **markup)
        # 输出进管道或文件时，不刷新就要到最后才看得见
        self._reporter.flush()


def _file(nodeid: str) -> str:
    return nodeid.split("::")[0]
