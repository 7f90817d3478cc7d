"""What an edit does to the sizes of maps, compared with a forward pass of the networks themselves."""

from __future__ import annotations

import math

import pytest
import torch

from alexnet_core.configuration.geometry import geometry_change
from alexnet_core.configuration.named_networks import network
from alexnet_core.configuration.network_spec import NetworkSpec
from alexnet_core.model.alexnet import AlexNet

MINI = network("alexnet-mini").model_copy(update={"input_size": 16, "classes": 10})


def edited(**fields: int) -> NetworkSpec:
    layers = [layer.model_copy(update=fields) if layer.name == "conv2" else layer for layer in MINI.layers]
    return NetworkSpec.model_validate({**MINI.model_dump(), "layers": [layer.model_dump() for layer in layers]})


def parameters(spec: NetworkSpec) -> int:
    return sum(parameter.numel() for parameter in AlexNet(spec).parameters())


def size_of_conv2(spec: NetworkSpec) -> int:
    """Pixels along a side of what conv2 gives in a forward pass."""
    # 截到 conv2 为止：末层读到的就是它的输出
    place = [layer.name for layer in spec.layers].index("conv2")
    layers = [layer.model_dump() for layer in (*spec.layers[: place + 1], spec.layers[-1])]
    short = NetworkSpec.model_validate({**spec.model_dump(), "layers": layers})
    maps = AlexNet(short).eval().features(torch.zeros(1, 3, 16, 16))
    return math.isqrt(maps.shape[1] // (spec.towers * spec.layer("conv2").maps))


def test_a_kernel_that_shrinks_the_maps_is_said_with_its_parameters_and_the_padding_that_keeps_them() -> None:
    five = edited(kernel=5)
    share = 100 * (parameters(five) / parameters(MINI) - 1)
    assert geometry_change(five, MINI) == (
        f"conv2's output shrinks by 2 pixels ({size_of_conv2(MINI)} to {size_of_conv2(five)}), "
        f"{parameters(five):,} parameters ({share:+.0f} %); padding 2 would keep it"
    )
    assert parameters(five) == 148_138
    kept = edited(kernel=5, padding=2)
    assert geometry_change(kept, MINI) == ""
    assert size_of_conv2(kept) == size_of_conv2(MINI)
    assert AlexNet(kept).eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


def test_a_kernel_that_grows_the_maps_by_one_pixel_is_said_in_the_singular() -> None:
    two = edited(kernel=2)
    assert size_of_conv2(two) == size_of_conv2(MINI) + 1
    share = 100 * (parameters(two) / parameters(MINI) - 1)
    # 偶数的核没有哪种填充留得住大小
    assert geometry_change(two, MINI) == (
        f"conv2's output grows by 1 pixel ({size_of_conv2(MINI)} to {size_of_conv2(two)}), "
        f"{parameters(two):,} parameters ({share:+.0f} %)"
    )


@pytest.mark.parametrize("fields", [{"maps": 8}, {"bias": 1}, {}])
def test_an_edit_that_keeps_the_sizes_is_not_worth_a_word(fields: dict[str, int]) -> None:
    assert geometry_change(edited(**fields), MINI) == ""
