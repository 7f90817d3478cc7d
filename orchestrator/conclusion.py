"""From records to the answer: tables, verdict, report; and what so many seeds could resolve."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from orchestrator.answer import answer
from orchestrator.boundaries import FIRST_LOOK, WangTsiatis, looks_before, seeds_for_a_word, share_of_level
from orchestrator.confirmation import confirm, confirmation_trials, note_look, read_confirmation
from orchestrator.findings import Answer, TuningTrial
from orchestrator.plan import ALPHA, Plan, add_look, latest_plan, looks_on_record
from orchestrator.records import read_members
from orchestrator.reporting.files import PAGE, write_report
from orchestrator.reporting.material import Material, details, gather
from orchestrator.reporting.terminal import answer_table
from orchestrator.retuning import RETUNED, compared_values, tuning_outcomes, without_best
from orchestrator.statistics import seeds_to_reach_a_verdict
from orchestrator.sweep import Search, is_point_of, read_sweep_file
from orchestrator.swept import remembered_importance, sweep_facts, sweep_points
from orchestrator.table_rows import EPOCH_COLUMNS
from orchestrator.tables import TrialTables, load_tables, update_tables
from orchestrator.verdict import FEWEST_SEEDS, verdict_outlook


def conclude(plan: Plan, results: Path, folder: Path, content: Mapping[str, Any], console: Console) -> Answer:
    """Updates the tables, judges the study, prints the verdict table and writes the report.

    Args:
        plan: The plan.
        results: The results folder.
        folder: The study's folder.
        content: What `plan.json` says.
        console: Where to print.

    Returns:
        The answer.
    """
    tables = update_tables(results)
    plan, content = latest_plan(folder, plan, content)
    material = judged_material(plan, content, folder, results, tables, notes_look=True)
    judged = material.answer
    for shown in (judged, judged.retuned):
        if shown is not None:
            console.print(answer_table(shown, console.width))
            for note in shown.notes:
                console.print(note, markup=False, highlight=False, soft_wrap=True)
    what = "written" if write_report(folder, material, lambda: details(material, results)) else "unchanged"
    console.print(f"report: {folder / PAGE} ({what})", markup=False, highlight=False, soft_wrap=True)
    return judged


def judged_material(
    plan: Plan,
    content: Mapping[str, Any],
    folder: Path,
    results: Path,
    tables: TrialTables,
    *,
    notes_look: bool = False,
    epochs: pl.DataFrame | None = None,
) -> Material:
    """Judges a study from the tables and collects what its report is made of.

    Args:
        plan: The plan.
        content: What `plan.json` says.
        folder: The study's folder.
        results: The results folder.
        tables: The tables.
        notes_look: Write down in `plan.json` that so many seeds were looked at.
        epochs: The epochs table; None to read it where the study needs it.
    """
    points = _own_points(plan, tables.members, results, folder.name)
    epochs = _epochs(plan, results) if epochs is None else epochs
    judged = answer(plan.study, plan.recipe, content, tables.trials, points, epochs)
    if plan.retune is not None:
        outcomes = tuning_outcomes(plan, results)
        again = _retuned(plan, content, outcomes, tables.trials, points.clear(), epochs)
        more = {"retuned_parameter": plan.retune.parameter, "tuning": outcomes, "retuned": again}
        judged = judged.model_copy(update={**more, "notes": (*judged.notes, *without_best(plan, outcomes))})
    judged = _with_sweep(judged, plan, folder, tables.trials, points, epochs, keep=notes_look)
    if notes_look:
        content = add_look(folder, dict(content), judged.seeds)
        if judged.confirmation is not None:
            note_look(folder, len(judged.confirmation.seeds))
    confirming = confirmation_trials(plan, read_confirmation(folder)) if judged.confirmation is not None else ()
    return gather(judged, content, folder, results, tables.trials, points, confirming)


def _retuned(
    plan: Plan,
    content: Mapping[str, Any],
    outcomes: Sequence[TuningTrial],
    trials: pl.DataFrame,
    no_points: pl.DataFrame,
    epochs: pl.DataFrame,
) -> Answer | None:
    """The answer of the arms with their own best values, or None while those are not known."""
    chosen = compared_values(plan.study, outcomes)
    rows = [
        {**row, "arm": row["arm"].removesuffix(RETUNED), "phase": "arm"}
        for row in content["trials"]
        if row["phase"] == "retuned"
    ]
    if not rows or not chosen or plan.retune is None:
        return None
    name = plan.retune.parameter.removeprefix("training.")
    arms = tuple(
        arm.model_copy(update={"title": f"{arm.title}; {name} {chosen[arm.name]:g}"})
        for arm in plan.study.arms
        if arm.name in chosen
    )
    study = plan.study.model_copy(update={"name": f"{plan.study.name}, re-tuned", "arms": arms})
    return answer(study, plan.recipe, {**content, "trials": rows}, trials, no_points, epochs)


def _epochs(plan: Plan, results: Path) -> pl.DataFrame:
    """The epochs table, for the study that needs it: it is by far the largest."""
    needed = plan.recipe.threshold is not None
    return load_tables(results).epochs if needed else pl.DataFrame(schema=EPOCH_COLUMNS)


def _own_points(plan: Plan, members: pl.DataFrame, results: Path, study: str) -> pl.DataFrame:
    """The memberships of this plan's sweep; points of another base (epochs, data, `--set`) are not comparable."""
    is_point = pl.col("position").is_not_null() & pl.col("parameters").is_not_null()
    points = members.filter((pl.col("study") == study) & (pl.col("phase") == "sweep") & is_point)
    if plan.study.sweep is None or not points.height:
        return points.clear()
    search = Search(name=f"{study}/sweep", space=plan.study.sweep, base=plan.base, points=plan.sweep_points)
    own = {row["key"] for row in read_members(results, study) if row["phase"] == "sweep" and is_point_of(search, row)}
    return points.filter(pl.col("key").is_in(own))


