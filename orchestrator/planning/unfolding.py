"""From a study and a request to a plan: everything the user gave is validated here."""

from __future__ import annotations

from pathlib import Path

from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.dataset import DataSummary
from alexnet_core.data.loading import summarise_data
from orchestrator.choices import AUTO
from orchestrator.cores.identity import CoreCode
from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.core_base import core_base
from orchestrator.planning.plan import TUNING_SEED, Plan
from orchestrator.planning.retuning import retune_of
from orchestrator.planning.variants.baseline_alone import no_split
from orchestrator.planning.variants.controls import with_controls
from orchestrator.request import Question, Store, SweepRequest
from search_spaces.core_config import TrialConfig
from search_spaces.errors import StudyError
from search_spaces.study import Recipe, Study
from search_spaces.trial import base_config, check_images, unfold


def plan_study(
    study: Study, question: Question, sweep: SweepRequest, store: Store, known: DataSummary | None = None
) -> Plan:
    """Validates everything the user gave and unfolds the study; no record is read.

    Args:
        study: The study of the question, or one of those that are asked together.
        question: What is asked of it.
        sweep: The points asked for.
        store: Where its records are to lie, and what is prepared of the data.
        known: What is in its data, where that is known.

    Raises:
        LabError: The study cannot be asked so.
        StudyError: A field, a value or an image does not fit.
    """
    recipe = recipe_on(study, question.dataset)
    if study.core is None and question.core is not None:
        raise LabError(
            f"--core {question.core}: study {study.name} trains AlexNet and names no core; leave it out",
            exit_code=ExitCode.WRONG_USE,
        )
    _check_kind(study, question, sweep)
    study = _with_space(study.on(question.dataset), sweep)
    number, max_seeds = _planned_seeds(study, recipe, question)
    summary: DataSummary | None
    code: CoreCode | None = None
    if study.core is None:
        summary, base = _summary_and_base(study, recipe, question, store, known)
    else:
        study, base, code, summary = core_base(study, question, store)
    if recipe.vary and (why := no_split(base, summary)):
        place = ("recipes", question.dataset, "vary")
        raise StudyError(f"{'.'.join(place)}: there is no split to draw anew: {why}", place)
    if question.matched:
        study = with_controls(study, base, code)
    if number > TUNING_SEED:
        raise LabError(f"{number} seeds: those from {TUNING_SEED} on are for tuning", exit_code=ExitCode.WRONG_USE)
    seeds = tuple(range(number))
    # 逐种子展开，同一种子的所有 arm 挨着：停在哪儿都是完整的对
    trials = unfold(study, base, seeds)
    if summary is not None and isinstance(base, TrainConfig):
        check_images(study, base, trials, summary.train)
    retune = retune_of(study, base, question.retune, question.tuning_trials)
    if isinstance(base, TrainConfig) and not base.data.holds_out:
        _check_choices(study, sweep, tunes=retune is not None)
    return Plan(
        study=study,
        dataset=question.dataset,
        recipe=recipe,
        summary=summary,
        base=base,
        trials=trials,
        seeds=seeds,
        sweep_points=sweep.points,
        # 逐种子看的研究不调参：最佳值要等整个 arm
        retune=retune if max_seeds is None else None,
        max_seeds=max_seeds,
        code=code,
    )


def _summary_and_base(
    study: Study, recipe: Recipe, question: Question, store: Store, known: DataSummary | None
) -> tuple[DataSummary, TrialConfig]:
    """What is in the data, and the configuration that all arms start from."""
    root, data = question.data_root, recipe.common.data
    if root is not None and data.source == "digits":
        raise LabError(
            "--data-root: the digits come with scikit-learn; leave it out, or name a --dataset",
            exit_code=ExitCode.WRONG_USE,
        )
    cache = (store.results / "cache").resolve()
    # 数据的内容哈希进 key：先清点数据，才有配置
    summary = known if known is not None else summarise_data(data.source, root, cache, holds_out=data.holds_out)
    base = base_config(
        study,
        question.dataset,
        summary=summary,
        data_root=str(root) if root is not None else None,
        cache=str(cache),
        network_name=question.network,
        epochs=question.epochs,
        overrides=question.overrides,
    )
    return summary, base


