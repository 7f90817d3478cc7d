"""Training a core: seeded, from the last state on, report by report, each checked and its state written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

from pydantic import BaseModel

from orchestrator.cores.contract import ContractError, Core, Run, State
from orchestrator.cores.randomness import random_states, restore_random_states, seed_all
from orchestrator.cores.reports import checked_report
from orchestrator.cores.states import read_state, state_path, states_in, write_state
from search_spaces.core_config import LARGEST_METRIC

LEAST_SECONDS_BETWEEN_STATES = 1.0
KEPT_STATES = 2
LONGEST_REASON = 200


@dataclass(frozen=True)
class Report:
    """What a training has yielded.

    Attributes:
        number: From 1.
        metrics: By name, finite.
        seconds: Since the report before, or since the beginning.
    """

    number: int
    metrics: dict[str, float]
    seconds: float


class Diverged(Exception):
    """A report has a number that is NaN, infinite or beyond all use (1e100); the line says which."""


@dataclass(frozen=True)
class SavedTraining:
    """What an earlier attempt left.

    Attributes:
        state: The core's.
        random: The random states.
        history: The reports up to then.
    """

    state: State
    random: dict[str, Any]
    history: tuple[Report, ...]


class StateFolder:
    """Where a training's states are written; the two newest are kept.

    Attributes:
        largest: Bytes of the largest one that was written.
    """

    def __init__(
        self,
        folder: Path,
        attempt: int = 1,
        *,
        keep: int = KEPT_STATES,
        least_seconds: float = LEAST_SECONDS_BETWEEN_STATES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts with nothing written by this attempt.

        Args:
            folder: Where.
            attempt: Number of this attempt, which makes its files' names its own.
            keep: How many states are kept.
            least_seconds: A state that follows the last one sooner is not written, unless it is the training's last.
            clock: Tells the time.
        """
        self._folder, self._attempt, self._keep = folder, attempt, keep
        self._least_seconds, self._clock = least_seconds, clock
        self._written_at, self.largest = -math.inf, 0
        self._pending: tuple[State, tuple[Report, ...]] | None = None

    def latest(self) -> SavedTraining | None:
        """Returns the newest whole state; a torn file is passed over. None where there is none."""
        for path in states_in(self._folder):
            try:
                content = read_state(path)
                history = tuple(Report(*report) for report in content["history"])
                return SavedTraining(content["state"], content["random"], history)
            except (ContractError, KeyError, TypeError):
                # 被杀时可能留下半个文件：退回上一个完整的
                continue
        return None

    def keep(self, state: State | None, history: Sequence[Report]) -> None:
        """Writes the state that was saved with the last of some reports; None where none was."""
        self._pending = None if state is None else (state, tuple(history))
        if self._clock() - self._written_at >= self._least_seconds:
            self.finish()

    def finish(self) -> None:
        """Writes the last state if it was not."""
        if self._pending is None:
            return
        state, history = self._pending
        rows = [(report.number, report.metrics, report.seconds) for report in history]
        content = {"state": state, "random": random_states(), "history": rows}
        path = state_path(self._folder, self._attempt, len(history))
        write_state(path, content)
        self.largest = max(self.largest, path.stat().st_size)
        self._pending, self._written_at = None, self._clock()
        for path in states_in(self._folder)[self._keep :]:
            path.unlink(missing_ok=True)


@dataclass
class _Resume:
    """What an earlier attempt left, and whether the training has asked for it."""

    saved: SavedTraining | None
    is_loaded: bool = False

    def load(self) -> State | None:
        """The last state; random numbers go on where it was written."""
        if self.saved is None:
            return None
        self.is_loaded = True
        restore_random_states(self.saved.random)
        return self.saved.state

    def forget(self) -> None:
        """The training begins anew after all."""
        self.is_loaded = False

    @property
    def history(self) -> list[Report]:
        """The reports that the training goes on from."""
        # 有状态而不读的训练是从头来的：旧的报告不算
        return list(self.saved.history) if self.saved is not None and self.is_loaded else []


