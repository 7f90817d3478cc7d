"""What an edit does to the sizes of maps, compared with a forward pass of the networks themselves."""

from __future__ import annotations

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


def test_a_kernel_that_shrinks_the_maps_is_said_with_its_parameters_and_the_padding_that_keeps_them() -> None:
    five = edited(kernel=5)
    share = 100 * (parameters(five) / parameters(MINI) - 1)
    assert geometry_change(five, MINI) == (
        f"conv2's output shrinks by 2 pixels (8 to 6), {parameters(five):,} parameters ({share:+.0f} %); padding 2 "
        "would keep it"
    )
    assert parameters(five) == 148_138
    assert geometry_change(edited(kernel=5, padding=2), MINI) == ""
    assert AlexNet(edited(kernel=5, padding=2)).eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


@pytest.mark.parametrize("fields", [{"maps": 8}, {"bias": 1}, {}])
def test_an_edit_that_keeps_the_sizes_is_not_worth_a_word(fields: dict[str, int]) -> None:
    assert geometry_change(edited(**fields), MINI) == ""
