"""The plan: which trials a study wants, which are on record, what the rest will cost and can decide."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from alexnet_core.configuration import TrainConfig
from alexnet_core.datasets import DataSummary
from orchestrator.errors import LabError
from orchestrator.extension import Extensions, extension_parts
from orchestrator.look_record import (
    Question,
    RecordedLook,
    append_looks,
    looks_of,
    question_of,
    question_on_record,
    read_looks,
    seeds_at,
    sharing,
)
from orchestrator.records import TrialState, locked, write_atomically
from search_spaces.errors import StudyError
from search_spaces.study import Recipe, Retune, Study
from search_spaces.trial import KEY_LENGTH, Phase, PlannedTrial, keys_by_seed, unfold

ALPHA = 0.05
EXIT_NOTHING = 4


@dataclass(frozen=True)
class Plan:
    """A study unfolded on one data set.

    Attributes:
        study: The question.
        dataset: Name of the recipe.
        recipe: What the study asks on this data set.
        summary: What is in the data.
        base: The baseline's configuration before any arm's edits, with seed 0.
        trials: The wanted arm trials in the order in which they run (all arms of a seed together).
        seeds: The arms' seeds.
        sweep_points: Points of the sweep, in all.
        done: State of each trial on record that is not run again.
        evaluated: (key, views) of the evaluations in more views than one that are on record.
        lost_weights: Trials on record that must be trained again to be evaluated so.
        max_seeds: Seeds at most, of a study of `--seeds auto`; None where all seeds are wanted.
        extensions: Missing trials that ran for fewer epochs.
        retune: What every arm tunes for itself; None for nothing.
        further: The trials of that, as far as they are known (`retuning.py`).
        null: Whether the baseline is judged against itself (`null.py`).
    """

    study: Study
    dataset: str
    recipe: Recipe
    summary: DataSummary
    base: TrainConfig
    trials: tuple[PlannedTrial, ...]
    seeds: tuple[int, ...]
    sweep_points: int
    done: Mapping[str, TrialState]
    evaluated: frozenset[tuple[str, int]] = frozenset()
    lost_weights: frozenset[str] = frozenset()
    max_seeds: int | None = None
    extensions: Extensions = field(default_factory=Extensions)
    retune: Retune | None = None
    further: tuple[PlannedTrial, ...] = ()
    null: bool = False

    @property
    def missing(self) -> tuple[PlannedTrial, ...]:
        """The wanted trials that are not on record, each key once."""
        wanted = {trial.key: trial for trial in reversed(self.trials)}
        return tuple(trial for trial in self.trials if trial.key not in self.done and wanted[trial.key] is trial)

    @property
    def views(self) -> dict[str, int]:
        """In how many views the trials are wanted whose arms ask for more than one, by key."""
        return {trial.key: trial.views for trial in self.trials if trial.views != 1}

    @property
    def to_evaluate(self) -> tuple[PlannedTrial, ...]:
        """The finished trials on record that are not evaluated in as many views as an arm asks for, each once."""
        wanted = {
            trial.key: trial
            for trial in reversed(self.trials)
            if trial.views != 1
            and self.done.get(trial.key) is TrialState.FINISHED
            and (trial.key, trial.views) not in self.evaluated
        }
        return tuple(reversed(wanted.values()))

    @property
    def to_run(self) -> tuple[PlannedTrial, ...]:
        """What must be trained or evaluated, in the order of the plan."""
        runs = {id(trial) for trial in (*self.missing, *self.to_evaluate)}
        return tuple(trial for trial in self.trials if id(trial) in runs)

    @property
    def unique_keys(self) -> int:
        """How many different trials the arms want; arms that are the same trials share them."""
        return len({trial.key for trial in self.trials})

    @property
    def compared_arms(self) -> int:
        """How many arms are compared with the baseline."""
        return len(self.study.arms) - 1


def with_seeds(plan: Plan, seeds: int, done: Mapping[str, TrialState]) -> Plan:
    """Returns a plan of the same question with `seeds` seeds per arm; `done` is what has ended by now."""
    wanted = tuple(range(seeds))
    return replace(plan, trials=unfold(plan.study, plan.base, wanted), seeds=wanted, done=done)


def plan_line(plan: Plan, time_said: str, outlook: str, sweep_left: int) -> str:
    """Returns the one line printed before anything runs.

    Args:
        plan: The plan.
        time_said: How long it takes, see `estimate.py`.
        outlook: What so many seeds can decide.
        sweep_left: Points of the sweep still to train.
    """
    missing = len(plan.missing) + sweep_left
    parts = [
        f"{plan.unique_keys + plan.sweep_points} trials wanted",
        f"{plan.unique_keys + plan.sweep_points - missing} on record",
        f"{missing} to train",
        *extension_parts(plan.extensions),
        *_evaluations(plan),
        f"time {time_said}",
        outlook,
    ]
    return ", ".join(parts)


def arm_lines(plan: Plan, others: Mapping[str, Plan]) -> list[str]:
    """Returns a line per arm: its trials on record and to run, and which other arms are the same trials.

    Args:
        plan: The plan.
        others: Plans of other studies, by name.
    """
    keys = {arm.name: {t.key for t in plan.trials if t.arm == arm.name} for arm in plan.study.arms}
    elsewhere = {
        f"{name} {arm.name}": {t.key for t in other.trials if t.arm == arm.name}
        for name, other in others.items()
        for arm in other.study.arms
    }
    to_train = {trial.key for trial in plan.missing}
    # 同一个 trial，要多个视图的 arm 还得评估，只要一个的已经齐了
    to_evaluate = {(trial.key, trial.views) for trial in plan.to_evaluate}
    lines = []
    for arm in plan.study.arms:
        own = keys[arm.name]
        left = sum(key in to_train or (key, arm.views) in to_evaluate for key in own)
        same = [name for name, theirs in {**keys, **elsewhere}.items() if name != arm.name and theirs & own]
        shared = f", evaluated in {arm.views} views" if arm.views != 1 else ""
        shared += f"; the same trials as {', '.join(same)}" if same else ""
        lines.append(f"    {arm.name}: {len(own)} trials, {len(own) - left} on record, {left} to run{shared}")
    return lines


def _evaluations(plan: Plan) -> Iterator[str]:
    """Trials on record that are evaluated only, or trained again for it."""
    if plan.to_evaluate:
        again = sum(trial.key in plan.lost_weights for trial in plan.to_evaluate)
        lost = f" ({again} of them trained again for it: their weights were not kept)" if again else ""
        yield f"{len(plan.to_evaluate)} to evaluate in more views{lost}"


def readable_seconds(seconds: float) -> str:
    """Returns seconds as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def study_folder(results: Path, study: str, dataset: str, default_dataset: str) -> Path:
    """Returns where a study's plan and answer lie: `studies/<name>/`, with the data set behind others' names."""
    name = study if dataset == default_dataset else f"{study}-{dataset}"
    return results / "studies" / name


