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


DRAWS = """
import logging
logging.basicConfig(level=logging.WARNING)
import orchestrator.reporting.figures
from matplotlib.figure import Figure
figure = Figure()
figure.text(0, 0, "a")
figure.savefig("a.svg")
"""


@pytest.mark.slow
def test_where_there_is_no_home_figures_are_drawn_without_a_word_and_leave_only_themselves(tmp_path: Path) -> None:
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
        [sys.executable, "-c", DRAWS], cwd=work, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
    assert not list(temporary.iterdir())
    assert [path.name for path in work.iterdir()] == ["a.svg"]
