"""Checking a report: every verdict is computed again from the records, and whatever differs is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
from pydantic import ValidationError

from alexnet_core.configuration.frozen import first_mistake
from alexnet_core.configuration.wording import counted
from orchestrator.errors import ExitCode, LabError
from orchestrator.judging.answer import WORDS_BEYOND, Answer, Compared
from orchestrator.judging.images.seen import SeenImages
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import plan_on_record
from orchestrator.records.layout import evaluation_path, table_folder, trial_folder
from orchestrator.records.trial_record import listed
from orchestrator.reporting.check_sources import changed_keys, changed_looks, changed_members, changed_trials
from orchestrator.reporting.conclude import judged_material
from orchestrator.reporting.files import ANSWER, PROVENANCE, SUMS, data_files, figure_files, table_files, text_files
from orchestrator.reporting.material import (
    CLASS_COLUMNS,
    OF_CORE,
    PRIVATE,
    Details,
    Material,
    Provenance,
    RecordUsed,
    details,
    sha256,
    sha256_of,
)
from orchestrator.tables.rows import EPOCH_COLUMNS, MEMBER_COLUMNS, TRIAL_COLUMNS, as_text, member_rows
from orchestrator.tables.tables import TrialTables, read_table, record_stamps, rows_from_records
from search_spaces.study import load_study, study_names

if TYPE_CHECKING:
    from orchestrator.reporting.figures.style import Picture

# 比较判据时看这几项；其余的差别合成一句
JUDGED = (
    "word",
    "n",
    "mean",
    "difference",
    "interval",
    "interval_level",
    "beyond",
    "p",
    "adjusted_p",
    "claimed_points",
)
# provenance.json 里由计划和记录算得出的
FACTS = ("command", "data", "first_started", "last_finished", "trials", "hours", "gpu_hours", "idle_gpu_hours")
MOST_CELLS = 20
KERNELS, CLASSES = "figures/kernels.png", "tables/classes.parquet"
_NARROW = re.compile(rb'<div class="narrow">.*?</div>\n', re.DOTALL)
# 旧版把一个也写成复数：那不是改过
_ONE_OF_MANY = re.compile(rb"(?<![\w.,])1 ((?:complete |such |fresh )?(?:seed|epoch|point))s\b(?: (say)\b)?")


class Checked(NamedTuple):
    """What a check has found.

    Attributes:
        differences: A line for each thing in a report that the records do not bear out; none for an honest report.
        by_sums_alone: A line for each thing that cannot be made again here: of it only the sums were compared.
    """

    differences: list[str]
    by_sums_alone: list[str]


def check_report(folder: Path, results: Path) -> Checked:
    """Makes a report again from its records, and compares.

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
    # 更早的报告没有第二个区间，就不读它所凭的那些位
    images = SeenImages(results) if answer.wording >= WORDS_BEYOND else None
    tables = TrialTables(trials, members)
    again = judged_material(plan, plan_file, folder, results, tables, epochs=epochs, images=images)
    files = _checked_files(folder, again, results, made_again=answer.wording == again.answer.wording)
    differences = [
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
        *files.differences,
    ]
    return Checked(differences, files.by_sums_alone)


def _worded_as(before: Answer, now: Answer) -> Answer:
    """An answer with the notes of another one, where that was worded by an earlier version."""
    if before.wording == now.wording:
        return now
    retuned = now.retuned
    if retuned is not None and before.retuned is not None:
        retuned = _worded_as(before.retuned, retuned)
    # 这两样只为那句注而来，早先的报告没有
    kept = {name: getattr(before, name) for name in ("wording", "notes", "uneven", "ended_early")}
    return now.model_copy(update={**kept, "retuned": retuned})


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
            # 文件复制到别处，时间戳就变了，内容没变；曲线在记录那里点名；与别的 core 同名的字段，整张表里可以是文本
            if column not in ("record_stamp", "curve") and _differ(row.get(column), value) and named < MOST_CELLS:
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
    """What `provenance.json` says otherwise than plan and records; a trial that it does not name would not be checked.

    Earlier versions noted less of a trial: what they did not note is not compared.
    """
    named, known = ({_identity(record): record for record in source.records} for source in (before, now))
    lacking = [f"{record.arm} seed {record.seed}" for identity, record in known.items() if identity not in named]
    if lacking:
        yield f"{PROVENANCE} lacks {listed(lacking)}"
    for identity, record in named.items():
        noted, attempts = record.attempts_sha256, known.get(identity, record).attempts_sha256
        if noted is not None and noted != attempts:
            yield f"record {record.key} ({record.arm} seed {record.seed}): attempts.jsonl was changed after the report"
    # 少了记录，时数与时间自然不同，上面已点过名
    if named.keys() == known.keys():
        yield from _changed_facts(before, now)


