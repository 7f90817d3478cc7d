"""Plans of studies on the digits, as the command would make them; nothing is written down."""

from __future__ import annotations

from typing import Any

from alexnet_core.data.loading import summarise_data
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import PlanFile, PlanRow
from search_spaces.study import Study
from search_spaces.trial import base_config, unfold


def make_plan(study: Study, seeds: int, *, epochs: int | None = None, **fields: Any) -> Plan:
    """A study's arms on so many seeds; `fields` are the plan's other fields."""
    summary = summarise_data("digits")
    base = base_config(study, "digits", summary=summary, data_root=None, cache=None, epochs=epochs)
    return Plan(
        study=study,
        dataset="digits",
        recipe=study.recipes["digits"],
        summary=summary,
        base=base,
        trials=unfold(study, base, range(seeds)),
        seeds=tuple(range(seeds)),
        **{"sweep_points": 0, **fields},
    )


def make_plan_file(content: dict[str, Any]) -> PlanFile:
    """What a `plan.json` with this content says, though it may lack what is not judged and have keys of any form."""
    rows = tuple(PlanRow.model_construct(**row) for row in content["trials"])
    looks = tuple(content.get("looks", ()))
    return PlanFile.model_construct(**{**content, "trials": rows, "looks": looks})
