"""All claims of the paper at once: `--study paper` asks every study over the same slots, each shared trial once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from orchestrator.extension import together
from orchestrator.findings import Answer
from orchestrator.plan import Plan
from orchestrator.records import TrialState, write_atomically
from orchestrator.reporting.claims import claims_table
from search_spaces.study import Arm, Claim, Recipe, Study

PAPER = "paper"
# 所有研究没有共同的 plan.json；这里记下它们各自的文件夹
STUDIES = "studies.json"


def combined_plan(plans: Sequence[Plan], recipe: Recipe) -> Plan:
    """Returns one plan that trains what all studies lack, seed by seed, each trial once.

    Args:
        plans: The studies' plans, on one data set.
        recipe: One of theirs, for what the display shows.
    """
    wanted: set[tuple[str, int]] = set()
    done: dict[str, TrialState] = {}
    arms: dict[str, Arm] = {}
    trials = []
    for seed in sorted({seed for plan in plans for seed in plan.seeds}):
        for plan in plans:
            done |= plan.done
            for trial in (trial for trial in plan.trials if trial.seed == seed):
                if (trial.key, trial.views) in wanted:
                    continue
                # 共享的 trial 挂在第一个想要它的研究名下
                name = name_together(plan.study.name, trial.arm)
                wanted.add((trial.key, trial.views))
                arms.setdefault(name, plan.study.arm(trial.arm).model_copy(update={"name": name}))
                trials.append(replace(trial, arm=name))
    question = f"What do {len(plans)} studies of the paper's claims say?"
    first = plans[0]
    study = Study.model_construct(
        name=PAPER,
        question=question,
        source="the paper",
        claim=Claim(statement="All claims of the paper.", source="Krizhevsky, Sutskever, Hinton 2012"),
        baseline=trials[0].arm,
        arms=tuple(arms.values()),
        recipes={first.dataset: recipe},
    )
    seeds = tuple(sorted({seed for plan in plans for seed in plan.seeds}))
    return replace(
        first,
        study=study,
        trials=tuple(trials),
        seeds=seeds,
        sweep_points=0,
        done=done,
        evaluated=frozenset().union(*(plan.evaluated for plan in plans)),
        lost_weights=frozenset().union(*(plan.lost_weights for plan in plans)),
        extensions=together(plan.extensions for plan in plans),
    )


def name_together(study: str, arm: str) -> str:
    """Returns how an arm is called where several studies run together."""
    return f"{study}-{arm}"[:48]


def write_studies(folder: Path, dataset: str, studies: Sequence[str]) -> None:
    """Writes down which studies are asked together, so that `status` can show them.

    Args:
        folder: Of `--study paper`.
        dataset: The data set.
        studies: Names of the studies' folders.
    """
    content = {"dataset": dataset, "studies": list(studies)}
    write_atomically(folder / STUDIES, json.dumps(content, indent=1).encode())


def refreshed(plan: Plan, states: Mapping[str, TrialState]) -> Plan:
    """Returns a plan that knows what has ended meanwhile."""
    return replace(plan, done={**plan.done, **{t.key: states[t.key] for t in plan.trials if t.key in states}})


def summary_table(answers: Sequence[Answer]) -> Table:
    """Returns the terminal's table of all claims: the paper's number beside ours."""
    claims = claims_table(answers, answers[0].dataset)
    table = Table(title=Text("All claims"), title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)
    for heading in claims.headings:
        table.add_column(heading)
    for row in claims.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
