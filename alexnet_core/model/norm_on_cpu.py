"""Response norm across maps in one pass over memory, compiled for the CPU by numba.

For the exponent of the paper, 0.75 (section 3.3), alone: with r = d^(-1/4) the norm is x r^3 and its gradient needs
r^3 and r^7. Written with torch's operations it takes a dozen passes, and keeps two tensors for the way back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alexnet_core.process.compiled import compiled

Array = npt.NDArray[Any]
EXPONENT = 0.75
# 一段及其几个缓冲区都在一级缓存里
SPAN_ELEMENTS = 384
# 更小的张量分给多个线程反而慢
ELEMENTS_PER_THREAD = 2**17


def applies(x: torch.Tensor, beta: float, dimensions: tuple[int, ...]) -> bool:
    """Says whether `normalise` computes this norm of x (N, C, ...): across maps, exponent 0.75, maps innermost, CPU."""
    return (
        dimensions == (1,)
        and beta == EXPONENT
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > 0
        and not torch.compiler.is_exporting()
        and x.movedim(1, -1).is_contiguous()
    )


def normalise(x: torch.Tensor, size: int, alpha: float, k: float) -> torch.Tensor:
    """Returns x / d^0.75, where d = k + alpha * sum of squares in the window.

    Args:
        x: (N, C, ...) whose maps are innermost in memory.
        size: Window n in maps.
        alpha: Factor of the plain sum.
        k: Constant.
    """
    result = torch.empty_like(x)
    _over_pixels(_forward, (x, result), size, (size // 2,), (alpha, k, 1.0, 0.0))
    return result


def normalise_backward(gradient: torch.Tensor, x: torch.Tensor, size: int, alpha: float, k: float) -> torch.Tensor:
    """Returns the gradient with respect to x: g r^3 - 1.5 alpha x W'(g x r^7), where W' is the mirrored window.

    Args:
        gradient: (N, C, ...), of the result.
        x: As given to `normalise`.
        size: Window n in maps.
        alpha: Factor of the plain sum.
        k: Constant.
    """
    upstream = torch.empty_like(x).copy_(gradient) if gradient.stride() != x.stride() else gradient
    result = torch.empty_like(x)
    before = size // 2
    # 偶数窗口不对称，反向传播要用镜像窗口
    sides = (before, size - 1 - before)
    _over_pixels(_backward, (upstream, x, result), size, sides, (alpha, k, -2.0 * EXPONENT * alpha, 1.0, 0.0))
    return result


def _over_pixels(
    kernel: Callable[..., None],
    tensors: tuple[torch.Tensor, ...],
    size: int,
    sides: tuple[int, ...],
    constants: tuple[float, ...],
) -> None:
    """Calls a kernel over all pixels of tensors (N, C, ...), on torch's threads where that is worth it."""
    maps = tensors[0].shape[1]
    flat: list[Array] = [tensor.detach().movedim(1, -1).reshape(-1).numpy() for tensor in tensors]
    elements, number = len(flat[0]), flat[0].dtype.type
    span = max(1, SPAN_ELEMENTS // maps) * maps
    whole = elements // span
    threads = max(1, min(torch.get_num_threads(), elements // ELEMENTS_PER_THREAD))
    bounds = [span * (whole * part // threads) for part in range(threads + 1)]
    # 内核只见等长的段：段长若会变，编译器查不出数组不重叠，就退回慢一倍的标量循环
    parts = [(first, last, span) for first, last in pairwise(bounds) if last > first]
    parts += [(bounds[-1], elements, elements - bounds[-1])] if elements > bounds[-1] else []

    def run(part: tuple[int, int, int]) -> None:
        first, last, length = part
        masks = [_mask(maps, length, size, side, flat[0].dtype.str) for side in sides]
        rows = [array[first:last].reshape(-1, length) for array in flat]
        compiled(kernel)(*rows, *masks, *sides, *map(number, constants))

    if threads == 1:
        for part in parts:
            run(part)
    else:
        list(_pool(threads).map(run, parts))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="response-norm")


@lru_cache(maxsize=64)
def _mask(maps: int, length: int, size: int, before: int, kind: str) -> Array:
    """An array (size, length): row j is one where map c - before + j exists, at every place of a span of pixels."""
    place = np.arange(length) % maps
    shifts = np.arange(size)[:, None] - before
    return ((place + shifts >= 0) & (place + shifts < maps)).astype(kind)


def _forward(
    x: Array, result: Array, mask: Array, before: int, alpha: float, k: float, one: float, zero: float
) -> None:
    """Fills result with the norm of x, both (spans, span); mask is (size, span). Compiled."""
    size, span = mask.shape
    squares, total = np.zeros(span + size, x.dtype), np.empty(span, x.dtype)
    middle = squares[before : before + span]
    for row in range(x.shape[0]):
        centre, out = x[row], result[row]
        for i in range(span):
            middle[i] = centre[i] * centre[i]
            total[i] = centre[i] * centre[i]
        for j in range(size):
            if j != before:
                inside, shifted = mask[j], squares[j : j + span]
                for i in range(span):
                    # 不能乘零：窗口外若有溢出成无穷的平方，就成了 NaN
                    total[i] += shifted[i] if inside[i] > zero else zero
        for i in range(span):
            # 指数恰为 3/4：两次开方代替 pow，r = d^(-1/4)
            r = one / math.sqrt(math.sqrt(k + alpha * total[i]))
            out[i] = centre[i] * (r * r * r)


def _backward(
    gradient: Array,
    x: Array,
    result: Array,
    mask: Array,
    mirrored_mask: Array,
    before: int,
    mirrored: int,
    alpha: float,
    k: float,
    factor: float,
    one: float,
    zero: float,
) -> None:
    """Fills result with the gradient; it, gradient and x are (spans, span), the masks (size, span). Compiled."""
    size, span = mask.shape
    squares, products = np.zeros(span + size, x.dtype), np.zeros(span + size, x.dtype)
    total = np.empty(span, x.dtype)
    middle, inner = squares[before : before + span], products[mirrored : mirrored + span]
    for row in range(x.shape[0]):
        above, centre, out = gradient[row], x[row], result[row]
        # 再算一遍窗口和，比写出去再读回来快，也省一份激活内存
        for i in range(span):
            middle[i] = centre[i] * centre[i]
            total[i] = centre[i] * centre[i]
        for j in range(size):
            if j != before:
                inside, shifted = mask[j], squares[j : j + span]
                for i in range(span):
                    total[i] += shifted[i] if inside[i] > zero else zero
        for i in range(span):
            r = one / math.sqrt(math.sqrt(k + alpha * total[i]))
            out[i] = above[i] * (r * r * r)
            inner[i] = out[i] * centre[i] * (r * r) * (r * r)
            total[i] = inner[i]
        for j in range(size):
            if j != mirrored:
                inside, shifted = mirrored_mask[j], products[j : j + span]
                for i in range(span):
                    total[i] += shifted[i] if inside[i] > zero else zero
        for i in range(span):
            out[i] += factor * centre[i] * total[i]
