"""What the records of a study hold, by arm and seed: the evidence that verdicts are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

import polars as pl

from orchestrator.judging.primary_metric import JudgedMetric, Pair, Row, judged_metric, with_metric_columns
from orchestrator.records.evaluations import seen_in
from orchestrator.statistics.verdict import ArmEvidence
from search_spaces.arm import Arm
from search_spaces.core_config import CoreDescription
from search_spaces.study import Recipe, Study

Cell = tuple[str, int]
# 一个 trial 的 key，和看测试图时用几个视图
Seen = tuple[str, int]


@dataclass(frozen=True)
class ArmRecord:
    """A trial of an arm on one of the study's seeds; `row` is its row of the trials table."""

    row: Row


@dataclass(frozen=True)
class ConfirmationRecord:
    """A trial of a sweep's point, or of the baseline beside it, on a fresh seed."""

    row: Row


Judgeable = TypeVar("Judgeable", ArmRecord, ConfirmationRecord)


@dataclass(frozen=True)
class Evidence:
    """The arm trials of a study that have ended.

    Attributes:
        study: The study.
        planned: What each planned (arm, seed) is.
        ended: Row of the trials table of each trial that has ended, seen in as many views as is wanted.
        judged: How the primary metric is measured.
    """

    study: Study
    planned: Mapping[Cell, Seen]
    ended: Mapping[Seen, Row]
    judged: JudgedMetric

    @property
    def compared(self) -> tuple[str, ...]:
        """The arms that are compared with the baseline."""
        return tuple(arm.name for arm in self.study.arms if arm.name != self.study.baseline)

    def rows(self, arm: str, seeds: int) -> list[Row]:
        """Returns the rows of seeds 0 to `seeds` - 1, up to the first that has not ended."""
        cells = (self.planned[arm, seed] for seed in range(seeds) if (arm, seed) in self.planned)
        return [self.ended[what] for what in takewhile(self.ended.__contains__, cells)]

    def of(self, arm: str, seeds: int) -> ArmEvidence:
        """Returns an arm's evidence of seeds 0 to `seeds` - 1, which have all ended, in the baseline too."""
        rows, baseline = self.rows(arm, seeds), self.rows(self.study.baseline, seeds)
        return paired_evidence(
            arm,
            [ArmRecord(row) for row in baseline],
            [ArmRecord(row) for row in rows],
            self.judged,
            same_trials=self._same_trials(arm),
            claimed_points=_claimed_sign(self.study.arm(arm)),
        )

    def at(self, arm: str, seeds: int) -> ArmEvidence | None:
        """Returns the same, or None where one of those trials has not ended."""
        complete = min(len(self.rows(name, seeds)) for name in (arm, self.study.baseline))
        return self.of(arm, seeds) if complete == seeds else None

    def complete_seeds(self) -> tuple[int, tuple[int, ...]]:
        """Returns how many seeds from 0 on have ended in all arms (never whichever finished first), and later ones."""
        seeds = sorted({seed for _, seed in self.planned})
        arms = [arm.name for arm in self.study.arms]
        is_complete = {seed: all(self.planned.get((arm, seed)) in self.ended for arm in arms) for seed in seeds}
        # 从 0 起连续齐全的才算：谁先跑完不能左右答案
        complete = list(takewhile(lambda seed: is_complete[seed], is_complete))
        return len(complete), tuple(seed for seed in is_complete if is_complete[seed] and seed not in complete)

    def _same_trials(self, arm: str) -> bool:
        baseline = self.study.baseline
        return all(self.planned.get((baseline, seed)) == it for (name, seed), it in self.planned.items() if name == arm)


def gather_evidence(
    study: Study,
    recipe: Recipe,
    core: CoreDescription,
    planned: Mapping[Cell, Seen],
    trials: pl.DataFrame,
    epochs: pl.DataFrame,
) -> Evidence:
    """Finds a study's arm trials in the tables.

    Args:
        study: The study.
        recipe: Its recipe on this data set.
        core: What is trained.
        planned: What each planned (arm, seed) is.
        trials: The trials table.
        epochs: The epochs table, which times to a threshold are read from.
    """
    recorded = trials.filter(pl.col("key").is_in({key for key, _ in planned.values()}))
    measured = with_metric_columns(study, recipe, core, recorded, epochs)
    by_key = {row["key"]: row for row in measured.iter_rows(named=True)}
    seen = {(key, views): seen_in(by_key[key], views) for key, views in planned.values() if key in by_key}
    ended = {what: row for what, row in seen.items() if row is not None}
    finished = [row for row in ended.values() if row["state"] == "finished"]
    return Evidence(study, planned, ended, judged_metric(study, recipe, finished, core))


