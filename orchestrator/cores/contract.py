"""The contract: what a core offers, and what its training is given. Loads no library but pydantic.

A core is a training of one's own. It keeps its loop; from the core the orchestrator takes the numbers that it yields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, JsonValue, ValidationError

from search_spaces.core_config import (
    ALL_TOGETHER,
    CORE_NAME,
    METRIC_NAME,
    OWN_SEED,
    SOURCE_NAME,
    metric_named,
    metrics_mistake,
    usual_seed,
)

if TYPE_CHECKING:
    from alexnet_core.data.dataset import DataSummary

State = Any


class ContractError(Exception):
    """What a core lacks or has wrong, in one line."""


class Stopped(Exception):
    """The study stops this trial; a training lets it pass through."""


@dataclass(frozen=True)
class Metric:
    """A number that every report has.

    Attributes:
        unit: What it is shown in, such as `%`; empty for a plain number.
        better: Which way is good.
        scale: What a value is multiplied with to be shown: 100 for a share in [0, 1] that is shown in percent.
    """

    unit: str = ""
    better: Literal["lower", "higher"] = "lower"
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuses what nothing can be shown in."""
        if self.better not in ("lower", "higher"):
            raise ContractError(f"a metric's better is lower or higher, not {self.better!r}")
        if not isinstance(self.unit, str):
            raise ContractError(f"a metric's unit is a text, such as '%', not {self.unit!r}")
        if not (isinstance(self.scale, (int, float)) and 0 < self.scale < float("inf")):
            raise ContractError(f"a metric's scale is a number above 0, not {self.scale!r}")


class Run:
    """What a training is given beside its configuration. Made by hand it stands for a run that nobody watches.

    Attributes:
        seed: Of this trial; all that is random follows from it. `random`, numpy and torch are seeded with it before.
        devices: Where to train, such as `("cuda:0",)`; `("cpu",)` where there is no GPU.
        data_root: The folder given with `--data-root`, or None.
    """

    def __init__(
        self,
        seed: int = 0,
        devices: tuple[str, ...] = ("cpu",),
        data_root: Path | None = None,
        *,
        load_last: Callable[[], State | None] = lambda: None,
        forget: Callable[[], None] = lambda: None,
        goes_on: Callable[[], bool] = lambda: True,
        lives: Callable[[], None] = lambda: None,
        log: Callable[[str], None] = print,
        folder: Path | None = None,
        seeds: Mapping[str, int] | None = None,
        sources: Collection[str] | None = None,
    ) -> None:
        """Starts a run.

        Args:
            seed: See `Run`.
            devices: See `Run`.
            data_root: See `Run`.
            load_last: Returns what an earlier attempt saved last.
            forget: Told that the training does not go on from there after all.
            goes_on: Says whether the study goes on.
            lives: Told at each beat.
            log: Takes a line of a script's output.
            folder: The trial's own, for the checkpoints of a script; None where it has none.
            seeds: Of sources of randomness that have another one than usual.
            sources: Those that the core declares; None where nobody has asked.
        """
        self.seed, self.devices, self.data_root, self.folder = seed, devices, data_root, folder
        self._seeds, self._sources = dict(seeds or {}), sources
        self.beats, self.saves, self.last_line = 0, 0, ""
        self._log = log
        self._load_last, self._forget, self._goes_on, self._lives = load_last, forget, goes_on, lives
        self._saved: State | None = None

    def seed_of(self, source: str) -> int:
        """Returns the seed of a source of randomness that the core declares: the trial's own, or another one.

        That of `split` is 0 unless the study's seeds draw the split anew.

        Args:
            source: One of `Core.randomness`.

        Raises:
            ContractError: The core does not declare it.
        """
        if self._sources is not None and source not in self._sources:
            declared = ", ".join(self._sources) or "none"
            raise ContractError(f"run.seed_of({source!r}): declare it, Core(randomness=...) has {declared}")
        return self._seeds.get(source, usual_seed(source, self.seed))

    def load(self) -> State | None:
        """Returns the state that was saved last, on the CPU; None for a training from its beginning.

        Call it after the model is made: from here on random numbers go on where that state was written.
        """
        return self._load_last()

    def save(self, state: State) -> None:
        """Keeps a state to go on from: call it before the report that it belongs to is yielded.

        It is written with that report, beside the random states of `random`, numpy and torch, unless the last one was
        written less than a second before.

        Args:
            state: Tensors, arrays, numbers, texts and None, in dictionaries, lists and tuples; the `state_dict` of a
                model or an optimizer is such.
        """
        self.saves += 1
        self._saved = state

    def beat(self) -> None:
        """Says that the training lives; call it now and then, such as once per batch.

        Raises:
            Stopped: The study stops this trial.
        """
        self.beats += 1
        self._lives()
        self.check()

    def check(self) -> None:
        """Raises `Stopped` when the study stops this trial, as `beat` does, without saying that the training lives."""
        if not self._goes_on():
            raise Stopped

    def log(self, line: str) -> None:
        """Writes a line of a script's output to the trial's log."""
        self.last_line = line if line.strip() else self.last_line
        self._log(line)

    def begin_again(self) -> None:
        """Says that the training begins at report 1 after all; for a script, which alone knows where it goes on."""
        self._forget()

    def take_saved(self) -> State | None:
        """Returns what was saved since the last report, once; for who runs the training."""
        saved, self._saved = self._saved, None
        return saved


