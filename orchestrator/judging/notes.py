"""The remarks under a study's table: what was judged, what did not enter, and what the numbers cannot say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from alexnet_core.configuration.wording import counted
from orchestrator.judging import numbers
from orchestrator.judging.answer import SKIPPED, Answer, ArmAnswer, Compared, ContrastAnswer, SourceSpread
from orchestrator.judging.arm_costs import pace
from orchestrator.judging.scales import STATISTICS
from orchestrator.statistics.alpha_spending import FIRST_LOOK, seeds_for_a_word
from orchestrator.statistics.limits import FEWEST_SEEDS
from orchestrator.statistics.paired import seeds_to_reach_a_verdict, sign_flip_floor
from search_spaces.core_config import ALL_TOGETHER, OWN_SEED, number_in

TOP5_SAYS_SOMETHING_ABOVE = 10


def top5_says_something(classes: int | None) -> bool:
    """Returns whether top-5 error means anything with so many classes; unknown counts as yes."""
    return classes is None or classes > TOP5_SAYS_SOMETHING_ABOVE


def remarks(answer: Answer) -> tuple[str, ...]:
    """Returns the remarks on an answer, the most important first.

    Args:
        answer: The answer, without its notes.
    """
    # 最能改变读法的在最前
    return (
        *_on_the_choice(answer),
        *_on_the_null(answer),
        *on_the_variance(answer),
        *_on_the_set(answer),
        *_on_the_core(answer),
        *_on_new_images(answer),
        *_on_the_family(answer),
        *_on_the_seeds(answer),
        *_on_the_rest(answer),
    )


def _on_the_choice(answer: Answer) -> Iterator[str]:
    if answer.chosen_afterwards:
        yield (
            "Exploratory: this comparison was chosen after the data were seen, so its p values do not hold as a test; "
            "fresh seeds would have to confirm it."
        )


def _on_the_null(answer: Answer) -> Iterator[str]:
    """What chance alone does: half the interval's width is what a difference must exceed to be taken for one."""
    arm = next((arm for arm in answer.arms if not arm.is_baseline), None)
    if not answer.null or arm is None or arm.interval is None or any(arm.interval_open):
        return
    half = (arm.interval[1] - arm.interval[0]) / 2.0
    scale = answer.scale
    difference = scale.difference_in_words(arm.difference or 0.0)
    yield (
        f"Noise floor: both sides are the same baseline on different seeds, and their difference, {difference}, is "
        f"chance; with {counted(answer.seeds, 'such seed')} a difference within {scale.half_width(half)} is taken "
        "for none. Arms "
        "are paired by seed, which these sides are not: a study's own interval is narrower where pairing helps."
    )


def on_the_variance(answer: Answer) -> Iterator[str]:
    """Says which randomness matters, how many seeds of which kind a margin needs, and how the rows are made."""
    if not answer.variance:
        return
    yield from kinds_of_seeds(answer)
    yield (
        f"Each row is the baseline trained on {counted(answer.seeds, 'seed')} that draw anew what it names, all else "
        f"at seed 0; the rows share the training with seed 0. The {answer.metric}'s standard deviation has 95 % "
        "limits by the chi-square distribution; with all else at another seed it may be another one."
    )
    margin = answer.scale.effect(answer.margin)
    level = f"four times out of five at the level {answer.alpha:g} of a single comparison, where"
    if answer.variance_of_published:
        yield (
            f"Seeds needed: so many find a mean as far from the published value as the margin, {margin}, {level} seeds "
            "scatter as the row does; no seed moves what is published. Several published values, and the word "
            "reproduces, need more."
        )
    else:
        yield (
            f"Seeds needed: so many per arm find a difference as small as the margin, {margin}, {level} two arms "
            "scatter as the row does and pairing by seed takes nothing of it away. A study's arms are paired, and need "
            "fewer where pairing helps; several arms, and the word equivalent, need more."
        )
    yield from (f"Blank: {one.name}, since {one.absent}." for one in answer.variance if one.absent)
    if lost := _lost(answer):
        yield (
            f"Trainings that diverged or failed, without which a row says too little: {', '.join(lost.values())}. No "
            "source is said to move the errors most, and no seeds are said to be needed, by rows without them."
        )
    if answer.trained_otherwise:
        yield (
            "Not trained by as many workers and threads on one kind of device as most, which moves errors as another "
            f"seed does, so that the rows hold that too: {'; '.join(_by_seed(answer.trained_otherwise))}."
        )


