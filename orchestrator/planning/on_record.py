"""What is on record of planned trials, read in one place, and what of them is left to run because of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from orchestrator.planning.more_epochs import Extensions, extensions_together, find_extensions
from orchestrator.records import layout, trial_record
from orchestrator.records.evaluations import evaluations_on_record, lost_weights
from orchestrator.records.trial_record import TrialState
from orchestrator.tables.tables import done_trials
from search_spaces.core_config import planned_parts
from search_spaces.trial import PlannedTrial


class Begun(NamedTuple):
    """What a trial has trained that was stopped in the middle.

    Attributes:
        epochs: Finished ones.
        seconds: Wall seconds of those.
    """

    epochs: int
    seconds: float


@dataclass(frozen=True)
class OnRecord:
    """What the records say of planned trials; it goes on while a plan stays what it is.

    Attributes:
        done: State of each trial on record that is not run again, by key.
        evaluated: (key, views) of the evaluations in more views than one that are on record.
        lost_weights: Keys of the trials on record that must be trained again to be evaluated so.
        extensions: Missing trials that ran for fewer epochs.
        begun: Missing trials that were stopped in the middle, by key.
        odd: Missing trials whose record does not fit the others on the same data, and why.
    """

    done: Mapping[str, TrialState] = field(default_factory=dict)
    evaluated: frozenset[tuple[str, int]] = frozenset()
    lost_weights: frozenset[str] = frozenset()
    extensions: Extensions = field(default_factory=Extensions)
    begun: Mapping[str, Begun] = field(default_factory=dict)
    odd: Mapping[str, str] = field(default_factory=dict)

    def refreshed(self, states: Mapping[str, TrialState]) -> OnRecord:
        """Returns the same with trials that have ended meanwhile, or that were read beside; none of them runs again."""
        return replace(self, done={**self.done, **states})

    def epochs_left(self, trial: PlannedTrial) -> int:
        """Returns how many epochs a missing trial still trains; at least 1, since its last step is there no more.

        Of another core than AlexNet the whole trial is one, see `planned_parts`.
        """
        begun, start = self.begun.get(trial.key), self.extensions.starts.get(trial.key)
        done = begun.epochs if begun is not None else start.epochs if start is not None else 0
        return max(1, planned_parts(trial.config) - done)

    def missing(self, trials: Sequence[PlannedTrial]) -> tuple[PlannedTrial, ...]:
        """Returns those of the trials that are not on record, each key once, in their order."""
        return _first_of_each_key(trial for trial in trials if trial.key not in self.done)

    def to_evaluate(self, trials: Sequence[PlannedTrial]) -> tuple[PlannedTrial, ...]:
        """Returns the finished ones that are not evaluated in as many views as an arm asks for, each key once."""
        return _first_of_each_key(
            trial
            for trial in trials
            if trial.views != 1
            and self.done.get(trial.key) is TrialState.FINISHED
            and (trial.key, trial.views) not in self.evaluated
        )

    def to_run(self, trials: Sequence[PlannedTrial]) -> tuple[PlannedTrial, ...]:
        """Returns what must be trained or evaluated, in the order of the trials."""
        runs = {id(trial) for trial in (*self.missing(trials), *self.to_evaluate(trials))}
        return tuple(trial for trial in trials if id(trial) in runs)


def _first_of_each_key(trials: Iterable[PlannedTrial]) -> tuple[PlannedTrial, ...]:
    """The trials without those that an earlier one of the same key stands for."""
    first: dict[str, PlannedTrial] = {}
    for trial in trials:
        first.setdefault(trial.key, trial)
    return tuple(first.values())


def read_on_record(results: Path, trials: Sequence[PlannedTrial], retry_failed: bool = False) -> OnRecord:
    """Reads what is on record of trials.

    Args:
        results: The results folder.
        trials: Of a plan.
        retry_failed: Whether failed trials are trained again, so that they count as missing.
    """
    done, odd = done_trials(results, [trial.key for trial in trials], retry_failed)
    on_record = OnRecord(
        done=done,
        evaluated=evaluations_on_record(results, trials),
        lost_weights=lost_weights(results, trials),
        odd=odd,
    )
    missing = on_record.missing(trials)
    # 只有还缺的 trial 才找得到可接着练的短跑
    begun = read_begun(results, [trial for trial in missing if trial.key not in odd])
    return replace(on_record, extensions=find_extensions(results, missing), begun=begun)


def read_begun(results: Path, missing: Sequence[PlannedTrial]) -> dict[str, Begun]:
    """Reads which of the missing trials were stopped in the middle, and how far they had come.

    Args:
        results: The results folder.
        missing: Trials that are not on record.
    """
    if not missing:
        return {}
    # 缺的可以有十万个：先看有哪些文件夹，再读文件
    folders = set(trial_record.recorded_keys(results))
    begun = {}
    for key in (trial.key for trial in missing if trial.key in folders):
        reports = trial_record.read_epochs(layout.trial_folder(results, key))
        if reports:
            begun[key] = Begun(len(reports), sum(report.seconds for report in reports))
    return begun


def together(parts: Iterable[OnRecord]) -> OnRecord:
    """Returns what is on record of several plans, as one."""
    known = tuple(parts)
    return OnRecord(
        done={key: state for one in known for key, state in one.done.items()},
        evaluated=frozenset[tuple[str, int]]().union(*(one.evaluated for one in known)),
        lost_weights=frozenset[str]().union(*(one.lost_weights for one in known)),
        extensions=extensions_together(one.extensions for one in known),
        begun={key: begun for one in known for key, begun in one.begun.items()},
        odd={key: reason for one in known for key, reason in one.odd.items()},
    )
