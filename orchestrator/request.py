"""What the user asked of `python -m orchestrator.ablate`: a few objects that never change, made once at the door.

What does not go together is refused in their constructors. Nothing after the command knows that there are options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from orchestrator.choices import (
    AUTO,
    DEFAULT_DATASET,
    DEFAULT_SAMPLER,
    PAPER,
    PrunerName,
    SamplerName,
    SecondObjective,
)
from orchestrator.errors import ExitCode, LabError
from orchestrator.statistics.alpha_spending import FIRST_LOOK, MOST_PLANNED_SEEDS
from search_spaces.space import Sweep
from search_spaces.study import FEWEST_TUNING_TRIALS, MOST_TUNING_TRIALS


@dataclass(frozen=True)
class Question:
    """What is asked: a study on a data set, with what the user changes of it.

    Attributes:
        study: A study's name, the path of a study file, or `paper` for all studies.
        dataset: One of the study's recipes.
        data_root: Absolute path of the images' folder; None for data that need none.
        also: Further data sets on which the same is asked, each with its folder of images.
        network: A named network; None for the recipe's.
        epochs: Per trial; None for the recipe's.
        overrides: Changes of the base of all arms, by dotted field.
        seeds: Per arm; None for the recipe's, `auto` for seed by seed until every arm is decided.
        max_seeds: Per arm at most, where they are `auto`.
        retune: A field of the training that every arm tunes for itself; None leaves it to the study.
        tuning_trials: Of each arm; None leaves it to the study, 0 re-tunes nothing.
        null: Whether the baseline is judged against itself.
        variance: Whether the baseline is trained with one source of randomness drawn anew at a time.
        matched: Whether arms get the controls of equal size that the study offers.
        core: The core whose code the user allows to be run; None for those allowed before.
    """

    study: str
    dataset: str = DEFAULT_DATASET
    data_root: Path | None = None
    also: tuple[tuple[str, Path | None], ...] = ()
    network: str | None = None
    epochs: int | None = None
    overrides: Mapping[str, JsonValue] = field(default_factory=dict)
    seeds: int | Literal["auto"] | None = None
    max_seeds: int | None = None
    retune: str | None = None
    tuning_trials: int | None = None
    null: bool = False
    variance: bool = False
    matched: bool = False
    core: str | None = None

    def __post_init__(self) -> None:
        """Refuses what does not go together.

        Raises:
            LabError: With exit code 2.
        """
        if self.is_paper and self.seeds == AUTO:
            raise _refusal("--study paper takes no --seeds auto: its studies share seeds; ask each alone")
        if self.matched and (self.is_paper or self.null or self.variance):
            raise _refusal("--matched adds arms to one study; leave it out with --study paper, --null and --variance")
        if self.null and self.variance:
            raise _refusal("--null and --variance are two questions about the baseline: ask them one after the other")
        if self.seeds != AUTO and self.max_seeds is not None:
            raise _refusal("--max-seeds goes with --seeds auto")
        if self.seeds == AUTO and not FIRST_LOOK <= (self.max_seeds or 0) <= MOST_PLANNED_SEEDS:
            span = f"from {FIRST_LOOK} to {MOST_PLANNED_SEEDS}"
            raise _refusal(f"--seeds auto needs --max-seeds {span}: the maximum is planned ahead")
        self._check_tuning_trials()
        self._check_datasets()

    def _check_datasets(self) -> None:
        check_distinct(self.datasets)
        if self.also and (self.is_paper or self.null or self.variance):
            raise _refusal(
                "--study paper, --null and --variance are asked on one data set at a time; name one --dataset"
            )
        if self.also and self.seeds == AUTO:
            raise _refusal(
                "--seeds auto closes the arms of one data set, and several are judged together over whole arms: give "
                "--seeds N, or name one --dataset"
            )

    def _check_tuning_trials(self) -> None:
        trials = self.tuning_trials
        if trials == 0 and self.retune is not None:
            raise _refusal("--retune needs tuning trials: give --tuning-trials 2 or more, or leave both out")
        if trials and not FEWEST_TUNING_TRIALS <= trials <= MOST_TUNING_TRIALS:
            span = f"{FEWEST_TUNING_TRIALS} to {MOST_TUNING_TRIALS} of each arm, or 0 for no re-tuning"
            raise _refusal(f"--tuning-trials {trials}: ask for {span}")

    @property
    def is_paper(self) -> bool:
        """Whether all studies are asked together."""
        return self.study == PAPER

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets that are asked for, in their order."""
        return (self.dataset, *(name for name, _ in self.also))

    @property
    def on_each(self) -> tuple[Question, ...]:
        """The question on one data set after the other."""
        places = ((self.dataset, self.data_root), *self.also)
        return tuple(replace(self, dataset=name, data_root=root, also=()) for name, root in places)


