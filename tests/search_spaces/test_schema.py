"""The published schema accepts every study of the package, and refuses what the models refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from typing import Any

import jsonschema
import pytest
import yaml

from search_spaces.__main__ import study_schema
from search_spaces.study import study_names


def content(name: str) -> Any:
    loaded = yaml.safe_load((resources.files("search_spaces") / "studies" / f"{name}.yaml").read_text())
    # PyYAML 把 1e-6 读成文字；研究文件按 YAML 1.2 读
    text = json.dumps(loaded)
    for number in ("1e-6", "1e-2", "1e-1"):
        text = text.replace(f'"{number}"', str(float(number)))
    return json.loads(text)


@pytest.mark.parametrize("name", study_names())
def test_every_study_of_the_package_fits_the_schema(name: str) -> None:
    jsonschema.validate(content(name), study_schema(), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda study: study.pop("question"), "'question' is a required property"),
        (lambda study: study.update(nothing=1), "nothing"),
        (lambda study: study["recipes"]["digits"].pop("margin"), "'margin' is a required property"),
        (lambda study: study["recipes"]["digits"].pop("smallest_effect"), "'smallest_effect' is a required property"),
        (lambda study: study["recipes"]["digits"].update(seeds=0), "0 is less than the minimum"),
        (lambda study: study["recipes"].update(mine={"margin": 1, "smallest_effect": 1}), "is a required property"),
        (lambda study: study["arms"][1].update(remove="lrn1"), "is not of type 'array'"),
    ],
)
def test_mistakes_do_not_fit(change: Any, complaint: str) -> None:
    study = content("lrn")
    change(study)
    errors = [error.message for error in jsonschema.Draft202012Validator(study_schema()).iter_errors(study)]
    assert any(complaint in error for error in errors), errors


def test_the_command_prints_it() -> None:
    done = subprocess.run([sys.executable, "-m", "search_spaces", "schema"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == study_schema()
