"""What a study says on several data sets together, as data: which comparison replicates where."""

from __future__ import annotations

from pydantic import Field

from alexnet_core.configuration.frozen import Frozen
from orchestrator.judging.answer import Compared

# 页面的写法一变就加一：旧页面的文字便不与今天的逐字比较；从 2 起有对新图也成立的界限
WORDING = 3
WORDS_BEYOND = 2


def _is_empty(value: tuple[str, ...]) -> bool:
    return not value


class OnDataset(Frozen):
    """One comparison on one data set.

    Attributes:
        dataset: The data set.
        compared: What is seen there; p, interval and word are those of the family over all data sets.
        word_alone: The word that the study's own report on this data set has.
    """

    dataset: str
    compared: Compared
    word_alone: str


class Replicated(Frozen):
    """One comparison over all data sets. No effect is pooled: the data sets are no sample of anything.

    Attributes:
        name: As in the study's reports.
        title: What is compared.
        has_claim: Whether a source says in which direction the difference should be.
        on: Each data set on which it was compared.
        words: On how many of them it has which word.
        replicates: On how many it supports the claim; without a claim on how many it has the more frequent direction.
        sentence: That in words: `on 1 of 2`, without a claim `higher on 1 of 2`.
    """

    name: str
    title: str
    has_claim: bool
    on: tuple[OnDataset, ...]
    words: dict[str, int]
    replicates: int
    sentence: str


class Replication(Frozen):
    """A study on several data sets.

    Attributes:
        study: Its name.
        question: The question.
        claim: The source's claim in words; empty for a study that only asks.
        claim_source: Where it says so.
        datasets: In alphabetical order; a page of before that in the order in which they were asked.
        metrics: The primary metric of each, as shown.
        seeds: Complete seeds that were judged, of each.
        missing: Planned trials that have not ended, of each that lacks some.
        reports: The folder of each one's own report, beside this one's.
        alpha: Family-wise level over all comparisons of all data sets, and all looks.
        family: How many comparisons are corrected together.
        comparisons: What is compared.
        notes: Remarks below the table.
        wording: How the page is worded.
        judged_before: Data sets that had been judged by themselves when they were first asked together.
        asked_before: Folders of the study's joint questions on other data sets that were asked before.
    """

    study: str
    question: str
    claim: str
    claim_source: str
    datasets: tuple[str, ...]
    metrics: dict[str, str]
    seeds: dict[str, int]
    missing: dict[str, int]
    reports: dict[str, str]
    alpha: float
    family: int
    comparisons: tuple[Replicated, ...]
    notes: tuple[str, ...]
    wording: int = WORDING
    judged_before: tuple[str, ...] = Field(default=(), exclude_if=_is_empty)
    asked_before: tuple[str, ...] = Field(default=(), exclude_if=_is_empty)


def in_words(has_claim: bool, words: dict[str, int], datasets: int) -> tuple[int, str]:
    """Returns on how many data sets a comparison replicates, and that in words.

    Args:
        has_claim: Whether a source says the direction.
        words: On how many data sets it has which word.
        datasets: How many there are.
    """
    if has_claim:
        return words.get("supports", 0), f"on {words.get('supports', 0)} of {datasets}"
    directions = {word: words[word] for word in ("higher", "lower") if words.get(word)}
    if not directions:
        return 0, f"on 0 of {datasets}"
    said = ", ".join(f"{word} on {count}" for word, count in directions.items())
    return max(directions.values()), f"{said} of {datasets}"
