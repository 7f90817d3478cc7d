"""Judging a study on several data sets as one Holm family over all of its comparisons, from the records of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from alexnet_core.configuration.wording import counted
from orchestrator.errors import ExitCode, LabError
from orchestrator.judging.answer import SKIPPED, Answer, Compared
from orchestrator.judging.evidence import Evidence
from orchestrator.judging.images.new_images import with_new_images
from orchestrator.judging.images.seen import SeenImages
from orchestrator.judging.judge import evidence_of, finite_ends
from orchestrator.judging.looks import FixedLook, fixed_look
from orchestrator.judging.scales import SCALES
from orchestrator.planning.plan import ALPHA, Plan
from orchestrator.planning.plan_file import PlanFile
from orchestrator.planning.unfolding import check_replicates
from orchestrator.replication.answer import OnDataset, Replicated, Replication, in_words
from orchestrator.replication.before import Before
from orchestrator.statistics.alpha_spending import ShareOfLevel
from orchestrator.statistics.verdict import Asked, Verdict, agrees, judge_together, withhold


class Part(NamedTuple):
    """A study on one of its data sets.

    Attributes:
        plan: Its plan.
        plan_file: What `plan.json` says.
        answer: What it says there alone.
        folder: Where its own report lies.
    """

    plan: Plan
    plan_file: PlanFile
    answer: Answer
    folder: Path


def check_part(plan: Plan, plan_file: PlanFile) -> None:
    """Refuses what is not judged over several data sets together.

    Args:
        plan: A study on one of them.
        plan_file: What its `plan.json` says.

    Raises:
        LabError: It compares no arms, the baseline with itself, or seed by seed; or it holds arms against published
            values.
    """
    check_replicates(plan.study)
    why = ""
    if plan.of_baseline_alone:
        why = "asks about the randomness of one baseline on one data set; name one --dataset"
    elif plan_file.max_seeds is not None:
        why = (
            f"was asked on {plan.dataset} with --seeds auto; several data sets are judged together over whole arms: "
            "name one --dataset"
        )
    if why:
        raise LabError(f"study {plan.study.name} {why}", exit_code=ExitCode.WRONG_USE)


class _Look(NamedTuple):
    part: Part
    evidence: Evidence
    look: FixedLook
    kept: list[str]


def replicate(
    parts: Sequence[Part], trials: pl.DataFrame, epochs: pl.DataFrame, before: Before, images: SeenImages | None
) -> Replication:
    """Judges all comparisons of all data sets as one family.

    Args:
        parts: The study on each data set.
        trials: The trials table.
        epochs: The epochs table, which times to a threshold are read from.
        before: What was on record when they were first asked together.
        images: Which images the trials got right; None to say nothing of new images.
    """
    looks = _looks(parts, trials, epochs)
    verdicts = [_named(verdicts, one) for verdicts, one in zip(_judged(looks), looks, strict=True)]
    named = [_compared(one, of, images) for one, of in zip(looks, verdicts, strict=True)]
    names = dict.fromkeys(name for of in named for name in of)
    comparisons = tuple(_replicated(name, looks, named) for name in names)
    first, alone = parts[0].answer, [one.evidence for one in looks]
    return Replication(
        study=first.study,
        question=first.question,
        claim=first.claim,
        claim_source=first.claim_source,
        datasets=tuple(part.plan.dataset for part in parts),
        metrics={part.plan.dataset: part.answer.metric for part in parts},
        seeds={one.part.plan.dataset: one.look.seeds for one in looks},
        missing={part.plan.dataset: len(part.answer.missing) for part in parts if part.answer.missing},
        reports={part.plan.dataset: part.folder.name for part in parts},
        alpha=ALPHA,
        family=sum(verdict.in_family for of in verdicts for verdict in of.values()),
        comparisons=comparisons,
        notes=tuple(_notes(parts, alone, comparisons)),
        judged_before=tuple(part.plan.dataset for part in parts if part.folder.name in before.judged),
        asked_before=before.asked,
    )


def _looks(parts: Sequence[Part], trials: pl.DataFrame, epochs: pl.DataFrame) -> list[_Look]:
    evidences = [evidence_of(part.plan.study, part.plan.recipe, part.plan_file, trials, epochs) for part in parts]
    together = sum(len(evidence.contrasts) for evidence in evidences)
    looks = []
    for part, evidence in zip(parts, evidences, strict=True):
        look = fixed_look(evidence, part.plan_file, together)
        kept = [name for name in evidence.contrasts if not evidence.needs(name, look.skipped)]
        looks.append(_Look(part, evidence, look, kept))
    return looks


def _judged(looks: Sequence[_Look]) -> list[dict[str, Verdict]]:
    # 每个数据集自己的等效界限和看过几次，合成一族只为校正多重比较
    asked = [
        Asked(
            [one.evidence.of(name, one.look.seeds) for name in one.kept],
            SCALES[one.evidence.judged.scale].size(one.part.plan.recipe.margin),
            ShareOfLevel(one.look.share),
        )
        for one in looks
    ]
    # 跳过的仍占名额：别的不因此变得容易
    closed = sum(len(one.evidence.contrasts) - len(one.kept) for one in looks)
    return judge_together(asked, ALPHA, closed=closed)


def _named(verdicts: Mapping[str, Verdict], one: _Look) -> dict[str, Verdict]:
    skipped = {name: Verdict(SKIPPED) for name in one.evidence.contrasts if name not in one.kept}
    told = {**verdicts, **skipped}
    return withhold(told, one.look.refusal) if one.look.refusal else told


def _compared(one: _Look, verdicts: Mapping[str, Verdict], images: SeenImages | None) -> dict[str, OnDataset]:
    """What is compared on a data set, by name, with its limits for new images at the level of the one family."""
    part, evidence, summary = one.part, one.evidence, one.part.plan_file.summary
    told, study = part.answer, part.plan.study
    if images is not None:
        cells = {arm.name: evidence.rows(arm.name, one.look.seeds) for arm in study.arms}
        fixed = summary is not None and summary.fixed_split
        told = with_new_images(told, study, cells, verdicts, evidence.judged.counted, images, fixed_split=fixed)
    return {
        other.name: OnDataset(
            dataset=part.plan.dataset,
            compared=_together(other, verdicts[other.name], part.answer.margin, seen=images is not None),
            word_alone=other.word,
        )
        for other in told.judged
    }


def _replicated(name: str, looks: Sequence[_Look], compared: Sequence[Mapping[str, OnDataset]]) -> Replicated:
    on, has_claim = [], False
    for one, of in zip(looks, compared, strict=True):
        if name not in of:
            continue
        claim = one.evidence.contrasts[name].claim
        has_claim = has_claim or (
            claim is not None and one.evidence.of(name, one.look.seeds).claimed_points is not None
        )
        on.append(of[name])
    words = dict(Counter(one.compared.word for one in on))
    replicates, sentence = in_words(has_claim, words, len(on))
    return Replicated(
        name=name,
        title=on[0].compared.title,
        has_claim=has_claim,
        on=tuple(on),
        words=words,
        replicates=replicates,
        sentence=sentence,
    )


def _together(alone: Compared, verdict: Verdict, margin: float, *, seen: bool) -> Compared:
    """What is seen on a data set, with the intervals, the p and the word of the family over all of them."""
    facts = {name: getattr(alone, name) for name in ALONE}
    facts |= {"word": verdict.word, "in_family": verdict.in_family}
    if verdict.interval is not None and verdict.level is not None and verdict.test is not None:
        facts |= {
            **finite_ends(verdict.interval, list(alone.differences.values())),
            "interval_level": 100.0 * (1.0 - verdict.level),
            "p": verdict.test.p,
            "adjusted_p": verdict.adjusted_p,
        }
        if seen and alone.beyond is not None and verdict.equal_level is not None:
            # 合起来的词，用合起来的界限再问一次
            holds = agrees(verdict.word, alone.beyond, margin)
            facts |= {"beyond": alone.beyond, "beyond_level": alone.beyond_level, "holds_beyond": holds}
    return Compared(**facts)


# 与多少比较一起校正无关的；其余的按合起来的一族重算
ALONE = (
    "name",
    "title",
    "n",
    "scale",
    "unit",
    "differences",
    "difference",
    "difference_is",
    "difference_sd",
    "claimed_points",
    "claimed_ratio",
)


def _notes(parts: Sequence[Part], evidences: Sequence[Evidence], comparisons: Sequence[Replicated]) -> Iterator[str]:
    changed = [
        f"{one.name} on {on.dataset} ({on.word_alone} there alone)"
        for one in comparisons
        for on in one.on
        if on.compared.word != on.word_alone
    ]
    if changed:
        yield f"Another word than in their own reports, where fewer are corrected together: {', '.join(changed)}."
    if any(len(evidence.families) > 1 for evidence in evidences):
        yield "The steps of the ladder and its rungs against the top, two families in each report, are one family here."
    for part in parts:
        if part.answer.missing:
            lacking = counted(len(part.answer.missing), "planned trial")
            yield f"{part.plan.dataset} lacks {lacking}: what is judged are the seeds that are complete."
    if any(part.answer.retuned is not None for part in parts):
        yield "Arms at their own best values (re-tuned) are in the reports of the data sets."
