"""Comparisons chosen after the data were seen: another baseline, or two arms alone. Exploratory, and marked so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.errors import LabError
from orchestrator.plan import Plan
from search_spaces.study import Claim

EXIT_WRONG_USE = 2


def chosen_afterwards(
    plan: Plan, content: Mapping[str, Any], baseline: str, others: Sequence[str] | None = None
) -> tuple[Plan, dict[str, Any]]:
    """Returns the plan of such a comparison, with the content of its `plan.json`; neither is written down.

    No claim is judged: the source speaks of the study's own baseline.

    Args:
        plan: The study's plan.
        content: What `plan.json` says.
        baseline: The arm that the others are compared with.
        others: The arms compared with it; None for all.

    Raises:
        LabError: There is no such arm, or the two are the same.
    """
    names = [arm.name for arm in plan.study.arms]
    for name in (baseline, *(others or ())):
        if name not in names:
            raise LabError(
                f"study {plan.study.name} has no arm {name!r}; its arms: {', '.join(names)}", exit_code=EXIT_WRONG_USE
            )
    compared = [name for name in names if name != baseline] if others is None else list(others)
    if baseline in compared:
        raise LabError(f"arm {baseline} cannot be compared with itself", exit_code=EXIT_WRONG_USE)
    kept = {baseline, *compared}
    arms = tuple(arm.model_copy(update={"claim": None}) for arm in plan.study.arms if arm.name in kept)
    claim = Claim(statement="the source makes no claim on this comparison", source="Chosen after the data were seen")
    study = plan.study.model_copy(update={"arms": arms, "baseline": baseline, "claim": claim, "sweep": None})
    trials = tuple(trial for trial in plan.trials if trial.arm in kept)
    own = {
        **content,
        "arms": [arm.name for arm in arms],
        "baseline": baseline,
        "chosen_afterwards": True,
        "trials": [row for row in content["trials"] if row["arm"] in kept],
    }
    return replace(plan, study=study, trials=trials, sweep_points=0), own
