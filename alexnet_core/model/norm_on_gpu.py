"""Response norm across maps in one kernel each way, for GPUs. Loads triton, so it is imported only where it is used.

Written with torch's operations the norm takes a dozen passes over the widest activations of the network.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

BLOCK = 1024


def normalise(x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """Returns x / d^beta, where d = k + alpha * sum of squares in the window.

    Args:
        x: (N, C, ...), float32, float16 or bfloat16, contiguous or with the maps innermost, of at most 2^30
            elements; calculated in float32.
        size: Window n in maps.
        alpha: Factor of the plain sum.
        beta: Exponent.
        k: Constant.
    """
    result = torch.empty_like(x)
    _over_elements(_forward, (x, result), size, (alpha, beta, k))
    return result


def normalise_backward(
    gradient: torch.Tensor, x: torch.Tensor, size: int, alpha: float, beta: float, k: float
) -> torch.Tensor:
    """Returns the gradient with respect to x: g d^-b - 2 alpha b x W'(g x d^(-b-1)), where W' is the mirrored window.

    Args:
        gradient: (N, C, ...), of the result.
        x: As given to `normalise`.
        size: Window n in maps.
        alpha: Factor of the plain sum.
        beta: Exponent.
        k: Constant.
    """
    upstream = torch.empty_like(x).copy_(gradient) if gradient.stride() != x.stride() else gradient
    result = torch.empty_like(x)
    _over_elements(_backward, (upstream, x, result), size, (alpha, beta, k))
    return result


def _over_elements(
    kernel: Any, tensors: tuple[torch.Tensor, ...], size: int, constants: tuple[float, float, float]
) -> None:
    """Calls a kernel over all elements of tensors (N, C, ...), the last of which it fills."""
    x = tensors[0]
    elements, maps = x.numel(), x.shape[1]
    grid = (triton.cdiv(elements, BLOCK),)
    # 塔 1 可能在另一块 GPU 上，而内核总在当前设备上启动
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        kernel[grid](
            *(*tensors, elements, x.stride(1), *constants),
            maps=maps,
            before=size // 2,
            size=size,
            block=BLOCK,
            enable_fp_fusion=True,
        )


@triton.jit
def _loaded(pointer: tl.tensor, place: tl.tensor, present: tl.tensor) -> tl.tensor:
    return tl.load(pointer + place, mask=present, other=0.0).to(tl.float32)


@triton.jit
def _denominator(
    x: tl.tensor,
    place: tl.tensor,
    channel: tl.tensor,
    inside: tl.tensor,
    inner: tl.tensor,
    alpha: tl.tensor,
    k: tl.tensor,
    maps: tl.constexpr,
    before: tl.constexpr,
    size: tl.constexpr,
) -> tl.tensor:
    """The norm's base: k + alpha * sum of squares in the window of the map `channel`, which is at `place`."""
    total = tl.zeros_like(channel).to(tl.float32)
    for step in tl.static_range(size):
        other = channel + (step - before)
        value = _loaded(x, place + (step - before) * inner, inside & (other >= 0) & (other < maps))
        total += value * value
    return k + alpha * total


@triton.jit
def _forward(
    x: tl.tensor,
    result: tl.tensor,
    elements: tl.tensor,
    inner: tl.tensor,
    alpha: tl.tensor,
    beta: tl.tensor,
    k: tl.tensor,
    maps: tl.constexpr,
    before: tl.constexpr,
    size: tl.constexpr,
    block: tl.constexpr,
) -> None:
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < elements
    # 两种内存布局只差图之间的步长
    channel = (place // inner) % maps
    d = _denominator(x, place, channel, inside, inner, alpha, k, maps, before, size)
    value = _loaded(x, place, inside) * tl.exp2(-beta * tl.log2(d))
    tl.store(result + place, value.to(result.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    gradient: tl.tensor,
    x: tl.tensor,
    result: tl.tensor,
    elements: tl.tensor,
    inner: tl.tensor,
    alpha: tl.tensor,
    beta: tl.tensor,
    k: tl.tensor,
    maps: tl.constexpr,
    before: tl.constexpr,
    size: tl.constexpr,
    block: tl.constexpr,
) -> None:
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < elements
    channel = (place // inner) % maps
    inner_sum = tl.zeros_like(channel).to(tl.float32)
    # 邻图的分母重算而不存：多读的都在一级缓存里，省一份激活内存
    for step in tl.static_range(size):
        # 偶数窗口不对称，反向传播要用镜像窗口
        shift = step - (size - 1 - before)
        other = channel + shift
        present = inside & (other >= 0) & (other < maps)
        there = place + shift * inner
        d = _denominator(x, there, other, present, inner, alpha, k, maps, before, size)
        product = _loaded(gradient, there, present) * _loaded(x, there, present)
        inner_sum += tl.where(present, product * tl.exp2((-beta - 1.0) * tl.log2(d)), 0.0)
    d = _denominator(x, place, channel, inside, inner, alpha, k, maps, before, size)
    direct = _loaded(gradient, place, inside) * tl.exp2(-beta * tl.log2(d))
    value = direct - 2.0 * alpha * beta * _loaded(x, place, inside) * inner_sum
    tl.store(result + place, value.to(result.dtype.element_ty), mask=inside)
