"""The answer of a study: what its trials say about the claim, as data. `report.py` shows it.

Errors are percentages and differences percentage points from here on; tables keep [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from alexnet_core.configuration.randomness import SOURCE_TITLES, why_absent
from alexnet_core.configuration.train_config import SOURCES, TrainConfig
from orchestrator.judging.answer import NOT_JUDGED, WORDING, Answer, ArmAnswer, ContrastAnswer, SourceSpread
from orchestrator.judging.arm_costs import arm_costs
from orchestrator.judging.evidence import (
    Cell,
    Evidence,
    contrast_of,
    count,
    differences_by_seed,
    gather_evidence,
    pairs_by_seed,
    rows_by_seed,
    trained_otherwise,
)
from orchestrator.judging.images.new_images import with_new_images
from orchestrator.judging.images.seen import SeenImages
from orchestrator.judging.looks import Look, take_look
from orchestrator.judging.notes import remarks
from orchestrator.judging.primary_metric import JudgedMetric, Row
from orchestrator.judging.scales import SCALES
from orchestrator.judging.sweep_findings import ranked, sweep_points
from orchestrator.planning.plan_file import PlanFile
from orchestrator.planning.variants.baseline_alone import NO_SPLIT, SPLIT_TITLE
from orchestrator.statistics.limits import FEWEST_SEEDS
from orchestrator.statistics.paired import paired_test, sd_limits, seeds_needed
from orchestrator.statistics.verdict import Verdict, sentence
from search_spaces.arm import Arm, Claim
from search_spaces.contrast import Contrast
from search_spaces.core_config import ALEXNET, SPLIT, CoreDescription, description_of
from search_spaces.design import level_title
from search_spaces.study import Recipe, Study
from search_spaces.trial import unfold

SWEEP_POINTS_SHOWN = 10
Cells = Mapping[str, Sequence[Row]]


def answer(
    study: Study,
    recipe: Recipe,
    plan_file: PlanFile,
    trials: pl.DataFrame,
    sweep_members: pl.DataFrame,
    epochs: pl.DataFrame,
    seen: SeenImages | None = None,
) -> Answer:
    """Judges a study from its records.

    Args:
        study: The study.
        recipe: Its recipe on this data set.
        plan_file: The trials that are this study's arms, alpha, and the looks taken.
        trials: The trials table.
        sweep_members: Rows of the members table that belong to this study's sweep.
        epochs: The epochs table, which times to a threshold are read from.
        seen: Which images the trials got right; None to say nothing of new images.
    """
    core, evidence = _core(study, plan_file), evidence_of(study, recipe, plan_file, trials, epochs)
    # 先定这次看哪些种子、花多少水平，再给词；数字与词出自同一批种子
    look, judged = take_look(evidence, recipe, plan_file), evidence.judged
    cells = {name: evidence.rows(name, seeds) for name, seeds in look.seeds.items()}
    finished = [row for rows in cells.values() for row in rows if row["state"] == "finished"]
    arms = [_arm(arm, evidence, cells, look, recipe) for arm in study.arms]
    arms.sort(key=lambda arm: not arm.is_baseline)
    others = [contrast for contrast in evidence.contrasts.values() if contrast.kind != "arm"]
    measured = [row for row in finished if judged.known(row)]
    images = judged.images(measured[0]) if measured else 0
    fixed_split = plan_file.summary is not None and plan_file.summary.fixed_split
    lengths = {row["epochs"] for row in measured}
    bare = Answer(
        **_question(study, recipe, plan_file),
        wording=WORDING,
        metric=judged.label,
        budget=next(iter(lengths)) if len(lengths) == 1 else None,
        judged_split=judged.split,
        images=images,
        level_share=look.share,
        seeds=max(look.seeds.values()),
        missing=_named(look.missing),
        seeds_after_gap=look.after_gap,
        skipped=look.skipped,
        looks=look.before,
        unmeasured=len(finished) - len(measured),
        without_ratio=_named(
            (name, row["seed"]) for name, rows in cells.items() for row in rows if judged.lacks_ratio(row)
        ),
        other_networks=_other_networks(cells, study),
        unlike=_named(unlike := _unlike(cells, evidence)),
        trained_otherwise=_named(_trained_otherwise(cells, unlike) if others else _odd_ways(cells, study)),
        classes=int(finished[0]["network.classes"]) if finished and finished[0].get("network.classes") else None,
        arms=tuple(arms),
        variance=_spreads(evidence, cells, recipe, plan_file) if study.shows_variance else (),
        variance_of_published=study.shows_variance and _is_published(study),
        vary=recipe.vary,
        fixed_split=fixed_split and (bool(recipe.vary) or study.shows_variance),
        contrasts=tuple(_contrast(contrast, cells, judged, look, recipe) for contrast in others),
        sweep=tuple(ranked(sweep_points(sweep_members, trials, core), core)[:SWEEP_POINTS_SHOWN]),
        sweep_asked=sweep_members.height,
        # 判的是研究自己的指标，不一定是 core 声明的那个
        core=None if core is ALEXNET else core.model_copy(update={"judged_by": study.primary_metric}),
        reports=None if core is ALEXNET or not lengths else (min(lengths), max(lengths)),
        **({} if core is ALEXNET else _own_ends(cells)),
    )
    if bare.same_images:
        # 每个种子有自己的图时，就没有共有的抽样误差
        bare = bare.model_copy(update={"split_error": judged.sampling_error(arms[0].mean, images)})
    if seen is not None:
        bare = with_new_images(bare, study, cells, look.verdicts, judged.counted, seen, fixed_split=fixed_split)
    # 注只读已定的答案，改不了词
    return Answer(**{**dict(bare), "notes": remarks(bare)})


def evidence_of(
    study: Study, recipe: Recipe, plan_file: PlanFile, trials: pl.DataFrame, epochs: pl.DataFrame
) -> Evidence:
    """Returns the records of a study's arms; see `answer`."""
    planned = {(row.arm, row.seed): (row.key, row.views) for row in plan_file.trials if row.phase == "arm"}
    return gather_evidence(study, recipe, _core(study, plan_file), planned, trials, epochs)