def _lost(answer: Answer) -> dict[str, str]:
    """The lost trainings in words, each once, by the arm or arms that lack them: all rows share that with seed 0."""
    lost = {arm.name: arm.diverged + arm.failed for arm in answer.arms if arm.diverged + arm.failed}
    shared = len(lost) == len(answer.arms) and not any("0" in arm.errors for arm in answer.arms)
    own = {name: count - shared for name, count in lost.items()}
    words = {", ".join(lost): "the one with seed 0, which all rows share"} if shared else {}
    return words | {name: f"{name} {count}" for name, count in own.items() if count}


def kinds_of_seeds(answer: Answer) -> Iterator[str]:
    """Says which source moves the metric most, and how many seeds of which kind the margin needs."""
    censored = {arm.name for arm in answer.arms if arm.diverged + arm.failed}
    rows = {one.name: one for one in answer.variance}
    single = {
        name: (one.sd, one.limits)
        for name, one in rows.items()
        if name not in (OWN_SEED, ALL_TOGETHER) and one.sd is not None and one.limits is not None
    }
    if single and not censored - {OWN_SEED, ALL_TOGETHER}:
        most = max(single, key=lambda name: single[name][0])
        lowest = single[most][1][0]
        alike = [name for name, (_, limits) in single.items() if name != most and limits[1] >= lowest]
        beside = f", which these seeds do not tell apart from {', '.join(alike)}" if alike else ""
        yield (
            f"Of the single sources, {most} moves the {answer.metric} most: a standard deviation "
            f"of {spread_in_words(answer, rows[most])}{beside}."
        )
    kinds = {
        OWN_SEED: "of the usual kind, which keep the split",
        ALL_TOGETHER: "that draw the split anew too (vary: [split] in the recipe)",
    }
    needs = [
        f"{numbers.seeds_range(rows[name].seeds_needed)} {words}"
        for name, words in kinds.items()
        if name in rows and rows[name].seeds_needed is not None
    ]
    if needs:
        margin = answer.scale.effect(answer.margin)
        yield f"To find a difference as small as the margin, {margin}, takes seeds: {'; '.join(needs)}."


def spread_in_words(answer: Answer, one: SourceSpread) -> str:
    """Returns a standard deviation with its limits: `0.61 points (0.40 to 1.24)`."""
    if one.sd is None or one.limits is None:
        return ""
    low, high = (numbers.deviation(answer, end) for end in one.limits)
    return f"{answer.scale.half_width(one.sd)} ({low} to {high})"


def _on_the_set(answer: Answer) -> Iterator[str]:
    if answer.split_error is not None:
        yield (
            f"Judged on the final epoch's top-1 error of {answer.images} {answer.judged_split} images; that set's own "
            f"standard error is {answer.split_error:.2f} points, shared by all seeds and in no interval of seeds alone."
        )
    elif STATISTICS[answer.statistic].by_signs:
        yield from _on_the_time(answer)
    elif answer.core is not None:
        core = answer.core
        yield f"Judged on the {answer.metric} of the last report of core {core.name}, version {core.version}."
    elif answer.images:
        yield f"Judged after the final epoch on the {answer.metric}, over {answer.images} validation images."
    if answer.core is None and "training" in answer.metric and not STATISTICS[answer.statistic].by_signs:
        yield "Training images are seen as in evaluation here: centre crop, no dropout, no noise."
    if answer.vary:
        drawn = "which of the training images train" if answer.fixed_split else "its own training and validation images"
        images = f"{answer.judged_split if answer.judged_split in ('test', 'training') else 'validation'} images"
        judged_on = f"the {images} are the same for all" if answer.same_images else f"it is judged on those {images}"
        yield f"Each seed draws {drawn}, the same ones in all arms; {judged_on}."
    if answer.metric == "top-1 validation error":
        yield "This data has no test set: the errors are validation errors, which the schedule may have seen."


