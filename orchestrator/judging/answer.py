"""What a study's trials say, as data: made by `answer`, remarked on by `remarks`, shown by `report` and `figures`.

Errors are percentages. Differences are percentage points, or natural logarithms of ratios (`ArmAnswer.scale`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from alexnet_core.configuration.frozen import Frozen
from orchestrator.judging.scales import Scale, ScaleName, scale_of
from orchestrator.planning.retuning import TuningTrial
from search_spaces.arm import Published, is_absent
from search_spaces.contrast import Family, Kind
from search_spaces.core_config import ALEXNET, PERCENT, CoreDescription, readable
from search_spaces.design import DesignName
from search_spaces.study import Statistic

# 只在别的比较里出现的 arm：它自己不与基线比
NOT_JUDGED = "not judged"
# 还占着家族里的一个名额
SKIPPED = "no verdict: skipped"
# 研究名之后：各 arm 用自己调出的值的那份答案
RETUNED_STUDY = ", re-tuned"


def _is_percent(unit: str) -> bool:
    return unit == PERCENT


def _is_false(value: bool) -> bool:
    return not value


def _is_zero(value: int) -> bool:
    return value == 0


def _is_first(value: int) -> bool:
    return value == 1


# 注和报告的措辞变了就加一：旧报告与记录相符，只是话说得不同
WORDING = 6
# 从这一版起，对新图也成立的区间写在旁边
WORDS_BEYOND = 5


class Measured(Frozen):
    """A cost of one arm, and as a ratio to the baseline's.

    Attributes:
        mean: Mean in its own unit: over the seeds that were compared, or over all finished ones where none was.
        baseline_mean: The baseline's mean over the seeds that were compared.
        ratio: Geometric mean over seeds of arm over baseline.
        ratio_interval: 95 % interval of that, from Student's t over the paired log-ratios; unadjusted, never judged.
        pairs: Seeds that were compared: finished in both, on the same kind of device, seconds in the same session.
        apart: Seeds finished in both that were not, since they were not measured together.
    """

    mean: float | None = None
    baseline_mean: float | None = None
    ratio: float | None = None
    ratio_interval: tuple[float, float] | None = None
    pairs: int = 0
    apart: int = 0

    @property
    def differs(self) -> bool:
        """Whether the interval leaves 1 out."""
        return self.ratio_interval is not None and not self.ratio_interval[0] <= 1.0 <= self.ratio_interval[1]


class ArmCosts(Frozen):
    """What an arm costs.

    Attributes:
        seconds_per_epoch: Training and evaluation of one epoch.
        memory_mb: Peak memory of the training in MB (10^6 bytes).
        memory_kind: Of what that is the peak, see `memory.py`.
        parameters: Weights and biases of the network.
        multiply_adds: Of one forward pass of one image.
    """

    seconds_per_epoch: Measured = Measured()
    memory_mb: Measured = Measured()
    memory_kind: str | None = None
    parameters: int | None = None
    multiply_adds: int | None = None


class Compared(Frozen):
    """What the seeds say of one comparison: an arm against the baseline, or another contrast.

    Attributes:
        name: The arm, or the contrast.
        title: What it is.
        n: Finished seeds that enter.
        scale: What differences and intervals of the primary metric are in.
        unit: In which the primary metric is shown; what is said below of percent and points is of this unit.
        differences: By seed arm minus baseline, or the contrast; of a ratio of times that is only bounded, the value
            nearest to equal.
        difference: Mean difference; of times to a threshold the median.
        difference_is: Whether the difference is known, or its true value lies at or beyond it.
        difference_sd: Standard deviation of the differences.
        interval: Of the difference, at `interval_level`.
        interval_open: Whether its lower and its upper end are unbounded: too many runs were not there in time (or there
            are too few seeds); the number is the last one known on that side.
        interval_level: Confidence in percent.
        beyond: Limits of the difference for new images too (`crossed_effects.py`), never within the interval; None
            where no test or validation error in points is judged, or records do not say which images were right.
        beyond_level: Their confidence in percent: that of an equal share in the family, at least the interval's.
        holds_beyond: Whether they agree with the word.
        p: Of the paired t test, or of the exact sign test of times to a threshold; unadjusted.
        adjusted_p: Holm's.
        sign_flip_p: Exact sign-flip p.
        sign_flip_floor: The smallest it could be with so many seeds.
        claimed_points: The paper's number, arm minus baseline.
        claimed_ratio: The paper's number where it is a ratio, arm over baseline.
        word: The verdict; `not judged` of an arm that is not itself compared with the baseline.
        in_family: Whether it counts in the Holm family.
        looked_at: Seeds of its last look, of a study of `--seeds auto`.
        closed: In a study of `--seeds auto`, why it gets no further seeds (`sequential.py`).
        sentence: The verdict as a sentence.
        seeds_needed: Seeds for 80 % power at the recipe's smallest effect, as a range.
    """

    name: str
    title: str
    n: int
    scale: ScaleName = "points"
    unit: str = Field(default=PERCENT, exclude_if=_is_percent)
    differences: dict[str, float] = {}
    difference: float | None = None
    difference_is: Literal["known", "at least", "at most"] = "known"
    difference_sd: float | None = None
    interval: tuple[float, float] | None = None
    interval_open: tuple[bool, bool] = (False, False)
    interval_level: float | None = None
    beyond: tuple[float, float] | None = Field(default=None, exclude_if=is_absent)
    beyond_level: float | None = Field(default=None, exclude_if=is_absent)
    holds_beyond: bool = Field(default=False, exclude_if=_is_false)
    p: float | None = None
    adjusted_p: float | None = None
    sign_flip_p: float | None = None
    sign_flip_floor: float | None = None
    claimed_points: float | None = None
    claimed_ratio: float | None = None
    word: str = "baseline"
    in_family: bool = False
    looked_at: int | None = None
    closed: str | None = None
    sentence: str = ""
    seeds_needed: tuple[int, int] | None = None


class ArmAnswer(Compared):
    """One arm, and how it stands against the baseline.

    Attributes:
        is_baseline: Whether it is the baseline.
        mean: Mean of the primary metric in percent; None for times to a threshold.
        sd: Standard deviation over seeds, percentage points.
        median: Median time to the threshold in epochs; None where half of the seeds or more were not there in time.
        never: Seeds that were not at the threshold within their budget.
        errors: The primary metric by seed: in percent, or epochs to the threshold of those that were there.
        top5_difference: Mean top-5 difference.
        top5_interval: Plain 95 % interval.
        claimed_top5_points: The paper's number.
        correlation: Correlation with the baseline that pairing by seed achieved.
        diverged: Seeds that diverged.
        failed: Seeds that failed.
        seconds: Mean training seconds per trial.
        costs: Seconds, memory and size beside the baseline's: the second axis, without a word.
        levels: Of an arm that a design made: the level of each factor.
    """

    is_baseline: bool
    mean: float | None = None
    sd: float | None = None
    median: float | None = None
    never: tuple[str, ...] = ()
    errors: dict[str, float] = {}
    top5_difference: float | None = None
    top5_interval: tuple[float, float] | None = None
    claimed_top5_points: float | None = None
    correlation: float | None = None
    diverged: int = 0
    failed: int = 0
    seconds: float | None = None
    costs: ArmCosts = ArmCosts()
    levels: dict[str, str] = Field(default={}, exclude_if=is_absent)


class ContrastAnswer(Compared):
    """A comparison that is not an arm's against the baseline.

    Attributes:
        kind: `step`, `pair`, `main`, `interaction` or `published`, see `Contrast`.
        family: Its family of tests: `study`, or the `steps` of a ladder.
        weights: By arm, summing to zero; a difference is the weighted sum of the arms' values of one seed.
        published: What is subtracted from the value of the one arm of a reproduction, and where it is published.
    """

    kind: Kind
    family: Family
    weights: dict[str, float]
    published: Published | None = Field(default=None, exclude_if=is_absent)


class SourceSpread(Frozen):
    """How much one source of randomness alone, or several together, moves the primary metric.

    Attributes:
        name: What is drawn anew: a source, `split`, `seed` for all but the split, or `all_together`.
        title: What that is.
        n: Seeds that finished.
        sd: Standard deviation over them (n - 1), on the arms' scale; None below three.
        limits: Its 95 % limits by the chi-square distribution; None where nothing scatters.
        seeds_needed: Seeds per arm that find a difference of the margin with 80 % power at the level alpha, as a range
            from the limits, where two arms scatter so and pairing by seed takes nothing of it away; of a reproduction,
            where one arm is held against its published value. None where trainings were lost.
        absent: Why the training draws nothing from this source; empty where it does.
    """

    name: str
    title: str
    n: int = 0
    sd: float | None = None
    limits: tuple[float, float] | None = None
    seeds_needed: tuple[int, int] | None = None
    absent: str = ""


class SweepPoint(Frozen):
    """One point of the sweep; its validation error chose it, so it is no verdict.

    Attributes:
        parameters: Dotted field to value.
        state: How its trial ended.
        validation_error: In percent; None where it did not finish. Of another core than AlexNet the metric that
            chooses, in the unit in which it is shown; so are the other validation errors here.
        key: Of its trial.
        position: Its number in the sequence of asks.
        second: The second objective of a finished point: multiply-adds, or images per second.
    """

    parameters: dict[str, Any]
    state: str
    validation_error: float | None
    key: str
    position: int | None = None
    second: float | None = None


class ParameterImportance(Frozen):
    """How much of the validation error's variance over the sweep a parameter explains (fANOVA).

    Attributes:
        parameter: Dotted field.
        mean: Share in [0, 1], mean over seeds of the estimator.
        sd: Standard deviation over those seeds.
        by_seed: The share for each of them.
    """

    parameter: str
    mean: float
    sd: float
    by_seed: tuple[float, ...]


class SweepFacts(Frozen):
    """How a sweep was made and what it says as a whole.

    Attributes:
        sampler: Who chose the points (of the last run).
        pruner: `none`, `asha` or `median`.
        second_objective: `multiply_adds` or `images_per_second`; None for the error alone.
        states: How many points ended how.
        epochs: Epochs trained, all points together.
        importance: Of each parameter, the largest first; empty below 10 finished points.
        importance_points: Of how many points the estimator sees a sample at each seed.
        front: The Pareto front by rising validation error; empty with one objective.
    """

    sampler: str
    pruner: str = "none"
    second_objective: str | None = None
    states: dict[str, int] = {}
    epochs: int = 0
    importance: tuple[ParameterImportance, ...] = ()
    importance_points: int = 0
    front: tuple[SweepPoint, ...] = ()


class ConfirmedPoint(Frozen):
    """A sweep's point on fresh seeds beside the baseline on the same seeds.

    Attributes:
        name: As an arm: `point-7` is the point at position 7.
        parameters: Dotted field to value.
        swept_error: Its validation error in the sweep, percent: the number that chose it.
        swept_lead: Baseline's minus its validation error as the sweep saw them, percentage points.
        validation_error: Mean over the fresh seeds, percent.
        lead: Baseline's minus its validation error on the fresh seeds, percentage points.
        n: Fresh seeds that finished in both.
        difference: Mean of the primary metric, point minus baseline, on `scale`.
        scale: `points`, or `log_ratio`.
        interval: Of that, at `interval_level`.
        interval_level: Confidence in percent.
        beyond: Limits of the difference for new images too, see `Compared`.
        beyond_level: Their confidence in percent.
        p: Of the paired t test, unadjusted.
        adjusted_p: Holm's, over the confirmed points.
        word: The verdict.
        sentence: The verdict as a sentence.
        differences: Point minus baseline by seed.
        diverged: Seeds that diverged.
        failed: Seeds that failed.
    """

    name: str
    parameters: dict[str, Any]
    swept_error: float | None
    swept_lead: float | None
    validation_error: float | None
    lead: float | None
    n: int
    difference: float | None = None
    scale: ScaleName = "points"
    interval: tuple[float, float] | None = None
    interval_level: float | None = None
    beyond: tuple[float, float] | None = Field(default=None, exclude_if=is_absent)
    beyond_level: float | None = Field(default=None, exclude_if=is_absent)
    p: float | None = None
    adjusted_p: float | None = None
    word: str
    sentence: str
    differences: dict[str, float] = {}
    diverged: int = 0
    failed: int = 0


class Confirmation(Frozen):
    """What fresh seeds say of a sweep's best points.

    Attributes:
        metric: The primary metric, as shown.
        seeds: The fresh seeds that are complete.
        missing: Planned trials that have not ended.
        unlike: Trials without a pair: the baseline's had other workers or another kind of device.
        baseline_error: The baseline's mean validation error on them, percent.
        swept_baseline_error: Its mean validation error as the sweep saw it: over the arms' seeds.
        points: One Holm family, the sweep's best first.
    """

    metric: str
    seeds: tuple[int, ...]
    missing: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    baseline_error: float | None
    swept_baseline_error: float | None
    points: tuple[ConfirmedPoint, ...]


class Answer(Frozen):
    """What a study's trials say.

    Attributes:
        study: Its name.
        dataset: The data set.
        question: The question.
        claim: The paper's claim in words; empty for a study that only asks.
        claim_source: Where it says so.
        metric: The primary metric, as shown.
        statistic: How arms are compared, see `Study`.
        budget: Epochs that each trial had; None where they differ.
        judged_split: `test`, `validation` (of a gap, or where the data has no test set) or `training`.
        images: Images of that split.
        split_error: Binomial standard error of the baseline's error on that split, percentage points: shared by all
            seeds, and in no interval.
        margin: Equivalence margin, percentage points; as a ratio above 1 where the statistic is one.
        smallest_effect: The same.
        alpha: Family-wise level over all looks.
        max_seeds: Seeds at most, of a study of `--seeds auto`; None for others.
        level_share: Of it, what this look may use (`boundaries.py`).
        seeds: Complete seeds that were judged.
        planned_seeds: Seeds planned.
        missing: Planned trials that have not ended, named.
        seeds_after_gap: Complete seeds that do not enter, because an earlier one is incomplete.
        skipped: Arms of which the run was asked to begin no other trial, and that still lack some: the answer does not
            wait for them; that of `--seeds auto` does.
        looks: Looks (numbers of seeds) taken before this one that could give a word.
        unlike: Comparisons that lack a seed: its trials had other workers, threads or another kind of device.
        trained_otherwise: Of contrasts, the trials of those seeds that were not trained as most of their seed.
        unmeasured: Finished trials that lack the primary metric: they ran before it was measured.
        without_ratio: Finished trials whose value is not above 0, so that there is no ratio of it.
        other_networks: Trials that were trained again for an evaluation and came out different in their bits.
        classes: Of the data.
        arms: The baseline first.
        contrasts: What else is compared, beside arms with the baseline.
        design: How factors made the arms; None where they were written out.
        factors: Of a design, by name the titles of its levels by name, both in their order (as pairs).
        sweep: Best points of the sweep.
        sweep_asked: Points asked in all.
        chosen_afterwards: Whether the comparison was chosen after the data were seen.
        null: Whether both sides are the baseline, on different seeds.
        retuned_parameter: The nuisance parameter that each arm tuned for itself; None where none did.
        tuning: Its tuning trials.
        retuned: The answer of the arms with their own best values; None while there is none.
        notes: Remarks shown under the table (`remarks.py`).
        core: What was trained, where that is not AlexNet; `judged_by` is the study's metric.
        reports: Fewest and most reports of its finished trials, where its length is not known beforehand.
        uneven: By arm, fewest and most reports of its seeds, where they ended after different numbers.
        ended_early: By arm, how many of its trainings say that they ended early.
        variance: Of a study that trains the baseline with one randomness drawn anew at a time: each of them, and all
            together. Then nothing is judged.
        variance_of_published: Whether that baseline is held against a published value, which no seed moves.
        vary: What each seed draws anew beside what it always does: `split`.
        fixed_split: Of seeds that draw their split, whether that is which of the training images train alone, since
            validation images lie in a folder of their own, or none are held out.
        unseen: Finished trials of judged comparisons of which it is not on record which images they got right.
        damaged_images: Those of them whose record of it is damaged, by key.
        other_images: Comparisons whose seeds or arms were not judged on the same images.
        wording: How its notes and its report are worded; see `WORDING`.
    """

    study: str
    dataset: str
    question: str
    claim: str
    claim_source: str
    metric: str = "top-1 test error"
    statistic: Statistic = "difference"
    budget: int | None = None
    judged_split: str
    images: int
    split_error: float | None = None
    margin: float
    smallest_effect: float
    alpha: float
    level_share: float = 1.0
    max_seeds: int | None = None
    seeds: int
    planned_seeds: int
    missing: tuple[str, ...]
    seeds_after_gap: tuple[int, ...] = ()
    skipped: tuple[str, ...] = Field(default=(), exclude_if=is_absent)
    looks: tuple[int, ...]
    unlike: tuple[str, ...] = ()
    unmeasured: int = 0
    other_networks: int = 0
    classes: int | None = None
    arms: tuple[ArmAnswer, ...]
    contrasts: tuple[ContrastAnswer, ...] = Field(default=(), exclude_if=is_absent)
    design: DesignName | None = Field(default=None, exclude_if=is_absent)
    factors: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = Field(default=(), exclude_if=is_absent)
    sweep: tuple[SweepPoint, ...] = ()
    sweep_asked: int = 0
    sweep_facts: SweepFacts | None = None
    confirmation: Confirmation | None = None
    null: bool = False
    retuned_parameter: str | None = None
    tuning: tuple[TuningTrial, ...] = ()
    retuned: Answer | None = None
    chosen_afterwards: bool = False
    notes: tuple[str, ...] = ()
    # 旧报告的字节不变：没有就不写
    core: CoreDescription | None = Field(default=None, exclude_if=is_absent)
    reports: tuple[int, int] | None = Field(default=None, exclude_if=is_absent)
    uneven: dict[str, tuple[int, int]] = Field(default={}, exclude_if=is_absent)
    ended_early: dict[str, int] = Field(default={}, exclude_if=is_absent)
    without_ratio: tuple[str, ...] = Field(default=(), exclude_if=is_absent)
    trained_otherwise: tuple[str, ...] = Field(default=(), exclude_if=is_absent)
    variance: tuple[SourceSpread, ...] = Field(default=(), exclude_if=is_absent)
    variance_of_published: bool = Field(default=False, exclude_if=_is_false)
    vary: tuple[str, ...] = Field(default=(), exclude_if=is_absent)
    fixed_split: bool = Field(default=False, exclude_if=_is_false)
    unseen: int = Field(default=0, exclude_if=_is_zero)
    damaged_images: tuple[str, ...] = Field(default=(), exclude_if=is_absent)
    other_images: tuple[str, ...] = Field(default=(), exclude_if=is_absent)
    wording: int = Field(default=1, exclude_if=_is_first)

    @property
    def description(self) -> CoreDescription:
        """What was trained."""
        return ALEXNET if self.core is None else self.core

    @property
    def judged(self) -> tuple[Compared, ...]:
        """All that is compared and carries a word: arms against the baseline, then the other contrasts."""
        arms = (arm for arm in self.arms if not arm.is_baseline and arm.word != NOT_JUDGED)
        return (*arms, *self.contrasts)

    @property
    def reproduces(self) -> bool:
        """Whether arms are compared with published values, rather than with each other."""
        return any(contrast.published is not None for contrast in self.contrasts)

    @property
    def counts_images(self) -> bool:
        """Whether its differences are of errors on validation or test images, in points."""
        is_error = self.judged_split != "training" and self.metric == f"top-1 {self.judged_split} error"
        return self.core is None and is_error and self.arms[0].scale == "points"

    @property
    def same_images(self) -> bool:
        """Whether all seeds are judged on the same images: not where they draw those of their own."""
        apart = self.judged_split != "training" and self.fixed_split
        return self.judged_split == "test" or apart or not (self.vary or self.variance)

    @property
    def has_beyond(self) -> bool:
        """Whether a difference has limits for new images."""
        return any(one.beyond is not None for one in self.judged)

    @property
    def chosen_by(self) -> str:
        """The metric that chooses, in words: `validation error`."""
        return readable(self.description.chosen_by)

    @property
    def unit(self) -> str:
        """In which the primary metric is shown."""
        return self.arms[0].unit

    @property
    def scale(self) -> Scale:
        """How its differences are written."""
        return scale_of(self.arms[0].scale, self.unit)
