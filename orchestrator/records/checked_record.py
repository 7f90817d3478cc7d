"""Records that are what their name says: a trial's folder, configuration and result belong together, and can be so.

Whoever reads a trial's numbers reads them here; what does not fit is named, never counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_core.configuration.metrics import EpochReport
from alexnet_core.configuration.wording import counted
from orchestrator.errors import ExitCode, LabError
from orchestrator.records.layout import KEY, trial_folder
from orchestrator.records.reports import Report
from orchestrator.records.trial_record import TrialResult, TrialState, read_config, read_epochs, read_result
from search_spaces.core_config import CoreConfig, TrialConfig
from search_spaces.trial import trial_key

MEASURED = ("train", "validation", "test", "train_final")


class Record(NamedTuple):
    """A trial that has ended.

    Attributes:
        config: What was trained.
        result: How it ended.
    """

    config: TrialConfig
    result: TrialResult

    @property
    def outcome(self) -> tuple[str, float | None]:
        """State and objective, see `TrialResult.objective`."""
        return self.result.state.value, self.result.objective(self.config)


def read_record(folder: Path) -> Record | None:
    """Reads a trial that has ended; None while it has not.

    Args:
        folder: Of the trial, named by its key.

    Raises:
        LabError: A file is damaged, or folder, configuration and result do not belong together (named).
    """
    result = read_result(folder)
    if result is None:
        return None
    config = read_own_config(folder)
    reason = result_misfit(folder.name, config, result)
    if reason:
        raise _misfit(folder, reason)
    return Record(config, result)


class Curve(NamedTuple):
    """The epochs of a trial that has ended.

    Attributes:
        reports: In order; empty where `epochs.jsonl` is not the curve of its result.
        misfit: Why it is not: `has 2 epochs, its result.json 3`; empty where it is.
    """

    reports: list[Report]
    misfit: str = ""


def ended_curve(folder: Path, result: TrialResult) -> Curve:
    """Reads the epochs of a trial that has ended, and compares them with its result.

    Args:
        folder: Of the trial.
        result: How it ended.
    """
    reports = read_epochs(folder)
    misfit = _curve_misfit(reports, result)
    if misfit and not (folder / "epochs.jsonl").is_file():
        misfit = "is missing"
    return Curve([] if misfit else reports, misfit)


def read_curve(folder: Path) -> list[Report]:
    """Reads the epochs of a trial; none where it has ended and they are not those of its result.

    Raises:
        LabError: Its result is damaged.
    """
    result = read_result(folder)
    return read_epochs(folder) if result is None else ended_curve(folder, result).reports


def _curve_misfit(reports: Sequence[Report], result: TrialResult) -> str:
    """What of a curve its result contradicts: one report for each epoch, and the last with the result's numbers."""
    what = "report" if result.metrics else "epoch"
    if len(reports) != result.epochs:
        return f"has {counted(len(reports), what)}, its result.json {result.epochs}"
    lacking = set(range(1, result.epochs + 1)).difference(report.epoch for report in reports)
    if lacking:
        return f"lacks {what} {min(lacking)}"
    # 换了别人的曲线，长度一样，末尾的数却不一样
    if reports and not _ends_as(reports[-1], result):
        return f"is not that of its result.json: the last {what} has other numbers"
    return ""


def _ends_as(last: Report, result: TrialResult) -> bool:
    if not isinstance(last, EpochReport):
        return last.metrics == result.metrics
    measured = ((getattr(last, split), getattr(result, split)) for split in MEASURED)
    return all(there is None or here == there for here, there in measured)


def read_own_config(folder: Path) -> TrialConfig:
    """Reads the configuration of the trial that a folder is named after.

    Raises:
        LabError: The file is missing or damaged, or another trial's.
    """
    config = read_config(folder)
    reason = config_misfit(folder.name, config)
    if reason:
        raise _misfit(folder, reason)
    return config


