"""Showing an answer: a rich table, Markdown, and (only when something changed) the figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from orchestrator.findings import Answer, ArmAnswer
from orchestrator.records import write_atomically
from orchestrator.remarks import shown_value, top5_says_something
from orchestrator.statistics import MOST_SEEDS

FIGURE = "differences"
ROOMY = 100
WORD_STYLES = {
    "supports": "bold green",
    "contradicts": "bold red",
    "higher": "bold yellow",
    "lower": "bold yellow",
    "equivalent": "bold cyan",
    "inconclusive": "bold magenta",
}


def answer_table(answer: Answer, width: int = ROOMY) -> Table:
    """Returns the verdict table for the terminal; errors in percent, differences in percentage points.

    Args:
        answer: The answer.
        width: Columns of the terminal; below 100 the intervals' levels, the sign-flip p and the seeds needed are left
            to the report.
    """
    roomy = width >= ROOMY
    table = Table(
        title=Text(f"{answer.study} on {answer.dataset}: {answer.question}", style="bold"),
        caption=Text(f"{answer.claim_source}: {answer.claim}"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("arm", min_width=8, overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    kind = "gap" if answer.metric.startswith("gap") else "error"
    table.add_column(f"{kind} %\nmean ± sd", justify="right", no_wrap=True)
    level = "difference\nlevel: interval" if roomy else "difference\ninterval"
    table.add_column(level, justify="right", no_wrap=True)
    table.add_column("adjusted p\nsign-flip p\n(floor)" if roomy else "adj. p", justify="right", no_wrap=True)
    table.add_column("paper", justify="right", no_wrap=True)
    table.add_column(f"verdict\non this\n{answer.judged_split} set", min_width=12)
    if roomy:
        table.add_column("seeds\nneeded", justify="right", no_wrap=True)
    for arm in answer.arms:
        table.add_row(*_terminal_cells(arm, roomy))
    return table


def _terminal_cells(arm: ArmAnswer, roomy: bool) -> list[Text]:
    # 没有检验过的差只用灰色
    style = "" if arm.interval is not None else "dim"
    difference, p = points(arm.difference), _p(arm.adjusted_p)
    if arm.interval is not None:
        difference += f"\n{_level(arm) if roomy else ''}{_bounds(arm.interval)}"
    if roomy and arm.sign_flip_p is not None:
        p += f"\n{_flips(arm)}"
    cells = [
        Text(arm.name),
        Text(str(arm.n)),
        Text(_error(arm)),
        Text(difference, style=style),
        Text(p),
        Text(points(arm.claimed_points, 1)),
        Text(arm.word, style=WORD_STYLES.get(arm.word, "")),
    ]
    return [*cells, Text(_needed(arm))] if roomy else cells


def _error(arm: ArmAnswer) -> str:
    if arm.mean is None:
        return ""
    return f"{arm.mean:.2f}" + (f" ± {arm.sd:.2f}" if arm.sd is not None else "")


def points(value: float | None, digits: int = 2) -> str:
    """Returns percentage points with their sign, or nothing for None."""
    return "" if value is None else f"{value:+.{digits}f}"


def _bounds(interval: tuple[float, float]) -> str:
    return f"{interval[0]:+.2f}, {interval[1]:+.2f}"


def _level(arm: ArmAnswer) -> str:
    return "" if arm.interval_level is None else f"{arm.interval_level:.4g} %: "


def _flips(arm: ArmAnswer) -> str:
    return "" if arm.sign_flip_p is None else f"{_p(arm.sign_flip_p)} ({_p(arm.sign_flip_floor)})"


def _needed(arm: ArmAnswer) -> str:
    """The range; a bound that the search did not reach is marked with a plus."""
    if arm.seeds_needed is None:
        return ""
    low, high = (f"{seeds}{'+' if seeds >= MOST_SEEDS else ''}" for seeds in arm.seeds_needed)
    return low if low == high else f"{low}-{high}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def answer_markdown(answer: Answer) -> str:
    """Returns the report in GitHub's Markdown; every name is escaped."""
    lines = [
        f"# {_md(answer.study)} on {_md(answer.dataset)}",
        "",
        f"**{_md(answer.question)}**",
        "",
        f"{_md(answer.claim_source)}: {_md(answer.claim)}",
        "",
        f"{answer.seeds} complete seeds of {answer.planned_seeds} planned.",
        "",
        *markdown_table(
            [
                "arm",
                "n",
                f"{answer.metric} %",
                "difference, points (level: interval)",
                "adjusted p",
                "sign-flip p (floor)",
                "paper",
                "verdict",
                "seeds needed",
            ],
            [_verdict_cells(arm) for arm in answer.arms],
        ),
        "",
        f"![{_alt(answer)}]({FIGURE}.svg)",
        "",
        *[f"- {_md(note)}" for note in answer.notes],
        "",
        "## Arms",
        "",
        *markdown_table(
            [
                "arm",
                "what it is",
                "p, unadjusted",
                "top-5 difference (95 %)",
                "paper, top-5",
                "correlation with baseline",
                "diverged",
                "failed",
                "seconds per trial",
            ],
            [_details(arm, answer.classes) for arm in answer.arms],
        ),
        "",
        "## Every seed",
        "",
        *_seed_table(answer),
    ]
    if answer.sweep:
        lines += ["", "## Sweep", "", *_sweep_lines(answer)]
    return "\n".join(lines) + "\n"


def _verdict_cells(arm: ArmAnswer) -> list[str]:
    interval = "" if arm.interval is None else f" ({_level(arm)}{_bounds(arm.interval)})"
    return [
        arm.name,
        str(arm.n),
        _error(arm),
        points(arm.difference) + interval,
        _p(arm.adjusted_p),
        _flips(arm),
        points(arm.claimed_points, 1),
        arm.sentence,
        _needed(arm),
    ]


def _details(arm: ArmAnswer, classes: int | None) -> list[str]:
    top5 = points(arm.top5_difference)
    if arm.top5_interval is not None:
        top5 += f" ({_bounds(arm.top5_interval)})"
    if top5 and not top5_says_something(classes):
        top5 += ", says nothing here"
    return [
        arm.name,
        arm.title,
        _p(arm.p),
        top5,
        points(arm.claimed_top5_points, 1),
        points(arm.correlation),
        str(arm.diverged),
        str(arm.failed),
        "" if arm.seconds is None else f"{arm.seconds:.1f}",
    ]


def _seed_table(answer: Answer) -> list[str]:
    seeds = sorted({seed for arm in answer.arms for seed in arm.errors}, key=int)
    rows = [
        [arm.name, *(f"{arm.errors[seed]:.2f}" if seed in arm.errors else "" for seed in seeds)] for arm in answer.arms
    ]
    return markdown_table([f"{answer.metric} %", *(f"seed {seed}" for seed in seeds)], rows)


def _sweep_lines(answer: Answer) -> list[str]:
    paths = sorted({path for point in answer.sweep for path in point.parameters})
    rows = [
        [
            *(shown_value(point.parameters.get(path)) for path in paths),
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
        *markdown_table([*paths, "validation error %", "state", "trial"], rows),
    ]


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table in GitHub's Markdown; every cell is escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_md(cell) for cell in cells) + " |"

    return [line(headings), "|" + "---|" * len(headings), *(line(row) for row in rows)]


def _md(text: str) -> str:
    """Escapes what Markdown or HTML would read as markup."""
    plain = " ".join(text.split())
    for mark in ("\\", "`", "*", "_", "[", "]", "|", "#", "~", "$"):
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
