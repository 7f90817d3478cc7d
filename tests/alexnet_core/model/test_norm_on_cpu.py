from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_core.data.moments import PixelMoments
from alexnet_core.model import norm_on_cpu
from alexnet_core.model.layers import local_response_norm


def normed(x: torch.Tensor, size: int, beta: float = 0.75) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm and the gradient of a weighted sum of it."""
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    result = local_response_norm(leaf, size, 3e-2, beta, 1.5)
    (result * torch.linspace(-1, 1, result.numel()).to(result.dtype).view(result.shape)).sum().backward()
    assert leaf.grad is not None
    return result.detach(), leaf.grad


@pytest.mark.parametrize("size", [1, 2, 5, 8, 40])
@pytest.mark.parametrize("maps", [1, 3, 8, 48])
def test_the_compiled_norm_equals_torchs_operations(maps: int, size: int) -> None:
    x = torch.randn(3, maps, 7, 5, dtype=torch.float64)
    inner = x.contiguous(memory_format=torch.channels_last)
    maps_innermost = inner.movedim(1, -1).is_contiguous()
    assert norm_on_cpu.applies(inner, 0.75, (1,)) == maps_innermost
    for compiled, plain in zip(normed(inner, size), normed(torch.flip(torch.flip(x, [1]), [1]), size), strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-12, atol=1e-14)


def test_only_the_papers_exponent_across_maps_is_compiled() -> None:
    x = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    assert norm_on_cpu.applies(x, 0.75, (1,))
    assert not norm_on_cpu.applies(x, 0.5, (1,))
    assert not norm_on_cpu.applies(x, 0.75, (2, 3))
    assert not norm_on_cpu.applies(x.contiguous(), 0.75, (1,))
    assert not norm_on_cpu.applies(x.half(), 0.75, (1,))


def test_threads_share_the_pixels_and_change_no_bit() -> None:
    x = torch.randn(8, 48, 31, 29).contiguous(memory_format=torch.channels_last)
    assert x.numel() >= 2 * norm_on_cpu.ELEMENTS_PER_THREAD
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(normed(x, 5))
    torch.set_num_threads(before)
    for result, gradient in results[1:]:
        assert torch.equal(result, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("count", [5, 256, 700])
def test_moments_are_exact_for_any_number_of_images_and_channels(count: int) -> None:
    random = np.random.default_rng(0)
    for channels in (1, 2, 3, 4):
        # 最亮的图：和最大
        images = random.integers(254, 256, (count, 6, 6, channels), dtype=np.uint8)
        moments = PixelMoments(6, channels)
        moments.add(images[:3])
        moments.settle()
        moments.add(images[3:])
        moments.settle()
        flat = images.reshape(-1, channels).astype(np.int64)
        assert moments.count == count
        assert np.array_equal(moments.products, flat.T @ flat)
        assert np.array_equal(moments.total, images.astype(np.int64).sum(axis=0))


@pytest.mark.slow
def test_without_a_folder_for_machine_code_it_is_compiled_anew(tmp_path: Path) -> None:
    """Neither the package's folder nor a home can be written: a file without a place on disk stands for both."""
    program = (
        "import numpy as np; from alexnet_core.process.compiled import compiled\n"
        "source = 'def double(x):\\n    for i in range(x.shape[0]):\\n        x[i] = 2 * x[i]\\n'\n"
        "space = {}; exec(compile(source, '/nowhere/at/all.py', 'exec'), space)\n"
        "x = np.arange(3.0); compiled(space['double'])(x); print(x.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.strip() == "[0.0, 2.0, 4.0]", done.stderr
