"""The tables of a report as text: the same cells for Markdown, LaTeX and the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from alexnet_core.configuration.wording import counted
from orchestrator.judging import numbers
from orchestrator.judging.answer import (
    Answer,
    ArmAnswer,
    Compared,
    Confirmation,
    ConfirmedPoint,
    ContrastAnswer,
    Measured,
    SweepFacts,
)
from orchestrator.judging.notes import not_paired, shown_value
from orchestrator.judging.primary_metric import GAP
from orchestrator.judging.scales import STATISTICS, scale_of, unit_in_words
from orchestrator.planning.plan import ALPHA
from orchestrator.reporting.material import Provenance
from search_spaces.core_config import ALEXNET, PERCENT, CoreDescription, number_in, readable

MOST_RECORDS_SHOWN = 400
# 一页纸放得下的行数
MOST_CLASSES = 30
# 第二个区间的列
NEW_IMAGES = "interval for new images"
# 复现的词只看区间：没有这些列
OF_EFFECTS = ("adjusted p", "sign-flip p (floor)", "seeds needed")
APART = "not measured together"
# core 的代码不在本实验室的提交里
FACTS = {
    "numerics": "version of the training's arithmetic",
    "git_commit": "git commit of the lab",
    "code": "code of the core, as kept in code/",
}


class TextTable(NamedTuple):
    """A table as text; the first cell of each row names the row.

    Attributes:
        name: Of its files.
        caption: What it says.
        headings: One per column.
        rows: Cells.
        words: The verdict of each row, for its colour; empty where rows have none.
        names: The headings that are names, of arms or of parameters: what they are called says nothing of the column.
    """

    name: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[str] = ()
    names: Sequence[str] = ()


def verdict_table(answer: Answer) -> TextTable:
    """Returns the verdicts: error, difference with interval, p, the paper's number, word, seeds needed."""
    headings = (
        "arm",
        "n",
        metric_heading(answer),
        _compared_heading(answer),
        "interval",
        "level",
        "adjusted p",
        "sign-flip p (floor)",
        numbers.source_heading(answer),
        "verdict",
        "seeds needed",
    )
    rows = [_verdict_cells(answer, arm) for arm in answer.arms]
    if answer.reproduces:
        # 没有互相比较的差
        return TextTable("verdicts", f"Arms on {answer.dataset}", headings[:3], [row[:3] for row in rows])
    caption = f"Verdicts on {answer.dataset}: {compared_in_words(answer)}"
    return TextTable(
        "verdicts", caption, *with_new_images(headings, rows, answer.arms), [arm.word for arm in answer.arms]
    )


def with_new_images(
    headings: Sequence[str], rows: Sequence[list[str]], compared: Sequence[Compared], behind: str = "level"
) -> tuple[list[str], list[list[str]]]:
    """Returns a table's headings and rows with the second interval behind a column; as they were where there is none.

    Args:
        headings: Of the table.
        rows: Its cells.
        compared: What each row is of.
        behind: The heading of the column before.
    """
    if all(one.beyond is None for one in compared):
        return list(headings), list(rows)
    place = headings.index(behind) + 1
    told = [[*row[:place], numbers.beyond(one), *row[place:]] for row, one in zip(rows, compared, strict=True)]
    return [*headings[:place], NEW_IMAGES, *headings[place:]], told


def _compared_heading(answer: Answer) -> str:
    if STATISTICS[answer.statistic].scale != "points":
        return "ratio to the baseline"
    return f"difference, {answer.scale.unit}".rstrip(", ")


def compared_in_words(answer: Answer) -> str:
    """Says what is shown of an arm beside the baseline."""
    if STATISTICS[answer.statistic].scale != "points":
        return "ratios are arm over baseline"
    unit = "percentage points" if answer.unit == PERCENT else answer.unit
    return f"differences are arm minus baseline{f' in {unit}' if unit else ''}"


