"""The trials of `--seeds auto`: checked options, what a study still wants, and its phases over warm slots."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.boundaries import FIRST_LOOK, MOST_PLANNED_SEEDS
from orchestrator.errors import LabError
from orchestrator.looks import next_trials, still_wanted
from orchestrator.options import AUTO
from orchestrator.plan import Plan
from orchestrator.tables import load_trials, update_tables
from search_spaces.study import Recipe, Study
from search_spaces.trial import PlannedTrial


def planned_seeds(study: Study, recipe: Recipe, options: argparse.Namespace) -> tuple[int, int | None]:
    """Returns the seeds per arm, and the same number again where they are the maximum of `--seeds auto`.

    Raises:
        LabError: Options do not go together, or the study cannot be looked at seed by seed.
    """
    most: int | None = options.max_seeds
    if options.seeds != AUTO:
        if most is not None:
            raise LabError("--max-seeds goes with --seeds auto", exit_code=2)
        return options.seeds or recipe.seeds, None
    if most is None or not FIRST_LOOK <= most <= MOST_PLANNED_SEEDS:
        raise LabError(
            f"--seeds auto needs --max-seeds from {FIRST_LOOK} to {MOST_PLANNED_SEEDS}: the maximum is planned ahead",
            exit_code=2,
        )
    reasons = {
        "its times to a threshold are compared by the sign test, whose looks have no such boundary": recipe.threshold,
        "some of its arms only evaluate trained trials": any(arm.views != 1 for arm in study.arms),
        "--sweep, --retune and --null need whole arms; ask for them alone": (
            options.sweep or options.null or options.retune is not None
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise LabError(f"study {study.name} cannot be asked with --seeds auto: {reason}", exit_code=2)
    return most, most


def without_closed(plan: Plan, results: Path) -> Plan:
    """Returns the plan without the trials of closed arms that no look needs any more.

    Args:
        plan: The plan, with all seeds up to the maximum.
        results: The results folder.
    """
    return replace(plan, trials=tuple(still_wanted(plan, load_trials(results).trials, plan.done)))


def run_looks(
    plan: Plan,
    results: Path,
    ended: Callable[[], Collection[str]],
    train: Callable[[Sequence[PlannedTrial]], None],
    skipped: Callable[[], Collection[str]] = frozenset,
) -> None:
    """Trains what each look needs, until every arm is closed or nothing more is trained (a budget).

    Args:
        plan: The plan.
        results: The results folder.
        ended: Returns the keys of the trials that have ended by now.
        train: Trains trials; what they say is on record when it returns.
        skipped: Returns the arms of which nothing more is to be trained now; the others go on without them.
    """
    before: list[PlannedTrial] = []
    while wanted := next_trials(plan, update_tables(results).trials, ended(), skipped()):
        if wanted == before:
            return
        train(wanted)
        before = wanted
