"""What cannot work is said before anything starts, in one line with the exit code of the environment."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from alexnet_core.configuration.named_networks import network
from orchestrator.errors import LabError
from orchestrator.running.cluster.preflight import (
    RESERVE_BYTES,
    check_disk,
    check_results,
    choose_gpus_per_worker,
    disk_need_bytes,
    shared_memory_trouble,
    visible_gpus,
)
from tests.made_records import read_only


def test_the_results_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    results = tmp_path / "new" / "results"
    check_results(results)
    assert list(results.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    for results in (file, file / "below"):
        with pytest.raises(LabError, match="choose another with --results") as caught:
            check_results(results)
        assert caught.value.exit_code == 3
        assert str(results) in str(caught.value)
        assert "\n" not in str(caught.value)
    locked = tmp_path / "locked"
    locked.mkdir()
    with read_only(locked), pytest.raises(LabError, match=r"cannot be written: (Read-only|Permission)"):
        check_results(locked)


def test_a_full_disk_is_found_and_left_as_it_was(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here (not root)")
    try:
        (disk / "filling").write_bytes(b"x" * 65536)
        with pytest.raises(LabError, match="No space left on device") as caught:
            check_results(disk)
        assert caught.value.exit_code == 3
        assert [path.name for path in disk.iterdir()] == ["filling"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_the_disk_must_hold_all_weights_and_the_checkpoints_of_those_running(tmp_path: Path) -> None:
    spec = network("alexnet-paper")
    weights = 60_965_224 * 4  # the paper's parameters, float32
    assert disk_need_bytes(spec, 10, 2) == 10 * weights + 2 * 6 * weights + RESERVE_BYTES
    assert disk_need_bytes(spec, 10, 2, final_copies=2) == 20 * weights + 2 * 6 * weights + RESERVE_BYTES
    free = shutil.disk_usage(tmp_path).free
    check_disk(tmp_path, free // 2)
    with pytest.raises(LabError, match=r"GB free, this study needs about .* GB") as caught:
        check_disk(tmp_path, 10**15)
    assert caught.value.exit_code == 3
    assert str(tmp_path) in str(caught.value)


def test_shared_memory_is_compared_with_the_need() -> None:
    assert shared_memory_trouble(10**15) in ("is too small (it takes 1000000.0 GB)", "is missing")
    if Path("/dev/shm").is_dir():
        assert shared_memory_trouble(0) is None


def test_shared_memory_that_is_missing_or_cannot_be_written_is_no_place_for_the_store(tmp_path: Path) -> None:
    assert shared_memory_trouble(0, tmp_path / "missing") == "is missing"
    folder = tmp_path / "shm"
    folder.mkdir()
    assert shared_memory_trouble(0, folder) is None
    with read_only(folder):
        trouble = shared_memory_trouble(0, folder)
    assert trouble is not None
    assert trouble.startswith("cannot be written (")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("present", "chosen"), [(0, 0), (1, 1), (2, 2), (8, 2)])
def test_a_worker_reserves_two_gpus_where_there_are_two(present: int, chosen: int) -> None:
    assert choose_gpus_per_worker(None, present, "this machine", 2) == chosen
    assert [choose_gpus_per_worker(requested, present, "here", 2) for requested in range(present + 1)] == list(
        range(present + 1)
    )
    with pytest.raises(LabError, match=f"but this machine has {present}; use --gpus-per-worker {chosen} ") as caught:
        choose_gpus_per_worker(present + 1, present, "this machine", 2)
    assert caught.value.exit_code == 3


def test_gpus_are_counted_as_cuda_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    present = visible_gpus()
    assert present == sum(path.name[6:].isdecimal() for path in Path("/dev").glob("nvidia*"))
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert visible_gpus() == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert visible_gpus() == min(present, 1)
