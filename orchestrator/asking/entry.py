"""`run_study`: a study asked from a script or a notebook, answered as data.

What must be trained is trained in a process of its own, which starts Ray and ends it: the caller's process keeps its
signals, its logging and its standard output, and the call may be repeated. Importing this loads nothing of that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.choices import PAPER
from orchestrator.errors import ExitCode, LabError

if TYPE_CHECKING:
    from pydantic import JsonValue

    from orchestrator.asking.answers import AnswersDocument, StudyAnswer


def run_study(
    study: str | Path,
    *,
    core: str | None = None,
    dataset: str | None = None,
    data_root: str | Path | None = None,
    results: str | Path = "results",
    seeds: int | Literal["auto"] | None = None,
    max_seeds: int | None = None,
    epochs: int | None = None,
    network: str | None = None,
    overrides: Mapping[str, JsonValue] | None = None,
    retune: str | None = None,
    tuning_trials: int | None = None,
    null: bool = False,
    variance: bool = False,
    points: int = 0,
    confirm: int = 0,
    slots: int | None = None,
    address: str | None = None,
    retry_failed: bool = False,
) -> StudyAnswer:
    """Asks a study as `python -m orchestrator.ablate` does: trains what is missing, and returns the answer.

    What is on record is answered at once, in this process. What must be trained is trained by a Ray in a process of
    its own, without a dashboard. Progress goes to the standard error. Ctrl-C stops between two batches and is raised
    again once that process has ended; call it in the main thread for that, since no other is told of Ctrl-C.

    Args:
        study: A study's name, or the path of a study file.
        core: The core that the study names, to allow its code to be run here; needed once, then remembered.
        dataset: One of its recipes; None for its only one, or the digits.
        data_root: Folder of the images.
        results: The results folder; finished trials in it are not trained again.
        seeds: Seeds per arm; None for the recipe's, `auto` for seed by seed until every arm is decided.
        max_seeds: Seeds per arm at most, with `auto`.
        epochs: Per trial; None for the recipe's.
        network: A named network; None for the recipe's.
        overrides: Changes of the base of all arms, such as `{"network.lrn1.alpha": 2e-4}`.
        retune: A number of the training that every arm tunes for itself.
        tuning_trials: Of each arm; None leaves it to the study, 0 re-tunes nothing.
        null: Whether to judge the baseline against itself.
        variance: Whether to train the baseline with one source of randomness drawn anew at a time.
        points: Points of the study's sweep, those on record included.
        confirm: How many of the best points are trained on fresh seeds and judged.
        slots: Trials at once; None for all that fit.
        address: Of a Ray cluster to join; None starts a Ray here.
        retry_failed: Whether failed trials are trained again.

    Returns:
        The answer; `some_failed` says whether a trial failed.

    Raises:
        LabError: Where the command would end with one line: that line, and the command's exit code.
        KeyboardInterrupt: Ctrl-C came.
    """
    if str(study) == PAPER:
        reason = "run_study asks one study: name it, or ask all with python -m orchestrator.ablate --study paper"
        raise LabError(reason, exit_code=ExitCode.WRONG_USE)
    if dataset is not None and "," in dataset:
        reason = "run_study asks on one data set: call it for each, or ask all with python -m orchestrator.ablate"
        raise LabError(reason, exit_code=ExitCode.WRONG_USE)
    values: dict[str, object] = {
        "study": study,
        "core": core,
        "dataset": dataset,
        "data-root": data_root,
        "results": results,
        "seeds": seeds,
        "max-seeds": max_seeds,
        "epochs": epochs,
        "network": network,
        "retune": retune,
        "tuning-trials": tuning_trials,
        "sweep": points,
        "confirm": confirm,
        "slots": slots,
        "address": address,
    }
    switches = {"null": null, "variance": variance, "retry-failed": retry_failed, "no-dashboard": True}
    # 与命令行走同一条路：同样的检查，同样的话
    arguments = [f"--{name}={value}" for name, value in values.items() if value is not None]
    arguments += [f"--{name}" for name, is_on in switches.items() if is_on]
    arguments += [f"--set={field}={_written(field, value)}" for field, value in (overrides or {}).items()]
    return _only_answer(_asked(arguments))


def _written(field: str, value: object) -> str:
    """A value as `--set` reads it."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        reason = f"overrides: {field}: {value!r} is no number, word, truth value or list of such"
        raise LabError(reason, exit_code=ExitCode.WRONG_USE) from error


def _asked(arguments: list[str]) -> AnswersDocument:
    """Asks in this process, or in one of its own where something must be trained."""
    from orchestrator.command import one_line_errors

    with one_line_errors():
        document = _asked_here(arguments)
        return document if document is not None else _asked_beside(arguments)


def _asked_here(arguments: list[str]) -> AnswersDocument | None:
    """The answers from the records; None where something must be trained, of which nothing was written yet."""
    from orchestrator.asking.answers import AnswersDocument
    from orchestrator.asking.ask import ask
    from orchestrator.options import parsed_request
    from orchestrator.output.console import make_console
    from orchestrator.running.cluster.lifecycle import CallersProcess
    from orchestrator.running.notification import Notifier

    console = make_console(goes_on=True, stderr=True)
    try:
        document = ask(parsed_request(arguments), console, time.monotonic(), Notifier())
    except CallersProcess:
        return None
    assert isinstance(document, AnswersDocument)
    return document


def _asked_beside(arguments: list[str]) -> AnswersDocument:
    """The answers of the command in a process of its own."""
    from pydantic import ValidationError

    from orchestrator.asking.answers import AnswersDocument
    from orchestrator.command import run_beside
    from orchestrator.options import PROGRAM
    from orchestrator.output.channel import OPTION
    from orchestrator.output.document import Document

    lines: list[str] = []
    ended = run_beside(PROGRAM, [*arguments, OPTION], lines.append)
    if ended.interrupted:
        raise KeyboardInterrupt
    text = "".join(lines)
    try:
        said = Document.model_validate_json(text, extra="ignore")
        if said.error is None:
            return AnswersDocument.model_validate_json(text)
    except ValidationError as error:
        # 被 SIGKILL 的进程留不下文档
        reason = f"the process that trains ended with {ended.code} before it answered; ask again to go on"
        raise LabError(reason, exit_code=ExitCode.ENVIRONMENT) from error
    raise LabError(said.error, exit_code=ExitCode(said.exit_code))


def _only_answer(document: AnswersDocument) -> StudyAnswer:
    (answer,) = document.answers
    return answer
