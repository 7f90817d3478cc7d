"""The report in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.findings import Answer
from orchestrator.reporting.story import Section
from orchestrator.reporting.text_tables import TextTable


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
        f"{escaped(answer.claim_source)}: {escaped(answer.claim)}",
        "",
        f"{answer.seeds} complete seeds of {answer.planned_seeds} planned.",
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
