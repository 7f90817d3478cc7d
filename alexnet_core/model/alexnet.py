"""AlexNet on its devices: one or two towers built from a specification.

Parameters are named `<layer>.<tower>.weight` and `.bias`. Towers exchange activations only before layers that
read both (paper figure 2: conv3, fc6, fc7, fc8).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from alexnet_core.configuration.network_spec import (
    Activation,
    Convolution,
    Dropout,
    FullyConnected,
    Layer,
    LayerShape,
    LocallyConnected,
    NetworkSpec,
    Pooling,
    ResponseNorm,
    Weighted,
    layer_shapes,
)
from alexnet_core.configuration.wording import counted
from alexnet_core.errors import CoreError
from alexnet_core.model.draws import draw_key, generator
from alexnet_core.model.layers import dropout, local_response_norm, locally_connected
from alexnet_core.model.tower_streams import Lanes


class AlexNet(nn.Module):
    """The network of a specification, with zero weights until `initialise` is called.

    Input: float32 (N, channels, input_size, input_size), raw 0..255 minus the mean image. Output: logits
    (N, classes) on the last device.

    Attributes:
        overlaps_towers: Whether two towers on one GPU run on a stream each; the results are the same.
    """

    def __init__(self, spec: NetworkSpec, devices: Sequence[str] = ("cpu", "cpu")) -> None:
        """Builds the towers.

        Args:
            spec: The network as data.
            devices: One device per tower; the same twice puts both towers on it.

        Raises:
            ValueError: If there are fewer devices than towers.
            CoreError: If a layer has a name that the network itself needs.
        """
        super().__init__()
        if len(devices) < spec.towers:
            given = counted(len(devices), "device")
            raise ValueError(f"{spec.name} has {counted(spec.towers, 'tower')}, but only {given} given")
        self.spec = spec
        self.overlaps_towers = True
        self.devices = tuple(torch.device(device) for device in devices[: spec.towers])
        for layer, shape in zip(spec.layers, layer_shapes(spec), strict=True):
            if isinstance(layer, Weighted):
                if hasattr(self, layer.name):
                    raise CoreError(f"a layer cannot be called {layer.name}: the network itself has that name")
                self.add_module(layer.name, self._towers_of(layer, shape))

    def _towers_of(self, layer: Weighted, shape: LayerShape) -> nn.ModuleDict:
        devices = self.devices[-1:] if _on_last(layer) else self.devices
        return nn.ModuleDict({str(tower): _weights_of(layer, shape, device) for tower, device in enumerate(devices)})

    def forward(self, images: torch.Tensor, draws: tuple[int, int, int] | None = None) -> torch.Tensor:
        """Computes the logits.

        Args:
            images: float32 (N, channels, input_size, input_size).
            draws: (seed, step, first row of these images in the whole batch) of the dropout masks; required
                in training mode if there is dropout.

        Returns:
            Logits (N, classes) on the last device.
        """
        logits = self._run(images, draws, until=None)[-1]
        # bfloat16 的类分数会并列，损失也不够精确
        return logits.float() if logits.dtype == torch.bfloat16 else logits

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the activations that the last layer reads, tower 0's first.

        In the paper's network these are fc7's, (N, 4096). Evaluation mode only: dropout's factor is applied,
        as the last layer sees it.
        """
        towers = self._run(images, None, until=self.spec.layers[-1].name)
        return torch.cat([tower.to(self.devices[-1]).flatten(1) for tower in towers], dim=1)

    def _run(self, images: torch.Tensor, draws: tuple[int, int, int] | None, until: str | None) -> list[torch.Tensor]:
        """Takes images (N, C, H, W) through the layers: a tensor per tower, at the end one of logits (N, classes)."""
        # 图像复制给每座塔；此后各算各的，只在读两边的层前相遇
        towers = [images.to(device, non_blocking=True) for device in self.devices]
        lanes = Lanes(self.devices, overlap=self.overlaps_towers)
        lanes.meet(towers)
        image = True
        for layer in self.spec.layers:
            if layer.name == until:
                break
            if isinstance(layer, Weighted):
                # 谁读谁由规格说：论文图 2 中只有 conv3 与全连接层读两座塔
                reads_both = layer.reads == "both" and not image and len(towers) == 2
                if reads_both or _on_last(layer):
                    lanes.meet(towers)
                towers = self._weighted(layer, towers, lanes, reads_both=reads_both)
                image = False
            elif isinstance(layer, ResponseNorm) and _spans_towers(layer) and not image and len(towers) == 2:
                lanes.meet(towers)
                towers = _norm_across(layer, towers, lanes)
            else:
                towers = self._elementwise(layer, towers, lanes, draws)
        lanes.meet(towers)
        return towers

    def _weighted(
        self, layer: Weighted, towers: list[torch.Tensor], lanes: Lanes, *, reads_both: bool
    ) -> list[torch.Tensor]:
        """A layer with weights: per tower (N, C, H, W) or (N, F), to (N, maps, H', W') or (N, units)."""
        outputs = []
        for name, module in self.get_submodule(layer.name).named_children():
            index = -1 if _on_last(layer) else int(name)
            # 最后一层只有一份，在调用者的流上算
            with lanes.of(int(name)):
                read = towers if reads_both else [towers[index]]
                if isinstance(layer, FullyConnected):
                    read = [tower.flatten(1) for tower in read]
                # 两塔拼接时，塔 0 的图总在前
                x = _joined(read, self.devices[index]) if reads_both else read[0]
                outputs.append(_apply(layer, module, x))
        return outputs

    def _elementwise(
        self, layer: Layer, towers: list[torch.Tensor], lanes: Lanes, draws: tuple[int, int, int] | None
    ) -> list[torch.Tensor]:
        """A layer without weights, each tower for itself: (N, C, H, W) or (N, F); only pooling changes H and W."""
        outputs = []
        for index, tower in enumerate(towers):
            with lanes.of(index):
                outputs.append(self._apply_elementwise(layer, tower, index, draws))
        return outputs

    def _apply_elementwise(
        self, layer: Layer, x: torch.Tensor, tower: int, draws: tuple[int, int, int] | None
    ) -> torch.Tensor:
        """One tower's activations (N, C, H, W) or (N, F) after a layer without weights."""
        if isinstance(layer, Activation):
            return F.relu(x) if layer.function == "relu" else torch.tanh(x)
        if isinstance(layer, ResponseNorm):
            return _norm(layer, x)
        if isinstance(layer, Pooling):
            return _pool(layer, x)
        assert isinstance(layer, Dropout)
        if not self.training:
            return dropout(x, layer.rate, None, 0)
        if layer.rate > 0 and draws is None:
            raise ValueError(f"training with {layer.name} needs the draws (seed, step, first row)")
        seed, step, first_row = draws or (0, 0, 0)
        # 掩码的键里有层名和塔号：删掉一层，别层的掩码不变
        return dropout(x, layer.rate, draw_key("dropout", seed, step, layer.name, tower), first_row)