def _on_new_images(answer: Answer) -> Iterator[str]:
    """What the second interval is, or why there is none."""
    judged = [one for one in answer.judged if one.interval is not None]
    if answer.has_beyond:
        raised = any(one.beyond is not None and numbers.beyond_level(one) != numbers.level(one) for one in judged)
        share = " It keeps to an equal share of the family's level, which other arms' verdicts do not raise."
        yield (
            "The interval for new images takes seeds and images as samples, and holds for another test set of the same "
            f"kind too; where it agrees with a word, the sentence says 'and beyond'.{share if raised else ''}"
        )
    if answer.unseen:
        damaged = counted(len(answer.damaged_images), "such record is", "such records are")
        why = f"; {damaged} damaged ({', '.join(answer.damaged_images)})" if answer.damaged_images else ""
        yield (
            f"No interval for new images where records do not say which images were right, as older ones do not: "
            f"{counted(answer.unseen, 'trial')}{why}."
        )
    if answer.other_images:
        yield (
            "No interval for new images where seeds or arms were judged on different images: "
            f"{', '.join(answer.other_images)}."
        )
    # 别的 core 不一定有图片，单位也不是百分点：不谈
    if judged and answer.core is None and not answer.counts_images:
        yield "An interval for new images is known of differences of test or validation errors in points alone."


def _on_the_core(answer: Answer) -> Iterator[str]:
    """What a core declares of itself, and how its trainings ended, that weakens what is said here."""
    core = answer.core
    if core is None:
        return
    if core.chosen_by == core.judged_by:
        yield (
            f"THE SAME METRIC CHOOSES AND JUDGES: whatever was chosen by the {answer.chosen_by} (points, tuned values, "
            "a stopping time of the training's own) is flattered by it here; judge by data that nothing was chosen on."
        )
    if not core.deterministic:
        yield (
            f"Core {core.name} declares that the same seed may give other numbers: a trial cannot be repeated bit for "
            "bit, and pairing by seed removes less of the scatter."
        )
    if answer.uneven:
        arms = ", ".join(f"{arm} {fewest} to {most}" for arm, (fewest, most) in answer.uneven.items())
        yield f"Seeds of one arm ended by themselves after different numbers of reports, and count as finished: {arms}."
    if answer.ended_early:
        seeds = {arm.name: arm.n for arm in answer.arms}
        arms = ", ".join(f"{arm} {early} of {seeds[arm]}" for arm, early in answer.ended_early.items())
        yield f"Trainings that say they ended early, and count as finished: {arms}."


def _on_the_time(answer: Answer) -> Iterator[str]:
    if answer.core is not None:
        budget = "its end" if answer.budget is None else f"its {counted(answer.budget, 'report')}"
        yield (
            f"Judged on {answer.metric}: the first report that is there. A run that was not there by {budget} counts "
            f"as longer: {', '.join(_there(arm) for arm in answer.arms)}."
        )
        yield "Ratios are medians over seeds of arm over baseline; of a claimed number only the direction is judged."
        return
    budget = "its budget" if answer.budget is None else f"its {counted(answer.budget, 'epoch')}"
    yield (
        f"Judged on {answer.metric}: the first epoch whose running error over the training images is at most that, as "
        f"they are trained on. A run that was not there within {budget} counts as longer: "
        f"{', '.join(_there(arm) for arm in answer.arms)}."
    )
    yield "Ratios are medians over seeds of arm over baseline; the paper's number is shown, only its direction judged."


