"""From records to the answer: tables, verdict, report; and what so many seeds could resolve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from rich.console import Console

from orchestrator.judging.answer import RETUNED_STUDY, Answer
from orchestrator.judging.images.seen import SeenImages
from orchestrator.judging.judge import answer
from orchestrator.judging.primary_metric import reads_epochs
from orchestrator.judging.sweep_findings import confirm, remembered_importance, sweep_facts, sweep_points
from orchestrator.output.fitting import print_text
from orchestrator.planning.plan import RETUNED, Plan
from orchestrator.planning.plan_file import PlanFile, add_look, latest_plan
from orchestrator.planning.retuning import TuningTrial, compared_values, tuning_outcomes, without_best
from orchestrator.records.trial_record import read_members
from orchestrator.reporting.files import PAGE, write_report
from orchestrator.reporting.material import Material, details, gather
from orchestrator.reporting.terminal import print_answer
from orchestrator.sweeps.confirmation import confirmation_trials, note_look, read_confirmation
from orchestrator.sweeps.search import Search, is_point_of, read_sweep_file
from orchestrator.tables.rows import EPOCH_COLUMNS
from orchestrator.tables.tables import TrialTables, load_tables, update_tables
from search_spaces.core_config import description_of


def conclude(
    plan: Plan,
    results: Path,
    folder: Path,
    written: PlanFile,
    console: Console,
    images: SeenImages | None = None,
) -> Material:
    """Updates the tables, judges the study, prints the verdict table and writes the report.

    Args:
        plan: The plan.
        results: The results folder.
        folder: The study's folder.
        written: What the run wrote to `plan.json`.
        console: Where to print.
        images: Which images trials got right, as far as the command has read it; None to read it here.

    Returns:
        What the report is made of, the answer with it.
    """
    # 表只是记录的缓存：先跟上记录，再判断
    tables = update_tables(results)
    # 别的进程可能已扩到更多种子：按最新的计划判
    plan, plan_file = latest_plan(folder, plan, written)
    images = SeenImages(results) if images is None else images
    material = judged_material(plan, plan_file, folder, results, tables, notes_look=True, images=images)
    judged = material.answer
    for shown in (judged, judged.retuned):
        if shown is not None:
            print_answer(shown, console)
    what = "written" if write_report(folder, material, lambda: details(material, results, folder)) else "unchanged"
    print_text(console, f"report: {folder / PAGE} ({what})")
    return material


def judged_material(
    plan: Plan,
    plan_file: PlanFile,
    folder: Path,
    results: Path,
    tables: TrialTables,
    *,
    notes_look: bool = False,
    epochs: pl.DataFrame | None = None,
    images: SeenImages | None = None,
) -> Material:
    """Judges a study from the tables and collects what its report is made of.

    Args:
        plan: The plan.
        plan_file: What `plan.json` says.
        folder: The study's folder.
        results: The results folder.
        tables: The tables.
        notes_look: Write down in `plan.json` that so many seeds were looked at.
        epochs: The epochs table; None to read it where the study needs it.
        images: Which images the trials got right, as far as other studies have read it; None to say nothing of it.
    """
    points = _own_points(plan, tables.members, results, folder.name)
    epochs = _epochs(plan, results) if epochs is None else epochs
    # 先判研究本身；重调与扫描只在后面添，不改它的词
    judged = answer(plan.study, plan.recipe, plan_file, tables.trials, points, epochs, images)
    if plan.retune is not None:
        outcomes = tuning_outcomes(plan, results)
        again = _retuned(plan, plan_file, outcomes, tables.trials, points.clear(), epochs, images)
        more = {"retuned_parameter": plan.retune.parameter, "tuning": outcomes, "retuned": again}
        judged = judged.model_copy(update={**more, "notes": (*judged.notes, *without_best(plan, outcomes))})
    judged = _with_sweep(judged, plan, folder, tables.trials, points, epochs, images, keep=notes_look)
    # 看过多少种子要记下：那次看已花掉一部分水平
    if notes_look:
        plan_file = add_look(folder, plan_file, judged.seeds)
        if judged.confirmation is not None:
            note_look(folder, len(judged.confirmation.seeds))
    confirming = confirmation_trials(plan, read_confirmation(folder)) if judged.confirmation is not None else ()
    return gather(judged, plan_file, folder, results, tables.trials, points, confirming, images)


def _retuned(
    plan: Plan,
    plan_file: PlanFile,
    outcomes: Sequence[TuningTrial],
    trials: pl.DataFrame,
    no_points: pl.DataFrame,
    epochs: pl.DataFrame,
    images: SeenImages | None,
) -> Answer | None:
    """The answer of the arms with their own best values, or None while those are not known."""
    chosen = compared_values(plan.study, outcomes)
    rows = tuple(
        row.model_copy(update={"arm": row.arm.removesuffix(RETUNED), "phase": "arm"})
        for row in plan_file.trials
        if row.phase == "retuned"
    )
    if not rows or not chosen or plan.retune is None:
        return None
    name = plan.retune.parameter.removeprefix("training.")
    arms = tuple(
        arm.model_copy(update={"title": f"{arm.title}; {name} {chosen[arm.name]:g}"})
        for arm in plan.study.arms
        if arm.name in chosen
    )
    # 各用自己最好的值，判法与研究本身一样
    study = plan.study.model_copy(update={"name": f"{plan.study.name}{RETUNED_STUDY}", "arms": arms})
    retuned_plan = plan_file.model_copy(update={"trials": rows})
    return answer(study, plan.recipe, retuned_plan, trials, no_points, epochs, images)


def _epochs(plan: Plan, results: Path) -> pl.DataFrame:
    """The epochs table, for the study that needs it: it is by far the largest."""
    return load_tables(results).epochs if reads_epochs(plan.recipe) else pl.DataFrame(schema=EPOCH_COLUMNS)


def _own_points(plan: Plan, members: pl.DataFrame, results: Path, study: str) -> pl.DataFrame:
    """The memberships of this plan's sweep; points of another base (epochs, data, `--set`) are not comparable."""
    is_point = pl.col("position").is_not_null() & pl.col("parameters").is_not_null()
    points = members.filter((pl.col("study") == study) & (pl.col("phase") == "sweep") & is_point)
    if plan.study.sweep is None or not points.height:
        return points.clear()
    # 轮数或数据不同的点不能放在一起排名
    search = Search(name=f"{study}/sweep", space=plan.study.sweep, base=plan.base, points=plan.sweep_points)
    sweep_keys = {
        row["key"] for row in read_members(results, study) if row["phase"] == "sweep" and is_point_of(search, row)
    }
    return points.filter(pl.col("key").is_in(sweep_keys))


def _with_sweep(
    judged: Answer,
    plan: Plan,
    folder: Path,
    trials: pl.DataFrame,
    points: pl.DataFrame,
    epochs: pl.DataFrame,
    images: SeenImages | None,
    *,
    keep: bool,
) -> Answer:
    """The answer with what the sweep says as a whole, and what fresh seeds say of its best points."""
    if plan.study.sweep is None or not points.height:
        return judged
    made = read_sweep_file(folder)
    core = description_of(plan.base)
    ended = sweep_points(points, trials, core, made.get("second_objective"))
    trained = int(trials.filter(pl.col("key").is_in(points["key"].to_list()))["epochs"].sum())
    shares = remembered_importance(folder, plan.study.sweep, ended, keep=keep)
    facts = sweep_facts(ended, trained, made, shares, core)
    confirmation = confirm(plan, read_confirmation(folder), trials, epochs, images)
    return judged.model_copy(update={"sweep_facts": facts, "confirmation": confirmation})
