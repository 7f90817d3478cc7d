"""Whether a core keeps what records, pairing and resuming rely on: found out by training its first reports a few times.

Each time in a fresh process: one seed, another and the first again, and on from the state of the first report.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, JsonValue, ValidationError

from alexnet_core.configuration.wording import counted
from alexnet_core.process.files import scratch_folder
from orchestrator.cores.checking.children import no_children_left
from orchestrator.cores.checking.rehearsal import Outcome, Rehearsed, Request
from orchestrator.cores.contract import ContractError, Core
from orchestrator.cores.identity import CoreCode, KeptCode, code_of
from orchestrator.cores.loading import CoreName
from orchestrator.cores.reports import checked_data, checked_draws, checked_sizes
from orchestrator.cores.script import end_with_parent, ending, script_of
from orchestrator.cores.states import LARGE_STATE, large_state, states_in
from search_spaces.core_config import configuration_of

SLOW_REPORT_SECONDS = 20.0
Word = Literal["ok", "note", "fault", "..."]


@dataclass(frozen=True)
class Finding:
    """One line of the check.

    Attributes:
        word: `fault` where records, pairing or resuming would be untrue; `...` for what is done next.
        text: What was found, or is done next.
        stops: Whether numbers cannot be compared any further.
    """

    word: Word
    text: str
    stops: bool = False


@dataclass(frozen=True)
class Rehearsal:
    """How a core is rehearsed.

    Attributes:
        name: The core.
        fields: Fields of its configuration that are not at their defaults.
        reports: How many reports each time.
        data_root: Folder of the data, or None.
        code: What the core is loaded by, where it is the kept code of a trial on record; None for the files of its name
            as they are now.
        source_seeds: Of sources of randomness that have another one than usual.
    """

    name: CoreName
    fields: dict[str, JsonValue]
    reports: int
    data_root: Path | None = None
    code: KeptCode | None = None
    source_seeds: dict[str, int] = field(default_factory=dict)


def check_core(core: Core, rehearsal: Rehearsal) -> Iterator[Finding]:
    """Checks a core, and names all that it finds; it ends where the next check would tell nothing.

    Args:
        core: The core.
        rehearsal: How it is rehearsed.

    Yields:
        The findings, as they are made.
    """
    yield from _declaration(core, rehearsal)
    with scratch_folder("check-core") as folder:
        rehearsal = _with_code(rehearsal, folder)
        # 脚本自己写检查点，停在哪里由它自己定：接着训练要另外试
        is_script = rehearsal.name.study is not None
        yield Finding("...", f"training {counted(rehearsal.reports, 'report')} of seed 0")
        first, left = _rehearse(rehearsal, folder, states=None if is_script else folder / "states")
        yield from _reports(core, first, rehearsal)
        if left:
            names = ", ".join(left)
            yield Finding("fault", f"train leaves processes behind when it ends: {names}; end what it starts")
        if not first.reports:
            return
        # 出错之前的报告还能说明别的
        rehearsal = replace(rehearsal, reports=len(first.reports))
        repeats = True
        for finding in _seeds(core, rehearsal, folder, first):
            repeats = repeats and not finding.stops
            yield finding
        if is_script:
            _rehearse(replace(rehearsal, reports=1), folder, states=folder / "states")
        yield from _resume(core, rehearsal, folder, first, repeats=repeats)


def _declaration(core: Core, rehearsal: Rehearsal) -> Iterator[Finding]:
    """What needs no training."""
    metrics = ", ".join(core.metrics)
    yield Finding("ok", f"{core.name}, version {core.version}, reports {metrics}")
    if rehearsal.name.study is None:
        sources = code_of_name(rehearsal.name).sources
        yield from (Finding("note", remark) for remark in (sources.remarks if sources is not None else ()))
    config = configuration_of(core.config, rehearsal.fields)
    yield _survives_json(config)
    for ask in (partial(checked_data, root=rehearsal.data_root), checked_sizes, checked_draws):
        try:
            ask(core, config)
        except ContractError as error:
            yield Finding("fault", str(error))
    if core.chosen_by == core.judged_by:
        yield Finding(
            "note",
            f"{core.chosen_by} both chooses and judges: what a sweep chose by it, it flatters; "
            "judge by data that nothing was chosen on",
        )
    if "seed" in core.config.model_fields:
        yield Finding("note", "config has a field called seed, which is only a field: a trial's seed is run.seed")
    if not core.deterministic:
        yield Finding("note", "it declares that the same seed may give other numbers; reports will say so")


def _survives_json(config: BaseModel) -> Finding:
    try:
        same = configuration_of(type(config), json.loads(config.model_dump_json())) == config
    except (ValidationError, ValueError, TypeError) as error:
        return Finding("fault", f"config does not survive JSON: {str(error).splitlines()[0]}")
    if not same:
        return Finding("fault", "config does not survive JSON: read back it is another configuration")
    return Finding("ok", "config survives JSON")


def _reports(core: Core, first: Rehearsed, rehearsal: Rehearsal) -> Iterator[Finding]:
    if first.mistake:
        after = f" (after {counted(len(first.reports), 'report')})" if first.reports else ""
        yield Finding("fault", f"{first.mistake}{after}")
        return
    count = len(first.reports)
    all_of_it = "" if count == rehearsal.reports else ", which is all of it"
    yield Finding("ok", f"{counted(count, 'report')}{all_of_it}; each has every metric, as a finite number")
    if not first.beats and rehearsal.name.study is None:
        rule = "a study can stop it, and notice that it hangs, only between two reports"
        yield Finding("note", f"it never calls run.beat(): {rule} ({first.seconds:.1f} s here)")
    if first.threads:
        names = ", ".join(first.threads)
        yield Finding("note", f"threads still run when train ends, beside the next trial of their process: {names}")


def _seeds(core: Core, rehearsal: Rehearsal, folder: Path, first: Rehearsed) -> Iterator[Finding]:
    """Another seed, and the first one after it in the same process; the first of the findings is on the first seed."""
    yield Finding("...", "training seed 1, and seed 0 again after it")
    other, warm = _run(rehearsal, folder, seeds=(1, 0))[0]
    if warm.reports == first.reports:
        yield Finding("ok", "the same seed gives the same numbers, in a fresh process and after another trial in one")
    elif not core.deterministic:
        yield Finding("note", "the same seed gave other numbers, as declared")
    elif _rehearse(rehearsal, folder)[0].reports == first.reports:
        what = warm.mistake or "something outlives a trial in its process, such as a global, a cache or a generator"
        yield Finding("fault", f"after another trial in the same process the same seed gives other numbers: {what}")
    else:
        yield Finding(
            "fault",
            "the same seed gives other numbers in a second process: something random is not seeded with run.seed, or "
            "follows the order of a set or of files",
            stops=True,
        )
        return
    if other.reports == first.reports:
        yield Finding(
            "fault",
            "another seed gives the same numbers: train does not use run.seed (a seed of its own?), so that its seeds "
            "are one run, counted often",
        )
    else:
        yield Finding("ok", "another seed gives other numbers")


def _resume(core: Core, rehearsal: Rehearsal, folder: Path, first: Rehearsed, *, repeats: bool) -> Iterator[Finding]:
    """On from the state of the first report in a new process; numbers are compared where a seed repeats them."""
    if not first.saves:
        yield Finding("note", "it never calls run.save(): a trial that is interrupted begins again; records stay true")
        return
    states = states_in(folder / "states")
    largest = max((path.stat().st_size for path in states), default=0)
    if largest >= LARGE_STATE:
        yield Finding("note", large_state(largest))
    if len(first.reports) < 2 or not states:
        yield Finding("note", "going on from a state was not checked: that takes two reports, of which the first saves")
        return
    for path in states[:-1]:
        # 只留第一个报告的状态
        path.unlink()
    yield Finding("...", "going on from the state of the first report")
    resumed, _ = _rehearse(replace(rehearsal, reports=len(first.reports) - 1), folder, states=folder / "states")
    if resumed.mistake:
        yield Finding("fault", f"going on from a state: {resumed.mistake}")
    elif [number for number, _ in resumed.reports][:1] == [1]:
        unused = "never calls run.load()" if rehearsal.name.study is None else "does not go on from {checkpoint}"
        yield Finding("note", f"it {unused}: a trial that is interrupted begins again; records stay true")
    elif not repeats:
        yield Finding("note", "stopped it goes on; whether with the same numbers was not checked, since none repeat")
    elif resumed.reports != first.reports[1:] and not core.deterministic:
        yield Finding("note", "stopped and gone on it gives other numbers, as declared")
    elif resumed.reports != first.reports[1:]:
        yield Finding(
            "fault",
            "stopped after the first report and gone on, it gives other numbers than straight on: the state lacks "
            "something (optimizer, schedule, a generator of its own, the epoch), or random numbers are drawn after "
            "run.load() and before the first batch",
        )
    else:
        yield Finding("ok", "stopped and gone on it gives the numbers of a straight run")


def _rehearse(rehearsal: Rehearsal, folder: Path, states: Path | None = None) -> tuple[Rehearsed, list[str]]:
    (rehearsed,), left = _run(rehearsal, folder, states=states)
    return rehearsed, left


def rehearse_seed(rehearsal: Rehearsal, seed: int) -> Rehearsed:
    """Trains the first reports of one seed in a fresh process.

    Args:
        rehearsal: How it is rehearsed.
        seed: The seed.
    """
    with scratch_folder("check-core") as folder:
        (rehearsed,), _ = _run(_with_code(rehearsal, folder), folder, seeds=(seed,))
    return rehearsed


def _run(
    rehearsal: Rehearsal, folder: Path, seeds: Sequence[int] = (0,), states: Path | None = None
) -> tuple[list[Rehearsed], list[str]]:
    """Rehearses in a fresh process; returns what came of it, and the names of what it left behind."""
    outcome = folder / "outcome.json"
    outcome.unlink(missing_ok=True)
    assert rehearsal.code is not None
    request = Request(
        code=rehearsal.code,
        fields=rehearsal.fields,
        seeds=tuple(seeds),
        source_seeds=rehearsal.source_seeds,
        reports=rehearsal.reports,
        data_root=rehearsal.data_root,
        states=states,
        outcome=outcome,
    )
    with (folder / "output.txt").open("wb") as output, no_children_left() as left:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cores.checking.rehearsal"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_search_path(rehearsal.name.folder))},
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        process.communicate(request.model_dump_json().encode())
    if not outcome.is_file():
        return [_died(process.returncode, folder / "output.txt")] * len(seeds), left
    rehearsed = Outcome.model_validate_json(outcome.read_bytes()).rehearsed
    return (rehearsed if len(rehearsed) == len(seeds) else rehearsed * len(seeds)), left


def _search_path(place: Path | None) -> list[str]:
    """Where modules are looked for; not where the core lies, unless the user says so, since a copy of it is trained."""
    # 脚本会继承 PYTHONPATH：旁边没有带走的模块，在研究里也找不到
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [*(entry for entry in sys.path if entry and entry != str(place)), *filter(None, given)]


def code_of_name(name: CoreName) -> CoreCode:
    """Finds the files of a core that is a module, or a script that a study file declares.

    Args:
        name: Where it is.

    Raises:
        ContractError: A file is missing.
    """
    return code_of(name, None if name.study is None else script_of(name.study))


def _with_code(rehearsal: Rehearsal, folder: Path) -> Rehearsal:
    """With a copy of the core's files, as a study takes them along: what is missing there is missed here, too."""
    if rehearsal.code is not None:
        return rehearsal
    kept = code_of_name(rehearsal.name).keep(folder, rehearsal.name.module)
    return replace(rehearsal, code=KeptCode.model_validate_json(kept))


def _died(code: int, output: Path) -> Rehearsed:
    """What is said of a process that ended without an outcome."""
    lines = output.read_text(errors="replace").splitlines()
    last = f"; its last line: {lines[-1][:200]}" if lines else ""
    return Rehearsed(mistake=f"train ended its process {ending(code)}{last}")
