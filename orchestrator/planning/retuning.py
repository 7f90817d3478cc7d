"""Fair ablation: every arm, the baseline too, tunes one nuisance parameter with the same small budget.

The values tried are the recipe's own and a fixed sequence over the range, the same for every arm, each on a tuning seed
that no verdict uses. An arm's best value is then trained on the judged seeds. Everything here follows from the records,
so that an interrupted run goes on and a second one trains nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

from alexnet_core.configuration.frozen import Frozen
from alexnet_core.configuration.metrics import EpochReport
from alexnet_core.configuration.wording import counted
from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.plan import RETUNED, TUNING, TUNING_SEED, Plan
from orchestrator.records import layout
from orchestrator.records.checked_record import Curve, Record, ended_curve, read_record
from orchestrator.records.trial_record import TrialResult, TrialState
from search_spaces.core_config import CoreConfig, CoreDescription, TrialConfig, flattened, readable
from search_spaces.edits import arm_fields, edited, field_values
from search_spaces.errors import StudyError
from search_spaces.study import Recipe, Retune, Study
from search_spaces.trial import PlannedTrial, point_trial, unfold, varied_by

TRAINING = "training."
DECADE = 10.0
LEAVE_OUT = "--tuning-trials 0 leaves the re-tuning out"


class TuningTrial(Frozen):
    """One value of the re-tuned parameter, tried by one arm on a tuning seed.

    Attributes:
        arm: The arm.
        seed: The tuning seed.
        value: Of the parameter.
        key: The trial.
        said: How it ended.
        chosen: Whether it is the arm's best.
    """

    arm: str
    seed: int
    value: float
    key: str
    said: str
    chosen: bool = False


def retune_of(study: Study, base: TrialConfig, name: str | None, trials: int | None) -> Retune | None:
    """Returns what a run re-tunes: what the command asks, else what the study does by itself, else nothing.

    Args:
        study: The study.
        base: Where the arms start from.
        name: A field of the training, such as `learning_rate`; None leaves it to the study.
        trials: Tuning trials of each arm; None leaves it to the study (8 where it says nothing), 0 re-tunes nothing.

    Raises:
        StudyError: The field is no positive number, a value of its range is not valid, or an arm sets it itself.
        LabError: Nothing is re-tuned.
    """
    if trials == 0 or (name is None and study.retune is None):
        if trials and name is None:
            raise LabError(
                f"study {study.name} re-tunes nothing by itself; add --retune learning_rate",
                exit_code=ExitCode.WRONG_USE,
            )
        return None
    evaluated = [arm.name for arm in study.arms if arm.views != study.arm(study.baseline).views]
    if evaluated:
        raise LabError(
            f"--retune: arm {evaluated[0]} only evaluates trained trials, nothing is tuned",
            exit_code=ExitCode.WRONG_USE,
        )
    who = "--retune" if name is not None else f"study {study.name}, retune"
    place = ("retune", "parameter") if name is None else ()
    parameter = (study.retune or Retune(low=1, high=2)).parameter
    if name is not None:
        parameter = name if isinstance(base, CoreConfig) else f"{TRAINING}{name.removeprefix(TRAINING)}"
    known = study.retune if study.retune is not None and study.retune.parameter == parameter else None
    tunable = _tunable(base)
    base_value = _value(base, parameter)
    if not _is_positive(base_value) or (known is None and parameter not in tunable):
        names = ", ".join(path.removeprefix(TRAINING) for path in tunable) or "none"
        raise StudyError(
            f"{who}: {parameter} is no number above 0 that could be tuned over a decade each way; such are {names}",
            place,
        )
    for arm in study.arms:
        if parameter in arm_fields(base, arm):
            raise StudyError(f"{who}: arm {arm.name} sets {parameter} itself, so that it cannot be tuned", place)
    # 研究文件没给范围时，就取上下各一个数量级
    retune = known or tunable[parameter]
    retune = retune if trials is None else retune.model_copy(update={"trials": trials})
    for value in tuning_values(float(base_value), retune):
        try:
            edited(base, {parameter: value}, (), who)
        except StudyError as error:
            raise StudyError(str(error), place[:1]) from error
    return retune


def _value(config: TrialConfig, parameter: str) -> Any:
    """The value of a field; None where there is no such field."""
    with suppress(AttributeError):
        values = field_values(config, parameter)
        return values[0] if len(values) == 1 else None
    return None


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _tunable(base: TrialConfig) -> dict[str, Retune]:
    """What could be tuned from a tenth to ten times its value: both ends, and a broken number, must be valid."""
    tunable = {}
    fields = flattened(base.fields) if isinstance(base, CoreConfig) else {f"{TRAINING}{k}": v for k, v in base.training}
    for path, base_value in fields.items():
        if not _is_positive(base_value):
            continue
        ends = {"low": base_value / DECADE, "high": base_value * DECADE}
        with suppress(StudyError):
            for value in (*ends.values(), base_value * math.sqrt(DECADE)):
                edited(base, {path: value}, (), "--retune")
            tunable[path] = Retune(parameter=path, **ends)
    return tunable


def tuning_values(recipe_value: float, retune: Retune) -> tuple[float, ...]:
    """Returns the values that every arm tries: the recipe's, then van der Corput's sequence on the logarithmic range.

    The sequence covers the range evenly however long it is, and a longer one begins with the shorter. Three digits; no
    value is tried twice, such as the recipe's own in the middle of its two decades.
    """
    span = math.log(retune.high / retune.low)
    points = (retune.low * math.exp(span * _van_der_corput(index)) for index in count(1))
    rounded = (float(f"{value:.3g}") for value in points)
    distinct = dict.fromkeys([float(f"{recipe_value:.3g}")])
    while len(distinct) < retune.trials:
        distinct[next(rounded)] = None
    return (recipe_value, *islice(distinct, 1, None))


def _van_der_corput(index: int) -> float:
    """1/2, 1/4, 3/4, 1/8, 5/8, ...: the binary digits of the index behind the point, in reverse."""
    digits = f"{index:b}"
    return int(digits[::-1], 2) / 2.0 ** len(digits)


def tuning_trials(plan: Plan) -> tuple[PlannedTrial, ...]:
    """Returns every arm's tuning trials; the i-th value of all arms has the same seed, 1000 + i."""
    if plan.retune is None:
        return ()
    values = tuning_values(_value(plan.base, plan.retune.parameter), plan.retune)
    return tuple(
        _with_value(plan, trial, value, "tuning")
        for place, value in enumerate(values)
        for trial in unfold(plan.study, plan.base, (TUNING_SEED + place,))
    )


