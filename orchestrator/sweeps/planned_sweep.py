"""The sweep of a plan, as it is asked for: its search, its past, its file, and its pruner's memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from orchestrator.choices import PrunerName
from orchestrator.planning.plan import Plan
from orchestrator.records import files, layout, trial_record
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


def reader(search: Search, store: Store) -> Callable[[str], Ended | None]:
    """Returns a function that reads how the trial of a key ended."""
    return lambda key: read_ended(store.results, key, search.second, retry_failed=store.retry_failed)


def history_of(plan: Plan, search: Search | None, folder: Path, store: Store) -> SearchHistory:
    """Returns what a sweep already knows; nothing when none is asked for."""
    if search is None:
        return SearchHistory()
    read = reader(search, store)
    members = trial_record.read_members(store.results, folder.name)
    return search_history(search, members, read, arms_in_space(plan, search, read))


def points_missing(plan: Plan, search: Search | None, folder: Path, store: Store, ended: Collection[str]) -> int:
    """Returns how many points the sweep lacks after a run in which the trials `ended` have ended."""
    if search is None:
        return 0
    history = history_of(plan, search, folder, store)
    again = sum(ask.key in ended for ask in history.asks if ask.position not in history.ended)
    return points_left(search, history) - again


def chosen_states(
    plan: Plan, search: Search | None, folder: Path, sweep: SweepRequest, store: Store
) -> dict[str, TrialState]:
    """Returns how the points of the sweep and the trials that confirm some of them ended, as far as they have."""
    keys = {ask.key for ask in history_of(plan, search, folder, store).asks}
    keys |= {trial.key for trial in confirmation_trials(plan, planned_confirmation(plan, search, folder, sweep, store))}
    return done_states(store.results, keys)


def chosen_missing(
    plan: Plan, search: Search | None, folder: Path, sweep: SweepRequest, store: Store, ended: Collection[str]
) -> tuple[int, int]:
    """Returns how many points of the sweep a run has left out, and how many trials that confirm the chosen ones.

    Args:
        plan: The plan.
        search: What its sweep searches, or None.
        folder: The study's folder.
        sweep: What is asked for.
        store: Where its records are.
        ended: Keys of the trials that ended in this run.
    """
    points = points_missing(plan, search, folder, store, ended)
    if points:
        # 扫描没完，要确认哪些点还没选定
        return points, 0
    content = planned_confirmation(plan, search, folder, sweep, store)
    wanted = {trial.key for trial in confirmation_trials(plan, content)} - set(ended)
    return 0, len(wanted) - len(done_states(store.results, sorted(wanted), store.retry_failed))


def curves_on_record(history: SearchHistory, results: Path) -> list[Curve]:
    """Returns the curves of the ended points, which a pruner compares new ones with."""
    ended = [ask.key for ask in history.asks if ask.position in history.ended]
    epochs = [trial_record.read_epochs(layout.trial_folder(results, key)) for key in ended]
    return [[(report.epoch, report.validation.top1_error) for report in own] for own in epochs]


def write_sweep_file(search: Search, folder: Path, pruner: PrunerName) -> None:
    """Writes how the sweep is made: sampler and pruner with every argument, seeds, space (`sweep.json`)."""
    from orchestrator.sweeps.samplers import sampler_facts

    content = {
        **sampler_facts(search),
        "pruner": pruner,
        "pruner_arguments": {
            name: str(value) if value == float("inf") else value
            for name, value in pruner_arguments(pruner, search.base.training.epochs).items()
        },
    }
    files.write_atomically(folder / "sweep.json", json.dumps(content, indent=1, sort_keys=True).encode())


def planned_confirmation(
    plan: Plan, search: Search | None, folder: Path, sweep: SweepRequest, store: Store
) -> dict[str, Any]:
    """Returns what `--confirm` asks for, as the sweep stands now; an empty dict where nothing is asked for."""
    if not sweep.confirm or search is None:
        return {}
    history = history_of(plan, search, folder, store)
    seeds = fresh_seeds(sweep.confirm_seeds, sweep.confirm, plan.recipe)
    return confirmation_plan(search, history, sweep.confirm, seeds, read_confirmation(folder))


def confirmation_left(
    plan: Plan, search: Search | None, folder: Path, sweep: SweepRequest, store: Store, sweep_left: int
) -> int:
    """Returns how many trials a confirmation still needs; at most so many while the sweep is not at its end."""
    content = planned_confirmation(plan, search, folder, sweep, store)
    if not content:
        return 0
    wanted = {trial.key for trial in confirmation_trials(plan, content)}
    left = len(wanted) - len(done_states(store.results, sorted(wanted), store.retry_failed))
    # 扫描没完：还可能另选 K 个点，而现在选的可能一个也不用
    return left + (sweep.confirm * int(content["seeds"]) if sweep_left else 0)
