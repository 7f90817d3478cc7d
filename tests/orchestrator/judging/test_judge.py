"""The answer: what enters, what is named, and how it is shown."""

from __future__ import annotations

import re
import subprocess
import sys
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest
from PIL import Image
from rich.console import Console

from orchestrator.judging import numbers
from orchestrator.judging.answer import Answer
from orchestrator.judging.judge import answer
from orchestrator.judging.outlook import verdict_outlook
from orchestrator.reporting.terminal import WORD_STYLES, arm_sentences, print_answer
from orchestrator.tables.rows import EPOCH_COLUMNS, MEMBER_COLUMNS, TRIAL_COLUMNS
from search_spaces.study import Study, load_study
from tests.made_plans import make_plan_file
from tests.made_reports import markdown, write

STUDY = load_study("lrn")
RECIPE = STUDY.recipes["digits"]
ARMS = [arm.name for arm in STUDY.arms]
NO_SWEEP = pl.DataFrame(schema=MEMBER_COLUMNS)
NO_EPOCHS = pl.DataFrame(schema=EPOCH_COLUMNS)


def plan(seeds: int, looks: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "dataset": "digits",
        "alpha": 0.05,
        "planned_seeds": seeds,
        "looks": list(looks),
        "trials": [
            {"arm": arm, "seed": seed, "phase": "arm", "key": f"{arm}-{seed}"} for seed in range(seeds) for arm in ARMS
        ],
    }


def trials(errors: dict[str, list[int | str | None]], split: str = "test") -> pl.DataFrame:
    """Trials with so many wrong images of 360; None is missing, a word is a state."""
    rows = []
    for arm, row in errors.items():
        for seed, wrong in enumerate(row):
            if wrong is None:
                continue
            state = wrong if isinstance(wrong, str) else "finished"
            cells: dict[str, Any] = {"key": f"{arm}-{seed}", "seed": seed, "state": state, "seconds": 3.0}
            if isinstance(wrong, int):
                cells["objective"] = wrong / 360
                for name in {"validation", split}:
                    cells |= {f"{name}_top1_errors": wrong, f"{name}_top1_error": wrong / 360, f"{name}_count": 360}
                    cells |= {f"{name}_top5_errors": 1, f"{name}_top5_error": 1 / 360}
            rows.append(cells)
    return pl.DataFrame(rows, schema={**TRIAL_COLUMNS, "network.classes": pl.Float64}).with_columns(
        pl.lit(10.0).alias("network.classes")
    )


GOOD: dict[str, list[int | str | None]] = {
    "baseline": [6, 7, 5, 8, 6, 7, 6, 5],
    "no_lrn": [13, 15, 11, 17, 12, 15, 14, 11],
    "as_run": [6, 8, 5, 7, 6, 7, 7, 5],
}


def judged(errors: dict[str, list[int | str | None]], **more: Any) -> Answer:
    split = more.pop("split", "test")
    seeds = len(errors["baseline"])
    return answer(
        STUDY, RECIPE, make_plan_file(plan(seeds, more.pop("looks", ()))), trials(errors, split), NO_SWEEP, NO_EPOCHS
    )


