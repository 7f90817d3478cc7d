"""Checkpoints: safetensors files with the training's position and history in their header.

`checkpoint/<attempt>-<epoch>-<batch>.safetensors`, written to a temporary name and renamed. The readers of a
position need no torch, and no file can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from alexnet_core.configuration.frozen import Frozen
from alexnet_core.configuration.metrics import EpochReport
from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.errors import CoreError
from alexnet_core.process.files import reason_of, replaced

if TYPE_CHECKING:
    import torch


PIECE_BYTES = 64 * 1024**2
BEST = "best.safetensors"
_NAME = re.compile(r"^(\d+)-(\d+)-(\d+)\.safetensors$")
_TORN = re.compile(r"^\.(\d+)-\d+-\d+\.safetensors\.")
_LARGEST_HEADER = 100 * 1024**2


class Position(Frozen):
    """Where a training stands.

    Attributes:
        epoch: Finished epochs.
        batch: Finished batches of the next epoch.
        loss_sum: Sums over those batches, see `SplitMetrics`.
        top1_errors: See `SplitMetrics`.
        top5_errors: See `SplitMetrics`.
        count: Images of those batches.
        seconds: Seconds spent in those batches.
        complete: Whether the training has ended; then there are velocities only where more epochs could follow.
        history: The finished epochs.
        run: Digest of the run's configuration, see `run_digest`; empty in checkpoints of earlier versions.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    top1_errors: int = 0
    top5_errors: int = 0
    count: int = 0
    seconds: float = 0.0
    complete: bool = False
    history: tuple[EpochReport, ...] = ()
    run: str = ""


