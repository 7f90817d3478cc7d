"""The trials that are launched and have not ended: opened in Tune's thread, followed and ended in the main thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.records.reports import Report
from search_spaces.trial import PlannedTrial


@dataclass
class Running:
    """What is known of a launched trial.

    Attributes:
        trial: The trial.
        cell: Where it is shown: (arm, seed), or the place of a sweep's point.
        folder: Its folder.
        attempt: Number of the present attempt, over all drivers.
        started_at: ISO time (UTC) of the launch.
        evaluated_only: Whether it is on record already and stays so.
        started: Whether a worker has begun it.
        history: Its epochs so far.
        epochs_before: How many of them earlier attempts have trained, whose seconds are of another place or load.
    """

    trial: PlannedTrial
    cell: tuple[str, int]
    folder: Path
    attempt: int
    started_at: str
    evaluated_only: bool = False
    started: bool = False
    history: list[Report] = field(default_factory=list)
    epochs_before: int = 0


class RunningTrials:
    """Launched trials by key; may be used from every thread."""

    def __init__(self) -> None:
        """Starts without any."""
        self._lock = threading.Lock()
        self._by_key: dict[str, Running] = {}

    def __bool__(self) -> bool:
        """Says whether any runs."""
        return bool(self._by_key)

    def __contains__(self, key: str) -> bool:
        """Says whether a trial runs."""
        return key in self._by_key

    def add(self, running: Running) -> None:
        """Adds a trial that is launched."""
        with self._lock:
            self._by_key[running.trial.key] = running

    def get(self, key: str) -> Running | None:
        """Returns a trial that runs."""
        return self._by_key.get(key)

    def remove(self, key: str) -> None:
        """Takes out a trial that has ended."""
        with self._lock:
            del self._by_key[key]

    def all(self) -> list[Running]:
        """Returns those that run now."""
        with self._lock:
            return list(self._by_key.values())
