"""The operations that torch has not, or not as the original had them.

Local response normalisation, non-inverted dropout and locally connected maps, as functions over tensors of any memory
format.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from alexnet_core.model import norm_on_cpu
from alexnet_core.model.draws import keep_mask

_LOG = logging.getLogger(__name__)
Across = Literal["channels", "map"]
# 论文最宽的塔有 128 个图；再宽时带状矩阵乘法就比移位慢了
LARGEST_BAND = 128
# GPU 内核里元素编号是 32 位的
LARGEST_KERNEL = 2**30
# 一块约 256 KiB：几块同时在二级缓存里
BLOCK_ELEMENTS = 2**16


def local_response_norm(
    x: torch.Tensor, size: int, alpha: float, beta: float, k: float, *, across: Across = "channels"
) -> torch.Tensor:
    """Local response normalisation: x / (k + alpha * sum of squares in the window) ** beta.

    Paper section 3.3.
    `alpha` multiplies the plain sum, as in the paper's equation; `torch.nn.LocalResponseNorm` and the
    original code divide it by the window's size. Windows are clipped at the ends and never renormalised. For
    an even size the window of map c is c - size/2 .. c + size/2 - 1 (original `cuda-convnet`, and torch).

    Args:
        x: (N, C, H, W) or (N, C, ...), any floating type.
        size: Window n, in maps (`across="channels"`) or in pixels of a square of the same map (`"map"`).
        alpha: Factor of the plain sum.
        beta: Exponent.
        k: Constant.
        across: Over adjacent maps, or over a square of the same map.

    Returns:
        A tensor like `x`.

    Raises:
        ValueError: If the size is below 1, or `x` has too few dimensions.
    """
    if size < 1:
        raise ValueError(f"the window must be at least 1, not {size}")
    dimensions = (1,) if across == "channels" else (2, 3)
    if x.dim() <= dimensions[-1]:
        raise ValueError(f"across={across!r} needs {dimensions[-1] + 1} dimensions, not {x.dim()}")
    result: torch.Tensor
    # 半精度存不下平方和与它的幂，所以在 float32 中计算
    half = x.dtype in (torch.bfloat16, torch.float16)
    wide = x.float() if half and not _in_one_kernel(x, dimensions) else x
    result, *_ = _ResponseNorm.apply(wide, size, alpha, beta, k, dimensions)
    return result.to(x.dtype)


class _ResponseNorm(torch.autograd.Function):
    """Closed form: d = k + alpha * W(x^2); y = x d^-b; dx = g d^-b - 2 alpha b x * W'(g y / d).

    All tensors have the shape of x, (N, C, ...). W sums over each window, W' over the mirrored one.
    """

    @staticmethod
    def forward(
        x: torch.Tensor, size: int, alpha: float, beta: float, k: float, dimensions: tuple[int, ...]
    ) -> tuple[torch.Tensor, ...]:
        """The norm of x (N, C, ...), and where the way back needs them, denominator and scale of that shape."""
        if norm_on_cpu.applies(x, beta, dimensions):
            return (norm_on_cpu.normalise(x, size, alpha, k),)
        if _in_one_kernel(x, dimensions):
            return (_triton_norm().normalise(x, size, alpha, beta, k),)
        if _in_blocks(x, dimensions):
            return _forward_in_blocks(x, size, alpha, beta, k)
        denominator = _window_sum(x * x, size, dimensions, transposed=False).mul_(alpha).add_(k)
        # exp(-b log d) 对任何 b 都成立，CPU 上比 rsqrt 再开方快一倍
        scale = denominator.log().mul_(-beta).exp_()
        return x * scale, denominator, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        """Keeps x (N, C, ...) and what `forward` gave beside the result."""
        x, ctx.size, ctx.alpha, ctx.beta, ctx.k, ctx.dimensions = inputs
        _, *kept = output
        # 中间量也作为输出返回，反向传播就不必重算窗口和
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """The gradient with respect to x (N, C, ...), of that shape."""
        gradient = gradients[0]
        if gradient is None:
            return None, None, None, None, None, None
        x, *kept = ctx.saved_tensors
        if not kept:
            if x.device.type == "cpu":
                result = norm_on_cpu.normalise_backward(gradient, x, ctx.size, ctx.alpha, ctx.k)
            else:
                result = _triton_norm().normalise_backward(gradient, x, ctx.size, ctx.alpha, ctx.beta, ctx.k)
            return result, None, None, None, None, None
        denominator, scale = kept
        factor = -2.0 * ctx.alpha * ctx.beta
        if _in_blocks(x, ctx.dimensions):
            result = _backward_in_blocks(gradient, x, denominator, scale, ctx.size, factor)
            return result, None, None, None, None, None
        # 闭式梯度：不靠自动微分逐步展开，少存几份激活
        result = gradient * scale
        # 偶数窗口不对称，反向传播要用镜像窗口
        inner = _window_sum((result * x).div_(denominator), ctx.size, ctx.dimensions, transposed=True)
        return result.addcmul_(inner, x, value=factor), None, None, None, None, None


def _in_one_kernel(x: torch.Tensor, dimensions: tuple[int, ...]) -> bool:
    """Whether the kernel for GPUs computes the norm of x (N, C, ...): across maps, not in float64, can be compiled."""
    return (
        x.device.type == "cuda"
        and dimensions == (1,)
        and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and 0 < x.numel() <= LARGEST_KERNEL
        and (x.is_contiguous() or x.movedim(1, -1).is_contiguous())
        and not torch.compiler.is_exporting()
        and _triton_norm() is not None
    )


@lru_cache(maxsize=1)
def _triton_norm() -> Any:
    """The module of the kernel for GPUs, or None where triton is missing or cannot compile."""
    try:
        from alexnet_core.model import norm_on_gpu

        norm_on_gpu.normalise(torch.ones(1, 1, device="cuda"), 1, 1.0, 1.0, 1.0)
    except Exception as error:
        # 没有 triton 的平台，或没有 C 编译器：结果相同，只是慢
        _LOG.warning("the response norm takes torch's operations, which is slower: %s", error)
        return None
    return norm_on_gpu


def _in_blocks(x: torch.Tensor, dimensions: tuple[int, ...]) -> bool:
    """Whether x (N, C, ...) can be taken block by block of rows, each row holding a pixel's channels."""
    return (
        dimensions == (1,)
        and x.device.type == "cpu"
        and 0 < x.shape[1] <= LARGEST_BAND
        and not torch.compiler.is_exporting()
        and x.movedim(1, -1).is_contiguous()
    )


