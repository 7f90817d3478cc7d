"""What a study of another core than AlexNet starts from: its code is found, allowed and loaded here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl
from pydantic import BaseModel

from alexnet_core.configuration.wording import nearest
from alexnet_core.data.dataset import DataSummary
from orchestrator.cores.consent import allow_code, check_consent
from orchestrator.cores.contract import ContractError, Core
from orchestrator.cores.identity import (
    CoreCode,
    check_identity,
    check_is_there,
    code_of,
    description_of_core,
    is_named,
    load_core_of,
)
from orchestrator.cores.loading import CoreName, core_name
from orchestrator.cores.reports import checked_data
from orchestrator.errors import ExitCode, LabError
from orchestrator.request import Question, Store
from orchestrator.tables.rows import METRICS_BY_NAME, TRIAL_COLUMNS
from orchestrator.tables.tables import metric_columns, read_table
from search_spaces.core_config import CoreConfig, CoreData, CoreDescription, CoreSide
from search_spaces.errors import StudyError
from search_spaces.script import Script
from search_spaces.study import Study
from search_spaces.trial import overridden, wrong_field

ENVIRONMENT_CODE = "env_code"


class CoreBase(NamedTuple):
    """What a study of a core starts from.

    Attributes:
        study: With its metric named.
        config: The configuration its arms start from.
        code: Which trains it.
        summary: What is in its data, where the core says more than a digest.
    """

    study: Study
    config: CoreConfig
    code: CoreCode
    summary: DataSummary | None


def core_base(study: Study, question: Question, store: Store) -> CoreBase:
    """Loads the core of a study and returns what that starts from.

    Args:
        study: The study.
        question: What is asked of it.
        store: Where its records are to lie; nothing is written.

    Raises:
        LabError: The core may not be run, cannot be loaded, or is not the code of its records.
        StudyError: A field or a metric does not fit.
    """
    _check_options(question)
    name, script, shown = _named(study, question)
    try:
        # 没有的文件，不必先问准不准运行
        _check_is_there(name, script)
        given = question.core
        check_consent(name, shown, script, shown if given is not None and is_named(given, name, script) else given)
        code, core = _loaded(name, script)
        description = description_of_core(core)
        answers = _answers_on_record(store.results, description)
        codes = [str(code) for code in answers[ENVIRONMENT_CODE].drop_nulls().unique().sort()]
        check_identity(store.results, description, code, codes, shown if script is None else question.study)
        _check_metrics(answers, description)
        allow_code(code.fingerprint)
    except ContractError as error:
        raise LabError(str(error), exit_code=ExitCode.WRONG_USE) from error
    root = question.data_root
    data = CoreData(name=question.dataset, root=None if root is None else str(root))
    summaries: dict[str, DataSummary] = {}
    side = CoreSide(core.config, _digests(core, root, summaries))
    base = CoreConfig.of(side, description, data, f"core {core.name}")
    base = _of_recipe(base, study, question.dataset)
    study = _with_metric(study, description)
    seeded = overridden(study, base, question.overrides)
    assert isinstance(seeded, CoreConfig)
    return CoreBase(study, seeded, code, summaries.get(seeded.data.digest))


def _check_is_there(name: CoreName, script: Script | None) -> None:
    try:
        check_is_there(name, script)
    except ContractError as error:
        raise StudyError(str(error), ("core",)) from error


def _loaded(name: CoreName, script: Script | None) -> tuple[CoreCode, Core]:
    """The code and the core; where there is none, the study file names it wrong."""
    try:
        code = code_of(name, script)
        return code, load_core_of(code)
    except ContractError as error:
        raise StudyError(str(error), ("core",)) from error


def _of_recipe(base: CoreConfig, study: Study, dataset: str) -> CoreConfig:
    """The configuration with the fields that all arms share on a data set; a mistake knows its place."""
    fields, place = study.recipes[dataset].set, ("recipes", dataset, "set")
    what = ".".join(place)
    try:
        return base.with_fields(fields, what)
    except StudyError as error:
        raise StudyError(str(error), (*place, *wrong_field(base, fields))) from error


def _check_options(question: Question) -> None:
    options = {"--network": question.network, "--epochs": question.epochs}
    instead = {"--network": "its own fields", "--epochs": "--set epochs=N, where it has such a field"}
    for option, value in options.items():
        if value is not None:
            raise LabError(
                f"{option} is for AlexNet; of this study's core use {instead[option]}", exit_code=ExitCode.WRONG_USE
            )
    if question.data_root is not None and not question.data_root.is_dir():
        raise LabError(f"data folder {question.data_root} does not exist", exit_code=ExitCode.WRONG_USE)


def _named(study: Study, question: Question) -> tuple[CoreName, Script | None, str]:
    """Where the core is, what the study declares of it if it is a script, and how the user calls it."""
    path = Path(question.study)
    folder = path.resolve().parent if path.suffix in (".yaml", ".yml") else Path.cwd()
    if isinstance(study.core, Script):
        return CoreName(study.core.name, folder=folder), study.core, study.core.name
    assert study.core is not None
    try:
        return core_name(study.core, folder), None, study.core
    except ContractError as error:
        raise StudyError(str(error), ("core",)) from error


def _digests(core: Core, root: Path | None, summaries: dict[str, DataSummary]) -> Callable[[BaseModel], str]:
    """Returns what asks a core for the digest of its data; its mistakes are one line.

    Args:
        core: The core.
        root: The folder of its data.
        summaries: Is given what else it says of the data, by digest.
    """

    def digest(config: BaseModel) -> str:
        try:
            content = checked_data(core, config, root)
        except ContractError as error:
            raise StudyError(f"core {core.name}: {error}") from error
        if isinstance(content, DataSummary):
            summaries[content.digest] = content
            return content.digest
        return content

    return digest


def _with_metric(study: Study, core: CoreDescription) -> Study:
    """The study with the metric that is judged, which must be one that the core declares."""
    metric = study.primary_metric or core.judged_by
    if metric not in core.metrics:
        raise StudyError(
            f"primary_metric: core {core.name} has no metric {metric}{nearest(metric, sorted(core.metrics))}",
            ("primary_metric",),
        )
    return study.model_copy(update={"primary_metric": metric})


def _answers_on_record(results: Path, core: CoreDescription) -> pl.DataFrame:
    """The trials of this name and version on record: what they were trained with, and what they report."""
    columns = ("core", "core_version", "state", ENVIRONMENT_CODE, *metric_columns(results))
    table = read_table(results, "trials", TRIAL_COLUMNS, columns)
    if table is None:
        return pl.DataFrame(schema=TRIAL_COLUMNS)
    # 失败的不是答案：改好了再来，不必换版本
    is_answer = pl.col("state") != "failed"
    return table.filter((pl.col("core") == core.name) & (pl.col("core_version") == core.version) & is_answer)


def _check_metrics(answers: pl.DataFrame, core: CoreDescription) -> None:
    """Refuses a core that declares other metrics than its version's trials on record have."""
    columns = [name for name in answers.columns if name.startswith(METRICS_BY_NAME)]
    reported = {name.removeprefix(METRICS_BY_NAME) for name in columns if answers[name].count()}
    if reported and reported != core.metrics.keys():
        raise ContractError(
            f"core {core.name} declares the metrics {', '.join(sorted(core.metrics))}, and its trials of version "
            f"{core.version} on record have {', '.join(sorted(reported))}: raise its version to train anew, or declare "
            "those"
        )