def metric_heading(answer: Answer) -> str:
    """Returns the heading of the primary metric's column."""
    if STATISTICS[answer.statistic].by_signs:
        return f"{answer.metric}, median, seeds that came there"
    return f"{answer.metric} {answer.unit}".rstrip() + ", mean ± sd"


def _verdict_cells(answer: Answer, arm: ArmAnswer) -> list[str]:
    return [
        arm.name,
        str(arm.n),
        numbers.metric(arm),
        numbers.difference(arm),
        numbers.interval(arm),
        numbers.level_in_words(answer, arm),
        numbers.p_value(arm.adjusted_p),
        numbers.flips(arm),
        numbers.claimed(arm),
        arm.sentence,
        numbers.needed(arm),
    ]


def contrast_table(answer: Answer) -> TextTable:
    """Returns what is compared beside arms with the baseline: steps, pairs, or the effects of a factorial."""
    ratios = STATISTICS[answer.statistic].scale != "points"
    headings = [
        "contrast",
        "what it is",
        "n",
        "ratio" if ratios else f"difference, {answer.scale.unit}".rstrip(", "),
        "interval",
        "level",
        "adjusted p",
        "sign-flip p (floor)",
        numbers.source_heading(answer),
        "verdict",
        "seeds needed",
    ]
    rows = [_contrast_cells(answer, contrast) for contrast in answer.contrasts]
    if answer.reproduces:
        kept = [place for place, heading in enumerate(headings) if heading not in OF_EFFECTS]
        headings = [headings[place] for place in kept]
        rows = [[row[place] for place in kept] for row in rows]
    shown = with_new_images(headings, rows, answer.contrasts)
    kind = contrasts_in_words(answer)
    caption = f"{kind[0].upper()}{kind[1:]} on {answer.dataset}"
    return TextTable("contrasts", caption, *shown, [contrast.word for contrast in answer.contrasts])


def contrasts_in_words(answer: Answer) -> str:
    """Says what the contrasts are, and what their numbers mean."""
    kinds = {contrast.kind for contrast in answer.contrasts}
    if "published" in kinds:
        return "reproductions: the mean minus the published value"
    ratio = STATISTICS[answer.statistic].scale != "points"
    if "main" in kinds:
        return "effects: a level against its factor's first; a:b is how much one's effect changes with the other's"
    what = "steps: each arm" if kinds == {"step"} else "pairs: the first arm"
    other = "the one before" if kinds == {"step"} else "the second"
    return f"{what} {'over' if ratio else 'minus'} {other}"


def _contrast_cells(answer: Answer, contrast: ContrastAnswer) -> list[str]:
    return [
        contrast.name,
        contrast.title,
        str(contrast.n),
        numbers.difference(contrast),
        numbers.interval(contrast),
        numbers.level_in_words(answer, contrast),
        numbers.p_value(contrast.adjusted_p),
        numbers.flips(contrast),
        numbers.claimed(contrast),
        contrast.sentence,
        numbers.needed(contrast),
    ]


def variance_table(answer: Answer) -> TextTable:
    """Returns how far seeds scatter that draw one randomness anew, and all together."""
    unit = answer.scale.unit
    headings = (
        "drawn anew",
        "what it is",
        "seeds",
        f"standard deviation, {unit}".rstrip(", "),
        "95 % limits",
        "seeds needed for the margin",
    )
    rows = [
        [
            one.name,
            f"{one.title}: none, since {one.absent}" if one.absent else one.title,
            "" if one.absent else str(one.n),
            numbers.deviation(answer, one.sd),
            "" if one.limits is None else " to ".join(numbers.deviation(answer, end) for end in one.limits),
            numbers.seeds_range(one.seeds_needed),
        ]
        for one in answer.variance
    ]
    caption = f"How far the {answer.metric} scatters on {answer.dataset} with what is drawn anew"
    return TextTable("variance", caption, headings, rows)


