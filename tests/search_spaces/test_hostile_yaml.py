"""A study file of somebody else is a study, or refused with what is wrong and where."""

from __future__ import annotations

import time
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet_core.data.dataset import DataSummary
from search_spaces.errors import StudyError
from search_spaces.study import load_study
from search_spaces.trial import base_config, unfold
from search_spaces.yaml_file import parse_scalar
from tests.hostile import changed_bytes, changed_json

TEXT = (resources.files("search_spaces") / "studies" / "lrn.yaml").read_text()
SUMMARY = DataSummary(digest="0" * 64, class_names=tuple("0123456789"), train=10, validation=5, test=5)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def try_study(path: Path) -> None:
    refused = "nothing"
    try:
        study = load_study(str(path))
        for dataset in study.recipes:
            base = base_config(study.on(dataset), dataset, summary=SUMMARY, data_root=None, cache=None)
            unfold(study.on(dataset), base, [0])
    except StudyError as error:
        refused = str(error)
    # 展开的别名不得灌满终端
    assert 0 < len(refused) < 20_000


@pytest.mark.slow
@given(st.data())
@FUZZ
def test_a_study_with_a_value_changed_is_valid_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "study.yaml"
    changed = data.draw(changed_json(yaml.safe_load(TEXT)))
    path.write_text(yaml.safe_dump(changed, allow_unicode=True))
    try_study(path)


@given(st.data())
@FUZZ
def test_a_study_with_bytes_changed_is_valid_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(data.draw(changed_bytes(TEXT.encode()) | st.binary(max_size=60)))
    try_study(path)


def test_a_study_file_that_expands_without_end_or_names_an_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    letters = "abcdefghijklmnopqrstuvwxyz"
    doubled = [f"{n}: &{n} [*{m}, *{m}]\n" for m, n in pairwise(letters)]
    bomb = "a: &a [x, x]\n" + "".join(doubled)
    for text in (bomb, "!!python/object/apply:os.system [touch fired]", "name: !!python/name:os.system", "a: &a [*a]"):
        path.write_text(text)
        try_study(path)
    assert not Path("fired").exists()


def test_aliases_that_multiply_are_refused_at_once_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "laugh.yaml"
    times = ", ".join(["*{0}"] * 10)
    levels = "".join(f"{n}: &{n} [{times.format(m)}]\n" for m, n in pairwise("abcdefghijkl"))
    path.write_text(f"a: &a [{', '.join('x' * 10)}]\n{levels}{TEXT}")
    started = time.process_time()
    with pytest.raises(StudyError, match=rf"^{path}:5:4: this has more than 20,000 values once its aliases are"):
        load_study(str(path))
    assert time.process_time() - started < 5
    with pytest.raises(StudyError, match=r"--set x:1:1: this has more"):
        parse_scalar(f"[&a [{'1, ' * 200}], {'*a, ' * 200}]", "--set x")


def test_a_few_aliases_are_written_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace("name: lrn", "name: mine", 1) + "not_asked: {a: &why no such images, b: *why}\n")
    assert load_study(str(path)).not_asked["b"] == "no such images"
