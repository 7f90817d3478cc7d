"""Plans made of other plans: all studies together, the noise floor, one randomness at a time, chosen afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, count
from typing import Any

from alexnet_core.configuration.network_spec import layer_shapes
from alexnet_core.configuration.randomness import SOURCE_TITLES, why_absent
from alexnet_core.configuration.train_config import SOURCES, TrainConfig
from alexnet_core.configuration.wording import counted
from alexnet_core.data.dataset import DataSummary
from orchestrator.choices import PAPER
from orchestrator.cores.contract import ContractError, Core
from orchestrator.cores.identity import CoreCode, load_core_of
from orchestrator.cores.reports import checked_draws, checked_sizes
from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.plan import TUNING_SEED, Plan
from orchestrator.planning.plan_file import PlanFile
from search_spaces.arm import LONGEST_NAME, Arm, Claim
from search_spaces.core_config import ALL_TOGETHER, OWN_SEED, SPLIT, CoreConfig, TrialConfig, configuration_of
from search_spaces.edits import concrete_fields, edited, field_values
from search_spaces.errors import StudyError
from search_spaces.study import Recipe, Study
from search_spaces.trial import PlannedTrial, unfold

OTHER_SEEDS = "other_seeds"
MATCHED = "_matched"
NULL = "-null"
VARIANCE = "-variance"
MATCHES_WITHIN = 0.01
STEPS = (1, 2, 4, 8, 16, 32, 64)
# 更大的值没有网络装得下
MOST_DOUBLED = 2**24
# 一个配置的规模：parameters 或 multiply_adds
Size = Callable[[TrialConfig, str], int]
# 设计与比较方式不再适用：只拿 arm 与基线比
AGAINST_BASELINE = {"kind": None, "design": None, "factors": None, "compare": None}
ALONE: dict[str, Any] = {**AGAINST_BASELINE, "not_asked": {}, "sweep": None, "retune": None}
NO_SPLIT = "no validation images are drawn from the training images, all of which are used"
SPLIT_TITLE = "which images train, and which are for validation"
# 验证图自成一处，或一张不留时，抽的只是用哪些训练图
SUBSET_TITLE = "which of the training images train"


def with_controls(study: Study, base: TrialConfig, code: CoreCode | None = None) -> Study:
    """Returns the study with a control of equal size beside each arm that offers one.

    Args:
        study: The study, on a data set.
        base: The configuration that its arms start from.
        code: Of the core, which says the sizes; None for AlexNet.

    Raises:
        LabError: It offers none, its core says no sizes, or it compares otherwise than with the baseline.
        StudyError: No value of the field gives the baseline's size within 1 %, or a control has another arm's name.
    """
    offering = [arm for arm in study.arms if arm.match is not None]
    if not offering:
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
    size = partial(size_of, core=None if code is None else load_core_of(code))
    controls = (_control(study, base, arm, size) for arm in offering)
    # 接在最后：文件里 arm 的次序不变，错误才找得到地方
    added = tuple(control for control in controls if control is not None)
    return study.model_copy(update={"arms": (*study.arms, *added)})


def controls_in(study: Study) -> list[Arm]:
    """Returns the controls of a study that `with_controls` has returned."""
    names = {_control_name(arm) for arm in study.arms if arm.match is not None}
    return [arm for arm in study.arms if arm.name in names]


def _control_name(arm: Arm) -> str:
    return f"{arm.name[: LONGEST_NAME - len(MATCHED)]}{MATCHED}"


def _control(study: Study, base: TrialConfig, arm: Arm, size: Size) -> Arm | None:
    """The arm with the field solved, and in its title what came of it; None where it has that size already."""
    assert arm.match is not None
    assert arm.by is not None
    baseline, place = study.arm(study.baseline), study.place(arm)
    target = size(edited(base, baseline.set, baseline.remove, f"arm {baseline.name}"), arm.match)
    try:
        before, value, reached = _solved(base, arm, target, size)
    except StudyError as error:
        raise StudyError(str(error), ("arms", place, "by")) from error
    away, kind = reached / target - 1.0, arm.match.replace("_", "-")
    if abs(away) > MATCHES_WITHIN:
        raise StudyError(
            f"arm {arm.name}: no {arm.by} gives it the baseline's {target:,} {kind} within {MATCHES_WITHIN:.0%}: the "
            f"nearest is {value} with {reached:,}",
            ("arms", place, "by"),
        )
    if value == before:
        return None
    sized = f"{reached:,} {kind}, {away:+.2%} of the baseline's"
    return Arm(
        name=_control_name(arm),
        title=f"{arm.title}; {arm.by.removeprefix('network.')} {value} instead of {before}: {sized}",
        set={**arm.set, arm.by: value},
        remove=arm.remove,
        views=arm.views,
    )


def _solved(base: TrialConfig, arm: Arm, target: int, size: Size) -> tuple[int, int, int]:
    """The field's value in the arm, the one at which the size is nearest to a target, and that size."""
    assert arm.match is not None
    assert arm.by is not None
    what, field, kind = f"arm {arm.name}", arm.by, arm.match
    config = edited(base, arm.set, arm.remove, what)
    concrete_fields(config, {field: 0}, (), f"{what}: by")
    start = field_values(config, field)
    if not start or not isinstance(start[0], int) or isinstance(start[0], bool) or len(set(start)) > 1:
        raise StudyError(f"{what}: by: {field} is not one whole number of its {_whose(base)}")
    sizes = {start[0]: size(config, kind)}

    def size_at(value: int) -> int | None:
        """The size with another value; None where the configuration does not take it."""
        if value not in sizes:
            try:
                sizes[value] = size(edited(base, {**arm.set, field: value}, arm.remove, what), kind)
            except StudyError:
                return None
        return sizes[value]

    # 两座塔时宽度须成双，注意力的宽度是头数的倍数：先找出合法的步长
    steps = [step for step in STEPS if size_at(start[0] + step) is not None]
    if not steps:
        raise StudyError(f"{what}: by: {field} takes no other value than {start[0]}")
    step = next((step for step in steps if sizes[start[0] + step] != sizes[start[0]]), None)
    if step is None:
        raise StudyError(f"{what}: by: its {kind.replace('_', '-')} do not depend on {field}")
    rises = sizes[start[0] + step] > sizes[start[0]]
    if sizes[start[0]] != target:
        _search(size_at, start[0], step if rises == (sizes[start[0]] < target) else -step, target)
    value = min(sizes, key=lambda one: (abs(sizes[one] - target), one))
    return start[0], value, sizes[value]


