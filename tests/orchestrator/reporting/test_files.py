"""The files of a report are safe to open with other programs."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.judging.answer import WORDING, Answer
from orchestrator.judging.notes import remarks
from orchestrator.judging.scales import scale_of
from orchestrator.reporting.figures.style import Picture
from orchestrator.reporting.files import csv_of, text_files
from orchestrator.reporting.page import held_together, left_out_on_paper
from orchestrator.reporting.text_tables import TextTable
from tests.made_designs import make_judged, make_study
from tests.made_reports import make_answer, make_material

ROOT = Path(__file__).parents[3]


@given(text=st.text(alphabet="=+-@\t\r1a", max_size=6))
def test_no_text_of_a_csv_file_begins_like_a_formula(text: str) -> None:
    frame = pl.DataFrame({"message": [text], "difference": [-1.5]})
    (row,) = list(csv.reader(io.StringIO(csv_of(frame).decode(), newline="")))[1:]
    assert row[0] == (f"'{text}" if text[:1] in tuple("=+-@\t\r") else text)
    assert row[1] == "-1.5", "numbers stay numbers"


@pytest.mark.parametrize(
    ("headings", "names", "dropped"),
    [
        (("arm", "level", "paper, top-5", *"abcdefg"), (), set()),
        (("arm", "level", "paper, top-5", *"abcdefgh"), (), {"paper, top-5"}),
        (("arm", "level", "paper, top-5", *"abcdefghij"), (), {"level", "paper, top-5", "j"}),
        (("trial", *"abcdefghij", "error", "state"), tuple("abcdefghij"), {"h", "i", "j"}),
        (("seed", "level", *"abcdefghi"), ("level", *"abcdefghi"), {"i"}),
    ],
)
def test_paper_drops_only_what_has_no_room(headings: Sequence[str], names: Sequence[str], dropped: set[str]) -> None:
    table = TextTable("made", "made", headings, [], names=names)
    assert {headings[place] for place in left_out_on_paper(table)} == dropped


def test_the_name_of_an_arm_is_not_taken_for_the_word_of_a_column() -> None:
    answer = make_answer(2)
    names = ("baseline", "level", "n")
    arms = tuple(arm.model_copy(update={"name": name}) for arm, name in zip(answer.arms, names, strict=True))
    page = text_files(make_material(answer.model_copy(update={"arms": arms})), ())["report.html"].decode()
    seeds = page[page.index("of every seed") :]
    heads = seeds[seeds.index("<thead>") : seeds.index("</thead>")]
    assert all(f">{name}</th>" in heads for name in ("level", "n"))
    assert "<abbr" not in heads
    assert "<abbr title=" in page


def test_a_page_keeps_percent_signs_and_intervals_on_one_line() -> None:
    told = "98 % (4 % over 2 arms): -0.24, +1.98, mean 1.57 ± 0.74, ratio (×1.96, ∞), arms 1, 2"
    shown = held_together(told)
    assert shown.replace("\N{NO-BREAK SPACE}", " ") == told
    assert shown.split(" ") == [
        *("98\N{NO-BREAK SPACE}%", "(4\N{NO-BREAK SPACE}%", "over", "2", "arms):"),
        *("-0.24,\N{NO-BREAK SPACE}+1.98,", "mean", "1.57\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.74,"),
        *("ratio", "(×1.96,\N{NO-BREAK SPACE}∞),", "arms", "1,", "2"),
    ]
    assert [scale_of("points", "%").effect(effect) for effect in (0.5, 1.0)] == ["0.5 points", "1 point"]


# 报告的措辞变了：WORDING 加一，再把新的哈希写到这里；旧的报告才不会被说成改过
WORDED = (6, "467b7edeecfe6377")


def with_limits_for_new_images(answer: Answer) -> Answer:
    """An answer as if it were on record which images were right, of some trials at least."""
    contrasts = tuple(
        one.model_copy(update={"beyond": (-5.0, 5.0), "beyond_level": 99.0, "holds_beyond": True})
        for one in answer.contrasts
    )
    told = answer.model_copy(
        update={"contrasts": contrasts, "unseen": 2, "damaged_images": ("0" * 20,), "other_images": ("a",)}
    )
    return told.model_copy(update={"notes": remarks(told)})


def test_a_change_of_the_words_of_reports_asks_for_a_new_number() -> None:
    study = make_study("factorial")
    cells = {arm.name: [20 + 3 * place + seed % 3 for seed in range(8)] for place, arm in enumerate(study.arms)}
    # 不画图，但说图的话都在
    drawn = ("waterfall", "differences", "cells", "seeds", "curves", "costs", "kernels")
    pictures = [Picture(name, name, name, b"") for name in drawn]
    content = hashlib.sha256()
    effects = make_judged(study, cells)
    for answer in (make_answer(), effects, with_limits_for_new_images(effects)):
        for text in text_files(make_material(answer), pictures).values():
            content.update(text)
    assert (WORDING, content.hexdigest()[:16]) == WORDED, "raise WORDING (judging/answer.py), and pin the new hash here"


BEGINS = "import logging; logging.basicConfig(level=logging.WARNING)"
REPORT = """
import orchestrator.reporting.figures
from matplotlib.figure import Figure
figure = Figure()
figure.text(0, 0, "a")
figure.savefig("a.svg")
"""
PREDICTIONS = """
import numpy as np
from alexnet_core.data.dataset import Split
from alexnet_core.trained.prediction_bars import Likeliest, predictions_picture
likeliest = Likeliest(np.array([0]), np.array([[1, 0]]), np.array([[0.75, 0.25]], np.float32))
split = Split(np.zeros((1, 8, 8, 3), np.uint8), np.array([1]))
predictions_picture(likeliest, split, ("cat", "dog")).save("a.png")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("program", "file"), [(REPORT, "a.svg"), (PREDICTIONS, "a.png")])
def test_where_there_is_no_home_figures_are_drawn_without_a_word_and_leave_only_themselves(
    tmp_path: Path, program: str, file: str
) -> None:
    temporary, work = tmp_path / "tmp", tmp_path / "work"
    temporary.mkdir()
    work.mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL"))},
        "HOME": "/proc/nowhere",
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", BEGINS + program], cwd=work, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
    assert not list(temporary.iterdir())
    assert [path.name for path in work.iterdir()] == [file]
