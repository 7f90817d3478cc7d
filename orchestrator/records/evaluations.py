"""Evaluations of finished trials over more views than one: `results/trials/<key>/evaluations/<views>.json`.

They are records like the trial's own: written atomically by the driver alone, and never made twice. The error over
one view, the centre crop, is in `result.json`; which images it is made of is in `correct.bin` beside it, and in the
evaluation itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from alexnet_core.configuration.correct_images import CorrectImages, from_text, packed, unpacked
from alexnet_core.configuration.frozen import Frozen, first_mistake
from alexnet_core.configuration.metrics import SplitErrors
from alexnet_core.process.files import replaced
from orchestrator.errors import ExitCode, LabError
from orchestrator.records.files import write_atomically
from orchestrator.records.layout import CORRECT, evaluation_path, trial_folder
from orchestrator.records.trial_record import TrialResult, TrialState, read_result
from search_spaces.arm import is_absent
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
        correct: Which images it got right, see `as_text`; None in older evaluations.
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
    # 以前的评估没有它：没有就不写
    correct: str | None = Field(default=None, exclude_if=is_absent)

    @model_validator(mode="after")
    def _check_images(self) -> Self:
        if (seen := self.right) is not None and (wrong := int((~seen.correct).sum())) != self.metrics.top1_errors:
            raise ValueError(f"correct has {wrong} images wrong, metrics {self.metrics.top1_errors}")
        return self

    @property
    def right(self) -> CorrectImages | None:
        """The images that it got right, as far as that is on record."""
        if self.correct is None:
            return None
        return CorrectImages(self.split, self.views, from_text(self.correct, self.metrics.count))


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


def read_own_evaluation(folder: Path, views: int, result: TrialResult) -> Evaluation | None:
    """Reads an evaluation as `read_evaluation` does, and compares it with the trial's own result.

    Args:
        folder: Of the trial.
        views: Views of an image.
        result: How the trial ended.

    Raises:
        LabError: The file is damaged, of another trial, or of other images than the result (named).
    """
    evaluation = read_evaluation(folder, views)
    reason = "" if evaluation is None else _evaluation_misfit(evaluation, result)
    if reason:
        raise LabError(
            f"{evaluation_path(folder, views)}: {reason}; move it away to evaluate this trial again",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return evaluation


def _evaluation_misfit(evaluation: Evaluation, result: TrialResult) -> str:
    """What of an evaluation the trial's own result contradicts: the same network saw the same images."""
    split, alone = ("validation", result.validation) if result.test is None else ("test", result.test)
    seen = evaluation.metrics
    if alone is None:
        return ""
    if (evaluation.split, seen.count) != (split, alone.count):
        return f"it is of {seen.count} {evaluation.split} images, its result.json of {alone.count} {split} images"
    # 最高的五个包括最高的一个
    if seen.top5_errors > seen.top1_errors:
        return f"it has {seen.top5_errors} top-5 errors, more than the {seen.top1_errors} of top-1"
    return ""


def leave_correct_images(folder: Path, sets: Sequence[CorrectImages]) -> None:
    """Leaves for the driver, in a trial's folder of checkpoints, which images its network got right.

    Raises:
        OSError: It cannot be written.
    """
    path = folder / "checkpoint" / CORRECT
    # 盘满是 OSError：worker 据此停在检查点，不算 trial 的失败
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        temporary.write_bytes(packed(sets))


def keep_correct_images(folder: Path, result: TrialResult) -> TrialResult:
    """Takes into the record of a finished trial what its worker has left of the images that its network got right.

    Args:
        folder: Of the trial.
        result: Its result, not yet written.

    Returns:
        The result with the hash of what is kept; as it was where nothing is left, or not what the result counts.
    """
    kept = folder / CORRECT
    try:
        content = (folder / "checkpoint" / CORRECT).read_bytes()
        is_whole = not correct_misfit(unpacked(content), result)
    except (OSError, ValueError):
        is_whole = False
    if not is_whole:
        # 断电可能让它不完整：没有它，记录仍是记录
        kept.unlink(missing_ok=True)
        return result
    write_atomically(kept, content)
    return result.model_copy(update={"correct_sha256": hashlib.sha256(content).hexdigest()})


def correct_misfit(sets: Sequence[CorrectImages], result: TrialResult) -> str:
    """Returns why these are not the images that a result counts; empty where they are."""
    counted = {"validation": result.validation, "test": result.test}
    if [one.split for one in sets] != [split for split, metrics in counted.items() if metrics is not None]:
        return f"{CORRECT} is of other splits than result.json"
    for one in sets:
        metrics, wrong = counted[one.split], int((~one.correct).sum())
        if metrics is None or (wrong, len(one.correct), one.views) != (metrics.top1_errors, metrics.count, 1):
            return f"{CORRECT} has {wrong} of {len(one.correct)} {one.split} images wrong, result.json counts others"
    return ""


def read_correct_images(folder: Path, result: TrialResult) -> tuple[CorrectImages, ...]:
    """Reads which images a trial's network got right; nothing where that is not on record, as in older records.

    Args:
        folder: Of the trial.
        result: Its result.

    Raises:
        LabError: The file is missing, or not the one on record (named).
    """
    if result.correct_sha256 is None:
        return ()
    path = folder / CORRECT
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}", exit_code=ExitCode.ENVIRONMENT) from error
    if hashlib.sha256(content).hexdigest() != result.correct_sha256:
        raise LabError(f"{path} is not the file that was recorded: its SHA-256 differs", exit_code=ExitCode.ENVIRONMENT)
    try:
        sets = unpacked(content)
        reason = correct_misfit(sets, result)
    except ValueError as error:
        reason = str(error)
    if reason:
        raise LabError(f"{path} is damaged: {reason}", exit_code=ExitCode.ENVIRONMENT)
    return sets


def check_counts(folder: Path, result: TrialResult) -> None:
    """Compares a result with the images that its own network got right, as far as they are there and whole.

    Args:
        folder: Of the trial.
        result: Its result.

    Raises:
        LabError: It counts other errors than the file that it vouches for.
    """
    if result.correct_sha256 is None:
        return
    with suppress(OSError, ValueError):
        content = (folder / CORRECT).read_bytes()
        # 换掉或坏掉的文件什么也证明不了：另有人说
        whole = hashlib.sha256(content).hexdigest() == result.correct_sha256
        if whole and (reason := correct_misfit(unpacked(content), result)):
            raise LabError(f"{folder}: {reason}; move the folder away", exit_code=ExitCode.ENVIRONMENT)


def correct_images_of(folder: Path, views: int) -> tuple[CorrectImages, ...]:
    """Reads which images the network of a trial on record got right in so many views; nothing where it is not known.

    Args:
        folder: Of the trial.
        views: 1 for the centre crop.

    Raises:
        LabError: What is on record is damaged, or not there (named).
    """
    if views == 1:
        result = read_result(folder)
        return () if result is None else read_correct_images(folder, result)
    evaluation = read_evaluation(folder, views)
    return () if evaluation is None or (seen := evaluation.right) is None else (seen,)


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


def evaluation_cells(folder: Path, result: TrialResult) -> dict[str, Any]:
    """Returns a trial's cells of the trials table: `test_top1_errors_10_views` and so on.

    Args:
        folder: Of the trial.
        result: How it ended.
    """
    cells: dict[str, Any] = {}
    for views in MANY_VIEWS:
        evaluation = read_own_evaluation(folder, views, result)
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
