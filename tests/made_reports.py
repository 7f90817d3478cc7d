"""Reports without records: the material of a report around any answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from orchestrator.findings import Answer
from orchestrator.reporting.files import write_report
from orchestrator.reporting.markdown import study_markdown
from orchestrator.reporting.material import Details, Material
from orchestrator.reporting.provenance import Provenance, RecordUsed
from orchestrator.reporting.story import story

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


def make_details(answer: Answer, epochs: int = 4) -> Details:
    """Learning curves that fall over so many epochs; no kernels."""
    curves = [
        {"arm": arm.name, "seed": int(seed), "epoch": epoch, "train_error": 60 / epoch, "validation_error": 50 / epoch}
        for arm in answer.arms
        for seed in arm.errors
        for epoch in range(1, epochs + 1)
    ]
    return Details(pl.DataFrame(curves, schema=CURVE_COLUMNS), None)


def make_material(answer: Answer, points: list[dict[str, Any]] | None = None) -> Material:
    """The material of a report on `answer`."""
    seeds = [(arm, int(seed)) for arm in answer.arms for seed in arm.errors]
    used = [
        RecordUsed(arm=arm.name, seed=seed, phase="arm", key=f"{arm.name}-{seed}", state="finished", sha256="0" * 64)
        for arm, seed in seeds
    ]
    source = Provenance(
        command="python -m orchestrator.ablate --study lrn",
        environment={"torch": ("2.15",), "device_name": ("cpu",)},
        data={"name": answer.dataset},
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
        answer=answer,
        provenance=source,
        points=pl.DataFrame(points or [], schema=POINT_COLUMNS),
        used=pl.DataFrame(),
        first_convolution=None,
    )


def write(folder: Path, answer: Answer, **more: Any) -> list[Path]:
    """Writes the report on `answer`."""
    return write_report(folder, make_material(answer, **more), lambda: make_details(answer))


def markdown(answer: Answer) -> str:
    """The report in Markdown, without figures."""
    return study_markdown(answer, story(make_material(answer), ()))
