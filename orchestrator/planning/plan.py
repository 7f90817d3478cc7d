"""The plan: which trials a study wants. What of them is on record stands beside it, see `on_record.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from alexnet_core.data.dataset import DataSummary
from orchestrator.cores.identity import CoreCode
from search_spaces.contrast import largest_family, weights_by_trial
from search_spaces.core_config import TrialConfig
from search_spaces.study import Recipe, Retune, Study
from search_spaces.trial import PlannedTrial, unfold

# 确认用的种子与 arm（0 起）、调参（1000 起）永不相交（statistics.md）
CONFIRMATION_SEED = 2000
# 调参种子与裁决种子永不相交（statistics.md）
TUNING_SEED = 1000
ALPHA = 0.05
# 再调参的 trial 在 arm 名后加后缀
TUNING, RETUNED = "-tuning", "-retuned"


@dataclass(frozen=True)
class Plan:
    """A study unfolded on one data set: what it asks, whatever has been trained of it.

    Attributes:
        study: The question.
        dataset: Name of the recipe.
        recipe: What the study asks on this data set.
        summary: What is in the data; None for a core that does not say.
        base: The baseline's configuration before any arm's edits, with seed 0.
        trials: The wanted arm trials in the order in which they run (all arms of a seed together).
        seeds: The arms' seeds.
        sweep_points: Points of the sweep, in all.
        max_seeds: Seeds at most, of a study of `--seeds auto`; None where all seeds are wanted.
        retune: What every arm tunes for itself; None for nothing.
        further: The trials of that, as far as they are known (`retuning.py`).
        null: Whether the baseline is judged against itself (`variants/baseline_alone.py`).
        code: Of the core; None for AlexNet, and for a plan that was read from its file.
        datasets: Of plans on several data sets that are run as one: by arm, its data set.
        together: Of plans that are run as one: by study (or data set) and arm there, how the arm is called.
        needed: Of those: the arms beside `study.baseline` that a baseline is among, under whose name it is trained.
    """

    study: Study
    dataset: str
    recipe: Recipe
    summary: DataSummary | None
    base: TrialConfig
    trials: tuple[PlannedTrial, ...]
    seeds: tuple[int, ...]
    sweep_points: int
    max_seeds: int | None = None
    retune: Retune | None = None
    further: tuple[PlannedTrial, ...] = ()
    null: bool = False
    code: CoreCode | None = None
    datasets: Mapping[str, str] = field(default_factory=dict)
    together: Mapping[tuple[str, str], str] = field(default_factory=dict)
    needed: tuple[str, ...] = ()

    @property
    def views(self) -> dict[str, int]:
        """In how many views the trials are wanted whose arms ask for more than one, by key."""
        return {trial.key: trial.views for trial in self.trials if trial.views != 1}

    @property
    def of_baseline_alone(self) -> bool:
        """Whether it asks about the randomness of one baseline: `--null` or `--variance`."""
        return self.null or self.study.shows_variance

    @property
    def data_roots(self) -> list[str | None]:
        """The folders of images that its trials read; None alone where none reads one."""
        roots = {self.base.data.root, *(trial.config.data.root for trial in self.trials)} - {None}
        return [*sorted(root for root in roots if root is not None)] or [None]

    def dataset_of(self, arm: str) -> str:
        """Returns the data set of an arm, be it re-tuned."""
        names = (arm, arm.removesuffix(TUNING), arm.removesuffix(RETUNED))
        return next((self.datasets[name] for name in names if name in self.datasets), self.dataset)

    def names_of(self, label: str) -> dict[str, str]:
        """Returns how the arms of one of several plans that are run as one are called; nothing where it is alone.

        Args:
            label: Its study; of one study on several data sets its data set.
        """
        return {arm: name for (of, arm), name in self.together.items() if of == label}

    @property
    def unique_keys(self) -> int:
        """How many different trials the arms want; arms that are the same trials share them."""
        return len({trial.key for trial in self.trials})

    @property
    def comparisons(self) -> int:
        """How many comparisons are corrected together: of the largest family, without those of the same trials."""
        # 只扫描时一个 arm 也不训练：那就各算各的
        trained = {arm.name: (arm.name, 0) for arm in self.study.arms}
        trained |= {trial.arm: (trial.key, trial.views) for trial in reversed(self.trials)}
        return largest_family([one for one in self.study.contrasts if weights_by_trial(one, trained)])


def with_seeds(plan: Plan, count: int) -> Plan:
    """Returns a plan of the same question with `count` seeds per arm."""
    # 后来要的种子只往后接：已有的 trial 一个不变
    seeds = tuple(range(count))
    return replace(plan, trials=unfold(plan.study, plan.base, seeds), seeds=seeds)
