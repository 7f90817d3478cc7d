"""`plan.json`: what a study asked for, written before the first trial, and read by every later look."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alexnet_core.configuration.frozen import first_mistake
from alexnet_core.data.dataset import DataSummary
from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.plan import ALPHA, Plan
from orchestrator.records.files import append_line, locked, read_error, read_json_lines, write_atomically
from orchestrator.records.looks_file import (
    FILE,
    Question,
    RecordedLook,
    append_looks,
    question_of,
    read_looks,
    seeds_at,
    sharing,
)
from search_spaces.contrast import Contrast
from search_spaces.core_config import CoreConfig, EditedFields, TrialConfig, parse_config
from search_spaces.errors import StudyError
from search_spaces.study import Recipe, Retune, Study
from search_spaces.trial import KEY_LENGTH, Phase, keys_by_seed, unfold, varied_by

# 所有研究没有共同的 plan.json；这里记下它们各自的文件夹
STUDIES = "studies.json"
EDITS = "edits.jsonl"


class _LookFields(BaseModel):
    """What `plan.json` says of looks, read without its trials."""

    max_seeds: int | None = None
    looks: tuple[int, ...] = ()


Content = TypeVar("Content", bound=BaseModel)


class PlanRow(BaseModel):
    """A trial of `plan.json`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    arm: str
    seed: int = Field(ge=0)
    phase: Phase
    key: str = Field(pattern=rf"^[0-9a-f]{{{KEY_LENGTH}}}$")
    views: int = Field(default=1, ge=1)


class PlanFile(BaseModel):
    """What `plan.json` says; written back, it has the same fields as it was read with.

    What a study, its recipe and its baseline are is kept as plain data, so that a file of an earlier version keeps its
    bytes; `study_definition`, `recipe`, `base`, `summary` and `retune` are the same, validated when first read.

    Attributes:
        study: The study's name.
        dataset: Name of the recipe.
        primary_metric: The study's.
        arms: Names of its arms.
        baseline: The arm that the others are compared with.
        alpha: Family-wise level over all looks.
        margin: The recipe's.
        smallest_effect: The recipe's.
        planned_seeds: Seeds per arm; with `max_seeds` that maximum.
        max_seeds: Of `--seeds auto`; None where all seeds are wanted.
        looks: Numbers of seeds at which this question was judged, in their order.
        null: Whether the baseline is judged against itself.
        chosen_afterwards: Whether the comparison was chosen after the data were seen; never on disk.
        sweep_points: Points of the sweep.
        command: The command line of the last `ablate` that planned the study.
        skipped: Arms of which its run was asked to begin no other trial, where trials of them are missing.
        trials: Of the arms and of the re-tuning.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    study: str | None = None
    dataset: str
    primary_metric: str | None = None
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
    command: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    trials: tuple[PlanRow, ...]
    plain_asked: Any = Field(default=None, alias="asked")
    plain_recipe: Any = Field(default=None, alias="recipe")
    plain_base: Any = Field(default=None, alias="base")
    plain_summary: Any = Field(default=None, alias="summary")
    plain_retune: Any = Field(default=None, alias="retune")

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline!r} is none of the arms")
        # 少一格就配不成对
        cells = {(row.arm, row.seed) for row in self.trials if row.phase == "arm"}
        seeds = {seed for _, seed in cells}
        if cells != {(arm, seed) for arm in self.arms for seed in seeds}:
            raise ValueError("not every arm has a trial of every seed")
        return self

    @cached_property
    def study_definition(self) -> Study:
        """The study, as it was asked."""
        return Study.model_validate(self.plain_asked)

    @cached_property
    def recipe(self) -> Recipe:
        """Its recipe on the data set."""
        return Recipe.model_validate(self.plain_recipe)

    @cached_property
    def base(self) -> TrialConfig:
        """The baseline's configuration before any arm's edits, with seed 0."""
        return parse_config(self.plain_base)

    @cached_property
    def summary(self) -> DataSummary | None:
        """What is in the data; None for a core that does not say, and in a file of an earlier version of any core."""
        return None if self.plain_summary is None else DataSummary.model_validate(self.plain_summary)

    @cached_property
    def retune(self) -> Retune | None:
        """What every arm tunes for itself; None for nothing."""
        return None if self.plain_retune is None else Retune.model_validate(self.plain_retune)

    @property
    def question(self) -> Question:
        """What is compared."""
        rows = ((row.arm, row.seed, (row.key, row.views)) for row in self.trials if row.phase == "arm")
        return question_of(self.baseline, rows, self._contrasts)

    @property
    def _contrasts(self) -> tuple[Contrast, ...] | None:
        """What the study compares; None where that is each arm with the baseline."""
        asked = self.plain_asked if isinstance(self.plain_asked, dict) else {}
        # 旧文件没有这两个字段，研究也不必为此重新验证
        return self.study_definition.contrasts if any(map(asked.get, ("compare", "design", "kind"))) else None

    @property
    def content(self) -> dict[str, Any]:
        """The plain data that lies on disk."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def with_looks(self, looks: Sequence[int]) -> Self:
        """Returns the same plan after these looks."""
        return self.model_copy(update={"looks": tuple(looks)})