def check_replicates(study: Study) -> None:
    """Refuses a study that is not judged over several data sets together.

    Raises:
        LabError: It holds arms against published values, each of which is of one data set.
    """
    if study.kind == "reproduction":
        raise LabError(
            f"study {study.name} is a reproduction: what is published is of one data set; name one --dataset",
            exit_code=ExitCode.WRONG_USE,
        )


def folder_hint(dataset: str) -> str:
    """Returns how a folder is asked for that was given as the name of a data set; nothing for what is none."""
    return f"; for a folder: --dataset imagefolder --data-root {dataset}" if Path(dataset).is_dir() else ""


def recipe_on(study: Study, dataset: str) -> Recipe:
    """Returns what a study asks on a data set.

    Raises:
        LabError: It is not asked there.
    """
    if dataset in study.not_asked:
        raise LabError(
            f"study {study.name} is not asked on {dataset}: {study.not_asked[dataset]}; "
            f"choose --dataset {' or '.join(study.recipes)}",
            exit_code=ExitCode.WRONG_USE,
        )
    if dataset not in study.recipes:
        raise LabError(
            f"study {study.name} has no recipe for data set {dataset!r}; it has: {', '.join(study.recipes)}"
            f"{folder_hint(dataset)}",
            exit_code=ExitCode.WRONG_USE,
        )
    return study.recipes[dataset]


def _check_kind(study: Study, question: Question, sweep: SweepRequest) -> None:
    """Refuses what would change a training that is to be as its source says, and what compares arms."""
    if named := [arm.name for arm in study.arms if arm.network is not None]:
        changed = {"--network": question.network, "--epochs": question.epochs, "--set": question.overrides}
        if given := [option for option, value in changed.items() if value]:
            raise LabError(
                f"{given[0]}: arm {named[0]} of study {study.name} is a named network trained as its source trained "
                "it; leave it out, or write a study whose arm sets what you change",
                exit_code=ExitCode.WRONG_USE,
            )
    asked = {
        "--sweep": sweep.points,
        "--retune": question.retune,
        "--null": question.null,
        "--matched": question.matched,
    }
    if study.kind == "reproduction" and (given := [option for option, value in asked.items() if value]):
        raise LabError(
            f"{given[0]} goes with arms that are compared with each other; study {study.name} is a reproduction: leave "
            "it out",
            exit_code=ExitCode.WRONG_USE,
        )


def _check_choices(study: Study, sweep: SweepRequest, *, tunes: bool) -> None:
    """Refuses what chooses or judges by a validation error where no image is held out."""
    asked = {
        "--sweep": bool(sweep.points),
        "--retune": tunes,
        f"primary_metric {study.primary_metric}": study.primary_metric == "generalisation_gap",
    }
    if needing := [what for what, is_asked in asked.items() if is_asked]:
        raise LabError(
            f"{needing[0]} needs a validation error, and this recipe holds no image out (data.holds_out false): leave "
            "one of them out",
            exit_code=ExitCode.WRONG_USE,
        )


def _with_space(study: Study, sweep: SweepRequest) -> Study:
    """The study with the space that is asked for."""
    if sweep.over is not None:
        study = study.model_copy(update={"sweep": sweep.over})
    if sweep.points and study.sweep is None:
        raise LabError(
            f"study {study.name} has no sweep; leave --sweep out, or say what with --sweep-over",
            exit_code=ExitCode.WRONG_USE,
        )
    return study


def _planned_seeds(study: Study, recipe: Recipe, question: Question) -> tuple[int, int | None]:
    """The seeds per arm, and the same number again where they are the maximum of `--seeds auto`."""
    if question.seeds != AUTO:
        return question.seeds or recipe.seeds, None
    assert question.max_seeds is not None
    if reason := no_looks_at(study, recipe):
        raise LabError(f"study {study.name} cannot be asked with --seeds auto: {reason}", exit_code=ExitCode.WRONG_USE)
    return question.max_seeds, question.max_seeds


def no_looks_at(study: Study, recipe: Recipe) -> str:
    """Returns why a study cannot be asked with `--seeds auto`; nothing where it can.

    Args:
        study: The study, on a data set.
        recipe: Its recipe there.
    """
    if study.kind == "reproduction":
        return "an interval is held against a margin around what is published, and its looks have no such boundary"
    if recipe.threshold is not None:
        return "its times to a threshold are compared by the sign test, whose looks have no such boundary"
    if any(arm.views != 1 for arm in study.arms):
        return "some of its arms only evaluate trained trials"
    return ""