@dataclass(frozen=True)
class SweepRequest:
    """The points that Optuna is to choose after the arms.

    Attributes:
        points: In all, those on record included; 0 for no sweep.
        over: The space; None for the study's own.
        sampler: Who chooses the points.
        seed: Of the sampler.
        second: A second objective beside the validation error.
        pruner: Who stops unpromising points early.
        confirm: How many of the best points are trained on fresh seeds.
        confirm_seeds: Fresh seeds per point; None for the recipe's, at least as many as can reach a verdict.
        only: Whether no arm is trained.
    """

    points: int = 0
    over: Sweep | None = None
    sampler: SamplerName = DEFAULT_SAMPLER
    seed: int = 0
    second: SecondObjective | None = None
    pruner: PrunerName = "none"
    confirm: int = 0
    confirm_seeds: int | None = None
    only: bool = False

    def __post_init__(self) -> None:
        """Refuses options that would change nothing, and those that do not go together.

        Raises:
            LabError: With exit code 2.
        """
        # 默认值等于没说：只有改了它的才要有扫描
        of_sweep = {
            "--sweep-over": self.over is not None,
            "--sampler": self.sampler != DEFAULT_SAMPLER,
            "--sweep-seed": self.seed != 0,
            "--multi": self.second is not None,
            "--pruner": self.pruner != "none",
            "--confirm-seeds": self.confirm_seeds is not None,
            "--sweep-only": self.only,
        }
        given = [name for name, is_given in of_sweep.items() if is_given]
        if given and not self.points:
            raise _refusal(f"{given[0]} is for a sweep: give --sweep N too, or leave it out")
        if self.confirm_seeds is not None and not self.confirm:
            raise _refusal("--confirm-seeds N is for --confirm K: give both, or leave it out")
        if self.confirm and not self.points:
            raise _refusal("--confirm K confirms points of a sweep: give --sweep N too, those on record included")
        if self.pruner != "none" and self.second is not None:
            raise _refusal("--pruner compares the validation error alone; leave --multi or --pruner out")


@dataclass(frozen=True)
class Placement:
    """Where trials train.

    Attributes:
        slots: Trials at once; None for all that fit.
        workers: Data-parallel workers per slot.
        gpus_per_worker: GPUs of each worker, a share below 1 for several slots on one; None for two, one or none as
            there are.
        device: `auto`, or `cpu` for a rehearsal whatever is reserved.
        address: Of the Ray cluster to join; None starts a local Ray.
        dashboard: Whether Ray's dashboard is started.
        names_arms: Whether Ray's metrics, which everybody on the machine can read, name the arms.
        dashboard_host: Interface that it listens on.
        verbose: Whether Ray's messages are shown; what is printed during a trial is in the trial's log.
    """

    slots: int | None = None
    workers: int = 1
    gpus_per_worker: float | None = None
    device: Literal["auto", "cpu"] = "auto"
    address: str | None = None
    dashboard: bool = True
    names_arms: bool = False
    dashboard_host: str = "127.0.0.1"
    verbose: bool = False

    def __post_init__(self) -> None:
        """Refuses a share of a GPU for several workers.

        Raises:
            LabError: With exit code 2.
        """
        if self.gpus_per_worker is not None and 0 < self.gpus_per_worker < 1 < self.workers:
            raise _refusal("--gpu-share is for slots of one worker; leave --workers out")


@dataclass(frozen=True)
class Limits:
    """What a command may spend.

    Attributes:
        gpu_hours: GPUs reserved by slots, times the hours they train; on the CPU slots times hours. None for no limit.
        seconds: From the command's start to the end of its last trial. None for no limit.
    """

    gpu_hours: float | None = None
    seconds: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return self.gpu_hours is not None or self.seconds is not None


@dataclass(frozen=True)
class Store:
    """Where records are, which of them count, and what is kept of them.

    Attributes:
        results: The results folder.
        retry_failed: Whether failed trials are trained again.
        keep_weights: Which final weights stay.
    """

    results: Path
    retry_failed: bool = False
    keep_weights: Literal["all", "best", "none"] = "all"


@dataclass(frozen=True)
class Request:
    """All that one command asks.

    Attributes:
        question: What is asked.
        store: Where its records are.
        sweep: What Optuna chooses after the arms.
        placement: Where trials train.
        limits: What they may spend.
        dry_run: Whether to say what would run, and stop.
        show: `ARM[:SEED]` whose configuration is printed instead; None to go on.
        optuna_view: Whether the study is written as an Optuna storage, also when nothing is left to train.
        command: The command line that asks this again, its name first; it is kept with the plan.
    """

    question: Question
    store: Store
    sweep: SweepRequest = SweepRequest()
    placement: Placement = Placement()
    limits: Limits = Limits()
    dry_run: bool = False
    show: str | None = None
    optuna_view: bool = False
    command: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Refuses what cannot be asked together.

        Raises:
            LabError: With exit code 2.
        """
        question, sweeps = self.question, bool(self.sweep.points)
        alone = question.null or question.variance
        if question.is_paper and (sweeps or self.show is not None or alone or question.retune is not None):
            raise _refusal(
                "--study paper takes no --sweep, --show, --null, --variance or --retune; ask the study itself"
            )
        retunes = question.retune is not None or bool(question.tuning_trials)
        if question.seeds == AUTO and (sweeps or alone or retunes):
            reason = "--sweep, --retune, --null and --variance need whole arms; ask for them alone"
            raise _refusal(f"study {question.study} cannot be asked with --seeds auto: {reason}")
        if self.sweep.only and question.retune is not None:
            raise _refusal("--sweep-only trains no arm, so that --retune has nothing to tune; leave one of them out")
        if question.also and (sweeps or self.show is not None):
            raise _refusal("--sweep, --confirm and --show are for one data set: name one --dataset")
        if alone and (sweeps or question.retune is not None):
            option = "--null" if question.null else "--variance"
            raise _refusal(f"{option} takes neither --sweep nor --retune: it has the baseline alone")


def check_distinct(datasets: Sequence[str]) -> None:
    """Refuses a data set that is named twice.

    Raises:
        LabError: With exit code 2.
    """
    if twice := [name for name in datasets if datasets.count(name) > 1]:
        raise _refusal(f"--dataset names {twice[0]} twice")


def _refusal(reason: str) -> LabError:
    return LabError(reason, exit_code=ExitCode.WRONG_USE)
