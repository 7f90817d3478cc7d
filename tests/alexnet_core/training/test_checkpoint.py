from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alexnet_core.configuration.metrics import EpochReport, SplitMetrics
from alexnet_core.errors import CoreError
from alexnet_core.training import checkpoint
from alexnet_core.training.checkpoint import (
    Position,
    checkpoints,
    is_final,
    latest_checkpoint,
    prune_checkpoints,
    read_history,
    read_position,
    read_tensors,
    write_checkpoint,
)

METRICS = SplitMetrics(loss_sum=0.1 + 0.2, top1_errors=3, top5_errors=1, count=9)
REPORT = EpochReport(
    epoch=1, learning_rate=1 / 3, train=METRICS, validation=METRICS, seconds=0.25, images_per_second=7.5
)
WEIGHTS = {
    "conv1.0.weight": torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last),
    "fc8.0.bias": torch.randn(4),
}


def write(folder: Path, attempt: int = 1, epoch: int = 1, batch: int = 0, *, final: bool = False) -> Path:
    position = Position(epoch=epoch, batch=batch, loss_sum=1e-17 + 1, history=(REPORT,), complete=final)
    velocities = None if final else {name: 2 * weight for name, weight in WEIGHTS.items()}
    return write_checkpoint(folder, attempt, position, WEIGHTS, velocities)


def test_a_checkpoint_gives_back_what_went_in(tmp_path: Path) -> None:
    path = write(tmp_path, batch=4)
    assert path.name == "0001-000001-00000004.safetensors"
    position = read_position(path)
    assert (position.epoch, position.batch, position.loss_sum) == (1, 4, 1e-17 + 1)
    assert read_history(path) == (REPORT,)
    weights, velocities = read_tensors(path)
    assert all(torch.equal(weights[name], weight) for name, weight in WEIGHTS.items())
    assert all(torch.equal(velocities[name], 2 * weight) for name, weight in WEIGHTS.items())
    assert not is_final(path)


def test_writing_a_large_checkpoint_gives_a_sign_of_life_after_every_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(tmp_path / "whole")
    size, sizes = whole.stat().st_size, []
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 1000)

    def heartbeat() -> None:
        (temporary,) = (tmp_path / "pieces").glob(".*.tmp")
        sizes.append(temporary.stat().st_size)

    velocities = {name: 2 * weight for name, weight in WEIGHTS.items()}
    position = read_position(whole)
    path = write_checkpoint(tmp_path / "pieces", 1, position, WEIGHTS, velocities, heartbeat)
    assert sizes == list(range(1000, size, 1000)), "what is flushed grows piece by piece"
    assert path.read_bytes() == whole.read_bytes()


def test_what_an_older_attempt_tore_goes_and_what_this_one_writes_stays(tmp_path: Path) -> None:
    write(tmp_path, attempt=2)
    torn, growing = ".0001-000001-00000000.safetensors.ab.1@x.tmp", ".0002-000002-00000000.safetensors.ab.1@x.tmp"
    for name in (torn, growing):
        (tmp_path / name).write_bytes(b"half")
    prune_checkpoints(tmp_path, 2, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [growing, "0002-000001-00000000.safetensors"]


def test_the_final_checkpoint_has_no_velocities(tmp_path: Path) -> None:
    path = write(tmp_path, final=True)
    assert is_final(path)
    assert read_tensors(path)[1] == {}


def test_the_newest_is_by_attempt_then_epoch_then_batch(tmp_path: Path) -> None:
    for place in ((1, 9, 9), (2, 1, 5), (2, 2, 0), (2, 1, 30)):
        write(tmp_path, *place)
    names = [path.name[:18] for path in checkpoints(tmp_path)]
    assert names == ["0002-000002-000000", "0002-000001-000000", "0002-000001-000000", "0001-000009-000000"]
    assert latest_checkpoint(tmp_path) == checkpoints(tmp_path)[0]


@pytest.mark.parametrize("keep", [0, 3, 8, 40, -1])
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, keep: int) -> None:
    good = write(tmp_path, epoch=1)
    torn = write(tmp_path, epoch=2)
    torn.write_bytes(torn.read_bytes()[:keep])
    assert latest_checkpoint(tmp_path) == good
    with pytest.raises(CoreError, match=torn.name):
        read_position(torn)


def test_foreign_and_temporary_files_are_passed_over(tmp_path: Path) -> None:
    good = write(tmp_path)
    (tmp_path / ".0009-000009-00000000.safetensors.1.tmp").write_bytes(good.read_bytes())
    (tmp_path / "0009-000009-00000009.safetensors").write_text("not safetensors at all, but long enough")
    (tmp_path / "notes.txt").write_text("hello")
    assert latest_checkpoint(tmp_path) == good
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_nothing_half_written_stays_behind(tmp_path: Path) -> None:
    write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["0001-000001-00000000.safetensors"]


def test_reading_a_position_needs_no_torch(tmp_path: Path) -> None:
    path = write(tmp_path)
    code = (
        "import sys; from pathlib import Path; from alexnet_core.training.checkpoint import *;"
        f"p = latest_checkpoint(Path({str(tmp_path)!r}));"
        "print(len(read_history(p)), is_final(p), 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["1", "False", "False"]
    assert path.is_file()
