"""A factorial that is trained; the ladder and the arms left out one at a time of the same factors then have all."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from tests.lab import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STUDY = """name: {name}
question: Which parts matter?
source: nowhere
design: {design}
factors:
  norm:
    with: {{}}
    without: {{title: without response norm, remove: [lrn1, lrn2]}}
  dropout:
    half: {{}}
    none: {{title: without dropout, set: {{network.dropout*.rate: 0.0}}}}
sweep:
  parameters:
    training.momentum: {{kind: float, low: 0.5, high: 0.9}}
recipes:
  digits: {{margin: 0.5, smallest_effect: 1.0, training: {{epochs: 1}}}}
"""
REPRODUCTION = """name: {name}
kind: reproduction
question: Is it ten percent?
source: nowhere
arms: [{{name: net, title: the recipe's, published: {{value: 10.0, source: made up}}}}]
recipes:
  digits: {{margin: 5.0, training: {{epochs: 1}}{data}}}
"""
WHOLE = ", data: {source: digits, image_size: 16, holds_out: false}"
DESIGNS = {"grid": "factorial", "ladder": "cumulative", "leave": "leave_one_out"}


def test_designs_share_their_trials_and_are_judged_by_their_contrasts(lab: Lab) -> None:
    for name, design in DESIGNS.items():
        (lab.home / f"{name}.yaml").write_text(STUDY.format(name=name, design=design))
    quick = ("--seeds", "3", "--no-dashboard", "--slots", "1")
    # 只扫描：一个点，没有 arm；真的训练在 running/test_study_run.py
    code, output, errors = lab.ablate("grid.yaml", *quick, "--sweep", "1", "--sweep-only", "--dry-run")
    assert code == 0, errors
    assert output.startswith("1 point wanted, 0 on record, 1 to train, no arm")
    # 起不起 Ray 与设计无关
    code, output, errors = lab.without_ray("grid.yaml", *quick)
    assert code == 0, errors
    assert output.startswith("12 trials wanted, 0 on record, 12 to train")
    grid = json.loads((lab.results / "studies" / "grid" / "answer.json").read_bytes())
    assert [contrast["name"] for contrast in grid["contrasts"]] == ["norm", "dropout", "norm:dropout"]
    assert {arm["n"] for arm in grid["arms"]} == {3}
    assert (lab.results / "studies" / "grid" / "figures" / "cells.svg").is_file()
    # 同样内容的 trial 是同一个：阶梯与逐个去掉都不必再训练
    for name, figures in {"ladder": {"waterfall.svg"}, "leave": set()}.items():
        code, output, errors = lab.ablate(f"{name}.yaml", *quick)
        assert code == 0, errors
        assert output.startswith("9 trials wanted, 9 on record, 0 to train")
        folder = lab.results / "studies" / name
        assert figures <= {path.name for path in (folder / "figures").iterdir()}
        answer = json.loads((folder / "answer.json").read_bytes())
        assert [contrast["name"] for contrast in answer.get("contrasts", [])] == (
            ["norm-without", "dropout-none"] if name == "ladder" else []
        )
    assert len(list((lab.results / "trials").iterdir())) == 12
    for name in DESIGNS:
        code, output, errors = lab.run(
            f"{name}.yaml", "--check", "--results", str(lab.results), module="orchestrator.report"
        )
        assert code == 0, output + errors
    reproduces(lab)


def reproduces(lab: Lab) -> None:
    """A published value, of trials on record and of trainings that hold nothing out; its report bears the check."""
    for name, data, title in (("again", "", "0 to train"), ("whole", WHOLE, "3 to train")):
        (lab.home / f"{name}.yaml").write_text(REPRODUCTION.format(name=name, data=data))
        code, output, errors = lab.ablate(f"{name}.yaml", "--seeds", "3", "--no-dashboard")
        assert code == 0, errors
        assert title in output.splitlines()[0]
        answer = json.loads((lab.results / "studies" / name / "answer.json").read_bytes())
        (one,) = answer["contrasts"]
        errors_of = [answer["arms"][0]["errors"][str(seed)] for seed in range(3)]
        low, high = stats.t.interval(one["interval_level"] / 100, 2, np.mean(errors_of), stats.sem(errors_of))
        assert one["interval"] == pytest.approx([low - 10.0, high - 10.0])
        assert one["word"] == ("does not reproduce" if low > 15.0 else "inconclusive")
        assert (one["published"]["value"], answer["arms"][0]["word"]) == (10.0, "not judged")
        code, output, errors = lab.run(name, "--check", "--results", str(lab.results), module="orchestrator.report")
        assert code == 0, output + errors
    code, _, errors = lab.ablate("whole.yaml", "--seeds", "3", "--sweep", "2")
    assert code == 2
    assert errors.startswith("error: --sweep goes with arms that are compared")
    code, _, errors = lab.run("--study", "whole", "--results", str(lab.results), module="orchestrator.best")
    assert code == 4
    assert "3 trials held no image out, and cannot be ranked by a validation error" in errors
