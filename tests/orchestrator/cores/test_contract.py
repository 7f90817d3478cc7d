"""What a core declares is checked where it is declared, in one line; the words load no large library."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from orchestrator import Core, Metric, Run
from orchestrator.cores.contract import ContractError, Stopped
from orchestrator.cores.reports import checked_report


class Config(BaseModel):
    model_config = ConfigDict(frozen=True)

    width: int = 8


class Thawed(BaseModel):
    pass


class Lacking(BaseModel):
    model_config = ConfigDict(frozen=True)

    width: int


class Wrong(BaseModel):
    model_config = ConfigDict(frozen=True, validate_default=True)

    width: int = Field(default=0, ge=1)


def train(config: Config, run: Run) -> Iterator[dict[str, float]]:
    yield {"loss": float(config.width)}


GOOD: dict[str, Any] = {
    "name": "mine",
    "version": 1,
    "config": Config,
    "train": train,
    "metrics": {"loss": Metric()},
    "chosen_by": "loss",
    "judged_by": "loss",
}
TWO = {"loss": Metric(), "error": Metric()}


def test_a_core_trains_by_hand_without_anything_of_ours() -> None:
    core = Core(**GOOD)
    assert list(core.train(core.config(), Run(seed=3))) == [{"loss": 8.0}]
    run = Run(seed=3, goes_on=lambda: False)
    assert (run.seed, run.devices, run.data_root, run.load()) == (3, ("cpu",), None, None)
    with pytest.raises(Stopped):
        run.beat()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"name": "My Core"}, "name is short, of lower-case letters, digits, - and _, not 'My Core'"),
        ({"version": 0}, "version is a whole number from 1 on, not 0"),
        ({"version": True}, "version is a whole number from 1 on, not True"),
        ({"gpus": -1}, "gpus is a whole number from 0 on, not -1"),
        ({"config": dict}, "config is a pydantic model (a class), not <class 'dict'>"),
        ({"config": Thawed}, "config must be frozen"),
        ({"config": Lacking}, "config: width has no default; every field needs one"),
        ({"config": Wrong}, "config: its own defaults are not valid"),
        ({"metrics": {}}, "metrics names what every report has"),
        ({"metrics": {"top 1": Metric()}}, "metrics: 'top 1' is no name"),
        ({"metrics": {1: Metric("%")}}, "metrics: 1 is no name; use letters"),
        ({"metrics": {"loss": "%"}}, "metrics: loss is a Metric, not '%'"),
        ({"judged_by": "accuracy"}, "judged_by: 'accuracy' is none of the metrics: loss"),
        ({"chosen_by": "accuracy"}, "chosen_by: 'accuracy' is none of the metrics: loss"),
        (
            {"metrics": TWO, "chosen_by": ""},
            "chosen_by: of several metrics name the one by which sweeps and best choose: loss, error",
        ),
        (
            {"metrics": TWO, "judged_by": ""},
            "judged_by: of several metrics name the one by which verdicts go: loss, error",
        ),
        ({"train": None}, "train is a function, not None"),
        ({"sizes": 3}, "sizes is a function, not 3"),
        ({"added_later": {"depth": 1}}, "added_later: 'depth' is no field of config"),
        ({"randomness": "order"}, "randomness names sources in lower-case letters, digits and _, such as ('order',)"),
        ({"randomness": ("Order",)}, "randomness names sources in lower-case letters"),
        ({"randomness": ("seed",)}, "randomness names sources in lower-case letters"),
        ({"randomness": ("order", "split", "order")}, "randomness names order twice"),
        (
            {"version": 0, "config": Lacking, "judged_by": "error", "sizes": 3},
            "version is a whole number from 1 on, not 0; config: width has no default; every field needs one; "
            "judged_by: 'error' is none of the metrics: loss; sizes is a function, not 3",
        ),
    ],
)
def test_what_breaks_the_contract_is_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ContractError) as caught:
        Core(**GOOD | changes)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_the_only_metric_chooses_and_judges_where_neither_is_said() -> None:
    core = Core(name="mine", version=1, config=Config, train=train, metrics={"loss": Metric()})
    assert (core.chosen_by, core.judged_by) == ("loss", "loss")


def test_a_source_is_drawn_by_the_trials_seed_or_its_own_and_the_split_by_0() -> None:
    run = Run(seed=3, seeds={"order": 5}, sources=("initialisation", "order", "split"))
    assert [run.seed_of(source) for source in ("initialisation", "order", "split")] == [3, 5, 0]
    assert Run(seed=3, seeds={"split": 5}).seed_of("split") == 5
    with pytest.raises(ContractError, match=r"run.seed_of\('oder'\): declare it, .* has initialisation, order, split"):
        run.seed_of("oder")
    with pytest.raises(ContractError, match="has none"):
        Run(sources=()).seed_of("order")


@pytest.mark.parametrize("wrong", [{"better": "more"}, {"scale": 0}, {"scale": float("inf")}, {"unit": 3}])
def test_a_metric_is_shown_in_a_unit_and_has_a_better_side(wrong: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match=f"a metric's {next(iter(wrong))} is "):
        Metric(**wrong)


class _Tensor:
    """As numpy and torch have it: `item` gives the one element, or raises."""

    def __init__(self, *values: float) -> None:
        self._values = values

    def item(self) -> float:
        if len(self._values) != 1:
            raise ValueError("a Tensor with 2 elements cannot be converted to Scalar")
        return self._values[0]

    def __repr__(self) -> str:
        return f"tensor({list(self._values)})"


METRICS = {"validation_error": Metric(), "test_error": Metric()}


@pytest.mark.parametrize("value", [0.25, _Tensor(0.25)])
def test_a_report_becomes_plain_numbers_in_the_declared_order(value: Any) -> None:
    report = checked_report({"test_error": 1, "validation_error": value}, METRICS)
    assert list(report.items()) == [("validation_error", 0.25), ("test_error", 1.0)]


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (None, "a report is a mapping of metric names to numbers, not None"),
        ({"test_error": 1.0}, "a report lacks the metric 'validation_error'; it has 'test_error'"),
        ({"valid_error": 1.0, "test_error": 1.0}, "a report lacks the metric 'validation_error'; it has 'valid_error'"),
        (
            {},
            "a report lacks the metric 'validation_error'; it has nothing; a report lacks the metric 'test_error'; it",
        ),
        (
            {"valid_error": 1, "test_error": "1"},
            "a report lacks the metric 'validation_error'; it has 'valid_error'; metric 'test_error' is a number, not ",
        ),
        ({"validation_error": 1, "test_error": 1, "lr": 1}, "a report has 'lr', which is no declared metric: "),
        ({"validation_error": "0.1", "test_error": 1}, "metric 'validation_error' is a number, not '0.1'"),
        ({"validation_error": True, "test_error": 1}, "metric 'validation_error' is a number, not True"),
        ({"validation_error": _Tensor(1, 2), "test_error": 1}, "metric 'validation_error' is one number, not tensor("),
    ],
)
def test_a_report_of_other_names_or_values_is_refused_saying_which(report: Any, line: str) -> None:
    with pytest.raises(ContractError) as caught:
        checked_report(report, METRICS)
    assert str(caught.value).startswith(line)


def test_the_words_of_a_core_load_neither_torch_nor_ray() -> None:
    libraries = ("torch", "ray", "polars", "numpy", "optuna")
    program = (
        f"import sys\nfrom orchestrator import Core, Metric, Run\nprint([m for m in {libraries} if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
