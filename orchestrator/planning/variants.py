"""Plans made of other plans: all studies together, the noise floor, comparisons chosen afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from alexnet_core.configuration.network_spec import layer_shapes
from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.configuration.wording import counted
from orchestrator.choices import PAPER
from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.plan import TUNING_SEED, Plan
from orchestrator.planning.plan_file import PlanFile
from search_spaces.arm import LONGEST_NAME, Arm, Claim
from search_spaces.core_config import TrialConfig
from search_spaces.edits import concrete_fields, edited, field_values
from search_spaces.errors import StudyError
from search_spaces.study import Recipe, Study
from search_spaces.trial import PlannedTrial, unfold

OTHER_SEEDS = "other_seeds"
MATCHED = "_matched"
NULL = "-null"
MATCHES_WITHIN = 0.01
# 设计与比较方式不再适用：只拿 arm 与基线比
AGAINST_BASELINE = {"design": None, "factors": None, "compare": None}


def with_controls(study: Study, base: TrialConfig) -> Study:
    """Returns the study with a control of equal size beside each arm that offers one.

    Args:
        study: The study, on a data set.
        base: The configuration that its arms start from.

    Raises:
        LabError: It offers none, or compares otherwise than with the baseline.
        StudyError: No value of the field gives the baseline's size within 1 %, or a control has another arm's name.
    """
    offering = [arm for arm in study.arms if arm.match is not None]
    if not offering or not isinstance(base, TrainConfig):
        raise LabError(
            f"study {study.name} offers no control of equal size: leave --matched out, or give an arm match and by",
            exit_code=ExitCode.WRONG_USE,
        )
    if any(contrast.kind != "arm" for contrast in study.contrasts):
        raise LabError(
            f"--matched compares controls with the baseline, and study {study.name} compares otherwise",
            exit_code=ExitCode.WRONG_USE,
        )
    names = [*(arm.name for arm in study.arms), *map(_control_name, offering)]
    for arm in offering:
        if names.count(name := _control_name(arm)) > 1:
            raise StudyError(
                f"arm {arm.name}: its control of equal size is called {name}, and so is another arm; give one of the "
                "two another name",
                ("arms", study.place(arm), "name"),
            )
    controls = (_control(study, base, arm) for arm in offering)
    # 接在最后：文件里 arm 的次序不变，错误才找得到地方
    added = tuple(control for control in controls if control is not None)
    return study.model_copy(update={"arms": (*study.arms, *added)})


def controls_in(study: Study) -> list[Arm]:
    """Returns the controls of a study that `with_controls` has returned."""
    names = {_control_name(arm) for arm in study.arms if arm.match is not None}
    return [arm for arm in study.arms if arm.name in names]


def _control_name(arm: Arm) -> str:
    return f"{arm.name[: LONGEST_NAME - len(MATCHED)]}{MATCHED}"


def _control(study: Study, base: TrainConfig, arm: Arm) -> Arm | None:
    """The arm with the field solved, and in its title what came of it; None where it has that size already."""
    assert arm.match is not None
    assert arm.by is not None
    baseline, place = study.arm(study.baseline), study.place(arm)
    target = size_of(edited(base, baseline.set, baseline.remove, f"arm {baseline.name}"), arm.match)
    try:
        before, value, size = _solved(base, arm, target)
    except StudyError as error:
        raise StudyError(str(error), ("arms", place, "by")) from error
    away, kind = size / target - 1.0, arm.match.replace("_", "-")
    if abs(away) > MATCHES_WITHIN:
        raise StudyError(
            f"arm {arm.name}: no {arm.by} gives it the baseline's {target:,} {kind} within {MATCHES_WITHIN:.0%}: the "
            f"nearest is {value} with {size:,}",
            ("arms", place, "by"),
        )
    if value == before:
        return None
    sized = f"{size:,} {kind}, {away:+.2%} of the baseline's"
    return Arm(
        name=_control_name(arm),
        title=f"{arm.title}; {arm.by.removeprefix('network.')} {value} instead of {before}: {sized}",
        set={**arm.set, arm.by: value},
        remove=arm.remove,
        views=arm.views,
    )


def _solved(base: TrainConfig, arm: Arm, target: int) -> tuple[int, int, int]:
    """The field's value in the arm, the one at which the size is nearest to a target, and that size."""
    assert arm.match is not None
    assert arm.by is not None
    what, field, kind = f"arm {arm.name}", arm.by, arm.match
    config = edited(base, arm.set, arm.remove, what)
    concrete_fields(config, {field: 0}, (), f"{what}: by")
    start = field_values(config, field)
    if not start or not isinstance(start[0], int) or isinstance(start[0], bool) or len(set(start)) > 1:
        raise StudyError(f"{what}: by: {field} is not one whole number of its network")

    def size(value: int) -> int:
        return size_of(edited(base, {**arm.set, field: value}, arm.remove, what), kind)

    # 两座塔时宽度须成双：先找出合法的步长
    step = next((step for step in (1, 2, 4, 8, 16) if _is_valid(size, start[0] + step)), None)
    if step is None:
        raise StudyError(f"{what}: by: {field} takes no other value than {start[0]}")
    if size(start[0] + step) == size(start[0]):
        raise StudyError(f"{what}: by: its {kind.replace('_', '-')} do not depend on {field}")
    low, high = -((start[0] - 1) // step), 1
    while size(start[0] + high * step) < target and _is_valid(size, start[0] + 2 * high * step):
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(start[0] + middle * step) < target else (low, middle)
    sizes = {start[0] + place * step: size(start[0] + place * step) for place in (low, high)}
    value = min(sizes, key=lambda one: abs(sizes[one] - target))
    return start[0], value, sizes[value]


def _is_valid(size: Callable[[int], int], value: int) -> bool:
    try:
        size(value)
    except StudyError:
        return False
    return True


def size_of(config: TrialConfig, kind: str) -> int:
    """Returns a network's `parameters`, or its `multiply_adds` per image."""
    assert isinstance(config, TrainConfig)
    return int(sum(getattr(shape, kind) for shape in layer_shapes(config.network)))


def null_plan(plan: Plan) -> Plan:
    """Returns the plan that compares the baseline on seeds 0 to n - 1 with itself on seeds n to 2n - 1, in order.

    Whatever it finds is chance. Its trials are baseline trials, shared with the study and with more seeds of it.

    Args:
        plan: The study's.

    Raises:
        LabError: So many seeds would reach into those for tuning.
    """
    count = len(plan.seeds)
    if 2 * count > TUNING_SEED:
        raise LabError(
            f"--null with {count} seeds takes seeds up to {2 * count - 1}, and those from {TUNING_SEED} on are for "
            f"tuning; ask for {TUNING_SEED // 2} at most",
            exit_code=ExitCode.WRONG_USE,
        )
    baseline = plan.study.arm(plan.study.baseline).model_copy(update={"levels": {}})
    last = 2 * count - 1
    again = {"name": OTHER_SEEDS, "title": f"the same again, seeds {count} to {last}", "claim": None}
    other = baseline.model_copy(update=again)
    recipe = plan.recipe.model_copy(update={"edits": {}})
    study = plan.study.model_copy(
        update={
            "name": f"{plan.study.name[: LONGEST_NAME - len(NULL)]}{NULL}",
            "question": f"What does {plan.study.name} take for a difference by chance?",
            "arms": (baseline, other),
            **AGAINST_BASELINE,
            "recipes": {plan.dataset: recipe},
            "not_asked": {},
            "sweep": None,
            "retune": None,
        }
    )
    # 第 i 对是种子 i 与 n + i：两边都是基线，差别只剩偶然
    trials = tuple(
        _paired(trial, count)
        for seed in plan.seeds
        for trial in unfold(study, plan.base, (seed, seed + count))
        if (trial.arm == OTHER_SEEDS) == (trial.seed >= count)
    )
    return replace(plan, study=study, recipe=recipe, trials=trials, retune=None, further=(), null=True)


def _paired(trial: PlannedTrial, count: int) -> PlannedTrial:
    """A trial of the other side under the number of the pair it belongs to; its own seed stays in its configuration."""
    return replace(trial, seed=trial.seed % count)


def chosen_afterwards(
    plan: Plan, plan_file: PlanFile, baseline: str, others: Sequence[str] | None = None
) -> tuple[Plan, PlanFile]:
    """Returns the plan of such a comparison, with its `plan.json`; neither is written down.

    No claim is judged: the source speaks of the study's own baseline.

    Args:
        plan: The study's plan.
        plan_file: What `plan.json` says.
        baseline: The arm that the others are compared with.
        others: The arms compared with it; None for all.

    Raises:
        LabError: There is no such arm, or the two are the same.
    """
    names = [arm.name for arm in plan.study.arms]
    for name in (baseline, *(others or ())):
        if name not in names:
            raise LabError(
                f"study {plan.study.name} has no arm {name!r}; its arms: {', '.join(names)}",
                exit_code=ExitCode.WRONG_USE,
            )
    compared = [name for name in names if name != baseline] if others is None else list(others)
    if baseline in compared:
        raise LabError(f"arm {baseline} cannot be compared with itself", exit_code=ExitCode.WRONG_USE)
    kept = {baseline, *compared}
    arms = tuple(arm.model_copy(update={"claim": None, "levels": {}}) for arm in plan.study.arms if arm.name in kept)
    claim = Claim(statement="the source makes no claim on this comparison", source="Chosen after the data were seen")
    changed = {"arms": arms, "baseline": baseline, "claim": claim, "sweep": None, **AGAINST_BASELINE}
    study = plan.study.model_copy(update=changed)
    trials = tuple(trial for trial in plan.trials if trial.arm in kept)
    compared_file = plan_file.model_copy(
        update={
            "arms": tuple(arm.name for arm in arms),
            "baseline": baseline,
            "chosen_afterwards": True,
            "trials": tuple(row for row in plan_file.trials if row.arm in kept),
        }
    )
    return replace(plan, study=study, trials=trials, sweep_points=0), compared_file


def combined_plan(plans: Sequence[Plan], recipe: Recipe) -> Plan:
    """Returns one plan of the trials of all studies, seed by seed, each trial once.

    Args:
        plans: The studies' plans, on one data set.
        recipe: One of theirs, for what the display shows.
    """
    planned: set[tuple[str, int]] = set()
    arms: dict[str, Arm] = {}
    trials = []
    for seed in sorted({seed for plan in plans for seed in plan.seeds}):
        for plan in plans:
            for trial in (trial for trial in plan.trials if trial.seed == seed):
                if (trial.key, trial.views) in planned:
                    continue
                # 共享的 trial 挂在第一个想要它的研究名下
                name = name_together(plan.study.name, trial.arm)
                planned.add((trial.key, trial.views))
                arms.setdefault(name, plan.study.arm(trial.arm).model_copy(update={"name": name}))
                trials.append(replace(trial, arm=name))
    question = f"What do {counted(len(plans), 'study', 'studies')} of the paper's claims say?"
    first = plans[0]
    study = Study.model_construct(
        name=PAPER,
        question=question,
        source="the paper",
        claim=Claim(statement="All claims of the paper.", source="Krizhevsky, Sutskever, Hinton 2012"),
        baseline=trials[0].arm,
        arms=tuple(arms.values()),
        recipes={first.dataset: recipe},
    )
    seeds = tuple(sorted({seed for plan in plans for seed in plan.seeds}))
    # 再调参各归各的研究：合起来的计划只有 arm
    return replace(first, study=study, trials=tuple(trials), seeds=seeds, sweep_points=0, retune=None, further=())


def name_together(study: str, arm: str) -> str:
    """Returns how an arm is called where several studies run together."""
    return f"{study}-{arm}"[:LONGEST_NAME]
