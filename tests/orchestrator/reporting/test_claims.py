"""The page of all claims: points and ratios on an axis each, the paper's number wherever there is one."""

from __future__ import annotations

import math
from pathlib import Path

from orchestrator.judging.answer import Answer
from orchestrator.reporting.claims import PAPER, summary_table, without_study_table, write_claims
from orchestrator.reporting.figures.claims import claims_figure
from tests.made_reports import make_answer


def as_ratios(answer: Answer) -> Answer:
    arms = [
        arm.model_copy(
            update={
                "scale": "log_ratio",
                "difference": math.log(2.0),
                "interval": (math.log(1.5), math.log(3.0)),
                "interval_open": (False, True),
                "claimed_points": None,
                "claimed_ratio": 6.0,
            }
        )
        for arm in answer.arms
    ]
    return answer.model_copy(update={"study": "ratios", "statistic": "time_to_threshold", "arms": tuple(arms)})


def test_the_page_names_the_paper_only_where_its_studies_are_and_others_stand_apart(tmp_path: Path) -> None:
    of_paper = make_answer(arms=2)
    own = make_answer(arms=1).model_copy(update={"study": "my_question"})
    write_claims(tmp_path / "both", [own, of_paper], {"digits": {"towers": "too small"}})
    text = (tmp_path / "both" / "report.md").read_text()
    papers, others = text.split("## digits: other studies, not of the paper")
    assert PAPER.split()[0] in (tmp_path / "both" / "report.html").read_text()
    assert ("my\\_question" in papers, "my\\_question" in others) == (False, True)
    assert ("| lrn |" in papers, "| lrn |" in others) == (True, False)
    assert ("| paper |" in papers, "| claimed |" in others) == (True, True)
    assert "towers is not asked here" in papers
    numbers, rows = "## Numbers of the paper without a study", without_study_table().rows
    assert text.split(numbers)[1].count("\n| ") == 1 + len(rows)
    assert (tmp_path / "both" / "report.html").read_text().count("pre-trained on the whole ImageNet release") == 1
    assert all(all(cell for cell in row) for row in rows)
    write_claims(tmp_path / "own", [own], {})
    for name in ("report.md", "report.html"):
        alone = (tmp_path / "own" / name).read_text()
        assert PAPER not in alone
        assert "paper's" not in alone
        assert "All studies on digits" in alone
        assert numbers not in alone
    asks = make_answer(arms=1).model_copy(update={"claim": "", "study": "ingredients"})
    write_claims(tmp_path / "asks", [asks], {})
    # 只发问的研究不是论文的主张，哪怕随包而来
    assert PAPER not in (tmp_path / "asks" / "report.html").read_text()


def test_the_terminal_names_the_data_set_only_where_there_are_several() -> None:
    answer = make_answer(arms=1)
    few = answer.model_copy(update={"dataset": "few"})
    alone, both = summary_table([answer]), summary_table([answer, few])
    assert [str(column.header) for column in both.columns] == [
        "data set",
        *(str(column.header) for column in alone.columns),
    ]
    assert [str(cell) for cell in both.columns[0].cells] == ["digits"] * len(answer.judged) + ["few"] * len(few.judged)


def test_points_and_ratios_have_an_axis_each() -> None:
    points, ratios = make_answer(arms=2), as_ratios(make_answer(arms=1))
    both = claims_figure([points, ratios], "digits")
    assert both is not None
    svg = both.svg.decode()
    assert "percentage points of its own metric" in svg
    assert "ratio to the study's baseline" in svg
    assert ">×6<" in svg
    assert "ratios, " in both.alt
    alone = claims_figure([points], "digits")
    assert alone is not None
    assert "ratio to the study's baseline" not in alone.svg.decode()
    assert claims_figure([make_answer(finished=False)], "digits") is None
