"""More epochs for finished trials: going on from their kept state where a straight run would have come by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import polars as pl

from alexnet_core.configuration.schedule import same_rates
from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.errors import CoreError
from alexnet_core.training.checkpoint import has_velocities, latest_checkpoint, read_history, reopen
from orchestrator.errors import ExitCode, LabError
from orchestrator.records import layout
from orchestrator.records.checked_record import ended_curve, read_record
from orchestrator.records.reports import objective_of
from orchestrator.records.trial_record import TrialState
from orchestrator.tables.rows import TRIAL_COLUMNS
from orchestrator.tables.tables import read_table
from search_spaces.core_config import ALEXNET
from search_spaces.trial import PlannedTrial, trial_key


class Start(NamedTuple):
    """Where a trial goes on from.

    Attributes:
        checkpoint: The final one of a trial of fewer epochs.
        epochs: Of that.
    """

    checkpoint: Path
    epochs: int


@dataclass(frozen=True)
class Extensions:
    """What is known of trials that ran for fewer epochs.

    Attributes:
        starts: Where a missing trial goes on from, by its key.
        other_rates: Missing trials that ran shorter, but at other learning rates than their beginning would have.
        not_kept: Missing trials that ran shorter, and whose weights and velocities are not there any more.
    """

    starts: Mapping[str, Start] = field(default_factory=dict)
    other_rates: frozenset[str] = frozenset()
    not_kept: frozenset[str] = frozenset()


def find_extensions(results: Path, missing: Iterable[PlannedTrial]) -> Extensions:
    """Looks for finished trials that differ from missing ones by fewer epochs alone.

    Args:
        results: The results folder.
        missing: Trials that are not on record.
    """
    lengths = _epochs_on_record(results)
    starts: dict[str, Start] = {}
    other_rates, not_kept = set(), set()
    for trial in missing:
        config = trial.config
        if not isinstance(config, TrainConfig):
            # 别的 core 有多长，只有练完才知道
            continue
        for epochs in (length for length in lengths if length < config.training.epochs):
            shorter = _with_epochs(config, epochs)
            folder = layout.trial_folder(results, trial_key(shorter))
            record = read_record(folder)
            if record is None or record.result.state is not TrialState.FINISHED:
                continue
            curve = ended_curve(folder, record.result)
            errors = [objective_of(report, ALEXNET) for report in curve.reports]
            path = folder / (record.result.weights or "")
            # 短跑的学习率须与长跑的开头逐轮相同，接着练才等于从头练；没有曲线就无从比较
            if curve.misfit:
                not_kept.add(trial.key)
            elif not same_rates(shorter.training, config.training, errors):
                other_rates.add(trial.key)
            elif not (path.is_file() and has_velocities(path)):
                not_kept.add(trial.key)
            else:
                starts[trial.key] = Start(path, epochs)
                break
    return Extensions(starts, frozenset(other_rates - starts.keys()), frozenset(not_kept - starts.keys()))


def _epochs_on_record(results: Path) -> Sequence[int]:
    """The lengths of the finished trials, the longest first."""
    table = read_table(results, "trials", TRIAL_COLUMNS, ("state", "epochs"))
    if table is None:
        return ()
    return table.filter(pl.col("state") == "finished")["epochs"].unique().sort(descending=True).to_list()


def _with_epochs(config: TrainConfig, epochs: int) -> TrainConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"epochs": epochs})})


def go_on(folder: Path, start: Start) -> str:
    """Puts the state that a trial goes on from into its folder, unless it has one of its own; returns a log line.

    Args:
        folder: The trial's folder.
        start: Where the shorter trial has ended.

    Raises:
        LabError: With exit code 3 when the folder cannot be written.
    """
    checkpoints = folder / "checkpoint"
    if latest_checkpoint(checkpoints) is not None:
        return ""
    try:
        path = reopen(start.checkpoint, checkpoints)
    except CoreError as error:
        return f"it trains from the beginning: {error}"
    except OSError as error:
        raise LabError(f"{checkpoints} cannot be written: {error.strerror}", exit_code=ExitCode.ENVIRONMENT) from error
    return f"it goes on from epoch {len(read_history(path))} of trial {start.checkpoint.parents[1].name}"


def extensions_together(extensions: Iterable[Extensions]) -> Extensions:
    """Returns what several plans know, as one."""
    known = tuple(extensions)
    starts = {key: start for one in known for key, start in one.starts.items()}
    other_rates = frozenset[str]().union(*(one.other_rates for one in known))
    return Extensions(starts, other_rates, frozenset[str]().union(*(one.not_kept for one in known)))
