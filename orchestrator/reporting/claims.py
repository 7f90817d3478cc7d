"""The page of all claims: the paper's numbers beside ours, across the studies on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from orchestrator.judging import numbers
from orchestrator.judging.answer import Answer, Compared
from orchestrator.records.files import write_atomically
from orchestrator.reporting.markup import latex_table, sections_markdown
from orchestrator.reporting.story import Section
from orchestrator.reporting.text_tables import TextTable

if TYPE_CHECKING:
    from orchestrator.reporting.figures.style import Picture


HEADINGS = ("study", "arm", "metric", "n", "difference, points (or ratio)", "interval", "paper", "verdict")
LEAD = (
    "Each study judges its own metric against its own baseline; its report beside this page has p values, seeds and "
    "remarks."
)
OF_THE_PAPER = (
    " The paper's numbers are of ImageNet, that of activation of CIFAR-10, one run each; they are not tested against "
    "ours."
)
KICKER = "{}, claim by claim"
PAPER = "ImageNet Classification with Deep Convolutional Neural Networks"


def claims_table(answers: Sequence[Answer], dataset: str) -> TextTable:
    """Returns a row per arm of each answer, re-tuned ones included: ours, and the paper's number."""
    with_units = any(answer.core is not None for answer in answers)
    rows = [_row(answer, one, with_units) for answer in answers for one in answer.judged]
    words = [one.word for answer in answers for one in answer.judged]
    headings = _headings(answers) if with_units else HEADINGS
    return TextTable(f"claims-{dataset}", f"All claims on {dataset}", headings, rows, words)


def _headings(answers: Sequence[Answer]) -> Sequence[str]:
    # 别的 core 各有各的单位：单位写在格子里
    source = " or ".join(sorted({numbers.source_heading(answer) for answer in answers}, reverse=True))
    instead = {"difference, points (or ratio)": "difference", "paper": source}
    return [instead.get(heading, heading) for heading in HEADINGS]


def _row(answer: Answer, arm: Compared, with_units: bool) -> list[str]:
    return [
        answer.study,
        arm.name,
        answer.metric,
        str(arm.n),
        numbers.difference_in_words(arm) if with_units else numbers.difference(arm),
        numbers.interval(arm),
        numbers.claimed(arm),
        arm.word,
    ]


def write_claims(folder: Path, answers: Sequence[Answer], not_asked: Mapping[str, Mapping[str, str]]) -> list[Path]:
    """Writes the page, Markdown, LaTeX and figures.

    Args:
        folder: Where to.
        answers: The studies' answers, on one data set or several.
        not_asked: By data set, the studies that are not asked there, and why.

    Returns:
        The files written.
    """
    from orchestrator.reporting.figures.claims import claims_figure
    from orchestrator.reporting.files import figure_files
    from orchestrator.reporting.page import claims_page

    datasets = sorted({answer.dataset for answer in answers})
    sections: list[Section] = []
    files: dict[str, bytes] = {}
    # 不同数据集上的差不能画在一起：一个一节
    for dataset in datasets:
        both = [
            told
            for answer in answers
            if answer.dataset == dataset
            for told in (answer, answer.retuned)
            if told is not None
        ]
        picture, table = claims_figure(both, dataset), claims_table(both, dataset)
        sections.append(_section(dataset, picture, table, not_asked.get(dataset, {})))
        files |= figure_files([picture] if picture is not None else [])
        files[f"tables/{table.name}.tex"] = latex_table(table, table.name).encode()
    title = "All claims on " + " and ".join(datasets)
    is_of_paper = any(answer.core is None for answer in answers)
    lead, kicker = f"{LEAD}{OF_THE_PAPER * is_of_paper}", KICKER.format(PAPER if is_of_paper else "All studies")
    files["report.md"] = sections_markdown(title, lead, sections).encode()
    files["report.html"] = claims_page(title, lead, sections, kicker).encode()
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def _section(dataset: str, picture: Picture | None, table: TextTable, not_asked: Mapping[str, str]) -> Section:
    notes = [f"{name} is not asked here: {reason}" for name, reason in sorted(not_asked.items())]
    return Section(dataset, "", [picture] if picture is not None else [], [table], notes)


def summary_table(answers: Sequence[Answer]) -> Table:
    """Returns the terminal's table of all claims: the paper's number beside ours."""
    claims = claims_table(answers, answers[0].dataset)
    table = Table(title=Text("All claims"), title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)
    for heading in claims.headings:
        table.add_column(heading)
    for row in claims.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