def _core(study: Study, plan_file: PlanFile) -> CoreDescription:
    return ALEXNET if study.core is None else description_of(plan_file.base)


def _own_ends(cells: Cells) -> dict[str, Any]:
    """How trainings of a core ended by themselves, by arm; how long they should be, only the core knows."""
    finished = {arm: [row for row in rows if row["state"] == "finished"] for arm, rows in cells.items()}
    # 同一个 arm 的种子是同一个配置：长短不一，才是自己停的
    lengths = {arm: {row["epochs"] for row in rows} for arm, rows in finished.items()}
    early = {arm: sum(bool(row["message"]) for row in rows) for arm, rows in finished.items()}
    uneven = {arm: (min(of_arm), max(of_arm)) for arm, of_arm in lengths.items() if len(of_arm) > 1}
    return {"uneven": uneven, "ended_early": {arm: count for arm, count in early.items() if count}}


def _question(study: Study, recipe: Recipe, plan_file: PlanFile) -> dict[str, Any]:
    """What was asked, which no trial changes."""
    return {
        "study": study.name,
        "dataset": plan_file.dataset,
        "question": study.question,
        "claim": "" if study.claim is None else study.claim.statement,
        "claim_source": "" if study.claim is None else study.claim.source,
        "statistic": study.statistic,
        "margin": recipe.margin,
        "smallest_effect": recipe.smallest_effect,
        "alpha": plan_file.alpha,
        "planned_seeds": plan_file.planned_seeds,
        "max_seeds": plan_file.max_seeds,
        "null": plan_file.null,
        "chosen_afterwards": plan_file.chosen_afterwards,
        "design": study.design,
        "factors": tuple(
            (factor, tuple((name, level_title(factor, name, level)) for name, level in levels.items()))
            for factor, levels in (study.factors or {}).items()
        ),
    }


def _named(cells: Iterable[Cell]) -> tuple[str, ...]:
    return tuple(f"{name} seed {seed}" for name, seed in cells)


def _unlike(cells: Cells, evidence: Evidence) -> list[Cell]:
    """The comparisons that lack a seed, since other workers or devices trained one of its trials."""
    alike = {name: rows_by_seed(_rows(contrast, cells)) for name, contrast in evidence.contrasts.items()}
    seeds = {name: min(len(cells[arm]) for arm in evidence.arms(name)) for name in alike}
    return [(name, seed) for name in alike for seed in range(seeds[name]) if seed not in alike[name]]


def _trained_otherwise(cells: Cells, unlike: Sequence[Cell]) -> list[Cell]:
    """The trials that were not trained as most of their seed, of the seeds that comparisons lack."""
    odd = []
    for seed in sorted({seed for _, seed in unlike}):
        rows = {arm: of_arm[seed] for arm, of_arm in cells.items() if seed < len(of_arm)}
        odd += [(arm, seed) for arm in trained_otherwise(rows)]
    return odd


