"""Where a study or a trial stands, as data: what is on record of it, and who runs it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alexnet_core.process.files import reason_of
from orchestrator.errors import ExitCode, LabError
from orchestrator.output.document import Document
from orchestrator.planning.plan_file import STUDIES
from orchestrator.records import layout, trial_record
from orchestrator.records.checked_record import read_curve, read_own_config, read_record
from orchestrator.records.files import TrialLocks
from orchestrator.records.layout import KEY, STUDY_FOLDER
from orchestrator.records.reports import Report, objective_of
from orchestrator.running.status.differences import baseline_of, differences
from orchestrator.running.steering import RunFacts, read_runs
from orchestrator.tables.tables import ended_trials
from search_spaces.core_config import ALEXNET, PERCENT, CoreDescription, TrialConfig, is_of_core, readable

LOG_LINES = 40
BEGUN = ("running", "interrupted")
FURTHER = ("tuning", "retuned")
PAGE = "report.html"
TOP1 = "top-1 validation error"
Ended = Mapping[str, tuple[str, float | None]]


@dataclass(frozen=True)
class TrialStatus:
    """Where a planned trial stands.

    Attributes:
        arm: The arm.
        seed: The seed.
        phase: `arm`, `tuning` or `retuned`.
        key: The trial.
        state: `finished`, `diverged`, `failed`, `stopped`, `damaged`, `running`, `interrupted` or `waiting`.
        value: The metric of the study, after the last epoch; None where no epoch has ended.
        epoch: The epoch, or report, that this is of, while the trial has not ended.
    """

    arm: str
    seed: int
    phase: str
    key: str
    state: str
    value: float | None = None
    epoch: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it is on record, be it as damaged."""
        return self.state not in (*BEGUN, "waiting")


@dataclass(frozen=True)
class StudyStatus:
    """Where a study stands.

    Attributes:
        study: Name of its folder.
        dataset: The data set.
        running: Who runs it now.
        arms: Its arms; empty where several studies are asked together.
        trials: Those of its arms and of their re-tuning.
        states: How many different trials of its arms are in which state.
        points: Points of its sweep that were asked for.
        points_ended: Those of them that have ended.
        report: The page of its report; None where there is none yet.
        together: The studies that are asked together, where it is such a folder.
        core: What is trained.
        metric: What the trials' values are of.
        unit: What they are in; empty for plain numbers.
    """

    study: str
    dataset: str
    running: tuple[RunFacts, ...] = ()
    arms: tuple[str, ...] = ()
    trials: tuple[TrialStatus, ...] = ()
    states: dict[str, int] = field(default_factory=dict)
    points: int = 0
    points_ended: int = 0
    report: Path | None = None
    together: tuple[StudyStatus, ...] = ()
    core: str = ALEXNET.name
    metric: str = TOP1
    unit: str = PERCENT


class StatusDocument(Document):
    """What `status` answers with `--json`.

    Attributes:
        studies: The study that was named, or all.
        left_out: Studies with a damaged file, and what is damaged.
        requests: What drivers were asked for, by `--stop`, `--skip` or `--seeds`.
    """

    studies: tuple[StudyStatus, ...] = ()
    left_out: dict[str, str] = {}
    requests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Membership:
    """What a trial is for.

    Attributes:
        study: Name of the study's folder.
        arm: The arm.
        seed: The seed.
        phase: Which part of the study wants it.
    """

    study: str
    arm: str
    seed: int
    phase: str


class TrialStatusDocument(Document):
    """What `status KEY` answers with `--json`.

    Attributes:
        key: The trial.
        state: See `TrialStatus`.
        message: What it ended with.
        members: Which studies want it.
        configuration: What is trained.
        differences: What it has otherwise than its study's baseline, a line for each field; None where no study that
            wants it tells.
        reports: Its epochs, or another core's reports, as in `epochs.jsonl`.
        log: Its log; None where there is none.
        log_lines: The last lines of that.
        repeat: The command that repeats it outside Ray, with the same numbers.
    """

    key: str
    state: str
    message: str = ""
    members: tuple[Membership, ...]
    configuration: TrialConfig
    differences: tuple[str, ...] | None = None
    reports: tuple[Report, ...]
    log: Path | None
    log_lines: tuple[str, ...]
    repeat: str


def study_status(results: Path, name: str) -> StudyStatus:
    """Returns where a study stands, or all that are asked together by `--study paper`.

    Raises:
        LabError: Its plan is damaged.
    """
    folder = results / "studies" / name
    if not (folder / STUDIES).is_file():
        return _study_status(results, name)
    content = _read_json(folder / STUDIES, {"dataset", "studies"})
    studies = content["studies"]
    if not isinstance(studies, list) or not all(STUDY_FOLDER.fullmatch(str(study)) for study in studies):
        raise LabError(f"{folder / STUDIES} is damaged: it names no studies", exit_code=ExitCode.NOTHING)
    return StudyStatus(
        study=name,
        dataset=content["dataset"],
        running=tuple(read_runs(folder)),
        report=_page(folder),
        together=tuple(_study_status(results, study) for study in studies),
    )


def _study_status(results: Path, name: str) -> StudyStatus:
    folder = results / "studies" / name
    plan = _read_plan(folder)
    core = _core_of(plan)
    trials = tuple(_trials(results, plan["trials"], core))
    arms = {trial.key: trial.state for trial in trials if trial.phase not in FURTHER}
    points = [row["key"] for row in trial_record.read_members(results, name) if row["phase"] == "sweep"]
    return StudyStatus(
        study=name,
        dataset=plan["dataset"],
        running=tuple(read_runs(folder)),
        arms=tuple(plan["arms"]),
        trials=trials,
        states=dict(sorted(Counter(arms.values()).items())),
        points=len(points),
        points_ended=len(ended_trials(results, points)) if points else 0,
        report=_page(folder),
        core=core.name,
        metric=TOP1 if core is ALEXNET else readable(core.chosen_by),
        unit=core.chosen.unit,
    )


