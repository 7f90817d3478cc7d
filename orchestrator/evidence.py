"""What the records of a study hold, by arm and seed: the evidence that verdicts are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import polars as pl

from orchestrator.evaluations import seen_in
from orchestrator.judged import Metric, judged_metric, with_epochs_to
from orchestrator.pairs import ArmRecord, paired_evidence
from orchestrator.verdict import ArmEvidence
from search_spaces.study import Arm, Recipe, Study

Row = dict[str, Any]
Cell = tuple[str, int]
# 一个 trial 的 key，和看测试图时用几个视图
Seen = tuple[str, int]


@dataclass(frozen=True)
class Evidence:
    """The arm trials of a study that have ended.

    Attributes:
        study: The study.
        wanted: What each planned (arm, seed) is.
        ended: Row of the trials table of each trial that has ended, seen in as many views as is wanted.
        judged: How the primary metric is measured.
    """

    study: Study
    wanted: Mapping[Cell, Seen]
    ended: Mapping[Seen, Row]
    judged: Metric

    @property
    def compared(self) -> tuple[str, ...]:
        """The arms that are compared with the baseline."""
        return tuple(arm.name for arm in self.study.arms if arm.name != self.study.baseline)

    def rows(self, arm: str, seeds: int) -> list[Row]:
        """Returns the rows of seeds 0 to `seeds` - 1, up to the first that has not ended."""
        asked = (self.wanted[arm, seed] for seed in range(seeds) if (arm, seed) in self.wanted)
        return [self.ended[what] for what in takewhile(self.ended.__contains__, asked)]

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
        ended = min(len(self.rows(name, seeds)) for name in (arm, self.study.baseline))
        return self.of(arm, seeds) if ended == seeds else None

    def complete_seeds(self) -> tuple[int, tuple[int, ...]]:
        """Returns how many seeds from 0 on have ended in all arms (never whichever finished first), and later ones."""
        seeds = sorted({seed for _, seed in self.wanted})
        arms = [arm.name for arm in self.study.arms]
        ended = {seed: all(self.wanted.get((arm, seed)) in self.ended for arm in arms) for seed in seeds}
        complete = list(takewhile(lambda seed: ended[seed], ended))
        return len(complete), tuple(seed for seed in ended if ended[seed] and seed not in complete)

    def _same_trials(self, arm: str) -> bool:
        baseline = self.study.baseline
        return all(self.wanted.get((baseline, seed)) == it for (name, seed), it in self.wanted.items() if name == arm)


def gather_evidence(
    study: Study, recipe: Recipe, wanted: Mapping[Cell, Seen], trials: pl.DataFrame, epochs: pl.DataFrame
) -> Evidence:
    """Finds a study's arm trials in the tables.

    Args:
        study: The study.
        recipe: Its recipe on this data set.
        wanted: What each planned (arm, seed) is.
        trials: The trials table.
        epochs: The epochs table, which times to a threshold are read from.
    """
    own = trials.filter(pl.col("key").is_in({key for key, _ in wanted.values()}))
    if recipe.threshold is not None:
        own = with_epochs_to(recipe.threshold, own, epochs)
    by_key = {row["key"]: row for row in own.iter_rows(named=True)}
    seen = {(key, views): seen_in(by_key[key], views) for key, views in wanted.values() if key in by_key}
    ended = {what: row for what, row in seen.items() if row is not None}
    finished = [row for row in ended.values() if row["state"] == "finished"]
    return Evidence(study, wanted, ended, judged_metric(study, recipe, finished))


def on_scale(size: float, judged: Metric) -> float:
    """Returns a recipe's margin or effect on the scale of the differences: points, or the log of a ratio."""
    return size if judged.scale == "points" else math.log(size)


def _claimed_sign(arm: Arm) -> float | None:
    """The claim's number, or plus or minus one where it only says higher or lower; the word goes by the sign."""
    if arm.claim is None:
        return None
    if arm.claim.direction is not None:
        return 1.0 if arm.claim.direction == "higher" else -1.0
    if arm.claim.ratio is not None:
        return math.log(arm.claim.ratio)
    return arm.claim.top1_points