def _identity(record: RecordUsed) -> tuple[str, str, int, str]:
    return record.phase, record.arm, record.seed, record.key


def _changed_facts(before: Provenance, now: Provenance) -> Iterator[str]:
    for name in FACTS:
        if (told := getattr(before, name)) != (fact := getattr(now, name)):
            yield f"{PROVENANCE}, {name.replace('_', ' ')}: {told!r} in the report, {fact!r} from plan and records"
    # 旧版没有藏起机器的名字
    told = {name: values for name, values in before.environment.items() if f"env_{name}" not in PRIVATE}
    changed = sorted(name for name in {*told, *now.environment} if told.get(name) != now.environment.get(name))
    if changed:
        yield f"{PROVENANCE}: the environment differs from the records in {', '.join(changed)}"


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


def _checked_files(folder: Path, again: Material, results: Path, *, made_again: bool) -> Checked:
    """Compares the files of a report with their sums, and with what the records would write.

    Args:
        folder: The study's folder.
        again: What the records say.
        results: The results folder.
        made_again: Whether texts and figures are those of today, so that they can be compared.
    """
    # matplotlib 要 1.5 秒，只有要查才加载
    from orchestrator.reporting.figures.gallery import gallery

    written = _sums(folder)
    fresh = details(again, results, folder)
    # 清单没了，也不能把没改过的正文说成改过的
    read = with_classes(fresh, folder, is_told=CLASSES in written or (not written and (folder / CLASSES).is_file()))
    drawn = gallery(again, _with_kernels(read, folder))
    figures, tables = figure_files(drawn), table_files(again, read)
    pages = [text_files(again, pictures, read.classes) for pictures in (drawn, _as_on_disk(drawn, folder))]
    shown = {*figures, *tables, *pages[0]}
    differences = [] if written else [f"{SUMS} is gone, so that an edit of the report's files cannot be told"]
    unsummed = sorted({*shown, *data_files(again)} - written.keys()) if written else []
    if unsummed:
        differences.append(f"{SUMS} has no sum of {listed(unsummed)}, so that an edit there cannot be told")
    edited = {name for name, digest in written.items() if sha256_of(folder / name) != digest}
    edited |= {name for name in shown if not (folder / name).is_file()}
    texts = [{**tables, **page} for page in pages]
    # 措辞是旧的，就只比数字
    compared = {name for name in texts[0] if made_again or name.endswith((".csv", ".parquet"))}
    alike = _drawn_alike(folder, figures)
    told = _worded if any(name.endswith(".svg") for name in alike) else _worded_without_narrow
    edited |= {name for name in compared - edited if not _is_one_of(folder, name, texts, told)}
    if made_again:
        there = {name for name in figures.keys() - _not_drawn(read) if (folder / name).is_file()}
        redrawn, by_sums_alone = _redrawn(there, alike)
        edited |= redrawn
    else:
        by_sums_alone = ["an earlier version worded it: of its texts and figures only the sums were checked"]
    if read.kernels is None and KERNELS in figures:
        by_sums_alone.append(f"{KERNELS}: the weights that it was drawn from are gone: only its sum was checked")
    if fresh.classes is None and read.classes is not None:
        by_sums_alone.append(f"{CLASSES}: the data is not here, or not decoded: only its sum was checked")
    return Checked(differences + [f"{name} is not what the records say" for name in sorted(edited)], by_sums_alone)