def write_plan(
    folder: Path,
    plan: Plan,
    command: Sequence[str],
    begun_with: PlanFile | None = None,
    skipped: Sequence[str] = (),
) -> PlanFile:
    """Writes `plan.json` and returns it; looks taken before are kept.

    Args:
        folder: The study's folder.
        plan: The plan.
        command: The command line, shown in the report.
        begun_with: What this run wrote when it began, where it only completes that; a plan on record that goes beyond
            it, another command's, is left as it is.
        skipped: Arms of which this run was asked to begin no other trial, where trials of them are missing.
    """
    planned = _file_of(plan, command)
    if skipped:
        # 没有跳过就不写：从前的 plan.json 字节不变
        planned = planned.model_copy(update={"skipped": tuple(skipped)})
    with locked(folder):
        _remember_edits(folder, plan.base)
        before, question = read_plan(folder), planned.question
        earlier = _recorded(folder)
        rule = _rule(earlier, question)
        first_look = RecordedLook(question=question, seeds=0, max_seeds=plan.max_seeds)
        # 规则在第一个 trial 之前就写下，之后不能改判
        append_looks(folder, [*_not_kept(folder), *([first_look] if plan.max_seeds != rule else [])])
        planned = planned.with_looks(seeds_at(earlier, question))
        if before is not None and _asks_the_same(planned, before):
            # 问的还是同一件事：记下的命令是当初问它的那一条
            planned = planned.model_copy(update={"command": before.command})
        if begun_with is None or _further_seeds(before, begun_with) <= 0:
            _write(folder, planned)
    return planned


def _remember_edits(folder: Path, base: TrialConfig) -> None:
    """Keeps what a core's own code made of the edits planned, for those who read without it."""
    if isinstance(base, CoreConfig):
        known = _read_edits(folder)
        for name, edited in base.edits_made.items():
            if name not in known:
                append_line(folder / EDITS, {"edit": name, **edited.model_dump(mode="json")})


def _read_edits(folder: Path) -> dict[str, EditedFields]:
    """What became of edits, by name; a torn line is passed over."""
    edits = {}
    for row in read_json_lines(folder / EDITS):
        with suppress(ValidationError, KeyError):
            edits[str(row["edit"])] = EditedFields.model_validate({"fields": row["fields"], "digest": row["digest"]})
    return edits


def _file_of(plan: Plan, command: Sequence[str]) -> PlanFile:
    """What is written of a plan, before its looks are known."""
    return PlanFile.model_validate(
        {
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
            "summary": None if plan.summary is None else plan.summary.model_dump(mode="json"),
            "sweep_points": plan.sweep_points,
            "command": list(command),
            "trials": [
                {"arm": trial.arm, "seed": trial.seed, "phase": trial.phase, "key": trial.key, "views": trial.views}
                for trial in (*plan.trials, *plan.further)
            ],
            "null": plan.null,
            "retune": None if plan.retune is None else plan.retune.model_dump(mode="json"),
        }
    )


def _write(folder: Path, plan_file: PlanFile) -> None:
    write_atomically(folder / "plan.json", json.dumps(plan_file.content, indent=1, sort_keys=True).encode())


def _question(plan: Plan) -> Question:
    rows = ((trial.arm, trial.seed, (trial.key, trial.views)) for trial in plan.trials)
    return question_of(plan.study.baseline, rows, plan.study.contrasts)


def _recorded(folder: Path) -> list[RecordedLook]:
    """The looks on record; those of a `plan.json` that was written before they had a file of their own too."""
    looks = read_looks(folder)
    return _looks_told_by_plan(folder) if looks is None else looks


def _not_kept(folder: Path) -> list[RecordedLook]:
    return _looks_told_by_plan(folder) if read_looks(folder) is None else []


def _looks_told_by_plan(folder: Path) -> list[RecordedLook]:
    """The looks that a `plan.json` tells of, which were all that was kept before they had a file of their own."""
    told = _read(_LookFields, folder)
    # 十万行的计划，没有看过就不必逐行验证
    plan_file = read_plan(folder) if told is not None and (told.looks or told.max_seeds is not None) else None
    if plan_file is None:
        return []
    question, most = plan_file.question, plan_file.max_seeds
    planned = [] if most is None else [0]
    return [RecordedLook(question=question, seeds=seeds, max_seeds=most) for seeds in (*planned, *plan_file.looks)]


