"""The nodes of a cluster: how many workers each holds, whether all share the driver's files, and which come and go."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import ExitCode, LabError

LOOK_EVERY_SECONDS = 5.0
PROBE_SECONDS = 120.0


@dataclass(frozen=True)
class Node:
    """A living node.

    Attributes:
        identity: Ray's node ID.
        address: Its address.
        resources: What it declares: CPU, GPU and others.
    """

    identity: str
    address: str
    resources: Mapping[str, float]


def alive_nodes() -> dict[str, Node]:
    """Returns the living nodes of the cluster that was joined, by their ID."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    return {node["NodeID"]: Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"]) for node in nodes}


def workers_on(resources: Mapping[str, float], gpus_per_worker: float, threads: int) -> int:
    """Returns how many workers a node holds: whole workers on whole GPUs, or so many shares of each GPU.

    Args:
        resources: What the node declares.
        gpus_per_worker: 2, 1 or 0, or a share of one GPU.
        threads: CPUs per worker.
    """
    by_cpu = int(resources.get("CPU", 0) // threads)
    gpus = int(resources.get("GPU", 0))
    return min(by_cpu, workers_by_gpu(gpus, gpus_per_worker)) if gpus_per_worker else by_cpu


def workers_by_gpu(gpus: int, gpus_per_worker: float) -> int:
    """Returns how many workers so many GPUs of one machine hold; a share never spans two GPUs."""
    if gpus_per_worker >= 1:
        return int(gpus // gpus_per_worker)
    # 0.1 的十份在浮点里不足 1
    return gpus * int(1 / gpus_per_worker + 1e-9)


def slots_on(nodes: Iterable[Node], gpus_per_worker: float, workers: int, threads: int) -> int:
    """Counts the slots that nodes hold: the sum over nodes of whole workers, over the workers per slot.

    Two nodes of three GPUs hold two workers of two GPUs, not three.
    """
    return sum(workers_on(node.resources, gpus_per_worker, threads) for node in nodes) // workers


def probe(results: Path, data: str | None, nodes: Iterable[Node]) -> None:
    """Proves that nodes see the driver's files: they can write beside the records, and read the same images.

    Args:
        results: The results folder.
        data: The folder of images, or None where the data set needs none.
        nodes: The nodes that trials may run on.

    Raises:
        LabError: With exit code 3, naming the nodes that do not.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    file = results.resolve() / f".probe-{secrets.token_hex(8)}"
    file.write_text("probe")
    task = ray.remote(num_cpus=0)(unseen)
    expected = names_in(data)
    try:
        answers = {
            node.address: task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.identity, soft=False)
            ).remote(str(file), node.identity, data, expected)
            for node in nodes
        }
        missing = {address: ray.get(answer, timeout=PROBE_SECONDS) for address, answer in answers.items()}
    finally:
        file.unlink(missing_ok=True)
    for what, folder in (("results", results), ("data", data)):
        blind = [address for address, answer in missing.items() if answer == what]
        if blind:
            raise LabError(
                f"these nodes do not share {folder} with the driver: {', '.join(blind)}; "
                "results and data must lie on a file system that all nodes share",
                exit_code=ExitCode.ENVIRONMENT,
            )


def unseen(path: str, node: str, data: str | None, expected: list[str] | None) -> str:
    """Runs on a node; returns what it does not share with the driver: `results`, `data` or nothing."""
    file = Path(path)
    probe = file.with_name(f"{file.name}-{node[:8]}")
    try:
        if not file.is_file():
            return "results"
        probe.write_text("probe")
        probe.unlink()
    except OSError:
        return "results"
    return "" if names_in(data) == expected else "data"


def names_in(folder: str | None) -> list[str] | None:
    """Returns the names in a folder and its folders: splits and classes, no images; None where it cannot be read."""
    if folder is None:
        return None
    try:
        entries = [Path(folder), *(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())]
        return sorted(f"{place.name}/{entry.name}" for place in entries for entry in os.scandir(place))
    except OSError:
        return None


class NodeWatch:
    """Which nodes have joined the cluster and which have left it since the last look."""

    def __init__(self, known: Mapping[str, Node]) -> None:
        """Starts from the nodes that are known already."""
        self.known = dict(known)
        self._next_look = time.monotonic() + LOOK_EVERY_SECONDS

    def changes(self) -> tuple[list[Node], list[Node]]:
        """Returns (joined, gone); looks every five seconds and says nothing in between."""
        if time.monotonic() < self._next_look:
            return [], []
        self._next_look = time.monotonic() + LOOK_EVERY_SECONDS
        now = alive_nodes()
        joined = [node for identity, node in now.items() if identity not in self.known]
        gone = [node for identity, node in self.known.items() if identity not in now]
        self.known = now
        return joined, gone
