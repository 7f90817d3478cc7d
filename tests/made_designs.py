"""Studies of a design with made records of their arms: what a test says the arms' errors are, judged as real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from orchestrator.judging.answer import Answer
from orchestrator.judging.judge import answer
from orchestrator.tables.rows import EPOCH_COLUMNS, MEMBER_COLUMNS, TRIAL_COLUMNS
from search_spaces.study import Study
from search_spaces.yaml_file import parse_model
from tests.made_plans import make_plan_file

# 三个因子，各两个水平；第二个水平才有改动
FACTORS = """
  norm:
    with: {}
    without: {title: without response norm, remove: [lrn1, lrn2]}
  dropout:
    half: {}
    none: {title: without dropout, set: {network.dropout*.rate: 0.0}}
  training.momentum: [0.9, 0.5]
"""
IMAGES = 1000


def make_study(design: str, more: str = "", factors: str = FACTORS) -> Study:
    """A study of a design, or of three plain arms where there is none.

    Args:
        design: Its name; empty for arms written out.
        more: Further lines of the study file.
        factors: As they stand in the file.
    """
    arms = f"design: {design}\nfactors:{factors}" if design else f"baseline: a\narms: [{ARMS}]\n"
    text = (
        f"name: parts\nquestion: Which parts matter?\nsource: nowhere\n{arms}{more}\n"
        "recipes: {digits: {margin: 0.5, smallest_effect: 1.0}}\n"
    )
    return parse_model(text, Study, "parts.yaml")


ARMS = ", ".join(f"{{name: {name}, title: {name}, set: {{training.epochs: {n}}}}}" for n, name in enumerate("abc", 5))


def make_rows(wrong: Mapping[str, Sequence[int | str]]) -> pl.DataFrame:
    """The trials table of arms with so many wrong test images of a thousand by seed; a word is a state."""
    rows: list[dict[str, Any]] = []
    for arm, by_seed in wrong.items():
        for seed, errors in enumerate(by_seed):
            cells: dict[str, Any] = {"key": f"{arm}-{seed}", "seed": seed, "seconds": 3.0, "epochs": 4}
            if isinstance(errors, str):
                rows.append({**cells, "state": errors})
                continue
            for split in ("validation", "test"):
                cells |= {f"{split}_top1_errors": errors, f"{split}_top1_error": errors / IMAGES}
                cells |= {f"{split}_top5_errors": 1, f"{split}_top5_error": 1 / IMAGES, f"{split}_count": IMAGES}
            rows.append({**cells, "state": "finished", "objective": errors / IMAGES, "network.classes": 10.0})
    return pl.DataFrame(rows, schema={**TRIAL_COLUMNS, "network.classes": pl.Float64})


def make_judged(study: Study, wrong: Mapping[str, Sequence[int | str]], **plan: Any) -> Answer:
    """The answer of a study whose arms erred so often.

    Args:
        study: The study.
        wrong: Wrong test images of a thousand, by arm and seed.
        plan: Further fields of its `plan.json`, such as `looks` or `max_seeds`.
    """
    return judged_rows(study, make_rows(wrong), **plan)


def judged_rows(study: Study, rows: pl.DataFrame, **plan: Any) -> Answer:
    """The same of a trials table with a seed of every arm."""
    seeds = 1 + int(rows["seed"].max())  # type: ignore[arg-type]
    trials = [
        {"arm": arm.name, "seed": seed, "phase": "arm", "key": f"{arm.name}-{seed}"}
        for seed in range(plan.get("max_seeds") or seeds)
        for arm in study.arms
    ]
    written = {"dataset": "digits", "alpha": 0.05, "planned_seeds": seeds, "looks": [], "trials": trials, **plan}
    nothing = pl.DataFrame(schema=MEMBER_COLUMNS), pl.DataFrame(schema=EPOCH_COLUMNS)
    return answer(study, study.recipes["digits"], make_plan_file(written), rows, *nothing)
