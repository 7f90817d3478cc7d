"""What a training process asks of its libraries is asked before torch is loaded, and the user's own choice stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
import alexnet_core.__main__
assert "torch" not in sys.modules
from alexnet_core.process.memory import settle_process
settle_process()
print(os.environ["GOMP_SPINCOUNT"])
"""


def spin_count(**variables: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    path = os.pathsep.join(part for part in sys.path if part)
    environment = {**inherited, "PYTHONPATH": path, **variables}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.strip()


@pytest.mark.slow
def test_idle_threads_sleep_sooner_unless_the_user_says_otherwise() -> None:
    assert spin_count() == "10000"
    assert spin_count(GOMP_SPINCOUNT="7") == "7"