class PlanRow(BaseModel):
    """A trial of `plan.json`."""

    arm: str
    seed: int = Field(ge=0)
    phase: Phase
    key: str = Field(pattern=rf"^[0-9a-f]{{{KEY_LENGTH}}}$")
    views: int = Field(default=1, ge=1)


class PlanFile(BaseModel):
    """What readers of `plan.json` rely on; the study, its recipe and its base are checked where they are used."""

    dataset: str
    arms: tuple[str, ...]
    baseline: str
    alpha: float = Field(gt=0, lt=1)
    margin: float = Field(gt=0, allow_inf_nan=False)
    smallest_effect: float = Field(gt=0, allow_inf_nan=False)
    planned_seeds: int = Field(ge=1, le=1_000_000)
    max_seeds: int | None = Field(default=None, ge=1, le=1_000_000)
    looks: tuple[Annotated[int, Field(ge=1)], ...] = ()
    null: bool = False
    chosen_afterwards: bool = False
    sweep_points: int = Field(ge=0)
    trials: tuple[PlanRow, ...]

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline!r} is none of the arms")
        # 少一格就配不成对
        cells = {(row.arm, row.seed) for row in self.trials if row.phase == "arm"}
        if cells != {(arm, seed) for arm in self.arms for _, seed in cells}:
            raise ValueError("not every arm has a trial of every seed")
        return self


