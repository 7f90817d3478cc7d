"""A language model as a core: one block of attention over letters, judged by perplexity."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, Field
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from torch import Tensor, nn

from orchestrator import Core, Metric, Run

ALPHABET = "abcdefghijklmnopqrstuvwxyz ,.-()0123456789\n"
STEPS_PER_REPORT, BATCH = 40, 32


class Config(BaseModel, frozen=True):
    """What a study may set."""

    steps: int = Field(default=160, ge=STEPS_PER_REPORT, multiple_of=STEPS_PER_REPORT)
    learning_rate: float = Field(default=0.01, gt=0)
    width: int = Field(default=32, ge=4)
    context: int = Field(default=16, ge=2)
    attention: bool = True
    positions: bool = True


def text(data_root: Path | None) -> str:
    """Returns `text.txt` in the folder of `--data-root`; without one, what scikit-learn says of its data sets."""
    if data_root is not None:
        return (data_root / "text.txt").read_text(encoding="utf-8")
    return "".join(load().DESCR for load in (load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine))


def data(config: Config, data_root: Path | None) -> str:
    """Returns what stands for the data's content: another version of scikit-learn may say other things."""
    return hashlib.sha256(text(data_root).encode()).hexdigest()


class Letters(nn.Module):
    """Predicts the next letter at each place of a context."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(ALPHABET), config.width)
        self.places = nn.Embedding(config.context, config.width) if config.positions else None
        self.attention = nn.Linear(config.width, 3 * config.width) if config.attention else None
        self.hidden = nn.Sequential(
            nn.LayerNorm(config.width), nn.Linear(config.width, 4 * config.width), nn.GELU(),
            nn.Linear(4 * config.width, len(ALPHABET)),
        )  # fmt: skip

    def forward(self, letters: Tensor) -> Tensor:
        """Returns logits (batch, context, letters) of letters (batch, context)."""
        x = self.letters(letters)
        if self.places is not None:
            x = x + self.places.weight[: letters.shape[1]]
        if self.attention is not None:
            query, key, value = self.attention(x).chunk(3, dim=-1)
            x = x + nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.hidden(x)


def loss(model: nn.Module, windows: Tensor) -> Tensor:
    """Returns the cross-entropy in nats per letter of windows (batch, context + 1)."""
    return nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def train(config: Config, run: Run) -> Iterator[dict[str, float]]:
    """Trains on the first eight tenths of the text; the ninth chooses, the last judges. A report is 40 steps."""
    letters = torch.tensor([ALPHABET.index(letter) for letter in text(run.data_root).lower() if letter in ALPHABET])
    tenth = len(letters) // 10
    windows = [
        part.unfold(0, config.context + 1, 1) for part in letters.split([8 * tenth, tenth, len(letters) - 9 * tenth])
    ]

    model = Letters(config)
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate)
    start = 0
    if (state := run.load()) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]

    for step in range(start, config.steps):
        run.beat()
        batch_loss = loss(model, windows[0][torch.randint(len(windows[0]), (BATCH,))])
        optimizer.zero_grad()
        batch_loss.backward()
        optimizer.step()
        if (step + 1) % STEPS_PER_REPORT == 0:
            with torch.no_grad():
                validation, test = (loss(model, part[:: config.context]).item() for part in windows[1:])
            run.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
            yield {"validation_perplexity": math.exp(validation), "test_perplexity": math.exp(test)}


def sizes(config: Config) -> Mapping[str, float]:
    """Returns what a configuration costs: numbers of weights, and multiplications per context."""
    model = Letters(config)
    linear = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))
    pairs = 2 * config.context * config.width if config.attention else 0
    return {
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "multiply_adds": config.context * (linear + pairs),
    }


core = Core(
    name="letters",
    version=1,
    config=Config,
    train=train,
    data=data,
    sizes=sizes,
    metrics={"validation_perplexity": Metric(), "test_perplexity": Metric()},
    chosen_by="validation_perplexity",
    judged_by="test_perplexity",
    gpus=0,
)
