"""What the records of a study hold, by arm and seed: the evidence that verdicts are made of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import TypeVar

import polars as pl

from orchestrator.judging.primary_metric import JudgedMetric, Pair, Row, judged_metric, with_metric_columns
from orchestrator.records.evaluations import seen_in
from orchestrator.statistics.paired import ROUNDING
from orchestrator.statistics.verdict import ArmEvidence
from search_spaces.arm import Claim
from search_spaces.contrast import Contrast, families
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

    @cached_property
    def contrasts(self) -> Mapping[str, Contrast]:
        """What is compared, by name."""
        return {contrast.name: contrast for contrast in self.study.contrasts}

    @cached_property
    def families(self) -> list[list[str]]:
        """The names of the contrasts that are corrected together."""
        return [[one.name for one in family] for family in families(list(self.contrasts.values()))]

    def arms(self, name: str) -> tuple[str, ...]:
        """Returns the arms of a contrast."""
        return tuple(self.contrasts[name].weights)

    def needs(self, name: str, arms: Collection[str]) -> bool:
        """Says whether a contrast cannot be made without these arms, or some of them."""
        return any(arm in self.contrasts[name].weights for arm in arms)

    def rows(self, arm: str, seeds: int) -> list[Row]:
        """Returns the rows of seeds 0 to `seeds` - 1, up to the first that has not ended."""
        cells = (self.planned[arm, seed] for seed in range(seeds) if (arm, seed) in self.planned)
        return [self.ended[what] for what in takewhile(self.ended.__contains__, cells)]

    def of(self, name: str, seeds: int) -> ArmEvidence:
        """Returns a contrast's evidence of seeds 0 to `seeds` - 1, which have all ended in all of its arms."""
        contrast = self.contrasts[name]
        records = {arm: [ArmRecord(row) for row in self.rows(arm, seeds)] for arm in contrast.weights}
        same, claimed = self._same_trials(contrast), _claimed_sign(contrast.claim)
        if contrast.pair is None:
            return _combined_evidence(contrast, records, self.judged, same_trials=same, claimed_points=claimed)
        arm, other = contrast.pair
        return paired_evidence(
            name,
            records[other],
            records[arm],
            self.judged,
            same_trials=same,
            claimed_points=claimed,
            other="baseline" if other == self.study.baseline else other,
        )

    def at(self, name: str, seeds: int) -> ArmEvidence | None:
        """Returns the same, or None where one of those trials has not ended."""
        complete = min(len(self.rows(arm, seeds)) for arm in self.arms(name))
        return self.of(name, seeds) if complete == seeds else None

    def complete_seeds(self, skipped: Collection[str] = ()) -> tuple[int, tuple[int, ...]]:
        """Returns how many seeds from 0 on have ended in all arms (never whichever finished first), and later ones.

        Args:
            skipped: Arms that are not waited for.
        """
        seeds = sorted({seed for _, seed in self.planned})
        arms = [arm.name for arm in self.study.arms if arm.name not in skipped]
        is_complete = {seed: all(self.planned.get((arm, seed)) in self.ended for arm in arms) for seed in seeds}
        # 从 0 起连续齐全的才算：谁先跑完不能左右答案
        complete = list(takewhile(lambda seed: is_complete[seed], is_complete))
        return len(complete), tuple(seed for seed in is_complete if is_complete[seed] and seed not in complete)

    def incomplete(self, arms: Collection[str]) -> tuple[str, ...]:
        """Returns those of the arms of which a planned trial has not ended."""
        lacking = {arm for (arm, _), what in self.planned.items() if what not in self.ended}
        return tuple(arm for arm in arms if arm in lacking)

    def _same_trials(self, contrast: Contrast) -> bool:
        """Whether the weights of every trial cancel, so that nothing is compared."""
        weights: dict[tuple[int, Seen | None], float] = {}
        for arm, seed in self.planned:
            if arm in contrast.weights:
                trial = seed, self.planned[arm, seed]
                weights[trial] = weights.get(trial, 0.0) + contrast.weights[arm]
        return not any(weights.values())


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


def _claimed_sign(claim: Claim | None) -> float | None:
    """The claim's number, or plus or minus one where it only says higher or lower; the word goes by the sign."""
    if claim is None:
        return None
    if claim.direction is not None:
        return 1.0 if claim.direction == "higher" else -1.0
    if claim.ratio is not None:
        return math.log(claim.ratio)
    return claim.difference


