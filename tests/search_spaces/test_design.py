"""Designs: which arms factors make, that they are the same trials however they are written, and where a mistake is."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from alexnet_core.data.dataset import DataSummary
from search_spaces.__main__ import study_schema
from search_spaces.errors import StudyError
from search_spaces.study import Study
from search_spaces.trial import PlannedTrial, base_config, unfold
from search_spaces.yaml_file import parse_model, placed

TEXT = """name: parts
question: Which parts matter?
source: nowhere
design: factorial
factors:
  norm:
    with: {}
    without: {title: without response norm, remove: [lrn1, lrn2]}
  training.momentum: [0.9, 0.5]
  dropout:
    half: {set: {network.dropout*.rate: 0.5}}
    none: {set: {network.dropout*.rate: 0.0}, claim: {statement: higher, source: nowhere, direction: higher}}
recipes:
  digits: {margin: 0.5, smallest_effect: 1.0}
"""
DESIGNS = ("leave_one_out", "cumulative", "factorial")
SUMMARY = DataSummary(digest="0" * 64, class_names=("a", "b", "c"), train=10, validation=10, test=10)


def study(design: str, text: str = TEXT) -> Study:
    return parse_model(text.replace("factorial", design, 1), Study, "parts.yaml")


def trials(made: Study) -> dict[str, PlannedTrial]:
    base = base_config(made, "digits", summary=SUMMARY, data_root=None, cache=None)
    return {trial.arm: trial for trial in unfold(made.on("digits"), base, (0,))}


def test_leaving_one_out_changes_one_factor_at_a_time() -> None:
    arms = study("leave_one_out").arms
    assert [arm.name for arm in arms] == ["baseline", "norm-without", "momentum-0_5", "dropout-none"]
    assert [arm.title for arm in arms] == [
        "norm with, momentum 0.9, dropout half",
        "without response norm",
        "momentum 0.5",
        "dropout none",
    ]
    assert [arm.remove for arm in arms] == [(), ("lrn1", "lrn2"), (), ()]
    assert [arm.set["training.momentum"] for arm in arms] == [0.9, 0.9, 0.5, 0.9]
    # 只改一个因子，所以水平的论断就是这个 arm 的论断
    assert [arm.claim is not None for arm in arms] == [False, False, False, True]


def test_a_ladder_keeps_what_the_steps_before_have_changed() -> None:
    arms = study("cumulative").arms
    assert [arm.name for arm in arms] == ["baseline", "1-norm-without", "2-momentum-0_5", "3-dropout-none"]
    assert arms[3].title == "without response norm, momentum 0.5, dropout none"
    assert [(arm.set["training.momentum"], arm.remove) for arm in arms[1:3]] == [
        (m, ("lrn1", "lrn2")) for m in (0.9, 0.5)
    ]
    more = study("cumulative", TEXT.replace("[0.9, 0.5]", "[0.9, 0.5, 0.0]")).arms
    assert [arm.name for arm in more][2:4] == ["2-momentum-0_5", "3-momentum-0"]


def test_a_factorial_has_every_combination_once() -> None:
    made = study("factorial")
    levels = [tuple(arm.levels.values()) for arm in made.arms]
    assert levels == list(itertools.product(("with", "without"), ("0_9", "0_5"), ("half", "none")))
    assert made.arms[0].name == made.baseline == "baseline"
    assert made.arms[-1].name == "norm-without--momentum-0_5--dropout-none"
    assert len({trial.key for trial in trials(made).values()}) == 8


def test_trials_equal_by_content_are_shared_between_designs_and_with_arms_written_out() -> None:
    written = TEXT[: TEXT.index("design:")] + (
        "baseline: full\narms:\n  - {name: full, title: all of it}\n"
        "  - {name: plain, title: no norm, remove: [lrn1, lrn2]}\nrecipes:" + TEXT.split("recipes:")[1]
    )
    keys = {design: {name: trial.key for name, trial in trials(study(design)).items()} for design in DESIGNS}
    by_hand = {name: trial.key for name, trial in trials(parse_model(written, Study, "parts.yaml")).items()}
    one, ladder, whole = (keys[design] for design in DESIGNS)
    assert {by_hand["full"]} == {one["baseline"], ladder["baseline"], whole["baseline"]}
    assert {by_hand["plain"]} == {one["norm-without"], ladder["1-norm-without"], whole["norm-without"]}
    assert set(one.values()) < set(whole.values())
    assert set(ladder.values()) < set(whole.values())


@pytest.mark.parametrize("design", DESIGNS)
def test_a_design_read_back_from_its_plan_is_the_same(design: str) -> None:
    name = "3-dropout-none" if design == "cumulative" else "dropout-none"
    made = study(design, TEXT.replace("margin", f"edits: {{{name}: {{training.epochs: 3}}}}, margin")).on("digits")
    # plan.json 的键是排过序的，因子与水平的次序不能丢
    again = Study.model_validate(json.loads(json.dumps(made.model_dump(mode="json"), sort_keys=True)))
    assert again == made
    assert again.arm(name).set["training.epochs"] == 3
    assert made.factors is not None
    assert again.factors is not None
    assert [*again.factors] == [*made.factors]
    assert [[*levels] for levels in again.factors.values()] == [[*levels] for levels in made.factors.values()]


def test_arms_written_out_stand_beside_those_of_a_design() -> None:
    made = study("leave_one_out", TEXT.replace("recipes:", "baseline: full\narms: [{name: wide, title: x}]\nrecipes:"))
    assert [made.arms[0].name, made.arms[-1].name, made.baseline] == ["full", "wide", "full"]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[0.9, 0.5]", "[0.9]", "9:22: factors.training.momentum: must have at least 2 entries, not 1"),
        ("[0.9, 0.5]", "[0.9, 0.90]", "9:22: factors.training.momentum: has two values that would both be called 0_9"),
        ("training.momentum", "momentum", "9:13: factors.momentum: must be a field, such as network.lrn*.alpha"),
        ("remove: [lrn1", "remov: [lrn1", "8:45: factors.norm.without.remov: unknown field; did you mean remove?"),
        ("factorial", "all", "4:9: design: must be 'leave_one_out', 'cumulative' or 'factorial', not 'all'"),
        ("design: factorial\n", "", "4:1: factors: goes with design, which is missing"),
        ("[0.9, 0.5]", "[{name: [x]}, {name: b}]", "9:22: factors.training.momentum: has a name that is no text"),
        ("[0.9, 0.5]", "[{name: b}, {name: b}]", "9:22: factors.training.momentum: has b twice; give each a name"),
        ("[0.9, 0.5]", "[!!binary aGk=, 0.5]", "factors.training.momentum"),
        ("[0.9, 0.5]", "0.9", "9:22: factors.training.momentum: must be a mapping, not 0.9"),
        ("    without:", "    Without:", "8:5: factors.norm.Without: must be lower-case letters"),
        ("rate: 0.0}", "rate: 0.0, training.momentum: 0.1}", "factors.dropout.none.set.training.momentum: is set by"),
        ("direction: higher", "direction: up", "factors.dropout.none.claim.direction: must be 'higher' or 'lower'"),
        ("recipes:", "arms: [{name: norm-without, title: x}]\nrecipes:", "arms: their names must be unique"),
        ("recipes:", "arms: [{name: x, title: x, levels: {a: b}}]\nrecipes:", "arms.0.levels: is what a design gives"),
        ("[0.9, 0.5]", str(list(range(32))) + "\n  training.epochs: [1, 2, 3]", "factors: make 384 combinations"),
        ("  dropout:\n", f"  {'dropout' * 6}:\n", "an arm would be called"),
    ],
)
def test_a_mistake_in_factors_is_one_line_at_its_place(old: str, new: str, line: str) -> None:
    assert old in TEXT
    with pytest.raises(StudyError) as caught:
        parse_model(TEXT.replace(old, new, 1), Study, "parts.yaml")
    assert line in str(caught.value)
    assert str(caught.value).startswith("parts.yaml:")
    assert len(str(caught.value).splitlines()) <= 2


def test_a_cores_fields_are_its_own_and_it_has_no_layers_to_remove() -> None:
    factors = "factors:\n  optimizer: {sgd: {}, adam: {set: {optimizer.name: adam}}}\n  rate: [0.1, 0.2]\n"
    recipes = "recipes: {default: {margin: 1, smallest_effect: 1}}\n"
    text = f"core: mine\n{TEXT[: TEXT.index('factors:')]}{factors}{recipes}"
    arms = parse_model(text, Study, "parts.yaml").arms
    assert [arm.set for arm in arms][2:] == [{"optimizer.name": "adam", "rate": rate} for rate in (0.1, 0.2)]
    with pytest.raises(StudyError, match=r"parts.yaml:7:.*factors.optimizer.adam.remove: is for the layers of AlexNet"):
        parse_model(text.replace("adam: {", "adam: {remove: [conv1], "), Study, "parts.yaml")


def test_levels_without_a_design_and_factors_of_none_are_refused() -> None:
    text = TEXT[: TEXT.index("design:")] + "baseline: a\narms:\n  - {name: a, title: a, levels: {x: y}}\n"
    with pytest.raises(StudyError, match="levels is what a design gives an arm"):
        parse_model(text + "  - {name: b, title: b}\nrecipes:" + TEXT.split("recipes:")[1], Study, "parts.yaml")


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("[lrn1, lrn2]", "[lrn9]", "8:45"),
        ("network.dropout*.rate: 0.0", "network.dropout*.rate: 2.0", "12:18"),
        ("training.momentum: [0.9, 0.5]", "training.momentum: [0.9, 7.0]", "9:3"),
    ],
)
def test_what_the_network_lacks_is_said_at_the_level_it_comes_from(
    old: str, new: str, place: str, tmp_path: Path
) -> None:
    text = TEXT.replace(old, new, 1)
    path = tmp_path / "parts.yaml"
    path.write_text(text)
    with pytest.raises(StudyError) as caught:
        trials(study("factorial", text))
    assert str(placed(caught.value, path)).startswith(f"{path}:{place}: arm ")


def test_the_schema_accepts_designs_and_a_study_without_a_claim() -> None:
    content = yaml.safe_load(TEXT)
    validator = jsonschema.Draft202012Validator(study_schema())
    assert not list(validator.iter_errors(content))
    assert list(validator.iter_errors({**content, "factors": {"norm": {"with": {}}}}))
    del content["factors"]
    assert list(validator.iter_errors(content))
