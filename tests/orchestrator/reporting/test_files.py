"""The files of a report are safe to open with other programs."""

from __future__ import annotations

import csv
import io

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.reporting.files import csv_of


@given(text=st.text(alphabet="=+-@\t\r1a", max_size=6))
def test_no_text_of_a_csv_file_begins_like_a_formula(text: str) -> None:
    frame = pl.DataFrame({"message": [text], "difference": [-1.5]})
    (row,) = list(csv.reader(io.StringIO(csv_of(frame).decode(), newline="")))[1:]
    assert row[0] == (f"'{text}" if text[:1] in tuple("=+-@\t\r") else text)
    assert row[1] == "-1.5", "numbers stay numbers"