@dataclass(frozen=True)
class Place:
    """Where and under which seed a trial trains; see `Run`."""

    seed: int
    devices: tuple[str, ...] = ("cpu",)
    data_root: Path | None = None
    folder: Path | None = None
    seeds: Mapping[str, int] = field(default_factory=dict)
    log: Callable[[str], None] = print


@dataclass(frozen=True)
class Watcher:
    """Who watches a training.

    Attributes:
        goes_on: Says whether it is to go on.
        lives: Told at each beat that it lives.
    """

    goes_on: Callable[[], bool] = lambda: True
    lives: Callable[[], None] = lambda: None


@dataclass
class TrainingFacts:
    """What is known of a training beside its reports, as it goes.

    Attributes:
        beats: How often it has called `run.beat()`.
        saves: How often it has saved a state.
        resumed: The reports of an earlier attempt that it goes on from; known at its first report, or its end.
        largest_state: Bytes of the largest state written.
        ended_early: Why it ended early, where `train` returns a text; empty where it does not.
    """

    beats: int = 0
    saves: int = 0
    largest_state: int = 0
    ended_early: str = ""
    resumed: tuple[Report, ...] = ()


def train_core(
    core: Core,
    config: BaseModel,
    place: Place,
    states: StateFolder | None = None,
    watcher: Watcher = Watcher(),
    facts: TrainingFacts | None = None,
) -> Generator[Report]:
    """Trains a core, from the last state on where there is one.

    A training that has a state but does not load it begins anew, at report 1.

    Args:
        core: The core.
        config: A configuration of it.
        place: Where, and with which seed.
        states: Where its states are written and read; None for nowhere.
        watcher: Told of each beat; it may stop the training there.
        facts: Is kept up to date.

    Yields:
        The new reports.

    Raises:
        Stopped: The watcher stops it.
        ContractError: A report is not what was declared, or there was none.
        Diverged: A report is not finite.
    """
    resume = _Resume(states.latest() if states is not None else None)
    seed_all(place.seed)
    run = Run(
        place.seed,
        place.devices,
        place.data_root,
        load_last=resume.load,
        forget=resume.forget,
        goes_on=watcher.goes_on,
        lives=watcher.lives,
        log=place.log,
        folder=place.folder,
        seeds=place.seeds,
        sources=core.randomness,
    )
    generator = core.train(config, run)
    if not isinstance(generator, Generator):
        raise ContractError("train is no generator: yield a mapping of metric names to numbers, one per report")
    facts = facts if facts is not None else TrainingFacts()
    history: list[Report] = []
    with closing(generator):
        began = time.perf_counter()
        for content in _told(generator, facts):
            history = history or resume.history
            facts.beats, facts.saves = run.beats, run.saves
            facts.resumed = tuple(resume.history)
            metrics = _finite(checked_report(content, core.metrics), len(history) + 1)
            history.append(Report(len(history) + 1, metrics, time.perf_counter() - began))
            if states is not None:
                states.keep(run.take_saved(), history)
                facts.largest_state = states.largest
            try:
                yield history[-1]
            except GeneratorExit:
                # 停在两个报告之间：状态还是这个报告的，来得及写下
                if states is not None:
                    states.finish()
                raise
            began = time.perf_counter()
    facts.resumed = tuple(resume.history)
    facts.saves = max(facts.saves, run.saves, len(facts.resumed))
    if not history and not resume.history:
        raise ContractError("train has ended without a report")
    if states is not None:
        states.finish()
        facts.largest_state = states.largest


def _told(generator: Generator[Any, None, Any], facts: TrainingFacts) -> Generator[Any]:
    """The reports of a training; what it returns at its end, if that is a text, says why it ended early."""
    why = yield from generator
    if isinstance(why, str):
        facts.ended_early = shorten(why, LONGEST_REASON, placeholder=" ...")


def _finite(metrics: dict[str, float], number: int) -> dict[str, float]:
    for name, value in metrics.items():
        if not math.isfinite(value) or abs(value) > LARGEST_METRIC:
            raise Diverged(f"{name} is {value} in report {number}")
    return metrics
