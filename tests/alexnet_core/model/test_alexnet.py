from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet_core.configuration.named_networks import network
from alexnet_core.configuration.network_spec import FullyConnected, NetworkSpec, layer_shapes
from alexnet_core.errors import CoreError
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.model.draws import draw_key, keep_mask


def single_device(
    weights: dict[str, torch.Tensor], images: torch.Tensor, masks: dict[str, torch.Tensor] | None
) -> torch.Tensor:
    """The small network on one device: grouped convolutions, block-diagonal where a tower reads its own."""

    def joined(layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        towers = [name for name in ("0", "1") if f"{layer}.{name}.weight" in weights]
        kinds = ([weights[f"{layer}.{tower}.{kind}"] for tower in towers] for kind in ("weight", "bias"))
        weight, bias = (torch.cat(parts) for parts in kinds)
        return weight, bias

    def dropped(x: torch.Tensor, layer: str) -> torch.Tensor:
        return x * 0.5 if masks is None else x * masks[layer]

    x = F.pad(images, (0, 2, 0, 2))
    x = F.relu(F.conv2d(x, *joined("conv1")))
    # each tower normalises its own four maps
    x = torch.cat([F.local_response_norm(half, 5, 1e-3 * 5, 0.75, 2.0) for half in x.split(4, dim=1)], dim=1)
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    x = F.relu(F.conv2d(x, *joined("conv2"), padding=1, groups=2))
    x = F.relu(F.conv2d(x, *joined("conv3"), padding=1))
    x = F.max_pool2d(x, 3, 2, ceil_mode=True).flatten(1)
    x = dropped(F.relu(F.linear(x, *joined("fc6"))), "dropout6")
    x = dropped(F.relu(F.linear(x, *joined("fc7"))), "dropout7")
    return F.linear(x, *joined("fc8"))


@pytest.fixture
def model(small_spec: NetworkSpec) -> AlexNet:
    made = AlexNet(small_spec)
    initialise(made, 3)
    return made.double()


IMAGES = 50 * torch.randn(7, 3, 10, 10, dtype=torch.float64)


def test_two_towers_compute_the_grouped_network_of_one_device(model: AlexNet) -> None:
    model.eval()
    expected = single_device(dict(model.named_parameters()), IMAGES, None)
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-11, atol=1e-11)


def test_two_towers_have_the_gradients_of_the_grouped_network(model: AlexNet) -> None:
    labels = torch.arange(7) % 6
    masks = {
        layer: torch.cat(
            [
                keep_mask(draw_key("dropout", 5, 9, layer, tower), 2, torch.Size((7, 8)), 0.5, IMAGES.device)
                for tower in (0, 1)
            ],
            dim=1,
        )
        for layer in ("dropout6", "dropout7")
    }
    model.train()
    F.cross_entropy(model(IMAGES, (5, 9, 2)), labels).backward()
    copies = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    F.cross_entropy(single_device(copies, IMAGES, masks), labels).backward()
    for name, parameter in model.named_parameters():
        assert copies[name].grad is not None
        torch.testing.assert_close(parameter.grad, copies[name].grad, rtol=1e-9, atol=1e-12, msg=name)


def test_memory_format_changes_no_number(model: AlexNet) -> None:
    model.eval()
    last = IMAGES.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(last), model(IMAGES), rtol=1e-11, atol=1e-11)


def test_features_are_what_the_last_layer_reads(model: AlexNet) -> None:
    model.eval()
    parameters = dict(model.named_parameters())
    features = model.features(IMAGES)
    assert features.shape == (7, 16)
    logits = F.linear(features, parameters["fc8.0.weight"], parameters["fc8.0.bias"])
    torch.testing.assert_close(logits, model(IMAGES))


def test_training_without_draws_is_refused(model: AlexNet) -> None:
    model.train()
    with pytest.raises(ValueError, match="dropout6 needs the draws"):
        model(IMAGES)


def test_a_tower_without_a_device_is_refused(small_spec: NetworkSpec) -> None:
    with pytest.raises(ValueError, match="2 towers"):
        AlexNet(small_spec, ("cpu",))


