"""The page of all claims: the paper's numbers beside ours, across the studies on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
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
from orchestrator.reporting.text_tables import TextTable, with_new_images

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
# 论文里没有研究的数字，以及为什么没有
WITHOUT_STUDY = (
    (
        "37.5 and 17.0 %: top-1 and top-5 test error",
        "6, table 1",
        "the error of one network, not a difference; it takes ImageNet 2010, whose labels of the test images were "
        "released, and 90 epochs of 1.2 million images (networks alexnet-paper and alexnet-145 are trained so)",
    ),
    (
        "40.7 and 18.2 %: errors on the validation set of 2012",
        "6, table 2",
        "the same, of ImageNet 2012",
    ),
    (
        "38.1 and 16.4 %: five networks averaged",
        "6, table 2",
        "five networks of ImageNet 2012; study ensemble averages networks of your own",
    ),
    (
        "39.0 and 16.6 %, with five others 36.7 and 15.4 %: a sixth convolution, pre-trained",
        "6, table 2",
        "pre-trained on the whole ImageNet release of autumn 2011 (15 million images of 22,000 categories), which is "
        "not distributed any more",
    ),
    (
        "15.3 and 26.2 %: the competition of 2012, first and second",
        "6, table 2",
        "the test labels of 2012 were never released; the second is the network of others",
    ),
    (
        "67.4 and 40.9 %: ImageNet of autumn 2009",
        "6",
        "8.9 million images of 10,184 categories, a release that is not distributed any more, split by chance",
    ),
    (
        "45.7 and 25.7 %, 47.1 and 28.2 %: Fisher vectors, sparse coding",
        "6, table 1",
        "methods of others",
    ),
    (
        "13 to 11 %: response normalisation on CIFAR-10",
        "3.3",
        "the two networks of the original code differ in more than the norm; study lrn removes the norm alone",
    ),
    (
        "five to six days of training; two GPUs take slightly less time than one",
        "3.2, 5",
        "of two GTX 580 with 3 GB and the code of 2012: another machine says nothing about it; a report's costs are "
        "those of its own",
    ),
    (
        "twice as many iterations with dropout",
        "4.2",
        "given without a criterion of convergence; study dropout judges the gap after as many epochs",
    ),
)


def claims_table(answers: Sequence[Answer], dataset: str) -> TextTable:
    """Returns a row per arm of each answer, re-tuned ones included: ours, and the paper's number."""
    with_units = any(answer.core is not None for answer in answers)
    rows = [_row(answer, one, with_units) for answer in answers for one in answer.judged]
    judged = [one for answer in answers for one in answer.judged]
    headings, rows = with_new_images(_headings(answers, with_units=with_units), rows, judged, behind="interval")
    words = [one.word for one in judged]
    return TextTable(f"claims-{dataset}", f"All claims on {dataset}", headings, rows, words)


def _headings(answers: Sequence[Answer], *, with_units: bool) -> Sequence[str]:
    # 别的 core 各有各的单位：单位写在格子里
    source = " or ".join(sorted({numbers.source_heading(answer) for answer in answers}, reverse=True))
    instead = {"paper": source, **({"difference, points (or ratio)": "difference"} if with_units else {})}
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
    for dataset, of_paper in product(datasets, (True, False)):
        both = _told(answers, dataset, of_paper=of_paper)
        if not both:
            continue
        picture, table = claims_figure(both, dataset), claims_table(both, dataset)
        if not of_paper:
            # 论文的主张与用户自己的问题各有一节
            table = table._replace(name=f"own-{dataset}", caption=f"Other studies on {dataset}")
            picture = picture._replace(name=f"own-{dataset}") if picture is not None else None
        heading = dataset if of_paper else f"{dataset}: other studies, not of the paper"
        sections.append(_section(heading, picture, table, not_asked.get(dataset, {}) if of_paper else {}))
        files |= figure_files([picture] if picture is not None else [])
        files[f"tables/{table.name}.tex"] = latex_table(table, table.name).encode()
    is_of_paper = any(numbers.is_of_the_paper(answer) for answer in answers)
    if is_of_paper:
        table = without_study_table()
        sections.append(Section(table.caption, tables=[table]))
        files[f"tables/{table.name}.tex"] = latex_table(table, table.name).encode()
    title = f"All {'claims' if is_of_paper else 'studies'} on {' and '.join(datasets)}"
    lead, kicker = f"{LEAD}{OF_THE_PAPER * is_of_paper}", KICKER.format(PAPER if is_of_paper else "All studies")
    files["report.md"] = sections_markdown(title, lead, sections).encode()
    files["report.html"] = claims_page(title, lead, sections, kicker).encode()
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def _told(answers: Sequence[Answer], dataset: str, *, of_paper: bool) -> list[Answer]:
    """The answers on a data set, re-tuned ones included: of the paper's studies, or of the others."""
    return [
        told
        for answer in answers
        if answer.dataset == dataset and numbers.is_of_the_paper(answer) == of_paper
        for told in (answer, answer.retuned)
        if told is not None
    ]


def _section(dataset: str, picture: Picture | None, table: TextTable, not_asked: Mapping[str, str]) -> Section:
    notes = [f"{name} is not asked here: {reason}" for name, reason in sorted(not_asked.items())]
    return Section(dataset, "", [picture] if picture is not None else [], [table], notes)


def without_study_table() -> TextTable:
    """Returns a row for each number of the paper that no study asks, with its section and the reason."""
    headings = ("number", "section", "why there is no study of it")
    rows = [list(row) for row in WITHOUT_STUDY]
    return TextTable("without-study", "Numbers of the paper without a study", headings, rows)


def summary_table(answers: Sequence[Answer]) -> Table:
    """Returns the terminal's table of all claims, the paper's number beside ours; several data sets are named."""
    claims = claims_table(answers, answers[0].dataset)
    headings, rows = claims.headings, claims.rows
    datasets = [answer.dataset for answer in answers for _ in answer.judged]
    if len(set(datasets)) > 1:
        headings = ["data set", *headings]
        rows = [[dataset, *row] for dataset, row in zip(datasets, rows, strict=True)]
    table = Table(title=Text("All claims"), title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
