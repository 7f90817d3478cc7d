"""`--notify COMMAND`: tells a command of the user's how a study ended, as JSON on its standard input."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import Any

from alexnet_core.process.interruption import say
from orchestrator.output.channel import Output

STANDARD_ERROR = 2
SECONDS_ALLOWED = 60.0


class Notifier:
    """Runs the command once, at the end or on failure, whichever comes first."""

    def __init__(self, output: Output | None = None) -> None:
        """Begins to count the seconds; nobody is told yet.

        Args:
            output: Ended after the command, so that also a death of Ray leaves a document; None for nothing.
        """
        self._output = output
        self._command: str | None = None
        self._facts: dict[str, Any] = {}
        self._started = time.monotonic()
        self._once = threading.Lock()
        self._at_budget = False

    def tell(self, command: str | None, facts: dict[str, Any]) -> None:
        """Says who is told.

        Args:
            command: A shell command, or None to tell nobody.
            facts: What is known at the start: study, data set, results folder.
        """
        self._command, self._facts = command, facts

    def send(self, exit_code: int, error: str | None = None) -> None:
        """Runs the command with `{study, dataset, results, exit_code, outcome, error, seconds, ...}`; ends the output.

        A command that fails or hangs is one line on the standard error; the study's exit code stays.
        """
        try:
            self._run_command(exit_code, error)
        finally:
            if self._output is not None:
                self._output.end(exit_code, error)

    def _run_command(self, exit_code: int, error: str | None) -> None:
        if self._command is None or not self._once.acquire(blocking=False):
            return
        outcome = _OUTCOMES.get(exit_code, "failed") if error is None else "failed"
        if outcome == "done" and self._at_budget:
            outcome = "budget"
        seconds = round(time.monotonic() - self._started, 1)
        summary = {**self._facts, "exit_code": exit_code, "outcome": outcome, "error": error, "seconds": seconds}
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", self._command],
                input=json.dumps(summary, sort_keys=True) + "\n",
                text=True,
                # 标准输出上只有那一份文档
                stdout=STANDARD_ERROR if self._output is not None and self._output.as_json else None,
                timeout=SECONDS_ALLOWED,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            say(f"warning: --notify: {problem}")
            return
        if done.returncode != 0:
            say(f"warning: --notify: the command ended with exit code {done.returncode}")

    def stopped_at_budget(self) -> None:
        """Notes that a budget left something out, so that the end is not called done."""
        self._at_budget = True

    def add(self, **facts: Any) -> None:
        """Adds what has become known: states of the trials, the report, the verdicts."""
        self._facts |= facts


_OUTCOMES = {0: "done", 1: "some trials failed", 130: "interrupted"}