def retuned_trials(plan: Plan, chosen: Mapping[str, float]) -> tuple[PlannedTrial, ...]:
    """Returns the trials of the judged seeds, each arm with its own best value.

    Args:
        plan: The plan.
        chosen: Value by arm, see `compared_values`; empty while the tuning has not ended.
    """
    return tuple(_with_value(plan, trial, chosen[trial.arm], "retuned") for trial in plan.trials if trial.arm in chosen)


def _field(retune: Retune) -> str:
    return retune.parameter.removeprefix(TRAINING)


def _with_value(plan: Plan, trial: PlannedTrial, value: float, phase: Literal["tuning", "retuned"]) -> PlannedTrial:
    assert plan.retune is not None
    name = f"{trial.arm}{TUNING if phase == 'tuning' else RETUNED}"
    point, what = {plan.retune.parameter: value}, f"re-tuning of study {plan.study.name}"
    # 调参的种子与 arm 的种子抽同样的东西，否则两边不是同一种比较
    varies = varied_by(plan.study, plan.base, plan.study.arm(trial.arm))
    return point_trial(trial.config, point, trial.seed, arm=name, phase=phase, what=what, varies=varies)


def tuning_outcomes(plan: Plan, results: Path) -> tuple[TuningTrial, ...]:
    """Returns how the tuning trials ended, each arm's best marked; those that have not ended are not there."""
    scored: dict[str, list[tuple[tuple[float, float], TuningTrial]]] = {arm.name: [] for arm in plan.study.arms}
    trials = tuning_trials(plan)
    for trial in trials:
        folder = layout.trial_folder(results, trial.key)
        record = read_record(folder)
        if record is None or plan.retune is None:
            continue
        arm = trial.arm.removesuffix(TUNING)
        score, outcome = _score(record, folder, plan.study, plan.recipe)
        value = float(_value(trial.config, plan.retune.parameter))
        scored[arm].append((score, TuningTrial(arm=arm, seed=trial.seed, value=value, key=trial.key, said=outcome)))
    # 所有 arm 都调完才选：先调完的不能先得种子
    complete = sum(map(len, scored.values())) == len(trials)
    return tuple(
        shown.model_copy(update={"chosen": complete and place == _best([score for score, _ in of_arm])})
        for of_arm in scored.values()
        for place, (_, shown) in enumerate(of_arm)
    )


def _best(scores: Sequence[tuple[float, float]]) -> int | None:
    """The place of the lowest score, the first of equal ones; None where no trial has one."""
    place = min(range(len(scores)), key=lambda index: scores[index])
    return place if math.isfinite(scores[place][1]) else None


def _score(record: Record, folder: Path, study: Study, recipe: Recipe) -> tuple[tuple[float, float], str]:
    """What is compared (less is better), and in words: the primary metric where that is one of training alone."""
    config, result = record
    if isinstance(config, CoreConfig):
        return _score_of_core(config.core, result)
    if result.state is not TrialState.FINISHED or result.validation is None:
        return (math.inf, math.inf), str(result.state)
    if recipe.threshold is not None:
        return _time_score(ended_curve(folder, result), recipe.threshold)
    if study.primary_metric == "training_error" and result.train_final is not None:
        error = 100.0 * result.train_final.top1_error
        return (error, error), f"training error {error:.2f} %"
    error = 100.0 * result.validation.top1_error
    return (error, error), f"validation error {error:.2f} %"


