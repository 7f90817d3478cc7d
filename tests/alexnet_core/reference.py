"""Plain single-device networks to compare with: grouped convolutions, numpy response norms, loops over places."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from alexnet_core.configuration.network_spec import (
    Activation,
    Convolution,
    FullyConnected,
    LocallyConnected,
    NetworkSpec,
    Pooling,
    ResponseNorm,
)

Parameters = dict[str, torch.Tensor]


class NumpyNorm(torch.autograd.Function):
    """Paper section 3.3 map by map in numpy, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
        values = x.detach().numpy()
        maps = values.shape[1]
        windows = [(max(0, i - size // 2), min(maps, i - size // 2 + size)) for i in range(maps)]
        sums = np.stack([(values[:, low:high] ** 2).sum(axis=1) for low, high in windows], axis=1)
        ctx.saved = (values, k + alpha * sums, windows, alpha, beta)
        return torch.from_numpy(values * (k + alpha * sums) ** -beta)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, denominator, windows, alpha, beta = ctx.saved
        upstream = gradients[0].numpy()
        result = upstream * denominator**-beta
        # map j receives from every map i whose window holds it
        for i, (low, high) in enumerate(windows):
            shared = upstream[:, i] * values[:, i] * denominator[:, i] ** (-beta - 1)
            result[:, low:high] -= 2 * alpha * beta * values[:, low:high] * shared[:, None]
        return torch.from_numpy(result), None, None, None, None


def norm(x: torch.Tensor, size: int, alpha: float, beta: float, k: float, towers: int = 1) -> torch.Tensor:
    """Each tower normalises over its own maps."""
    parts = x.chunk(towers, dim=1)
    return torch.cat([NumpyNorm.apply(part, size, alpha, beta, k) for part in parts], dim=1)


def map_norm(x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """A square of the same map, by a convolution with ones, one map at a time."""
    maps, before = x.shape[1], size // 2
    padded = F.pad(x * x, (before, size - 1 - before, before, size - 1 - before))
    sums = F.conv2d(padded, torch.ones(maps, 1, size, size, dtype=x.dtype), groups=maps)
    return x / (k + alpha * sums) ** beta


def local(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """One small product for every place."""
    height, width, maps, _, kernel, _ = weight.shape
    padded = F.pad(x, (padding,) * 4)
    rows = []
    for i in range(height):
        row = []
        for j in range(width):
            window = padded[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            row.append(window.flatten(1) @ weight[i, j].reshape(maps, -1).T + bias[i, j])
        rows.append(torch.stack(row, dim=2))
    return torch.stack(rows, dim=2)


def joined(parameters: Parameters, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and biases of both towers, tower 0's first."""
    towers = [tower for tower in ("0", "1") if f"{layer}.{tower}.weight" in parameters]
    weight = torch.cat([parameters[f"{layer}.{tower}.weight"] for tower in towers])
    return weight, torch.cat([parameters[f"{layer}.{tower}.bias"] for tower in towers])


def paper(parameters: Parameters, images: torch.Tensor) -> torch.Tensor:
    """Section 3.5 of the paper in evaluation, literally."""

    def conv(x: torch.Tensor, name: str, **how: Any) -> torch.Tensor:
        return F.relu(F.conv2d(x, *joined(parameters, name), **how))

    x = conv(F.pad(images, (0, 3, 0, 3)), "conv1", stride=4)
    x = F.max_pool2d(norm(x, 5, 1e-4, 0.75, 2.0, towers=2), 3, 2)
    x = conv(x, "conv2", padding=2, groups=2)
    x = F.max_pool2d(norm(x, 5, 1e-4, 0.75, 2.0, towers=2), 3, 2)
    x = conv(x, "conv3", padding=1)
    x = conv(x, "conv4", padding=1, groups=2)
    x = F.max_pool2d(conv(x, "conv5", padding=1, groups=2), 3, 2)
    return _classifier(parameters, x)


def as_run(parameters: Parameters, images: torch.Tensor) -> torch.Tensor:
    """`layers-145.cfg` in evaluation, literally."""
    x = F.conv2d(F.pad(images, (0, 3, 0, 3)), *joined(parameters, "conv1"), stride=4)
    x = F.relu(F.max_pool2d(norm(x, 5, 1e-4 / 5, 0.75, 2.0, towers=2), 3, 2))
    x = F.relu(F.conv2d(x, *joined(parameters, "conv2"), padding=2, groups=2))
    x = norm(x, 5, 1e-4 / 5, 0.75, 2.0, towers=2)
    x = F.max_pool2d(map_norm(x, 5, 1e-3 / 25, 0.75, 1.0), 3, 2)
    x = F.relu(F.conv2d(x, *joined(parameters, "conv3"), padding=1))
    x = F.relu(F.conv2d(x, *joined(parameters, "conv4"), padding=1, groups=2))
    x = F.relu(F.max_pool2d(F.conv2d(x, *joined(parameters, "conv5"), padding=1, groups=2), 3, 2))
    return _classifier(parameters, x)


def _classifier(parameters: Parameters, x: torch.Tensor) -> torch.Tensor:
    x = 0.5 * F.relu(F.linear(x.flatten(1), *joined(parameters, "fc6")))
    x = 0.5 * F.relu(F.linear(x, *joined(parameters, "fc7")))
    return F.linear(x, *joined(parameters, "fc8"))


def cifar(parameters: Parameters, images: torch.Tensor, name: str) -> torch.Tensor:
    """The CIFAR-10 nets of the original code, literally."""

    def conv(x: torch.Tensor, layer: str) -> torch.Tensor:
        return F.conv2d(x, *joined(parameters, layer), padding=2)

    def average(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, 3, 2, ceil_mode=True, count_include_pad=False)

    def place(x: torch.Tensor, layer: str) -> torch.Tensor:
        return F.relu(local(x, parameters[f"{layer}.0.weight"], parameters[f"{layer}.0.bias"], 1, 1))

    if name == "cifar-mini":
        x = F.relu(F.max_pool2d(conv(images, "conv1"), 3, 2, ceil_mode=True))
        x = average(F.relu(conv(average(F.relu(conv(x, "conv2"))), "conv3")))
    elif name == "cifar-18pct":
        x = F.relu(F.max_pool2d(conv(images, "conv1"), 3, 2, ceil_mode=True))
        x = average(F.relu(conv(map_norm(x, 3, 5e-5 / 9, 0.75, 1.0), "conv2")))
        x = average(F.relu(conv(map_norm(x, 3, 5e-5 / 9, 0.75, 1.0), "conv3")))
    else:
        normed = name == "cifar-11pct"
        x = F.max_pool2d(F.relu(conv(images, "conv1")), 3, 2, ceil_mode=True)
        x = F.relu(conv(norm(x, 9, 1e-3 / 9, 0.75, 1.0) if normed else x, "conv2"))
        x = F.max_pool2d(norm(x, 9, 1e-3 / 9, 0.75, 1.0) if normed else x, 3, 2, ceil_mode=True)
        x = place(place(x, "local3"), "local4")
    return F.linear(x.flatten(1), *joined(parameters, "fc10"))


def of_spec(spec: NetworkSpec, parameters: Parameters, images: torch.Tensor) -> torch.Tensor:
    """Any specification in evaluation, on one device, both towers' maps in one tensor."""
    x, image = images, True
    for layer in spec.layers:
        split = 1 if image else spec.towers
        if isinstance(layer, Convolution):
            end = layer.padding if layer.padding_end is None else layer.padding_end
            weight, bias = joined(parameters, layer.name)
            groups = 1 if layer.reads == "both" else split
            x = F.conv2d(F.pad(x, (layer.padding, end, layer.padding, end)), weight, bias, layer.stride, groups=groups)
            image = False
        elif isinstance(layer, (LocallyConnected, FullyConnected)):
            x, image = _per_tower(spec, layer, parameters, x, image), False
        elif isinstance(layer, Activation):
            x = F.relu(x) if layer.function == "relu" else torch.tanh(x)
        elif isinstance(layer, ResponseNorm):
            area = layer.size if layer.across == "channels" else layer.size**2
            alpha = layer.alpha / (area if layer.divide_alpha_by_size else 1)
            if layer.across == "channels":
                towers = split if layer.span == "tower" else 1
                x = norm(x, layer.size, alpha, layer.beta, layer.k, towers=towers)
            else:
                x = map_norm(x, layer.size, alpha, layer.beta, layer.k)
        elif isinstance(layer, Pooling):
            pool = F.max_pool2d if layer.function == "max" else F.avg_pool2d
            how = {} if layer.function == "max" else {"count_include_pad": False}
            x = pool(x, layer.size, layer.stride, ceil_mode=True, **how)
        else:
            x = x * (1 - layer.rate)
    return x


def _per_tower(
    spec: NetworkSpec, layer: LocallyConnected | FullyConnected, parameters: Parameters, x: torch.Tensor, image: bool
) -> torch.Tensor:
    towers = [x] * spec.towers if image else list(x.chunk(spec.towers, dim=1))
    outputs = []
    for tower in range(spec.towers):
        if f"{layer.name}.{tower}.weight" not in parameters:
            continue
        weight, bias = parameters[f"{layer.name}.{tower}.weight"], parameters[f"{layer.name}.{tower}.bias"]
        last = isinstance(layer, FullyConnected) and layer.on_last_device
        source = x if layer.reads == "both" and not image else towers[-1 if last else tower]
        if isinstance(layer, FullyConnected):
            outputs.append(F.linear(source.flatten(1), weight, bias))
        else:
            outputs.append(local(source, weight, bias, layer.stride, layer.padding))
    return torch.cat(outputs, dim=1)
