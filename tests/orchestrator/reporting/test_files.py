"""The files of a report are safe to open with other programs."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.reporting.files import csv_of

ROOT = Path(__file__).parents[3]


@given(text=st.text(alphabet="=+-@\t\r1a", max_size=6))
def test_no_text_of_a_csv_file_begins_like_a_formula(text: str) -> None:
    frame = pl.DataFrame({"message": [text], "difference": [-1.5]})
    (row,) = list(csv.reader(io.StringIO(csv_of(frame).decode(), newline="")))[1:]
    assert row[0] == (f"'{text}" if text[:1] in tuple("=+-@\t\r") else text)
    assert row[1] == "-1.5", "numbers stay numbers"


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
