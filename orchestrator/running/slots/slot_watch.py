"""Watching the slots: which are up, which die too often, and which nodes bring or take some with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from alexnet_core.configuration.wording import counted
from orchestrator.errors import ExitCode, LabError
from orchestrator.running.cluster.nodes import Node, NodeWatch, alive_nodes, probe, slots_on
from orchestrator.running.slots.broker_clients import DriverClient
from orchestrator.running.slots.deaths import DEATHS, WITHIN_SECONDS, DeathCount, reason
from orchestrator.running.slots.messages import Died, Joined, SlotEvent
from orchestrator.running.slots.slot import SlotPlan, Slots
from orchestrator.running.slots.unknown_event import unknown_event

SLOT_PATIENCE_SECONDS = 120.0


class SlotWatch:
    """What the driver's main thread knows of its slots."""

    def __init__(
        self,
        slots: Slots,
        plan: SlotPlan,
        broker: DriverClient,
        shared_folders: tuple[Path, Sequence[str | None]],
        say: Callable[[str], None],
        stage: Callable[[str], None],
    ) -> None:
        """Starts from the nodes that are there; no slot is up yet.

        Args:
            slots: The slots.
            plan: What each of them reserves.
            broker: Told to take back what a node that has left was training.
            shared_folders: Results and data, which every node must see; None where no data has a folder.
            say: Prints a line.
            stage: Says how far the start has come.
        """
        self._stage = stage
        stage(f"starting {counted(slots.count, 'slot')}")
        self._slots, self._plan, self._broker, self._say = slots, plan, broker, say
        self._shared_folders = shared_folders
        self._up: set[int] = set()
        self._node_of: dict[tuple[int, int], str] = {}
        self._nodes = NodeWatch(alive_nodes())
        self._deaths = DeathCount()
        self._patience_ends = time.monotonic() + SLOT_PATIENCE_SECONDS

    @property
    def count(self) -> int:
        """How many slots there are."""
        return self._slots.count

    def close(self) -> None:
        """Says that a slot which ends now need not be renewed."""
        self._slots.close()

    def hear(self, event: SlotEvent) -> None:
        """Takes what a slot says.

        Raises:
            LabError: With exit code 3 when it died too often, or nobody knows what it says.
        """
        match event.news:
            case Joined(rank, node):
                if event.slot not in self._up:
                    self._up.add(event.slot)
                    self._stage(f"slot {len(self._up)} of {self.count} is up")
                self._node_of[event.slot, rank] = node
            case Died(message):
                self._count_death(event.slot, message)
            case unknown:
                raise unknown_event(unknown)

    def look(self) -> None:
        """Follows the nodes, and says which slots are waited for in vain.

        Raises:
            LabError: With exit code 3 when a new node does not share the files.
        """
        self._name_missing()
        joined, gone = self._nodes.changes()
        for node in gone:
            self._release(node)
        if joined:
            self._welcome(joined)

    def check(self) -> None:
        """Raises a LabError with exit code 3 when a slot could not be kept."""
        if self._slots.failure is not None:
            raise LabError(f"a slot could not be kept: {reason(self._slots.failure)}", exit_code=ExitCode.ENVIRONMENT)

    def _count_death(self, slot: int, message: str) -> None:
        if self._deaths.too_many(slot, time.monotonic()):
            raise LabError(
                f"slot {slot} died {DEATHS} times within {WITHIN_SECONDS / 60:.0f} minutes, last of: "
                f"{message}; finished trials are on record, mend it and run the same command again",
                exit_code=ExitCode.ENVIRONMENT,
            )

    def _release(self, node: Node) -> None:
        """Gives the trials of a node that has left to other slots."""
        slots = {slot for (slot, _), identity in self._node_of.items() if identity == node.identity}
        self._node_of = {place: at for place, at in self._node_of.items() if place[0] not in slots}
        self._up -= slots
        for slot in sorted(slots):
            self._broker.release(slot)
        self._say(f"node {node.address} left; {counted(len(slots), 'slot')} stood on it, the trials go on elsewhere")

    def _welcome(self, joined: Sequence[Node]) -> None:
        """Starts slots on nodes that have joined, once they have proved that they see our files."""
        results, roots = self._shared_folders
        for root in roots:
            probe(results, root, joined)
        plan, before = self._plan, self._slots.count
        if plan.follows:
            self._slots.grow(slots_on(self._nodes.known.values(), plan.gpus_per_worker, plan.workers, plan.threads))
        names = ", ".join(node.address for node in joined)
        self._say(f"node {names} joined; {counted(self._slots.count - before, 'further slot')}")

    def _name_missing(self) -> None:
        if len(self._up) == self._slots.count or time.monotonic() < self._patience_ends:
            return
        import ray

        self._patience_ends = time.monotonic() + 5 * SLOT_PATIENCE_SECONDS
        missing = sorted(set(range(self._slots.count)) - self._up)
        self._say(missing_line(missing, self._plan, ray.available_resources()))


def missing_line(missing: Sequence[int], plan: SlotPlan, free: Mapping[str, float]) -> str:
    """Returns what is said of slots that have not come up for long.

    Args:
        missing: Their numbers.
        plan: What each of them reserves.
        free: The cluster's free resources, by Ray's names.
    """
    names = f"slot{'s' * (len(missing) > 1)} {', '.join(map(str, missing))} {'are' if len(missing) > 1 else 'is'}"
    if not plan.joined:
        # 自己起的 Ray 按槽位声明了资源：没有什么可缺的，只是慢
        return f"{names} still starting: this machine is slow or busy"
    return (
        f"{names} not up yet: each of {counted(plan.workers, 'worker')} needs {plan.gpus_per_worker:g} GPUs and "
        f"{plan.threads} CPUs; free now: {free.get('GPU', 0):g} GPUs, {free.get('CPU', 0):g} CPUs"
    )
