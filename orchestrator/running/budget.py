"""Budgets: how many GPU-hours and how much time a command may spend. It stops at a complete pair, not in the middle.

A seed's trials (all arms) start together or not at all: before the first of them its cost is reckoned from measured
epochs, those of this very run included. What is not measured yet waits until a first seed has been.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from alexnet_core.configuration.wording import counted
from orchestrator.planning.estimate import EpochSeconds, Place, ends_after, likenesses_of
from orchestrator.planning.on_record import OnRecord
from orchestrator.planning.plan import Plan
from orchestrator.planning.summary import complete_seeds, format_missing
from orchestrator.request import Limits
from search_spaces.core_config import CoreConfig, TrialConfig, planned_parts


class Budget:
    """Counts what a run spends and says whether a further seed fits. The main thread counts, Tune's thread asks."""

    def __init__(
        self,
        limits: Limits,
        measured: EpochSeconds,
        place: Place,
        started: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts with nothing spent.

        Args:
            limits: What may be spent.
            measured: Seconds of epochs on record; those of this run are added.
            place: Where trials train.
            started: `time.monotonic()` at the command's start.
            clock: Tells the time.
        """
        self._limits, self._measured, self._place = limits, measured, place
        self._started, self._clock = started, clock
        self._spent = 0.0
        self.refusal: str | None = None

    def epoch(self, config: TrialConfig, seconds: float) -> None:
        """Counts an epoch, or a report, that a slot has trained."""
        self._spent += seconds
        if not isinstance(config, CoreConfig):
            self._measured.add(likenesses_of(config), seconds)

    def trial(self, config: TrialConfig, seconds: float) -> None:
        """Learns what a whole trial took: all that is reckoned with where its length is not known beforehand."""
        if isinstance(config, CoreConfig):
            self._measured.add(likenesses_of(config), seconds)

    def may_start(self, configs: Sequence[TrialConfig], running: Mapping[str, tuple[TrialConfig, int]]) -> bool | None:
        """Says whether these trials may start together; None where that is to be asked again later.

        Args:
            configs: All trials of a seed that are missing, or one point of a sweep.
            running: (configuration, epochs done) of the trials that run, by key.
        """
        if not self._limits.any:
            return True
        if self.refusal is not None:
            return False
        prices = [self._measured.of(config) for config in configs]
        if any(price is None for price in prices):
            # 没有量过的先跑一个种子，量出来再决定
            return None if running else not self._over()
        seconds = [price[0] * planned_parts(c) for price, c in zip(prices, configs, strict=True) if price is not None]
        left = [self._left(config, done) for config, done in running.values()]
        self.refusal = self._refusal(seconds, left)
        return self.refusal is None

    def _left(self, config: TrialConfig, done: int) -> float:
        price = self._measured.of(config)
        return 0.0 if price is None else price[0] * max(0, planned_parts(config) - done)

    def _over(self) -> bool:
        self.refusal = self._refusal([], [])
        return self.refusal is not None

    def _refusal(self, seconds: Sequence[float], left: Sequence[float]) -> str | None:
        """Why so many further slot-seconds do not fit, in words; None where they do."""
        hours = self._place.hours(self._spent + sum(left) + sum(seconds))
        if self._limits.gpu_hours is not None and hours > self._limits.gpu_hours:
            return f"the next seed would bring it to {hours:.3g} {self._place.unit} of {self._limits.gpu_hours:g}"
        end = self._clock() - self._started + ends_after(left, seconds, self._place.slots)
        if self._limits.seconds is not None and end > self._limits.seconds:
            return f"the next seed would end after {_of(end, self._limits.seconds)}"
        return None


def _of(seconds: float, limit: float) -> str:
    """Says a time and its limit in the unit in which the limit is a readable number."""
    unit, size = ("s", 1) if limit < 60 else ("min", 60) if limit < 7200 else ("h", 3600)
    shown = (f"{value:.0f}" if value >= 1000 else f"{value:.3g}" for value in (seconds / size, limit / size))
    return " of ".join(f"{value} {unit}" for value in shown)


@dataclass(frozen=True)
class LeftOut:
    """What a budget left out of a run.

    Attributes:
        plan: What was run.
        on_record: What of it is on record now.
        tuning: Trials of the re-tuning that are missing.
        points: Points of the sweep.
        confirming: Trials that confirm points of the sweep.
        confirms: Whether the best points are to be confirmed.
    """

    plan: Plan
    on_record: OnRecord
    tuning: int = 0
    points: int = 0
    confirming: int = 0
    confirms: bool = False

    @property
    def _arms(self) -> bool:
        return bool(self.on_record.missing(self.plan.trials))

    @property
    def anything(self) -> bool:
        """Whether anything is missing."""
        return bool(self._arms or self.tuning or self.points or self.confirming)

    @property
    def keeps_from_judging(self) -> bool:
        """Whether nothing is judged yet, since every look at a study costs level; a point of a sweep costs none."""
        return bool(self._arms or self.confirming)

    def lines(self) -> Iterator[str]:
        """Names what is missing, and how to go on."""
        plan, seeds = self.plan, complete_seeds(self.plan, self.on_record)
        missing = [format_missing(plan, self.on_record)] if self._arms else []
        missing += [f"{counted(self.points, 'point')} of the sweep"] if self.points else []
        counts = {"re-tuning": self.tuning, "confirmation": self.confirming}
        missing += [f"{counted(count, 'trial')} of the {what}" for what, count in counts.items() if count]
        missing += ["the confirmation of its best"] if self.points and self.confirms else []
        of_seeds = f": {seeds} of {counted(len(plan.seeds), 'seed is', 'seeds are')} complete" if plan.trials else ""
        yield f"stopped at the budget{of_seeds}; missing: {'; '.join(missing)}."
        if self.keeps_from_judging:
            shorter = self._arms and seeds and plan.max_seeds is None
            judge = f"judge what is complete with --seeds {seeds}, or " if shorter else ""
            # 不作比较的研究（--variance）怎么看都不花水平
            costs = "No verdict yet, since every look at a study costs level"
            yield f"{costs if plan.study.contrasts else 'No answer yet'}: {judge}go on with the same command."
