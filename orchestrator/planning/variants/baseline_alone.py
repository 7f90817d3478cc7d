"""Plans of a study's baseline alone: against itself (`--null`), and one of its sources at a time (`--variance`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from alexnet_core.configuration.randomness import SOURCE_TITLES, why_absent
from alexnet_core.configuration.train_config import SOURCES, TrainConfig
from alexnet_core.data.dataset import DataSummary
from orchestrator.cores.contract import ContractError
from orchestrator.cores.identity import load_core_of
from orchestrator.cores.reports import checked_draws
from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.plan import TUNING_SEED, Plan
from orchestrator.planning.variants import AGAINST_BASELINE
from orchestrator.request import Question
from search_spaces.arm import LONGEST_NAME, Arm
from search_spaces.core_config import ALL_TOGETHER, OWN_SEED, SPLIT, CoreConfig, TrialConfig, configuration_of
from search_spaces.errors import StudyError
from search_spaces.study import Recipe, Study
from search_spaces.trial import PlannedTrial, unfold

OTHER_SEEDS = "other_seeds"
NULL, VARIANCE = "-null", "-variance"
NO_SPLIT = "no validation images are drawn from the training images, all of which are used"
SPLIT_TITLE = "which images train, and which are for validation"
# 验证图自成一处，或一张不留时，抽的只是用哪些训练图
SUBSET_TITLE = "which of the training images train"


def name_asked(study: str, question: Question) -> str:
    """Returns what a study is called as it is asked: its own name, or that of the plan of its baseline alone.

    Args:
        study: Its own name.
        question: How it is asked.
    """
    return _name(study, NULL if question.null else VARIANCE if question.variance else "")


def _name(study: str, ending: str) -> str:
    return f"{study[: LONGEST_NAME - len(ending)]}{ending}"


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
    question = f"What does {plan.study.name} take for a difference by chance?"
    study = _study(plan, NULL, question, (baseline, other), recipe)
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
    question = f"Which randomness moves the baseline of {plan.study.name}?"
    study = _study(plan, VARIANCE, question, arms, recipe).model_copy(update={"claim": None})
    trials = unfold(study, plan.base, plan.seeds)
    return replace(plan, study=study, recipe=recipe, trials=trials, retune=None, further=())


def _study(plan: Plan, ending: str, question: str, arms: Sequence[Arm], recipe: Recipe) -> Study:
    """A study of the baseline alone; the first arm is its baseline."""
    changed = {
        "name": _name(plan.study.name, ending),
        "question": question,
        "arms": tuple(arms),
        "baseline": arms[0].name,
        "recipes": {plan.dataset: recipe},
        "not_asked": {},
        "sweep": None,
        "retune": None,
    }
    return plan.study.model_copy(update={**AGAINST_BASELINE, **changed})


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
