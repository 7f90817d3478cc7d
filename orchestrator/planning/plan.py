"""The plan: which trials a study wants, which are on record, what the rest will cost and can decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.dataset import DataSummary
from orchestrator.planning.more_epochs import Extensions
from orchestrator.records.trial_record import TrialState
from search_spaces.study import Recipe, Retune, Study
from search_spaces.trial import PlannedTrial, unfold

# 确认用的种子与 arm（0 起）、调参（1000 起）永不相交（statistics.md）
CONFIRMATION_SEED = 2000
# 调参种子与裁决种子永不相交（statistics.md）
TUNING_SEED = 1000
ALPHA = 0.05


@dataclass(frozen=True)
class Plan:
    """A study unfolded on one data set.

    Attributes:
        study: The question.
        dataset: Name of the recipe.
        recipe: What the study asks on this data set.
        summary: What is in the data.
        base: The baseline's configuration before any arm's edits, with seed 0.
        trials: The wanted arm trials in the order in which they run (all arms of a seed together).
        seeds: The arms' seeds.
        sweep_points: Points of the sweep, in all.
        done: State of each trial on record that is not run again.
        evaluated: (key, views) of the evaluations in more views than one that are on record.
        lost_weights: Trials on record that must be trained again to be evaluated so.
        max_seeds: Seeds at most, of a study of `--seeds auto`; None where all seeds are wanted.
        extensions: Missing trials that ran for fewer epochs.
        retune: What every arm tunes for itself; None for nothing.
        further: The trials of that, as far as they are known (`retuning.py`).
        null: Whether the baseline is judged against itself (`null.py`).
    """

    study: Study
    dataset: str
    recipe: Recipe
    summary: DataSummary
    base: TrainConfig
    trials: tuple[PlannedTrial, ...]
    seeds: tuple[int, ...]
    sweep_points: int
    done: Mapping[str, TrialState]
    evaluated: frozenset[tuple[str, int]] = frozenset()
    lost_weights: frozenset[str] = frozenset()
    max_seeds: int | None = None
    extensions: Extensions = field(default_factory=Extensions)
    retune: Retune | None = None
    further: tuple[PlannedTrial, ...] = ()
    null: bool = False

    @property
    def missing(self) -> tuple[PlannedTrial, ...]:
        """The wanted trials that are not on record, each key once."""
        first = {trial.key: trial for trial in reversed(self.trials)}
        return tuple(trial for trial in self.trials if trial.key not in self.done and first[trial.key] is trial)

    @property
    def views(self) -> dict[str, int]:
        """In how many views the trials are wanted whose arms ask for more than one, by key."""
        return {trial.key: trial.views for trial in self.trials if trial.views != 1}

    @property
    def to_evaluate(self) -> tuple[PlannedTrial, ...]:
        """The finished trials on record that are not evaluated in as many views as an arm asks for, each once."""
        trials = {
            trial.key: trial
            for trial in reversed(self.trials)
            if trial.views != 1
            and self.done.get(trial.key) is TrialState.FINISHED
            and (trial.key, trial.views) not in self.evaluated
        }
        return tuple(reversed(trials.values()))

    @property
    def to_run(self) -> tuple[PlannedTrial, ...]:
        """What must be trained or evaluated, in the order of the plan."""
        runs = {id(trial) for trial in (*self.missing, *self.to_evaluate)}
        return tuple(trial for trial in self.trials if id(trial) in runs)

    @property
    def unique_keys(self) -> int:
        """How many different trials the arms want; arms that are the same trials share them."""
        return len({trial.key for trial in self.trials})

    @property
    def compared_arms(self) -> int:
        """How many arms are compared with the baseline."""
        return len(self.study.arms) - 1


def with_seeds(plan: Plan, seeds: int, done: Mapping[str, TrialState]) -> Plan:
    """Returns a plan of the same question with `seeds` seeds per arm; `done` is what has ended by now."""
    all_seeds = tuple(range(seeds))
    return replace(plan, trials=unfold(plan.study, plan.base, all_seeds), seeds=all_seeds, done=done)


def refreshed(plan: Plan, states: Mapping[str, TrialState]) -> Plan:
    """Returns a plan that knows what has ended meanwhile."""
    return replace(plan, done={**plan.done, **{t.key: states[t.key] for t in plan.trials if t.key in states}})