@pytest.mark.parametrize(
    ("column", "one", "other"),
    [("env_workers", "1", "2"), ("env_devices", "cpu,cpu", "cuda:0,cuda:1"), ("env_threads", "1", "2")],
)
def test_pairs_across_workers_or_devices_are_not_formed_and_are_named(column: str, one: str, other: str) -> None:
    errors = {arm: list(row) for arm, row in GOOD.items()}
    errors["no_lrn"][:2] = [0, 0]
    unlike = pl.col("key").is_in(["no_lrn-0", "no_lrn-1"])
    table = trials(errors).with_columns(pl.lit("cpu").alias("env_devices"))
    table = table.with_columns(pl.when(unlike).then(pl.lit(other)).otherwise(pl.lit(one)).alias(column))
    result = answer(STUDY, RECIPE, make_plan_file(plan(8)), table, NO_SWEEP, NO_EPOCHS)
    no_lrn = result.arms[1]
    alike = [(a - b) / 3.6 for a, b in zip(GOOD["no_lrn"][2:], GOOD["baseline"][2:], strict=True)]  # type: ignore[operator]
    assert no_lrn.differences == pytest.approx(dict(zip("234567", alike, strict=True)))
    assert no_lrn.difference == pytest.approx(sum(alike) / 6)
    assert result.unlike == ("no_lrn seed 0", "no_lrn seed 1")
    assert any(note.startswith("2 trials could not be paired") and "no_lrn" in note for note in result.notes)
    assert result.arms[2].differences.keys() == set("01234567")


def test_records_that_do_not_say_how_they_were_trained_are_paired() -> None:
    assert judged(GOOD).unlike == ()
    table = trials(GOOD).with_columns(
        pl.when(pl.col("key") == "no_lrn-0").then(None).otherwise(pl.lit("2")).alias("env_workers")
    )
    assert answer(STUDY, RECIPE, make_plan_file(plan(8)), table, NO_SWEEP, NO_EPOCHS).unlike == ()


def test_the_answer_says_words_numbers_and_the_papers_beside_them() -> None:
    result = judged(GOOD)
    baseline, no_lrn, as_run = result.arms
    assert baseline.is_baseline
    assert no_lrn.word == "supports"
    assert no_lrn.claimed_points == 1.4
    assert no_lrn.difference == pytest.approx(
        sum(a - b for a, b in zip(GOOD["no_lrn"], GOOD["baseline"], strict=True)) / 8 / 3.6
    )  # type: ignore[operator, misc]
    assert as_run.word == "equivalent"
    assert result.judged_split == "test"
    assert result.split_error == pytest.approx(100 * (6.25 / 360 * (1 - 6.25 / 360) / 360) ** 0.5, rel=1e-6)
    assert any("the top-5 error is shown, not read" in note for note in result.notes)
    assert result.seeds == 8


@pytest.mark.parametrize("had", [0, 3])
def test_an_arm_that_the_user_skips_does_not_empty_the_answer(had: int) -> None:
    errors = {**GOOD, "as_run": [*GOOD["as_run"][:had], *[None] * (8 - had)]}
    waiting = judged(errors)
    assert waiting.seeds == had
    content = make_plan_file({**plan(8), "skipped": ("as_run",)})
    result = answer(STUDY, RECIPE, content, trials(errors), NO_SWEEP, NO_EPOCHS)
    baseline, no_lrn, as_run = result.arms
    assert (result.seeds, baseline.n, no_lrn.n, as_run.n) == (8, 8, 8, had)
    assert (no_lrn.word, as_run.word) == ("supports", "no verdict: skipped")
    assert no_lrn.difference == pytest.approx(judged(GOOD).arms[1].difference)
    # 第一次看用五分之四：0.05 / 2 * 4 / 5
    assert no_lrn.interval_level == pytest.approx(98.0), "the level of a family of two"
    assert result.missing == tuple(f"as_run seed {seed}" for seed in range(had, 8))
    assert any(note.startswith("Skipped on request, so without a verdict: as_run.") for note in result.notes)
    assert any("Holm over 2 arms at 0.05" in note for note in result.notes)
    # 缺的后来由合并或别的研究补齐了：plan.json 里的跳过不再作数
    content = make_plan_file({**plan(8), "skipped": ("as_run", "not_compared_here")})
    whole = answer(STUDY, RECIPE, content, trials(GOOD), NO_SWEEP, NO_EPOCHS)
    assert whole == judged(GOOD)
    # 一个也没有跳过时，与从前逐字相同
    assert judged(GOOD).skipped == ()
    assert "skipped" not in judged(GOOD).model_dump_json()


