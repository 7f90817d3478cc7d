"""A regression as a core: judged by its RMSE, on scikit-learn's diabetes patients or on a table of your own."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import BaseModel, Field
from safetensors.torch import save_file
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

from orchestrator import Core, Metric, Run

LOSSES = {"squared": nn.MSELoss(), "absolute": nn.L1Loss(), "huber": nn.HuberLoss()}


class Config(BaseModel, frozen=True):
    """What a study may set."""

    epochs: int = Field(default=30, ge=1)
    learning_rate: float = Field(default=0.01, gt=0)
    width: int = Field(default=16, ge=1)
    standardised: bool = True
    loss: Literal["squared", "absolute", "huber"] = "squared"


def table(data_root: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs and targets: of `table.csv` in the folder of `--data-root`, the last column being the target."""
    if data_root is None:
        return load_diabetes(return_X_y=True, scaled=False)
    rows = np.loadtxt(data_root / "table.csv", delimiter=",", skiprows=1)
    return rows[:, :-1], rows[:, -1]


def data(config: Config, data_root: Path | None) -> str:
    """Returns what stands for the data's content: with one number changed it is another trial."""
    return hashlib.sha256(b"".join(part.tobytes() for part in table(data_root))).hexdigest()


def scaled(values: Tensor, rows: Tensor) -> Tensor:
    """Returns columns of mean 0 and deviation 1 over some rows."""
    return (values - values[rows].mean(0)) / values[rows].std(0)


def train(config: Config, run: Run) -> Iterator[dict[str, float]]:
    """Trains on half of the rows, a quarter chooses and a quarter judges."""
    x, y = (torch.tensor(part, dtype=torch.float32) for part in table(run.data_root))
    quarter = torch.arange(len(y)) % 4
    training = quarter < 2
    mean, deviation = y[training].mean(), y[training].std()
    inputs = scaled(x, training) if config.standardised else x
    targets = (y - mean) / deviation

    model = nn.Sequential(nn.Linear(x.shape[1], config.width), nn.Tanh(), nn.Linear(config.width, 1), nn.Flatten(0))
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate)
    start = 0
    if (state := run.load()) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["epoch"]

    for epoch in range(start, config.epochs):
        rows = training.nonzero().flatten()
        for batch in rows[torch.randperm(len(rows))].split(32):
            run.beat()
            loss = LOSSES[config.loss](model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        with torch.no_grad():
            predicted = model(inputs) * deviation + mean
        squares = (predicted - y) ** 2
        seen = {"measured": y[quarter == 3], "predicted": predicted[quarter == 3]}
        run.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1, **seen})
        yield {
            "validation_rmse": squares[quarter == 2].mean().sqrt().item(),
            "test_rmse": squares[quarter == 3].mean().sqrt().item(),
        }


def export(config: Config, state: dict[str, Any], folder: Path) -> None:
    """Writes the weights alone, for `best --export FOLDER --core progression`."""
    save_file(state["model"], folder / "weights.safetensors")


def pictures(config: Config, state: dict[str, Any], folder: Path) -> None:
    """Draws the test rows for the report."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(state["measured"], state["predicted"], s=8)
    axes.set(xlabel="measured", ylabel="predicted")
    figure.savefig(folder / "measured_and_predicted.png")


core = Core(
    name="progression",
    version=1,
    config=Config,
    train=train,
    data=data,
    export=export,
    pictures=pictures,
    metrics={"validation_rmse": Metric("units"), "test_rmse": Metric("units")},
    chosen_by="validation_rmse",
    judged_by="test_rmse",
    gpus=0,
)