def class_table(classes: pl.DataFrame) -> TextTable:
    """Returns which classes a comparison changes, the surest first; the rest is in the table's file.

    Args:
        classes: See `Details`.
    """
    shown = classes.head(MOST_CLASSES)
    rows = [
        [
            row["label"],
            str(row["images"]),
            row["compared"],
            str(row["n"]),
            numbers.points(row["difference"]),
            "" if row["p"] is None else numbers.bounds((row["interval_low"], row["interval_high"])),
            "" if row["p"] is None else f"{row['interval_level']:.4g} %",
            numbers.p_value(row["adjusted_p"]),
        ]
        for row in shown.iter_rows(named=True)
    ]
    some = f" (the {shown.height} surest of {classes.height}; all are in tables/classes.csv)"
    caption = f"Which classes change, exploratory{some if shown.height < classes.height else ''}"
    headings = ("class", "images", "compared", "n", "difference, points", "interval", "level", "adjusted p")
    return TextTable("classes", caption, headings, rows)


def class_lead(classes: pl.DataFrame) -> str:
    """Says what the table of classes is, and what it is not."""
    sure = int((classes["adjusted_p"] <= ALPHA).sum())
    return (
        f"Exploratory: the error of each class on its own, for each comparison, corrected over all {classes.height} "
        f"rows (Holm). {counted(sure, 'row differs', 'rows differ')} from zero; no verdict rests on any, and another "
        "study would have to ask about a class by name."
    )


def arm_table(answer: Answer) -> TextTable:
    """Returns what the arms are, and what is shown of them without a word."""
    # 差距的 top-5 只比验证集，不减训练误差
    of_gap = f" on {answer.judged_split}" if answer.metric == GAP else ""
    headings: tuple[str, ...] = (
        "arm",
        "what it is",
        "p of this arm alone",
        f"top-5 difference{of_gap} (95 %)",
        "paper, top-5",
        "correlation with baseline",
        "diverged",
        "failed",
        "seconds per trial",
    )
    rows = [_arm_cells(arm) for arm in answer.arms]
    if answer.core is not None:
        # 只有 AlexNet 数前五
        kept = [place for place, heading in enumerate(headings) if "top-5" not in heading]
        headings, rows = tuple(headings[place] for place in kept), [[row[place] for place in kept] for row in rows]
    return TextTable("arms", "The arms, and the correlation that pairing by seed achieved", headings, rows)


def _arm_cells(arm: ArmAnswer) -> list[str]:
    top5 = numbers.points(arm.top5_difference)
    if arm.top5_interval is not None:
        top5 += f" ({numbers.bounds(arm.top5_interval)})"
    return [
        arm.name,
        arm.title,
        numbers.p_value(arm.p),
        top5,
        numbers.points(arm.claimed_top5_points, 1),
        numbers.points(arm.correlation),
        str(arm.diverged),
        str(arm.failed),
        "" if arm.seconds is None else f"{arm.seconds:.1f}{_beside_the_baseline(arm)}",
    ]


def _beside_the_baseline(arm: ArmAnswer) -> str:
    """What keeps an arm's seconds from being held against the baseline's; nothing where all were measured together."""
    seconds = arm.costs.seconds_per_epoch
    if not seconds.apart:
        return ""
    return f", in part {APART}" if seconds.pairs else f", {APART}"


def cost_table(answer: Answer) -> TextTable:
    """Returns the second axis: seconds, memory and size beside the baseline's."""
    headings = (
        "arm",
        "parameters",
        "multiply-adds per image" if answer.core is None else "multiply-adds",
        "seconds per epoch" if answer.core is None else "seconds per report",
        "seconds, ratio",
        "memory, MB",
        "memory, ratio",
    )
    rows = [_cost_cells(arm) for arm in answer.arms]
    return TextTable("costs", "What the arms cost", headings, rows)