def _odd_ways(cells: Cells, study: Study) -> list[Cell]:
    """The trials of a study that compares nothing that were not trained as most of them."""
    rows = {f"{arm} {seed}": row for arm, of_arm in cells.items() for seed, row in enumerate(of_arm)}
    odd = trained_otherwise(rows) if study.shows_variance and rows else []
    return [(arm, int(seed)) for arm, _, seed in (name.rpartition(" ") for name in odd)]


def _spreads(evidence: Evidence, cells: Cells, recipe: Recipe, plan_file: PlanFile) -> tuple[SourceSpread, ...]:
    """What each randomness alone does, and all together; rows of what the training does not have are blank."""
    study, judged = evidence.study, evidence.judged
    # 两个 arm 的差的标准差是 √2 倍：配对一点也没有帮上忙时；公布的数不随种子起伏
    effect = SCALES[judged.scale].size(recipe.margin) / (1.0 if _is_published(study) else math.sqrt(2.0))
    drawn = {arm.name: _spread(arm, judged, cells[arm.name], effect, plan_file.alpha) for arm in study.arms}
    config = unfold(study, plan_file.base, (0,))[0].config
    if not isinstance(config, TrainConfig):
        return tuple(drawn.values())
    blank: dict[str, SourceSpread] = {
        source: SourceSpread(name=source, title=SOURCE_TITLES[source], absent=why_absent(config, source))
        for source in SOURCES
    }
    blank[SPLIT] = SourceSpread(name=SPLIT, title=SPLIT_TITLE, absent=NO_SPLIT)
    return tuple({study.baseline: drawn[study.baseline], **blank, **drawn}.values())


def _spread(arm: Arm, judged: JudgedMetric, rows: Sequence[Row], effect: float, alpha: float) -> SourceSpread:
    known = [row for row in rows if judged.known(row)]
    # 与第一个种子的差：尺度是点数还是对数比，标准差都对
    values = [value for row in known if (value := judged.difference(known[0], row)) is not None]
    spread = paired_test(values)
    facts: dict[str, Any] = {"name": arm.name, "title": arm.title, "n": spread.n}
    if spread.n < FEWEST_SEEDS:
        return SourceSpread(**facts)
    facts["sd"] = spread.sd
    if spread.sd > 0.0:
        facts["limits"] = sd_limits(spread.sd, spread.n)
        # 丢了种子的行偏小：最不稳的那几次恰恰不在里面
        if len(rows) == count(rows, "finished"):
            facts["seeds_needed"] = seeds_needed(effect, spread.sd, spread.n, alpha)
    return SourceSpread(**facts)


def _is_published(study: Study) -> bool:
    return study.arm(study.baseline).published is not None


def _rows(contrast: Contrast, cells: Cells, seeds: int | None = None) -> dict[str, Sequence[Row]]:
    """The rows of a contrast's arms on the seeds that all of them have, or on the first of those."""
    complete = min(len(cells[arm]) for arm in contrast.weights)
    return {arm: cells[arm][: complete if seeds is None else min(seeds, complete)] for arm in contrast.weights}


def _other_networks(cells: Cells, study: Study) -> int:
    """How many trials were trained again to be evaluated, and came out as another network."""
    return sum(row.get(f"same_network_{arm.views}_views") is False for arm in study.arms for row in cells[arm.name])


def _arm(arm: Arm, evidence: Evidence, cells: Cells, look: Look, recipe: Recipe) -> ArmAnswer:
    baseline, judged, rows = evidence.study.baseline, evidence.judged, cells[arm.name]
    values = {str(seed): judged.value(row) for seed, row in enumerate(rows) if judged.known(row)}
    errors = {seed: value for seed, value in values.items() if value is not None}
    seconds = [row["seconds"] for row in rows if row["state"] == "finished"]
    facts: dict[str, Any] = {
        "name": arm.name,
        "title": arm.title,
        "is_baseline": arm.name == baseline,
        "n": len(values),
        "scale": judged.scale,
        "unit": judged.unit,
        "errors": errors,
        **vars(judged.spread(values)),
        "diverged": count(rows, "diverged"),
        "failed": count(rows, "failed", "stopped"),
        "seconds": sum(seconds) / len(seconds) if seconds else None,
        "levels": arm.levels,
    }
    if evidence.study.kind == "reproduction":
        # 各 arm 只与公布的数比，彼此不比
        facts |= {"is_baseline": False, "costs": arm_costs(rows, rows)}
        return ArmAnswer(**facts, word=NOT_JUDGED, sentence="judged against what is published of it")
    if evidence.study.shows_variance:
        word = "baseline" if arm.name == baseline else NOT_JUDGED
        return ArmAnswer(**facts, word=word, sentence="not judged: it shows how far seeds scatter")
    # 每个 arm 只与基线的同一批种子配对
    together = min(len(rows), len(cells[baseline]))
    facts["costs"] = arm_costs(cells[baseline][:together], rows[:together])
    if arm.name == baseline:
        return ArmAnswer(**facts, sentence="what the others are compared with")
    course = None if look.courses is None else look.courses.get(arm.name)
    if course is not None:
        facts |= {"closed": course.closed, "looked_at": course.seeds}
        together = min(together, course.seeds) if course.seeds else together
    pairs = pairs_by_seed(cells[baseline][:together], rows[:together])
    differences = differences_by_seed(pairs, judged)
    facts |= {"differences": differences, **vars(judged.compare(list(pairs.values())))}
    if arm.name not in look.verdicts:
        return ArmAnswer(**facts, word=NOT_JUDGED, sentence="not judged by itself: the contrasts are")
    claim = arm.claim
    facts |= _claimed(claim) if claim is None else {**_claimed(claim), "claimed_top5_points": claim.top5_points}
    return ArmAnswer(**facts, **_judged(look.verdicts[arm.name], judged, recipe, list(differences.values())))


