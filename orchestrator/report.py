"""Showing an answer: a rich table, Markdown, and (only when something changed) the figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from orchestrator.answer import Answer, ArmAnswer
from orchestrator.records import write_atomically

FIGURE = "differences"
ROOMY = 100
NARROW_WITHOUT = (5, 8)
WORD_STYLES = {
    "supports": "bold green",
    "contradicts": "bold red",
    "higher": "bold yellow",
    "lower": "bold yellow",
    "equivalent": "bold cyan",
    "inconclusive": "dim",
}


def answer_table(answer: Answer, width: int = ROOMY) -> Table:
    """Returns the verdict table for the terminal; errors in percent, differences in percentage points.

    Args:
        answer: The answer.
        width: Columns of the terminal; below 100 the sign-flip p and the seeds needed are left to the report.
    """
    table = Table(
        title=f"{answer.study} on {answer.dataset}: {answer.question}",
        caption=f"paper: {answer.claim} ({answer.claim_source})",
        title_justify="left",
        caption_justify="left",
    )
    headings = [
        "arm",
        "n",
        "top-1 error %\nmean ± sd",
        "difference\n(interval)",
        "adj. p",
        "sign-flip p\n(floor)",
        "paper",
        "verdict",
        "seeds\nneeded",
    ]
    shown = [place for place in range(len(headings)) if width >= ROOMY or place not in NARROW_WITHOUT]
    for place in shown:
        word = headings[place] == "verdict"
        justify: JustifyMethod = "left" if place == 0 or word else "right"
        table.add_column(headings[place], justify=justify, no_wrap=not word, min_width=12 if word else None)
    for arm in answer.arms:
        cells = [Text(cell.replace(" (", "\n(")) for cell in _cells(arm)]
        row = [*cells[:7], Text(arm.word, style=WORD_STYLES.get(arm.word, "")), cells[7]]
        table.add_row(*(row[place] for place in shown))
    return table


def _cells(arm: ArmAnswer) -> list[str]:
    """Arm, n, error, difference with interval, adjusted p, sign-flip p, the paper's number, seeds needed."""
    error = "" if arm.mean is None else f"{arm.mean:.2f}" + (f" ± {arm.sd:.2f}" if arm.sd is not None else "")
    difference = ""
    if arm.difference is not None:
        difference = f"{arm.difference:+.2f}"
        if arm.interval is not None:
            difference += f" ({arm.interval[0]:+.2f}, {arm.interval[1]:+.2f})"
    flips = "" if arm.sign_flip_p is None else f"{arm.sign_flip_p:.4f} ({arm.sign_flip_floor:.4f})"
    needed = "" if arm.seeds_needed is None else _range(arm.seeds_needed)
    return [
        arm.name,
        str(arm.n),
        error,
        difference,
        "" if arm.adjusted_p is None else _p(arm.adjusted_p),
        flips,
        "" if arm.claimed_points is None else f"{arm.claimed_points:+.1f}",
        needed,
    ]


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _range(bounds: tuple[int, int]) -> str:
    return str(bounds[0]) if bounds[0] == bounds[1] else f"{bounds[0]}-{bounds[1]}"


def answer_markdown(answer: Answer) -> str:
    """Returns the report in GitHub's Markdown; every name is escaped."""
    lines = [
        f"# {_md(answer.study)} on {_md(answer.dataset)}",
        "",
        f"**{_md(answer.question)}** Paper: {_md(answer.claim)} ({_md(answer.claim_source)})",
        "",
        f"{answer.seeds} complete seeds of {answer.planned_seeds} planned.",
        "",
        *_table(
            [
                "arm",
                "n",
                "top-1 error %",
                "difference, points (interval)",
                "adjusted p",
                "sign-flip p (floor)",
                "paper",
                "verdict",
                "seeds needed",
            ],
            [[*_cells(arm)[:7], arm.sentence, _cells(arm)[7]] for arm in answer.arms],
        ),
        "",
        f"![{_alt(answer)}]({FIGURE}.svg)",
        "",
        *[f"- {_md(note)}" for note in answer.notes],
        *[f"- Missing: {_md(', '.join(answer.missing))}" for _ in answer.missing[:1]],
        "- Seeds needed: for 80 % power at the smallest effect of "
        f"{answer.smallest_effect:g} points, from the 95 % limits of the standard deviation.",
        "",
        "## Arms",
        "",
        *_table(
            [
                "arm",
                "what it is",
                "interval's confidence %",
                "top-5 difference (95 %)",
                "paper, top-5",
                "correlation with baseline",
                "diverged",
                "failed",
                "seconds per trial",
            ],
            [_details(arm) for arm in answer.arms],
        ),
        "",
        "## Every seed",
        "",
        *_seed_table(answer),
    ]
    if answer.sweep:
        lines += ["", "## Sweep", "", *_sweep_lines(answer)]
    return "\n".join(lines) + "\n"