Train = Callable[[Any, Run], Iterator[Mapping[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Core:
    """A training as the orchestrator sees it. Its fields may also stand at the top of a module, which then is the core.

    Attributes:
        name: Short name; part of every key.
        version: Part of every key: raise it when a change of the code moves numbers.
        config: A frozen pydantic model of which every field has a default. The seed is none of them.
        train: Takes a configuration and a `Run`, and yields one mapping of metric names to numbers per report.
        metrics: What every report has, by name.
        chosen_by: The metric by which sweeps, pruning, re-tuning and `best` choose; where there is one metric, that.
        judged_by: The metric that verdicts are about; it should be of data that `chosen_by` is not of. Where there is
            one metric, that.
        gpus: GPUs per worker; the CPU is used where there is none.
        data: Returns a text that stands for the data's content, such as a SHA-256; part of every key. A `DataSummary`
            does too by its digest, and what it remarks is said with every plan and in the report.
        sizes: Returns `parameters` and `multiply_adds` of a configuration.
        export: Writes a trained model into a folder, from configuration, last state and folder.
        pictures: Writes pictures of a trained model into a folder, from configuration, last state and folder.
        added_later: Fields of `config` that came after the first version, with the values that leave keys as they are.
        deterministic: Whether the same seed gives the same numbers; a core that cannot promise it says so here.
        randomness: Sources of randomness that `train` draws by `run.seed_of`, such as `("initialisation", "order")`;
            `split` is the drawing of training and validation images, which is one and the same unless a study asks.
        draws: Returns which of these a configuration draws, as without augmentation it draws none of that; all where
            there is no such function.
    """

    name: str
    version: int
    config: type[BaseModel]
    train: Train
    metrics: Mapping[str, Metric]
    chosen_by: str = ""
    judged_by: str = ""
    gpus: int = 1
    data: Callable[[Any, Path | None], str | DataSummary] | None = None
    sizes: Callable[[Any], Mapping[str, float]] | None = None
    export: Callable[[Any, State, Path], None] | None = None
    pictures: Callable[[Any, State, Path], None] | None = None
    added_later: Mapping[str, JsonValue] = field(default_factory=dict)
    deterministic: bool = True
    randomness: tuple[str, ...] = ()
    draws: Callable[[Any], Collection[str]] | None = None

    def __post_init__(self) -> None:
        """Refuses what breaks the contract, in one line that names all of it."""
        if isinstance(self.metrics, Mapping) and self.metrics:
            for which in ("chosen_by", "judged_by"):
                object.__setattr__(self, which, metric_named(self.metrics, getattr(self, which)))
        checks = (_identity_mistakes, _config_mistakes, _metrics_mistakes, _function_mistakes)
        mistakes = [mistake for check in checks for mistake in check(self)]
        if mistakes:
            raise ContractError("; ".join(mistakes))


def _identity_mistakes(core: Core) -> Iterator[str]:
    if not isinstance(core.name, str) or not re.fullmatch(CORE_NAME, core.name):
        yield f"name is short, of lower-case letters, digits, - and _, not {core.name!r}"
    for name, value, least in (("version", core.version, 1), ("gpus", core.gpus, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            yield f"{name} is a whole number from {least} on, not {value!r}"
    sources = core.randomness
    if not isinstance(sources, (tuple, list)) or not all(
        isinstance(one, str) and re.fullmatch(SOURCE_NAME, one) and one not in (OWN_SEED, ALL_TOGETHER)
        for one in sources
    ):
        yield f"randomness names sources in lower-case letters, digits and _, such as ('order',), not {sources!r}"
    elif len(set(sources)) < len(sources):
        yield f"randomness names {', '.join(sorted(one for one in set(sources) if list(sources).count(one) > 1))} twice"


def _config_mistakes(core: Core) -> Iterator[str]:
    if not (isinstance(core.config, type) and issubclass(core.config, BaseModel)):
        yield f"config is a pydantic model (a class), not {core.config!r}"
        return
    if not core.config.model_config.get("frozen"):
        # 可变的配置，训练时一改，key 就名不副实
        yield "config must be frozen: class Config(BaseModel, frozen=True)"
    without = [name for name, info in core.config.model_fields.items() if info.is_required()]
    if without:
        yield f"config: {', '.join(without)} has no default; every field needs one"
    else:
        try:
            core.config()
        except ValidationError as error:
            yield f"config: its own defaults are not valid: {error.errors()[0]['msg']}"
    strangers = sorted(set(core.added_later) - set(core.config.model_fields))
    if strangers:
        yield f"added_later: {strangers[0]!r} is no field of config"


def _metrics_mistakes(core: Core) -> Iterator[str]:
    if not isinstance(core.metrics, Mapping) or not core.metrics:
        yield "metrics names what every report has, such as {'validation_error': Metric('%', scale=100)}"
        return
    for name, metric in core.metrics.items():
        if not isinstance(name, str) or not re.fullmatch(METRIC_NAME, name):
            yield f"metrics: {name!r} is no name; use letters, digits, _, . and -"
        if not isinstance(metric, Metric):
            yield f"metrics: {name} is a Metric, not {metric!r}"
    are_names = all(isinstance(name, str) for name in core.metrics)
    if are_names and (mistake := metrics_mistake(tuple(core.metrics), core.chosen_by, core.judged_by)):
        yield mistake


def _function_mistakes(core: Core) -> Iterator[str]:
    for name in ("train", "data", "sizes", "export", "pictures", "draws"):
        value = getattr(core, name)
        if not (callable(value) or (value is None and name != "train")):
            yield f"{name} is a function, not {value!r}"
