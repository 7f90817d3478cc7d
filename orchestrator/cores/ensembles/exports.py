"""The exported networks in a folder, and which of them a seed averages. Loads no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ValidationError

from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.configuration.wording import counted
from alexnet_core.trained.model_folder import CARD, SUMS
from orchestrator.cores.contract import ContractError
from orchestrator.cores.ensembles.configuration import EnsembleConfig
from search_spaces.edits import seeded


def exports(root: Path | None) -> list[Path]:
    """Returns the exports in a folder by the seed they were trained with, all of one configuration.

    Raises:
        ContractError: There are none, one cannot be read, or two are of one seed, of different
            configurations or of different splits.
    """
    folders = [] if root is None else sorted(path.parent for path in root.glob(f"*/{SUMS}"))
    if not folders:
        where = "" if root is None else f" in {root}"
        raise ContractError(
            f"there are no exports{where}: --data-root is the folder that best --export DIR --ensemble N has written"
        )
    by_seed: dict[int, Path] = {}
    first: TrainConfig | None = None
    for folder in folders:
        config = _config_of(folder)
        if config.seed in by_seed:
            raise ContractError(f"{by_seed[config.seed]} and {folder} are both of seed {config.seed}: keep one of them")
        by_seed[config.seed] = folder
        first = config if first is None else first
        if seeded(config, 0) != seeded(first, 0):
            raise ContractError(f"{folders[0]} and {folder} are of different configurations: keep those of one")
        # 一个网络留出的图像，另一个拿去训练过：没有图像可以给这个集成作验证
        if config.data.resplit != first.data.resplit:
            raise ContractError(
                f"{folders[0]} and {folder} drew validation images of their own (vary: [split]), so that no image is "
                "left that none of an ensemble was trained on; export networks whose seeds keep the split"
            )
    # 按种子排，不按验证误差：导出时最好的在前，照抄就偏了
    return [by_seed[seed] for seed in sorted(by_seed)]


def _config_of(folder: Path) -> TrainConfig:
    try:
        return TrainConfig.model_validate_json((folder / "config.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise ContractError(f"{folder} is no export: its config.json cannot be read") from error


def group(config: EnsembleConfig, seed: int, root: Path | None) -> list[Path]:
    """Returns the exports that a seed averages.

    Raises:
        ContractError: There are too few.
    """
    every = exports(root)
    first = seed * config.of
    if len(every) < first + config.of:
        raise ContractError(
            f"seed {seed} takes {config.of} networks of its own, {first + config.of} with the seeds before it: "
            f"{root} has {counted(len(every), 'export')}"
        )
    return every[first : first + config.networks]


def digest_of_exports(root: Path | None) -> str:
    """Returns a hash of all exports in a folder; the images are in there, as the data's digest of each."""
    digest = hashlib.sha256()
    for folder in exports(root):
        # 模型卡可以改，数字与它无关
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        digest.update("\n".join(line for line in lines if not line.endswith(f"  {CARD}")).encode())
    return digest.hexdigest()