def cost_lead(answer: Answer) -> str:
    """Says what the ratios and the memory are."""
    kinds = sorted({arm.costs.memory_kind for arm in answer.arms if arm.costs.memory_kind})
    sentence = f" Memory is what was {' or '.join(kinds)}, at its peak." if kinds else ""
    return (
        "Ratios are the geometric mean over seeds of arm over baseline, paired by seed, with plain 95 % intervals "
        "(no correction, no verdict); behind an arm's mean stands the baseline's of the same seeds. Seconds are "
        f"compared only where both were trained in one session, side by side.{sentence}"
    )


def _cost_cells(arm: ArmAnswer) -> list[str]:
    costs = arm.costs
    return [
        arm.name,
        "" if costs.parameters is None else f"{costs.parameters:,}",
        "" if costs.multiply_adds is None else f"{costs.multiply_adds:,}",
        *_measured_cells(costs.seconds_per_epoch),
        *_measured_cells(costs.memory_mb),
    ]


def _measured_cells(cost: Measured) -> list[str]:
    ratio = APART if cost.apart and not cost.pairs else ""
    ratio = ratio if cost.ratio is None else f"{cost.ratio:.3f}"
    if cost.ratio_interval is not None:
        ratio += f" ({cost.ratio_interval[0]:.3f} to {cost.ratio_interval[1]:.3f}, n {cost.pairs})"
    beside = "" if cost.baseline_mean is None else f" ({cost.baseline_mean:.3g})"
    return ["" if cost.mean is None else f"{cost.mean:.3g}{beside}", ratio]


def seed_table(answer: Answer) -> TextTable:
    """Returns the primary metric of every seed, a row per seed."""
    seeds = sorted({seed for arm in answer.arms for seed in (*arm.errors, *arm.never)}, key=int)
    rows = [[f"seed {seed}", *(_seed_cell(answer, arm, seed) for arm in answer.arms)] for seed in seeds]
    names = [arm.name for arm in answer.arms]
    unit = "" if STATISTICS[answer.statistic].by_signs else f", {unit_in_words(answer.unit)}".rstrip(", ")
    return TextTable("seeds", f"{answer.metric} of every seed{unit}", ["seed", *names], rows, names=names)


def _seed_cell(answer: Answer, arm: ArmAnswer, seed: str) -> str:
    if seed in arm.never:
        return "never" if answer.budget is None else f"> {answer.budget}"
    if seed not in arm.errors:
        return ""
    return STATISTICS[answer.statistic].value(arm.errors[seed], answer.unit)


def sweep_table(answer: Answer) -> TextTable:
    """Returns the best points of the sweep."""
    paths = sorted({path for point in answer.sweep for path in point.parameters})
    rows = [
        [
            point.key,
            *(shown_value(point.parameters.get(path)) for path in paths),
            "" if point.validation_error is None else number_in(point.validation_error, answer.description.chosen.unit),
            point.state,
        ]
        for point in answer.sweep
    ]
    headings = ("trial", *paths, _chosen_heading(answer.description), "state")
    return TextTable("sweep", f"Best points of the sweep by {answer.chosen_by}", headings, rows, names=paths)


def _chosen_heading(core: CoreDescription) -> str:
    return f"{readable(core.chosen_by)} {core.chosen.unit}".rstrip()


def tuning_table(answer: Answer) -> TextTable:
    """Returns the tuning trials of every arm, its best marked."""
    rows = [
        [trial.key, trial.arm, shown_value(trial.value), trial.said, "best" if trial.chosen else "", str(trial.seed)]
        for trial in answer.tuning
    ]
    headings = ("trial", "arm", answer.retuned_parameter or "value", "outcome", "chosen", "tuning seed")
    return TextTable(
        "tuning", "What each arm tried, on tuning seeds that no verdict uses", headings, rows, names=headings[2:3]
    )


