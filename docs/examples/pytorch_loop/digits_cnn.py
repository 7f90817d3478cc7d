"""A plain PyTorch loop as a core: a small convolutional network on scikit-learn's 1,797 handwritten digits."""

from collections.abc import Iterator

import torch
from pydantic import BaseModel, Field
from sklearn.datasets import load_digits
from torch import nn

from orchestrator import Core, Metric, Run


class Config(BaseModel, frozen=True):
    """What a study may set: every number that was a constant, or an option, of the script."""

    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=0.05, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    width: int = Field(default=8, ge=1)
    batch_norm: bool = True


def network(config: Config) -> nn.Module:
    """Returns the network of a configuration."""
    norm = nn.BatchNorm2d(config.width) if config.batch_norm else nn.Identity()
    head = nn.Linear(config.width * 16, 10)
    return nn.Sequential(nn.Conv2d(1, config.width, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), head)


def train(config: Config, run: Run) -> Iterator[dict[str, float]]:
    """Trains on three fifths of the images, chooses on one and is judged on the last."""
    device = torch.device(run.devices[0])
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32, device=device).view(-1, 1, 8, 8) / 16
    y = torch.tensor(labels, device=device)
    fifth = torch.arange(len(y)) % 5
    rows = {"training": fifth < 3, "validation": fifth == 3, "test": fifth == 4}

    model = network(config).to(device)
    optimizer = torch.optim.SGD(model.parameters(), config.learning_rate, config.momentum)
    start = 0
    if (state := run.load()) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["epoch"]

    for epoch in range(start, config.epochs):
        model.train()
        of_training = rows["training"].nonzero().flatten()
        for batch in of_training[torch.randperm(len(of_training))].split(config.batch_size):
            run.beat()
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        model.eval()
        with torch.no_grad():
            right = (model(x).argmax(1) == y).double().cpu()
        run.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1})
        yield {f"{part}_accuracy": right[which].mean().item() for part, which in rows.items()}


accuracy = Metric("%", better="higher", scale=100)
core = Core(
    name="digits_cnn",
    version=1,
    config=Config,
    train=train,
    metrics={"training_accuracy": accuracy, "validation_accuracy": accuracy, "test_accuracy": accuracy},
    chosen_by="validation_accuracy",
    judged_by="test_accuracy",
)
