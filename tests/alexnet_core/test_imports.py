from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import alexnet_core


def loaded_by(code: str) -> set[str]:
    program = f"{code}\nimport sys; print(*sorted(m for m in sys.modules if '.' not in m))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(shown.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "",
        ".configuration.network_spec",
        ".configuration.train_config",
        ".configuration.metrics",
        ".data.loading",
        ".training.checkpoint",
    ],
)
def test_describing_needs_no_torch(module: str) -> None:
    assert not loaded_by(f"import alexnet_core{module}") & {"torch", "ray", "optuna", "polars", "sklearn"}


def test_training_loads_no_compiler_and_no_orchestration() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import make_config, make_dataset
from alexnet_core import train
list(train(make_config(epochs=1), ("cpu", "cpu"), dataset=make_dataset()))
assert "torch._inductor" not in sys.modules and "torch._dynamo" not in sys.modules
"""
    assert not loaded_by(code) & {"ray", "optuna", "polars", "sklearn"}


def test_every_public_name_loads() -> None:
    for name in alexnet_core.__all__:
        assert getattr(alexnet_core, name) is not None
    assert callable(alexnet_core.network)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = alexnet_core.nothing