def _rule(looks: Sequence[RecordedLook], question: Question) -> int | None:
    """The maximum of `--seeds auto` under which a question was planned last; None for the fixed rule."""
    same = sharing(looks, question)
    return same[-1].max_seeds if same else None


def _asks_the_same(now: PlanFile, before: PlanFile) -> bool:
    """Whether a plan is that on record, whatever is known of its re-tuning and its looks by now."""
    beside = {"command", "looks", "trials"}
    return all(getattr(now, name) == getattr(before, name) for name in PlanFile.model_fields if name not in beside)


def _further_seeds(now: PlanFile | None, written: PlanFile) -> int:
    """How many more seeds the plan on record asks for; -1 where they are fewer, or it does not ask the same."""
    if now is None:
        return -1
    names = ("plain_asked", "plain_recipe", "plain_base", "plain_retune", "max_seeds", "null")
    same = all(getattr(now, name) == getattr(written, name) for name in names)
    return max(-1, now.planned_seeds - written.planned_seeds) if same else -1


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
        options = f"--seeds auto --max-seeds {most}"
    elif most is None and max(fixed) >= FIRST_LOOK - 1:
        options = f"--seeds {max(fixed)} or more"
    else:
        return
    raise LabError(
        f"study {plan.study.name} was planned with {options}, and its level cannot be spent twice: "
        f"ask for {options}, or ask anew with another --results",
        exit_code=ExitCode.WRONG_USE,
    )


def replaced_question(folder: Path, plan: Plan) -> str:
    """Says that the report of a study that is asked under the same name was of another question; nothing else.

    Args:
        folder: The study's folder.
        plan: What is asked now.
    """
    before = read_plan(folder) if (folder / "answer.json").is_file() else None
    if before is None:
        return ""
    old = {(row.arm, row.seed): row.key for row in before.trials if row.phase == "arm"}
    new = {(trial.arm, trial.seed): trial.key for trial in plan.trials}
    changed = {arm for (arm, seed), key in new.items() if (arm, seed) in old and old[arm, seed] != key}
    arms = {arm.name for arm in plan.study.arms}
    parts = {
        "other trainings of": changed,
        "without": arms - set(before.arms),
        "with": set(before.arms) - arms,
    }
    reasons = [f"{what} {', '.join(sorted(names))}" for what, names in parts.items() if names]
    if before.baseline != plan.study.baseline:
        reasons.append(f"baseline {before.baseline}")
    if before.margin != plan.recipe.margin:
        reasons.append(f"margin {before.margin:g}")
    if before.smallest_effect != plan.recipe.smallest_effect:
        reasons.append(f"smallest effect {before.smallest_effect:g}")
    reasons += _compared_otherwise(before, plan.study)
    if not reasons:
        return ""
    return (
        f"note: the report in {folder} was of another question ({'; '.join(reasons)}), and this one replaces it; its "
        "trials stay on record, and another name for the study keeps both"
    )


def _compared_otherwise(before: PlanFile, study: Study) -> Iterator[str]:
    """How the arms were compared before, where that was otherwise."""
    asked = before.plain_asked if isinstance(before.plain_asked, dict) else {}
    was, now = _comparison(asked), _comparison(study.model_dump(mode="json"))
    for name in (name for name in was if was[name] != now[name]):
        yield f"{name.replace('_', ' ')} {_as_written(was[name])}"


def _comparison(asked: Mapping[str, Any]) -> dict[str, Any]:
    design = asked.get("design")
    return {
        "primary_metric": asked.get("primary_metric", "top1_error"),
        # 旧文件没有的字段，就是当时唯一的做法
        "statistic": asked.get("statistic", "difference"),
        "kind": asked.get("kind"),
        "design": design,
        "compare": asked.get("compare") or ("baseline" if design is None else None),
    }


def _as_written(compared: Any) -> str:
    if compared is None:
        return "not given"
    return compared if isinstance(compared, str) else ", ".join("-vs-".join(pair) for pair in compared)


def _first_look_is_possible(folder: Path, plan: Plan, seeds: int) -> bool:
    """Whether the baseline has ended on the seeds of a first look, however few of them are asked for now."""
    from orchestrator.tables.tables import done_states

    baseline = next(trial.config for trial in plan.trials if trial.arm == plan.study.baseline)
    varies = varied_by(plan.study, plan.base, plan.study.arm(plan.study.baseline))
    keys = set(keys_by_seed(baseline, range(seeds), varies).values())
    return done_states(folder.parents[1], keys).keys() >= keys


