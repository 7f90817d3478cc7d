"""The tables of a sweep: its best points, what its parameters matter, its Pareto front, and what fresh seeds say."""

from __future__ import annotations

import math

from orchestrator.findings import Answer, Confirmation, ConfirmedPoint, SweepFacts
from orchestrator.remarks import shown_value
from orchestrator.reporting import cells
from orchestrator.reporting.text_tables import TextTable


def importance_table(facts: SweepFacts) -> TextTable:
    """Returns the share of the error's variance that each parameter explains, with its spread over estimator seeds."""
    rows = [
        [entry.parameter, f"{100 * entry.mean:.0f} ± {100 * entry.sd:.0f}", ", ".join(_percent(entry.by_seed))]
        for entry in facts.importance
    ]
    caption = (
        f"Share of the validation error's variance (fANOVA) that a parameter explains, of at most "
        f"{facts.importance_points} points; mean ± standard deviation over seeds of the estimator"
    )
    return TextTable("importance", caption, ("parameter", "share, %", "by seed of the estimator"), rows)


def _percent(shares: tuple[float, ...]) -> list[str]:
    return [f"{100 * share:.0f}" for share in shares]


def front_table(facts: SweepFacts) -> TextTable:
    """Returns the Pareto front of a sweep with two objectives."""
    paths = sorted({path for point in facts.front for path in point.parameters})
    rows = [
        [
            point.key,
            *(shown_value(point.parameters.get(path)) for path in paths),
            "" if point.validation_error is None else f"{point.validation_error:.2f}",
            "" if point.second is None else f"{point.second:,.0f}",
        ]
        for point in facts.front
    ]
    second = (facts.second_objective or "").replace("_", " ")
    headings = ("trial", *paths, "validation error %", second)
    return TextTable("front", f"Pareto front of validation error and {second}", headings, rows)


def confirmation_table(found: Confirmation) -> TextTable:
    """Returns what the sweep said of its best points, and what fresh seeds say."""
    rows = [_confirmed(point) for point in found.points]
    headings = (
        "point",
        "at",
        "sweep: validation error %",
        "sweep: lead, points",
        "fresh: validation error %",
        "fresh: lead, points",
        f"fresh: {found.metric}, point minus baseline",
        "adjusted p",
        "word",
    )
    caption = f"What the sweep said, and what {len(found.seeds)} fresh seeds say"
    return TextTable("confirmation", caption, headings, rows, [point.word for point in found.points])


def _confirmed(point: ConfirmedPoint) -> list[str]:
    interval = "" if point.interval is None else f" ({', '.join(_shown(point, end) for end in point.interval)})"
    return [
        point.name,
        ", ".join(f"{path} {shown_value(value)}" for path, value in sorted(point.parameters.items())),
        _number(point.swept_error),
        cells.points(point.swept_lead),
        _number(point.validation_error),
        cells.points(point.lead),
        _shown(point, point.difference) + interval,
        _number(point.adjusted_p, 3),
        point.word,
    ]


def _shown(point: ConfirmedPoint, value: float | None) -> str:
    if value is None or point.scale == "points":
        return cells.points(value)
    return f"×{math.exp(value):.2f}"


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def confirmation_lead(answer: Answer) -> str:
    """Says how to read the confirmation."""
    found = answer.confirmation
    if found is None:
        return ""
    lost = f" Not complete: {', '.join(found.missing)}." if found.missing else ""
    return (
        "The sweep's error chose these points, so it flatters them. Here they and the baseline are trained on fresh "
        f"seeds, and judged as one family of {len(found.points)} (Holm). Lead: the baseline's validation error minus "
        f"the point's.{lost}"
    )