def test_the_papers_network_has_the_papers_parameters() -> None:
    spec = network("alexnet-paper")
    shapes = {shape.name: shape for shape in layer_shapes(spec)}
    parameters = {name: shape.parameters for name, shape in shapes.items() if shape.parameters}
    assert parameters == {
        "conv1": 34_944,
        "conv2": 307_456,
        "conv3": 885_120,
        "conv4": 663_936,
        "conv5": 442_624,
        "fc6": 37_752_832,
        "fc7": 16_781_312,
        "fc8": 4_097_000,
    }
    assert sum(parameters.values()) == 60_965_224
    assert sum(shape.multiply_adds for shape in shapes.values()) == 724_406_816
    sizes = [shapes[name].size for name in ("conv1", "pool1", "conv2", "pool2", "conv3", "conv5", "pool5")]
    assert sizes == [55, 27, 27, 13, 13, 13, 6]


@pytest.mark.slow
def test_the_papers_network_is_built_as_specified() -> None:
    with torch.device("meta"):
        model = AlexNet(network("alexnet-paper"), ("meta", "meta"))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes["conv1.0.weight"] == (48, 3, 11, 11)
    assert shapes["conv2.1.weight"] == (128, 48, 5, 5)
    assert shapes["conv3.0.weight"] == (192, 256, 3, 3)
    assert shapes["conv5.1.weight"] == (128, 192, 3, 3)
    assert shapes["fc6.0.weight"] == (2048, 9216)
    assert shapes["fc8.0.weight"] == (1000, 4096)
    assert sum(parameter.numel() for parameter in model.parameters()) == 60_965_224
    assert model(torch.empty(2, 3, 224, 224, device="meta"), (0, 0, 0)).shape == (2, 1000)


def test_initial_weights_have_their_deviation_and_biases_their_constant() -> None:
    model = AlexNet(network("alexnet-mini"))
    initialise(model, 0)
    weight = model.get_parameter("fc7.1.weight").detach()
    layer = model.spec.layer("fc7")
    assert isinstance(layer, FullyConnected)
    std = layer.weight_std
    assert float(weight.std()) == pytest.approx(std, rel=0.03)
    assert abs(float(weight.mean())) < 4 * std / weight.numel() ** 0.5
    assert set(model.get_parameter("conv2.0.bias").tolist()) == {1.0}
    assert set(model.get_parameter("conv1.0.bias").tolist()) == {0.0}


def test_removing_a_layer_moves_no_other_initial_weight(small_spec: NetworkSpec) -> None:
    without = small_spec.model_dump()
    without["layers"] = [layer for layer in without["layers"] if layer["name"] not in ("lrn1", "conv2", "relu2")]
    for layer in without["layers"]:
        if layer["name"] == "conv3":
            layer["weight_std"] = 0.2
    changed = AlexNet(NetworkSpec.model_validate(without))
    original = AlexNet(small_spec)
    initialise(changed, 1)
    initialise(original, 1)
    for layer in ("conv1.0", "conv1.1", "fc6.0", "fc7.1", "fc8.0"):
        name = f"{layer}.weight"
        assert np.array_equal(
            changed.get_parameter(name).detach().numpy(), original.get_parameter(name).detach().numpy()
        )


def test_towers_and_seeds_start_differently(small_spec: NetworkSpec) -> None:
    first, second = AlexNet(small_spec), AlexNet(small_spec)
    initialise(first, 0)
    initialise(second, 1)
    assert not torch.equal(first.get_parameter("conv1.0.weight"), first.get_parameter("conv1.1.weight"))
    assert not torch.equal(first.get_parameter("conv1.0.weight"), second.get_parameter("conv1.0.weight"))


def test_a_layer_may_not_take_a_name_that_the_network_needs(small_spec: NetworkSpec) -> None:
    plain = small_spec.model_dump()
    for name in ("features", "devices", "forward", "training"):
        plain["layers"][0]["name"] = name
        with pytest.raises(CoreError, match=f"cannot be called {name}"):
            AlexNet(NetworkSpec.model_validate(plain))
