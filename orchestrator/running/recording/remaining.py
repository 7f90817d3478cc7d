"""How far a command has come while it runs, and how long the rest takes: all its phases, on record or not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from alexnet_core.configuration.train_config import TrainConfig
from orchestrator.planning.estimate import EpochSeconds, ends_after, likenesses_of
from orchestrator.planning.summary import readable_seconds
from orchestrator.planning.work_left import Training, WorkLeft
from search_spaces.trial import Phase, PlannedTrial

UNKNOWN = "time left unknown"


@dataclass
class _Started:
    """A trial that trains.

    Attributes:
        training: What was left of it when it began.
        at: When it began, or its last epoch ended, on the clock.
        began: When it began.
        epochs: Finished since then.
        seconds: Of those.
    """

    training: Training
    at: float
    began: float
    epochs: int = 0
    seconds: float = 0.0


class Remaining:
    """Follows what a command has still to do. The main thread tells it, and the display's thread asks."""

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
        self._measured, self._here = measured, EpochSeconds()
        self._slots, self._clock = slots, clock
        self._waiting = {key: training for phase in work.phases.values() for key, training in phase.known.items()}
        self._unchosen = {name: list(phase.unchosen) for name, phase in work.phases.items()}
        self._inexact = {name for name, phase in work.phases.items() if not phase.exact}
        self._started: dict[str, _Started] = {}
        self._ended = sum(len(phase.on_record) for phase in work.phases.values())
        self._beside_epochs: list[float] = []

    def expect(self, phase: Phase, trainings: Mapping[str, Training], instead_of: int | None = None) -> None:
        """Learns which trials a phase has still to do.

        Args:
            phase: The phase.
            trainings: What is left of each of its trials, by key.
            instead_of: How many of those that were not chosen yet they stand for; None for all of the phase.
        """
        with self._lock:
            unchosen = self._unchosen.setdefault(phase, [])
            chosen = len(unchosen) if instead_of is None else min(instead_of, len(unchosen))
            del unchosen[:chosen]
            new = {key: training for key, training in trainings.items() if key not in self._waiting}
            # 事先估的多于真要训的：其余的已在记录里，或者不用了，总数不变
            self._ended += max(0, chosen - len(new))
            self._waiting |= new

    def starts(self, trial: PlannedTrial, epochs: int) -> None:
        """Hears that a trial has begun, or begun again.

        Args:
            trial: The trial.
            epochs: Of which it has so many behind it.
        """
        with self._lock:
            known = self._take(trial.key, trial.phase)
            evaluated_only = known is not None and not known.epochs
            left = 0 if evaluated_only else trial.config.training.epochs - epochs
            now = self._clock()
            self._started[trial.key] = _Started(Training(trial.config, left), now, now)

    def _take(self, key: str, phase: Phase) -> Training | None:
        started = self._started.pop(key, None)
        if started is not None:
            return started.training
        if key in self._waiting:
            return self._waiting.pop(key)
        unchosen = self._unchosen.get(phase)
        return unchosen.pop(0) if unchosen else None

    def epoch(self, trial: PlannedTrial, seconds: float) -> None:
        """Hears of an epoch that has ended, and of its seconds."""
        with self._lock:
            self._here.add(likenesses_of(trial.config), seconds)
            started = self._started.get(trial.key)
            if started is not None:
                started.epochs += 1
                started.seconds += seconds
                started.at = self._clock()

    def ends(self, trial: PlannedTrial) -> None:
        """Hears that a trial has ended, trained here or taken from another's record."""
        with self._lock:
            started = self._started.get(trial.key)
            if started is not None:
                self._beside_epochs.append(max(0.0, self._clock() - started.began - started.seconds))
            self._take(trial.key, trial.phase)
            self._ended += 1

    def stops(self, trial: PlannedTrial) -> None:
        """Hears that a trial was stopped in the middle; it is still to be done."""
        with self._lock:
            started = self._started.pop(trial.key, None)
            if started is not None:
                self._waiting[trial.key] = self._rest(started)

    @staticmethod
    def _rest(started: _Started) -> Training:
        return Training(started.training.config, max(0, started.training.epochs - started.epochs))

    def count(self) -> str:
        """Returns how many trials have ended, on record or here, of all: `4/9`, or `4 of at most 14`."""
        with self._lock:
            waiting = len(self._waiting) + sum(map(len, self._unchosen.values()))
            total = self._ended + len(self._started) + waiting
            return f"{self._ended} of at most {total}" if self._may_be_less() else f"{self._ended}/{total}"

    def _may_be_less(self) -> bool:
        arms = "arm" in self._inexact and bool(self._waiting)
        return arms or any(self._unchosen.get(name) for name in self._inexact)

    def time_left(self) -> str:
        """Returns how long the rest takes, in words; empty where nothing is left."""
        with self._lock:
            waiting = [*self._waiting.values(), *(one for ones in self._unchosen.values() for one in ones)]
            if not waiting and not self._started:
                return ""
            seconds = self._seconds(waiting)
            if seconds is None:
                return UNKNOWN
            at_most = "at most " if self._may_be_less() else ""
            return f"{at_most}{readable_seconds(seconds)} left"

    def _seconds(self, waiting: Sequence[Training]) -> float | None:
        """Seconds to the end of all; None while nothing alike has been measured."""
        started = list(self._started.values())
        trainings = [*(self._rest(one) for one in started), *waiting]
        prices = [self._price(training.config) for training in trainings]
        known = [price for price in prices if price is not None]
        if not known:
            return None
        # 没量过的网络先按量过的平均算，量到了就换
        usual, beside = fmean(known), fmean(self._beside_epochs or [0.0])
        priced = [usual if price is None else price for price in prices]
        seconds = [price * training.epochs for price, training in zip(priced, trainings, strict=True)]
        now, running = self._clock(), len(started)
        for place, one in enumerate(started):
            # 正在走的一轮已过去的部分
            seconds[place] = max(0.0, seconds[place] - min(now - one.at, priced[place]))
        return ends_after(seconds[:running], [beside + one for one in seconds[running:]], self._slots())

    def _price(self, config: TrainConfig) -> float | None:
        """Seconds of an epoch: of the same network before one of the same name, and here before on record."""
        for likeness in likenesses_of(config):
            for source in (self._here, self._measured):
                if likeness in source.measured:
                    total, count = source.measured[likeness]
                    return total / count
        return None
