"""The page of all claims: points and ratios on an axis each, the paper's number wherever there is one."""

from __future__ import annotations

import math

from orchestrator.judging.answer import Answer
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
