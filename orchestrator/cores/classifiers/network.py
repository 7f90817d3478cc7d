"""The network of a configuration, with another norm where it asks for one, and what it costs."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from orchestrator.cores.classifiers.configuration import ClassifierConfig
from orchestrator.cores.contract import ContractError

FEWEST_CHANNELS = 4
# 常用的边长：报错时从中找下一个可行的
USUAL_RESOLUTIONS = (32, 64, 96, 128, 160, 192, 224, 256, 299, 384, 512)


def build(config: ClassifierConfig, classes: int) -> nn.Module:
    """Returns a network with drawn weights, (N, 3, resolution, resolution) to (N, classes) logits.

    Raises:
        ContractError: The model does not take one of the options.
    """
    from torchvision import models

    builder = models.get_model_builder(config.model)
    arguments: dict[str, Any] = {"num_classes": classes, **config.options}
    # 辅助分类器只在它们的论文里用：这里要的是一个输出
    for name, value in (("aux_logits", False), ("init_weights", True)):
        if name in _parameters(builder):
            arguments.setdefault(name, value)
    # 这两类按图像的大小建各层
    if config.model.startswith("vit_"):
        arguments.setdefault("image_size", config.resolution)
    if config.model.startswith("maxvit_"):
        arguments.setdefault("input_size", (config.resolution, config.resolution))
    try:
        network: nn.Module = builder(weights=None, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ContractError(f"torchvision's {config.model} cannot be made with {config.options}: {reason}") from error
    _exchange_norms(network, config)
    return network


def _parameters(builder: Any) -> set[str]:
    """The names that the class of a model takes, which the builder only passes on."""
    module = inspect.getmodule(builder)
    classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, nn.Module)]
    return {name for made in classes for name in inspect.signature(made.__init__).parameters}


def _exchange_norms(network: nn.Module, config: ClassifierConfig) -> None:
    """Puts group norm, or nothing, where batch norm is; convolutions keep their draws."""
    if config.norm == "batch":
        return
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _other_norm(child.num_features, config))


def _other_norm(channels: int, config: ClassifierConfig) -> nn.Module:
    if config.norm == "none":
        return nn.Identity()
    # 一组只有一个通道、图又只剩一个像素时，归一化出来全是零
    most = max(1, min(config.norm_groups, channels // FEWEST_CHANNELS))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


def sizes(config: ClassifierConfig, classes: int) -> dict[str, float]:
    """Returns `parameters`, and `multiply_adds` of one image's forward pass (convolutions and products of matrices).

    Raises:
        ContractError: The model does not take one of the options, or images of this resolution.
    """
    try:
        return _sizes(config, classes)
    except (ContractError, RuntimeError) as error:
        larger = [side for side in USUAL_RESOLUTIONS if side > config.resolution]
        right = next((side for side in larger if _takes(config, classes, side)), None)
        if right is None and isinstance(error, ContractError):
            raise
        instead = "; no usual one above it is taken either" if right is None else f"; {right} is the next it takes"
        reason = " ".join(str(error).split())
        raise ContractError(
            f"torchvision's {config.model} takes no images of resolution {config.resolution}{instead} ({reason})"
        ) from error


def _takes(config: ClassifierConfig, classes: int, resolution: int) -> bool:
    try:
        _sizes(config.model_copy(update={"resolution": resolution}), classes)
    except (ContractError, RuntimeError):
        return False
    return True


def _sizes(config: ClassifierConfig, classes: int) -> dict[str, float]:
    from torch.utils.flop_counter import FlopCounterMode

    # meta 设备上只有形状，不占内存也不计算
    with torch.device("meta"):
        network = build(config, classes).eval()
        images = torch.empty(1, 3, config.resolution, config.resolution)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(images)
    return {
        "parameters": float(sum(parameter.numel() for parameter in network.parameters())),
        "multiply_adds": counter.get_total_flops() / 2.0,
    }