def _with_sweep(
    judged: Answer,
    plan: Plan,
    folder: Path,
    trials: pl.DataFrame,
    points: pl.DataFrame,
    epochs: pl.DataFrame,
    *,
    keep: bool,
) -> Answer:
    """The answer with what the sweep says as a whole, and what fresh seeds say of its best points."""
    if plan.study.sweep is None or not points.height:
        return judged
    made = read_sweep_file(folder)
    ended = sweep_points(points, trials, made.get("second_objective"))
    trained = int(trials.filter(pl.col("key").is_in(points["key"].to_list()))["epochs"].sum())
    facts = sweep_facts(ended, trained, made, remembered_importance(folder, plan.study.sweep, ended, keep=keep))
    confirmation = confirm(plan, read_confirmation(folder), trials, epochs)
    return judged.model_copy(update={"sweep_facts": facts, "confirmation": confirmation})


def resolution_outlook(plan: Plan, folder: Path) -> str:
    """Says whether this many seeds can reach a verdict, and what they resolve if an earlier answer tells the spread."""
    try:
        arms = json.loads((folder / "answer.json").read_bytes())["arms"]
        found = [arm.get("difference_sd") for arm in arms if isinstance(arm, dict)]
        deviations = [float(value) for value in found if isinstance(value, (int, float)) and 0 < value < math.inf]
        if plan.study.statistic != "difference":
            # 比值的标准差不是百分点，不能当百分点说
            deviations = []
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        deviations = []
    seeds, compared, deviation = len(plan.seeds), plan.compared_arms, max(deviations, default=None)
    if plan.max_seeds is not None:
        level = ALPHA / max(1, compared)
        share = WangTsiatis(seeds).nominal_level(level, seeds) / level
        need = seeds_to_reach_a_verdict(compared, ALPHA)
        said = verdict_outlook(seeds, compared, plan.recipe.smallest_effect, deviation, ALPHA, share, need)
        return f"at most, with a look at each from {FIRST_LOOK} seeds on; {said.replace('--seeds', '--max-seeds')}"
    on_record = [look for look in looks_on_record(folder, plan) if look >= FEWEST_SEEDS]
    looks = looks_before(on_record, seeds)
    if looks and looks[-1] > seeds:
        return f"{seeds} seeds cannot reach a verdict: {looks[-1]} were looked at already (--seeds {looks[-1]})"
    share = share_of_level(looks, seeds, ALPHA / max(1, compared))
    by_signs = plan.study.statistic == "time_to_threshold"
    need = seeds_to_reach_a_verdict(compared, share * ALPHA if by_signs else ALPHA)
    if by_signs and seeds < need:
        # 现在这次看用不上的水平，以后的看也要先扣掉
        need = seeds_for_a_word(looks_before(on_record, 0), compared, ALPHA)
    return verdict_outlook(seeds, compared, plan.recipe.smallest_effect, deviation, ALPHA, share, need, by_signs)
