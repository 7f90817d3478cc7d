"""Lightning's Trainer as a core: it fits epoch by epoch, so that each can be reported and saved."""

import logging
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from pydantic import BaseModel, Field
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from orchestrator import Core, Metric, Run

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Config(BaseModel, frozen=True):
    """What a study may set."""

    epochs: int = Field(default=6, ge=1)
    learning_rate: float = Field(default=0.01, gt=0)
    decay: float = Field(default=0.05, ge=0)
    decoupled: bool = True
    amsgrad: bool = False


class Classifier(lightning.LightningModule):
    """A module as any other, but for its optimizer, which is made once: each call of `fit` asks for it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        kind = torch.optim.AdamW if config.decoupled else torch.optim.Adam
        self.optimizer = kind(
            self.parameters(), config.learning_rate, weight_decay=config.decay, amsgrad=config.amsgrad
        )

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Returns the loss of a batch."""
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns the optimizer, with all that it has learnt in earlier epochs."""
        return self.optimizer


class Beat(Callback):
    """Tells after each batch that the training lives; it is stopped here."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_batch_end(self, *_: object) -> None:
        """Called by the Trainer."""
        self.run.beat()


def train(config: Config, run: Run) -> Iterator[dict[str, float]]:
    """Trains on three fifths of the digits, chooses on one and is judged on the last.

    Each epoch has a Trainer of its own: one that goes on draws other random numbers than one that begins.
    """
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    fifth = torch.arange(len(y)) % 5
    loader = DataLoader(TensorDataset(x[fifth < 3], y[fifth < 3]), batch_size=64, shuffle=True)

    module, start = Classifier(config), 0
    if (state := run.load()) is not None:
        module.load_state_dict(state["module"])
        module.optimizer.load_state_dict(state["optimizer"])
        start = state["epoch"]

    for epoch in range(start, config.epochs):
        lightning.Trainer(max_epochs=1, callbacks=[Beat(run)], **QUIET).fit(module, loader)
        with torch.no_grad():
            right = (module.network(x).argmax(1) == y).double()
        run.save({"module": module.state_dict(), "optimizer": module.optimizer.state_dict(), "epoch": epoch + 1})
        yield {
            "validation_accuracy": right[fifth == 3].mean().item(),
            "test_accuracy": right[fifth == 4].mean().item(),
        }


accuracy = Metric("%", better="higher", scale=100)
core = Core(
    name="lightning_digits",
    version=1,
    config=Config,
    train=train,
    metrics={"validation_accuracy": accuracy, "test_accuracy": accuracy},
    chosen_by="validation_accuracy",
    judged_by="test_accuracy",
    gpus=0,
)
