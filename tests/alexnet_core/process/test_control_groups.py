"""A container's cores come from its control groups, of either version, and images are decoded and hashed on those."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from alexnet_core.data import manifest
from alexnet_core.data.image_tree import read_tree
from alexnet_core.data.loading import load_evaluation_set
from alexnet_core.data.preparing import preparation
from alexnet_core.process import control_groups
from alexnet_core.process.control_groups import cpu_cores
from tests.alexnet_core.data.pictures import spec_of, tree
from tests.fake_groups import MOUNT_V1, MOUNT_V2, process, write

HERE = len(os.sched_getaffinity(0))


def version_2(folder: Path, cores: float) -> Path:
    """A process in a group of version 2, whose outer group has a quota."""
    mount = folder / "cgroup"
    write(mount / "pod", cpu__max=f"{round(cores * 100_000)} 100000")
    write(mount / "pod" / "inner", cpu__max="max 100000")
    return process(folder, MOUNT_V2.format(root="/", mount=mount), "0::/pod/inner\n")


def version_1(folder: Path, cores: float) -> Path:
    """A process in a group of version 1, whose outermost group has no limit."""
    mount = folder / "cpu"
    write(mount / "job", cpu__cfs_quota_us=f"{round(cores * 100_000)}", cpu__cfs_period_us="100000")
    write(mount, cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    mounts = MOUNT_V1.format(root="/", mount=mount, controller="cpu,cpuacct")
    return process(folder, mounts, "4:memory:/job\n1:cpu,cpuacct:/job\n0::/\n")


@pytest.mark.parametrize("version", [version_1, version_2])
@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1, 1), (1.5, 1), (2, min(2, HERE)), (10_000, HERE)])
def test_the_narrowest_group_counts_in_whole_cores(tmp_path: Path, version: Any, quota: float, cores: int) -> None:
    assert cpu_cores(version(tmp_path, quota)) == cores


@pytest.mark.parametrize("path", ["/docker/abc", "/docker/abc/below", "/elsewhere"])
def test_a_container_that_sees_only_its_part_of_the_tree_is_limited_by_it(tmp_path: Path, path: str) -> None:
    write(tmp_path / "cgroup", cpu__max="100000 100000")
    mounts = MOUNT_V2.format(root="/docker/abc", mount=tmp_path / "cgroup")
    assert cpu_cores(process(tmp_path, mounts, f"0::{path}\n")) == 1


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert cpu_cores(tmp_path) == HERE


@pytest.mark.parametrize("version", [version_1, version_2])
def test_images_are_hashed_and_decoded_on_as_many_threads_as_the_container_has_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: Any
) -> None:
    monkeypatch.setattr(control_groups, "PROCESS", version(tmp_path, 1))
    root = tree(tmp_path / "data", ("train", "val"), count=30)
    seen: dict[str, set[str]] = {}

    def watch(module: Any, name: str) -> None:
        function = getattr(module, name)

        def watched(*arguments: Any) -> Any:
            seen.setdefault(name, set()).add(threading.current_thread().name)
            return function(*arguments)

        monkeypatch.setattr(module, name, watched)

    watch(manifest, "file_stamp")
    watch(preparation, "decode_and_look")
    spec = spec_of(root)
    preparation.prepare(preparation.tree_source(read_tree(root)), tmp_path / "made", 16)
    assert {name: len(threads) for name, threads in seen.items()} == {"file_stamp": 1, "decode_and_look": 1}
    seen.clear()
    load_evaluation_set(spec)
    assert len(seen["decode_and_look"]) == 1
