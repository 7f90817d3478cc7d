"""A plan in words: the line before training, the arms of `--dry-run`, what it costs, what a budget left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from alexnet_core.configuration.geometry import geometry_change
from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.configuration.wording import counted
from alexnet_core.data.dataset import DataSummary
from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.estimate import Estimate
from orchestrator.planning.more_epochs import Extensions
from orchestrator.planning.on_record import OnRecord
from orchestrator.planning.plan import TUNING_SEED, Plan
from orchestrator.planning.retuning import is_tuned
from orchestrator.planning.work_left import WorkLeft
from search_spaces.core_config import SPLIT, CoreConfig
from search_spaces.study import Recipe, Study
from search_spaces.trial import PlannedTrial

SHOWN_SEEDS = 12
# Ray 要半分钟才起来；训练得比这久，就不必提它
SHORT_SECONDS = 300


def large_batches(plan: Plan) -> list[str]:
    """Says of which arms a batch holds more than the training set: they make one update an epoch."""
    lines = []
    for trial in plan.trials[: len(plan.study.arms)]:
        if plan.summary is None or not isinstance(trial.config, TrainConfig):
            continue
        images = min(trial.config.data.train_images or plan.summary.train, plan.summary.train)
        batch = trial.config.training.batch_size
        if batch > images:
            lines.append(f"note: {trial.arm}: a batch of {batch} is more than all {counted(images, 'training image')}")
    return lines


def left_out_retuning(plan: Plan) -> list[str]:
    """Says of a study that re-tunes by itself that `--seeds auto` does not."""
    retune = plan.study.retune
    if plan.max_seeds is None or retune is None:
        return []
    return [
        f"note: --seeds auto leaves the study's re-tuning of {retune.parameter} out, which needs whole arms: ask for "
        "it with a number of seeds (in other --results, once there was a look)"
    ]


def arm_remarks(plan: Plan) -> list[str]:
    """Says of which arms the edits change nothing, or the size of maps that they do not name."""
    first = {trial.arm: trial for trial in plan.trials[: len(plan.study.arms)]}
    baseline = first.pop(plan.study.baseline, None)
    if baseline is None or plan.of_baseline_alone or not plan.study.compared_with:
        return []
    lines = []
    for arm, trial in first.items():
        change = ""
        if (trial.key, trial.views) == (baseline.key, baseline.views):
            change = "its edits change nothing, its trials are the baseline's"
        elif isinstance(trial.config, TrainConfig) and isinstance(baseline.config, TrainConfig):
            change = geometry_change(trial.config.network, baseline.config.network)
        if change:
            lines.append(f"note: {arm}: {change}")
    return lines


def data_remarks(plan: Plan) -> list[str]:
    """Says what to know of the data before trusting a number: what is left out, what is there twice."""
    if plan.summary is not None:
        return [f"note: {remark}" for remark in image_remarks(plan.summary, plan.recipe, plan.study)]
    base = plan.base
    if isinstance(base, CoreConfig) and base.data.root is not None and not base.data.digest:
        # 没有摘要，换一个文件夹也是同样的 key：不说，旧数据上的结果就被当作新的
        return [
            f"note: core {base.core.name} does not say what is in the data: with other data in --data-root its trials "
            "would be taken for the same ones; give it the function data (a script: the list data), or name the data "
            "in a field"
        ]
    return []


def image_remarks(summary: DataSummary, recipe: Recipe, study: Study) -> tuple[str, ...]:
    """Returns what to know of images before trusting a number, as the plan and the report say it.

    Args:
        summary: What is in the data.
        recipe: The study's recipe on it.
        study: The study.
    """
    sources = {*recipe.vary, *(source for arm in study.arms for source in arm.varies)}
    drawn = SPLIT in sources and not summary.fixed_split
    if drawn and any("validation image" in remark for remark in summary.remarks):
        # 其余种子的验证图是另抽的，重复的图也就另有其数
        return (*summary.remarks, "that is of the validation images of seed 0; the other seeds draw their own")
    return summary.remarks


def code_remarks(plan: Plan) -> list[str]:
    """Says what a core may read that is not kept with its code."""
    sources = plan.code.sources if plan.code is not None else None
    return [] if sources is None else [f"note: {remark}" for remark in sources.remarks]


def format_missing(plan: Plan, on_record: OnRecord) -> str:
    """Names what a plan still lacks: `seeds 5 to 7`, or `seed 5 (no_lrn, as_run)` where an arm of it is there."""
    missing = {trial.key for trial in on_record.to_run(plan.trials)}
    arms: dict[int, list[str]] = {}
    for trial in plan.trials:
        if trial.key in missing:
            arms.setdefault(trial.seed, []).append(trial.arm)
    whole = [seed for seed, names in arms.items() if len(names) == len(plan.study.arms)]
    parts = [f"seed {seed} ({', '.join(arms[seed])})" for seed in sorted(set(arms) - set(whole))]
    if whole:
        shown = ", ".join(map(str, whole[:SHOWN_SEEDS])) + (" and more" if len(whole) > SHOWN_SEEDS else "")
        parts.append(f"all arms of seed {shown}" if len(whole) == 1 else f"all arms of seeds {shown}")
    return "; ".join(parts)


def complete_seeds(plan: Plan, on_record: OnRecord) -> int:
    """Returns how many seeds from the first on have all their arms on record."""
    missing = {trial.key for trial in on_record.to_run(plan.trials)}
    open_seeds = [trial.seed for trial in plan.trials if trial.key in missing]
    return sum(seed < min(open_seeds, default=math.inf) for seed in plan.seeds)


def format_time(cost: Estimate) -> str:
    """Says the wall time in a few words."""
    if cost.trials == 0:
        return "none"
    if cost.unknown == cost.trials:
        return "unknown (no such trial on record yet)"
    return f"{_about(cost)} {readable_seconds(cost.wall_seconds)} (from your own records)"


def time_with_start(cost: Estimate) -> str:
    """Says the wall time where Ray is started for it: of short trainings most of it is that."""
    is_short = cost.unknown < cost.trials and cost.wall_seconds < SHORT_SECONDS
    return f"{format_time(cost)} plus Ray's start" if is_short else format_time(cost)


def _about(cost: Estimate) -> str:
    return f"without the {cost.unknown} never measured about" if cost.unknown else "about"


def cost_line(cost: Estimate) -> str:
    """Says what the trials cost: epochs, GPU-hours, wall time, what that rests on, and GPUs that stay idle."""
    if cost.trials == 0:
        return "cost: nothing to train"
    line = f"cost: {counted(cost.trials, 'trial')}"
    kind, of_which = "trial", "of it"
    if cost.epochs:
        line += f", {counted(cost.epochs, 'epoch')}"
        kind, of_which = "epoch", "of their networks"
    if cost.unknown < cost.trials:
        line += (
            f", {_about(cost)} {cost.place.hours(cost.slot_seconds):.3g} {cost.place.unit}, "
            f"{readable_seconds(cost.wall_seconds)} on {counted(cost.place.slots, 'slot')} (each "
            f"{'network' if cost.epochs else 'configuration'} measured on at least "
            f"{counted(cost.records, 'trial')} on record)"
        )
    else:
        line += f", {cost.place.unit} and time unknown: no {kind} {of_which} is on record"
    if cost.one_tower:
        idle = cost.place.hours(cost.idle_seconds) / 2
        hours = f": {idle:.3g} of the GPU-hours" if idle else ""
        leave = counted(cost.one_tower, "trial of one tower leaves", "trials of one tower leave")
        line += f"; {leave} one of their slot's two GPUs idle{hours}"
    return line


def extension_parts(extensions: Extensions) -> list[str]:
    """Returns what the plan line says about it."""
    parts = []
    if extensions.starts:
        parts.append(f"{len(extensions.starts)} of them go on from fewer epochs")
    if extensions.other_rates:
        parts.append(f"{len(extensions.other_rates)} anew, as their schedule drops at other epochs")
    if extensions.not_kept:
        parts.append(f"{len(extensions.not_kept)} anew, as the state of the shorter run is not kept")
    return parts


def plan_line(plan: Plan, on_record: OnRecord, work: WorkLeft, wall_time: str, outlook: str) -> str:
    """Returns the one line printed before anything runs.

    Args:
        plan: The plan.
        on_record: What of it is on record.
        work: What it has still to do.
        wall_time: How long that takes, see `estimate.py`.
        outlook: What so many seeds can decide.
    """
    planned = plan.unique_keys + plan.sweep_points
    missing = len(on_record.missing(plan.trials)) + work.left("sweep")
    parts = [
        f"{counted(planned, 'trial')} wanted",
        f"{planned - missing} on record",
        f"{missing} to train",
        *extension_parts(on_record.extensions),
        *_evaluations(plan, on_record),
        f"time {wall_time}",
        outlook,
    ]
    return ", ".join(parts)


def sweep_only_line(plan: Plan, work: WorkLeft, wall_time: str) -> str:
    """Returns the one line printed before a sweep runs of whose study no arm is trained.

    Args:
        plan: The plan.
        work: What the sweep has still to do.
        wall_time: How long that takes, see `estimate.py`.
    """
    left = work.left("sweep")
    wanted, on_record = counted(plan.sweep_points, "point"), plan.sweep_points - left
    return f"{wanted} wanted, {on_record} on record, {left} to train, no arm, time {wall_time}"


@dataclass(frozen=True)
class ArmPlan:
    """What one arm wants.

    Attributes:
        arm: Its name.
        trials: Different trials.
        to_run: How many of them are to be trained or evaluated; the others are on record.
        views: In how many views they are evaluated.
        same_trials_as: Arms that have some of them too; of other studies `<study> <arm>`.
    """

    arm: str
    trials: int
    to_run: int
    views: int
    same_trials_as: tuple[str, ...]


def arm_plans(plan: Plan, on_record: OnRecord, others: Mapping[str, Plan]) -> list[ArmPlan]:
    """Returns what each arm wants, how much of it is on record, and which other arms are the same trials.

    Args:
        plan: The plan.
        on_record: What of it is on record.
        others: Plans of other studies, by name.
    """
    keys = _keys_by_arm(plan)
    elsewhere = {
        f"{name} {arm}": theirs for name, other in others.items() for arm, theirs in _keys_by_arm(other).items()
    }
    everyone = {**keys, **elsewhere}
    # 一百个 arm 两两求交太贵：先数出谁与别人共有
    times = Counter(chain.from_iterable(everyone.values()))
    to_train = {trial.key for trial in on_record.missing(plan.trials)}
    # 同一个 trial，要多个视图的 arm 还得评估，只要一个的已经齐了
    to_evaluate = {(trial.key, trial.views) for trial in on_record.to_evaluate(plan.trials)}
    plans = []
    for arm in plan.study.arms:
        arm_keys = keys[arm.name]
        left = sum(key in to_train or (key, arm.views) in to_evaluate for key in arm_keys)
        # 各来源的种子 0 是同一个 trial，不必每行都说
        common = set() if plan.study.shows_variance else {key for key in arm_keys if times[key] > 1}
        same = [name for name, theirs in everyone.items() if name != arm.name and common & theirs] if common else []
        plans.append(ArmPlan(arm.name, len(arm_keys), left, arm.views, tuple(same)))
    return plans


def arm_line(arm: ArmPlan) -> str:
    """Returns an arm's line: its trials on record and to run, and which other arms are the same trials."""
    shared = f", evaluated in {arm.views} views" if arm.views != 1 else ""
    shared += f"; the same trials as {', '.join(arm.same_trials_as)}" if arm.same_trials_as else ""
    return (
        f"    {arm.arm}: {counted(arm.trials, 'trial')}, {arm.trials - arm.to_run} on record, {arm.to_run} to "
        f"run{shared}"
    )