def retuned_table(answer: Answer) -> TextTable:
    """Returns the verdicts of the arms with their own best values."""
    assert answer.retuned is not None
    table = verdict_table(answer.retuned)
    return table._replace(name="retuned", caption=f"{table.caption}; each arm with its own best value")


def retuned_lead(answer: Answer) -> str:
    """Says what was tuned and what not."""
    best = ", ".join(f"{trial.arm} {shown_value(trial.value)}" for trial in answer.tuning if trial.chosen)
    trained = (
        f"its best ({best or 'not known yet'}) was then trained on the judged seeds"
        if answer.retuned is not None
        else "there is no verdict with each arm's best"
    )
    return (
        f"Every arm tried the same values of {answer.retuned_parameter} with the same budget, on tuning seeds; "
        f"{trained}. The table above is the fixed recipe."
    )


def sweep_lead(answer: Answer) -> str:
    """Says that the sweep's points are no verdict."""
    return (
        f"Best of {counted(answer.sweep_asked, 'point')} by {answer.chosen_by}, one tuning seed each. This is not a "
        "verdict: "
        "the points were chosen by the same numbers."
    )


def provenance_table(source: Provenance, core: CoreDescription | None) -> TextTable:
    """Returns command, data, environment and cost.

    Args:
        source: Where the answer comes from.
        core: What was trained, where that is not AlexNet: the lab's commit does not say which code that was.
    """
    gpu = f"{source.gpu_hours:.3g} GPU-hours" if source.gpu_hours else "0 GPU-hours (trained on the CPU)"
    idle = f", of which {source.idle_gpu_hours:.3g} idle (a network of one tower)" if source.idle_gpu_hours else ""
    rows = [
        ["command", source.command],
        ["trials", f"{source.trials}, {len(source.lost)} of them failed, diverged or stopped"],
        ["cost", f"{gpu}{idle}; {source.hours:.3g} hours of training, each trial once"],
        ["trained", f"{source.first_started or 'not yet'} to {source.last_finished or 'not yet'}"],
        *([f"data: {name}", value] for name, value in source.data.items()),
        *([["core", f"{core.name}, version {core.version}"]] if core is not None else []),
        *([_fact(name), ", ".join(values)] for name, values in source.environment.items()),
        ["plan.json, SHA-256", source.plan_sha256],
        ["all records, SHA-256", source.digest],
    ]
    return TextTable("provenance", "Command, data, environment and cost", ("what", "value"), rows)


def _fact(name: str) -> str:
    """What a fact of the environment is called."""
    return FACTS.get(name, name.replace("_", " "))


def lost_table(source: Provenance) -> TextTable:
    """Returns the trials that diverged, failed or were stopped."""
    rows = [[record.key, record.arm, str(record.seed), record.state, record.message] for record in source.lost]
    headings = ("trial", "arm", "seed", "state", "why")
    return TextTable("lost", "Failed, diverged and stopped trials", headings, rows[:MOST_RECORDS_SHOWN])


def record_table(source: Provenance) -> TextTable:
    """Returns the hashes of the first records; all of them are in `provenance.json`."""
    rows = [
        [record.key, record.arm, str(record.seed), record.phase, record.state, record.sha256]
        for record in source.records[:MOST_RECORDS_SHOWN]
    ]
    shown = f", the first {len(rows)} of {len(source.records)}" if len(rows) < len(source.records) else ""
    caption = f"The records that the answer rests on{shown}; all are in provenance.json"
    headings = ("trial", "arm", "seed", "phase", "state", "SHA-256 of result.json")
    return TextTable("records", caption, headings, rows)


def importance_table(answer: Answer, facts: SweepFacts) -> TextTable:
    """Returns the share of the error's variance that each parameter explains, with its spread over estimator seeds."""
    rows = [
        [entry.parameter, f"{100 * entry.mean:.0f} ± {100 * entry.sd:.0f}", ", ".join(_percent(entry.by_seed))]
        for entry in facts.importance
    ]
    caption = (
        f"Share of the {answer.chosen_by}'s variance (fANOVA) that a parameter explains, of at most "
        f"{facts.importance_points} points; mean ± standard deviation over seeds of the estimator"
    )
    return TextTable("importance", caption, ("parameter", "share, %", "by seed of the estimator"), rows)


