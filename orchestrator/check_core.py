"""`python -m orchestrator.check_core CORE`: whether a core keeps what records, pairing and resuming rely on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl
from pydantic import BaseModel, JsonValue, ValidationError

from alexnet_core.configuration.frozen import first_mistake
from alexnet_core.process.command_line import CommandParser, pathname
from orchestrator.command import add_results_option, check_has_results, command, natural
from orchestrator.cores.checking.checks import Finding, Rehearsal, check_core, code_of_name
from orchestrator.cores.checking.repeating import Recorded, repeated
from orchestrator.cores.consent import check_kept_code
from orchestrator.cores.contract import ContractError, Core
from orchestrator.cores.identity import accept, description_of_core, kept_code
from orchestrator.cores.loading import BUILT_IN, CoreName, core_name, load_core
from orchestrator.errors import ExitCode, LabError
from orchestrator.output.console import make_console
from orchestrator.output.fitting import print_text
from orchestrator.records.checked_record import Curve, ended_curve, read_own_config
from orchestrator.records.files import read_json_lines
from orchestrator.records.layout import trial_folder
from orchestrator.records.reports import CoreReport
from orchestrator.records.trial_record import read_epochs, read_result, repeat_command
from orchestrator.tables.tables import load_trials
from search_spaces.core_config import CoreConfig, TrialConfig, configuration_of
from search_spaces.trial import parse_override

REPORTS = 3


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return _check(_parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m orchestrator.check_core",
        description="Check that a core repeats by seed, differs by seed, resumes, and reports what it declares. "
        "It is imported, and trained for a few reports some four times.",
        examples={
            "my_core.py": "a core in a file",
            "my_package.my_core --set width=8 --reports 2": "a core in a package, made small for the check",
            "my_core.py --same-numbers": "after a change that should change no number",
        },
    )
    parser.add_argument(
        "core",
        metavar="CORE",
        nargs="?",
        help="its module, such as my_package.my_core, its file, my_core.py, or the study file that declares a script",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of its configuration, such as width=8, to make the check short; may be repeated",
    )
    parser.add_argument(
        "--reports", type=natural, default=REPORTS, metavar="N", help=f"reports each time (default: {REPORTS})"
    )
    parser.add_argument("--data-root", type=pathname, metavar="DIR", help="folder of its data")
    parser.add_argument(
        "--same-numbers",
        action="store_true",
        help="train the first reports of a trial on record again with the code as it is now; where all bits agree, the "
        "code is accepted for trials of its version",
    )
    parser.add_argument(
        "--trial",
        type=pathname,
        metavar="FOLDER",
        help="train this trial on record again with the code that is kept of it, outside Ray, and compare its numbers",
    )
    add_results_option(parser)
    return parser


def _check(options: argparse.Namespace) -> int:
    if options.trial is not None:
        return _repeat(options.trial, options.core)
    if options.core is None:
        raise LabError("name a core, such as my_package.my_core or my_core.py", exit_code=ExitCode.WRONG_USE)
    try:
        name = core_name(options.core)
        # 没有的文件，比导入的错误说得清楚
        now = code_of_name(name).fingerprint
        core = load_core(name)
        if options.same_numbers:
            return _accept(options.results, name, core, now, options.reports)
    except ContractError as error:
        raise LabError(str(error), exit_code=ExitCode.WRONG_USE) from error
    fields = _fields(core.config, dict(map(parse_override, options.set)))
    root = options.data_root.resolve() if options.data_root is not None else None
    if _faults(check_core(core, Rehearsal(name, fields, options.reports, root))):
        return ExitCode.SOME_FAILED
    _print(f"core {core.name} keeps its word")
    return ExitCode.DONE


def _faults(findings: Iterable[Finding]) -> int:
    """Prints findings as they come, and what is done between them; returns how many are faults."""
    faults = 0
    for finding in findings:
        faults += finding.word == "fault"
        _print(f"{finding.word:<6}{finding.text}")
    return faults


def _print(line: str) -> None:
    print_text(make_console(), line)


def _repeat(folder: Path, allowed: str | None) -> int:
    """Trains a trial on record again with its own code, which the user has run before or names now."""
    config = read_own_config(folder)
    if not isinstance(config, CoreConfig):
        raise LabError(
            f"{folder} is a trial of AlexNet: {repeat_command(config, folder)}",
            exit_code=ExitCode.WRONG_USE,
        )
    attempts = read_json_lines(folder / "attempts.jsonl")
    fingerprint = str(attempts[-1].get("code") or "") if attempts else ""
    code = kept_code(folder.resolve().parents[1], fingerprint, config.core.name)
    if code is None and (fingerprint or config.core.name not in BUILT_IN):
        raise LabError(
            f"the code of trial {folder.name} ({fingerprint or 'not named'}) is not kept beside its results, or was "
            "edited there",
            exit_code=ExitCode.NOTHING,
        )
    core = config.core.name
    if allowed is not None and code is not None and code.is_named(allowed, core):
        allowed = core
    try:
        check_kept_code(fingerprint, core, allowed)
    except ContractError as error:
        raise LabError(str(error), exit_code=ExitCode.WRONG_USE) from error
    name = core_name(config.core.name) if code is None else CoreName(code.module, code.attribute, code.folder)
    recorded = _recorded(folder, config)
    if _faults(repeated(recorded, name, code, len(recorded.reports))):
        return ExitCode.SOME_FAILED
    _print(f"trial {folder.name} repeats")
    return ExitCode.DONE


def _recorded(folder: Path, config: CoreConfig) -> Recorded:
    result = read_result(folder)
    curve = Curve(read_epochs(folder)) if result is None else ended_curve(folder, result)
    if curve.misfit:
        raise LabError(
            f"{folder / 'epochs.jsonl'} {curve.misfit}: there is nothing to compare", exit_code=ExitCode.ENVIRONMENT
        )
    reports = [report.metrics for report in curve.reports if isinstance(report, CoreReport)]
    return Recorded(config, reports)


def _accept(results: Path, name: CoreName, core: Core, now: str, reports: int) -> int:
    """Accepts the code as it is now for the trials of its version, where it gives the numbers of one of them."""
    check_has_results(results)
    description = description_of_core(core)
    trials = load_trials(results).trials.filter(
        (pl.col("core") == core.name) & (pl.col("core_version") == core.version) & (pl.col("state") == "finished")
    )
    if not trials.height:
        raise LabError(
            f"no finished trial of core {core.name}, version {core.version}, is on record in {results}: there is "
            "nothing to compare with, and nothing that its code could contradict",
            exit_code=ExitCode.NOTHING,
        )
    for key in _compared(trials, now):
        folder = trial_folder(results, key)
        config = _as_now(read_own_config(folder), core)
        _print(f"trial {key}, seed {config.seed}, the shortest of its code on record:")
        if _faults(repeated(_recorded(folder, config), name, None, reports)):
            _print(
                f"the code gives other numbers: raise the version of core {core.name}, to have its trials trained anew"
            )
            return ExitCode.SOME_FAILED
    codes = [code for code in trials["env_code"].drop_nulls().unique().sort() if code]
    accept(results, description, [*codes, now])
    _print(f"the code as it is now is accepted for trials of core {core.name}, version {core.version}")
    return ExitCode.DONE


def _compared(trials: pl.DataFrame, code: str) -> list[str]:
    """The shortest trial of every code on record; of the code as it is now only where there is no other."""
    shortest = trials.sort("seconds", "key").unique("env_code", keep="first", maintain_order=True)
    # 与自己比较说明不了什么：别的每一份代码都要比过
    others = shortest.filter(pl.col("env_code").ne_missing(code))
    return [str(key) for key in (others if others.height else shortest)["key"]]


def _as_now(config: TrialConfig, core: Core) -> CoreConfig:
    """A configuration on record with the fields that came later, as they were before they came."""
    assert isinstance(config, CoreConfig)
    return config.model_copy(update={"fields": {**core.added_later, **config.fields}})


def _fields(config: type[BaseModel], overrides: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The fields that the user sets, as the configuration takes them."""
    try:
        configuration_of(config, overrides)
    except ValidationError as error:
        raise LabError(f"--set: {first_mistake(error, config)}", exit_code=ExitCode.WRONG_USE) from error
    return overrides


if __name__ == "__main__":
    sys.exit(main())
