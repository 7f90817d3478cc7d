"""The report in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_core.configuration.wording import counted
from orchestrator.judging.answer import Answer
from orchestrator.reporting.story import Section
from orchestrator.reporting.text_tables import TextTable

_MARKS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "∞": r"$\infty$",
    "…": r"\dots{}",
    **{mark: f"\\{mark}" for mark in "&%$#_"},
}


def study_markdown(answer: Answer, sections: Sequence[Section]) -> str:
    """Returns a study's report in GitHub's Markdown; every name is escaped.

    Args:
        answer: The answer.
        sections: Its story.
    """
    lines = [
        f"# {escaped(answer.study)} on {escaped(answer.dataset)}",
        "",
        f"**{escaped(answer.question)}**",
        "",
        *([f"{escaped(answer.claim_source)}: {escaped(answer.claim)}", ""] if answer.claim else []),
        f"{counted(answer.seeds, 'complete seed')} of {answer.planned_seeds} planned.",
    ]
    return _joined(lines, sections)


def sections_markdown(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Returns a page of sections under a title and a sentence."""
    return _joined([f"# {escaped(title)}", "", escaped(lead)], sections)


def _joined(lines: Sequence[str], sections: Sequence[Section]) -> str:
    blocks = [line for section in sections for line in ("", *_section(section))]
    return "\n".join([*lines, *blocks]) + "\n"


def _section(section: Section) -> list[str]:
    blocks = [[f"## {escaped(section.title)}"]]
    if section.lead:
        blocks.append([escaped(section.lead)])
    blocks += [markdown_table(table.headings, table.rows) for table in section.tables]
    for picture in section.pictures:
        kind = "svg" if picture.svg else "png"
        blocks.append([f"![{escaped(picture.alt)}](figures/{picture.name}.{kind})"])
    if section.notes:
        blocks.append([f"- {escaped(note)}" for note in section.notes])
    blocks += [_folded(table) for table in section.folded]
    return [line for block in blocks for line in (*block, "")][:-1]


def _folded(table: TextTable) -> list[str]:
    summary = f"<summary>{escaped(table.caption)}</summary>"
    return ["<details>", summary, "", *markdown_table(table.headings, table.rows), "", "</details>"]


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table in GitHub's Markdown; every cell is escaped."""

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(escaped(cell) for cell in row) + " |"

    return [line(headings), "|" + "---|" * len(headings), *(line(row) for row in rows)]


def escaped(text: str) -> str:
    """Escapes what Markdown or HTML would read as markup."""
    plain = " ".join(text.split())
    for mark in ("\\", "`", "*", "_", "[", "]", "|", "#", "~", "$"):
        plain = plain.replace(mark, f"\\{mark}")
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex_table(table: TextTable, label: str) -> str:
    r"""Returns a `table` environment; it needs `\usepackage{booktabs}`.

    Args:
        table: The table.
        label: Of the reference, such as `lrn-verdicts`.
    """
    columns = "l" + "".join("r" if _is_numeric(table.rows, place) else "l" for place in range(1, len(table.headings)))
    body = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering\small",
        f"  \\caption{{{latex(table.caption)}}}",
        f"  \\label{{tab:{label}}}",
        f"  \\begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        f"    {_line(table.headings)}",
        r"    \midrule",
        *(f"    {_line(row)}" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(body) + "\n"


def _line(row: Sequence[str]) -> str:
    return " & ".join(latex(cell) for cell in row) + r" \\"


def _is_numeric(rows: Sequence[Sequence[str]], place: int) -> bool:
    return all(not row[place] or row[place][0] in "+-.<×0123456789" for row in rows)


def latex(text: str) -> str:
    """Escapes what LaTeX would read as markup; a leading minus becomes a real one."""
    escaped = "".join(_MARKS.get(character, character) for character in " ".join(text.split()))
    # 连字符排成减号
    return f"$-${escaped[1:]}" if escaped.startswith("-") and escaped[1:2].isdigit() else escaped
