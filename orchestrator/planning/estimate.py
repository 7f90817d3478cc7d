"""What trials will cost: their epochs, times the measured seconds of an epoch of the same network, on so many slots."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from alexnet_core.configuration.train_config import TrainConfig
from orchestrator.planning.on_record import Begun
from orchestrator.planning.work_left import Training, WorkLeft
from orchestrator.tables.rows import TRIAL_COLUMNS, network_key
from orchestrator.tables.tables import read_table, rows_from_records
from search_spaces.core_config import ALEXNET, CoreConfig, TrialConfig
from search_spaces.trial import configuration_key

COLUMNS = (
    "key",
    "core",
    "state",
    "data_digest",
    "data.train_images",
    "network_key",
    "network.name",
    "epochs",
    "seconds",
    "env_device_name",
)
RECORDS_READ = 200
Likeness = tuple[str | int | None, ...]


@dataclass(frozen=True)
class Place:
    """Where trials will train.

    Attributes:
        slots: Trials at once.
        gpus: GPUs that each slot reserves, over its workers; 0 on the CPU.
        towers_apart: Whether each worker has a GPU per tower.
    """

    slots: int
    gpus: float
    towers_apart: bool

    @property
    def unit(self) -> str:
        """What is counted: hours of GPUs that are reserved, or of CPU slots that train."""
        return "GPU-hours" if self.gpus else "slot-hours on the CPU"

    def hours(self, slot_seconds: float) -> float:
        """Returns GPU-hours of slots that train for so many seconds, summed; on the CPU a slot counts as one GPU."""
        return slot_seconds * (self.gpus or 1) / 3600


@dataclass
class EpochSeconds:
    """Measured seconds of an epoch, evaluation included, of each network on each data.

    Attributes:
        measured: (sum of seconds per epoch, records) of a network, and of all networks of one name, on the same data.
    """

    measured: dict[Likeness, tuple[float, int]] = field(default_factory=dict)

    def add(self, likenesses: Sequence[Likeness], seconds: float) -> None:
        """Adds a record's seconds per epoch."""
        for likeness in likenesses:
            total, count = self.measured.get(likeness, (0.0, 0))
            self.measured[likeness] = (total + seconds, count + 1)

    def of(self, config: TrialConfig) -> tuple[float, int] | None:
        """Returns the mean seconds of an epoch, and from how many records; None where nothing alike was measured.

        A network that was never measured is taken as one of the same name (the baseline's, without an arm's edits).
        """
        for likeness in likenesses_of(config):
            if likeness in self.measured:
                total, count = self.measured[likeness]
                return total / count, count
        return None


def likenesses_of(config: TrialConfig) -> tuple[Likeness, Likeness]:
    """Returns what makes epochs alike: the same network, else one of the same name, on the same training images.

    Of another core than AlexNet whole trials are: of the same configuration, else of the same core, on the same data.
    """
    if isinstance(config, CoreConfig):
        on = (config.data.digest, None)
        return (*on, configuration_key(config)), (*on, "name", config.core.name)
    data = (config.data.digest, config.data.train_images)
    return (*data, network_key(config.network)), (*data, "name", config.network.name)


def measured_epochs(results: Path, on_gpu: bool, done: Collection[str] = ()) -> EpochSeconds:
    """Reads what epochs took, from the tables of the finished trials.

    Args:
        results: The results folder.
        on_gpu: Whether trials on GPUs count, or those on the CPU.
        done: Keys of trials on record whose records are read where no table has them: the last command was stopped.
    """
    measured = EpochSeconds()
    table = read_table(results, "trials", TRIAL_COLUMNS, COLUMNS)
    tabled = set() if table is None else set(table["key"])
    # 上次命令被打断，还没来得及写表；平均值用不着成千上万条
    untabled = sorted(set(done) - tabled)[:RECORDS_READ]
    frames = [] if table is None else [table]
    frames += [rows_from_records(results, untabled).trials.select(COLUMNS)] if untabled else []
    if not frames:
        return measured
    trials = pl.concat(frames, how="vertical_relaxed")
    device = pl.col("env_device_name")
    alike = device.is_null() | ((device != "cpu") == on_gpu)
    for row in trials.filter(alike & (pl.col("state") == "finished") & (pl.col("epochs") > 0)).iter_rows(named=True):
        images = row["data.train_images"]
        data = (row["data_digest"], None if images is None else int(images))
        names = ((*data, row["network_key"]), (*data, "name", row["network.name"]))
        parts = row["epochs"] if row["core"] == ALEXNET.name else 1
        measured.add(names, row["seconds"] / parts)
    return measured


def add_begun(measured: EpochSeconds, work: WorkLeft, begun: Mapping[str, Begun]) -> None:
    """Adds what trials have measured that were stopped in the middle; no table has them.

    Args:
        measured: Where it is added.
        work: What is left, those trials with it.
        begun: How far they had come, by key.
    """
    for phase in work.phases.values():
        for key in phase.known.keys() & begun.keys():
            config = phase.known[key].config
            if not isinstance(config, CoreConfig):
                measured.add(likenesses_of(config), begun[key].seconds / begun[key].epochs)


@dataclass(frozen=True)
class Estimate:
    """What trials will cost.

    Attributes:
        trials: How many.
        epochs: Of all of them; 0 where no length is known before (another core than AlexNet).
        unknown: Trials of which no epoch was measured; the seconds leave them out.
        records: The fewest records that the seconds of one of the others rest on.
        slot_seconds: Summed over trials.
        wall_seconds: On the slots, in the order given.
        one_tower: Trials that leave one of their slot's two GPUs idle.
        idle_seconds: Summed slot-seconds of those.
        place: Where.
    """

    trials: int
    epochs: int
    unknown: int
    records: int
    slot_seconds: float
    wall_seconds: float
    one_tower: int
    idle_seconds: float
    place: Place


Price = Callable[[Sequence[Training]], Estimate]


def estimate(trainings: Sequence[Training], measured: EpochSeconds, place: Place) -> Estimate:
    """Prices what is to be trained; what is evaluated only costs nothing.

    Args:
        trainings: In the order in which they start.
        measured: From `measured_epochs`.
        place: Where they train.
    """
    trained = [training for training in trainings if training.epochs]
    seconds: list[float] = []
    records: list[int] = []
    one_tower, idle = 0, 0.0
    for training in trained:
        epoch = measured.of(training.config)
        if epoch is not None:
            seconds.append(epoch[0] * training.epochs)
            records.append(epoch[1])
        if place.towers_apart and isinstance(training.config, TrainConfig) and training.config.network.towers == 1:
            one_tower += 1
            idle += 0.0 if epoch is None else seconds[-1]
    return Estimate(
        trials=len(trained),
        epochs=sum(training.epochs for training in trained if isinstance(training.config, TrainConfig)),
        unknown=len(trained) - len(seconds),
        records=min(records, default=0),
        slot_seconds=sum(seconds),
        wall_seconds=ends_after((), seconds, place.slots),
        one_tower=one_tower,
        idle_seconds=idle,
        place=place,
    )


def ends_after(running: Sequence[float], waiting: Sequence[float], slots: int) -> float:
    """Returns when the last trial ends on slots that take the next one as they get free.

    Args:
        running: Seconds left of the trials that train.
        waiting: Seconds of those that follow, in their order.
        slots: Trials at once.
    """
    ends = [0.0] * max(1, slots)
    heapq.heapify(ends)
    for seconds in (*running, *waiting):
        heapq.heappush(ends, heapq.heappop(ends) + seconds)
    return max(ends)
