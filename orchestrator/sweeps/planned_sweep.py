"""The sweep of a plan as one object: what it searches, what is known of it, what of it is confirmed, what is left.

What is known is read from the records once, and again only where it may have changed: see `PlannedSweep.refreshed`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.on_record import OnRecord, read_begun
from orchestrator.planning.plan import Plan
from orchestrator.planning.work_left import PhaseLeft, Training, trainings_of
from orchestrator.records import files, layout, trial_record
from orchestrator.records.checked_record import read_curve
from orchestrator.records.reports import objective_curve
from orchestrator.records.trial_record import TrialState
from orchestrator.request import Store, SweepRequest
from orchestrator.sweeps.confirmation import confirmation_plan, confirmation_trials, fresh_seeds, read_confirmation
from orchestrator.sweeps.pruning import Curve, pruner_arguments
from orchestrator.sweeps.search import (
    Ended,
    Search,
    SearchHistory,
    arms_in_space,
    check_search,
    points_left,
    read_ended,
    search_history,
)
from orchestrator.tables.tables import done_states
from search_spaces.core_config import CoreConfig, description_of, planned_parts
from search_spaces.trial import Phase, PlannedTrial


def search_of(plan: Plan, study: str, sweep: SweepRequest) -> Search | None:
    """Returns what the plan's sweep searches, or None where no point is asked for.

    Args:
        plan: The plan.
        study: Name of the study's folder.
        sweep: What is asked for.

    Raises:
        StudyError: The sampler cannot search this space.
    """
    if plan.study.sweep is None or not plan.sweep_points:
        return None
    search = Search(
        name=f"{study}/sweep",
        space=plan.study.sweep,
        base=plan.base,
        points=plan.sweep_points,
        sampler=sweep.sampler,
        second=sweep.second,
        seed=sweep.seed,
    )
    check_search(search)
    return search


@dataclass(frozen=True)
class PlannedSweep:
    """The sweep of a plan.

    Attributes:
        plan: The plan, whose arms a sampler is told.
        search: What is searched; None where no point is asked for: then nothing is known, left or confirmed.
        folder: The study's folder.
        request: What is asked for.
        store: Where the records are.
    """

    plan: Plan
    search: Search | None
    folder: Path
    request: SweepRequest
    store: Store

    @cached_property
    def history(self) -> SearchHistory:
        """What the sweep already knows: its points on record and the arms that lie in its space."""
        if self.search is None:
            return SearchHistory()
        members = trial_record.read_members(self.store.results, self.folder.name)
        return search_history(self.search, members, self.read, arms_in_space(self.plan, self.search, self.read))

    def read(self, key: str) -> Ended | None:
        """Returns how the trial of a key ended, as far as the sweep is concerned; None while it has not."""
        second = None if self.search is None else self.search.second
        return read_ended(self.store.results, key, second, retry_failed=self.store.retry_failed)

    def refreshed(self, plan: Plan) -> PlannedSweep:
        """Returns the sweep of a plan that has gone on: what is known will be read again."""
        return replace(self, plan=plan)

    @property
    def points_left(self) -> int:
        """How many points are still to be trained."""
        return 0 if self.search is None else points_left(self.search, self.history)

    def points_missing(self, ended: Collection[str]) -> int:
        """Returns how many points are left after a run in which the trials `ended` have ended, be it as failed."""
        again = sum(ask.key in ended for ask in self.history.asks if ask.position not in self.history.ended)
        return self.points_left - again

    @cached_property
    def confirmation(self) -> dict[str, Any]:
        """What `--confirm` asks for, as the sweep stands now; an empty dict where nothing is asked for."""
        if not self.request.confirm or self.search is None:
            return {}
        seeds = fresh_seeds(self.request.confirm_seeds, self.request.confirm, self.plan.recipe)
        return confirmation_plan(self.search, self.history, self.request.confirm, seeds, read_confirmation(self.folder))

    @property
    def confirmation_trials(self) -> tuple[PlannedTrial, ...]:
        """The trials of the confirmation, seed by seed, the baseline first."""
        return confirmation_trials(self.plan, self.confirmation)

    @cached_property
    def work_left(self) -> dict[Phase, PhaseLeft]:
        """What points and confirmation have still to do; empty where no point is asked for.

        A point costs as much as the baseline does. While the sweep is not at its end, its best points are not known.
        """
        if self.search is None:
            return {}
        whole = Training(self.plan.base, planned_parts(self.plan.base))
        begun = self._begun_points(self.search)
        fresh = (whole,) * (self.points_left - len(begun))
        points = PhaseLeft(frozenset(self.ended_keys.values()), begun, fresh)
        if not self.confirmation:
            return {"sweep": points}
        confirming = self._confirming(())
        if self.points_left:
            # 扫描没完：还可能另选 K 个点，而现在选的可能一个也不用
            others = self.request.confirm * int(self.confirmation["seeds"])
            at_most = (*confirming.trainings, *(whole,) * others)
            confirming = PhaseLeft(confirming.on_record, unchosen=at_most, exact=False)
        return {"sweep": points, "confirmation": confirming}

    @property
    def ended_keys(self) -> dict[int, str]:
        """Keys of the points that have ended, by position."""
        return {ask.position: ask.key for ask in self.history.asks if ask.position in self.history.ended}

    def _begun_points(self, search: Search) -> dict[str, Training]:
        """What is left of the points that were asked and have not ended, by key."""
        asks = [ask for ask in self.history.asks if ask.position not in self.history.ended]
        trials = [search.trial(ask.parameters) for ask in asks]
        return trainings_of(trials, OnRecord(begun=read_begun(self.store.results, trials)))

    def _confirming(self, ended: Collection[str]) -> PhaseLeft:
        """What the confirmation has still to do, after a run in which the trials `ended` have ended."""
        trials = self.confirmation_trials
        keys = {trial.key for trial in trials} - set(ended)
        on_record = OnRecord(done=done_states(self.store.results, sorted(keys), self.store.retry_failed))
        missing = on_record.missing([trial for trial in trials if trial.key in keys])
        left = trainings_of(missing, replace(on_record, begun=read_begun(self.store.results, missing)))
        return PhaseLeft(frozenset(trial.key for trial in trials) - left.keys(), left)

    def left_out(self, ended: Collection[str]) -> tuple[int, int]:
        """Returns how many points a run has left out, and how many trials that confirm the chosen ones.

        Args:
            ended: Keys of the trials that ended in this run.
        """
        points = self.points_missing(ended)
        # 扫描没完，要确认哪些点还没选定
        return (points, 0) if points else (0, self._confirming(ended).left)

    def states(self) -> dict[str, TrialState]:
        """Returns how the points and the trials that confirm some of them ended, as far as they have."""
        keys = {ask.key for ask in self.history.asks} | {trial.key for trial in self.confirmation_trials}
        return done_states(self.store.results, keys)

    def curves(self) -> list[Curve]:
        """Returns the curves of the ended points, which a pruner compares new ones with."""
        keys = [ask.key for ask in self.history.asks if ask.position in self.history.ended]
        histories = [read_curve(layout.trial_folder(self.store.results, key)) for key in keys]
        core = description_of(self.plan.base)
        return [objective_curve(reports, core) for reports in histories]

    @property
    def reports(self) -> int:
        """Of how many reports a whole trial is: AlexNet's epochs; of another core those of its longest arm on record.

        Raises:
            LabError: No arm of another core has finished, so that nobody knows.
        """
        base = self.plan.base
        if not isinstance(base, CoreConfig):
            return base.training.epochs
        folders = [layout.trial_folder(self.store.results, trial.key) for trial in self.plan.trials]
        results = [result for folder in folders if (result := trial_record.read_result(folder)) is not None]
        longest = max((result.epochs for result in results if result.state is TrialState.FINISHED), default=0)
        if not longest:
            raise LabError(
                f"--pruner {self.request.pruner} compares points after a share of a trial's reports, and no trial of "
                f"{self.plan.study.name} has finished to say how many there are: ask without --pruner",
                exit_code=ExitCode.WRONG_USE,
            )
        return longest

    def write_file(self, search: Search) -> None:
        """Writes how the sweep is made: sampler and pruner with every argument, seeds, space (`sweep.json`)."""
        from orchestrator.sweeps.samplers import sampler_facts

        pruner = self.request.pruner
        arguments = {} if pruner == "none" else pruner_arguments(pruner, self.reports)
        content = {
            **sampler_facts(search),
            "pruner": pruner,
            "pruner_arguments": {
                name: str(value) if value == float("inf") else value for name, value in arguments.items()
            },
        }
        files.write_atomically(self.folder / "sweep.json", json.dumps(content, indent=1, sort_keys=True).encode())
