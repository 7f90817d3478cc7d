"""The report in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.findings import Answer, ArmAnswer, Measured
from orchestrator.remarks import shown_value, top5_says_something
from orchestrator.reporting import cells

FIGURE = "differences"


def answer_markdown(answer: Answer) -> str:
    """Returns the report in GitHub's Markdown; every name is escaped."""
    lines = [
        f"# {escaped(answer.study)} on {escaped(answer.dataset)}",
        "",
        f"**{escaped(answer.question)}**",
        "",
        f"{escaped(answer.claim_source)}: {escaped(answer.claim)}",
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
        *[f"- {escaped(note)}" for note in answer.notes],
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
        "## What the arms cost",
        "",
        *_cost_lines(answer),
        "",
        "## Every seed",
        "",
        *_seed_table(answer),
    ]
    if answer.sweep:
        lines += ["", "## Sweep", "", *_sweep_lines(answer)]
    return "\n".join(lines) + "\n"


def _verdict_cells(arm: ArmAnswer) -> list[str]:
    interval = "" if arm.interval is None else f" ({cells.level(arm)}: {cells.bounds(arm.interval)})"
    return [
        arm.name,
        str(arm.n),
        cells.error(arm),
        cells.points(arm.difference) + interval,
        cells.p_value(arm.adjusted_p),
        cells.flips(arm),
        cells.points(arm.claimed_points, 1),
        arm.sentence,
        cells.needed(arm),
    ]


def _details(arm: ArmAnswer, classes: int | None) -> list[str]:
    top5 = cells.points(arm.top5_difference)
    if arm.top5_interval is not None:
        top5 += f" ({cells.bounds(arm.top5_interval)})"
    if top5 and not top5_says_something(classes):
        top5 += ", says nothing here"
    return [
        arm.name,
        arm.title,
        cells.p_value(arm.p),
        top5,
        cells.points(arm.claimed_top5_points, 1),
        cells.points(arm.correlation),
        str(arm.diverged),
        str(arm.failed),
        "" if arm.seconds is None else f"{arm.seconds:.1f}",
    ]


def _cost_lines(answer: Answer) -> list[str]:
    kinds = sorted({arm.costs.memory_kind for arm in answer.arms if arm.costs.memory_kind})
    said = f" Memory is what was {' or '.join(kinds)}, at its peak." if kinds else ""
    rows = [_cost_cells(arm) for arm in answer.arms]
    return [
        "Ratios are the geometric mean over seeds of arm over baseline, paired by seed, with plain 95 % intervals "
        f"(no correction, no verdict).{said}",
        "",
        *markdown_table(
            ["arm", "parameters", "multiply-adds per image", "seconds per epoch", "ratio", "memory, MB", "ratio"], rows
        ),
    ]


def _cost_cells(arm: ArmAnswer) -> list[str]:
    costs = arm.costs
    return [
        arm.name,
        "" if costs.parameters is None else f"{costs.parameters:,}",
        "" if costs.multiply_adds is None else f"{costs.multiply_adds:,}",
        *_measured_cells(costs.seconds_per_epoch),
        *_measured_cells(costs.memory_mb),
    ]


def _measured_cells(cost: Measured) -> list[str]:
    ratio = "" if cost.ratio is None else f"{cost.ratio:.3f}"
    if cost.ratio_interval is not None:
        ratio += f" ({cost.ratio_interval[0]:.3f} to {cost.ratio_interval[1]:.3f}, n {cost.pairs})"
    return ["" if cost.mean is None else f"{cost.mean:.3g}", ratio]


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
        return "| " + " | ".join(escaped(cell) for cell in cells) + " |"

    return [line(headings), "|" + "---|" * len(headings), *(line(row) for row in rows)]


def escaped(text: str) -> str:
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
    return escaped(f"Differences to the baseline with intervals: {'; '.join(parts)}")
