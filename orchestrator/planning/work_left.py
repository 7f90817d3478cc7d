"""What a command has still to do, phase by phase: whatever counts trials or reckons time takes them from here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.planning.on_record import OnRecord
from orchestrator.planning.plan import Plan
from orchestrator.planning.retuning import further_missing, is_tuned
from search_spaces.core_config import TrialConfig, planned_parts
from search_spaces.trial import Phase, PlannedTrial


class Training(NamedTuple):
    """A training that is still to be done.

    Attributes:
        config: What is trained.
        epochs: Those that are left of it (of another core than AlexNet 1, see `planned_parts`); 0 where a trained
            network is evaluated only.
    """

    config: TrialConfig
    epochs: int


@dataclass(frozen=True)
class PhaseLeft:
    """What one phase has still to do.

    Attributes:
        on_record: Keys of its trials that need nothing any more.
        known: What is left of it, by key, in the order in which it starts.
        unchosen: Trainings whose trials follow from what is not on record yet.
        exact: Whether so many of those will be trained; else so many at most.
    """

    on_record: frozenset[str] = frozenset()
    known: Mapping[str, Training] = field(default_factory=dict)
    unchosen: tuple[Training, ...] = ()
    exact: bool = True

    @property
    def left(self) -> int:
        """How many trials are left, at most."""
        return len(self.known) + len(self.unchosen)

    @property
    def trainings(self) -> tuple[Training, ...]:
        """All that is left, in its order."""
        return (*self.known.values(), *self.unchosen)


@dataclass(frozen=True)
class WorkLeft:
    """What a command has still to do.

    Attributes:
        phases: By name, in the order in which they run.
    """

    phases: Mapping[Phase, PhaseLeft] = field(default_factory=dict)

    def of(self, *names: Phase) -> tuple[Training, ...]:
        """Returns what is left of some phases; of all without a name."""
        chosen = [phase for name, phase in self.phases.items() if not names or name in names]
        return tuple(training for phase in chosen for training in phase.trainings)

    def left(self, *names: Phase) -> int:
        """Returns how many trials are left of some phases, at most; of all without a name."""
        return len(self.of(*names))


def work_together(works: Iterable[WorkLeft], arms: PhaseLeft) -> WorkLeft:
    """Returns what several studies have still to do in one session, where a known trial that they share counts once.

    Args:
        works: Theirs.
        arms: What is left of the arms of all of them.
    """
    phases: dict[Phase, PhaseLeft] = {"arm": arms}
    for work in works:
        for name, theirs in work.phases.items():
            if name == "arm":
                continue
            ours = phases.get(name, PhaseLeft())
            phases[name] = PhaseLeft(
                on_record=ours.on_record | theirs.on_record,
                known={**ours.known, **theirs.known},
                unchosen=ours.unchosen + theirs.unchosen,
                exact=ours.exact and theirs.exact,
            )
    return WorkLeft(phases)


def arms_left(plan: Plan, on_record: OnRecord) -> PhaseLeft:
    """Returns what the arms have still to do; with `--seeds auto` at most, since a look may close an arm.

    Args:
        plan: The plan.
        on_record: What of its trials is on record.
    """
    left = {trial.key: _training(trial, on_record) for trial in on_record.to_run(plan.trials)}
    done = frozenset(trial.key for trial in plan.trials) - left.keys()
    return PhaseLeft(done, left, exact=plan.max_seeds is None)


def retuning_left(plan: Plan, on_record: OnRecord) -> dict[Phase, PhaseLeft]:
    """Returns what the re-tuning has still to do; at most, while the best values are not known.

    Args:
        plan: The plan.
        on_record: What of its trials, those of the re-tuning included, is on record.
    """
    if plan.retune is None:
        return {}
    missing = further_missing(plan, on_record.done)
    # 最佳值还不知道时，按没有哪个 arm 留用原值来算
    tuned = is_tuned(plan, on_record.done)
    # arm 若是同一批 trial，调出的值也相同，只练一次
    configs = () if tuned else {trial.key: trial.config for trial in plan.trials}.values()
    unchosen = tuple(Training(config, planned_parts(config)) for config in configs)
    phases: dict[Phase, PhaseLeft] = {}
    names: tuple[Phase, ...] = ("tuning", "retuned")
    for name in names:
        known = {trial.key: _training(trial, on_record) for trial in missing if trial.phase == name}
        ended = frozenset(trial.key for trial in plan.further if trial.phase == name and trial.key in on_record.done)
        phases[name] = PhaseLeft(ended, known)
    retuned = phases["retuned"]
    phases["retuned"] = PhaseLeft(retuned.on_record, retuned.known, unchosen, exact=tuned)
    return phases


def _training(trial: PlannedTrial, on_record: OnRecord) -> Training:
    evaluated_only = trial.key in on_record.done and trial.key not in on_record.lost_weights
    return Training(trial.config, 0 if evaluated_only else on_record.epochs_left(trial))


def trainings_of(trials: Sequence[PlannedTrial], on_record: OnRecord) -> dict[str, Training]:
    """Returns what is left of trials, by key; none of those that have ended.

    Args:
        trials: Of one phase.
        on_record: What of them is on record.
    """
    return {trial.key: _training(trial, on_record) for trial in on_record.to_run(trials)}
