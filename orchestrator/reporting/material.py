"""What a report is made of: the answer and where it comes from; curves and kernels are read only when it is written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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
from orchestrator.tables import load_tables
from search_spaces.trial import PlannedTrial

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Attributes:
        answer: What is shown.
        provenance: Where it comes from.
        points: The sweep's points: position, parameters (JSON), state, validation_error (percent), key.
        used: The trials used: arm, phase and the columns of the trials table.
        first_convolution: Name of the network's first layer, if it is a convolution.
    """

    answer: Answer
    provenance: Provenance
    points: pl.DataFrame
    used: pl.DataFrame
    first_convolution: str | None


@dataclass(frozen=True)
class Details:
    """What is read from the records only when a report is written.

    Attributes:
        curves: Columns arm, seed, epoch, train_error, validation_error (percent), of the arms' seeds.
        kernels: PNG of the first convolution's kernels of the baseline's median seed; None where no weights are kept.
    """

    curves: pl.DataFrame
    kernels: bytes | None


def gather(
    answer: Answer,
    plan: Mapping[str, Any],
    folder: Path,
    results: Path,
    trials: pl.DataFrame,
    members: pl.DataFrame,
    confirming: Sequence[PlannedTrial],
) -> Material:
    """Collects the material of a report.

    Args:
        answer: The answer.
        plan: Content of `plan.json`.
        folder: The study's folder.
        results: The results folder.
        trials: The trials table.
        members: Rows of the members table that belong to this study's sweep.
        confirming: The trials that confirm its best points.
    """
    arms = {arm.name for arm in answer.arms}
    rows = [row for row in plan["trials"] if row["arm"] in arms or row["phase"] in ("tuning", "retuned")]
    planned = pl.DataFrame(
        [{name: row[name] for name in ("arm", "phase", "key")} for row in rows],
        schema={"arm": pl.String, "phase": pl.String, "key": pl.String},
    )
    fresh = pl.DataFrame(
        [{"arm": trial.arm, "phase": trial.phase, "key": trial.key} for trial in confirming], schema=planned.schema
    )
    used = pl.concat([planned, members.select("arm", "phase", "key"), fresh]).unique().join(trials, on="key")
    first = plan["base"]["network"]["layers"][0]
    return Material(
        answer=answer,
        provenance=provenance(plan, folder, results, used),
        points=_points(members, trials),
        used=used,
        first_convolution=first["name"] if first["kind"] == "convolution" else None,
    )


def details(material: Material, results: Path) -> Details:
    """Reads the learning curves and the kernels."""
    return Details(_curves(material.used, load_tables(results).epochs), _kernels(material, results))


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


def _kernels(material: Material, results: Path) -> bytes | None:
    """The picture of the baseline's seed of median validation error, which `best` would export."""
    baseline = next(arm.name for arm in material.answer.arms if arm.is_baseline)
    own = material.used.filter(
        (pl.col("arm") == baseline) & (pl.col("phase") == "arm") & (pl.col("state") == "finished")
    ).sort("validation_top1_error", "seed")
    if not own.height or material.first_convolution is None:
        return None
    row = own.row((own.height - 1) // 2, named=True)
    path = trial_folder(results, row["key"]) / (row["weights"] or "")
    if not path.is_file():
        return None
    try:
        drawn = kernels_picture(kernels_of_checkpoint(path, material.first_convolution))
    except CoreError as error:
        logger.warning("no picture of the kernels: %s", error)
        return None
    buffer = BytesIO()
    drawn.save(buffer, "png", optimize=True)
    return buffer.getvalue()
