"""What a sweep says as a whole: the importance of its parameters, and its Pareto front."""

from __future__ import annotations

from orchestrator.judging.answer import Answer
from orchestrator.judging.notes import in_unit
from orchestrator.judging.scales import unit_in_words
from orchestrator.reporting.figures.style import INK, MUTED, Picture, drawing, picture

IMPORTANCE, FRONT = "importance", "front"
BAR_COLOUR = "#0072b2"


def importance_figure(answer: Answer) -> Picture | None:
    """Draws each parameter's share of the variance, each seed of the estimator a point; None where there is none."""
    facts = answer.sweep_facts
    if facts is None or not facts.importance:
        return None
    shown = list(reversed(facts.importance))
    with drawing(IMPORTANCE, 0.9 + 0.45 * len(shown)) as figure:
        axes = figure.subplots()
        axes.barh(range(len(shown)), [entry.mean for entry in shown], height=0.5, color=BAR_COLOUR, alpha=0.35)
        for place, entry in enumerate(shown):
            axes.errorbar(entry.mean, place, xerr=entry.sd, color=INK, capsize=4, linewidth=1.5)
            axes.plot(entry.by_seed, [place - 0.33] * len(entry.by_seed), "o", markersize=3.5, color=BAR_COLOUR, mew=0)
        axes.set_yticks(range(len(shown)), [entry.parameter for entry in shown])
        axes.set_xlim(left=0.0)
        axes.set_xlabel(f"share of the {answer.chosen_by}'s variance; bar: mean ± sd, points: seeds of the estimator")
        axes.grid(visible=False, axis="y")
        summary = "; ".join(f"{entry.parameter} {entry.mean:.2f} ± {entry.sd:.2f}" for entry in facts.importance)
        return picture(
            figure, IMPORTANCE, "Importance of the parameters", f"Share of the variance explained: {summary}"
        )


def front_figure(answer: Answer) -> Picture | None:
    """Draws the Pareto front of the metric that chooses and the second objective; None with one objective."""
    facts, unit = answer.sweep_facts, answer.description.chosen.unit
    if facts is None or not facts.front or facts.second_objective is None:
        return None
    seconds = [point.second or 0.0 for point in facts.front]
    errors = [point.validation_error or 0.0 for point in facts.front]
    second = facts.second_objective.replace("_", " ")
    with drawing(FRONT, 3.4) as figure:
        axes = figure.subplots()
        axes.plot(seconds, errors, "o-", color=BAR_COLOUR, markersize=6, linewidth=1.2)
        axes.set_xlabel(second, color=MUTED)
        axes.set_ylabel(f"{answer.chosen_by}, {unit_in_words(unit)}".rstrip(", "))
        pairs = zip(seconds, errors, strict=True)
        summary = "; ".join(f"{in_unit(error, unit)} at {value:,.0f}" for value, error in pairs)
        alt = f"{answer.chosen_by.capitalize()} against {second}, no point better in both: {summary}"
        return picture(figure, FRONT, "Pareto front", alt)
