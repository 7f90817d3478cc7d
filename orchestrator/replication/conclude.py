"""From the answers on each data set to the one on all of them: judged, printed, written, and checked again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.judging.images.seen import SeenImages
from orchestrator.judging.primary_metric import reads_epochs
from orchestrator.output.fitting import cards, fits, print_text
from orchestrator.replication.answer import WORDING, WORDS_BEYOND, Replicated, Replication
from orchestrator.replication.before import Before
from orchestrator.replication.judge import Part, replicate
from orchestrator.replication.page import lead, page_files, read_replication, replicates_table
from orchestrator.reporting.files import ANSWER, SUMS
from orchestrator.tables.rows import EPOCH_COLUMNS
from orchestrator.tables.tables import load_tables, load_trials


def judge_parts(parts: Sequence[Part], results: Path, before: Before) -> Replication:
    """Returns what a study says on several data sets together.

    Args:
        parts: The study on each data set, already judged there.
        results: The results folder.
        before: What was on record when they were first asked together.
    """
    # 次序与文件夹名相同：先说哪个数据集，不改答案
    in_order = sorted(parts, key=lambda part: part.plan.dataset)
    return _judged_in_order(in_order, results, before, SeenImages(results))


def _judged_in_order(
    parts: Sequence[Part], results: Path, before: Before, images: SeenImages | None = None
) -> Replication:
    # 到达阈值的时间才要最大的那张表
    if any(reads_epochs(part.plan.recipe) for part in parts):
        tables = load_tables(results)
        return replicate(parts, tables.trials, tables.epochs, before, images)
    return replicate(parts, load_trials(results).trials, pl.DataFrame(schema=EPOCH_COLUMNS), before, images)


def print_replication(replication: Replication, console: Console) -> None:
    """Prints the table "replicates on k of m", how it is to be read, and what to know."""
    datasets = " and ".join(replication.datasets)
    print_text(console, f"{replication.study} on {datasets}: {replication.question}", style="bold")
    shown = replicates_table(replication)
    table = Table(title=Text(shown.caption), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in shown.headings:
        table.add_column(Text(heading))
    for row in shown.rows:
        table.add_row(*map(Text, row))
    if fits(table, console.width):
        console.print(table)
    else:
        for card in cards(shown.headings, shown.rows):
            console.print(card)
    for note in (lead(replication), *replication.notes):
        print_text(console, note, style="dim")


def check_replication(folder: Path, parts: Sequence[Part], results: Path, asked: Before) -> Iterator[str]:
    """Yields a line for each thing in a joint page that the records do not bear out.

    Args:
        folder: Of the page.
        parts: The study on each data set, as the records say it is judged there.
        results: The results folder.
        asked: What was on record when they were first asked together.

    Raises:
        LabError: There is no page to check.
    """
    before = read_replication(folder)
    # 从前的页面按当初问的次序写
    places = {dataset: place for place, dataset in enumerate(before.datasets)}
    # 更早的页面没有对新图的界限，就不读它所凭的那些位
    images = SeenImages(results) if before.wording >= WORDS_BEYOND else None
    in_order = sorted(parts, key=lambda part: places.get(part.plan.dataset, len(places)))
    now = _judged_in_order(in_order, results, asked, images)
    again = now.model_copy(
        update={"wording": before.wording, "notes": before.notes if _is_older(before) else now.notes}
    )
    told, known = ({one.name: one for one in of.comparisons} for of in (before, again))
    for name in dict.fromkeys([*told, *known]):
        if told.get(name) != known.get(name):
            yield f"{name}: {_said(told, name)} in the page, {_said(known, name)} from the records"
    bare = {"comparisons": ()}
    if before.model_copy(update=bare) != again.model_copy(update=bare):
        yield f"{ANSWER}: seeds, level, notes or what is asked differ from the records"
    for name, content in page_files(before).items():
        # 旧措辞的页面只核对答案
        if not _is_older(before) and name not in (ANSWER, SUMS) and not _has(folder / name, content):
            yield f"{name} is not what {ANSWER} says"


def _is_older(page: Replication) -> bool:
    return page.wording != WORDING


def _said(comparisons: Mapping[str, Replicated], name: str) -> str:
    one = comparisons.get(name)
    return "nothing" if one is None else f"replicates {one.sentence}"


def _has(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
