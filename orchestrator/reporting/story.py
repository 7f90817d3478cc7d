"""The story of a report: its sections in order, told alike by the page and by Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.judging.answer import Answer
from orchestrator.reporting import text_tables
from orchestrator.reporting.material import Material
from orchestrator.reporting.text_tables import TextTable
from search_spaces.core_config import readable

if TYPE_CHECKING:
    from orchestrator.reporting.figures.style import Picture


class Section(NamedTuple):
    """A part of a report.

    Attributes:
        title: Its heading.
        lead: A sentence before the rest.
        pictures: Its figures.
        tables: Its tables.
        notes: Remarks below.
        folded: Tables so long that the page shows them on demand.
    """

    title: str
    lead: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[TextTable] = ()
    notes: Sequence[str] = ()
    folded: Sequence[TextTable] = ()


def _retuned(answer: Answer) -> list[Section]:
    """The arms with their own best values, where there are any."""
    if not answer.tuning:
        return []
    again = answer.retuned
    tables = [text_tables.retuned_table(answer)] if again is not None else []
    folded = [text_tables.tuning_table(answer)]
    if again is not None:
        seeds = text_tables.seed_table(again)
        folded.append(seeds._replace(name="retuned-seeds", caption=f"{seeds.caption}, re-tuned"))
    notes = again.notes if again is not None else ()
    return [Section("Re-tuned", text_tables.retuned_lead(answer), (), tables, notes, folded)]


def _sweep_tables(answer: Answer) -> list[TextTable]:
    facts = answer.sweep_facts
    tables = [text_tables.sweep_table(answer)] if answer.sweep else []
    if facts is not None and facts.importance:
        tables.append(text_tables.importance_table(answer, facts))
    if facts is not None and facts.front:
        tables.append(text_tables.front_table(answer, facts))
    return tables


def _confirmation_tables(answer: Answer) -> list[TextTable]:
    if answer.confirmation is None:
        return []
    return [text_tables.confirmation_table(answer.confirmation, answer.description, answer.unit)]


def _curves_lead(answer: Answer) -> str:
    if answer.core is None:
        return (
            "Solid: validation error after each epoch, mean ± one standard deviation over seeds, thin lines single "
            "runs. Dashed: running training error, augmented images and dropout on. Black: the baseline."
        )
    judged = readable(answer.core.judged_by)
    dashed = f" Dashed: {judged}." if judged != answer.chosen_by else ""
    return (
        f"Solid: {answer.chosen_by} at each report, mean ± one standard deviation over seeds, thin lines single runs."
        f"{dashed} Black: the baseline."
    )


def story(material: Material, pictures: Sequence[Picture]) -> tuple[Section, ...]:
    """Returns the sections of a study's report.

    Args:
        material: What the report is made of.
        pictures: Its figures; each goes to the section that speaks of it.
    """
    answer, source = material.answer, material.provenance

    def drawn(*names: str) -> list[Picture]:
        return [picture for name in names for picture in pictures if picture.name == name]

    # 先是判词，后是凭据：读者从结论读到来源
    sections = [
        Section("Verdicts", "", drawn("differences"), [text_tables.verdict_table(answer)], answer.notes),
        *_retuned(answer),
        Section("Arms", "", (), [text_tables.arm_table(answer)]),
        Section("Every seed", "", drawn("seeds"), folded=[text_tables.seed_table(answer)]),
        Section(
            "Learning curves",
            _curves_lead(answer),
            drawn("curves"),
        ),
        Section("What the arms cost", text_tables.cost_lead(answer), drawn("costs"), [text_tables.cost_table(answer)]),
        Section("Sweep", text_tables.sweep_lead(answer), drawn("slices", "importance", "front"), _sweep_tables(answer))
        if answer.sweep
        else Section("Sweep"),
        Section("Confirmation", text_tables.confirmation_lead(answer), tables=_confirmation_tables(answer)),
        Section(
            "First layer",
            "The kernels of the first convolution, the towers side by side, each stretched to its own range; the "
            "baseline's seed of median validation error.",
            drawn("kernels"),
        ),
        Section(
            "Pictures",
            "Drawn by the core itself, of the baseline's seed of the median metric.",
            [picture for picture in pictures if picture.name.startswith("core-")],
        ),
        Section(
            "Where this comes from",
            "",
            tables=[
                text_tables.provenance_table(source),
                *([text_tables.lost_table(source)] if source.lost else []),
            ],
            notes=[] if source.lost else ["No trial failed, diverged or was stopped."],
            folded=[text_tables.record_table(source)],
        ),
    ]
    return tuple(section for section in sections if section.pictures or section.tables or section.folded)
