"""Checking a report: every verdict is computed again from the records, and whatever differs is named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from alexnet_core.configuration.frozen import first_mistake
from alexnet_core.configuration.wording import counted
from orchestrator.errors import ExitCode, LabError
from orchestrator.judging.answer import WORDING, Answer, Compared
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import plan_on_record
from orchestrator.records.layout import evaluation_path, table_folder, trial_folder
from orchestrator.records.trial_record import listed
from orchestrator.reporting.check_sources import changed_keys, changed_looks, changed_members, changed_trials
from orchestrator.reporting.conclude import judged_material
from orchestrator.reporting.files import ANSWER, PROVENANCE, SUMS, TEXT, data_files, shown_files
from orchestrator.reporting.material import Details, Material, Provenance, details, sha256, sha256_of
from orchestrator.tables.rows import EPOCH_COLUMNS, MEMBER_COLUMNS, TRIAL_COLUMNS, as_text, member_rows
from orchestrator.tables.tables import TrialTables, read_table, record_stamps, rows_from_records
from search_spaces.study import load_study, study_names

# 比较判据时看这几项；其余的差别合成一句
JUDGED = ("word", "n", "mean", "difference", "interval", "interval_level", "p", "adjusted_p", "claimed_points")
MOST_CELLS = 20
# 旧版把一个也写成复数：那不是改过
_ONE_OF_MANY = re.compile(rb"(?<![\w.,])1 ((?:complete |such |fresh )?(?:seed|epoch|point))s\b(?: (say)\b)?")


def found_differences(folder: Path, results: Path) -> list[str]:
    """Returns a line for each thing in a report that the records do not bear out; none for an honest report.

    Args:
        folder: The study's folder.
        results: The results folder.

    Raises:
        LabError: There is no report to check.
    """
    plan, plan_file = plan_on_record(folder)
    answer, source = _reported(folder)
    keys = sorted({record.key for record in source.records})
    members = member_rows(results)
    # 到达阈值的时间出自 epochs.jsonl，不信那张可能没跟上的表
    trials, epochs = rows_from_records(results, sorted({*keys, *(row.key for row in plan_file.trials)}))
    # 表可能还没跟上新的 trial，但已有的行必须与记录相同
    on_disk = read_table(results, "epochs", EPOCH_COLUMNS)
    table = epochs if on_disk is None else on_disk
    shown = sorted(set(table["key"]).intersection(keys))
    again = judged_material(plan, plan_file, folder, results, TrialTables(trials, members), epochs=epochs)
    return [
        *_changed_records(source, results),
        *changed_trials(results, source),
        *_changed_plan(plan, folder, source, answer),
        *changed_keys(plan, plan_file),
        *changed_members(plan, plan_file, folder, results, source),
        *changed_looks(plan_file, folder, answer, source),
        *_changed_table(results, trials.filter(pl.col("key").is_in(keys))),
        *_changed_rows(
            "members.parquet",
            _members_table(results, members),
            members,
            pl.col("study") == folder.name,
            ("arm", "seed"),
        ),
        *_changed_rows("epochs.parquet", table, epochs, pl.col("key").is_in(shown), ("key", "epoch")),
        *_changed_provenance(source, again.provenance),
        *_changed_answer(answer, _worded_as(answer, again.answer), sorted({*keys} - {*trials["key"]})),
        *_changed_files(folder, again, results, made_again=answer.wording == again.answer.wording),
    ]


def is_worded_otherwise(folder: Path) -> bool:
    """Returns whether an earlier version worded a report, so that only the sums of its texts can be checked."""
    return _reported(folder)[0].wording != WORDING


def _worded_as(before: Answer, now: Answer) -> Answer:
    """An answer with the notes of another one, where that was worded by an earlier version."""
    if before.wording == now.wording:
        return now
    retuned = now.retuned
    if retuned is not None and before.retuned is not None:
        retuned = _worded_as(before.retuned, retuned)
    return now.model_copy(update={"wording": before.wording, "notes": before.notes, "retuned": retuned})


def _reported(folder: Path) -> tuple[Answer, Provenance]:
    try:
        answer = Answer.model_validate_json((folder / ANSWER).read_bytes())
        return answer, Provenance.model_validate_json((folder / PROVENANCE).read_bytes())
    except (OSError, ValidationError) as error:
        reason = first_mistake(error) if isinstance(error, ValidationError) else f"{error.filename}: {error.strerror}"
        raise LabError(f"{folder} has no report to check ({reason})", exit_code=ExitCode.NOTHING) from error


def _changed_records(source: Provenance, results: Path) -> Iterator[str]:
    for record in source.records:
        folder = trial_folder(results, record.key)
        evaluation = sha256_of(evaluation_path(folder, record.views)) if record.views != 1 else None
        # 旧报告没有记 epochs.jsonl 的哈希，无从比较
        epochs = sha256_of(folder / "epochs.jsonl") if record.epochs_sha256 is not None else None
        for what, now, before in (
            ("result.json", sha256_of(folder / "result.json"), record.sha256),
            ("its evaluation", evaluation, record.evaluation_sha256),
            ("epochs.jsonl", epochs, record.epochs_sha256),
        ):
            if now != before:
                how = "is gone" if now is None else "was changed after the report"
                yield f"record {record.key} ({record.arm} seed {record.seed}): {what} {how}"


def _changed_plan(plan: Plan, folder: Path, source: Provenance, answer: Answer) -> Iterator[str]:
    if sha256((folder / "plan.json").read_bytes()) != source.plan_sha256:
        yield "plan.json was changed after the report"
    for name in ("margin", "smallest_effect"):
        if getattr(plan.recipe, name) != getattr(answer, name):
            yield f"{name}: {getattr(answer, name):g} in the report, {getattr(plan.recipe, name):g} in plan.json"
    if plan.study.name not in study_names():
        return
    recipe = load_study(plan.study.name).recipes.get(plan.dataset)
    for name in ("margin", "smallest_effect"):
        if recipe is not None and getattr(recipe, name) != getattr(plan.recipe, name):
            yield f"{name}: {getattr(plan.recipe, name):g} in plan.json, {getattr(recipe, name):g} in the study's file"


def _changed_table(results: Path, records: pl.DataFrame) -> Iterator[str]:
    """Rows of `trials.parquet` without a record, and cells that differ from the records."""
    table = read_table(results, "trials", TRIAL_COLUMNS)
    if table is None:
        return
    extra = sorted(set(table["key"]) - record_stamps(results, table["key"]).keys())
    if extra:
        yield f"trials.parquet, {listed(extra)}: there is no such record"
    twice = table.filter(pl.col("key").is_duplicated())["key"].unique().sort().to_list()
    if twice:
        yield f"trials.parquet, {listed(twice)}: stands there more than once"
    rows = {
        row["key"]: row for row in table.filter(pl.col("key").is_in(records["key"].to_list())).iter_rows(named=True)
    }
    lacking = [key for key in records["key"].to_list() if key not in rows]
    if lacking:
        yield f"trials.parquet lacks {listed(lacking)}"
    named = 0
    for record in records.filter(~pl.col("key").is_in(lacking)).iter_rows(named=True):
        row = rows[record["key"]]
        for column, value in record.items():
            # 文件复制到别处，时间戳就变了，内容没变；与别的 core 同名的字段，整张表里可以是文本
            if column != "record_stamp" and _differ(row.get(column), value) and named < MOST_CELLS:
                named += 1
                yield f"trials.parquet, {record['key']}, {column}: {row.get(column)!r}, in the record {value!r}"


def _differ(one: Any, other: Any) -> bool:
    return bool(one != other and as_text(one) != as_text(other))


def _members_table(results: Path, members: pl.DataFrame) -> pl.DataFrame:
    """The table of memberships as it lies on disk; one that is older than a membership is only not up to date yet."""
    table = read_table(results, "members", MEMBER_COLUMNS)
    if table is None:
        return members
    written = (table_folder(results) / "members.parquet").stat().st_mtime_ns
    newest = max((path.stat().st_mtime_ns for path in results.glob("studies/*/members.jsonl")), default=0)
    return table if newest <= written else members


def _changed_rows(
    name: str, table: pl.DataFrame, records: pl.DataFrame, of_report: pl.Expr, cell: tuple[str, str]
) -> Iterator[str]:
    """Rows of a table that are not as the records have them."""
    ours, theirs = records.filter(of_report), table.filter(of_report)
    columns = ours.columns
    for rows, how in (
        (ours.join(theirs, on=columns, how="anti", nulls_equal=True), "the records differ from the table"),
        (theirs.join(ours, on=columns, how="anti", nulls_equal=True), "the table differs from the records"),
    ):
        grouped = rows.select(cell).unique().sort(cell).group_by(cell[0], maintain_order=True).agg(cell[1])
        # 一条记录一行：坏了一条记录，它的每一轮都不同
        for first, seconds in grouped.head(MOST_CELLS).iter_rows():
            where = f" {cell[1]} {seconds[0]}" if len(seconds) == 1 else f", {counted(len(seconds), cell[1])}"
            yield f"{name}, {first}{where}: {how}"


def _changed_provenance(before: Provenance, now: Provenance) -> Iterator[str]:
    """Trials that the answer rests on and `provenance.json` does not name: nothing of them would be checked."""
    named = {(record.phase, record.arm, record.seed, record.key) for record in before.records}
    lacking = [record for record in now.records if (record.phase, record.arm, record.seed, record.key) not in named]
    if lacking:
        yield f"{PROVENANCE} lacks {listed([f'{record.arm} seed {record.seed}' for record in lacking])}"


def _changed_answer(before: Answer, now: Answer, not_counted: Sequence[str]) -> Iterator[str]:
    again = {arm.name: arm for arm in now.arms}
    if before.seeds != now.seeds:
        # 少了一格，这个种子和后面的就都不算：后面的 n 由此而来
        why = f", which lack {listed(not_counted)} (see above)" if not_counted else ""
        yield f"complete seeds: {before.seeds} in the report, {now.seeds} from the records{why}"
    for arm in before.arms:
        yield from _changed_arm(arm, again.get(arm.name))
    contrasts = {contrast.name: contrast for contrast in now.contrasts}
    for contrast in before.contrasts:
        yield from _changed_arm(contrast, contrasts.get(contrast.name))
    plain, other = _plain(before), _plain(now)
    named = ("arms", "contrasts", "seeds")
    names = sorted(
        name for name in plain.keys() | other.keys() if name not in named and plain.get(name) != other.get(name)
    )
    if names:
        yield f"answer.json differs from the records in {', '.join(names)}"
    missing = sorted(set(again) - {arm.name for arm in before.arms})
    if missing:
        yield f"answer.json lacks the arms {', '.join(missing)}"
    if missing := sorted(set(contrasts) - {contrast.name for contrast in before.contrasts}):
        yield f"answer.json lacks the contrasts {', '.join(missing)}"


def _changed_arm(before: Compared, now: Compared | None) -> Iterator[str]:
    if now is None:
        yield f"verdict on {before.name}: the records know no such comparison"
        return
    parts = [
        f"{name} {getattr(before, name)!r} in the report, {getattr(now, name)!r} from the records"
        for name in JUDGED
        if name in type(before).model_fields and getattr(before, name) != getattr(now, name)
    ]
    if not parts and before != now:
        parts = ["its details differ from the records"]
    if parts:
        yield f"verdict on {before.name}: {'; '.join(parts)}"


def _plain(answer: Answer) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(answer.model_dump_json())
    return plain


def _changed_files(folder: Path, again: Material, results: Path, *, made_again: bool) -> Iterator[str]:
    """Files that are not as they were written, and tables that the records would write otherwise.

    Args:
        folder: The study's folder.
        again: What the records say.
        results: The results folder.
        made_again: Whether the texts are worded as today, so that they can be compared.
    """
    written = {}
    for line in (folder / SUMS).read_text().splitlines() if (folder / SUMS).is_file() else ():
        digest, _, name = line.partition("  ")
        written[name] = digest
    if not written:
        yield f"{SUMS} is gone, so that an edit of the report's files cannot be told"
    edited = {
        name
        for name, digest in written.items()
        if not (folder / name).is_file() or sha256((folder / name).read_bytes()) != digest
    }
    shown = shown_files(again, _with_kernels(details(again, results, folder), folder))
    listed_nowhere = sorted({*shown, *data_files(again)} - written.keys()) if written else []
    if listed_nowhere:
        yield f"{SUMS} has no sum of {listed(listed_nowhere)}, so that an edit there cannot be told"
    # 图随 matplotlib 的版本而变，网页里有图：只有文字与表格能逐字节重算
    texts = (TEXT, ".tex") if made_again else ()
    same_bytes = {name for name in shown if name.endswith((".csv", *texts))}
    edited |= {name for name in shown if not (folder / name).is_file()}
    edited |= {name for name in same_bytes - edited if _worded((folder / name).read_bytes()) != _worded(shown[name])}
    # Parquet 的字节随 polars 的版本而变，行不变
    frames = {name for name in shown if name.endswith(".parquet")} - edited
    edited |= {name for name in frames if not _has_rows(folder / name, shown[name])}
    for name in sorted(edited):
        yield f"{name} is not what the records say"


def _worded(content: bytes) -> bytes:
    """A text of the report as it is worded today, where earlier versions said `1 complete seeds`."""
    return _ONE_OF_MANY.sub(lambda match: b"1 " + match[1] + (b" says" if match[2] else b""), content)


def _has_rows(path: Path, content: bytes) -> bool:
    """Whether a Parquet file has the rows of another one's content."""
    try:
        return pl.read_parquet(path, glob=False).equals(pl.read_parquet(BytesIO(content)))
    except (pl.exceptions.PolarsError, OSError):
        return False


def _with_kernels(read: Details, folder: Path) -> Details:
    """The details with the picture of the kernels in the report, where the weights have been deleted since."""
    drawn = folder / "figures" / "kernels.png"
    return read if read.kernels is not None or not drawn.is_file() else replace(read, kernels=drawn.read_bytes())
