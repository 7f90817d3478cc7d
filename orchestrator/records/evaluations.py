"""Evaluations of finished trials over more views than one: `results/trials/<key>/evaluations/<views>.json`.

They are records like the trial's own: written atomically by the driver alone, and never made twice. The error over
one view, the centre crop, is in `result.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from alexnet_core.configuration.frozen import Frozen, first_mistake
from alexnet_core.configuration.metrics import SplitErrors
from orchestrator.errors import ExitCode, LabError
from orchestrator.records.files import write_atomically
from orchestrator.records.layout import evaluation_path, trial_folder
from orchestrator.records.trial_record import TrialState, read_result
from search_spaces.trial import PlannedTrial

MANY_VIEWS = (10,)
METRICS = ("loss", "top1_error", "top5_error", "top1_errors", "top5_errors", "count")


class Evaluation(Frozen):
    """What a trained network gets wrong, seen in so many views.

    Attributes:
        key: The trial's key.
        views: Views of an image whose softmax is averaged.
        split: Whose images.
        metrics: Summed over them.
        weights_sha256: Of the checkpoint that was evaluated.
        retrained: Whether the trial was trained again for it, because its weights had not been kept.
        same_network: Whether that gave the network on record: the same validation loss to the last bit.
        seconds: Of the evaluation alone.
        evaluated_at: ISO time (UTC).
        environment: What it ran on.
    """

    schema_version: int = 1
    key: str
    views: int
    split: Literal["test", "validation"]
    metrics: SplitErrors
    weights_sha256: str
    retrained: bool
    same_network: bool
    seconds: float
    evaluated_at: str
    environment: dict[str, str | int | None] = {}


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Writes an evaluation into a trial's folder."""
    write_atomically(evaluation_path(folder, evaluation.views), evaluation.model_dump_json(indent=1).encode())


def read_evaluation(folder: Path, views: int) -> Evaluation | None:
    """Reads an evaluation of the trial in `folder`; None where there is none.

    Raises:
        LabError: The file is damaged, or the evaluation of another trial (named).
    """
    path = evaluation_path(folder, views)
    try:
        evaluation = Evaluation.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}", exit_code=ExitCode.ENVIRONMENT) from error
    except ValidationError as error:
        raise LabError(
            f"{path} is damaged: {first_mistake(error, Evaluation)}; move it away to evaluate this trial again",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error
    # 拷错了地方的评估不能算在别人名下
    if (evaluation.key, evaluation.views) != (folder.name, views):
        raise LabError(
            f"{path}: its evaluation in {views} views is of another trial ({evaluation.key}); move it away",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return evaluation


def evaluations_on_record(results: Path, trials: Iterable[PlannedTrial]) -> frozenset[tuple[str, int]]:
    """Returns (key, views) of those evaluations that `trials` want and that are on record."""
    evaluations = {(trial.key, trial.views) for trial in trials if trial.views != 1}
    return frozenset(
        (key, views) for key, views in evaluations if read_evaluation(trial_folder(results, key), views) is not None
    )


def lost_weights(results: Path, trials: Iterable[PlannedTrial]) -> frozenset[str]:
    """Returns the keys of the finished trials that want more views than one, and whose weights were not kept."""
    lost = set()
    for key in {trial.key for trial in trials if trial.views != 1}:
        folder = trial_folder(results, key)
        result = read_result(folder)
        if result is not None and result.state is TrialState.FINISHED:
            kept = result.weights is not None and (folder / result.weights).is_file()
            lost |= set() if kept else {key}
    return frozenset(lost)


def evaluation_cells(folder: Path) -> dict[str, Any]:
    """Returns a trial's cells of the trials table: `test_top1_errors_10_views` and so on."""
    cells: dict[str, Any] = {}
    for views in MANY_VIEWS:
        evaluation = read_evaluation(folder, views)
        if evaluation is not None:
            cells |= {
                f"{evaluation.split}_{metric}_{views}_views": getattr(evaluation.metrics, metric) for metric in METRICS
            }
            cells[f"same_network_{views}_views"] = evaluation.same_network
    return cells


def seen_in(row: Mapping[str, Any], views: int) -> dict[str, Any] | None:
    """Returns a row of the trials table whose validation and test errors are those over `views` views.

    Args:
        row: The trial's.
        views: 1 leaves it as it is.

    Returns:
        The row; None for a finished trial that was not evaluated so.
    """
    # 没训练完的没有可评估的网络，照原样参与计数
    if views == 1 or row["state"] != "finished":
        return dict(row)
    seen = {
        f"{split}_{metric}": row.get(f"{split}_{metric}_{views}_views")
        for split in ("validation", "test")
        for metric in METRICS
    }
    return {**row, **seen} if any(value is not None for value in seen.values()) else None
