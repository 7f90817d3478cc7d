"""Primary metrics other than the error at the end: training error, and the gap between validation and training."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from orchestrator.answer import answer
from orchestrator.findings import Answer
from orchestrator.tables import MEMBER_COLUMNS, TRIAL_COLUMNS
from search_spaces.study import load_study
from tests.made_reports import markdown


def judged(name: str, errors: dict[str, list[tuple[int, int | None]]]) -> Answer:
    """Judges a study whose trials made so many errors on 500 validation and on 2,000 training images."""
    study = load_study(name).on("cifar10")
    rows = []
    for arm, seeds in errors.items():
        for seed, (validation, training) in enumerate(seeds):
            cells: dict[str, Any] = {"key": f"{arm}-{seed}", "seed": seed, "state": "finished", "seconds": 1.0}
            for split, wrong, count in (
                ("validation", validation, 500),
                ("test", 50, 500),
                ("train_final", training, 2000),
            ):
                if wrong is not None:
                    cells |= {f"{split}_top1_errors": wrong, f"{split}_top1_error": wrong / count}
                    cells |= {f"{split}_top5_errors": 1, f"{split}_count": count}
            rows.append(cells)
    seeds = len(errors["baseline"])
    plan = {
        "dataset": "cifar10",
        "alpha": 0.05,
        "planned_seeds": seeds,
        "looks": [],
        "trials": [
            {"arm": arm.name, "seed": seed, "phase": "arm", "key": f"{arm.name}-{seed}"}
            for seed in range(seeds)
            for arm in study.arms
        ],
    }
    trials = pl.DataFrame(rows, schema=TRIAL_COLUMNS)
    return answer(study, study.recipes["cifar10"], plan, trials, pl.DataFrame(schema=MEMBER_COLUMNS))


def test_the_gap_is_validation_minus_training_error_and_its_claim_has_only_a_direction() -> None:
    found = judged(
        "dropout",
        {
            "baseline": [(100 + seed, 300 + 4 * seed) for seed in range(8)],
            "no_dropout": [(125 + 2 * seed, 100 + 3 * seed) for seed in range(8)],
        },
    )
    baseline, without = found.arms
    assert found.metric == "gap between validation and training error"
    assert baseline.mean == pytest.approx(sum((100 + s) / 5 - (300 + 4 * s) / 20 for s in range(8)) / 8)
    assert list(without.differences.values()) == pytest.approx([(25 + s) / 5 - (-200 - s) / 20 for s in range(8)])
    assert without.word == "supports"
    assert without.claimed_points is None
    assert found.split_error is None
    text = markdown(found)
    assert "gap between validation and training error %" in text
    assert "centre crop, no dropout, no noise" in text
    assert "standard error" not in text


def test_the_training_error_is_that_of_training_images_seen_as_in_evaluation() -> None:
    lower = judged(
        "weight_decay",
        {
            "baseline": [(100, 300 + 4 * seed) for seed in range(8)],
            "no_decay": [(100, 200 + 5 * seed) for seed in range(8)],
        },
    )
    assert lower.arms[0].mean == pytest.approx(100 * 314 / 2000)
    assert lower.arms[1].word == "contradicts"
    assert lower.images == 2000
    assert "on this training set" in lower.arms[1].sentence


def test_trials_from_before_the_metric_was_measured_do_not_enter() -> None:
    found = judged(
        "weight_decay",
        {"baseline": [(100, None)] * 8, "no_decay": [(100, 200 + 5 * seed) for seed in range(8)]},
    )
    assert found.arms[0].n == 0
    assert found.arms[1].word == "no verdict: fewer than 3 seeds"
    assert "8 finished trials ran before the top-1 training error was measured" in markdown(found)
