"""The story of a report: its sections in order, told alike by the page and by Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from orchestrator.judging.answer import NOT_JUDGED, Answer
from orchestrator.reporting import text_tables
from orchestrator.reporting.material import Material
from orchestrator.reporting.text_tables import TextTable
from search_spaces.core_config import readable

if TYPE_CHECKING:
    from orchestrator.reporting.figures.style import Picture


# 列标题里的行话，各一句：网页上是提示，报告末尾是词汇表
MEANINGS: Mapping[str, str] = {
    "n": "seeds that finished and were compared: each is one training, the arms share its random numbers",
    "mean ± sd": "the average over seeds, and how far single seeds lie from it (standard deviation)",
    "median": "the seed in the middle; beside it how many came there at all",
    "difference": "arm minus baseline, seed by seed, then averaged; below 0 the arm's value is lower",
    "ratio to the baseline": "arm over baseline, seed by seed; below 1 the arm's value is lower",
    text_tables.NEW_IMAGES: "where the true difference lies on other images of the same kind too: seeds and images "
    "both vary; never narrower than the interval",
    "interval": "where the true difference lies, with the confidence of the level beside it",
    "level": "the confidence of the interval; in brackets the chance of a false alarm in any arm, which the arms "
    "share, so that asking more of them makes none more likely",
    "adjusted p": "the chance of such a difference, or a larger one, if there were none; corrected for the number of "
    "arms (Holm)",
    "sign-flip p (floor)": "the same without assuming a normal distribution: all signs of the differences are tried; "
    "in brackets the smallest that so few seeds can give",
    "paper": "what the paper reports for its own data; shown beside, not tested",
    "claimed": "what the source claims; shown beside, not tested",
    "published": "what the source gives for its own training; the interval is held against it",
    "verdict": "what the seeds say by the rules that were written down before the training",
    "seeds needed": "seeds that would find the smallest effect worth finding four times out of five; of undecided arms",
    "p of this arm alone": "the p value without the correction for the number of arms; no verdict rests on it",
    "top-5 difference": "the difference of the share of images whose class is not among the five likeliest",
    "correlation with baseline": "how much seeds that are hard for the baseline are hard for the arm too; the higher, "
    "the more pairing by seed helps",
    "diverged": "trainings whose numbers grew beyond all bounds; they count as results, never as the best",
    "failed": "trainings that broke off or were stopped",
    "drawn anew": "what each seed of the row draws for itself; all else is drawn by seed 0",
    "standard deviation": "how far single trainings lie from their average, if only this is drawn anew",
    "95 % limits": "where the true standard deviation lies, if trainings scatter normally (chi-square)",
    "seeds needed for the margin": "seeds per arm that would find a difference as small as the margin four times out "
    "of five, where two arms scatter as the row does and pairing by seed does not help",
    "multiply-adds": "arithmetic of one pass through the network, the usual measure of its size in work",
}


def meaning(heading: str, names: Sequence[str] = ()) -> str | None:
    """Returns what the heading of a column means, where that is not plain.

    Args:
        heading: The heading.
        names: The headings of its table that are names: an arm may be called `level`.
    """
    if heading in names:
        return None
    known = (name for name in MEANINGS if heading == name or heading.startswith((f"{name}, ", f"{name} ")))
    named = next(known, None) or next((name for name in ("mean ± sd", "median") if f", {name}" in heading), None)
    return None if named is None else MEANINGS[named]


def _words(sections: Sequence[Section]) -> Section:
    """What the headings of a report mean, as far as they need a word."""
    tables = [table for section in sections for table in section.tables]
    headings = dict.fromkeys(heading for table in tables for heading in table.headings if heading not in table.names)
    rows = [[heading, said] for heading in headings if (said := meaning(heading)) is not None]
    table = TextTable("words", "What the columns mean", ("column", "what it says"), rows)
    return Section("Words", folded=[table] if rows else [])


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


def _verdict_tables(answer: Answer) -> list[TextTable]:
    """The contrasts, and the arms against the baseline where they carry words."""
    contrasts = [text_tables.contrast_table(answer)] if answer.contrasts else []
    return contrasts if _arms_only_shown(answer) else [*contrasts, text_tables.verdict_table(answer)]


def _cell_tables(answer: Answer) -> list[TextTable]:
    return [text_tables.verdict_table(answer)] if _arms_only_shown(answer) else []


def _arms_only_shown(answer: Answer) -> bool:
    """Whether all words are those of contrasts, so that the arms are shown beside them."""
    return bool(answer.contrasts) and len(answer.judged) == len(answer.contrasts)


def _cells_lead(answer: Answer) -> str:
    drawn = "Each point is a cell's mean ± one standard deviation over seeds, small points are single seeds. "
    return f"{drawn if answer.design == 'factorial' else ''}What is judged are the contrasts above, not these rows."


def _curves_lead(answer: Answer, *, validated: bool) -> str:
    """What the curves show; `validated` says whether there are validation errors."""
    is_compared = not answer.variance and not answer.reproduces
    no_verdicts = is_compared and any(arm.word == NOT_JUDGED for arm in answer.arms)
    colours = " Other colours only tell the arms apart: what is judged are the contrasts." if no_verdicts else ""
    black = "" if answer.reproduces else " Black: the baseline."
    if answer.core is None and not validated:
        return (
            "The running training error of each epoch, mean ± one standard deviation over seeds, thin lines single "
            f"runs; no image is held out, so that there is no validation error.{colours}"
        )
    if answer.core is None:
        return (
            "Solid: validation error after each epoch, mean ± one standard deviation over seeds, thin lines single "
            f"runs. Dashed: running training error, augmented images and dropout on.{black}{colours}"
        )
    judged = readable(answer.core.judged_by)
    dashed = f" Dashed: {judged}." if judged != answer.chosen_by else ""
    return (
        f"Solid: {answer.chosen_by} at each report, mean ± one standard deviation over seeds, thin lines single runs."
        f"{dashed}{black}{colours}"
    )


def _conclusions(answer: Answer, drawn: Callable[..., list[Picture]]) -> list[Section]:
    """What a report begins with: the verdicts, or how far seeds scatter where nothing is judged."""
    if answer.variance:
        table = text_tables.variance_table(answer)
        return [Section("Which randomness matters", "", drawn("variance"), [table], answer.notes)]
    return [
        Section("Verdicts", "", drawn("waterfall", "differences"), _verdict_tables(answer), answer.notes),
        Section(
            "Mean of each arm" if answer.reproduces else "Cell means",
            _cells_lead(answer),
            drawn("cells"),
            _cell_tables(answer),
        ),
        *_retuned(answer),
        Section("Arms", "", (), [text_tables.arm_table(answer)]),
    ]


def _costs(answer: Answer, pictures: Sequence[Picture]) -> Section:
    """The second axis; arms that are all the baseline cost the same."""
    title = "What the arms cost"
    if answer.variance:
        return Section(title)
    return Section(title, text_tables.cost_lead(answer), pictures, [text_tables.cost_table(answer)])


def _classes(classes: pl.DataFrame | None) -> list[Section]:
    if classes is None:
        return []
    return [Section("Classes", text_tables.class_lead(classes), folded=[text_tables.class_table(classes)])]


def story(material: Material, pictures: Sequence[Picture], classes: pl.DataFrame | None = None) -> tuple[Section, ...]:
    """Returns the sections of a study's report.

    Args:
        material: What the report is made of.
        pictures: Its figures; each goes to the section that speaks of it.
        classes: What each comparison changes in each class, where that is known.
    """
    answer, source = material.answer, material.provenance
    # 一张图像也没有留出的研究，没有验证误差可说
    validated = material.holds_out
    whose = "the baseline's seed of median validation error" if validated else "the first arm's first seed"

    def drawn(*names: str) -> list[Picture]:
        return [picture for name in names for picture in pictures if picture.name == name]

    # 先是判词，后是凭据：读者从结论读到来源
    sections = [
        *_conclusions(answer, drawn),
        Section("Every seed", "", drawn("seeds"), folded=[text_tables.seed_table(answer)]),
        Section(
            "Learning curves",
            _curves_lead(answer, validated=validated),
            drawn("curves"),
        ),
        _costs(answer, drawn("costs")),
        Section("Sweep", text_tables.sweep_lead(answer), drawn("slices", "importance", "front"), _sweep_tables(answer))
        if answer.sweep
        else Section("Sweep"),
        Section("Confirmation", text_tables.confirmation_lead(answer), tables=_confirmation_tables(answer)),
        Section(
            "First layer",
            f"The kernels of the first convolution, the towers side by side, each stretched to its own range; {whose}.",
            drawn("kernels"),
        ),
        Section(
            "Pictures",
            "Drawn by the core itself, of the baseline's seed of the median metric.",
            [picture for picture in pictures if picture.name.startswith("core-")],
        ),
        *_classes(classes),
        Section(
            "Where this comes from",
            "",
            tables=[
                text_tables.provenance_table(source, material.answer.core),
                *([text_tables.lost_table(source)] if source.lost else []),
            ],
            notes=[] if source.lost else ["No trial failed, diverged or was stopped."],
            folded=[text_tables.record_table(source)],
        ),
    ]
    sections.append(_words(sections))
    return tuple(section for section in sections if section.pictures or section.tables or section.folded)