def _on_last(layer: Weighted) -> bool:
    return isinstance(layer, FullyConnected) and layer.on_last_device


def _joined(towers: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Both towers' (N, C, H, W) or (N, F) as (N, 2 C, H, W) or (N, 2 F), tower 0's first."""
    return torch.cat([tower.to(device, non_blocking=True) for tower in towers], dim=1)


def _weights_of(layer: Weighted, shape: LayerShape, device: torch.device) -> nn.Module:
    """A module with zero parameters of the right shapes, without spending torch's own random numbers on it."""
    if isinstance(layer, LocallyConnected):
        place = (shape.size, shape.size, shape.maps)
        weight = torch.zeros(*place, shape.inputs, layer.kernel, layer.kernel, device=device)
        return nn.ParameterDict({"weight": weight, "bias": torch.zeros(place, device=device)})
    with torch.device("meta"):
        module: nn.Module = (
            nn.Conv2d(shape.inputs, shape.maps, layer.kernel, layer.stride)
            if isinstance(layer, Convolution)
            else nn.Linear(shape.inputs, shape.maps)
        )
    # to_empty 会为形状的推导载入 sympy：每个 worker 多等一秒
    for name, parameter in list(module.named_parameters()):
        setattr(module, name, nn.Parameter(torch.zeros(parameter.shape, device=device)))
    if isinstance(module, nn.Conv2d):
        # channels_last 与输入的 NHWC 布局一致，省去逐层转换
        module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return module


def _apply(layer: Weighted, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(N, inputs, H, W) or (N, inputs) to (N, maps, H', W') or (N, units)."""
    weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
    if isinstance(layer, FullyConnected):
        return F.linear(x, weight, bias)
    if isinstance(layer, LocallyConnected):
        return locally_connected(x, weight, bias, layer.stride, layer.padding)
    end = layer.padding if layer.padding_end is None else layer.padding_end
    if end != layer.padding:
        # 原始代码的 conv1 只在右侧和底部补零，224 像素由此得到 55x55
        x = F.pad(x, (layer.padding, end, layer.padding, end))
        return F.conv2d(x, weight, bias, layer.stride)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding)


def _norm(layer: ResponseNorm, x: torch.Tensor) -> torch.Tensor:
    """A response norm of (N, C, H, W), of the same shape."""
    # 论文的 alpha 乘平方和本身；原始代码先除以窗口里的元素个数
    alpha = layer.alpha / layer.size ** (1 if layer.across == "channels" else 2)
    return local_response_norm(
        x,
        layer.size,
        alpha if layer.divide_alpha_by_size else layer.alpha,
        layer.beta,
        layer.k,
        across=layer.across,
    )


def _spans_towers(layer: ResponseNorm) -> bool:
    return layer.span == "layer" and layer.across == "channels"


def _norm_across(layer: ResponseNorm, towers: list[torch.Tensor], lanes: Lanes) -> list[torch.Tensor]:
    """The norm of two (N, C, H, W) where windows reach from a tower into the other, whose nearest maps are copied."""
    first, second = towers
    before, after = layer.size // 2, layer.size - 1 - layer.size // 2
    with lanes.of(0):
        near = second[:, :after].to(first.device, non_blocking=True)
        left = _norm(layer, torch.cat([first, near], dim=1))[:, : first.shape[1]]
    with lanes.of(1):
        near = first[:, max(0, first.shape[1] - before) :].to(second.device, non_blocking=True)
        right = _norm(layer, torch.cat([near, second], dim=1))[:, near.shape[1] :]
    return [left, right]


def _pool(layer: Pooling, x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N, C, H', W'), whose sides round up."""
    if layer.function == "max":
        return F.max_pool2d(x, layer.size, layer.stride, ceil_mode=True)
    # 原始代码按窗口内真实像素数求平均，边界不补零
    return F.avg_pool2d(x, layer.size, layer.stride, ceil_mode=True, count_include_pad=False)


def initialise(model: AlexNet, seed: int) -> None:
    """Fills the weights with keyed Gaussian draws and the biases with their constants (paper section 5).

    The draws of a tower of a layer depend on (seed, layer, tower) alone, and are made on the CPU.

    Args:
        model: The network.
        seed: The trial's seed.
    """
    for layer in model.spec.layers:
        if not isinstance(layer, Weighted):
            continue
        for tower, module in model.get_submodule(layer.name).named_children():
            weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
            # 键里没有层的次序：加减一层，其余层的初值不变
            random = generator("initialisation", seed, layer.name, int(tower))
            drawn = random.standard_normal(tuple(weight.shape), dtype="float32")
            with torch.no_grad():
                weight.copy_(torch.from_numpy(drawn).mul_(layer.weight_std))
                bias.fill_(layer.bias)
