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


def test_describing_needs_no_torch() -> None:
    rooms = ("configuration.network_spec", "configuration.train_config", "configuration.metrics", "data.loading")
    modules = ["alexnet_core", *(f"alexnet_core.{module}" for module in (*rooms, "training.checkpoint"))]
    # 一个进程依次导入：谁带来了 torch，谁就在它的那一行里
    show = "print({!r}, *sorted(m for m in sys.modules if '.' not in m))"
    program = ["import sys", *(f"import {module}; {show.format(module)}" for module in modules)]
    done = subprocess.run([sys.executable, "-c", "\n".join(program)], capture_output=True, text=True, check=True)
    heavy = {"torch", "ray", "optuna", "polars", "sklearn"}
    loaded = {line.split()[0]: heavy & set(line.split()[1:]) for line in done.stdout.splitlines()}
    assert loaded == {module: set() for module in modules}


@pytest.mark.slow
def test_training_loads_no_compiler_and_no_orchestration() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import make_config, make_dataset
from alexnet_core import train
list(train(make_config(epochs=1), ("cpu", "cpu"), dataset=make_dataset()))
assert "torch._inductor" not in sys.modules and "torch._dynamo" not in sys.modules
"""
    assert not loaded_by(code) & {"ray", "optuna", "polars", "sklearn", "sympy"}


def test_every_public_name_loads() -> None:
    for name in alexnet_core.__all__:
        assert getattr(alexnet_core, name) is not None
    assert callable(alexnet_core.network)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = alexnet_core.nothing
