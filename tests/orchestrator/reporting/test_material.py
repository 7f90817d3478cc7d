"""Where an answer comes from: what the report says of the data is what the plan line has said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from alexnet_core.data.dataset import DataSummary
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import plan_on_record, write_plan
from orchestrator.planning.summary import data_remarks
from orchestrator.reporting.material import provenance
from orchestrator.tables.rows import TRIAL_COLUMNS
from search_spaces.study import load_study
from tests.made_core_records import plan_walk, study_of
from tests.made_plans import make_plan

NOTHING_USED = pl.DataFrame(schema={**TRIAL_COLUMNS, "arm": pl.String, "phase": pl.String})
SUMMARY = DataSummary(
    digest="0" * 64,
    class_names=("a", "b"),
    train=9,
    validation=3,
    test=4,
    remarks=("valid/ is taken as val/", "left out: 1 file outside the class folders (0.jpg)"),
)


def data_facts(results: Path, plan: Plan) -> dict[str, str]:
    """What the report says of the data, from what lies on disk alone."""
    folder = results / "studies" / plan.study.name
    write_plan(folder, plan, ["ablate.py"])
    return provenance(plan_on_record(folder)[1], folder, results, NOTHING_USED).data


@pytest.mark.parametrize("is_core", [False, True])
def test_the_report_says_what_to_know_of_the_data_as_the_plan_did(tmp_path: Path, is_core: bool) -> None:
    plan = plan_walk(study_of(), 1) if is_core else make_plan(load_study("lrn"), 1)
    plan = replace(plan, summary=SUMMARY)
    facts = data_facts(tmp_path, plan)
    assert facts["to know"] == "valid/ is taken as val/. left out: 1 file outside the class folders (0.jpg)"
    assert data_remarks(plan) == [f"note: {remark}" for remark in facts["to know"].split(". ", 1)]
    # 划分另抽的种子，重复的图也另有其数
    twice = SUMMARY.model_copy(update={"remarks": ("1 validation image is a training image too (a = b): ...",)})
    varied = replace(plan, summary=twice, recipe=plan.recipe.model_copy(update={"vary": ("split",)}))
    assert data_remarks(varied)[1:] == [
        "note: that is of the validation images of seed 0; the other seeds draw their own"
    ]
    assert data_facts(tmp_path, varied)["to know"].endswith(
        "that is of the validation images of seed 0; the other seeds draw their own"
    )
    assert len(data_remarks(replace(plan, summary=twice))) == 1
    assert (facts["images"], facts["classes"]) == ("train 9; validation 3; test 4", "2")
    assert "to know" not in data_facts(tmp_path, replace(plan, summary=SUMMARY.model_copy(update={"remarks": ()})))


def test_the_plan_of_a_core_of_an_earlier_version_opens_and_says_what_it_knows(tmp_path: Path) -> None:
    plan = plan_walk(study_of(), 1)
    facts = {"name": "default", "content (as the core names it)": "not said by the core"}
    assert data_facts(tmp_path, plan) == facts
    path = tmp_path / "studies" / "walking" / "plan.json"
    content = json.loads(path.read_bytes())
    assert content.pop("summary") is None
    path.write_text(json.dumps(content))
    read, plan_file = plan_on_record(path.parent)
    assert (read.summary, provenance(plan_file, path.parent, tmp_path, NOTHING_USED).data) == (None, facts)