def test_only_complete_seeds_up_to_the_first_gap_enter() -> None:
    errors = {**GOOD, "no_lrn": [*GOOD["no_lrn"][:5], None, *GOOD["no_lrn"][6:]]}
    result = judged(errors)
    assert result.seeds == 5
    assert result.missing == ("no_lrn seed 5",)
    assert all(arm.n == 5 for arm in result.arms)
    assert "Not complete, so not in this answer: seed 5 (no_lrn)." in result.notes
    assert "Complete, but after the first gap, so not in this answer: seed 6, 7." in result.notes
    assert any("no sign-flip p is below 0.062" in note and "from 7 seeds on" in note for note in result.notes)


def test_a_diverged_seed_takes_the_word_but_not_the_others() -> None:
    result = judged({**GOOD, "no_lrn": ["diverged", *GOOD["no_lrn"][1:]]})
    assert result.arms[1].word == "diverged on 1 of 8"
    assert result.arms[1].n == 7
    assert result.arms[2].word == judged(GOOD).arms[2].word
    assert "Outside the family of tests: no_lrn (diverged on 1 of 8)." in result.notes
    assert result.arms[2].interval_level == 96.0
    assert result.arms[1].interval is None
    assert result.arms[1].seeds_needed is None


def test_a_diverged_baseline_leaves_no_words_and_the_sets_own_error() -> None:
    result = judged({**GOOD, "baseline": ["diverged", *GOOD["baseline"][1:]]})
    assert [arm.word for arm in result.arms[1:]] == ["baseline diverged on 1 of 8"] * 2
    assert result.split_error is not None
    assert any("standard error" in note for note in result.notes)


def test_an_arm_with_the_baselines_configuration_is_the_same_trials() -> None:
    same = plan(8)
    for row in same["trials"]:
        if row["arm"] == "as_run":
            row["key"] = f"baseline-{row['seed']}"
    result = answer(STUDY, RECIPE, make_plan_file(same), trials(GOOD), NO_SWEEP, NO_EPOCHS)
    assert result.arms[2].word == "same trials"
    assert "Outside the family of tests: as_run (same trials)." in result.notes
    assert result.arms[1].interval_level == 96.0


def test_only_arm_trials_enter_a_verdict() -> None:
    planned = plan(8)
    tuned = [{**row, "phase": "sweep", "seed": 1000, "key": "no_lrn-0"} for row in planned["trials"]]
    planned["trials"] += tuned
    assert answer(STUDY, RECIPE, make_plan_file(planned), trials(GOOD), NO_SWEEP, NO_EPOCHS) == judged(GOOD)


def test_without_a_test_set_validation_is_judged_and_said() -> None:
    result = judged(GOOD, split="validation")
    assert result.judged_split == "validation"
    assert any("no test set" in note for note in result.notes)
    assert "on this validation set" in result.arms[1].sentence
    nothing = judged({arm: [None] * 8 for arm in GOOD})
    assert not any("no test set" in note for note in nothing.notes)


def test_a_study_extended_after_looking_is_judged_more_strictly_and_marked() -> None:
    first, result = judged(GOOD), judged(GOOD, looks=(1, 2, 3, 5, 8))
    assert first.level_share == 0.8
    assert result.looks == (3, 5)
    assert result.level_share < 0.2
    assert result.arms[1].interval_level > first.arms[1].interval_level == 98.0
    assert any("Extended after looking at 3, 5 seeds" in note for note in result.notes)
    assert any("20 % are kept for an extension" in note for note in first.notes)


def test_a_look_back_at_fewer_seeds_gives_the_word_it_gave_or_none() -> None:
    five = {arm: row[:5] for arm, row in GOOD.items()}
    assert judged(five, looks=(5, 8)) == judged(five)
    back = judged(five, looks=(8,))
    assert [arm.word for arm in back.arms[1:]] == ["no verdict: already looked at 8 seeds"] * 2
    assert any("Ask for --seeds 8 again" in note for note in back.notes)