def read_plan(folder: Path) -> PlanFile | None:
    """Returns what `plan.json` says, or None where there is none or it is damaged.

    Raises:
        LabError: It is there and cannot be read: taken for none, it would let a closed study spend its level again.
    """
    plan_file = _read(PlanFile, folder)
    return None if plan_file is None else plan_file.with_looks(plan_file.looks)


def _read(kind: type[Content], folder: Path) -> Content | None:
    path = folder / "plan.json"
    try:
        # 严格："3" 不能当 3 用
        return kind.model_validate_json(path.read_bytes(), strict=True)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    except OSError as error:
        raise read_error(path, error) from error


def plan_on_record(folder: Path) -> tuple[Plan, PlanFile]:
    """Returns the plan as it was written down, with its file; the study's own file is not needed again.

    Raises:
        LabError: There is no plan, or it is damaged.
    """
    plan_file = read_plan(folder)
    if plan_file is None:
        raise LabError(f"{folder / 'plan.json'} is missing or damaged; run the study again", exit_code=ExitCode.NOTHING)
    try:
        seeds, base = tuple(range(plan_file.planned_seeds)), plan_file.base
        if isinstance(base, CoreConfig):
            base.remember(_read_edits(folder))
        plan = Plan(
            study=plan_file.study_definition,
            dataset=plan_file.dataset,
            recipe=plan_file.recipe,
            summary=plan_file.summary,
            base=base,
            trials=unfold(plan_file.study_definition, base, seeds),
            seeds=seeds,
            sweep_points=plan_file.sweep_points,
            max_seeds=plan_file.max_seeds,
            retune=plan_file.retune,
            null=plan_file.null,
        )
    except (KeyError, ValidationError, StudyError) as error:
        reason = first_mistake(error) if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise LabError(
            f"{folder / 'plan.json'} is of an earlier version or damaged ({reason}); run the study again",
            exit_code=ExitCode.NOTHING,
        ) from error
    return plan, plan_file


def latest_plan(folder: Path, plan: Plan, written: PlanFile) -> tuple[Plan, PlanFile]:
    """Returns what a run judges at its end: its plan and file, with the looks that were taken meanwhile.

    Where another command has extended the same question and looked beyond this run's seeds, that is the plan on record.

    Args:
        folder: The study's folder.
        plan: The run's plan.
        written: What it wrote.
    """
    now = read_plan(folder)
    if now is not None and _further_seeds(now, written) > 0 and max(now.looks, default=0) > len(plan.seeds):
        return plan_on_record(folder)
    return plan, written.with_looks(looks_on_record(folder, plan))


def join_looks(folder: Path, looks: Sequence[RecordedLook]) -> None:
    """Adds looks that were taken on another machine; what is on record here already is passed over.

    Args:
        folder: The study's folder.
        looks: Taken there.
    """
    with locked(folder):
        earlier, plan_file = _recorded(folder), read_plan(folder)
        further = [look for look in dict.fromkeys(looks) if look not in earlier]
        if not further:
            return
        append_looks(folder, [*_not_kept(folder), *further])
        if plan_file is not None:
            _write(folder, plan_file.with_looks(seeds_at([*earlier, *further], plan_file.question)))


def add_look(folder: Path, plan_file: PlanFile, seeds: int) -> PlanFile:
    """Writes down that the study was judged at `seeds` complete seeds; returns the plan after that look."""
    if not seeds or (seeds in plan_file.looks and (folder / FILE).is_file()):
        return plan_file
    question = plan_file.question
    look = RecordedLook(question=question, seeds=seeds, max_seeds=plan_file.max_seeds)
    with locked(folder):
        # 别的命令这时可能也看过、加过种子：重读之后再添上
        earlier, now = _recorded(folder), read_plan(folder)
        append_looks(folder, [*_not_kept(folder), *([] if look in earlier else [look])])
        looks = seeds_at([*earlier, look], question)
        latest = now if now is not None and _further_seeds(now, plan_file) >= 0 else plan_file
        _write(folder, latest.with_looks(looks))
    return plan_file.with_looks(looks)


def write_studies(
    folder: Path, dataset: str, studies: Sequence[str], before: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Writes down which studies are asked together, so that `status` can show them.

    Args:
        folder: Of `--study paper`, or of one study on several data sets.
        dataset: The data set, or all of them, as shown.
        studies: Names of the studies' folders.
        before: Of several data sets: what was on record when they were first asked together.
    """
    content = {"dataset": dataset, "studies": list(studies), **(before or {})}
    write_atomically(folder / STUDIES, json.dumps(content, indent=1).encode())