def _there(arm: ArmAnswer) -> str:
    return f"{arm.name} {arm.n - len(arm.never)} of {arm.n} there"


def _on_the_family(answer: Answer) -> Iterator[str]:
    statistic = STATISTICS[answer.statistic]
    by_signs, scale = statistic.by_signs, answer.scale
    families = _families(answer)
    family = max(families.values(), key=len, default=())
    if family and answer.reproduces:
        yield (
            f"Reproduces means that the whole interval of the mean minus the published value lies {_inside(answer)}, "
            "does not reproduce that none of it does; intervals are at the level at which each was tested (one-sample "
            f"t over seeds, Holm over {counted(len(family), 'published value')} at {answer.alpha:.3g}{_kept(answer)})."
        )
    elif family:
        each = "each" if answer.contrasts else "each arm"
        yield (
            f"Equivalent means {scale.margin(answer.margin)}; intervals are at the level at which {each} was tested "
            f"({statistic.test}, Holm over {_families_in_words(families)} at {answer.alpha:.3g}{_kept(answer)})."
        )
    yield from _on_the_contrasts(answer)
    others = (one for one in answer.judged if not one.in_family and one.word != SKIPPED)
    outside = [f"{one.name} ({one.word})" for one in others]
    if outside and answer.seeds >= FEWEST_SEEDS:
        yield f"Outside the family of tests: {', '.join(outside)}."
    need = seeds_to_reach_a_verdict(len(family), answer.alpha * (answer.level_share if by_signs else 1.0))
    if family and answer.seeds < need and by_signs:
        yield (
            f"With {counted(answer.seeds, 'seed')} no p of the sign test is below "
            f"{sign_flip_floor(answer.seeds):.2g}: only "
            f"inconclusive is possible; from {_seeds_for_a_word(answer, len(family))} seeds on, a word is."
        )
    elif family and answer.seeds < need and not answer.reproduces:
        yield (
            f"With {counted(answer.seeds, 'seed')} no sign-flip p is below {sign_flip_floor(answer.seeds):.2g}: the "
            "words rest on "
            f"the t test alone; from {need} seeds on, sign flips could confirm them."
        )
    if answer.max_seeds is not None:
        yield _on_course(answer, answer.max_seeds)
    elif answer.looks:
        yield _on_looks(answer)


def _families(answer: Answer) -> dict[str, list[Compared]]:
    """What is corrected together, by what it is in words: arm, step, or contrast; none where nothing is tested."""
    # 跳过的也占名额
    counting: list[Compared] = [one for one in answer.judged if one.in_family or one.word == SKIPPED]
    steps: list[Compared] = [one for one in counting if isinstance(one, ContrastAnswer) and one.family == "steps"]
    rest = [one for one in counting if one not in steps]
    named = {"step": steps, "contrast" if any(isinstance(one, ContrastAnswer) for one in rest) else "arm": rest}
    return {noun: family for noun, family in named.items() if any(one.in_family for one in family)}


def _families_in_words(families: Mapping[str, Sequence[Compared]]) -> str:
    return " and apart from them over ".join(counted(len(tested), noun) for noun, tested in families.items())


def _on_the_contrasts(answer: Answer) -> Iterator[str]:
    """How the numbers of contrasts are to be read."""
    told = [
        f"{', '.join(one.weights)} {in_unit(one.published.value, one.unit)} ({one.published.source})"
        for one in answer.contrasts
        if one.published is not None
    ]
    if told:
        yield f"Published, each measured on a test set, whose own error is in it too: {'; '.join(told)}."
    kinds = {one.kind for one in answer.contrasts}
    if "steps" in {one.family for one in answer.contrasts}:
        against = " Each arm is also judged against the top of the ladder, as a family of its own."
        yield (
            "Each step is judged against the one before it: what its own change does where those above it are made."
            f"{against if any(arm.in_family for arm in answer.arms) else ''}"
        )
    if "main" in kinds:
        yield (
            "A main effect is a level against its factor's first, averaged over the levels of the other factors; an "
            "interaction (a:b) is how much the one's effect changes with the other's, a difference of differences."
        )