def paired_evidence(
    name: str,
    baseline: Sequence[Judgeable],
    records: Sequence[Judgeable],
    judged: JudgedMetric,
    *,
    same_trials: bool = False,
    claimed_points: float | None = None,
    other: str = "baseline",
) -> ArmEvidence:
    """Returns what trials say of an arm, or of a confirmed point, against the baseline on the same seeds.

    Args:
        name: The arm or point.
        baseline: The baseline's trials, by seed.
        records: Its own, on the same seeds.
        judged: The primary metric.
        same_trials: Whether its configuration is the baseline's.
        claimed_points: The paper's number or its sign.
        other: The arm that stands in the baseline's place.

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
        other=other,
    )


def _combined_evidence(
    contrast: Contrast,
    records: Mapping[str, Sequence[ArmRecord]],
    judged: JudgedMetric,
    *,
    same_trials: bool,
    claimed_points: float | None,
) -> ArmEvidence:
    """What the trials of several arms say of a contrast of them, on the same seeds."""
    rows = {arm: [record.row for record in of_arm] for arm, of_arm in records.items()}
    seeds = list(zip(*rows.values(), strict=True))
    together = list(rows_by_seed(rows).values())
    differences = [contrast_of(contrast, of_seed, judged) for of_seed in together]
    return ArmEvidence(
        name=contrast.name,
        differences=tuple(difference for difference in differences if difference is not None),
        planned=len(seeds),
        diverged=sum(count(of_seed, "diverged") > 0 for of_seed in seeds),
        failed=sum(count(of_seed, "failed", "stopped") > 0 for of_seed in seeds),
        without_ratio=sum(any(map(judged.lacks_ratio, of_seed.values())) for of_seed in together),
        same_trials=same_trials,
        claimed_points=claimed_points,
        is_published=contrast.published is not None,
    )


def rows_by_seed(rows: Mapping[str, Sequence[Row]]) -> dict[int, dict[str, Row]]:
    """Returns the rows of all arms by place in the sequence of seeds, of the seeds on which they may be compared.

    Args:
        rows: Of each arm, of the same seeds in the same order.
    """
    seeds = enumerate(dict(zip(rows, of_seed, strict=True)) for of_seed in zip(*rows.values(), strict=True))
    return {place: of_seed for place, of_seed in seeds if trained_alike(*of_seed.values())}


def contrast_of(contrast: Contrast, rows: Mapping[str, Row], judged: JudgedMetric) -> float | None:
    """Returns a contrast of the arms' values of one seed; None where one of them lacks the metric.

    Args:
        contrast: The weights.
        rows: The row of each of its arms.
        judged: The primary metric.
    """
    if contrast.published is not None:
        (row,) = rows.values()
        value = judged.value(row) if judged.known(row) else None
        return None if value is None else value - contrast.published.value
    # 权重之和为零，所以从哪个 arm 起算都一样；两个 arm 时就是它们的差，分毫不差
    start = min(contrast.weights, key=lambda arm: contrast.weights[arm])
    parts = []
    for arm, weight in contrast.weights.items():
        if arm != start:
            difference = judged.difference(rows[start], rows[arm])
            if difference is None:
                return None
            parts.append(weight * difference)
    total = math.fsum(parts)
    # 相消后剩下的舍入误差就是零
    return 0.0 if abs(total) <= ROUNDING * math.fsum(map(abs, parts)) else total


def pairs_by_seed(baseline: Sequence[Row], rows: Sequence[Row]) -> dict[int, Pair]:
    """Returns (the baseline's row, the arm's) by place in the sequence of seeds, of the trials that may be compared.

    Args:
        baseline: Rows of the trials table, by seed.
        rows: The arm's, of the same seeds in the same order.
    """
    pairs = enumerate(zip(baseline, rows, strict=True))
    return {place: pair for place, pair in pairs if trained_alike(*pair)}


def trained_alike(*rows: Row) -> bool:
    """Says whether trials were all trained by as many workers and threads on one kind of device, as far as they say.

    These are outside a trial's key, and they round otherwise, which training amplifies until errors scatter as between
    two seeds (weights of one and of two workers: 1e-6 apart for 23 batches, 0.1 at the 69th; one and two threads on a
    CPU: 275 and 274 test errors of 359 after an epoch, 32 and 56 after five). The arithmetic's precision is in the key.
    """
    ways = map(_way, rows)
    return all(len({value for value in values if value is not None}) <= 1 for values in zip(*ways, strict=True))


def trained_otherwise(rows: Mapping[str, Row]) -> list[str]:
    """Returns which arms' trials of a seed were not trained as most of them; all that say how, where none is most."""
    odd: set[str] = set()
    for said in zip(*map(_way, rows.values()), strict=True):
        counts = Counter(value for value in said if value is not None).most_common()
        usual = counts[0][0] if counts and (len(counts) == 1 or counts[0][1] > counts[1][1]) else None
        odd |= {arm for arm, value in zip(rows, said, strict=True) if value is not None and value != usual}
    return [arm for arm in rows if arm in odd]


def _way(row: Row) -> tuple[str | None, ...]:
    return row.get("env_workers"), _device_kind(row), _threads(row)


def _threads(row: Row) -> str | None:
    """Of a trial on a CPU; beside a GPU they only load images."""
    return row.get("env_threads") if _device_kind(row) == "cpu" else None


def _device_kind(row: Row) -> str | None:
    devices = row.get("env_devices")
    return None if devices is None else str(devices).split(":")[0].split(",")[0]


def differences_by_seed(pairs: Mapping[int, Pair], judged: JudgedMetric) -> dict[str, float]:
    """Returns one arm against another of the seeds where both have the metric.

    Args:
        pairs: The baseline's row and the arm's, by seed.
        judged: The primary metric.
    """
    differences = ((seed, judged.difference(base, row)) for seed, (base, row) in pairs.items())
    return {str(seed): difference for seed, difference in differences if difference is not None}


def count(rows: Sequence[Row], *states: str) -> int:
    """Returns how many trials ended in one of these states."""
    return sum(row["state"] in states for row in rows)
