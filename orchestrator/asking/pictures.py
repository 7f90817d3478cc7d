"""The pictures that a core draws of its trained model for the report: its code is loaded already, and runs here."""

from __future__ import annotations

import shutil
from pathlib import Path

from alexnet_core.process.files import scratch_folder
from orchestrator.cores.contract import ContractError, Core
from orchestrator.cores.identity import load_core_of
from orchestrator.cores.loading import mistake
from orchestrator.cores.states import read_state
from orchestrator.planning.plan import Plan
from orchestrator.records.checked_record import Record, read_record
from orchestrator.records.layout import trial_folder
from orchestrator.records.trial_record import TrialState
from orchestrator.reporting.material import PICTURES
from search_spaces.core_config import CoreConfig, configuration_of

MOST_PICTURES, LARGEST_PICTURE = 12, 4 * 1024**2


def draw_pictures(plan: Plan, results: Path, folder: Path) -> str:
    """Has the core draw the baseline's seed of the median metric; returns what went wrong, or nothing.

    Args:
        plan: The plan.
        results: The results folder.
        folder: The study's folder.
    """
    if plan.code is None:
        return ""
    core = load_core_of(plan.code)
    median = _median_of_baseline(plan, results) if core.pictures is not None else None
    if median is None:
        return ""
    with scratch_folder("pictures") as scratch:
        try:
            _draw(core, median, trial_folder(results, median.result.key), scratch)
        except (Exception, SystemExit) as error:
            return f"note: no pictures in the report: core {core.name}: pictures raised {mistake(error)}"
        drawn = sorted(path for path in scratch.glob("*.png") if path.stat().st_size <= LARGEST_PICTURE)
        shutil.rmtree(folder / PICTURES, ignore_errors=True)
        (folder / PICTURES).mkdir(parents=True)
        for path in drawn[:MOST_PICTURES]:
            shutil.copyfile(path, folder / PICTURES / path.name)
    return ""


def _median_of_baseline(plan: Plan, results: Path) -> Record | None:
    """The baseline's finished trial of the median metric that chooses, the lower one of two, which has a state."""
    keys = [trial.key for trial in plan.trials if trial.arm == plan.study.baseline]
    records = [record for key in keys if (record := read_record(trial_folder(results, key))) is not None]
    measured = [
        (objective, record.result.seed, record)
        for record in records
        if record.result.state is TrialState.FINISHED
        and (objective := record.result.objective(record.config)) is not None
    ]
    if not measured:
        return None
    _, _, median = sorted(measured, key=lambda one: one[:2])[(len(measured) - 1) // 2]
    state = median.result.weights
    return median if state is not None and (trial_folder(results, median.result.key) / state).is_file() else None


def _draw(core: Core, record: Record, folder: Path, scratch: Path) -> None:
    config, result = record
    assert core.pictures is not None
    assert isinstance(config, CoreConfig)
    assert result.weights is not None
    content = read_state(folder / result.weights)
    if not isinstance(content, dict) or "state" not in content:
        raise ContractError(f"{result.weights} is no state of a training")
    core.pictures(configuration_of(core.config, config.fields), content["state"], scratch)
