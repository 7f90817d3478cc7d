"""Reports without records: the material of a report around any answer."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import polars as pl

from orchestrator.judging.answer import Answer
from orchestrator.judging.judge import answer
from orchestrator.reporting.files import write_report
from orchestrator.reporting.markup import study_markdown
from orchestrator.reporting.material import Details, Material, Provenance, RecordUsed
from orchestrator.reporting.story import story
from orchestrator.tables.rows import EPOCH_COLUMNS, MEMBER_COLUMNS, TRIAL_COLUMNS
from search_spaces.arm import Arm, Claim
from search_spaces.study import Study, load_study
from tests.made_plans import make_plan_file

CURVE_COLUMNS = {
    "arm": pl.String,
    "seed": pl.Int64,
    "epoch": pl.Int64,
    "train_error": pl.Float64,
    "validation_error": pl.Float64,
}
POINT_COLUMNS = {
    "position": pl.Int64,
    "parameters": pl.String,
    "state": pl.String,
    "validation_error": pl.Float64,
    "key": pl.String,
}


WRONG = [6, 7, 5, 8, 6, 7, 6, 5]
# 每个 arm 的错误张数比基线多多少：依次得出各种裁决
SHIFTS: dict[str, list[int | str]] = {
    "supports": [7, 8, 6, 9, 6, 8, 8, 6],
    "contradicts": [-4, -5, -3, -5, -4, -5, -4, -3],
    "equivalent": [0, 1, 0, -1, 0, 0, 1, 0],
    "inconclusive": [9, -4, 6, -5, 12, -3, 8, -4],
    "diverged": [3, "diverged", 2, 4, 3, 2, 4, 3],
}


def make_answer(arms: int = 5, seeds: int = 8, finished: bool = True, **fields: Any) -> Answer:
    """An answer with so many arms beside the baseline, whose words go round all there are.

    Args:
        arms: Arms beside the baseline.
        seeds: Seeds per arm.
        finished: Whether any trial has ended.
        fields: Of the study, such as `question`; `title` is that of every arm.
    """
    study, title = load_study("lrn"), fields.pop("title", "an arm")
    claim = Claim(statement="it rises", source="section 3.3", top1_points=1.4)
    kinds = [(f"{kind}_{place}", SHIFTS[kind]) for place, kind in zip(range(arms), cycle(SHIFTS), strict=False)]
    made = tuple(Arm.model_construct(name=name, title=title, claim=claim) for name, _ in kinds)
    study = Study.model_construct(**{**dict(study), "arms": (study.arms[0], *made), **fields})
    rows, planned = [], []
    for name, shifts in [("baseline", [0] * 8), *kinds]:
        for seed in range(seeds):
            planned.append({"arm": name, "seed": seed, "phase": "arm", "key": f"{name}-{seed}"})
            shift = shifts[seed % 8]
            rows.append(_row(f"{name}-{seed}", seed, shift if isinstance(shift, str) else WRONG[seed % 8] + shift))
    plan = {"dataset": "digits", "alpha": 0.05, "planned_seeds": seeds, "looks": [], "trials": planned}
    schema = {**TRIAL_COLUMNS, "network.classes": pl.Float64}
    trials = pl.DataFrame(rows if finished else [], schema=schema)
    members, epochs = pl.DataFrame(schema=MEMBER_COLUMNS), pl.DataFrame(schema=EPOCH_COLUMNS)
    return answer(study, study.recipes["digits"], make_plan_file(plan), trials, members, epochs)


def _row(key: str, seed: int, wrong: int | str) -> dict[str, Any]:
    cells: dict[str, Any] = {"key": key, "seed": seed, "seconds": 3.0, "epochs": 4, "network.classes": 10.0}
    if isinstance(wrong, str):
        return {**cells, "state": wrong}
    for name in ("validation", "test"):
        cells |= {f"{name}_top1_errors": wrong, f"{name}_top1_error": wrong / 360, f"{name}_count": 360}
        cells |= {f"{name}_top5_errors": 1, f"{name}_top5_error": 1 / 360}
    return {**cells, "state": "finished", "objective": wrong / 360}


def make_details(judged: Answer, epochs: int = 4) -> Details:
    """Learning curves that fall over so many epochs; no kernels."""
    curves = [
        {"arm": arm.name, "seed": int(seed), "epoch": epoch, "train_error": 60 / epoch, "validation_error": 50 / epoch}
        for arm in judged.arms
        for seed in arm.errors
        for epoch in range(1, epochs + 1)
    ]
    return Details(pl.DataFrame(curves, schema=CURVE_COLUMNS), None)


def make_material(judged: Answer, points: list[dict[str, Any]] | None = None) -> Material:
    """The material of a report on `found`."""
    seeds = [(arm, int(seed)) for arm in judged.arms for seed in arm.errors]
    used = [
        RecordUsed(arm=arm.name, seed=seed, phase="arm", key=f"{arm.name}-{seed}", state="finished", sha256="0" * 64)
        for arm, seed in seeds
    ]
    source = Provenance(
        command="python -m orchestrator.ablate --study lrn",
        environment={"torch": ("2.15",), "device_name": ("cpu",)},
        data={"name": judged.dataset},
        first_started=None,
        last_finished=None,
        trials=len(used),
        hours=0.1,
        gpu_hours=0.0,
        idle_gpu_hours=0.0,
        records=tuple(used),
        plan_sha256="0" * 64,
    )
    return Material(
        answer=judged,
        provenance=source,
        points=pl.DataFrame(points or [], schema=POINT_COLUMNS),
        used=pl.DataFrame(),
        first_convolution=None,
    )


def write(folder: Path, judged: Answer, **more: Any) -> list[Path]:
    """Writes the report on `found`."""
    return write_report(folder, make_material(judged, **more), lambda: make_details(judged))


def markdown(judged: Answer) -> str:
    """The report in Markdown, without figures."""
    return study_markdown(judged, story(make_material(judged), ()))