def _inside(answer: Answer) -> str:
    return answer.scale.margin(answer.margin)


def _kept(answer: Answer) -> str:
    if answer.max_seeds is not None:
        return " over all looks"
    return "" if answer.looks else f", of which {100 * (1.0 - answer.level_share):.0f} % are kept for an extension"


def _seeds_for_a_word(answer: Answer, arms: int) -> int:
    """How many seeds the sign test needs once this look, too, has used its part of the level."""
    return seeds_for_a_word((*answer.looks, answer.seeds), arms, answer.alpha)


def _on_course(answer: Answer, most: int) -> str:
    """How a study of `--seeds auto` went: which arms closed when, and why."""
    why = {"decided": "decided", "futile": "a word had become unlikely", "untested": "not tested", "maximum": "maximum"}
    arms = answer.judged
    closed = [f"{arm.name} at {arm.looked_at} ({why[arm.closed]})" for arm in arms if arm.closed is not None]
    still_open = [arm.name for arm in arms if arm.closed is None]
    parts = [f"closed: {', '.join(closed)}"] if closed else []
    parts += [f"open: {', '.join(still_open)}"] if still_open else []
    return (
        f"A look at every seed from {FIRST_LOOK} to at most {most} (boundaries of Wang and Tsiatis, levels handed on "
        f"at each rejection); {'; '.join(parts)}."
    )


def _on_looks(answer: Answer) -> str:
    looked = ", ".join(map(str, answer.looks))
    if answer.looks[-1] > answer.seeds:
        return (
            f"Looked at {looked} seeds before: a look back at {answer.seeds} could only choose among answers, and "
            f"gives no word. Ask for --seeds {answer.looks[-1]} again."
        )
    return (
        f"Extended after looking at {looked} seeds: this look may use {100.0 * answer.level_share:.2g} % of the level, "
        f"so that all looks together stay within {answer.alpha:g}, also for someone who stops at the first word."
    )


def _on_the_seeds(answer: Answer) -> Iterator[str]:
    if answer.without_ratio:
        yield (
            f"There is no ratio of a {answer.metric} that is not above 0: {'; '.join(_by_seed(answer.without_ratio))}. "
            "The seeds without them would be a biased choice, so that the arms concerned get no word; ask for the "
            "statistic difference."
        )
    if answer.unlike:
        yield _not_compared(answer) if answer.contrasts else not_paired(answer.unlike)
    if answer.unmeasured and STATISTICS[answer.statistic].by_signs:
        yield (
            f"{counted(answer.unmeasured, 'finished trial')} cannot enter: the curve on record (epochs.jsonl) is gone, "
            "not whole or another trial's; move the trials' folders out of trials/ and run the same command to train "
            "them anew."
        )
    elif answer.unmeasured:
        yield (
            f"{counted(answer.unmeasured, 'finished trial')} ran before the {answer.metric} was measured, and cannot "
            "enter; move their folders out of trials/ and run the same command to train them anew."
        )
    if answer.other_networks:
        yield (
            f"{counted(answer.other_networks, 'trial')} had to be trained again to be evaluated in ten views and came "
            "out different in some bits (another machine or version): there the arms are not exactly the same networks."
        )
    if answer.skipped and answer.max_seeds is not None:
        yield (
            f"Skipped on request: {', '.join(answer.skipped)}. The others went on, but a look at every seed waits for "
            "all arms that are open, so this answer is that of the last one they all had; the same command trains what "
            "is missing."
        )
    elif answer.skipped:
        yield (
            f"Skipped on request, so without a verdict: {', '.join(answer.skipped)}. The others are tested at the "
            "levels of the whole family; the same command trains what is missing."
        )
    if answer.missing:
        yield f"Not complete, so not in this answer: {'; '.join(_by_seed(answer.missing))}."
    if answer.seeds_after_gap:
        after = ", ".join(map(str, answer.seeds_after_gap))
        yield f"Complete, but after the first gap, so not in this answer: seed {after}."
    yield from on_seeds_needed(answer)


