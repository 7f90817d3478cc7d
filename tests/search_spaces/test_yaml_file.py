"""Mistakes of indentation: the message names the line and how far to move it; moved so, the file is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from search_spaces.errors import StudyError
from search_spaces.study import load_study

STUDY = """name: my
question: Does it?
source: notes
claim: {statement: It does., source: notes}
baseline: base
arms:
  - name: base
    title: as it is
  - name: five
    title: five pixels
    set:
      network.conv2.kernel: 5
recipes:
  digits: {margin: 0.5, smallest_effect: 1}
"""


def message(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(StudyError) as caught:
        load_study(str(path))
    return str(caught.value).replace(f"{path}:", "")


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        ("    title: five", "   title: five"),
        ("  - name: five", "    - name: five"),
        ("  - name: five", " - name: five"),
        ("baseline: base", "  baseline: base"),
    ],
)
def test_a_line_is_told_where_to_stand_and_there_it_is_read(tmp_path: Path, line: str, moved: str) -> None:
    path = tmp_path / "my.yaml"
    said = message(path, STUDY.replace(line, moved))
    found = re.match(r"(\d+):\d+: this line is indented by (\d+) spaces?: indent it by (\d+)$", said)
    assert found is not None, said
    number, there, right = map(int, found.groups())
    lines = path.read_text().splitlines()
    assert lines[number - 1].startswith(moved)
    assert len(moved) - len(moved.lstrip()) == there
    lines[number - 1] = " " * right + lines[number - 1].lstrip()
    assert "\n".join(lines) + "\n" == STUDY
    path.write_text(STUDY)
    assert load_study(str(path)).name == "my"


@pytest.mark.parametrize(
    ("line", "wrong", "said"),
    [
        (
            "    title: five",
            "     title: five",
            "10:11: this line is indented by 5 spaces, line 9, which has a value already, by 4 spaces: give both "
            "the same",
        ),
        ("    title: five", "\ttitle: five", "10:1: a tab: lines are indented by spaces"),
        ("five pixels", "five: pixels", "10:16: a second colon: put the text behind the first one in quotes"),
        ("title: five", "title:five", "10:5: a space is missing after the colon"),
        (
            "      network.conv2",
            "    network.conv2",
            "11:9: arms.1.set: must be a mapping, but nothing is given; what belongs to it stands below it, indented "
            "by 6 spaces",
        ),
        (
            "  digits:",
            "digits:",
            "13:9: recipes: must be a mapping, but nothing is given; what belongs to it stands below it, indented by "
            "2 spaces",
        ),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(tmp_path: Path, line: str, wrong: str, said: str) -> None:
    assert message(tmp_path / "my.yaml", STUDY.replace(line, wrong)).splitlines()[0] == said
