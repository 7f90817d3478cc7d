"""Budgets: how many GPU-hours and how much time a command may spend. It stops at a complete pair, not in the middle.

A seed's trials (all arms) start together or not at all: before the first of them its cost is reckoned from measured
epochs, those of this very run included. What is not measured yet waits until a first seed has been.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from alexnet_core.configuration import TrainConfig
from orchestrator.estimate import EpochSeconds, Place, ends_after, likenesses_of
from orchestrator.plan import Plan

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
SHOWN_SEEDS = 12


@dataclass(frozen=True)
class Limits:
    """What a command may spend.

    Attributes:
        gpu_hours: GPUs reserved by slots, times the hours they train; on the CPU slots times hours. None for no limit.
        seconds: From the command's start to the end of its last trial. None for no limit.
    """

    gpu_hours: float | None
    seconds: float | None

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return self.gpu_hours is not None or self.seconds is not None


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

    def epoch(self, config: TrainConfig, seconds: float) -> None:
        """Counts an epoch that a slot has trained."""
        self._spent += seconds
        self._measured.add(likenesses_of(config), seconds)

    def may_start(self, configs: Sequence[TrainConfig], running: Mapping[str, tuple[TrainConfig, int]]) -> bool | None:
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
        wanted = [price[0] * c.training.epochs for price, c in zip(prices, configs, strict=True) if price is not None]
        left = [self._left(config, done) for config, done in running.values()]
        self.refusal = self._refusal(wanted, left)
        return self.refusal is None

    def _left(self, config: TrainConfig, done: int) -> float:
        price = self._measured.of(config)
        return 0.0 if price is None else price[0] * max(0, config.training.epochs - done)

    def _over(self) -> bool:
        self.refusal = self._refusal([], [])
        return self.refusal is not None

    def _refusal(self, wanted: Sequence[float], left: Sequence[float]) -> str | None:
        """Why so many further slot-seconds do not fit, in words; None where they do."""
        hours = self._place.hours(self._spent + sum(left) + sum(wanted))
        if self._limits.gpu_hours is not None and hours > self._limits.gpu_hours:
            return f"the next seed would bring it to {hours:.3g} {self._place.unit} of {self._limits.gpu_hours:g}"
        end = self._clock() - self._started + ends_after(left, wanted, self._place.slots)
        if self._limits.seconds is not None and end > self._limits.seconds:
            return f"the next seed would end after {end / 60:.3g} min of {self._limits.seconds / 60:.3g} min"
        return None


def missing_said(plan: Plan) -> str:
    """Names what a plan still lacks: `seeds 5 to 7`, or `seed 5 (no_lrn, as_run)` where an arm of it is there."""
    missing = {trial.key for trial in plan.to_run}
    arms: dict[int, list[str]] = {}
    for trial in plan.trials:
        if trial.key in missing:
            arms.setdefault(trial.seed, []).append(trial.arm)
    whole = [seed for seed, names in arms.items() if len(names) == len(plan.study.arms)]
    parts = [f"seed {seed} ({', '.join(arms[seed])})" for seed in sorted(set(arms) - set(whole))]
    if whole:
        shown = ", ".join(map(str, whole[:SHOWN_SEEDS])) + (" and more" if len(whole) > SHOWN_SEEDS else "")
        parts.append(f"all arms of seed {shown}" if len(whole) == 1 else f"all arms of seeds {shown}")
    return "; ".join(parts)


def complete_seeds(plan: Plan) -> int:
    """Returns how many seeds from the first on have all their arms on record."""
    missing = {trial.key for trial in plan.to_run}
    open_seeds = [trial.seed for trial in plan.trials if trial.key in missing]
    return sum(seed < min(open_seeds, default=math.inf) for seed in plan.seeds)


def duration(text: str) -> float:
    """Parses `90m`, `2h`, `1h30m` or `45s` into seconds."""
    parts = re.fullmatch(r"(?:\d+(?:\.\d+)?[dhms])+", text.strip())
    seconds = sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)) if parts else 0.0
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"must be a duration such as 90m, 2h or 1h30m, not {text!r}")
    return seconds


def hours(text: str) -> float:
    """Parses a number of hours above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number of hours, not {text!r}") from None
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 1000000 hours, not {text}")
    return value
