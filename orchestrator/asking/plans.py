"""What `ablate` says of studies without asking them: `--list`, `--dry-run` and `--show` as data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet_core.configuration.frozen import Frozen
from orchestrator.judging.outlook import resolution_outlook
from orchestrator.output.document import Document
from orchestrator.planning.estimate import Estimate, Price
from orchestrator.planning.summary import (
    ArmPlan,
    arm_plans,
    arm_remarks,
    code_remarks,
    data_remarks,
    large_batches,
    left_out_retuning,
)
from orchestrator.running.agenda import Agenda, PlannedStudy
from search_spaces.study import load_study, study_names
from search_spaces.trial import Phase, PlannedTrial


class ListedArm(Frozen):
    """An arm of a study that can be asked.

    Attributes:
        name: The arm.
        title: What it is.
    """

    name: str
    title: str


class ListedStudy(Frozen):
    """A study that can be asked.

    Attributes:
        name: Its name.
        question: The question.
        source: Where it comes from.
        claim: The paper's claim in words.
        primary_metric: What is judged.
        statistic: How arms are compared.
        baseline: The arm that the others are compared with; empty for a reproduction.
        arms: All arms.
        datasets: Data sets that it has a recipe for.
        not_asked: Data sets on which it makes no sense, and why.
    """

    name: str
    question: str
    source: str
    claim: str
    primary_metric: str
    statistic: str
    baseline: str
    arms: tuple[ListedArm, ...]
    datasets: tuple[str, ...]
    not_asked: dict[str, str]


class StudiesDocument(Document):
    """What `ablate --list` answers with `--json`.

    Attributes:
        studies: Those of the package.
    """

    studies: tuple[ListedStudy, ...]


def listed_studies() -> StudiesDocument:
    """Returns the studies that come with the package."""
    studies = [load_study(name) for name in study_names()]
    return StudiesDocument(
        studies=tuple(
            ListedStudy(
                name=study.name,
                question=study.question,
                source=study.source,
                claim="" if study.claim is None else study.claim.statement,
                primary_metric=study.primary_metric,
                statistic=study.statistic,
                baseline=study.compared_with,
                arms=tuple(ListedArm(name=arm.name, title=arm.title) for arm in study.arms),
                datasets=tuple(study.recipes),
                not_asked=study.not_asked,
            )
            for study in studies
        )
    )


class Cost(Frozen):
    """What trials will cost, as far as such trials are on record.

    Attributes:
        trials: How many are to be trained, at most.
        epochs: Of all of them.
        unknown: Trials of which no epoch was measured; the times leave them out.
        seconds: Wall seconds on the slots; None where nothing was measured.
        hours: Hours of reserved GPUs, or of slots on the CPU; None where nothing was measured.
        unit: Which of the two.
        slots: Trials at once.
    """

    trials: int
    epochs: int
    unknown: int
    seconds: float | None
    hours: float | None
    unit: str
    slots: int


class PhaseWork(Frozen):
    """What one phase of a study has still to do.

    Attributes:
        phase: `arm`, `sweep`, `confirmation`, `tuning` or `retuned`.
        trials: How many trials are left.
        at_most: Whether it may be fewer, as that follows from what is not on record yet.
    """

    phase: Phase
    trials: int
    at_most: bool


class StudyPlan(Frozen):
    """What asking a study would do.

    Attributes:
        study: Its name.
        dataset: The data set.
        folder: Where its plan and its report will lie.
        seeds: Seeds per arm.
        arms: What each arm has on record and to run.
        left: What is to be done, phase by phase.
        cost: Of that.
        outlook: Whether so many seeds can reach a verdict, in words.
        notes: What to know of data and batches.
    """

    study: str
    dataset: str
    folder: Path
    seeds: int
    arms: tuple[ArmPlan, ...]
    left: tuple[PhaseWork, ...]
    cost: Cost
    outlook: str
    notes: tuple[str, ...]


class PlansDocument(Document):
    """What `ablate --dry-run` answers with `--json`.

    Attributes:
        plans: One per study.
        cost: Of all of them, where a trial that studies share is trained once.
        not_asked: Why other studies are not asked on this data set, by name.
    """

    plans: tuple[StudyPlan, ...]
    cost: Cost
    not_asked: dict[str, str] = {}


def plans_document(agenda: Agenda, price: Price) -> PlansDocument:
    """Returns what asking would do.

    Args:
        agenda: What is asked.
        price: What trainings cost.
    """
    return PlansDocument(
        plans=tuple(_study_plan(study, agenda, price) for study in agenda.studies),
        cost=_cost(price(agenda.work.of())),
        not_asked=dict(agenda.not_asked),
    )


def _study_plan(study: PlannedStudy, agenda: Agenda, price: Price) -> StudyPlan:
    plan = study.plan
    others = {agenda.label(other.plan): other.plan for other in agenda.studies if other is not study}
    return StudyPlan(
        study=plan.study.name,
        dataset=plan.dataset,
        folder=study.folder.resolve(),
        seeds=len(plan.seeds),
        arms=tuple(arm_plans(plan, study.on_record, others)),
        left=tuple(_work_left(study)),
        cost=_cost(price(study.work.of())),
        outlook=resolution_outlook(plan, study.folder),
        notes=(
            *data_remarks(plan),
            *code_remarks(plan),
            *left_out_retuning(plan),
            *large_batches(plan),
            *arm_remarks(plan),
        ),
    )


def _work_left(study: PlannedStudy) -> Iterator[PhaseWork]:
    for name, phase in study.work.phases.items():
        yield PhaseWork(phase=name, trials=phase.left, at_most=not phase.exact)


def _cost(estimate: Estimate) -> Cost:
    is_known = estimate.unknown < estimate.trials or not estimate.trials
    return Cost(
        trials=estimate.trials,
        epochs=estimate.epochs,
        unknown=estimate.unknown,
        seconds=estimate.wall_seconds if is_known else None,
        hours=estimate.place.hours(estimate.slot_seconds) if is_known else None,
        unit=estimate.place.unit,
        slots=estimate.place.slots,
    )


class TrialDocument(Document):
    """What `ablate --show` answers with `--json`.

    Attributes:
        study: The study.
        arm: The arm.
        seed: The seed.
        key: The trial's name.
        configuration: What is trained, resolved.
    """

    study: str
    arm: str
    seed: int
    key: str
    configuration: dict[str, Any]


def trial_document(study: str, trial: PlannedTrial) -> TrialDocument:
    """Returns a trial's resolved configuration."""
    configuration = trial.config.model_dump(mode="json")
    return TrialDocument(study=study, arm=trial.arm, seed=trial.seed, key=trial.key, configuration=configuration)