def _score_of_core(core: CoreDescription, result: TrialResult) -> tuple[tuple[float, float], str]:
    """The metric that chooses, whatever is judged."""
    if result.state is not TrialState.FINISHED or core.chosen_by not in result.metrics:
        return (math.inf, math.inf), str(result.state)
    value = result.metrics[core.chosen_by]
    objective = core.chosen.objective(value)
    return (objective, objective), f"{readable(core.chosen_by)} {core.chosen.text(value)}"


def _time_score(curve: Curve, threshold: float) -> tuple[tuple[float, float], str]:
    """Fewest epochs to the threshold; of equal ones the lower error there, and of those never there at the end."""
    if curve.misfit:
        return (math.inf, math.inf), f"its epochs.jsonl {curve.misfit}"
    errors = [100.0 * report.train.top1_error for report in curve.reports if isinstance(report, EpochReport)]
    there = next((place for place, error in enumerate(errors) if error <= threshold + 1e-9), None)
    if there is not None:
        return (there + 1.0, errors[there]), counted(there + 1, "epoch")
    last = errors[-1] if errors else math.inf
    return (math.inf, last), f"> {counted(len(errors), 'epoch')}, {last:.1f} % at the end"


def chosen_values(outcomes: Sequence[TuningTrial]) -> dict[str, float]:
    """Returns each arm's best value; empty while the tuning has not ended."""
    return {outcome.arm: outcome.value for outcome in outcomes if outcome.chosen}


def compared_values(study: Study, outcomes: Sequence[TuningTrial]) -> dict[str, float]:
    """Returns the best values of the arms that are compared re-tuned; none without the baseline's and another's.

    None either where an arm that contrasts need has no best: effects and ladders would not be those that were asked.
    """
    chosen = chosen_values(outcomes)
    complete = not _needs_every_arm(study) or all(arm.name in chosen for arm in study.arms)
    return chosen if complete and study.baseline in chosen and len(chosen) > 1 else {}


def _needs_every_arm(study: Study) -> bool:
    return any(contrast.kind != "arm" for contrast in study.contrasts)


def without_best(plan: Plan, outcomes: Sequence[TuningTrial]) -> tuple[str, ...]:
    """Says of each arm none of whose tuning trials finished that its re-tuned comparison is missing, and why."""
    if plan.retune is None or len(outcomes) < len(tuning_trials(plan)):
        return ()
    chosen = chosen_values(outcomes)
    lost = [arm.name for arm in plan.study.arms if arm.name not in chosen]
    ends = {name: Counter(outcome.said for outcome in outcomes if outcome.arm == name) for name in lost}
    missing = dict.fromkeys(lost, f"its re-tuned comparison is missing, and {LEAVE_OUT}")
    if _needs_every_arm(plan.study):
        missing = dict.fromkeys(lost, f"nothing is compared re-tuned, since the contrasts need every arm; {LEAVE_OUT}")
    elif plan.study.baseline in lost:
        missing[plan.study.baseline] = f"no arm can be compared with it re-tuned; {LEAVE_OUT}"
    counted = {name: ", ".join(f"{count} {outcome}" for outcome, count in ends[name].items()) for name in lost}
    return tuple(
        f"No tuning trial of {name} finished ({counted[name]}), "
        f"so that it has no best {_field(plan.retune)}: {missing[name]}."
        for name in lost
    )


def with_retuning(plan: Plan, results: Path) -> Plan:
    """Returns the plan with the trials of its re-tuning, as far as the records say which they are."""
    if plan.retune is None:
        return plan
    chosen = compared_values(plan.study, tuning_outcomes(plan, results))
    return replace(plan, further=(*tuning_trials(plan), *retuned_trials(plan, chosen)))


def further_missing(plan: Plan, ended: Collection[str]) -> tuple[PlannedTrial, ...]:
    """Returns the known trials of the re-tuning that are to be trained for it, each key once.

    Args:
        plan: The plan.
        ended: Keys of the trials that are on record and not run again. What an arm wants anyway is left out, too.
    """
    not_trained = {*ended, *(trial.key for trial in plan.trials)}
    return tuple({trial.key: trial for trial in plan.further if trial.key not in not_trained}.values())


def is_tuned(plan: Plan, ended: Collection[str]) -> bool:
    """Whether it is known what is trained with the best values, be it nothing."""
    all_ended = all(trial.key in ended for trial in plan.further if trial.phase == "tuning")
    return any(trial.phase == "retuned" for trial in plan.further) or (bool(plan.further) and all_ended)