def _percent(shares: tuple[float, ...]) -> list[str]:
    return [f"{100 * share:.0f}" for share in shares]


def front_table(answer: Answer, facts: SweepFacts) -> TextTable:
    """Returns the Pareto front of a sweep with two objectives."""
    paths = sorted({path for point in facts.front for path in point.parameters})
    rows = [
        [
            point.key,
            *(shown_value(point.parameters.get(path)) for path in paths),
            "" if point.validation_error is None else number_in(point.validation_error, answer.description.chosen.unit),
            "" if point.second is None else f"{point.second:,.0f}",
        ]
        for point in facts.front
    ]
    second = (facts.second_objective or "").replace("_", " ")
    headings = ("trial", *paths, _chosen_heading(answer.description), second)
    return TextTable("front", f"Pareto front of {answer.chosen_by} and {second}", headings, rows, names=paths)


def confirmation_table(confirmation: Confirmation, core: CoreDescription = ALEXNET, unit: str = PERCENT) -> TextTable:
    """Returns what the sweep said of its best points, and what fresh seeds say.

    Args:
        confirmation: What they say.
        core: What was trained.
        unit: In which the primary metric is shown.
    """
    rows = [_confirmed(point, core, unit) for point in confirmation.points]
    lead = f"lead, {scale_of('points', core.chosen.unit).unit}".rstrip(", ")
    headings = (
        "point",
        "at",
        f"sweep: {_chosen_heading(core)}",
        f"sweep: {lead}",
        f"fresh: {_chosen_heading(core)}",
        f"fresh: {lead}",
        f"fresh: {confirmation.metric}, point minus baseline",
        "adjusted p",
        "word",
    )
    caption = f"What the sweep said, and what {counted(len(confirmation.seeds), 'fresh seed says', 'fresh seeds say')}"
    return TextTable("confirmation", caption, headings, rows, [point.word for point in confirmation.points])


def _confirmed(point: ConfirmedPoint, core: CoreDescription, unit: str) -> list[str]:
    written, chosen = scale_of(point.scale, unit).difference, core.chosen.unit
    lead = scale_of("points", chosen).difference
    interval = "" if point.interval is None else f" ({', '.join(written(end) for end in point.interval)})"
    if point.beyond is not None:
        interval += f", for new images ({', '.join(written(end) for end in point.beyond)})"
    return [
        point.name,
        ", ".join(f"{path} {shown_value(value)}" for path, value in sorted(point.parameters.items())),
        _number(point.swept_error, chosen),
        lead(point.swept_lead),
        _number(point.validation_error, chosen),
        lead(point.lead),
        written(point.difference) + interval,
        "" if point.adjusted_p is None else f"{point.adjusted_p:.3f}",
        point.word,
    ]


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else number_in(value, unit)


def _lead(answer: Answer) -> str:
    if answer.description.chosen.better == "higher":
        return f"the point's {answer.chosen_by} minus the baseline's"
    return f"the baseline's {answer.chosen_by} minus the point's"


def confirmation_lead(answer: Answer) -> str:
    """Says how to read the confirmation."""
    confirmation = answer.confirmation
    if confirmation is None:
        return ""
    lost = f" Not complete: {', '.join(confirmation.missing)}." if confirmation.missing else ""
    lost += f" {not_paired(confirmation.unlike)}" if confirmation.unlike else ""
    return (
        f"The sweep's {'error' if answer.core is None else answer.chosen_by} chose these points, so it flatters them. "
        "Here they and the baseline are trained on fresh "
        f"seeds, and judged as one family of {len(confirmation.points)} (Holm). Lead: {_lead(answer)}.{lost}"
    )
