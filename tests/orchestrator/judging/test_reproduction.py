"""A published value: the interval of the mean over seeds is held against it and its margin, as scipy computes both."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from orchestrator.errors import LabError
from orchestrator.judging.answer import NOT_JUDGED, Answer
from orchestrator.judging.outlook import resolution_outlook
from orchestrator.planning.plan_file import add_look, read_plan, replaced_question, write_plan
from orchestrator.planning.unfolding import plan_study
from orchestrator.reporting.figures.forest import differences_figure
from orchestrator.reporting.terminal import arm_sentences, print_answer
from orchestrator.reporting.text_tables import contrast_table
from orchestrator.request import Question, Store, SweepRequest
from orchestrator.statistics.verdict import ArmEvidence, judge
from search_spaces.errors import StudyError
from search_spaces.study import Study, load_study
from search_spaces.trial import base_config, unfold
from search_spaces.yaml_file import parse_model
from tests.made_designs import IMAGES, make_judged
from tests.made_plans import make_plan

CLAIM = "{statement: s, source: s, direction: higher}"
ARM = "{{name: {0}, title: net {0}, published: {{value: {1}, source: table 1}}{2}}}"


def study_of(*values: float, more: str = "", of_arm: str = "") -> Study:
    arms = ", ".join(ARM.format(name, value, of_arm) for name, value in zip("abc", values, strict=False))
    text = (
        f"name: again\nkind: reproduction\nquestion: Is it so?\nsource: nowhere\narms: [{arms}]\n{more}\n"
        "recipes: {digits: {margin: 0.5, seeds: 3}}\n"
    )
    return parse_model(text, Study, "again.yaml")


def judged(errors: dict[str, Sequence[float]], *values: float) -> Answer:
    wrong = {arm: [round(IMAGES * error / 100) for error in of_arm] for arm, of_arm in errors.items()}
    return make_judged(study_of(*values), wrong)


@pytest.mark.parametrize(
    ("errors", "word"),
    [
        ((18.0, 18.1, 18.2, 18.1), "reproduces"),
        ((19.0, 19.1, 19.2, 19.1), "does not reproduce"),
        ((16.9, 17.1, 17.0, 17.0), "does not reproduce"),
        ((18.4, 18.6, 18.5, 18.5), "inconclusive"),
        ((17.0, 18.0, 19.0, 18.5), "inconclusive"),
        ((18.5, 18.5, 18.5, 18.5), "the same difference in 4 seeds"),
    ],
)
def test_the_word_is_that_of_scipys_interval_of_the_mean(errors: Sequence[float], word: str) -> None:
    answer = judged({"a": errors}, 18.0)
    (one,) = answer.contrasts
    assert (one.word, one.n, answer.arms[0].word, answer.arms[0].is_baseline) == (word, 4, NOT_JUDGED, False)
    if one.interval is None:
        return
    # 第一次看只用五分之四的水平：其余留给追加
    level = 0.05 * answer.level_share
    low, high = stats.t.interval(1 - level, 3, np.mean(errors), stats.sem(errors))
    assert one.interval == pytest.approx((low - 18.0, high - 18.0))
    assert one.p == pytest.approx(stats.ttest_1samp(errors, 18.0).pvalue)
    assert one.interval_level == pytest.approx(100 * (1 - level))
    inside, outside = low > 17.5 and high < 18.5, high < 17.5 or low > 18.5
    assert word == ("reproduces" if inside else "does not reproduce" if outside else "inconclusive")
    assert (one.seeds_needed, one.sign_flip_p, one.sign_flip_floor) == (None, None, None)


def test_arms_are_one_family_and_the_pages_say_what_was_held_against_what() -> None:
    answer = judged({"a": (18.0, 18.1, 18.2, 18.1), "b": (15.0, 15.2, 15.1, 15.3)}, 18.0, 13.0)
    assert [one.word for one in answer.contrasts] == ["reproduces", "does not reproduce"]
    assert answer.judged == answer.contrasts
    first, second = arm_sentences(answer)
    said = "a-vs-published (net a): top-1 test error is 18.10 % on average, which is 0.10 points higher than the"
    low, high = (18.0 + end for end in answer.contrasts[0].interval or ())
    assert first.startswith(f"{said} published 18.00 %, with ")
    assert f" confidence between {low:.2f} % and {high:.2f} %: " in first
    assert first.endswith(": reproduced, all of that is inside ±0.5 points of it.")
    assert second.endswith(": not reproduced, none of that is inside ±0.5 points of it.")
    table = contrast_table(answer)
    place = table.headings.index("published")
    assert [row[place] for row in table.rows] == ["18.00", "13.00"]
    # 词只看区间：不提 p、翻转符号和要多少种子
    assert not {"adjusted p", "sign-flip p (floor)", "seeds needed"} & set(table.headings)
    assert all(len(row) == len(table.headings) for row in table.rows)
    output = StringIO()
    print_answer(answer, Console(file=output, width=120))
    assert "flip" not in output.getvalue()
    assert not [note for note in answer.notes if "flip" in note]
    assert any("a 18.00 % (table 1); b 13.00 % (table 1)" in note for note in answer.notes)
    assert any("Holm over 2 published values at 0.05" in note for note in answer.notes)
    drawn = differences_figure(answer)
    assert b"published 18.00 %, n = 4" in drawn.svg
    assert b"around what is published" in drawn.svg


def test_a_seed_that_diverged_leaves_its_arm_without_a_word() -> None:
    answer = make_judged(study_of(18.0, 18.0), {"a": [180, 181, 182], "b": [180, "diverged", 181]})
    assert [one.word for one in answer.contrasts] == ["reproduces", "diverged on 1 of 3"]


@pytest.mark.parametrize(
    ("truths", "false"),
    [
        ((0.0, 0.0, 0.0), "does not reproduce"),
        ((0.5, 0.5, 0.5), "does not reproduce"),
        ((0.5, 0.5, 0.5), "reproduces"),
        # 别的 arm 真的不同，它们让出的水平不能多到出错
        ((0.5, 3.0, 3.0), "does not reproduce"),
        ((0.5, 0.0, 0.0), "reproduces"),
    ],
)
def test_false_words_of_a_family_stay_within_the_level(truths: tuple[float, ...], false: str) -> None:
    """Arms that differ so from what is published; at the very margin 0.5 either word is taken for a false one."""
    generator, studies = np.random.default_rng(5), 2000
    concerned = [name for name, truth in zip("abc", truths, strict=True) if truth == 0.5 or not any(truths)]
    wrong = 0
    for values in generator.normal(truths, 0.3, (studies, 5, 3)):
        arms = [ArmEvidence(name, tuple(v), 5, is_published=True) for name, v in zip("abc", values.T, strict=True)]
        verdicts = judge(arms, 0.5, 0.05)
        wrong += any(verdicts[name].word == false for name in concerned)
    assert wrong / studies <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)


def test_the_studys_networks_are_trained_as_their_sources_trained_them() -> None:
    from alexnet_core.configuration.named_networks import network, training_recipe
    from tests.search_spaces.test_trial import SUMMARY

    study = load_study("published")
    base = base_config(study, "cifar10", summary=SUMMARY, data_root=None, cache=None)
    trials = {trial.arm: trial for trial in unfold(study, base, [0])}
    for name, size, views in (("cifar-18pct", 32, 1), ("cifar-13pct", 24, 10), ("cifar-11pct", 24, 10)):
        config = trials[name].config
        assert config.network == network(name)  # type: ignore[union-attr]
        assert config.training == training_recipe(name)  # type: ignore[union-attr]
        assert (config.network.input_size, config.data.holds_out, trials[name].views) == (size, False, views)  # type: ignore[union-attr]
        assert config.data.train_images is None  # type: ignore[union-attr]


def test_looks_at_a_published_value_are_kept_and_spend_the_level(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "again"
    folder.mkdir(parents=True)
    study = study_of(18.0)
    written = write_plan(folder, make_plan(study, 3), ["ablate"])
    add_look(folder, written, 3)
    again = read_plan(folder)
    assert again is not None
    assert again.study_definition == study
    assert again.question.contrasts == ((((again.trials[0].key, 1), 1.0),),)
    assert write_plan(folder, make_plan(study, 6), ["ablate"]).looks == (3,)
    (folder / "answer.json").write_text("{}")
    compared = study.model_copy(update={"kind": None})
    assert "kind reproduction" in replaced_question(folder, make_plan(compared, 3))


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ({"seeds": "auto", "max_seeds": 9}, "cannot be asked with --seeds auto: an interval is held against a margin"),
        ({"null": True}, "--null goes with arms that are compared with each other; study again is a reproduction"),
        ({"retune": "learning_rate"}, "--retune goes with arms"),
    ],
)
def test_what_compares_arms_is_refused(tmp_path: Path, question: dict[str, object], reason: str) -> None:
    asked = Question(study="again", dataset="digits", **question)  # type: ignore[arg-type]
    with pytest.raises(LabError, match=reason):
        plan_study(study_of(18.0), asked, SweepRequest(), Store(tmp_path))


def test_a_named_network_is_not_changed_and_nothing_is_chosen_without_a_validation_error(tmp_path: Path) -> None:
    named = study_of(18.0, of_arm=", network: alexnet-mini")
    for changed in ({"epochs": 3}, {"network": "alexnet-mini"}, {"overrides": {"training.momentum": 0.5}}):
        with pytest.raises(LabError, match="arm a of study again is a named network trained as its source trained it"):
            plan_study(named, Question(study="again", dataset="digits", **changed), SweepRequest(), Store(tmp_path))  # type: ignore[arg-type]
    whole = load_study("lrn")
    recipe = whole.recipes["digits"]
    data = recipe.common.data.model_copy(update={"holds_out": False})
    whole = whole.model_copy(update={"recipes": {"digits": recipe.model_copy(update={"data": data})}})
    for asked in (SweepRequest(points=2), SweepRequest()):
        retune = None if asked.points else "learning_rate"
        with pytest.raises(LabError, match=r"needs a validation error, and this recipe holds no image out"):
            plan_study(whole, Question(study="lrn", dataset="digits", retune=retune), asked, Store(tmp_path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kind: reproduction\narms: [{name: a, title: a}]", "arms.0.published: must say what is published of the arm"),
        (
            "kind: reproduction\nbaseline: b\narms: [" + ARM.format("a", 1, "") + "]",
            "baseline: a reproduction compares",
        ),
        ("kind: reproduction\ncompare: previous\narms: [" + ARM.format("a", 1, "") + "]", "compare: goes with arms"),
        ("baseline: a\narms: [{name: a, title: a}, " + ARM.format("b", 1, "") + "]", "is for studies of kind: reprod"),
        ("baseline: a\narms: [{name: a, title: a}]", "arms: must have at least 2 entries, not 1"),
        ("kind: reproduction\narms: [" + ARM.format("a", 1, ", network: no") + "]", "there is no network 'no'"),
        ("kind: reproduction\narms: []", "again.yaml:5:7: arms: "),
        ("kind: reproduction\narms: x", "again.yaml:5:7: arms: "),
        ("kind: reproduction\n", "arms: this field is missing"),
        (f"kind: reproduction\nclaim: {CLAIM}\narms: [" + ARM.format("a", 1, "") + "]", "claim: goes with arms"),
        ("kind: reproduction\narms: [" + ARM.format("a", 1, f", claim: {CLAIM}") + "]", "arms.0.claim: goes with"),
        ("kind: sometimes\nbaseline: a\narms: [{name: a, title: a}, {name: b, title: b}]", "kind: must be"),
    ],
)
def test_a_wrong_reproduction_is_one_line_at_its_place(text: str, reason: str) -> None:
    whole = f"name: again\nquestion: q\nsource: s\n{text}\nrecipes: {{digits: {{margin: 1, smallest_effect: 1}}}}\n"
    with pytest.raises(StudyError) as raised:
        parse_model(whole, Study, "again.yaml")
    assert reason in str(raised.value)
    assert "baseline: must" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_any_margin_does_and_a_missing_one_is_one_line() -> None:
    text = f"name: again\nkind: reproduction\nquestion: q\nsource: s\narms: [{ARM.format('a', 18, '')}]\n"
    assert parse_model(f"{text}recipes: {{digits: {{margin: 5.0}}}}\n", Study, "a.yaml").recipes["digits"].margin == 5.0
    with pytest.raises(StudyError, match=r"^a.yaml:6:19: recipes.digits.margin: this field is missing$"):
        parse_model(f"{text}recipes: {{digits: {{seeds: 3}}}}\n", Study, "a.yaml")


def test_it_takes_three_seeds_and_no_sign_flips_are_spoken_of(tmp_path: Path) -> None:
    study = study_of(18.0, 17.0)
    two, three = (resolution_outlook(make_plan(study, seeds), tmp_path) for seeds in (2, 3))
    assert two == "2 seeds cannot reach a verdict: it takes 3 (--seeds 3)"
    assert three == "3 seeds can reach a verdict"