def _core_of(plan: Mapping[str, Any]) -> CoreDescription:
    """What a plan trains, as it says itself; nothing of a core is imported."""
    base = plan.get("base")
    if not isinstance(base, dict) or not is_of_core(base):
        return ALEXNET
    try:
        return CoreDescription.model_validate(base["core"])
    except ValidationError:
        return ALEXNET


def _page(folder: Path) -> Path | None:
    return folder / PAGE if (folder / PAGE).is_file() else None


def _read_plan(folder: Path) -> dict[str, Any]:
    plan = _read_json(folder / "plan.json", {"dataset", "arms", "trials"})
    if not _is_plan(plan):
        raise LabError(
            f"{folder / 'plan.json'} is damaged: a trial lacks arm, seed or key; run the study again",
            exit_code=ExitCode.NOTHING,
        )
    return plan


def _is_plan(plan: Mapping[str, Any]) -> bool:
    """Whether arms and trials are what they must be; a key is also the name of a folder."""
    trials, arms = plan["trials"], plan["arms"]
    return (
        isinstance(trials, list)
        and isinstance(arms, list)
        and all(isinstance(arm, str) for arm in arms)
        and all(
            isinstance(row, dict)
            and isinstance(row.get("arm"), str)
            and isinstance(row.get("seed"), int)
            and isinstance(row.get("key"), str)
            and KEY.fullmatch(row["key"])
            for row in trials
        )
    )


def _trials(results: Path, rows: Sequence[Mapping[str, Any]], core: CoreDescription) -> Iterator[TrialStatus]:
    """Where each trial of a plan stands."""
    ended = ended_trials(results, [row["key"] for row in rows])
    states = study_states(results, rows, ended)
    for row in rows:
        key, state = row["key"], states[row["key"]]
        objective, epoch = ended[key][1] if key in ended else None, None
        # 没跑完的只在它自己的 epochs.jsonl 里
        if state in BEGUN and (epochs := trial_record.read_epochs(layout.trial_folder(results, key))):
            objective, epoch = objective_of(epochs[-1], core), epochs[-1].epoch
        value = None if objective is None else core.chosen.scale * core.chosen.objective(objective)
        yield TrialStatus(row["arm"], row["seed"], row.get("phase", "arm"), key, state, value, epoch)


def _read_json(path: Path, needed: Set[str]) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"{path} cannot be read: {reason_of(error)}", exit_code=ExitCode.NOTHING) from error
    if not isinstance(content, dict) or not needed <= content.keys():
        raise LabError(f"{path} is damaged: it lacks one of {', '.join(sorted(needed))}", exit_code=ExitCode.NOTHING)
    return content


def study_states(results: Path, trials: Sequence[Mapping[str, Any]], ended: Ended) -> dict[str, str]:
    """Returns the state of each trial of a plan: a final state, `running`, `interrupted` or `waiting`.

    Args:
        results: The results folder.
        trials: Rows of a plan, each with its `key`.
        ended: What has ended of them (`ended_trials`).
    """
    states = {key: state for key, (state, _) in ended.items()}
    locks = _open_locks(results)
    for key in {row["key"] for row in trials} - ended.keys():
        folder = layout.trial_folder(results, key)
        # 驱动先打开记录、上锁，再让它在门口等槽位：有人开始训练它，才算在跑
        if locks is not None and locks.is_locked(key) and trial_record.latest_attempt_begins(folder):
            states[key] = "running"
        else:
            states[key] = "interrupted" if (folder / "epochs.jsonl").is_file() else "waiting"
    if locks is not None:
        locks.close()
    return states


def _open_locks(results: Path) -> TrialLocks | None:
    # 只读的结果目录也要能看
    return TrialLocks(results) if os.access(results / ".locks", os.W_OK) else None


def _differences(results: Path, config: TrialConfig, members: Set[Membership]) -> tuple[str, ...] | None:
    """Beside the baseline of the first study that wants the trial and has a plan."""
    for study in sorted({member.study for member in members}):
        with suppress(LabError):
            baseline = baseline_of(results, _read_plan(results / "studies" / study), config.seed)
            if baseline is not None:
                return tuple(differences(config, baseline))
    return None


def trial_status(results: Path, key: str) -> TrialStatusDocument:
    """Returns where one trial stands: state, memberships, configuration, epochs, log, and how to repeat it.

    Raises:
        LabError: Its configuration or its result is damaged, or another trial's.
    """
    folder = layout.trial_folder(results, key)
    record = read_record(folder)
    config, result = record or (read_own_config(folder), None)
    states = study_states(results, [{"key": key}], ended_trials(results, [key]))
    members = {
        Membership(row["study"], row["arm"], row["seed"], row["phase"])
        for row in trial_record.read_members(results)
        if row["key"] == key
    }
    log = folder / "log.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return TrialStatusDocument(
        key=key,
        state=states[key],
        message="" if result is None else result.message,
        members=tuple(sorted(members, key=lambda one: (one.study, one.arm, one.seed, one.phase))),
        configuration=config,
        differences=_differences(results, config, members),
        reports=tuple(read_curve(folder)),
        log=log if log.is_file() else None,
        log_lines=tuple(lines[-LOG_LINES:]),
        repeat=trial_record.repeat_command(config, folder),
    )
