"""`python -m orchestrator.merge OTHER_RESULTS`: brings the finished trials of another machine into the own results.

A trial is named by its content, so what both machines trained is one trial. What failed there is no answer and is left.
The own record always stays; a record that differs is named. The result is written last, so a merge that was cut off
goes on with the same command.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from alexnet_core.configuration.wording import counted
from alexnet_core.process.command_line import CommandParser, pathname
from alexnet_core.process.files import replaced, shown
from orchestrator.command import add_results_option, check_can_hold_results, check_has_results, command
from orchestrator.cores.contract import ContractError
from orchestrator.cores.foreign_code import ForeignCode, RefusedCode, check_code, join_accepted, unlike_codes
from orchestrator.cores.sources import CODE
from orchestrator.errors import ExitCode, LabError
from orchestrator.output.console import make_console
from orchestrator.output.fitting import print_text
from orchestrator.planning.plan_file import join_looks
from orchestrator.records import files, layout, trial_record
from orchestrator.records.evaluations import Evaluation, read_evaluation, write_evaluation
from orchestrator.records.files import TrialLocks
from orchestrator.records.trial_record import TrialResult, TrialState
from orchestrator.records.untrusted import (
    TEXTS,
    ForeignTrial,
    Refused,
    check_trial,
    describes,
    foreign_folders,
    foreign_looks,
    foreign_members,
)
from orchestrator.records.upgrades import upgrade_results
from orchestrator.running.cluster import preflight
from orchestrator.tables.siblings import left_out, strangers_among
from orchestrator.tables.tables import load_trials, update_tables
from search_spaces.core_config import CoreDescription

COMPARED = ("state", "epochs", "train", "validation", "test", "train_final", "metrics")
LINES_SHOWN = 20


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = CommandParser(
        prog="python -m orchestrator.merge",
        description="Bring the finished trials of another results folder into the own one.",
        examples={
            "OTHER --dry-run": "what would be taken",
            "OTHER": "take it, into ./results",
            "/mnt/other/results --results mine": "into another folder",
        },
    )
    parser.add_argument("other", type=pathname, metavar="OTHER_RESULTS", help="results folder of another machine")
    add_results_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be taken, and stop")
    options = parser.parse_args(arguments)
    return _merge(options.other, options.results, options.dry_run, make_console())


def _merge(other: Path, results: Path, dry_run: bool, console: Console) -> int:
    check_has_results(other)
    check_can_hold_results(results)
    if results.exists() and results.samefile(other):
        raise LabError(f"{other} is the results folder itself", exit_code=ExitCode.WRONG_USE)
    if results.is_dir() and not dry_run:
        upgrade_results(results)
    counts: Counter[str] = Counter()
    troubles: list[str] = []
    cores: dict[tuple[str, int], _Codes] = {}
    sorted_out = _among_siblings(list(_sorted_out(other, results, counts, troubles, cores)), results, troubles)
    code_troubles: list[str] = []
    codes = [code for one in cores.values() for code in _codes_to_take(other, results, one, code_troubles)]
    recorded = {
        trial.key for trial in sorted_out if (layout.trial_folder(results, trial.key) / "result.json").is_file()
    }
    fresh = [trial for trial in sorted_out if trial.key not in recorded]
    known = [trial for trial in sorted_out if trial.key in recorded]
    if not dry_run:
        preflight.check_results(results)
        preflight.check_disk(results, sum(trial.size for trial in fresh) + preflight.RESERVE_BYTES)
        # 代码先到：有记录的地方，就有练出它的代码
        codes = [code for code in codes if _code_taken(results, code, code_troubles)]
        fresh = [trial for trial in fresh if _taken(results, trial, troubles)]
        known = [trial for trial in known if _evaluated(results, trial, troubles)]
        _join(other, results)
        _join_looks(other, results)
        for one in cores.values():
            if unlike_codes(other, results, one.core) is None:
                join_accepted(other, results, one.core)
        # 上次合并可能在写表之前被杀
        update_tables(results)
    named = [*troubles, *code_troubles]
    for line in named[:LINES_SHOWN]:
        print_text(console, line)
    if len(named) > LINES_SHOWN:
        console.print(f"and {len(named) - LINES_SHOWN} more")
    verb = "would be taken" if dry_run else "taken"
    states = Counter(trial.result.state.value for trial in fresh)
    kinds = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    if codes:
        names = ", ".join(f"{code.core} {code.fingerprint}" for code in codes)
        print_text(console, f"{counted(len(codes), 'kept code')} of cores {verb}: {names}")
    evaluated = f" ({counted(len(known), 'evaluation')} of them {verb})" if known else ""
    print_text(
        console,
        f"{counted(len(fresh), 'trial')} {verb}{f' ({kinds})' if kinds else ''}, "
        f"{counts['here']} on record here already{evaluated}, {counts['unfinished']} not ended there, "
        f"{counts['no_answer']} failed or stopped there, {len(troubles)} left "
        f"out{' (named above)' if troubles else ''}",
    )
    return ExitCode.SOME_FAILED if named else ExitCode.DONE


class _Codes(NamedTuple):
    """What the trials of one version of a core were trained by there.

    Attributes:
        core: The core.
        fingerprints: Of the codes.
    """

    core: CoreDescription
    fingerprints: set[str]


def _codes_to_take(other: Path, results: Path, codes: _Codes, troubles: list[str]) -> list[ForeignCode]:
    """The kept codes that are not here yet and pass every check; those nobody compared with those here are named."""
    core = codes.core
    if unlike := unlike_codes(other, results, core):
        here, there = unlike
        troubles.append(
            f"conflict of core {core.name}, version {core.version}: trained by code {here} here, by {there} there; "
            "check_core --same-numbers compares them"
        )
    taken = []
    for fingerprint in sorted(codes.fingerprints):
        try:
            code = check_code(other, core.name, fingerprint)
            if code is not None and not code.is_here(results):
                taken.append(code)
        except RefusedCode as error:
            troubles.append(_refused_code(fingerprint, core.name, error))
        except OSError as error:
            troubles.append(_refused_code(fingerprint, core.name, f"{error.filename}: {error.strerror}"))
    return taken


def _code_taken(results: Path, code: ForeignCode, troubles: list[str]) -> bool:
    """Copies a code; what has come to lie here under its name meanwhile, and is not it, is named."""
    try:
        code.take(results)
        return True
    except ContractError as error:
        troubles.append(_refused_code(code.fingerprint, code.core, error))
        return False
    except OSError as error:
        raise files.write_error(results / CODE, error) from error


def _refused_code(fingerprint: str, core: str, reason: object) -> str:
    return f"refused the code {fingerprint} of core {core}: {reason}"


def _sorted_out(
    other: Path, results: Path, counts: Counter[str], troubles: list[str], cores: dict[tuple[str, int], _Codes]
) -> Iterable[ForeignTrial]:
    """Yields what is new, or evaluated only there, and passes every check; counts and names the rest.

    Args:
        other: The results folder there.
        results: The own.
        counts: Of what is not taken; added to.
        troubles: Named trials; added to.
        cores: Which codes trained the trials that are on record here or will be; added to.
    """
    swept = {row["key"] for _, row in foreign_members(other) if row["phase"] == "sweep"}
    for folder in foreign_folders(other):
        try:
            trial = check_trial(folder)
        except Refused as error:
            troubles.append(f"refused {shown(folder.name)}: {error}")
            continue
        if trial is None:
            counts["unfinished"] += 1
            continue
        state = trial.result.state
        # 那边机器的故障不是这个 trial 的答案；被停的只有扫描的点才算
        if state is TrialState.FAILED or (state is TrialState.STOPPED and trial.key not in swept):
            counts["no_answer"] += 1
            continue
        ours = trial_record.read_result(layout.trial_folder(results, trial.key))
        if ours is None:
            _note_code(trial, cores)
            yield trial
        elif differing := _differences(ours, trial.result):
            troubles.append(f"conflict {trial.key}: {differing}; the own record stays")
        else:
            _note_code(trial, cores)
            counts["here"] += 1
            if _lacking(results, trial):
                yield trial


def _note_code(trial: ForeignTrial, cores: dict[tuple[str, int], _Codes]) -> None:
    fingerprint = trial.result.environment.get("code")
    if trial.core is not None and fingerprint:
        known = cores.setdefault((trial.core.name, trial.core.version), _Codes(trial.core, set()))
        known.fingerprints.add(str(fingerprint))


def _among_siblings(trials: list[ForeignTrial], results: Path, troubles: list[str]) -> list[ForeignTrial]:
    """Those whose numbers of images are those of the others on the same data, there and here; the rest is named."""
    table = load_trials(results).trials if results.is_dir() else None
    odd = strangers_among([(trial.key, trial.data, trial.result) for trial in trials], table)
    troubles += [f"refused {line}" for line in left_out(odd)]
    return [trial for trial in trials if trial.key not in odd]


def _lacking(results: Path, trial: ForeignTrial) -> list[Evaluation]:
    """The evaluations of a trial that are on record only there."""
    folder = layout.trial_folder(results, trial.key)
    return [one for one in trial.evaluations if read_evaluation(folder, one.views) is None]


def _differences(ours: TrialResult, other: TrialResult) -> str:
    """What two results of one trial disagree in: state, epochs and errors, not times and machines."""
    names = [name for name in COMPARED if getattr(ours, name) != getattr(other, name)]
    if not names:
        return ""
    hint = ""
    if ours.validation is not None and other.validation is not None:
        hint = f" (validation {ours.validation.top1_errors} wrong here, {other.validation.top1_errors} there)"
    elif ours.state is not other.state:
        hint = f" ({ours.state} here, {other.state} there)"
    elif differing := [name for name in ours.metrics if ours.metrics[name] != other.metrics.get(name)]:
        hint = f" ({differing[0]} {ours.metrics[differing[0]]!r} here, {other.metrics.get(differing[0])!r} there)"
    return f"the records differ in {', '.join(names)}{hint}"


def _taken(results: Path, trial: ForeignTrial, troubles: list[str]) -> bool:
    """Copies a record, its result last; a trial that a driver trains right now is left to it."""
    with TrialLocks(results) as locks:
        if not locks.try_lock(trial.key):
            troubles.append(f"left out {trial.key}: it is being trained here right now")
            return False
        folder = layout.trial_folder(results, trial.key)
        # 拿到锁后再查一次：别的进程可能刚好写完
        if trial_record.read_result(folder) is not None:
            troubles.append(f"left out {trial.key}: it has come on record here meanwhile; the own record stays")
            return False
        for name in TEXTS:
            source = trial.folder / name
            if source.is_file():
                files.write_atomically(folder / name, source.read_bytes())
        if trial.weights is not None and trial.result.weights is not None:
            _copy(trial.weights, folder / trial.result.weights)
        if trial.correct is not None:
            _copy(trial.correct, folder / layout.CORRECT)
        for evaluation in trial.evaluations:
            write_evaluation(folder, evaluation)
        # 结果最后写，且只写验证过的内容
        trial_record.write_result(folder, trial.result)
        trial_record.tidy(folder)
        return True


def _evaluated(results: Path, trial: ForeignTrial, troubles: list[str]) -> bool:
    """Brings the evaluations of a trial that is on record here, which would be trained again for them."""
    with TrialLocks(results) as locks:
        if not locks.try_lock(trial.key):
            troubles.append(f"left out the evaluation of {trial.key}: it is being trained here right now")
            return False
        for evaluation in _lacking(results, trial):
            write_evaluation(layout.trial_folder(results, trial.key), evaluation)
        return True


def _copy(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced(target) as temporary:
            shutil.copyfile(source, temporary, follow_symlinks=False)
    except OSError as error:
        raise files.write_error(target, error) from error


def _join(other: Path, results: Path) -> None:
    """Adds the memberships of trials that are on record here now."""
    known = {_identity(row) for row in trial_record.read_members(results)}
    recorded = set(trial_record.recorded_keys(results))
    for study, row in foreign_members(other):
        is_new = row["key"] in recorded and _identity(row) not in known
        if is_new and describes(row, layout.trial_folder(results, row["key"])):
            known.add(_identity(row))
            trial_record.append_members(results, study, [row])


def _join_looks(other: Path, results: Path) -> None:
    """Adds the looks of the other machine at trials that are on record here now: they have spent of the level."""
    recorded = set(trial_record.recorded_keys(results))
    for study, looks in foreign_looks(other):
        seen = [look for look in looks if look.seeds and look.question.baseline[0] in recorded]
        if seen:
            join_looks(results / "studies" / study, seen)


def _identity(row: dict[str, object]) -> tuple[object, ...]:
    return tuple(row.get(name) for name in ("study", "arm", "seed", "key", "phase"))


if __name__ == "__main__":
    sys.exit(main())
