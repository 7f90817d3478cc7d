"""How far a command has come while it runs, and how long the rest takes: all its phases, on record or not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

from orchestrator.planning.estimate import EpochSeconds, Likeness, ends_after, likenesses_of
from orchestrator.planning.summary import readable_seconds
from orchestrator.planning.work_left import Training, WorkLeft
from search_spaces.core_config import CoreConfig, planned_parts
from search_spaces.trial import Phase, PlannedTrial

UNKNOWN = "time left unknown"


@dataclass
class _Left:
    """A training that is left, and how far it has come since it began.

    Attributes:
        training: What was left of it when it began, or is while it waits.
        began: When it began, on the clock.
        at: When it began, or its last epoch ended.
        epochs: Finished since then.
        seconds: Of those.
    """

    training: Training
    began: float = 0.0
    at: float = 0.0
    epochs: int = 0
    seconds: float = 0.0

    @cached_property
    def likenesses(self) -> tuple[Likeness, ...]:
        """What makes its epochs like others; reckoned once, since it hashes the network."""
        return likenesses_of(self.training.config)

    @property
    def rest(self) -> int:
        """Epochs that are left of it now."""
        return max(0, self.training.epochs - self.epochs)


@dataclass
class _Beside:
    """Seconds that trials took beside their epochs, and evaluations of trained networks in all."""

    trainings: list[float] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)


class Remaining:
    """Follows what a command has still to do. The main thread tells it, and the display's thread asks.

    A trial counts once, whatever phases want it.
    """

    def __init__(
        self,
        work: WorkLeft,
        measured: EpochSeconds,
        slots: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts with nothing done of it.

        Args:
            work: What there is to do.
            measured: Seconds of epochs on record.
            slots: How many trials train at once.
            clock: Tells the time.
        """
        self._lock = threading.RLock()
        self._measured, self._here, self._beside = measured, EpochSeconds(), _Beside()
        self._slots, self._clock = slots, clock
        phases = work.phases
        self._waiting = {key: _Left(one) for phase in phases.values() for key, one in phase.known.items()}
        self._unchosen = {name: [_Left(one) for one in phase.unchosen] for name, phase in phases.items()}
        self._inexact = {name for name, phase in phases.items() if not phase.exact}
        self._started: dict[str, _Left] = {}
        self._ended = {key for phase in phases.values() for key in phase.on_record} - self._waiting.keys()

    def expect(
        self,
        phase: Phase,
        trainings: Mapping[str, Training],
        on_record: Collection[str] = (),
        instead_of: int | None = None,
    ) -> None:
        """Learns which trials a phase has, in place of those that were reckoned with before they were chosen.

        Args:
            phase: The phase.
            trainings: What is left of each of its trials that are not on record, by key.
            on_record: Keys of the others.
            instead_of: How many of those that were not chosen yet all of them stand for; None for all of the phase.
        """
        with self._lock:
            unchosen = self._unchosen.setdefault(phase, [])
            del unchosen[: len(unchosen) if instead_of is None else instead_of]
            known = self._ended | self._waiting.keys() | self._started.keys()
            self._ended |= set(on_record) - known
            self._waiting |= {key: _Left(one) for key, one in trainings.items() if key not in known}

    def unchosen(self, phase: Phase) -> int:
        """Returns how many trials of a phase are not chosen yet."""
        with self._lock:
            return len(self._unchosen.get(phase, ()))

    def leave_out(self, keys: Collection[str]) -> None:
        """Hears that trials will not be trained by this command: their arm was skipped, stopped, or is decided."""
        with self._lock:
            for key in self._waiting.keys() & set(keys):
                del self._waiting[key]

    def starts(self, trial: PlannedTrial, epochs: int) -> None:
        """Hears that a trial has begun, or begun again.

        Args:
            trial: The trial.
            epochs: Of which it has so many behind it.
        """
        with self._lock:
            known = self._take(trial)
            evaluated_only = known is not None and not known.training.epochs
            left = 0 if evaluated_only else max(0, planned_parts(trial.config) - epochs)
            now = self._clock()
            self._started[trial.key] = _Left(Training(trial.config, left), began=now, at=now)

    def _take(self, trial: PlannedTrial) -> _Left | None:
        known = self._started.pop(trial.key, None) or self._waiting.pop(trial.key, None)
        if known is None and (unchosen := self._unchosen.get(trial.phase)):
            return unchosen.pop(0)
        return known

    def epoch(self, trial: PlannedTrial, seconds: float) -> None:
        """Hears of an epoch that has ended, and of its seconds."""
        with self._lock:
            started = self._started.get(trial.key)
            if started is None:
                return
            started.seconds += seconds
            if isinstance(trial.config, CoreConfig):
                # 不知道还有几个报告：量的是整个 trial
                return
            self._here.add(started.likenesses, seconds)
            started.epochs += 1
            started.at = self._clock()

    def ends(self, trial: PlannedTrial) -> None:
        """Hears that a trial has ended, trained here or taken from another's record."""
        with self._lock:
            started = self._started.get(trial.key)
            if started is not None:
                took = max(0.0, self._clock() - started.began - started.seconds)
                (self._beside.trainings if started.training.epochs else self._beside.evaluations).append(took)
                if isinstance(trial.config, CoreConfig) and started.seconds:
                    self._here.add(started.likenesses, started.seconds)
            self._take(trial)
            self._ended.add(trial.key)

    def stops(self, trial: PlannedTrial) -> None:
        """Hears that a trial was stopped in the middle; it is still to be done."""
        with self._lock:
            started = self._started.pop(trial.key, None)
            if started is not None:
                self._waiting[trial.key] = _Left(Training(started.training.config, started.rest))

    def count(self) -> str:
        """Returns how many trials have ended, on record or here, of all: `4/9`, or `4 of at most 14`."""
        with self._lock:
            ended = len(self._ended)
            total = ended + len(self._started) + len(self._waiting) + sum(map(len, self._unchosen.values()))
            return f"{ended} of at most {total}" if self._may_be_less() else f"{ended}/{total}"

    def _may_be_less(self) -> bool:
        arms = "arm" in self._inexact and bool(self._waiting)
        return arms or any(self._unchosen.get(name) for name in self._inexact)

    def time_left(self) -> str:
        """Returns how long the rest takes, in words; empty where nothing is left."""
        with self._lock:
            started = list(self._started.values())
            waiting = [*self._waiting.values(), *(one for ones in self._unchosen.values() for one in ones)]
            if not waiting and not started:
                return ""
            seconds = self._seconds(started, waiting)
            if seconds is None:
                return UNKNOWN
            at_most = "at most " if self._may_be_less() else ""
            return f"{at_most}{readable_seconds(seconds)} left"

    def _seconds(self, started: Sequence[_Left], waiting: Sequence[_Left]) -> float | None:
        """Seconds to the end of all; None while nothing alike has been measured."""
        prices = [self._price(one) for one in (*started, *waiting)]
        known = [price for price in prices if price is not None]
        if not known:
            return None
        # 没量过的网络先按量过的平均算，量到了就换
        usual = fmean(known)
        priced = [usual if price is None else price for price in prices]
        now = self._clock()
        # 正在走的一轮已过去的部分不再算
        running = [
            max(0.0, price * one.rest - min(now - one.at, price)) for one, price in zip(started, priced, strict=False)
        ]
        beside, evaluating = fmean(self._beside.trainings or [0.0]), fmean(self._beside.evaluations or [0.0])
        later = [
            price * one.rest + (beside if one.rest else evaluating)
            for one, price in zip(waiting, priced[len(started) :], strict=True)
        ]
        return ends_after(running, later, self._slots())

    def _price(self, left: _Left) -> float | None:
        """Seconds of an epoch: of the same network before one of the same name, and here before on record."""
        for likeness in left.likenesses:
            for source in (self._here, self._measured):
                if likeness in source.measured:
                    total, count = source.measured[likeness]
                    return total / count
        return None
