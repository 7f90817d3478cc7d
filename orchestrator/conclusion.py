"""From records to the answer: tables, verdict, report; and what so many seeds could resolve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.answer import answer, answer_table, verdict_outlook, write_answer
from orchestrator.plan import Plan, add_look
from orchestrator.tables import update_tables


def conclude(plan: Plan, results: Path, folder: Path, content: Mapping[str, Any], console: Console) -> None:
    """Updates the tables, judges the study, prints the verdict table and writes the report.

    Args:
        plan: The plan.
        results: The results folder.
        folder: The study's folder.
        content: What `plan.json` says.
        console: Where to print.
    """
    tables = update_tables(results)
    looked = add_look(folder, dict(content), complete_seeds(plan, tables.trials["key"].to_list()))
    judged = answer(plan.study, plan.recipe, looked, tables.trials, tables.members)
    console.print(answer_table(judged))
    for note in judged.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    written = write_answer(folder, judged)
    what = "written" if written else "unchanged"
    console.print(f"report: {folder / 'report.md'} ({what})", markup=False, highlight=False, soft_wrap=True)


def complete_seeds(plan: Plan, keys_on_record: list[str]) -> int:
    """Counts the seeds 0, 1, ... of which every arm is on record, up to the first gap."""
    on_record = set(keys_on_record)
    for seed in plan.seeds:
        if any(trial.key not in on_record for trial in plan.trials if trial.seed == seed):
            return plan.seeds.index(seed)
    return len(plan.seeds)


def resolution_outlook(plan: Plan, folder: Path) -> str:
    """Says whether this many seeds can reach a verdict, and what they resolve if an earlier answer tells the spread."""
    try:
        before = json.loads((folder / "answer.json").read_text())
        deviations = [arm["difference_sd"] for arm in before["arms"] if arm.get("difference_sd")]
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        deviations = []
    return verdict_outlook(
        len(plan.seeds), plan.compared_arms, plan.recipe.smallest_effect, max(deviations, default=None)
    )
