"""`plan.json`: what a study asked for, written before the first trial, and read by every later look."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.dataset import DataSummary
from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.plan import ALPHA, Plan
from orchestrator.records.files import locked, write_atomically
from orchestrator.records.looks_file import (
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
from search_spaces.errors import StudyError
from search_spaces.study import Recipe, Retune, Study
from search_spaces.trial import KEY_LENGTH, Phase, keys_by_seed, unfold

# 所有研究没有共同的 plan.json；这里记下它们各自的文件夹
STUDIES = "studies.json"


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
    from orchestrator.statistics.alpha_spending import FIRST_LOOK

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
    from orchestrator.tables.tables import done_states

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
        raise LabError(f"{folder / 'plan.json'} is missing or damaged; run the study again", exit_code=ExitCode.NOTHING)
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
            exit_code=ExitCode.NOTHING,
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


def write_studies(folder: Path, dataset: str, studies: Sequence[str]) -> None:
    """Writes down which studies are asked together, so that `status` can show them.

    Args:
        folder: Of `--study paper`.
        dataset: The data set.
        studies: Names of the studies' folders.
    """
    content = {"dataset": dataset, "studies": list(studies)}
    write_atomically(folder / STUDIES, json.dumps(content, indent=1).encode())
