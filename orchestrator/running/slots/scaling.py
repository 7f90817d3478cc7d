"""The scaling policy of a slot on a Ray of this machine's own: as many workers as planned, and no node is asked for."""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy


class OwnMachinePolicy(FixedScalingPolicy):  # type: ignore[misc]  # ray is untyped here
    """Ray's fixed policy without its requests to an autoscaler, which an actor of its own would have to take."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Asks for nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Asks for nothing."""
