"""The figures say what the tables say, and are not drawn where they could not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

from orchestrator.reporting.figures.curves import _colour, curves_figure
from orchestrator.reporting.figures.seeds import seeds_figure
from orchestrator.reporting.figures.style import INK
from orchestrator.reporting.figures.waterfall import waterfall_figure
from tests.made_designs import make_judged, make_study
from tests.made_reports import make_answer, make_details

RUNGS = ("baseline", "1-norm-without", "2-dropout-none", "3-momentum-0_5")
FALLING = {name: [20 + 9 * place + 3 * (seed % 3) for seed in range(8)] for place, name in enumerate(RUNGS)}


@pytest.mark.parametrize(
    ("compare", "drawn"),
    [
        ("", True),
        ("compare: previous", True),
        ("compare: baseline", False),
        ("compare: all_pairs", False),
        ("compare: [[3-momentum-0_5, baseline], [2-dropout-none, 1-norm-without]]", False),
        ("compare: [[1-norm-without, baseline], [2-dropout-none, baseline], [3-momentum-0_5, baseline]]", False),
    ],
)
def test_a_ladder_is_a_waterfall_where_each_rung_is_compared_with_the_one_before(compare: str, drawn: bool) -> None:
    picture = waterfall_figure(make_judged(make_study("cumulative", compare), FALLING))
    assert (picture is not None) == drawn


def test_a_step_is_drawn_over_its_own_seeds_also_where_its_arms_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [52, 47, 55, 45, 50, 40, 47, 41, 44, 49, 40, 46]
    wrong: Mapping[str, Sequence[int]] = {
        "baseline": [20, 21, 19, 20] * 3,
        "1-norm-without": [50, 52, 50, 50, 44, 46, 45, 43, 46, 44, 45, 44],
        "2-dropout-none": before,
        "3-momentum-0_5": [value + (30, 31, 29, 30)[seed % 4] for seed, value in enumerate(before)],
    }
    answer = make_judged(make_study("cumulative"), wrong, max_seeds=12)
    step, means = answer.contrasts[0], [arm.mean or 0.0 for arm in answer.arms]
    assert step.n == 4 < answer.arms[1].n, "the step has closed, its arm goes on"
    assert step.interval is not None
    assert not step.interval[0] <= means[1] - means[0] <= step.interval[1]
    drawn: list[ErrorbarContainer] = []
    original = Axes.errorbar
    monkeypatch.setattr(Axes, "errorbar", lambda *args, **more: drawn.append(original(*args, **more)) or drawn[-1])
    assert waterfall_figure(answer) is not None
    assert len(drawn) == 3
    for line, start, one in zip(drawn, means, answer.contrasts, strict=False):
        ((low, _), (high, _)) = line.lines[2][0].get_segments()[0]
        assert one.difference is not None
        assert one.interval is not None
        assert (low - start, high - start) == pytest.approx(one.interval)
        assert line.lines[0].get_xdata()[0] - start == pytest.approx(one.difference)


def test_the_curves_of_cells_that_are_not_judged_by_themselves_differ_in_colour() -> None:
    study = make_study(
        "factorial", factors="\n  norm: {with: {}, without: {remove: [lrn1]}}\n  training.momentum: [0.9, 0.5]\n"
    )
    answer = make_judged(study, {arm.name: [20 + n, 22, 21, 20] for n, arm in enumerate(study.arms)})
    colours = [_colour(arm, place) for place, arm in enumerate(answer.arms)]
    assert len(set(colours)) == 4
    assert colours[0] == INK
    picture = curves_figure(answer, make_details(answer).curves)
    assert picture is not None
    assert all(colour.encode() in picture.svg for colour in colours)


@pytest.mark.filterwarnings("error")
def test_letters_that_the_font_lacks_neither_warn_nor_cost_the_layout_for_a_phone() -> None:
    answer = make_answer(1)
    arms = tuple(
        arm.model_copy(update={"name": "去掉归一化" if not arm.is_baseline else arm.name}) for arm in answer.arms
    )
    picture = seeds_figure(answer.model_copy(update={"arms": arms}))
    assert picture is not None
    assert "去掉归一化".encode() in picture.narrow