def _claimed_sign(arm: Arm) -> float | None:
    """The claim's number, or plus or minus one where it only says higher or lower; the word goes by the sign."""
    if arm.claim is None:
        return None
    if arm.claim.direction is not None:
        return 1.0 if arm.claim.direction == "higher" else -1.0
    if arm.claim.ratio is not None:
        return math.log(arm.claim.ratio)
    return arm.claim.difference


def paired_evidence(
    name: str,
    baseline: Sequence[Judgeable],
    records: Sequence[Judgeable],
    judged: JudgedMetric,
    *,
    same_trials: bool = False,
    claimed_points: float | None = None,
) -> ArmEvidence:
    """Returns what trials say of an arm, or of a confirmed point, against the baseline on the same seeds.

    Args:
        name: The arm or point.
        baseline: The baseline's trials, by seed.
        records: Its own, on the same seeds.
        judged: The primary metric.
        same_trials: Whether its configuration is the baseline's.
        claimed_points: The paper's number or its sign.

    Raises:
        TypeError: Trials that chose, or arms' trials beside a confirmation's.
    """
    kinds = {type(record) for record in (*baseline, *records)}
    if kinds not in ({ArmRecord}, {ConfirmationRecord}, set()):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"only an arm's trials, or only a confirmation's, are evidence for {name}, not {names}")
    base, rows = [record.row for record in baseline], [record.row for record in records]
    # 同一种子配成一对：初始化与次序相同，共有的起伏相减而去
    pairs = list(pairs_by_seed(base, rows).values())
    differences = [judged.difference(*pair) for pair in pairs]
    return ArmEvidence(
        name=name,
        differences=tuple(difference for difference in differences if difference is not None),
        planned=len(rows),
        diverged=count(rows, "diverged"),
        failed=count(rows, "failed", "stopped"),
        baseline_diverged=count(base, "diverged"),
        baseline_failed=count(base, "failed", "stopped"),
        without_ratio=sum(any(map(judged.lacks_ratio, pair)) for pair in pairs),
        same_trials=same_trials,
        claimed_points=claimed_points,
        ratios=judged.bounds(pairs),
    )


def pairs_by_seed(baseline: Sequence[Row], rows: Sequence[Row]) -> dict[int, Pair]:
    """Returns (the baseline's row, the arm's) by place in the sequence of seeds, of the trials that may be compared.

    Args:
        baseline: Rows of the trials table, by seed.
        rows: The arm's, of the same seeds in the same order.
    """
    pairs = enumerate(zip(baseline, rows, strict=True))
    return {place: pair for place, pair in pairs if trained_alike(*pair)}


def trained_alike(one: Row, other: Row) -> bool:
    """Says whether two trials were trained by as many workers and threads on one kind of device, as far as they say.

    These are outside a trial's key, and they round otherwise, which training amplifies until errors scatter as between
    two seeds (weights of one and of two workers: 1e-6 apart for 23 batches, 0.1 at the 69th; one and two threads on a
    CPU: 275 and 274 test errors of 359 after an epoch). The precision of the arithmetic is in the key.
    """
    ways = [(row.get("env_workers"), _device_kind(row), _threads(row)) for row in (one, other)]
    return all(None in values or values[0] == values[1] for values in zip(*ways, strict=True))


def _threads(row: Row) -> str | None:
    """Of a trial on a CPU; beside a GPU they only load images."""
    return row.get("env_threads") if _device_kind(row) == "cpu" else None


def _device_kind(row: Row) -> str | None:
    devices = row.get("env_devices")
    return None if devices is None else str(devices).split(":")[0].split(",")[0]


def differences_by_seed(pairs: Mapping[int, Pair], judged: JudgedMetric) -> dict[str, float]:
    """Returns arm against baseline of the seeds where both have the metric.

    Args:
        pairs: The baseline's row and the arm's, by seed.
        judged: The primary metric.
    """
    differences = ((seed, judged.difference(base, row)) for seed, (base, row) in pairs.items())
    return {str(seed): difference for seed, difference in differences if difference is not None}


def count(rows: Sequence[Row], *states: str) -> int:
    """Returns how many trials ended in one of these states."""
    return sum(row["state"] in states for row in rows)
