"""The page of a study on several data sets, made of its answer alone: neither core nor data nor records are needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from alexnet_core.configuration.frozen import first_mistake
from alexnet_core.configuration.wording import counted
from orchestrator.errors import ExitCode, LabError
from orchestrator.judging import numbers
from orchestrator.judging.answer import Compared
from orchestrator.records.files import write_atomically
from orchestrator.replication.answer import Replicated, Replication
from orchestrator.reporting.files import ANSWER, PAGE, SUMS, TEXT, csv_of, sums
from orchestrator.reporting.markup import latex_table, sections_markdown
from orchestrator.reporting.story import Section
from orchestrator.reporting.text_tables import TextTable, with_new_images


def replicates_table(replication: Replication) -> TextTable:
    """Returns a row per comparison: what each data set says of it, and on how many it replicates."""
    rows = [_row(one, replication.datasets) for one in replication.comparisons]
    caption = f"Replicates on how many of {counted(len(replication.datasets), 'data set')}"
    return TextTable("replicates", caption, ("comparison", *replication.datasets, "replicates"), rows)


def _row(one: Replicated, datasets: Sequence[str]) -> list[str]:
    on = {each.dataset: _in_words(each.compared) for each in one.on}
    return [one.name, *(on.get(dataset, "not compared") for dataset in datasets), one.sentence]


def _in_words(compared: Compared) -> str:
    word = f"{compared.word} (and beyond)" if compared.holds_beyond else compared.word
    return f"{numbers.difference_in_words(compared)} {word}".strip()


def each_table(replication: Replication) -> TextTable:
    """Returns a row per comparison and data set, with interval and p of the one family."""
    headings = ("comparison", "data set", "n", "difference", "interval", "level", "adjusted p", "claimed", "verdict")
    rows = [
        [
            one.name,
            on.dataset,
            str(on.compared.n),
            numbers.difference_in_words(on.compared),
            numbers.interval(on.compared),
            numbers.level(on.compared),
            numbers.p_value(on.compared.adjusted_p),
            numbers.claimed(on.compared),
            on.compared.word,
        ]
        for one in replication.comparisons
        for on in one.on
    ]
    compared = [on.compared for one in replication.comparisons for on in one.on]
    shown, cells = with_new_images(headings, rows, compared)
    return TextTable("on-each", "Every comparison on every data set", shown, cells, [one.word for one in compared])


def _arms_table(replication: Replication) -> TextTable:
    rows = [[one.name, one.title, "yes" if one.has_claim else ""] for one in replication.comparisons]
    return TextTable("compared", "What is compared", ("comparison", "what", "of a claim"), rows)


def lead(replication: Replication) -> str:
    """Returns how the table is to be read, in two to four sentences."""
    level = f"{100.0 * replication.alpha:g} %"
    claim = (
        " a claim replicates where its direction is supported;"
        if any(one.has_claim for one in replication.comparisons)
        else ""
    )
    return (
        f"{counted(replication.family, 'comparison')} on {len(replication.datasets)} data sets are one family (Holm): "
        f"together their words are false in at most {level} of such questions.{_choice(replication)} In the last "
        f"column{claim} what has no claim is counted by its direction.{_beyond(replication)} No effect is pooled: a "
        "few data sets are no sample of data sets."
    )


def _beyond(replication: Replication) -> str:
    """What the words in brackets mean; empty where no word has them."""
    holds = any(on.compared.holds_beyond for one in replication.comparisons for on in one.on)
    return " (And beyond): for new images as well as for those of that test set." if holds else ""


def _choice(replication: Replication) -> str:
    """What that level does not cover: a family that was chosen among several, or once words of it were known."""
    known = [f"{one} had been judged alone" for one in replication.judged_before]
    known += [f"{one} had been asked" for one in replication.asked_before]
    if not known:
        return ""
    return (
        f" They were first asked together after {', '.join(known)}: where such words led to the choice of data sets, "
        "that level does not hold (chosen afterwards)."
    )


def page_files(replication: Replication) -> dict[str, bytes]:
    """Returns the files of the page; `answer.json` is the last: where it is, the rest is complete."""
    # 网页带着 matplotlib：只有要写才加载
    from orchestrator.reporting.page import claims_page

    tables = (replicates_table(replication), each_table(replication), _arms_table(replication))
    sections = [
        Section("Replicates", lead(replication), tables=[tables[0]], notes=replication.notes),
        Section("On each data set", "", tables=[tables[1]], notes=_reports(replication)),
        Section("Comparisons", "", tables=[tables[2]]),
    ]
    title = f"{replication.study} on {' and '.join(replication.datasets)}"
    source = f"{replication.claim_source}: {replication.claim}" if replication.claim else ""
    command = f"python -m orchestrator.report {replication.study} --dataset {','.join(replication.datasets)}"
    page = claims_page(title, source, sections, replication.question, command)
    files = {
        PAGE: page.encode(),
        TEXT: sections_markdown(title, f"{replication.question} {source}".strip(), sections).encode(),
        "tables/replication.csv": csv_of(_frame(replication)),
        **{f"tables/{table.name}.tex": latex_table(table, table.name).encode() for table in tables},
    }
    content = json.dumps(replication.model_dump(mode="json"), indent=1, sort_keys=True).encode()
    return {**files, SUMS: sums({**files, ANSWER: content}), ANSWER: content}


def _reports(replication: Replication) -> list[str]:
    return [
        f"{dataset}: {counted(replication.seeds[dataset], 'seed')}, {replication.metrics[dataset]}; its own report, "
        "where its comparisons are a family by themselves, lies beside this folder in "
        f"{replication.reports[dataset]}/{PAGE}"
        for dataset in replication.datasets
    ]


def _frame(replication: Replication) -> pl.DataFrame:
    rows = [_values(one, on.dataset, on.compared) for one in replication.comparisons for on in one.on]
    return pl.DataFrame(rows, infer_schema_length=None)


def _values(one: Replicated, dataset: str, compared: Compared) -> dict[str, object]:
    low, high = compared.interval or (None, None)
    names = ("n", "scale", "unit", "difference", "difference_is", "interval_level", "p", "adjusted_p", "word")
    ends: dict[str, object] = {"interval_low": low, "interval_high": high}
    if compared.beyond is not None:
        new_low, new_high = compared.beyond
        ends |= {"beyond_low": new_low, "beyond_high": new_high, "beyond_level": compared.beyond_level}
    return {
        "comparison": one.name,
        "dataset": dataset,
        **{name: getattr(compared, name) for name in names},
        **ends,
        "replicates": one.sentence,
    }


def write_page(folder: Path, replication: Replication) -> None:
    """Writes the page and its tables."""
    for name, content in page_files(replication).items():
        write_atomically(folder / name, content)


def read_replication(folder: Path) -> Replication:
    """Returns what a page says; neither core, data nor records are read.

    Raises:
        LabError: There is none, or it is damaged.
    """
    try:
        return Replication.model_validate_json((folder / ANSWER).read_bytes())
    except (OSError, ValidationError) as error:
        reason = first_mistake(error) if isinstance(error, ValidationError) else f"{error.filename}: {error.strerror}"
        raise LabError(f"{folder} has no joint report to check ({reason})", exit_code=ExitCode.NOTHING) from error