def _contrast(contrast: Contrast, cells: Cells, judged: JudgedMetric, look: Look, recipe: Recipe) -> ContrastAnswer:
    course = None if look.courses is None else look.courses[contrast.name]
    rows = rows_by_seed(_rows(contrast, cells, course.seeds or None if course is not None else None))
    by_seed = {str(seed): contrast_of(contrast, of_seed, judged) for seed, of_seed in rows.items()}
    differences = {seed: difference for seed, difference in by_seed.items() if difference is not None}
    test = paired_test(list(differences.values()))
    facts: dict[str, Any] = {
        "n": test.n,
        "difference": test.mean if test.n else None,
        "difference_sd": test.sd if test.n > 1 else None,
    }
    if contrast.pair is not None:
        arm, other = contrast.pair
        shown = judged.compare([(of_seed[other], of_seed[arm]) for of_seed in rows.values()])
        facts |= {name: getattr(shown, name) for name in ("difference", "difference_is", "difference_sd")}
    if course is not None:
        facts |= {"closed": course.closed, "looked_at": course.seeds}
    words = _judged(look.verdicts[contrast.name], judged, recipe, list(differences.values()))
    if words["word"] == "same trials":
        words["sentence"] = "the same trials on both sides"
    if contrast.published is not None:
        # 翻转符号检验的是均值恰好等于发表的数，要多少种子看的是差有多大：这里的词都不说这个
        words |= dict.fromkeys(("sign_flip_p", "sign_flip_floor", "seeds_needed"))
    return ContrastAnswer(
        name=contrast.name,
        title=contrast.title,
        scale=judged.scale,
        unit=judged.unit,
        differences=differences,
        kind=contrast.kind,
        family=contrast.family,
        weights=dict(contrast.weights),
        published=contrast.published,
        **facts,
        **_claimed(contrast.claim),
        **words,
    )


def _claimed(claim: Claim | None) -> dict[str, Any]:
    return {} if claim is None else {"claimed_points": claim.difference, "claimed_ratio": claim.ratio}


def _judged(verdict: Verdict, judged: JudgedMetric, recipe: Recipe, seen: Sequence[float]) -> dict[str, Any]:
    """What the verdict knows, beside the differences seen; seeds are needed at the Holm level that the arm faced."""
    facts: dict[str, Any] = {
        "word": verdict.word,
        "sentence": sentence(verdict.word, verdict.differs_from_zero, judged.split),
        "in_family": verdict.in_family,
    }
    test, level, family_level = verdict.test, verdict.level, verdict.family_level
    if test is not None and level is not None and family_level is not None and verdict.interval is not None:
        facts |= {
            **finite_ends(verdict.interval, seen),
            "interval_level": 100.0 * (1.0 - level),
            "p": test.p,
            "adjusted_p": verdict.adjusted_p,
            "sign_flip_p": verdict.sign_flip_p,
            "sign_flip_floor": verdict.sign_flip_floor,
        }
        facts["seeds_needed"] = judged.seeds_needed(test, recipe.smallest_effect, family_level)
    return facts


def finite_ends(interval: tuple[float, float], seen: Sequence[float]) -> dict[str, Any]:
    """The interval in finite numbers: an unbounded end is marked, and its number is the last difference seen."""
    low, high = interval
    known = [value for value in (low, high, *seen) if math.isfinite(value)]
    ends = (max(low, min(known)), min(high, max(known)))
    return {"interval": ends, "interval_open": (math.isinf(low), math.isinf(high))}
