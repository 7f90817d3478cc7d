"""Keyed random draws: every draw is a pure function of its key, never "the next number" of a stream.

So removing a layer moves no other draw, data-parallel workers shard one sequence, and CPU and GPU get the
same bits.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch

_MASK32 = 0xFFFFFFFF


def draw_key(*parts: str | int) -> int:
    """Returns 64 bits of the SHA-256 of the parts, such as ("dropout", seed, step, layer)."""
    # 键由内容得出，与抽取的先后无关：所以消融一层不会牵动别处，配对的种子才真的成对
    text = "\n".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def generator(*parts: str | int) -> np.random.Generator:
    """Returns numpy's counter-based Philox generator for a key."""
    return np.random.Generator(np.random.Philox(key=draw_key(*parts)))


def uniform_bits(key: int, indices: torch.Tensor) -> torch.Tensor:
    """Hashes (key, index) to 32 bits by integer arithmetic alone, so that every device gets the same bits.

    Two rounds of the 32-bit finaliser "lowbias32" (C. Wellons, hash-prospector), one per half of the key.

    Args:
        key: 64 bits from `draw_key`.
        indices: int64 tensor of any shape; which draw of this key, below 2**32.

    Returns:
        int64 tensor of the same shape, uniform in 0 .. 2**32 - 1.
    """
    # 只用整数运算：浮点在 CPU 与 GPU 上末位会不同，位运算不会
    bits = indices & _MASK32
    for half in (key & _MASK32, key >> 32):
        bits = bits ^ half
        bits = bits ^ (bits >> 16)
        bits = (bits * 0x7FEB352D) & _MASK32
        bits = bits ^ (bits >> 15)
        bits = (bits * 0x846CA68B) & _MASK32
        bits = bits ^ (bits >> 16)
    return bits


def uniforms(key: int, indices: torch.Tensor) -> torch.Tensor:
    """Returns float64 uniforms in (0, 1), of the shape of `indices` (int64, below 2**32)."""
    # 加半格：永远取不到 0，后面的对数才有限
    return (uniform_bits(key, indices).double() + 0.5) / 2.0**32


def normals(key: int, indices: torch.Tensor) -> torch.Tensor:
    """Returns float64 standard normals (Box-Muller), of the shape of `indices` (int64, below 2**31)."""
    radius = torch.sqrt(-2.0 * torch.log(uniforms(key, 2 * indices)))
    return radius * torch.cos(2.0 * math.pi * uniforms(key, 2 * indices + 1))


def keep_mask(key: int, first_row: int, shape: torch.Size, rate: float, device: torch.device) -> torch.Tensor:
    """Returns a 0/1 mask for dropout.

    Args:
        key: Of (seed, step, layer, tower).
        first_row: Row of the whole batch at which this worker's rows begin.
        shape: Shape of the mask, images first.
        rate: Probability of a zero.
        device: Where the mask lives; the bits do not depend on it.

    Returns:
        Boolean tensor of that shape, True where the activation stays.
    """
    # 编号从整批的行算起：几个 worker 分担一批，合起来仍是同一张掩码
    per_image = math.prod(shape[1:])
    count = shape[0] * per_image
    indices = torch.arange(first_row * per_image, first_row * per_image + count, device=device)
    return (uniform_bits(key, indices) >= round(rate * 2**32)).reshape(shape)


def permutation(count: int, *parts: str | int) -> np.ndarray:
    """Returns a permutation of 0 .. count - 1, int64 of shape (count,)."""
    return generator(*parts).permutation(count)
