"""What a dead controller reserved is freed, and nothing of what others reserved."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orchestrator.running.slots.slot import SlotPlan
from orchestrator.running.slots.slot_watch import missing_line
from tests.lab import Lab

RESERVATIONS = """
import json
import ray
from ray.util.placement_group import placement_group, placement_group_table
from orchestrator.running.slots.slot import free_reservations

ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)


@ray.remote(num_cpus=0)
class Controller:
    def reserve(self):
        self.group = placement_group([{"CPU": 1}])
        ray.get(self.group.ready())
        return self.group


tunes = placement_group([{"CPU": 1}])
ray.get(tunes.ready())
controllers = {name: Controller.remote() for name in ("named", "unnamed", "alive")}
groups = {name: ray.get(controller.reserve.remote()) for name, controller in controllers.items()}
groups["tunes"] = tunes


def left():
    return sorted(name for name, group in groups.items() if placement_group_table(group)["state"] == "CREATED")


def killed(name):
    controller = controllers[name]
    ray.kill(controller)
    try:
        ray.get(controller.reserve.remote())
    except ray.exceptions.RayActorError:
        return controller._actor_id.hex()


steps = [left()]
free_reservations(killed("named"))
steps.append(left())
killed("unnamed")
free_reservations(None)
steps.append(left())
print(json.dumps(steps))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_reservations_of_dead_controllers_are_freed_and_never_those_of_tune(lab: Lab) -> None:
    process = lab.start_program(RESERVATIONS)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, output + errors
    before, after_the_named, after_all_dead = json.loads(output.splitlines()[-1])
    assert before == ["alive", "named", "tunes", "unnamed"]
    # 死了的 actor 建的资源组，Ray 自己也会放，只是晚一些
    assert set(after_the_named) - {"unnamed"} == {"alive", "tunes"}
    assert after_all_dead == ["alive", "tunes"]


def test_slots_of_an_own_ray_that_are_late_are_starting_and_those_of_a_cluster_may_lack_something() -> None:
    here = SlotPlan(2, 2, 0.5, "auto")
    assert missing_line([0, 1], here, {"CPU": 1.0}) == "slots 0, 1 are still starting: this machine is slow or busy"
    assert missing_line([1], replace(here, joined=True), {"CPU": 1.0}) == (
        "slot 1 is not up yet: each of 2 workers needs 0.5 GPUs and 1 CPUs; free now: 0 GPUs, 1 CPUs"
    )
