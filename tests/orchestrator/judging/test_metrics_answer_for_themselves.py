"""Whoever judges or shows an answer asks the metric, never which one it is: so that others can be added."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.judging import primary_metric
from orchestrator.judging.evidence import ArmRecord, Evidence, paired_evidence
from orchestrator.judging.looks import follow_records
from orchestrator.judging.primary_metric import Comparison, JudgedMetric, Pair, Row, Spread
from orchestrator.judging.scales import STATISTICS, ScaleName
from orchestrator.statistics.paired import PairedTest
from orchestrator.statistics.verdict import judge
from search_spaces.study import Statistic, load_study

ROOM = Path(primary_metric.__file__).parents[1]
METRICS = {"JudgedMetric"} | {
    name
    for name, thing in vars(primary_metric).items()
    if isinstance(thing, type) and {"compare", "spread", "difference"} <= vars(thing).keys()
}


def asks_which(tree: ast.AST) -> Iterator[int]:
    """Lines that ask of which class something is, one of them a metric's."""
    for node in ast.walk(tree):
        classes: Sequence[ast.AST] = ()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "type"):
            classes = node.args
        elif isinstance(node, ast.MatchClass):
            classes = [node.cls]
        if any(isinstance(name, ast.Name) and name.id in METRICS for part in classes for name in ast.walk(part)):
            assert isinstance(node, ast.Call | ast.MatchClass)
            yield node.lineno


def test_nobody_asks_which_metric_it_is() -> None:
    assert {"JudgedMetric", "DeclaredMetric", "ErrorRate", "GeneralisationGap", "TimeToThreshold"} == METRICS
    places = [f"{path.name}:{line}" for path in ROOM.rglob("*.py") for line in asks_which(ast.parse(path.read_text()))]
    assert places == []
    assert list(asks_which(ast.parse("isinstance(judged, ErrorRate | TimeToThreshold)"))) == [1]


def test_how_a_statistic_is_spoken_of_is_said_in_one_place() -> None:
    names = set(get_args(Statistic))
    assert set(STATISTICS) == names
    compared = [
        f"{path.name}:{node.lineno}"
        for path in ROOM.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr == "statistic"
    ]
    # 指标由研究选出的那一处
    assert [place.split(":")[0] for place in compared] == ["primary_metric.py"]


class WordsPerSecond:
    """A metric that no file of the orchestrator knows: more is better, compared by the log of the ratio."""

    label = "words per second"
    split = "validation"
    scale: ScaleName = "log_ratio"
    unit = "words/s"

    def known(self, row: Row) -> bool:
        return row["words"] is not None

    def lacks_ratio(self, row: Row) -> bool:
        return False

    def value(self, row: Row) -> float | None:
        return float(row["words"])

    def images(self, row: Row) -> int:
        return 0

    def sampling_error(self, mean: float | None, images: int) -> float | None:
        return None

    def spread(self, values: Mapping[str, float | None]) -> Spread:
        return Spread()

    def difference(self, base: Row, row: Row) -> float | None:
        return math.log(row["words"] / base["words"]) if self.known(base) and self.known(row) else None

    def bounds(self, pairs: Sequence[Pair]) -> None:
        return None

    def compare(self, pairs: Sequence[Pair]) -> Comparison:
        return Comparison()

    def seeds_needed(self, test: PairedTest, effect: float, level: float) -> tuple[int, int] | None:
        return None


def test_a_metric_that_the_orchestrator_does_not_know_is_judged_like_its_own() -> None:
    metric: JudgedMetric = WordsPerSecond()
    base = [ArmRecord({"state": "finished", "seed": seed, "words": 100.0 + seed}) for seed in range(8)]
    fast = [ArmRecord({"state": "finished", "seed": seed, "words": 200.0 + 3 * seed}) for seed in range(8)]
    evidence = paired_evidence("fast", base, fast, metric)
    logs = [math.log((200 + 3 * seed) / (100 + seed)) for seed in range(8)]
    assert evidence.differences == pytest.approx(logs)
    assert judge([evidence], math.log(1.1), 0.05)["fast"].word == "higher"


def test_margins_of_a_study_by_seed_are_on_the_scale_of_its_metric() -> None:
    study = load_study("lrn").on("digits")
    recipe = study.recipes["digits"].model_copy(update={"margin": 1.5, "smallest_effect": 2.0})
    cells = {(arm.name, seed): (f"{arm.name}-{seed}", 1) for arm in study.arms for seed in range(8)}
    # 每个种子都快四成上下：比值的界是 1.5，取对数后才包得住
    rows = {
        (key, 1): {"state": "finished", "words": 100.0 * (1.0 if arm == study.baseline else 1.38 + 0.01 * (seed % 3))}
        for (arm, seed), (key, _) in cells.items()
    }
    courses = follow_records(Evidence(study, cells, rows, WordsPerSecond()), recipe, 8, 0.05)
    assert {course.verdict.word for course in courses.values()} == {"equivalent"}
