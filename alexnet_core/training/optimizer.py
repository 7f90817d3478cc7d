"""The paper's update rule (section 5), with the learning rate inside the velocity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from alexnet_core.configuration.network_spec import Convolution, FullyConnected, LocallyConnected
from alexnet_core.configuration.schedule import EpochRates
from alexnet_core.configuration.train_config import TrainingSpec
from alexnet_core.model.alexnet import AlexNet


class MomentumSGD:
    """v <- m v - d lr w - lr g; w <- w + v.

    `torch.optim.SGD` agrees while the learning rate is constant; after a drop the paper's velocity keeps its size.
    Parameters and groups are given as to torch's optimisers, and `param_groups[i]["lr"]` may be changed between
    updates. It is none of torch's subclasses, whose first use imports a compiler for seconds.

    Attributes:
        param_groups: One dictionary a group: "params", "lr" (0 freezes), "weight_decay", and what else was given.
        momentum: m above.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
    ) -> None:
        """Starts with zero velocities.

        Args:
            parameters: Parameters, or dictionaries with "params" and, where they differ, "lr" and "weight_decay".
            lr: Learning rate (paper section 5: 0.01).
            momentum: m above (paper section 5: 0.9).
            weight_decay: d above (paper section 5: 0.0005).

        Raises:
            ValueError: There are no parameters, or a rate is negative.
            TypeError: A tensor was given in place of a list of parameters.
        """
        if isinstance(parameters, torch.Tensor):
            raise TypeError("parameters must be a list of tensors or of groups, not one tensor: [tensor]")
        given = list(parameters)
        if not given:
            raise ValueError("there are no parameters to train")
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        defaults = {"lr": lr, "weight_decay": weight_decay}
        self.param_groups: list[dict[str, Any]] = [
            {**defaults, **group, "params": _listed(group["params"])} for group in groups if isinstance(group, dict)
        ]
        for group in self.param_groups:
            if group["lr"] < 0 or group["weight_decay"] < 0 or momentum < 0:
                raise ValueError("lr, weight_decay and momentum must not be negative")
        self.momentum = momentum
        self._velocities = [
            [torch.zeros_like(parameter) for parameter in group["params"]] for group in self.param_groups
        ]

    @torch.no_grad()
    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        for group, velocities in zip(self.param_groups, self._velocities, strict=True):
            rate, decay = group["lr"], group["weight_decay"]
            if rate == 0.0:
                # 学习率为零即冻结：旧速度也不再推动权重
                continue
            moving = [(p, p.grad, v) for p, v in zip(group["params"], velocities, strict=True) if p.grad is not None]
            if not moving:
                continue
            weights: list[torch.Tensor] = [weight for weight, _, _ in moving]
            gradients = [gradient for _, gradient, _ in moving]
            speeds = [velocity for _, _, velocity in moving]
            # 学习率乘在速度之内：降低学习率后，旧速度保持原来的大小（与 torch.optim.SGD 不同）
            torch._foreach_mul_(speeds, self.momentum)
            # 衰减也乘学习率，并经过动量（论文第 5 节的式子）
            if decay:
                torch._foreach_add_(speeds, weights, alpha=-decay * rate)
            torch._foreach_add_(speeds, gradients, alpha=-rate)
            torch._foreach_add_(weights, speeds)

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def velocities(self) -> dict[str, torch.Tensor]:
        """Returns the velocity of each parameter by name, each of the same shape; the groups must have "names"."""
        return {
            name: velocity
            for group, velocities in zip(self.param_groups, self._velocities, strict=True)
            for name, velocity in zip(group["names"], velocities, strict=True)
        }

    @torch.no_grad()
    def load_velocities(self, velocities: Mapping[str, torch.Tensor]) -> None:
        """Copies velocities back by name, each of the same shape as its parameter."""
        for name, velocity in self.velocities().items():
            velocity.copy_(velocities[name])


def _listed(parameters: torch.Tensor | Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """One tensor or several, of any shape, as a list."""
    return [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)


def parameter_groups(model: AlexNet, training: TrainingSpec) -> list[dict[str, Any]]:
    """Groups a network's parameters by device, kind, layer (where the schedule may tell it apart) and decay.

    Args:
        model: The network.
        training: Weight decay, and whether it applies to biases.

    Returns:
        Groups for `MomentumSGD` with "names", "layer" and "is_bias", in the order of the parameters; `set_rates` gives
        them their learning rate.
    """
    apart = {name for change in getattr(training.schedule, "changes", ()) for name in change.layers}
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        layer_name, is_bias = name.split(".")[0], name.endswith(".bias")
        layer = model.spec.layer(layer_name)
        assert isinstance(layer, (Convolution, LocallyConnected, FullyConnected))
        decay = training.weight_decay * layer.weight_decay_factor
        if is_bias and not training.decays_biases:
            decay = 0.0
        layer_apart = layer_name if layer_name in apart else ""
        empty = {"params": [], "names": [], "layer": layer_apart, "is_bias": is_bias, "weight_decay": decay}
        group = groups.setdefault((parameter.device, is_bias, layer_apart, decay), empty)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def set_rates(optimizer: MomentumSGD, rates: EpochRates) -> None:
    """Gives every group of `parameter_groups` its learning rate of an epoch."""
    for group in optimizer.param_groups:
        group["lr"] = rates.of(group["layer"], is_bias=group["is_bias"])
