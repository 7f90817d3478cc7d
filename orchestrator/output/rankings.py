"""What `best` answers a program: the ranking, and what is stored of the trials."""

from __future__ import annotations

from pathlib import Path

from alexnet_core.configuration.frozen import Frozen
from orchestrator.output.document import Document, Measure


class RankedConfiguration(Frozen):
    """A configuration, whatever its seed.

    Attributes:
        core: What was trained.
        core_version: Its version; other cores and versions are not compared.
        dataset: The data set.
        data_digest: Of its content; errors on different data are not compared.
        rank: Its place of this core on this data, from 1 on.
        configuration: Its name: 20 hex digits.
        arms: Which arms of which studies it is, `<study>/<arm>`.
        seeds: Finished seeds.
        few_seeds: Whether they are so few that the mean may be luck.
        confirmed: Whether fresh seeds have confirmed it.
        chosen: Whether all its trials are such as chose it, so that its error flatters it.
        chosen_by: The metric that ranks.
        judged_by: The same on the test set; its mean is None where there is none.
    """

    core: str
    core_version: int
    dataset: str
    data_digest: str
    rank: int
    configuration: str
    arms: tuple[str, ...]
    seeds: int
    few_seeds: bool
    confirmed: bool
    chosen: bool
    chosen_by: Measure
    judged_by: Measure


class Exported(Frozen):
    """An export.

    Attributes:
        key: The trial: the best configuration's seed of median error, or one of an ensemble.
        folder: Where it lies.
    """

    key: str
    folder: Path


class RankingDocument(Document):
    """What `best` answers with `--json`.

    Attributes:
        configurations: The first of each data set, the best first.
        exported: What `--export` has written; None without it.
        ensemble: What `--export --ensemble` has written instead, the best seed first.
    """

    configurations: tuple[RankedConfiguration, ...]
    exported: Exported | None = None
    ensemble: tuple[Exported, ...] = ()


class StoredKind(Frozen):
    """Files of one kind in the checkpoint folders.

    Attributes:
        kind: What they are, in words.
        files: How many.
        bytes: Of all of them.
        goes: Whether `--prune --yes` deletes them.
    """

    kind: str
    files: int
    bytes: int
    goes: bool


class StorageDocument(Document):
    """What `best --prune` answers with `--json`.

    Attributes:
        stored: What is stored.
        deleted_files: How many files are gone: none without `--yes`.
        freed_bytes: Of those.
    """

    stored: tuple[StoredKind, ...]
    deleted_files: int = 0
    freed_bytes: int = 0
