"""The update rule, step by step in numpy, through drops, freezing, doubled biases and decays per layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from alexnet_core import MomentumSGD, training_recipe
from alexnet_core.configuration.network_spec import NetworkSpec
from alexnet_core.configuration.schedule import epoch_rates
from alexnet_core.configuration.train_config import RateChange, ReplaySchedule, TrainConfig
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.training.optimizer import parameter_groups, set_rates


def test_updates_follow_the_papers_rule_through_drops() -> None:
    random = np.random.default_rng(0)
    weight = torch.nn.Parameter(torch.from_numpy(random.normal(size=(3, 4))))
    expected, velocity = weight.detach().numpy().copy(), np.zeros((3, 4))
    optimizer = MomentumSGD([weight], lr=0.1, momentum=0.9, weight_decay=5e-4)
    for rate in (0.1, 0.1, 0.01, 0.01, 0.001):
        gradient = random.normal(size=(3, 4))
        weight.grad = torch.from_numpy(gradient)
        velocity = 0.9 * velocity - 5e-4 * rate * expected - rate * gradient
        expected = expected + velocity
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("decays_biases", [True, False])
def test_a_network_is_updated_by_the_rates_and_decays_of_each_layer(
    small_spec: NetworkSpec, config_of: Callable[..., TrainConfig], decays_biases: bool
) -> None:
    """A layer with a rate of its own, frozen later; biases at twice the rate; a layer without decay."""
    layers = [
        layer.model_copy(update={"weight_decay_factor": 0.0}) if layer.name == "conv2" else layer
        for layer in small_spec.layers
    ]
    training = config_of(
        epochs=4,
        weight_decay=0.02,
        learning_rate=0.1,
        bias_learning_rate_factor=2.0,
        decays_biases=decays_biases,
        schedule=ReplaySchedule(
            changes=(
                RateChange(epoch=2, learning_rate=0.01),
                RateChange(epoch=3, layers=("conv1",), learning_rate=0.05),
                RateChange(epoch=4, layers=("conv1",), learning_rate=0.0),
            )
        ),
    ).training
    model = AlexNet(small_spec.model_copy(update={"layers": tuple(layers)}))
    initialise(model, 0)
    model.double()
    optimizer = MomentumSGD(parameter_groups(model, training), momentum=training.momentum)
    values = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    speeds = {name: np.zeros_like(value) for name, value in values.items()}
    random = np.random.default_rng(1)
    weights_rate, conv1_rate = [0.1, 0.01, 0.01, 0.01], [0.1, 0.01, 0.05, 0.0]
    for epoch in range(4):
        set_rates(optimizer, epoch_rates(training, [0.5] * epoch))
        for name, parameter in model.named_parameters():
            gradient = random.normal(size=parameter.shape)
            parameter.grad = torch.from_numpy(gradient)
            is_bias, layer = name.endswith("bias"), name.split(".")[0]
            rate = (conv1_rate if layer == "conv1" else weights_rate)[epoch] * (2 if is_bias else 1)
            decay = 0.0 if layer == "conv2" or (is_bias and not decays_biases) else 0.02
            if rate == 0:
                continue
            speeds[name] = 0.9 * speeds[name] - decay * rate * values[name] - rate * gradient
            values[name] = values[name] + speeds[name]
        optimizer.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), values[name], rtol=1e-11, err_msg=name)


@pytest.mark.slow
def test_torchs_rule_agrees_until_the_rate_drops_and_not_after() -> None:
    ours = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    theirs = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = MomentumSGD([ours], lr=0.1)
    reference = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=5e-4)
    for rate, agrees in ((0.1, True), (0.1, True), (0.01, False)):
        optimizer.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = rate
        ours.grad, theirs.grad = torch.full_like(ours, 0.3), torch.full_like(theirs, 0.3)
        optimizer.step()
        reference.step()
        assert torch.allclose(ours, theirs, rtol=1e-12) is agrees


def test_a_rate_of_zero_freezes_even_a_moving_weight() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = MomentumSGD([weight], lr=0.1, weight_decay=0.0)
    weight.grad = torch.ones(2)
    optimizer.step()
    moved = weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert torch.equal(weight, moved)


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = MomentumSGD([used, unused], lr=0.1)
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    optimizer.zero_grad()
    assert used.grad is None
    with pytest.raises(ValueError, match="no parameters"):
        MomentumSGD([])


def test_velocities_travel_by_name(small_spec: NetworkSpec, config_of: Callable[..., TrainConfig]) -> None:
    model = AlexNet(small_spec)
    initialise(model, 0)
    plain = config_of().training
    optimizer = MomentumSGD(parameter_groups(model, plain))
    for parameter in model.parameters():
        parameter.grad = torch.rand(parameter.shape)
    optimizer.step()
    # 分组不同，速度仍按名字对上
    other = MomentumSGD(parameter_groups(model, plain.model_copy(update={"decays_biases": False})))
    other.load_velocities(optimizer.velocities())
    assert all(torch.equal(other.velocities()[name], v) for name, v in optimizer.velocities().items())


def test_the_recipe_of_2010_replays_the_log_and_ends_with_its_files_biases() -> None:
    training = training_recipe("alexnet-145")
    assert (training.epochs, training.images_per_crop, training.divides_by_colour_noise) == (93, 32, True)
    errors = [0.4] * 93
    seen = {}
    for epoch in (1, 22, 23, 50, 51, 67, 68, 71, 72, 77, 78, 93):
        rates = epoch_rates(training, errors[: epoch - 1])
        seen[epoch] = (
            rates.weights,
            rates.of("conv1", is_bias=False),
            rates.of("conv1", is_bias=True),
            rates.of("fc6", is_bias=True),
            rates.colour_noise,
        )
    assert seen == {
        1: (0.01, 0.01, 0.02, 0.02, 0.1),
        22: (0.01, 0.01, 0.02, 0.02, 0.1),
        23: (1e-3, 1e-3, 2e-3, 2e-3, 0.1),
        50: (1e-3, 1e-3, 2e-3, 2e-3, 0.1),
        51: (1e-4, 1e-4, 2e-3, 2e-3, 0.1),
        67: (1e-4, 1e-4, 2e-3, 2e-3, 0.1),
        68: (1e-4, 1e-5, 2e-3, 2e-3, 0.0),
        71: (1e-4, 1e-5, 2e-3, 2e-3, 0.0),
        72: (1e-4, 0.0, 0.0, 2e-3, 0.0),
        77: (1e-4, 0.0, 0.0, 2e-3, 0.0),
        78: (1e-5, 0.0, 0.0, 2e-3, 0.0),
        93: (1e-5, 0.0, 0.0, 2e-3, 0.0),
    }


def test_the_recipe_of_2012_ends_as_its_file_does() -> None:
    """`layer-params-145.cfg`: epsW 0.00001 and epsB 0.02 everywhere but in conv1, which has 0 and 0."""
    training = training_recipe("alexnet-145-2012")
    rates = {epoch: epoch_rates(training, [0.4] * (epoch - 1)) for epoch in (1, 24, 25, 50, 51, 66, 67, 72, 78, 79, 91)}
    assert training.epochs == 91
    assert [rate.weights for rate in rates.values()] == [0.01] * 2 + [1e-3] * 2 + [1e-4] * 5 + [1e-5] * 2
    assert {rate.biases for rate in rates.values()} == {0.02}
    assert [rate.of("conv1", is_bias=False) for rate in rates.values()][5:] == [1e-4, 1e-5, 0.0, 0.0, 0.0, 0.0]
    assert [rate.of("conv1", is_bias=True) for rate in rates.values()][5:] == [0.02, 0.02, 0.0, 0.0, 0.0, 0.0]
    assert [epoch for epoch, rate in rates.items() if rate.colour_noise == 0.0] == [67, 72, 78, 79, 91]


def test_parameters_are_taken_as_torchs_optimisers_take_them() -> None:
    ours, theirs = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    for parameter, made in (
        (ours, MomentumSGD([{"params": ours}], lr=0.1, weight_decay=0.0)),
        (theirs, torch.optim.SGD([{"params": theirs}], lr=0.1, momentum=0.9)),
    ):
        parameter.sum().backward()
        made.step()
    assert torch.equal(ours, theirs)
    with pytest.raises(TypeError, match="not one tensor"):
        MomentumSGD(ours)
    with pytest.raises(ValueError, match="negative"):
        MomentumSGD([ours], lr=-0.1)
