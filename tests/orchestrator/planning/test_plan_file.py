"""`plan.json` is one type: what is read is typed, what is written back keeps its bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.planning.plan_file import PlanFile, add_look, plan_on_record, read_plan, replaced_question, write_plan
from search_spaces.study import load_study
from tests.made_plans import make_plan

PLAN = make_plan(load_study("lrn"), 4, epochs=2)


def content_of(folder: Path) -> dict[str, object]:
    content = json.loads((folder / "plan.json").read_bytes())
    assert isinstance(content, dict)
    return content


def test_what_is_written_is_the_plan_in_plain_data_sorted_by_name(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAN, ["ablate", "--seeds", "4"])
    expected = {
        "study": "lrn",
        "dataset": "digits",
        "primary_metric": PLAN.study.primary_metric,
        "arms": [arm.name for arm in PLAN.study.arms],
        "baseline": PLAN.study.baseline,
        "alpha": 0.05,
        "margin": PLAN.recipe.margin,
        "smallest_effect": PLAN.recipe.smallest_effect,
        "planned_seeds": 4,
        "max_seeds": None,
        "looks": [],
        "base": PLAN.base.model_dump(mode="json"),
        "asked": PLAN.study.model_dump(mode="json"),
        "recipe": PLAN.recipe.model_dump(mode="json"),
        "summary": PLAN.summary.model_dump(mode="json"),
        "sweep_points": 0,
        "command": ["ablate", "--seeds", "4"],
        "trials": [
            {"arm": trial.arm, "seed": trial.seed, "phase": "arm", "key": trial.key, "views": 1}
            for trial in PLAN.trials
        ],
        "null": False,
        "retune": None,
    }
    assert (tmp_path / "plan.json").read_text() == json.dumps(expected, indent=1, sort_keys=True)


def test_a_report_of_another_question_under_the_same_name_is_said_to_be_replaced(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAN, ["ablate"])
    edited = make_plan(load_study("lrn"), 4, epochs=3)
    assert replaced_question(tmp_path, edited) == "", "there is no report yet"
    (tmp_path / "answer.json").write_text("{}")
    assert replaced_question(tmp_path, PLAN) == ""
    assert replaced_question(tmp_path, make_plan(load_study("lrn"), 9, epochs=2)) == "", "more seeds ask the same"
    assert "was of another question (other trainings of as_run, baseline, no_lrn)" in replaced_question(
        tmp_path, edited
    )
    two = load_study("lrn").model_copy(update={"arms": load_study("lrn").arms[:2]})
    recipe = PLAN.recipe.model_copy(update={"smallest_effect": 7.5})
    study = PLAN.study.model_copy(update={"compare": "all_pairs"})
    write_plan(tmp_path, replace(PLAN, study=study, recipe=recipe), ["ablate"])
    assert "another question (smallest effect 7.5; compare all_pairs)" in replaced_question(tmp_path, PLAN)
    write_plan(tmp_path, PLAN, ["ablate"])
    ratio = replace(
        PLAN, study=PLAN.study.model_copy(update={"statistic": "ratio", "compare": (("no_lrn", "as_run"),)})
    )
    reasons = "(statistic difference; compare baseline)"
    assert f"another question {reasons}" in replaced_question(tmp_path, ratio)
    assert "was of another question (with as_run)" in replaced_question(tmp_path, make_plan(two, 4, epochs=2))


def test_a_plan_of_an_earlier_version_keeps_its_fields_when_a_look_is_added(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAN, ["ablate"])
    old = {name: value for name, value in content_of(tmp_path).items() if name not in ("null", "retune", "looks")}
    rows = [{name: row[name] for name in ("arm", "seed", "phase", "key")} for row in old["trials"]]  # type: ignore[attr-defined]
    old |= {"trials": rows, "written_by": "an earlier version"}
    (tmp_path / "plan.json").write_text(json.dumps(old))
    plan, plan_file = plan_on_record(tmp_path)
    assert plan == PLAN
    assert (plan_file.null, plan_file.retune, plan_file.trials[0].views) == (False, None, 1)
    add_look(tmp_path, plan_file, 4)
    assert (tmp_path / "plan.json").read_text() == json.dumps({**old, "looks": [4]}, indent=1, sort_keys=True)


def test_asking_the_same_in_other_words_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAN, ["ablate"])
    before = (tmp_path / "plan.json").read_bytes()
    assert write_plan(tmp_path, PLAN, ["ablate", "--seeds", "4"]).command == ("ablate",)
    assert (tmp_path / "plan.json").read_bytes() == before


def test_going_on_keeps_the_command_that_asked_and_another_question_brings_its_own(tmp_path: Path) -> None:
    """Of a re-tuning, the best values' trials are known only once it has ended: it is the same question still."""
    write_plan(tmp_path, PLAN, ["ablate", "--seeds", "4"])
    further = tuple(replace(trial, arm=f"{trial.arm}-tuning", phase="tuning") for trial in PLAN.trials[:2])
    known = replace(PLAN, further=further)
    assert write_plan(tmp_path, known, ["ablate", "--verbose"]).command == ("ablate", "--seeds", "4")
    assert [row.phase for row in plan_on_record(tmp_path)[1].trials] == ["arm"] * 12 + ["tuning"] * 2
    add_look(tmp_path, plan_on_record(tmp_path)[1], 4)
    assert write_plan(tmp_path, known, ["ablate", "--json"]).command == ("ablate", "--seeds", "4")
    more = make_plan(load_study("lrn"), 6, epochs=2)
    assert write_plan(tmp_path, more, ["ablate", "--seeds", "6"]).command == ("ablate", "--seeds", "6")
    assert content_of(tmp_path)["command"] == ["ablate", "--seeds", "6"]


def test_what_was_read_is_typed_and_never_changes(tmp_path: Path) -> None:
    plan_file = write_plan(tmp_path, PLAN, ["ablate"])
    assert (plan_file.study_definition, plan_file.recipe, plan_file.base) == (PLAN.study, PLAN.recipe, PLAN.base)
    assert plan_file.summary == PLAN.summary
    assert plan_file.base is plan_file.base, "validated once"
    with pytest.raises(ValidationError, match="frozen"):
        plan_file.alpha = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    "damage", [{"alpha": "0.05"}, {"baseline": "nobody"}, {"planned_seeds": 0}, {"arms": ["baseline"]}]
)
def test_a_damaged_plan_is_none(tmp_path: Path, damage: dict[str, object]) -> None:
    write_plan(tmp_path, PLAN, ["ablate"])
    assert isinstance(read_plan(tmp_path), PlanFile)
    (tmp_path / "plan.json").write_text(json.dumps({**content_of(tmp_path), **damage}))
    assert read_plan(tmp_path) is None
