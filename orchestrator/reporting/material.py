"""What a report is made of, gathered from the tables once: the answer, where it comes from, curves, kernels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from alexnet_core.errors import CoreError
from alexnet_core.kernels import kernels_of_checkpoint, kernels_picture
from orchestrator.findings import Answer
from orchestrator.records import trial_folder
from orchestrator.reporting.provenance import Provenance, provenance
from orchestrator.tables import Tables

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Attributes:
        answer: What is shown.
        provenance: Where it comes from.
        curves: Columns arm, seed, epoch, train_error, validation_error (percent), of the judged arms' seeds.
        points: The sweep's points: position, parameters (JSON), state, validation_error (percent).
        kernels: PNG of the first convolution's kernels of the baseline's median seed; None where no weights are kept.
    """

    answer: Answer
    provenance: Provenance
    curves: pl.DataFrame
    points: pl.DataFrame
    kernels: bytes | None


def gather(
    answer: Answer, plan: Mapping[str, Any], folder: Path, results: Path, tables: Tables, sweep_members: pl.DataFrame
) -> Material:
    """Collects the material of a report.

    Args:
        answer: The answer.
        plan: Content of `plan.json`.
        folder: The study's folder.
        results: The results folder.
        tables: The tables.
        sweep_members: Rows of the members table that belong to this study's sweep.
    """
    arms = {arm.name for arm in answer.arms}
    planned = pl.DataFrame(
        [{name: row[name] for name in ("arm", "phase", "key")} for row in plan["trials"] if row["arm"] in arms],
        schema={"arm": pl.String, "phase": pl.String, "key": pl.String},
    )
    wanted = pl.concat([planned, sweep_members.select("arm", "phase", "key")]).unique()
    used = wanted.join(tables.trials, on="key")
    return Material(
        answer=answer,
        provenance=provenance(plan, folder, results, used),
        curves=_curves(used, tables.epochs),
        points=_points(sweep_members, tables.trials),
        kernels=_kernels(answer, plan, results, used),
    )


def _curves(used: pl.DataFrame, epochs: pl.DataFrame) -> pl.DataFrame:
    arms = used.filter(pl.col("phase") == "arm").select("arm", "seed", "key")
    return (
        arms.join(epochs, on="key")
        .select(
            "arm",
            "seed",
            "epoch",
            (100.0 * pl.col("train_top1_error")).alias("train_error"),
            (100.0 * pl.col("validation_top1_error")).alias("validation_error"),
        )
        .sort("arm", "seed", "epoch")
    )


def _points(members: pl.DataFrame, trials: pl.DataFrame) -> pl.DataFrame:
    return (
        members.select("position", "parameters", "key")
        .join(trials.select("key", "state", "validation_top1_error"), on="key")
        .select(
            "position",
            "parameters",
            "state",
            (100.0 * pl.col("validation_top1_error")).alias("validation_error"),
            "key",
        )
        .sort("position")
    )


def _kernels(answer: Answer, plan: Mapping[str, Any], results: Path, used: pl.DataFrame) -> bytes | None:
    """The picture of the baseline's seed of median validation error, which `best` would export."""
    baseline = next(arm.name for arm in answer.arms if arm.is_baseline)
    own = used.filter((pl.col("arm") == baseline) & (pl.col("phase") == "arm") & (pl.col("state") == "finished"))
    own = own.sort("validation_top1_error", "seed")
    first = plan["base"]["network"]["layers"][0]
    if not own.height or first["kind"] != "convolution":
        return None
    row = own.row((own.height - 1) // 2, named=True)
    path = trial_folder(results, row["key"]) / (row["weights"] or "")
    if not path.is_file():
        return None
    try:
        drawn = kernels_picture(kernels_of_checkpoint(path, first["name"]))
    except CoreError as error:
        logger.warning("no picture of the kernels: %s", error)
        return None
    buffer = BytesIO()
    drawn.save(buffer, "png", optimize=True)
    return buffer.getvalue()
