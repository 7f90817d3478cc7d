"""A factorial that is trained; the ladder and the arms left out one at a time of the same factors then have all."""

from __future__ import annotations

import json

import pytest

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
