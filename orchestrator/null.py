"""The noise floor: the baseline judged against itself, on seeds that the two sides do not share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.ended import done_states
from orchestrator.errors import LabError
from orchestrator.evaluations import evaluations_on_record, lost_weights
from orchestrator.plan import Plan
from orchestrator.sweep import TUNING_SEED
from search_spaces.trial import PlannedTrial, unfold

OTHER_SEEDS = "other_seeds"


def null_plan(plan: Plan, results: Path, retry_failed: bool) -> Plan:
    """Returns the plan that compares the baseline on seeds 0 to n - 1 with itself on seeds n to 2n - 1, in order.

    Whatever it finds is chance. Its trials are baseline trials, shared with the study and with more seeds of it.

    Args:
        plan: The study's.
        results: The results folder.
        retry_failed: Whether failed trials are trained again.

    Raises:
        LabError: So many seeds would reach into those for tuning.
    """
    count = len(plan.seeds)
    if 2 * count > TUNING_SEED:
        raise LabError(
            f"--null with {count} seeds takes seeds up to {2 * count - 1}, and those from {TUNING_SEED} on are for "
            f"tuning; ask for {TUNING_SEED // 2} at most",
            exit_code=2,
        )
    baseline = plan.study.arm(plan.study.baseline)
    last = 2 * count - 1
    again = {"name": OTHER_SEEDS, "title": f"the same again, seeds {count} to {last}", "claim": None}
    other = baseline.model_copy(update=again)
    recipe = plan.recipe.model_copy(update={"edits": {}})
    study = plan.study.model_copy(
        update={
            "name": f"{plan.study.name[:43]}-null",
            "question": f"What does {plan.study.name} take for a difference by chance?",
            "arms": (baseline, other),
            "recipes": {plan.dataset: recipe},
            "not_asked": {},
            "sweep": None,
            "retune": None,
        }
    )
    trials = tuple(
        _paired(trial, count)
        for seed in plan.seeds
        for trial in unfold(study, plan.base, (seed, seed + count))
        if (trial.arm == OTHER_SEEDS) == (trial.seed >= count)
    )
    done = done_states(results, [trial.key for trial in trials], retry_failed)
    return replace(
        plan,
        study=study,
        recipe=recipe,
        trials=trials,
        done=done,
        evaluated=evaluations_on_record(results, trials),
        lost_weights=lost_weights(results, trials),
        retune=None,
        further=(),
        null=True,
    )


def _paired(trial: PlannedTrial, count: int) -> PlannedTrial:
    """A trial of the other side under the number of the pair it belongs to; its own seed stays in its configuration."""
    return replace(trial, seed=trial.seed % count)