def test_the_sweeps_points_are_shown_as_no_verdict() -> None:
    member = {"study": "lrn", "dataset": "digits", "arm": "sweep", "seed": 1000, "phase": "sweep"}
    members = [
        {**member, "key": f"baseline-{place}", "parameters": '{"network.lrn*.k": 1.5}', "position": place}
        for place in range(2)
    ]
    result = answer(
        STUDY, RECIPE, make_plan_file(plan(8)), trials(GOOD), pl.DataFrame(members, schema=MEMBER_COLUMNS), NO_EPOCHS
    )
    errors = [point.validation_error for point in result.sweep]
    assert errors == sorted(errors)  # type: ignore[type-var]
    assert "This is not a verdict" in markdown(result)
    assert any(note.startswith("Best of 2 sweep points") and "Not a verdict" in note for note in result.notes)


def test_markdown_escapes_every_name() -> None:
    wild = STUDY.arms[1].model_copy(update={"title": "<script>alert(1)</script> | `x` *y*"})
    study = Study.model_construct(**{**dict(STUDY), "arms": (STUDY.arms[0], wild, STUDY.arms[2])})
    text = markdown(answer(study, RECIPE, make_plan_file(plan(8)), trials(GOOD), NO_SWEEP, NO_EPOCHS))
    assert "<script>" not in text
    row = next(line for line in text.splitlines() if "script" in line)
    assert row.replace("\\|", "").count("|") == 10


WIDE: dict[str, list[int | str | None]] = {
    "baseline": [207, 220, 201, 212, 190, 206, 209, 215],
    "no_lrn": [260, 359, 240, 301, 255, 190, 340, 170],
    "as_run": ["diverged", 208, 204, 199, 195, 205, 210, 212],
}


def printed(result: Answer, width: int) -> str:
    """An answer on a terminal without colours."""
    output = StringIO()
    print_answer(result, Console(file=output, width=width, force_terminal=True, color_system=None))
    return output.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("errors", [GOOD, WIDE], ids=["small errors", "large errors"])
def test_the_table_is_whole_at_any_width(width: int, errors: dict[str, list[int | str | None]]) -> None:
    result = judged(errors)
    text = printed(result, width)
    assert all(arm in text for arm in ARMS)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    # 被切掉的表会丢字：每个词、每个数都要在
    shown = set(re.sub(r"[(),:]", " ", text).split())
    for arm in result.arms:
        assert set(arm.word.split()) <= shown
        if arm.interval is not None:
            assert f"{arm.interval[1]:+.2f}" in shown
    assert set(result.claim.split()) <= shown
    # 注只解释看得见的列
    explained = "Seeds needed:" in " ".join(text.split())
    needed = {numbers.needed(arm) for arm in result.arms if numbers.needed(arm)}
    assert bool(needed & shown) == explained


def test_every_arm_is_said_in_a_sentence_that_needs_no_statistics() -> None:
    result = judged(GOOD)
    said = dict(zip((arm.name for arm in result.arms[1:]), arm_sentences(result), strict=True))
    for arm in result.arms[1:]:
        assert said[arm.name].startswith(f"{arm.name} ({arm.title}): ")
        if arm.interval is None or arm.difference is None:
            continue
        direction = "higher" if arm.difference > 0 else "lower"
        assert f"{abs(arm.difference):.2f} points {direction} than the baseline's" in said[arm.name]
        assert f"between {arm.interval[0]:+.2f} and {arm.interval[1]:+.2f}" in said[arm.name]
        assert ("cannot tell" in said[arm.name]) == (arm.word == "inconclusive")
        # 水平从哪来：全族的错误率，分给几个 arm
        family = 100 * result.alpha * result.level_share
        alone = 100 - (arm.interval_level or 0)
        if f"({family:.3g} % over" in said[arm.name]:
            assert f"over {round(family / alone)} arms)" in said[arm.name]
            assert family / alone == pytest.approx(round(family / alone))
    assert numbers.needed(result.arms[1]) == "" or result.arms[1].word == "inconclusive"


