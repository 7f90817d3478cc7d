"""The GPU's kernel of the response norm, calculated by triton's interpreter and compiled for GPUs that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton comes with torch's builds for GPUs only")

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
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from alexnet_core.model import norm_on_gpu
constants = {"inner": 1, "maps": 48, "before": 2, "size": 5, "block": norm_on_gpu.BLOCK}
for kernel, pointers in ((norm_on_gpu._forward, ("x", "result")), (norm_on_gpu._backward, ("gradient", "x", "result"))):
    signature = dict.fromkeys(kernel.arg_names, "fp32") | dict.fromkeys(pointers, "*" + sys.argv[2])
    signature |= {"elements": "i32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constexprs={(kernel.arg_names.index(n),): v for n, v in constants.items()})
    made = triton.compile(
        source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options={"enable_fp_fusion": True}
    )
    print(len(made.asm["cubin"]))
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernel_equals_torch_in_both_directions_and_layouts() -> None:
    found = json.loads(run(INTERPRETED, TRITON_INTERPRET="1"))
    assert len(found["errors"]) == 10
    assert max(found["errors"].values()) < 2e-6
    assert found["half"] < 1e-2
    # 平方溢出时窗口内都归零，而不是 NaN
    assert found["huge"] == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize(("capability", "kind"), [("75", "fp32"), ("90", "bf16"), ("100", "fp32")])
def test_kernel_compiles_for_gpus(capability: str, kind: str, tmp_path: Path) -> None:
    sizes = [int(line) for line in run(COMPILED, capability, kind, TRITON_CACHE_DIR=str(tmp_path)).split()]
    assert len(sizes) == 2
    assert min(sizes) > 1000
