"""scikit-learn as a core: a forest that grows ten trees per report."""

from collections.abc import Iterator

from pydantic import BaseModel, Field
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from orchestrator import Core, Metric, Run

TREES_PER_REPORT = 10


class Config(BaseModel, frozen=True):
    """What a study may set."""

    trees: int = Field(default=50, ge=1)
    features: float = Field(default=0.125, gt=0, le=1)
    depth: int | None = Field(default=None, ge=1)
    bootstrap: bool = True


def train(config: Config, run: Run) -> Iterator[dict[str, float]]:
    """Grows a forest on half of the digits, a quarter chooses and a quarter judges.

    A forest is no tensors and arrays, so nothing is saved: a trial that is interrupted begins again.
    """
    x, y = load_digits(return_X_y=True)
    train_rows, validation, test = slice(0, None, 2), slice(1, None, 4), slice(3, None, 4)
    forest = RandomForestClassifier(
        max_features=config.features,
        max_depth=config.depth,
        bootstrap=config.bootstrap,
        warm_start=True,
        random_state=run.seed,
    )
    for trees in [*range(TREES_PER_REPORT, config.trees, TREES_PER_REPORT), config.trees]:
        run.beat()
        forest.set_params(n_estimators=trees).fit(x[train_rows], y[train_rows])
        errors = {"validation_error": validation, "test_error": test}
        yield {name: 1 - forest.score(x[rows], y[rows]) for name, rows in errors.items()}


error = Metric("%", scale=100)
core = Core(
    name="forest",
    version=1,
    config=Config,
    train=train,
    metrics={"validation_error": error, "test_error": error},
    chosen_by="validation_error",
    judged_by="test_error",
    gpus=0,
)