def _misfit(folder: Path, reason: str) -> LabError:
    return LabError(f"{folder}: {reason}; move the folder away", exit_code=ExitCode.ENVIRONMENT)


def config_misfit(name: str, config: TrialConfig) -> str:
    """Returns why a configuration cannot lie in a folder of that name; nothing where it can."""
    if not KEY.fullmatch(name):
        return "its name is no trial's key"
    key = trial_key(config)
    return "" if key == name else f"its configuration is that of trial {key}"


def result_misfit(key: str, config: TrialConfig, result: TrialResult) -> str:
    """Returns why a result cannot be that of a trial; nothing where it can."""
    if result.key != key or result.seed != config.seed:
        return f"its result.json is that of another trial ({result.key} seed {result.seed})"
    return impossible(config, result)


def impossible(config: TrialConfig, result: TrialResult) -> str:
    """Returns what of a result no training of this configuration gives; nothing where all is possible.

    A trial that diverged has numbers of its earlier epochs; only after the last one there is a test error.
    """
    if isinstance(config, CoreConfig):
        return _impossible_of_core(config, result)
    if result.metrics or result.sizes:
        return "its result.json has metrics by name, which AlexNet has not"
    planned = config.training.epochs
    complete = result.epochs == planned
    if result.epochs > planned or (result.state is TrialState.FINISHED and not complete):
        return (
            f"its result.json has {counted(result.epochs, 'epoch')}, its configuration {planned} (state {result.state})"
        )
    # 发散的 trial 有此前各轮的有限数；走完全程的就不会发散
    if result.state is TrialState.DIVERGED and complete:
        return f"its result.json says diverged after its last epoch ({planned})"
    if config.data.holds_out:
        if result.state is TrialState.FINISHED and result.validation is None:
            return "its result.json says finished, and has no validation error"
    elif result.validation is not None:
        return "its result.json has a validation error, and its configuration holds no image out"
    elif result.state is TrialState.FINISHED and result.test is None:
        return "its result.json says finished, and has no test error, though its configuration holds no image out"
    if result.test is not None and not complete:
        return f"its result.json has a test error after {result.epochs} of {counted(planned, 'epoch')}"
    if not result.epochs and any(getattr(result, split) is not None for split in MEASURED):
        return "its result.json has errors after no epoch"
    if result.weights is not None and result.weights_sha256 is None:
        return "its result.json names weights without their SHA-256"
    return _impossible_metrics(result)


def _impossible_of_core(config: CoreConfig, result: TrialResult) -> str:
    if any(getattr(result, split) is not None for split in MEASURED):
        return "its result.json has errors of AlexNet"
    if bool(result.metrics) != bool(result.epochs):
        return f"its result.json has {counted(result.epochs, 'report')}, and metrics of {len(result.metrics)}"
    if result.state is TrialState.FINISHED and not result.epochs:
        return "its result.json says finished, and has no report"
    if result.metrics and result.metrics.keys() != config.core.metrics.keys():
        names = ", ".join(config.core.metrics)
        return f"its result.json has the metrics {', '.join(result.metrics)}, its core declares {names}"
    if result.weights is not None and result.weights_sha256 is None:
        return "its result.json names weights without their SHA-256"
    return ""


def _impossible_metrics(result: TrialResult) -> str:
    for split in MEASURED:
        metrics = getattr(result, split)
        # 最高的五个包括最高的一个
        if metrics is not None and metrics.top5_errors > metrics.top1_errors:
            return (
                f"its result.json has {counted(metrics.top5_errors, 'top-5 error')} in {split}, "
                f"more than the {metrics.top1_errors} of top-1"
            )
    return ""


def read_records(results: Path, keys: Iterable[str]) -> dict[str, Record]:
    """Returns those trials that have ended, by key.

    Args:
        results: The results folder.
        keys: The trials asked for.

    Raises:
        LabError: A record is damaged, or another trial's (named).
    """
    records = ((key, read_record(trial_folder(results, key))) for key in sorted(set(keys)))
    return {key: record for key, record in records if record is not None}