def _details(arm: ArmAnswer) -> list[str]:
    top5 = ""
    if arm.top5_difference is not None:
        top5 = f"{arm.top5_difference:+.2f}"
        if arm.top5_interval is not None:
            top5 += f" ({arm.top5_interval[0]:+.2f}, {arm.top5_interval[1]:+.2f})"
    return [
        arm.name,
        arm.title,
        "" if arm.interval_level is None else f"{arm.interval_level:.2f}",
        top5,
        "" if arm.claimed_top5_points is None else f"{arm.claimed_top5_points:+.1f}",
        "" if arm.correlation is None else f"{arm.correlation:+.2f}",
        str(arm.diverged),
        str(arm.failed),
        "" if arm.seconds is None else f"{arm.seconds:.1f}",
    ]


def _seed_table(answer: Answer) -> list[str]:
    seeds = sorted({seed for arm in answer.arms for seed in arm.errors}, key=int)
    rows = [
        [arm.name, *(f"{arm.errors[seed]:.2f}" if seed in arm.errors else "" for seed in seeds)] for arm in answer.arms
    ]
    return _table(["top-1 error %", *(f"seed {seed}" for seed in seeds)], rows)


def _sweep_lines(answer: Answer) -> list[str]:
    paths = sorted({path for point in answer.sweep for path in point.parameters})
    rows = [
        [
            *(_value(point.parameters.get(path)) for path in paths),
            "" if point.validation_error is None else f"{point.validation_error:.2f}",
            point.state,
            point.key,
        ]
        for point in answer.sweep
    ]
    return [
        f"Best of {answer.sweep_asked} points by validation error, one tuning seed each. This is not a verdict: "
        "the points were chosen by the same numbers.",
        "",
        *_table([*paths, "validation error %", "state", "trial"], rows),
    ]


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_md(cell) for cell in cells) + " |"

    return [line(headings), "|" + "---|" * len(headings), *(line(row) for row in rows)]


def _md(text: str) -> str:
    """Escapes what Markdown or HTML would read as markup."""
    plain = " ".join(text.split())
    for mark in ("\\", "`", "*", "_", "[", "]", "|", "#", "~"):
        plain = plain.replace(mark, f"\\{mark}")
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _alt(answer: Answer) -> str:
    parts = [
        f"{arm.name} {arm.difference:+.2f} points ({arm.word})"
        for arm in answer.arms
        if not arm.is_baseline and arm.difference is not None
    ]
    return _md(f"Differences to the baseline with intervals: {'; '.join(parts)}")


def write_answer(folder: Path, answer: Answer) -> list[Path]:
    """Writes `answer.json`, `report.md` and the figures, if the answer changed or one of them is missing.

    Args:
        folder: The study's folder.
        answer: The answer.

    Returns:
        The files written; none when everything is as it was.
    """
    content = json.dumps(answer.model_dump(mode="json"), indent=1, sort_keys=True).encode()
    report = answer_markdown(answer).encode()
    paths = [folder / name for name in ("answer.json", "report.md", f"{FIGURE}.png", f"{FIGURE}.svg")]
    same = all(path.is_file() for path in paths)
    if same and paths[0].read_bytes() == content and paths[1].read_bytes() == report:
        return []
    # matplotlib 要 1.5 秒，只有答案变了才加载
    from orchestrator.figures import differences_figure

    png, svg = differences_figure(answer)
    # answer.json 最后写：它在，其余才算齐
    for path, data in zip(reversed(paths), (svg, png, report, content), strict=True):
        write_atomically(path, data)
    return paths
