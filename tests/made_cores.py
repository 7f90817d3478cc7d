"""A user's core and its study, written as a user would: for chaos and for tests that kill what trains."""

from __future__ import annotations

from pathlib import Path

CORE = '''
import time
from collections.abc import Iterator

import torch
from pydantic import BaseModel, ConfigDict

from orchestrator import Core, Metric, Run


class Config(BaseModel):
    model_config = ConfigDict(frozen=True)
    reports: int = 16
    rate: float = 0.1
    momentum: float = 0.0
    seconds: float = 0.4


def train(config: Config, run: Run) -> Iterator[dict[str, float]]:
    """Walks downhill in a noisy quadratic bowl; every report depends on all random numbers before it."""
    print(f"trains on {run.devices}, its data in {run.data_root}")
    place = torch.randn(20, dtype=torch.float64)
    optimizer = torch.optim.SGD([place.requires_grad_()], lr=config.rate, momentum=config.momentum)
    begin = 0
    state = run.load()
    if state is not None:
        with torch.no_grad():
            place.copy_(state["place"])
        optimizer.load_state_dict(state["optimizer"])
        begin = state["reports"]
    for report in range(begin, config.reports):
        for _ in range(8):
            run.beat()
            time.sleep(config.seconds / 8)
            loss = ((place + 0.1 * torch.randn(20, dtype=torch.float64)) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        run.save({"place": place.detach(), "optimizer": optimizer.state_dict(), "reports": report + 1})
        values = (place.detach() ** 2).sum().item(), (place.detach() ** 2)[::2].sum().item()
        yield {"validation_loss": values[0], "test_loss": values[1]}


core = Core(
    name="walk",
    version=1,
    config=Config,
    train=train,
    metrics={"validation_loss": Metric(), "test_loss": Metric()},
    chosen_by="validation_loss",
    judged_by="test_loss",
    gpus=0,
)
'''
STUDY = """
core: walk.py
name: walk
question: Does momentum lower the loss of a walk in a noisy bowl?
source: this file
claim: {statement: The loss is lower., source: this file, direction: lower}
baseline: baseline
arms:
  - {name: baseline, title: plain gradient descent}
  - {name: momentum, title: with momentum, set: {momentum: 0.5}}
  - {name: slow, title: a tenth of the rate, set: {rate: 0.01}}
recipes:
  default: {seeds: 3, margin: 0.01, smallest_effect: 0.02}
"""


def write_walk(folder: Path) -> Path:
    """Writes the core and its study; returns the path of the study file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "walk.py").write_text(CORE)
    (folder / "walk.yaml").write_text(STUDY)
    return folder / "walk.yaml"