def _sums(folder: Path) -> dict[str, str]:
    """The sums that the report was written with, by file."""
    lines = (folder / SUMS).read_text().splitlines() if (folder / SUMS).is_file() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _as_on_disk(pictures: Sequence[Picture], folder: Path) -> list[Picture]:
    """The figures as their files are: the page holds them, however matplotlib would draw them today."""

    def read(name: str, drawn: bytes) -> bytes:
        path = folder / "figures" / name
        return path.read_bytes() if drawn and path.is_file() else drawn

    both = ((one, read(f"{one.name}.png", one.png), read(f"{one.name}.svg", one.svg)) for one in pictures)
    return [one._replace(png=png, svg=svg) for one, png, svg in both]


def _is_one_of(
    folder: Path, name: str, versions: Sequence[Mapping[str, bytes]], told: Callable[[bytes], bytes]
) -> bool:
    """Whether a text or a table of the report is as it would be written; of a text what it has `told` is compared."""
    if name.endswith(".parquet"):
        # Parquet 的字节随 polars 的版本而变，行不变
        return _has_rows(folder / name, versions[0][name])
    return told((folder / name).read_bytes()) in [told(files[name]) for files in versions]


def _not_drawn(read: Details) -> set[str]:
    """Figures that are not drawn from numbers here: a core's, and kernels whose weights are gone."""
    own = {f"figures/{OF_CORE}{name}.png" for name in read.pictures}
    return own if read.kernels is not None else {*own, KERNELS}


def _redrawn(names: set[str], alike: set[str]) -> tuple[set[str], list[str]]:
    """The figures that were edited, and a line where they cannot be told from those of another matplotlib.

    Args:
        names: Figures in the report that are drawn from numbers here.
        alike: Those that are drawn today byte by byte as they are in the report.
    """
    edited: set[str] = set()
    by_sums_alone = []
    for kind in (".svg", ".png"):
        of_kind = {name for name in names if name.endswith(kind)}
        # 有一张画得逐字节相同，画图的就是同一版：其余的也该相同
        if of_kind & alike:
            edited |= of_kind - alike
        elif of_kind:
            by_sums_alone.append(
                f"the {kind[1:].upper()} figures are drawn otherwise here (another matplotlib, or all were edited): "
                "only their sums were checked"
            )
    return edited, by_sums_alone


def _drawn_alike(folder: Path, drawn: Mapping[str, bytes]) -> set[str]:
    """The figures that are drawn today byte by byte as they are in the report."""
    names = (name for name in drawn if (folder / name).is_file())
    return {name for name in names if (folder / name).read_bytes() == drawn[name]}


def _worded_without_narrow(content: bytes) -> bytes:
    """A page as worded today, without its layouts for a phone: matplotlib's as well, and no file has them."""
    return _worded(_NARROW.sub(b"", content).replace(b'<div class="scroll wide"', b'<div class="scroll"'))


def _worded(content: bytes) -> bytes:
    """A text of the report as it is worded today, where earlier versions said `1 complete seeds`."""
    return _ONE_OF_MANY.sub(lambda match: b"1 " + match[1] + (b" says" if match[2] else b""), content)


def _has_rows(path: Path, content: bytes) -> bool:
    """Whether a Parquet file has the rows of another one's content."""
    try:
        return pl.read_parquet(path, glob=False).equals(pl.read_parquet(BytesIO(content)))
    except (pl.exceptions.PolarsError, OSError):
        return False


def with_classes(read: Details, folder: Path, *, is_told: bool) -> Details:
    """Returns the details with the report's own table of classes where the data is not here.

    Args:
        read: What is read here.
        folder: The study's folder.
        is_told: Whether the report has such a table: written where the data was not at hand it is whole without.
    """
    if not is_told or read.classes is not None:
        return read if is_told else replace(read, classes=None)
    try:
        classes = pl.read_parquet(folder / CLASSES, glob=False)
    except (pl.exceptions.PolarsError, OSError):
        return read
    return replace(read, classes=classes) if classes.schema == pl.Schema(CLASS_COLUMNS) else read


def _with_kernels(read: Details, folder: Path) -> Details:
    """The details with the picture of the kernels in the report, where the weights have been deleted since."""
    drawn = folder / KERNELS
    return read if read.kernels is not None or not drawn.is_file() else replace(read, kernels=drawn.read_bytes())
