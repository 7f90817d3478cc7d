"""Checking what an answer rests on beside its numbers: which trial is whose, the looks, the attempts, the weights.

What is to be there comes from the plan and from the records, never from the list that is checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from alexnet_core.configuration.wording import counted
from orchestrator.errors import LabError
from orchestrator.judging.answer import Answer
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import PlanFile
from orchestrator.planning.variants.baseline_alone import OTHER_SEEDS
from orchestrator.records import looks_file
from orchestrator.records.checked_record import Record, ended_curve, read_record
from orchestrator.records.evaluations import read_correct_images
from orchestrator.records.files import read_json_lines
from orchestrator.records.layout import trial_folder
from orchestrator.records.trial_record import TrialState, listed, read_members
from orchestrator.records.untrusted import describes
from orchestrator.reporting.material import Provenance
from orchestrator.sweeps.confirmation import confirmation_trials, read_confirmation
from search_spaces.trial import keys_by_seed, varied_by


def changed_keys(plan: Plan, plan_file: PlanFile) -> Iterator[str]:
    """Yields the trials of `plan.json` that are not those its study unfolds to."""
    keys = {(trial.arm, trial.seed): trial.key for trial in plan.trials}
    if plan_file.null:
        # 噪声基线的另一边：同一个配置，往后数的种子
        count = plan_file.planned_seeds
        varies = varied_by(plan.study, plan.base, plan.study.arms[0])
        further = keys_by_seed(plan.trials[0].config, range(count, 2 * count), varies)
        keys |= {(OTHER_SEEDS, seed - count): key for seed, key in further.items()}
    for row in plan_file.trials:
        key = keys.get((row.arm, row.seed), row.key)
        if row.phase == "arm" and key != row.key:
            yield f"plan.json, {row.arm} seed {row.seed}: trial {row.key}, its configuration is that of trial {key}"


def changed_members(plan: Plan, plan_file: PlanFile, folder: Path, results: Path, source: Provenance) -> Iterator[str]:
    """Yields the memberships that are not those of the plan, and those that the answer's trials lack."""
    rows = [(row.phase, row.key, row.arm, row.seed) for row in plan_file.trials]
    fresh = confirmation_trials(plan, read_confirmation(folder))
    rows += [(trial.phase, trial.key, trial.arm, trial.seed) for trial in fresh]
    cells: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for phase, key, arm, seed in rows:
        cells.setdefault((phase, key), set()).add((arm, seed))
    members = read_members(results, folder.name)
    for row in members:
        planned = cells.get((row["phase"], row["key"]))
        if planned is not None and (row["arm"], row["seed"]) not in planned:
            names = " and ".join(f"{arm} seed {seed}" for arm, seed in sorted(planned))
            yield f"members.jsonl, {row['arm']} seed {row['seed']}: trial {row['key']} is {names} in plan.json"
        trial = trial_folder(results, row["key"])
        if (trial / "config.json").is_file() and not describes(row, trial):
            yield f"members.jsonl, {row['arm']}: the parameters are not those of trial {row['key']}"
    known, used = {(row["arm"], row["seed"], row["key"]) for row in members}, {record.key for record in source.records}
    lacking = [f"{arm} seed {seed}" for _, key, arm, seed in rows if key in used and (arm, seed, key) not in known]
    if lacking:
        yield f"members.jsonl lacks {listed(lacking)}"


def changed_looks(plan_file: PlanFile, folder: Path, answer: Answer, source: Provenance) -> Iterator[str]:
    """Yields what `looks.jsonl` says otherwise than the plan and the answer, or that it is gone."""
    looks = looks_file.read_looks(folder)
    if looks is None:
        # 更早的版本没有这个文件，看过几次只写在 plan.json 里
        if source.looks_kept:
            yield f"{looks_file.FILE} is gone, on which the answer rests: earlier looks cannot be told"
        return
    if len(looks) != sum(bool(line.strip()) for line in (folder / looks_file.FILE).read_bytes().split(b"\n")):
        yield f"{looks_file.FILE} has a line that is no look"
    seeds = looks_file.seeds_at(looks, plan_file.question)
    if seeds != list(plan_file.looks):
        yield f"{looks_file.FILE}: looked at {seeds} seeds, {list(plan_file.looks)} in plan.json"
    sharing = looks_file.sharing(looks, plan_file.question)
    here = [look for look in sharing if (look.seeds, look.max_seeds) == (answer.seeds, plan_file.max_seeds)]
    # 每个比较都要在这次看过的里面，少一个也是改过的
    seen = {arm for look in here for arm in look.question.arms}
    if answer.seeds and not (here and seen.issuperset(plan_file.question.arms)):
        yield f"{looks_file.FILE} lacks the look at {counted(answer.seeds, 'seed')} that answer.json is"


def changed_trials(results: Path, source: Provenance) -> Iterator[str]:
    """Yields what of the trials used is not as their results say: identity, attempts, images right, weights."""
    evaluated = {record.key for record in source.records if record.views != 1}
    for key in dict.fromkeys(record.key for record in source.records):
        folder = trial_folder(results, key)
        try:
            record = read_record(folder)
        except LabError as error:
            yield str(error)
            continue
        if record is not None:
            if misfit := ended_curve(folder, record.result).misfit:
                yield f"record {key}: its epochs.jsonl {misfit}"
            try:
                read_correct_images(folder, record.result)
            except LabError as error:
                yield f"record {key}: {error}"
            yield from _changed_attempts(folder, record, key in evaluated or (folder / "evaluations").is_dir())
            yield from _changed_weights(folder, record)


def _changed_attempts(folder: Path, record: Record, is_evaluated: bool) -> Iterator[str]:
    numbers = [row.get("attempt") for row in read_json_lines(folder / "attempts.jsonl")]
    made = record.result.attempts
    # 为评估重训、失败后再试，都会在结果之后再添一行
    goes_on = is_evaluated or record.result.state is TrialState.FAILED
    if numbers != list(range(1, len(numbers) + 1)) or len(numbers) < made or (len(numbers) > made and not goes_on):
        yield f"record {folder.name}: attempts.jsonl has {counted(len(numbers), 'attempt')}, its result.json {made}"


def _changed_weights(folder: Path, record: Record) -> Iterator[str]:
    """Weights that are there and are not those recorded; `--keep-weights` and `--prune` may have deleted them."""
    path = folder / (record.result.weights or "")
    if path.is_file():
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != record.result.weights_sha256:
                yield f"record {folder.name}: {record.result.weights} is not the file that was recorded"
