"""`report --compare` and `--baseline`: comparisons that are chosen once the data were seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import PlanFile
from orchestrator.planning.variants import AGAINST_BASELINE
from search_spaces.arm import Claim


def chosen_afterwards(
    plan: Plan, plan_file: PlanFile, baseline: str, others: Sequence[str] | None = None
) -> tuple[Plan, PlanFile]:
    """Returns the plan of such a comparison, with its `plan.json`; neither is written down.

    No claim is judged: the source speaks of the study's own baseline.

    Args:
        plan: The study's plan.
        plan_file: What `plan.json` says.
        baseline: The arm that the others are compared with.
        others: The arms compared with it; None for all.

    Raises:
        LabError: There is no such arm, or the two are the same.
    """
    if plan.study.shows_variance:
        raise LabError(
            f"study {plan.study.name} shows how far seeds scatter: there is nothing to compare in it",
            exit_code=ExitCode.WRONG_USE,
        )
    names = [arm.name for arm in plan.study.arms]
    for name in (baseline, *(others or ())):
        if name not in names:
            raise LabError(
                f"study {plan.study.name} has no arm {name!r}; its arms: {', '.join(names)}",
                exit_code=ExitCode.WRONG_USE,
            )
    compared = [name for name in names if name != baseline] if others is None else list(others)
    if baseline in compared:
        raise LabError(f"arm {baseline} cannot be compared with itself", exit_code=ExitCode.WRONG_USE)
    kept = {baseline, *compared}
    arms = tuple(arm.model_copy(update={"claim": None, "levels": {}}) for arm in plan.study.arms if arm.name in kept)
    claim = Claim(statement="the source makes no claim on this comparison", source="Chosen after the data were seen")
    changed = {"arms": arms, "baseline": baseline, "claim": claim, "sweep": None, **AGAINST_BASELINE}
    study = plan.study.model_copy(update=changed)
    trials = tuple(trial for trial in plan.trials if trial.arm in kept)
    compared_file = plan_file.model_copy(
        update={
            "arms": tuple(arm.name for arm in arms),
            "baseline": baseline,
            "chosen_afterwards": True,
            "trials": tuple(row for row in plan_file.trials if row.arm in kept),
        }
    )
    return replace(plan, study=study, trials=trials, sweep_points=0), compared_file