def write_plan(
    folder: Path, plan: Plan, command: Sequence[str], begun_with: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Writes `plan.json` and returns its content; looks taken before are kept.

    Args:
        folder: The study's folder.
        plan: The plan.
        command: The command line, shown in the report.
        begun_with: What this run wrote when it began, where it only completes that; a plan on record that goes beyond
            it, another command's, is left as it is.
    """
    content: dict[str, Any] = {
        "study": plan.study.name,
        "dataset": plan.dataset,
        "primary_metric": plan.study.primary_metric,
        "arms": [arm.name for arm in plan.study.arms],
        "baseline": plan.study.baseline,
        "alpha": ALPHA,
        "margin": plan.recipe.margin,
        "smallest_effect": plan.recipe.smallest_effect,
        "planned_seeds": len(plan.seeds),
        "max_seeds": plan.max_seeds,
        "base": plan.base.model_dump(mode="json"),
        "asked": plan.study.model_dump(mode="json"),
        "recipe": plan.recipe.model_dump(mode="json"),
        "summary": plan.summary.model_dump(mode="json"),
        "sweep_points": plan.sweep_points,
        "command": list(command),
        "trials": [
            {"arm": trial.arm, "seed": trial.seed, "phase": trial.phase, "key": trial.key, "views": trial.views}
            for trial in (*plan.trials, *plan.further)
        ],
        "null": plan.null,
        "retune": None if plan.retune is None else plan.retune.model_dump(mode="json"),
    }
    with locked(folder):
        before, question = read_plan(folder), _question(plan)
        earlier = _recorded(folder)
        rule = _rule(earlier, question)
        planned = RecordedLook(question=question, seeds=0, max_seeds=plan.max_seeds)
        append_looks(folder, [*_not_kept(folder), *([planned] if plan.max_seeds != rule else [])])
        content["looks"] = seeds_at(earlier, question)
        if before and json.loads(json.dumps({**content, "command": before.get("command")})) == before:
            # 问的还是同一件事：换个写法再问一遍，报告不必重写
            content["command"] = before["command"]
        if begun_with is None or _further_seeds(before, begun_with) <= 0:
            _write(folder, content)
    return content


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    write_atomically(folder / "plan.json", json.dumps(content, indent=1, sort_keys=True).encode())


def _question(plan: Plan) -> Question:
    return question_of(
        plan.study.baseline, ((trial.arm, trial.seed, (trial.key, trial.views)) for trial in plan.trials)
    )


def _recorded(folder: Path) -> list[RecordedLook]:
    """The looks on record; those of a `plan.json` that was written before they had a file of their own too."""
    looks = read_looks(folder)
    return looks_of(read_plan(folder)) if looks is None else looks


def _not_kept(folder: Path) -> list[RecordedLook]:
    return looks_of(read_plan(folder)) if read_looks(folder) is None else []


def _rule(looks: Sequence[RecordedLook], question: Question) -> int | None:
    """The maximum of `--seeds auto` under which a question was planned last; None for the fixed rule."""
    same = sharing(looks, question)
    return same[-1].max_seeds if same else None


def _further_seeds(now: Mapping[str, Any], content: Mapping[str, Any]) -> int:
    """How many more seeds the plan on record asks for; -1 where they are fewer, or it does not ask the same."""
    names = ("asked", "recipe", "base", "max_seeds", "null", "retune")
    same = bool(now) and all(now.get(name) == content.get(name) for name in names)
    return max(-1, now["planned_seeds"] - content["planned_seeds"]) if same else -1


def looks_on_record(folder: Path, plan: Plan) -> list[int]:
    """Returns the looks that were taken at this question or a part of it, in their order."""
    return seeds_at(_recorded(folder), _question(plan))


def check_rule(folder: Path, plan: Plan) -> None:
    """Refuses to judge by another rule what has been looked at by one.

    Raises:
        LabError: The study was `--seeds auto` with another maximum, or is now, and a look was or may have been taken.
    """
    from orchestrator.boundaries import FIRST_LOOK

    looks = sharing(_recorded(folder), _question(plan))
    if not looks or looks[-1].max_seeds == plan.max_seeds:
        return
    most = looks[-1].max_seeds
    fixed = [look.seeds for look in looks if look.max_seeds is None]
    if most is not None and _first_look_is_possible(folder, plan, FIRST_LOOK):
        asked = f"--seeds auto --max-seeds {most}"
    elif most is None and max(fixed) >= FIRST_LOOK - 1:
        asked = f"--seeds {max(fixed)} or more"
    else:
        return
    raise LabError(
        f"study {plan.study.name} was planned with {asked}, and its level cannot be spent twice: "
        f"ask for {asked}, or ask anew with another --results",
        exit_code=2,
    )


def _first_look_is_possible(folder: Path, plan: Plan, seeds: int) -> bool:
    """Whether the baseline has ended on the seeds of a first look, however few of them are asked for now."""
    from orchestrator.ended import done_states

    baseline = next(trial.config for trial in plan.trials if trial.arm == plan.study.baseline)
    keys = set(keys_by_seed(baseline, range(seeds)).values())
    return done_states(folder.parents[1], keys).keys() >= keys


def read_plan(folder: Path) -> dict[str, Any]:
    """Returns the content of `plan.json`, or an empty dict where there is none or it is damaged."""
    try:
        text = (folder / "plan.json").read_bytes()
        # 严格：下面返回的是原样的内容，"3" 不能当 3 用
        PlanFile.model_validate_json(text, strict=True)
        content = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    return {"looks": [], **content}


def plan_on_record(folder: Path) -> tuple[Plan, dict[str, Any]]:
    """Returns the plan as it was written down, with the content of `plan.json`; the study's file is not needed again.

    Raises:
        LabError: There is no plan, or it is damaged.
    """
    content = read_plan(folder)
    if not content:
        raise LabError(f"{folder / 'plan.json'} is missing or damaged; run the study again", exit_code=EXIT_NOTHING)
    try:
        study, base = Study.model_validate(content["asked"]), TrainConfig.model_validate(content["base"])
        seeds = tuple(range(content["planned_seeds"]))
        plan = Plan(
            study=study,
            dataset=content["dataset"],
            recipe=Recipe.model_validate(content["recipe"]),
            summary=DataSummary.model_validate(content["summary"]),
            base=base,
            trials=unfold(study, base, seeds),
            seeds=seeds,
            sweep_points=content["sweep_points"],
            done={},
            max_seeds=content.get("max_seeds"),
            retune=None if content.get("retune") is None else Retune.model_validate(content["retune"]),
        )
    except (KeyError, ValidationError, StudyError) as error:
        reason = str(error).splitlines()[0]
        raise LabError(
            f"{folder / 'plan.json'} is of an earlier version or damaged ({reason}); run the study again",
            exit_code=EXIT_NOTHING,
        ) from error
    return plan, content


def latest_plan(folder: Path, plan: Plan, content: Mapping[str, Any]) -> tuple[Plan, dict[str, Any]]:
    """Returns what a run judges at its end: its plan and content, with the looks that were taken meanwhile.

    Where another command has extended the same question and looked beyond this run's seeds, that is the plan on record.

    Args:
        folder: The study's folder.
        plan: The run's plan.
        content: What it wrote.
    """
    now = read_plan(folder)
    if _further_seeds(now, content) > 0 and max(now["looks"], default=0) > len(plan.seeds):
        return plan_on_record(folder)
    return plan, {**content, "looks": looks_on_record(folder, plan)}


def join_looks(folder: Path, looks: Sequence[RecordedLook]) -> None:
    """Adds looks that were taken on another machine; what is on record here already is passed over.

    Args:
        folder: The study's folder.
        looks: Taken there.
    """
    with locked(folder):
        earlier, content = _recorded(folder), read_plan(folder)
        further = [look for look in dict.fromkeys(looks) if look not in earlier]
        if not further:
            return
        append_looks(folder, [*_not_kept(folder), *further])
        if content:
            _write(folder, {**content, "looks": seeds_at([*earlier, *further], question_on_record(content))})


def add_look(folder: Path, content: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Writes down that the study was judged at `seeds` complete seeds; returns the plan's new content."""
    if not seeds or seeds in content["looks"]:
        return content
    question = question_on_record(content)
    look = RecordedLook(question=question, seeds=seeds, max_seeds=content.get("max_seeds"))
    with locked(folder):
        # 别的命令这时可能也看过、加过种子：重读之后再添上
        earlier, now = _recorded(folder), read_plan(folder)
        append_looks(folder, [*_not_kept(folder), *([] if look in earlier else [look])])
        looks = {"looks": seeds_at([*earlier, look], question)}
        _write(folder, {**(now if _further_seeds(now, content) >= 0 else content), **looks})
    return {**content, **looks}