def _rows(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) with its channels innermost as (N H W, C), a view."""
    return x.movedim(1, -1).view(-1, x.shape[1])


def _band(x: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """The matrix (C, C) that sums over the window c - before .. c + after of each channel c of x (N, C, ...)."""
    return torch.ones(x.shape[1], x.shape[1], dtype=x.dtype, device=x.device).triu(-after).tril(before)


def _largest_square(x: torch.Tensor, size: int) -> float:
    """What a square of x (of any shape) counts as at most in a product: zero times infinity would spoil windows."""
    return float(torch.finfo(x.dtype).max) / (2 * size)


def _blocks(x: torch.Tensor, *others: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Blocks (rows, C) of tensors (N, C, ...), small enough that a block stays in the processor's cache."""
    size = max(1, BLOCK_ELEMENTS // x.shape[1])
    yield from zip(*(torch.split(_rows(tensor), size) for tensor in (x, *others)), strict=True)


def _forward_in_blocks(
    x: torch.Tensor, size: int, alpha: float, beta: float, k: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The norm of x (N, C, ...) across maps, its denominator and its scale, all of that shape."""
    band = _band(x, size // 2, size - 1 - size // 2).mul_(alpha)
    largest = _largest_square(x, size)
    result, denominator, scale = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
    # 十来次逐元素运算都在缓存里完成，而不是每次都走一遍内存
    for block, y, d, s in _blocks(x, result, denominator, scale):
        torch.mm(torch.mul(block, block, out=s).clamp_(max=largest), band, out=d).add_(k)
        if alpha > 0:
            d.masked_fill_(d >= 0.9 * alpha * largest, math.inf)
        torch.log(d, out=s).mul_(-beta).exp_()
        torch.mul(block, s, out=y)
    return result, denominator, scale


def _backward_in_blocks(
    gradient: torch.Tensor,
    x: torch.Tensor,
    denominator: torch.Tensor,
    scale: torch.Tensor,
    size: int,
    factor: float,
) -> torch.Tensor:
    """The gradient with respect to x (N, C, ...); gradient, denominator, scale and result have that shape."""
    # 偶数窗口不对称，反向传播要用镜像窗口
    band = _band(x, size - 1 - size // 2, size // 2).mul_(factor)
    upstream = torch.empty_like(x).copy_(gradient) if gradient.stride() != x.stride() else gradient
    result = torch.empty_like(x)
    for block, g, d, s, r in _blocks(x, upstream, denominator, scale, result):
        torch.mul(g, s, out=r)
        inner = torch.mul(r, block).div_(d) @ band
        r.add_(inner.mul_(block))
    return result


def _window_sum(x: torch.Tensor, size: int, dimensions: tuple[int, ...], *, transposed: bool) -> torch.Tensor:
    """Sums x (N, C, ...) over a clipped window along `dimensions`: c - size // 2 .. c - size // 2 + size - 1."""
    before, after = size // 2, size - 1 - size // 2
    if transposed:
        before, after = after, before
    if dimensions == (1,) and 0 < x.shape[1] <= LARGEST_BAND and x.movedim(1, -1).is_contiguous():
        # 通道在最内层时逐通道移位不连续，乘一个带状矩阵快三倍
        if transposed:
            return (x.movedim(1, -1) @ _band(x, before, after)).movedim(-1, 1)
        largest = _largest_square(x, size)
        total = x.movedim(1, -1).clamp(max=largest) @ _band(x, before, after)
        return total.masked_fill_(total >= 0.9 * largest, math.inf).movedim(-1, 1)
    for dimension in dimensions:
        x = _shifted_sum(x, dimension, before, after)
    return x


def _shifted_sum(x: torch.Tensor, dimension: int, before: int, after: int) -> torch.Tensor:
    """Sums x, of any shape, over the clipped window i - before .. i + after along one dimension."""
    total, length = x.clone(), x.shape[dimension]
    for shift in range(1, min(before, length - 1) + 1):
        total.narrow(dimension, shift, length - shift).add_(x.narrow(dimension, 0, length - shift))
    for shift in range(1, min(after, length - 1) + 1):
        total.narrow(dimension, 0, length - shift).add_(x.narrow(dimension, shift, length - shift))
    return total


def dropout(x: torch.Tensor, rate: float, key: int | None, first_row: int) -> torch.Tensor:
    """Non-inverted dropout: a 0/1 mask in training, a factor 1 - rate in evaluation (paper section 4.2).

    Args:
        x: (N, features).
        rate: Probability of zero.
        key: Of (seed, step, layer, tower) in training; None in evaluation.
        first_row: Row of the whole batch at which `x` begins.

    Returns:
        A tensor like `x`.
    """
    if rate == 0.0:
        return x
    # 非倒置：训练不放大，评估才乘保留率；倒过来做，下一层的输入和有效学习率都变了
    if key is None:
        return x * (1.0 - rate)
    return x * keep_mask(key, first_row, x.shape, rate, x.device)


def locally_connected(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int = 1, padding: int = 0
) -> torch.Tensor:
    """A convolution whose weights differ from place to place (`type=local` of the original code).

    Args:
        x: (N, inputs, H, W).
        weight: (height, width, maps, inputs, kernel, kernel), height and width being those of the output.
        bias: (height, width, maps).
        stride: Step in pixels.
        padding: Zeros added at each side.

    Returns:
        (N, maps, height, width).
    """
    height, width, maps = bias.shape
    columns = F.unfold(x, weight.shape[-1], padding=padding, stride=stride)
    # 每个位置是一次小矩阵乘法：(P, N, I) @ (P, I, O)
    products = columns.permute(2, 0, 1) @ weight.reshape(height * width, maps, -1).transpose(1, 2)
    places = products + bias.reshape(height * width, 1, maps)
    return places.permute(1, 2, 0).reshape(x.shape[0], maps, height, width)
