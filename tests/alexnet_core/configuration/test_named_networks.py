"""Every named network, and any other, against plain single-device networks; their shapes against the sources."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from alexnet_core import AlexNet, network
from alexnet_core.configuration.named_networks import network_names, training_recipe
from alexnet_core.configuration.network_spec import NetworkSpec, layer_shapes
from alexnet_core.model.alexnet import initialise


def _reference() -> ModuleType:
    path = Path(__file__).parents[1] / "reference.py"
    specification = importlib.util.spec_from_file_location("reference", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["reference"] = module
    specification.loader.exec_module(module)
    return module


reference = _reference()

# 每层参数：论文第 2 图与第 3.5 节；half 是原始的单列网络；cifar 由图数、核与位置数手算
PARAMETERS = {
    "alexnet-paper": [34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000],
    "alexnet-145": [34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000],
    "alexnet-half": [17_472, 153_728, 221_376, 331_968, 442_624, 37_752_832, 16_781_312, 4_097_000],
    "alexnet-mini": [1_216, 2_336, 18_496, 18_496, 18_496, 147_712, 65_792, 2_570],
    "cifar-18pct": [32 * 76, 32 * 801, 64 * 801, 10 * 1025],
    "cifar-mini": [16 * 76, 16 * 401, 32 * 401, 10 * 289],
    "cifar-13pct": [64 * 76, 64 * 1601, 36 * 32 * 577, 36 * 32 * 289, 10 * 1153],
    "cifar-11pct": [64 * 76, 64 * 1601, 36 * 64 * 577, 36 * 32 * 577, 10 * 1153],
}
# 带权重的层的输出边长
SIZES = {
    "alexnet-paper": [55, 27, 13, 13, 13, 0, 0, 0],
    "alexnet-145": [55, 27, 13, 13, 13, 0, 0, 0],
    "alexnet-half": [55, 27, 13, 13, 13, 0, 0, 0],
    "alexnet-mini": [28, 14, 7, 7, 7, 0, 0, 0],
    "cifar-18pct": [32, 16, 8, 0],
    "cifar-mini": [24, 12, 6, 0],
    "cifar-13pct": [24, 12, 6, 6, 0],
    "cifar-11pct": [24, 12, 6, 6, 0],
}
MULTIPLY_ADDS = {
    "alexnet-paper": [
        105_415_200,
        223_948_800,
        149_520_384,
        112_140_288,
        74_760_192,
        37_748_736,
        16_777_216,
        4_096_000,
    ],
    "cifar-13pct": [24**2 * 64 * 75, 12**2 * 64 * 1600, 36 * 32 * 576, 36 * 32 * 288, 11_520],
}


def weighted(name: str, field: str) -> list[int]:
    shapes = layer_shapes(network(name))
    return [getattr(shape, field) for shape in shapes if shape.parameters]


def ready(spec: NetworkSpec, seed: int = 0) -> AlexNet:
    model = AlexNet(spec)
    initialise(model, seed)
    # 初始偏置与极小的标准差会掩盖错误，所以换成一般大小的随机数
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = max(1, parameter[0].numel()) if name.endswith("weight") else 4
            drawn = torch.randn(parameter.shape, generator=random)
            parameter.copy_(drawn / fan_in**0.5)
    return model.double().eval()


def pixels(spec: NetworkSpec, count: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(5)
    shape = (count, spec.channels, spec.input_size, spec.input_size)
    return 60 * torch.randn(shape, dtype=torch.float64, generator=random)


def assert_same(model: AlexNet, expected_of: Any, images: torch.Tensor) -> None:
    """Outputs and all gradients to 1e-9 of their size."""
    copies = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    ours, theirs = model(images), expected_of(copies, images)
    assert_close(ours.detach(), theirs.detach())
    upstream = torch.linspace(-1, 1, ours.numel(), dtype=ours.dtype).reshape(ours.shape)
    ours.backward(upstream)
    theirs.backward(upstream)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert copies[name].grad is not None
        assert_close(parameter.grad, copies[name].grad, name)


def assert_close(ours: torch.Tensor, theirs: torch.Tensor | None, what: str = "output") -> None:
    assert theirs is not None
    largest = float(theirs.abs().max()) if theirs.numel() else 1.0
    assert float((ours - theirs).abs().max()) <= 1e-9 * max(largest, 1e-300), what


@pytest.mark.parametrize("name", network_names())
def test_parameters_and_shapes_are_those_of_the_sources(name: str) -> None:
    assert weighted(name, "parameters") == PARAMETERS[name]
    assert weighted(name, "size") == SIZES[name]
    with torch.device("meta"):
        model = AlexNet(network(name), ("meta", "meta"))
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(PARAMETERS[name])


def test_totals_are_those_of_the_papers() -> None:
    assert sum(PARAMETERS["alexnet-paper"]) == 60_965_224
    assert sum(PARAMETERS["alexnet-half"]) == 59_798_312
    assert sum(MULTIPLY_ADDS["alexnet-paper"]) == 724_406_816
    for name, expected in MULTIPLY_ADDS.items():
        assert weighted(name, "multiply_adds") == expected
    assert weighted("alexnet-145", "multiply_adds") == MULTIPLY_ADDS["alexnet-paper"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "literal"), [("alexnet-paper", "paper"), ("alexnet-145", "as_run")])
def test_alexnet_is_the_literal_network_on_one_device(name: str, literal: str) -> None:
    spec = network(name)
    assert_same(ready(spec), getattr(reference, literal), pixels(spec, 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet-half", "alexnet-mini"])
def test_the_other_alexnets_are_their_specifications_on_one_device(name: str) -> None:
    spec = network(name)
    assert_same(ready(spec), lambda weights, x: reference.of_spec(spec, weights, x), pixels(spec, 2))


@pytest.mark.parametrize("name", ["cifar-18pct", "cifar-mini", "cifar-13pct", "cifar-11pct"])
def test_the_cifar_nets_are_the_literal_networks(name: str) -> None:
    spec = network(name)
    assert_same(ready(spec), lambda weights, x: reference.cifar(weights, x, name), pixels(spec, 3))


def test_a_norm_over_the_whole_layer_reaches_into_the_other_tower() -> None:
    plain = network("alexnet-mini").model_dump()
    for layer in plain["layers"]:
        layer.update({"span": "layer", "alpha": 0.1} if layer["kind"] == "response_norm" else {})
    whole = NetworkSpec.model_validate(plain)
    model = ready(whole)
    assert_same(model, lambda weights, x: reference.of_spec(whole, weights, x), pixels(whole, 2))
    apart = ready(network("alexnet-mini"))
    apart.load_state_dict(model.state_dict())
    assert not torch.allclose(model(pixels(whole, 2)), apart(pixels(whole, 2)))


@pytest.mark.slow
def test_two_devices_one_device_and_double_precision_agree_in_float32() -> None:
    for name in ("alexnet-paper", "alexnet-145"):
        spec = network(name)
        exact = ready(spec)
        images = pixels(spec, 2)
        single, again = ready(spec).float(), AlexNet(spec, ("cpu:0", "cpu")).eval()
        again.load_state_dict(single.state_dict())
        with torch.inference_mode():
            expected = exact(images)
            for model in (single, again):
                logits = model(images.float()).double()
                assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-5


ODD = st.sampled_from([1, 2, 3, 5, 7])


@st.composite
def blocks(draw: st.DrawFn, number: int) -> list[dict[str, Any]]:
    """A layer with weights, and what may follow it."""
    kind = draw(st.sampled_from(["convolution", "convolution", "locally_connected"]))
    kernel = draw(st.integers(1, 4))
    layers: list[dict[str, Any]] = [
        {
            "kind": kind,
            "name": f"w{number}",
            "maps": draw(ODD),
            "kernel": kernel,
            "stride": draw(st.integers(1, 2)),
            "padding": draw(st.integers(0, kernel - 1)),
            "reads": draw(st.sampled_from(["own", "both"])),
            "weight_std": 0.1,
        }
    ]
    if kind == "convolution" and draw(st.booleans()):
        layers[0]["padding_end"] = draw(st.integers(0, 3))
    if draw(st.booleans()):
        layers.append(
            {
                "kind": "response_norm",
                "name": f"n{number}",
                "size": draw(st.integers(1, 9)),
                "alpha": draw(st.sampled_from([0.0, 1e-4, 0.3])),
                "beta": draw(st.sampled_from([0.5, 0.75, 1.0])),
                "k": draw(st.sampled_from([1.0, 2.0])),
                "divide_alpha_by_size": draw(st.booleans()),
                "across": draw(st.sampled_from(["channels", "map"])),
                "span": draw(st.sampled_from(["tower", "layer"])),
            }
        )
    if draw(st.booleans()):
        size = draw(st.integers(1, 3))
        function = draw(st.sampled_from(["max", "average"]))
        stride = draw(st.integers(1, size))
        layers.append({"kind": "pooling", "name": f"p{number}", "size": size, "stride": stride, "function": function})
    layers.append({"kind": "activation", "name": f"a{number}", "function": draw(st.sampled_from(["relu", "tanh"]))})
    return layers


@st.composite
def specs(draw: st.DrawFn) -> NetworkSpec:
    layers = [layer for number in range(draw(st.integers(1, 3))) for layer in draw(blocks(number))]
    for number in range(draw(st.integers(0, 2))):
        reads = draw(st.sampled_from(["own", "both"]))
        layers.append(
            {"kind": "fully_connected", "name": f"f{number}", "units": draw(ODD), "reads": reads, "weight_std": 0.1}
        )
        layers.append({"kind": "dropout", "name": f"d{number}", "rate": draw(st.sampled_from([0.0, 0.5]))})
    layers.append({"kind": "fully_connected", "name": "last", "on_last_device": True, "weight_std": 0.1})
    content = {
        "name": "random",
        "towers": draw(st.sampled_from([1, 2])),
        "input_size": draw(st.integers(5, 12)),
        "channels": draw(st.sampled_from([1, 3])),
        "classes": draw(st.integers(2, 5)),
        "layers": layers,
    }
    try:
        return NetworkSpec.model_validate(content)
    except ValidationError:
        assume(False)
        raise


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(specs(), st.integers(0, 3))
def test_any_network_is_its_specification_on_one_device(spec: NetworkSpec, seed: int) -> None:
    assert_same(ready(spec, seed), lambda weights, x: reference.of_spec(spec, weights, x), pixels(spec, 2) / 60)


# ---- the variants of the claims table -----------------------------------------------------------------------


def edited(spec: NetworkSpec, remove: tuple[str, ...] = (), **fields: dict[str, Any]) -> NetworkSpec:
    content = spec.model_dump()
    content["layers"] = [
        {**layer, **fields.get(layer["name"], {})} for layer in content["layers"] if layer["name"] not in remove
    ]
    return NetworkSpec.model_validate(content)


def test_z2_pooling_has_its_own_paddings() -> None:
    pools = {name: {"size": 2} for name in ("pool1", "pool2", "pool5")}
    spec = edited(network("alexnet-paper"), conv2={"padding": 1}, conv5={"padding": 0}, **pools)
    sizes = {shape.name: shape.size for shape in layer_shapes(spec)}
    assert [sizes[name] for name in ("conv1", "pool1", "conv2", "pool2", "conv5", "pool5")] == [55, 28, 26, 13, 11, 6]


def test_towers_that_do_not_talk_have_fewer_weights() -> None:
    spec = network("alexnet-paper")
    apart = edited(spec, conv3={"reads": "own"})
    assert layer_shapes(apart)[8].parameters == 442_752
    silent = edited(spec, **{name: {"reads": "own"} for name in ("conv3", "fc6", "fc7")})
    model = AlexNet(silent, ("meta", "meta"))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith("0.weight")}
    assert shapes["fc6.0.weight"] == (2048, 4608)
    assert shapes["fc7.0.weight"] == (2048, 2048)
    assert shapes["fc8.0.weight"] == (1000, 4096)


@pytest.mark.parametrize(
    ("removed", "fitted"),
    [
        (("conv3", "relu3"), ("conv4", (192, 128, 3, 3))),
        (("conv4", "relu4"), ("conv5", (128, 192, 3, 3))),
        (("conv5", "relu5"), ("fc6", (2048, 13824))),
        (("fc6", "relu6", "dropout6"), ("fc7", (2048, 9216))),
        (("fc7", "relu7", "dropout7"), ("fc8", (1000, 4096))),
    ],
)
def test_a_removed_layer_has_its_neighbour_fitted(
    removed: tuple[str, ...], fitted: tuple[str, tuple[int, ...]]
) -> None:
    model = AlexNet(edited(network("alexnet-paper"), remove=removed), ("meta", "meta"))
    assert tuple(model.get_parameter(f"{fitted[0]}.0.weight").shape) == fitted[1]


@pytest.mark.parametrize("name", network_names())
def test_every_network_has_the_recipe_of_its_source(name: str) -> None:
    recipe = training_recipe(name)
    assert recipe.epochs > 0
    if name == "cifar-mini":
        assert (recipe.weight_decay, recipe.random_crops, recipe.flips, recipe.schedule.kind) == (
            0,
            False,
            False,
            "steps",
        )
        # 每个权重的起始方差是输入个数的倒数，conv1 的像素再除以 255
        stds = {layer.name: layer.weight_std for layer in network(name).layers if hasattr(layer, "weight_std")}
        expected_stds = {"conv1": 75**-0.5 / 255, "conv2": 400**-0.5, "conv3": 400**-0.5, "fc10": 288**-0.5}
        assert stds == pytest.approx(expected_stds, rel=0.01)
    elif name.startswith("cifar"):
        assert (recipe.learning_rate, recipe.bias_learning_rate_factor, recipe.decays_biases) == (0.001, 2.0, False)
        decays = {layer.name: 0.004 * getattr(layer, "weight_decay_factor", 0) for layer in network(name).layers}
        expected = {"cifar-18pct": (0.004, 1.0), "cifar-13pct": (0.0, 0.004), "cifar-11pct": (0.0, 0.01)}[name]
        assert (decays["conv1"], decays["fc10"]) == pytest.approx(expected)
