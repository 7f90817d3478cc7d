from __future__ import annotations

import numpy as np
import pytest
import torch

from alexnet_core.optimizer import MomentumSGD, weights_and_biases


def named(random: np.random.Generator) -> list[tuple[str, torch.nn.Parameter]]:
    return [
        (name, torch.nn.Parameter(torch.from_numpy(random.normal(size=shape))))
        for name, shape in (("a.0.weight", (3, 4)), ("a.0.bias", (3,)), ("b.0.weight", (2, 3)))
    ]


@pytest.mark.parametrize(("bias_factor", "decays_biases"), [(1.0, True), (2.0, False)])
def test_updates_follow_the_papers_rule_through_drops(bias_factor: float, decays_biases: bool) -> None:
    random = np.random.default_rng(0)
    parameters = named(random)
    weights = {name: parameter.detach().numpy().copy() for name, parameter in parameters}
    velocities = {name: np.zeros_like(weight) for name, weight in weights.items()}
    optimizer = MomentumSGD(weights_and_biases(parameters, 5e-4, bias_factor, decays_biases), 0.9)
    for rate in (0.1, 0.1, 0.01, 0.01, 0.001):
        for name, parameter in parameters:
            gradient = random.normal(size=parameter.shape)
            parameter.grad = torch.from_numpy(gradient)
            is_bias = name.endswith("bias")
            lr = rate * bias_factor if is_bias else rate
            decay = 0.0 if is_bias and not decays_biases else 5e-4
            velocities[name] = 0.9 * velocities[name] - decay * lr * weights[name] - lr * gradient
            weights[name] = weights[name] + velocities[name]
        optimizer.step(rate)
    for name, parameter in parameters:
        np.testing.assert_allclose(parameter.detach().numpy(), weights[name], rtol=1e-12)


def test_torchs_rule_agrees_until_the_rate_drops_and_not_after() -> None:
    ours = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    theirs = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = MomentumSGD(weights_and_biases([("a.weight", ours)], 5e-4, 1.0, True), 0.9)
    reference = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=5e-4)
    for rate, agrees in ((0.1, True), (0.1, True), (0.01, False)):
        reference.param_groups[0]["lr"] = rate
        ours.grad, theirs.grad = torch.full_like(ours, 0.3), torch.full_like(theirs, 0.3)
        optimizer.step(rate)
        reference.step()
        assert torch.allclose(ours, theirs, rtol=1e-12) is agrees


def test_a_rate_of_zero_freezes_even_a_moving_weight() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = MomentumSGD(weights_and_biases([("a.weight", weight)], 0.0, 1.0, True), 0.9)
    weight.grad = torch.ones(2)
    optimizer.step(0.1)
    moved = weight.detach().clone()
    optimizer.step(0.0)
    assert torch.equal(weight, moved)


def test_velocities_travel_by_name() -> None:
    random = np.random.default_rng(1)
    parameters = named(random)
    optimizer = MomentumSGD(weights_and_biases(parameters, 5e-4, 1.0, True), 0.9)
    for _, parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0.1)
    other = MomentumSGD(weights_and_biases(reversed(parameters), 5e-4, 1.0, True), 0.9)
    other.load_velocities(optimizer.velocities())
    assert all(torch.equal(other.velocities()[name], v) for name, v in optimizer.velocities().items())
