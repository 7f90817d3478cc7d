"""The GPU's kernel of the response norm, calculated by triton's interpreter and compiled for GPUs that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton comes with torch's builds for GPUs only")
pytestmark = pytest.mark.slow

INTERPRETED = """
import json, torch, torch.nn.functional as F
from alexnet_core.model import norm_on_gpu
torch.manual_seed(0)
def error(shape, size, beta, layout, kind=torch.float32):
    x = (4 * torch.randn(shape)).to(kind).contiguous(memory_format=layout)
    upstream = torch.randn(shape).to(kind)
    wide = x.double().requires_grad_()
    expected = F.local_response_norm(wide, size, 0.02 * size, beta, 1.5)
    expected.backward(upstream.double())
    found = norm_on_gpu.normalise(x, size, 0.02, beta, 1.5)
    gradient = norm_on_gpu.normalise_backward(upstream, x, size, 0.02, beta, 1.5)
    assert found.dtype == gradient.dtype == kind and found.stride() == x.stride()
    pairs = ((found, expected.detach()), (gradient, wide.grad))
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)
layouts = (torch.contiguous_format, torch.channels_last)
errors = {
    f"{shape} {size} {beta} {layout}": error(shape, size, beta, layout)
    for shape, size, beta in (((2, 7, 3, 5), 1, 0.75), ((2, 7, 3, 5), 4, 0.5), ((1, 1, 4, 4), 5, 0.75),
                              ((3, 48, 5, 5), 5, 0.75), ((2, 3, 4, 4), 9, 1.2))
    for layout in layouts
}
half = error((2, 16, 3, 3), 5, 0.75, torch.channels_last, torch.bfloat16)
huge = norm_on_gpu.normalise(torch.tensor([[0.0, 1e30, -2.0]]), 3, 1e-4, 0.75, 2.0)
print(json.dumps({"errors": errors, "half": half, "huge": huge.tolist()}))
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from alexnet_core.model import norm_on_gpu
constants = {"inner": 1, "maps": 48, "before": 2, "size": 5, "block": norm_on_gpu.BLOCK}
kernels = ((norm_on_gpu._forward, ("x", "result")), (norm_on_gpu._backward, ("gradient", "x", "result")))
for capability, kind in ((75, "fp32"), (90, "bf16"), (100, "fp32")):
    for kernel, pointers in kernels:
        signature = dict.fromkeys(kernel.arg_names, "fp32") | dict.fromkeys(pointers, "*" + kind)
        signature |= {"elements": "i32"} | dict.fromkeys(constants, "constexpr")
        places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        source = ASTSource(kernel, signature, constexprs=places)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": True})
        print(capability, kind, len(made.asm["cubin"]))
"""


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernel_equals_torch_in_both_directions_and_layouts() -> None:
    outcome = json.loads(run(INTERPRETED, TRITON_INTERPRET="1"))
    assert len(outcome["errors"]) == 10
    assert max(outcome["errors"].values()) < 2e-6
    assert outcome["half"] < 1e-2
    # 平方溢出时窗口内都归零，而不是 NaN
    assert outcome["huge"] == [[0.0, 0.0, 0.0]]


def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    # 一个进程编译全部：每个进程载入 torch 与 triton 就要四秒
    lines = [line.split() for line in run(COMPILED, TRITON_CACHE_DIR=str(tmp_path)).splitlines()]
    both = [("75", "fp32"), ("90", "bf16"), ("100", "fp32")]
    assert [(capability, kind) for capability, kind, _ in lines] == [target for target in both for _ in range(2)]
    assert min(int(size) for _, _, size in lines) > 1000