def run_digest(config: TrainConfig) -> str:
    """Returns what tells a run from others, whatever its number of epochs and wherever its data lie."""
    # 默认值不算在内：以后添了新字段，旧检查点照样认得
    text = config.model_dump_json(exclude={"training": {"epochs"}, "data": {"root", "cache"}}, exclude_defaults=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def write_checkpoint(
    folder: Path,
    attempt: int,
    position: Position,
    weights: Mapping[str, torch.Tensor],
    velocities: Mapping[str, torch.Tensor] | None,
    heartbeat: Callable[[], object] = bool,
) -> Path:
    """Writes a checkpoint and returns its path.

    Args:
        folder: The trial's `checkpoint/` folder.
        attempt: Number of the attempt, which makes the name unique.
        position: Where the training stands.
        weights: By parameter name, each of its parameter's shape, such as (48, 3, 11, 11).
        velocities: The same; None in the final checkpoint.
        heartbeat: Called after every 64 MiB, so that a slow disk is not taken for a hanging process.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{attempt:04d}-{position.epoch:06d}-{position.batch:08d}.safetensors"
    tensors = {f"weight/{name}": tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    for name, tensor in (velocities or {}).items():
        tensors[f"velocity/{name}"] = tensor.detach().cpu().contiguous()
    with replaced(path) as temporary:
        _write_in_pieces(temporary, save(tensors, metadata={"position": position.model_dump_json()}), heartbeat)
    return path


def _write_in_pieces(path: Path, content: bytes, heartbeat: Callable[[], object]) -> None:
    with path.open("wb") as file:
        for start in range(0, len(content), PIECE_BYTES):
            if start > 0:
                # 逐段落盘：否则最后一次 fsync 独自要等整个文件
                file.flush()
                os.fsync(file.fileno())
                heartbeat()
            file.write(memoryview(content)[start : start + PIECE_BYTES])


def mark_best(path: Path) -> None:
    """Makes `best.safetensors` beside a checkpoint another name of it, in place of an earlier one."""
    best = path.with_name(BEST)
    # 硬链接不占空间；先链接到临时名再改名，best 从不缺席
    temporary = path.with_name(f".{BEST}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        # 有的文件系统没有硬链接
        shutil.copyfile(path, temporary)
    temporary.replace(best)


def prune_checkpoints(folder: Path, attempt: int, keep: int) -> None:
    """Deletes the checkpoints of this attempt and of older ones but for the newest `keep`, and what older ones tore."""
    written = [path for path in checkpoints(folder) if int(path.name.split("-")[0]) <= attempt]
    torn = [path for path in folder.glob(".*.tmp") if (match := _TORN.match(path.name)) and int(match[1]) < attempt]
    for path in [*written[keep:], *torn]:
        path.unlink(missing_ok=True)


def checkpoints(folder: Path) -> Sequence[Path]:
    """Returns the checkpoints in a folder, the newest (attempt, epoch, batch) first."""
    if not folder.is_dir():
        return ()
    numbered = []
    for path in folder.iterdir():
        match = _NAME.match(path.name)
        if match:
            numbered.append((tuple(int(group) for group in match.groups()), path))
    return [path for _, path in sorted(numbered, reverse=True)]


def latest_checkpoint(folder: Path) -> Path | None:
    """Returns the newest complete checkpoint; a torn or foreign file is passed over."""
    # 被杀时可能留下半个文件：退回上一个完整的，而不是失败
    for path in checkpoints(folder):
        try:
            read_position(path)
        except CoreError:
            continue
        return path
    return None


def read_position(path: Path) -> Position:
    """Reads where a checkpoint stands, checking that the file has its full length.

    Raises:
        CoreError: If the file is missing, torn, or no checkpoint.
    """
    metadata = _header(path).get("__metadata__")
    text = metadata.get("position") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise CoreError(f"{path} is not a checkpoint of a training: its header has no position")
    try:
        return Position.model_validate_json(text)
    except ValidationError as error:
        raise CoreError(f"{path} is damaged: its header's position is none") from error


def read_history(path: Path) -> tuple[EpochReport, ...]:
    """Returns the epochs that were finished when a checkpoint was written."""
    return read_position(path).history


def is_final(path: Path) -> bool:
    """Says whether a checkpoint was written after the last epoch."""
    return read_position(path).complete


def has_velocities(path: Path) -> bool:
    """Says whether training can go on from a checkpoint, even from a final one."""
    return any(name.startswith("velocity/") for name in _header(path))


def reopen(path: Path, folder: Path) -> Path:
    """Copies a final checkpoint into the folder of a training with more epochs, as one to go on from.

    The report of its last epoch loses what is measured after the last epoch only.

    Args:
        path: The final checkpoint, with velocities.
        folder: The longer trial's `checkpoint/` folder.

    Returns:
        The copy.

    Raises:
        CoreError: The checkpoint is missing or damaged, or has no velocities.
    """
    position, header = read_position(path), _header(path)
    if not has_velocities(path):
        raise CoreError(f"{path} has no velocities, so training cannot go on from it")
    last = position.history[-1].model_copy(update={"test": None, "train_final": None})
    reopened = position.model_copy(update={"complete": False, "history": (*position.history[:-1], last)})
    header["__metadata__"]["position"] = reopened.model_dump_json()
    text = json.dumps(header).encode()
    # 张量须按 8 字节对齐，标准允许标头以空格补齐
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"0000-{position.epoch:06d}-{0:08d}.safetensors"
    with replaced(target) as temporary, temporary.open("wb") as copy, path.open("rb") as original:
        copy.write(struct.pack("<Q", len(text)) + text)
        (length,) = struct.unpack("<Q", original.read(8))
        original.seek(8 + length)
        shutil.copyfileobj(original, copy, PIECE_BYTES)
        copy.flush()
    return target


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Returns (weights, velocities) of a checkpoint by parameter name, on the CPU."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    weights = {name.removeprefix("weight/"): t for name, t in tensors.items() if name.startswith("weight/")}
    velocities = {name.removeprefix("velocity/"): t for name, t in tensors.items() if name.startswith("velocity/")}
    return weights, velocities


def _header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: an 8-byte little-endian length, then JSON, then the tensors."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LARGEST_HEADER:
                raise CoreError(f"{path} is damaged: its header claims {length} bytes")
            header: dict[str, Any] = json.loads(file.read(length))
            size = os.fstat(file.fileno()).st_size
    except (OSError, struct.error, ValueError, RecursionError) as error:
        raise CoreError(f"{path} cannot be read as a checkpoint: {reason_of(error)}") from error
    try:
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (AttributeError, TypeError, KeyError, IndexError, ValueError, OverflowError) as error:
        raise CoreError(f"{path} is damaged: its header lists no tensors") from error
    if 8 + length + max(ends, default=0) != size:
        raise CoreError(f"{path} is torn: it has {size} bytes, its header speaks of more or fewer")
    return header
