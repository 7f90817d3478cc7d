"""The tables of a report in LaTeX, for `booktabs`."""

from __future__ import annotations

from collections.abc import Sequence

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