def _search(size_at: Callable[[int], int | None], start: int, step: int, target: int) -> None:
    """Asks for sizes of ever nearer values, by doubling and then halving, until two neighbours enclose the target."""
    begin = size_at(start)
    assert begin is not None
    most = MOST_DOUBLED if step > 0 else (start - 1) // -step

    def is_short(place: int) -> bool:
        # 不合法的值当作已经越过：只在合法的一边找
        reached = size_at(start + place * step)
        return reached is not None and reached != target and (reached < target) == (begin < target)

    low, high = 0, 1
    while high <= most and is_short(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_short(middle) else (low, middle)


def _whose(config: TrialConfig) -> str:
    return "network" if isinstance(config, TrainConfig) else "configuration"


def size_of(config: TrialConfig, kind: str, core: Core | None = None) -> int:
    """Returns a network's `parameters`, or its `multiply_adds` per image.

    Args:
        config: The configuration.
        kind: Which of the two.
        core: Which says them, of another core.

    Raises:
        LabError: The core says no such sizes of any configuration.
        StudyError: It says none of this one.
    """
    if isinstance(config, TrainConfig):
        return int(sum(getattr(shape, kind) for shape in layer_shapes(config.network)))
    assert core is not None
    if core.sizes is None:
        raise LabError(
            f"--matched: core {core.name} says no sizes: give its Core a function sizes that returns {kind}",
            exit_code=ExitCode.WRONG_USE,
        )
    try:
        sizes = checked_sizes(core, configuration_of(core.config, config.fields))
    except ContractError as error:
        raise StudyError(f"core {core.name}: {error}") from error
    if not sizes.get(kind):
        raise StudyError(f"core {core.name}: its sizes do not say {kind} of this configuration")
    return round(sizes[kind])


def null_name(study: str) -> str:
    """Returns what the noise floor of a study is called."""
    return f"{study[: LONGEST_NAME - len(NULL)]}{NULL}"


def variance_name(study: str) -> str:
    """Returns what the study of a study's sources of randomness is called."""
    return f"{study[: LONGEST_NAME - len(VARIANCE)]}{VARIANCE}"


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
            "name": null_name(plan.study.name),
            "question": f"What does {plan.study.name} take for a difference by chance?",
            "arms": (baseline, other),
            **ALONE,
            "recipes": {plan.dataset: recipe},
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


def variance_plan(plan: Plan) -> Plan:
    """Returns the plan that trains the baseline with one source of randomness drawn anew at a time.

    Its arms are the sources, beside `seed`, which draws all but the split together as a study's seeds do, and
    `all_together`. In every arm all else is at seed 0, so that the arms share their first trial.

    Args:
        plan: The study's.

    Raises:
        LabError: The core declares no sources, or the study's metric has no standard deviation.
    """
    if plan.recipe.threshold is not None:
        raise LabError(
            f"study {plan.study.name} compares times to a threshold, which have no standard deviation: ask another "
            "study with --variance",
            exit_code=ExitCode.WRONG_USE,
        )
    titles = _drawn_in(plan)
    of_seed = [title for source, title in titles.items() if source != SPLIT]
    baseline = plan.study.arm(plan.study.baseline).model_copy(update={"levels": {}, "claim": None})
    whole = ", ".join(of_seed) if isinstance(plan.base, TrainConfig) else "all that follows the trial's seed"
    arms = [baseline.model_copy(update={"name": OWN_SEED, "title": f"all of a seed: {whole}"})]
    arms += [
        baseline.model_copy(update={"name": source, "title": title, "varies": (source,)})
        for source, title in titles.items()
    ]
    if SPLIT in titles:
        both = {"name": ALL_TOGETHER, "title": "a seed and the split together", "varies": (OWN_SEED, SPLIT)}
        arms.append(baseline.model_copy(update=both))
    recipe = plan.recipe.model_copy(update={"edits": {}, "vary": ()})
    study = plan.study.model_copy(
        update={
            "name": variance_name(plan.study.name),
            "question": f"Which randomness moves the baseline of {plan.study.name}?",
            "claim": None,
            "arms": tuple(arms),
            "baseline": OWN_SEED,
            **ALONE,
            "recipes": {plan.dataset: recipe},
        }
    )
    return replace(
        plan, study=study, recipe=recipe, trials=unfold(study, plan.base, plan.seeds), retune=None, further=()
    )


def _drawn_in(plan: Plan) -> dict[str, str]:
    """The sources of randomness that the baseline's training has, with their titles."""
    baseline = next(trial.config for trial in plan.trials if trial.arm == plan.study.baseline)
    if isinstance(baseline, CoreConfig):
        if not baseline.core.randomness:
            raise LabError(
                f"core {baseline.core.name} declares no sources of randomness, so that --variance can draw none "
                "anew alone: give its Core randomness=(...), and draw each by run.seed_of(...)",
                exit_code=ExitCode.WRONG_USE,
            )
        drawn = [one for one in _drawn_by_core(plan, baseline) if one != SPLIT or not no_split(baseline, plan.summary)]
        return {source: source.replace("_", " ") for source in drawn}
    titles: dict[str, str] = {source: SOURCE_TITLES[source] for source in SOURCES if not why_absent(baseline, source)}
    if no_split(baseline, plan.summary):
        return titles
    only_part = plan.summary is not None and plan.summary.fixed_split
    return titles | {SPLIT: SUBSET_TITLE if only_part else SPLIT_TITLE}


def _drawn_by_core(plan: Plan, baseline: CoreConfig) -> tuple[str, ...]:
    if plan.code is None:
        return baseline.core.randomness
    try:
        core = load_core_of(plan.code)
        return checked_draws(core, configuration_of(core.config, baseline.fields))
    except ContractError as error:
        raise StudyError(f"core {baseline.core.name}: {error}") from error


def no_split(config: TrialConfig, summary: DataSummary | None) -> str:
    """Returns why there is no split of training and validation images to draw anew; empty where there is one.

    Args:
        config: What is trained.
        summary: What is in its data.
    """
    if isinstance(config, CoreConfig):
        if SPLIT not in config.core.randomness:
            return f"core {config.core.name} declares no source split"
        # core 只用一部分训练图时，字段与 AlexNet 的同名
        part = config.fields.get("train_images")
    else:
        part = config.data.train_images
    if summary is None or not summary.fixed_split or (isinstance(part, int) and part < summary.train):
        return ""
    return NO_SPLIT


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
    if plan.study.shows_variance:
        raise LabError(
            f"study {plan.study.name} shows how far seeds scatter: there is nothing to compare in it",
            exit_code=ExitCode.WRONG_USE,
        )
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


def combined_plan(plans: Sequence[Plan], recipe: Recipe, *, by_dataset: bool = False) -> Plan:
    """Returns one plan of the trials of all studies, seed by seed, each trial once.

    Args:
        plans: The studies' plans, on one data set; or those of one study on several.
        recipe: One of theirs, for what the display shows.
        by_dataset: Whether they are one study on several data sets, which its arms are called by.
    """
    labels = {id(plan): plan.dataset if by_dataset else plan.study.name for plan in plans}
    names = names_together([(labels[id(plan)], arm.name) for plan in plans for arm in plan.study.arms])
    baselines = {trial.key for plan in plans for trial in plan.trials if trial.arm == _baseline(plan)}
    planned: set[tuple[str, int]] = set()
    arms: dict[str, Arm] = {}
    datasets: dict[str, str] = {}
    trials = []
    for seed in sorted({seed for plan in plans for seed in plan.seeds}):
        for plan in plans:
            for trial in (trial for trial in plan.trials if trial.seed == seed):
                if (trial.key, trial.views) in planned:
                    continue
                # 共享的 trial 挂在第一个想要它的研究名下
                name = names[labels[id(plan)], trial.arm]
                planned.add((trial.key, trial.views))
                datasets[name] = plan.dataset
                arms.setdefault(name, plan.study.arm(trial.arm).model_copy(update={"name": name}))
                trials.append(replace(trial, arm=name))
    first = plans[0]
    claims = {
        "name": PAPER,
        "question": f"What do {counted(len(plans), 'study', 'studies')} of the paper's claims say?",
        "source": "the paper",
        "claim": Claim(statement="All claims of the paper.", source="Krizhevsky, Sutskever, Hinton 2012"),
    }
    study = Study.model_construct(
        **(dict(first.study) if by_dataset else claims)
        | {"baseline": trials[0].arm, "arms": tuple(arms.values()), "recipes": {first.dataset: recipe}}
    )
    seeds = tuple(sorted({seed for plan in plans for seed in plan.seeds}))
    # 再调参各归各的研究：合起来的计划只有 arm
    # 磁盘够不够，看最大的网络
    base = max((plan.base for plan in plans), key=_parameters)
    return replace(
        first,
        study=study,
        base=base,
        trials=tuple(trials),
        seeds=seeds,
        sweep_points=0,
        retune=None,
        further=(),
        datasets=datasets if by_dataset else {},
        together=names,
        needed=tuple(dict.fromkeys(trial.arm for trial in trials if trial.key in baselines)),
    )


def _parameters(base: TrialConfig) -> int:
    return size_of(base, "parameters") if isinstance(base, TrainConfig) else 0


def _baseline(plan: Plan) -> str:
    # 各 arm 只与公布的数比：没有哪个非有不可
    return "" if plan.study.kind == "reproduction" else plan.study.baseline


def names_together(arms: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Returns how arms are called where several studies, or several data sets, run together; no two alike.

    Args:
        arms: The study, or the data set, and the arm there.
    """
    names: dict[tuple[str, str], str] = {}
    for label, arm in arms:
        whole = f"{label}-{arm}"
        # 截短，或名字里本来的连字符，会让两个 arm 同名
        numbered = (f"{whole[: LONGEST_NAME - len(end)]}{end}" for end in chain([""], (f"-{n}" for n in count(2))))
        names[label, arm] = next(name for name in numbered if name not in names.values())
    return names