def on_seeds_needed(answer: Answer) -> Iterator[str]:
    """Explains the seeds needed, where any are shown."""
    if any(numbers.needed(one) for one in answer.judged):
        whose = "each contrast's" if answer.contrasts else "the arm's"
        effect = answer.scale.effect(answer.smallest_effect)
        yield (
            f"Seeds needed: for 80 % power at the smallest effect worth finding, {effect}, at "
            f"{whose} level, from the 95 % limits of the standard deviation."
        )


def not_paired(unlike: Sequence[str]) -> str:
    """Returns the sentence about trials, `arm seed k` each, whose baseline was trained another way."""
    return (
        f"{counted(len(unlike), 'trial')} could not be paired, since the baseline's was trained by another "
        "number of workers or threads, or on another kind of device, which moves errors as another seed does: "
        f"{'; '.join(_by_seed(unlike))}."
    )


def _not_compared(answer: Answer) -> str:
    """The same of contrasts: any of their trials may be the other one, and it is named once."""
    return (
        f"{counted(len(answer.unlike), 'comparison')} could not be made on a seed, since not all trials of it were "
        "trained by one number of workers and threads on one kind of device, which moves errors as another seed does: "
        f"{'; '.join(_by_seed(answer.unlike))}. Not trained as most of their seed: "
        f"{'; '.join(_by_seed(answer.trained_otherwise))}."
    )


def _by_seed(missing: Sequence[str]) -> list[str]:
    """Groups `arm seed k` as `seed k (arm, arm)`."""
    arms: dict[int, list[str]] = {}
    for name in missing:
        arm, _, seed = name.rpartition(" seed ")
        arms.setdefault(int(seed), []).append(arm)
    return [f"seed {seed} ({', '.join(arms[seed])})" for seed in sorted(arms)]


def _on_the_rest(answer: Answer) -> Iterator[str]:
    yield from on_top5(answer)
    of = "epoch" if answer.core is None else "report"
    paces = [_with_word(arm, words) for arm in answer.arms if (words := pace(arm, of))]
    if paces:
        yield f"Cost beside the baseline (95 % intervals, not judged): {'; '.join(paces)}."
    best = answer.sweep[0] if answer.sweep else None
    if best is not None and best.validation_error is not None:
        point = ", ".join(f"{path} {shown_value(value)}" for path, value in sorted(best.parameters.items()))
        yield (
            f"Best of {counted(answer.sweep_asked, 'sweep point')} by {answer.chosen_by}: "
            f"{in_unit(best.validation_error, answer.description.chosen.unit)} at {point}. Not a verdict: chosen by "
            "the same numbers."
        )


def on_top5(answer: Answer) -> Iterator[str]:
    """Says why the top-5 error of few classes is not read."""
    if answer.core is None and not top5_says_something(answer.classes):
        yield (
            f"With {answer.classes or 0} classes five guesses hit by chance "
            f"{100 * _by_chance(answer.classes or 1):.0f} % of the time: the top-5 error is shown, not read."
        )


def _by_chance(classes: int) -> float:
    """How often the right class is among five that are guessed."""
    return min(1.0, 5 / classes)


def _with_word(arm: ArmAnswer, cost: str) -> str:
    """`no_lrn: equivalent and 18 % faster per epoch (...)`."""
    word = "equivalent and " if arm.word == "equivalent" and arm.costs.seconds_per_epoch.differs else ""
    return f"{arm.name}: {word}{cost}"


def in_unit(value: float, unit: str) -> str:
    """Returns a metric's value with its unit: `12.34 %`, `0.1234 nats`."""
    return f"{number_in(value, unit)} {unit}".rstrip()


def shown_value(value: object) -> str:
    """Returns a hyperparameter as shown."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
