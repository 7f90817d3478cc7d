"""The paper's update rule (section 5), with the learning rate inside the velocity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a rate and a decay.

    Attributes:
        names: Names of the parameters, in order.
        parameters: The parameters.
        learning_rate_factor: Multiplies the learning rate (as run: 2 for biases).
        weight_decay: Decay (paper: 0.0005; as run: none for biases).
    """

    names: tuple[str, ...]
    parameters: tuple[torch.nn.Parameter, ...]
    learning_rate_factor: float
    weight_decay: float


class MomentumSGD:
    """v <- m v - d lr w - lr g; w <- w + v.

    `torch.optim.SGD` agrees while the learning rate is constant; after a drop the paper's velocity keeps its
    size.
    """

    def __init__(self, groups: Iterable[ParameterGroup], momentum: float) -> None:
        """Starts with zero velocities.

        Args:
            groups: The parameters.
            momentum: m above (paper: 0.9).
        """
        self.groups = tuple(groups)
        self.momentum = momentum
        self._velocities = [[torch.zeros_like(parameter) for parameter in group.parameters] for group in self.groups]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Updates every parameter from its gradient.

        Args:
            learning_rate: Of this update, before the groups' factors; 0 freezes.
        """
        for group, velocities in zip(self.groups, self._velocities, strict=True):
            parameters: list[torch.Tensor] = list(group.parameters)
            rate = learning_rate * group.learning_rate_factor
            if rate == 0.0:
                # 学习率为零即冻结：旧速度也不再推动权重
                continue
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            torch._foreach_mul_(velocities, self.momentum)
            if group.weight_decay:
                torch._foreach_add_(velocities, parameters, alpha=-group.weight_decay * rate)
            torch._foreach_add_(velocities, gradients, alpha=-rate)
            torch._foreach_add_(parameters, velocities)

    def velocities(self) -> dict[str, torch.Tensor]:
        """Returns the velocity of each parameter by the parameter's name."""
        return {
            name: velocity
            for group, velocities in zip(self.groups, self._velocities, strict=True)
            for name, velocity in zip(group.names, velocities, strict=True)
        }

    @torch.no_grad()
    def load_velocities(self, velocities: Mapping[str, torch.Tensor]) -> None:
        """Copies velocities back, by the parameter's name."""
        for name, velocity in self.velocities().items():
            velocity.copy_(velocities[name])


def weights_and_biases(
    named: Iterable[tuple[str, torch.nn.Parameter]],
    weight_decay: float,
    bias_learning_rate_factor: float,
    decays_biases: bool,
) -> tuple[ParameterGroup, ...]:
    """Splits parameters into weights and biases, per device.

    Args:
        named: Names and parameters.
        weight_decay: Of the weights.
        bias_learning_rate_factor: Rate of the biases over that of the weights.
        decays_biases: Whether the decay applies to the biases.
    """
    split: dict[tuple[torch.device, bool], list[tuple[str, torch.nn.Parameter]]] = {}
    for name, parameter in named:
        split.setdefault((parameter.device, name.endswith(".bias")), []).append((name, parameter))
    return tuple(
        ParameterGroup(
            names=tuple(name for name, _ in members),
            parameters=tuple(parameter for _, parameter in members),
            learning_rate_factor=bias_learning_rate_factor if is_bias else 1.0,
            weight_decay=weight_decay if decays_biases or not is_bias else 0.0,
        )
        for (_, is_bias), members in split.items()
    )