def _keys_by_arm(plan: Plan) -> dict[str, set[str]]:
    keys: dict[str, set[str]] = {arm.name: set() for arm in plan.study.arms}
    for trial in plan.trials:
        if trial.arm in keys:
            keys[trial.arm].add(trial.key)
    return keys


def _evaluations(plan: Plan, on_record: OnRecord) -> Iterator[str]:
    """Trials on record that are evaluated only, or trained again for it."""
    if to_evaluate := on_record.to_evaluate(plan.trials):
        again = sum(trial.key in on_record.lost_weights for trial in to_evaluate)
        lost = f" ({again} of them trained again for it: their weights were not kept)" if again else ""
        yield f"{len(to_evaluate)} to evaluate in more views{lost}"


def readable_seconds(seconds: float) -> str:
    """Returns seconds as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def retuning_line(plan: Plan, on_record: OnRecord, left: int) -> str:
    """Says what the re-tuning wants.

    Args:
        plan: The plan.
        on_record: What of it is on record.
        left: Trials of the re-tuning still to train, at most while the best values are not known.
    """
    assert plan.retune is not None
    arms = len(plan.study.arms)
    tuned = is_tuned(plan, on_record.done)
    best = sum(trial.phase == "retuned" for trial in plan.further) if tuned else len(plan.trials)
    lost = "; of some arm no tuning trial finished" if best < len(plan.trials) else ""
    at_most = "" if tuned or not left else " at most (an arm whose best is the recipe's value has its trials already)"
    return (
        f"re-tuning {plan.retune.parameter}: {arms} arms x {counted(plan.retune.trials, 'tuning trial')} on seeds from "
        f"{TUNING_SEED}, then {counted(best, 'trial')} with each arm's best{lost}; {left} to train{at_most}"
    )


def shown_trial(plan: Plan, which: str) -> PlannedTrial:
    """Returns the trial that is to be shown.

    Args:
        plan: The plan.
        which: `ARM[:SEED]`; an empty one is the baseline's with seed 0.

    Raises:
        LabError: There is no such trial.
    """
    arm, _, seed = which.partition(":")
    cell = arm or plan.study.baseline, seed or "0"
    for trial in plan.trials:
        if (trial.arm, str(trial.seed)) == cell:
            return trial
    arms = ", ".join(arm.name for arm in plan.study.arms)
    raise LabError(
        f"--show {which}: no such trial; arms: {arms}; seeds: 0 to {len(plan.seeds) - 1}", exit_code=ExitCode.WRONG_USE
    )
