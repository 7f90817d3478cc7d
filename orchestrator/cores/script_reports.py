"""What a script says: its lines as they are written, the reports among them, and the numbers of these."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.cores.contract import ContractError, Run


class Gap(ContractError):
    """The reports before the first one of an attempt are missing."""


class Tail:
    """The lines that are written to the end of a file from now on."""

    def __init__(self, path: Path) -> None:
        path.touch()
        with path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read() not in (b"", b"\n"):
                # 被杀时写了半行：后来的不能接在它后面
                file.write(b"\n")
        self._path, self._read = path, path.stat().st_size

    def lines(self, whole: bool) -> Iterator[str]:
        """Yields the lines that are new; the last one only once it has its end, or nothing more comes."""
        size = self._path.stat().st_size
        if size < self._read:
            # 脚本把文件清空重写了
            self._read = 0
        if size == self._read:
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        if not whole:
            content = content[: content.rfind(b"\n") + 1]
        self._read += len(content)
        yield from content.decode(errors="replace").splitlines()


def parsed(line: str) -> dict[str, Any] | None:
    """A report, or None for a line of the log."""
    if line.lstrip().startswith("{"):
        with suppress(ValueError):
            content = json.loads(line)
            if isinstance(content, dict) and "report" in content:
                return content
    return None


def earlier_reports(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The reports that earlier attempts of this trial wrote since it last began at 1, the last one of each number."""
    reports: dict[str, dict[str, Any]] = {}
    for path in files:
        if path.is_file():
            with path.open(errors="replace") as file:
                reports |= _since_the_first(filter(None, map(parsed, file)))
    return reports


def _since_the_first(reports: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    # 日志可以很长：一行一行地读
    for report in reports:
        if report["report"] == 1:
            known = {}
        known[str(report["report"])] = report
    return known


class ReportNumbers:
    """Follows the numbers of a script's reports, which begin at 1, or after the script's own last checkpoint."""

    def __init__(self, run: Run, earlier: Mapping[str, dict[str, Any]]) -> None:
        self._run, self.earlier, self.begun, self._last = run, earlier, False, 0

    def unheard(self) -> list[dict[str, Any]]:
        """Returns what an earlier attempt wrote and nobody heard."""
        state = self._run.load()
        self._last = state["report"] if state is not None else 0
        numbers = itertools.count(self._last + 1)
        return [self.earlier[str(number)] for number in itertools.takewhile(lambda n: str(n) in self.earlier, numbers)]

    def new(self, report: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns what is new with a report: nothing, itself, or itself after those that an earlier attempt wrote.

        Raises:
            ContractError: It has no number, or one before it is missing.
        """
        begins = not self.begun
        number = report["report"]
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ContractError(f"a report's number is a whole number from 1 on, not {number!r}")
        if begins:
            # 从 1 报起的就是从头来过：以前的报告不再算数
            state = self._run.load() if number > 1 else None
            self._last = state["report"] if state is not None else 0
        missing = [self.earlier.get(str(between)) for between in range(self._last + 1, number)]
        if None in missing:
            kind = Gap if begins else ContractError
            raise kind(f"report {number} follows report {self._last}; the reports between are missing")
        self.begun = True
        reports = [*(one for one in missing if one is not None), *([report] if number > self._last else [])]
        self._last = max(self._last, number)
        return reports