def test_names_are_never_read_as_the_terminals_markup() -> None:
    wild = Study.model_construct(**{**dict(STUDY), "question": "[/bold] is [red]this[/red] markup?"})
    result = answer(wild, RECIPE, make_plan_file(plan(8)), trials(GOOD), NO_SWEEP, NO_EPOCHS)
    assert "[/bold] is [red]this[/red] markup?" in printed(result, 120)


def test_equivalent_and_inconclusive_never_share_a_colour() -> None:
    from orchestrator.reporting.figures.style import COLOURS, UNTESTED_COLOUR

    assert len({COLOURS["equivalent"], COLOURS["inconclusive"], COLOURS["supports"], UNTESTED_COLOUR}) == 4
    assert WORD_STYLES["equivalent"] != WORD_STYLES["inconclusive"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "errors",
    [
        GOOD,
        {arm: row[:1] for arm, row in GOOD.items()},
        {**GOOD, "no_lrn": ["diverged"] * 8},
        {arm: [None] * 8 for arm in GOOD},
    ],
    ids=["all", "one seed", "diverged", "nothing"],
)
def test_reports_and_figures_are_written_for_whatever_there_is(
    tmp_path: Path, errors: dict[str, list[int | str | None]]
) -> None:
    result = judged(errors)
    written = {str(path.relative_to(tmp_path)) for path in write(tmp_path, result)}
    assert {"answer.json", "provenance.json", "report.html", "report.md", "tables/verdicts.tex"} <= written
    assert {f"{name}.{kind}" for name in ("differences", "seeds") for kind in ("png", "svg")} <= {
        path.removeprefix("figures/") for path in written
    }
    assert Image.open(BytesIO((tmp_path / "figures/differences.png").read_bytes())).size[0] > 800
    for path in tmp_path.glob("figures/*.svg"):
        ElementTree.fromstring(path.read_text())
    assert Answer.model_validate_json((tmp_path / "answer.json").read_bytes()) == result
    assert write(tmp_path, result) == []
    (tmp_path / "figures/differences.svg").unlink()
    assert write(tmp_path, result)


@pytest.mark.slow
def test_an_unchanged_answer_loads_no_matplotlib(tmp_path: Path) -> None:
    write(tmp_path, judged(GOOD))
    program = (
        "import sys; from pathlib import Path; from orchestrator.judging.answer import Answer; "
        "from tests.made_reports import write; "
        "folder = Path(sys.argv[1]); "
        "answer = Answer.model_validate_json((folder / 'answer.json').read_bytes()); "
        "assert write(folder, answer) == []; "
        "print([name for name in ('matplotlib', 'ray', 'torch', 'scipy.stats') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.strip() == "[]"


def test_the_outlook_says_what_so_many_seeds_can_do() -> None:
    assert verdict_outlook(8, 2, 1.0, None) == "8 seeds can reach a verdict"
    assert "of 1 arm needs 6 (--seeds 6)" in verdict_outlook(5, 1, 1.0, None)
    outlook = verdict_outlook(8, 2, 2.0, 0.9)
    assert outlook.startswith("8 seeds can reach a verdict; can resolve 1.")
    assert outlook.endswith("points")
    assert "worth finding: 0.5" in verdict_outlook(8, 2, 0.5, 0.9)
    assert verdict_outlook(5, 2, 1.0, None) == (
        "5 seeds cannot reach a verdict that sign flips confirm: their exact test of 2 arms needs 7 (--seeds 7); "
        "a word would rest on the t test alone"
    )
    assert verdict_outlook(2, 2, 1.0, None) == (
        "2 seeds cannot reach a verdict: it takes 3, and 7 for sign flips of 2 arms to confirm it (--seeds 7)"
    )
