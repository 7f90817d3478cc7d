"""A training is seeded, checked report by report, and goes on where its state was written."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict

from orchestrator import Core, Metric, Run
from orchestrator.cores.contract import ContractError, Stopped
from orchestrator.cores.reports import checked_data, checked_sizes
from orchestrator.cores.states import states_in
from orchestrator.cores.training import Diverged, Place, Report, StateFolder, TrainingFacts, Watcher, train_core


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    reports: int = 5


def walk(config: Config, run: Run) -> Iterator[dict[str, Any]]:
    """A random walk that draws from all three generators; its place is its state."""
    place, start = 0.0, 0
    if (state := run.load()) is not None:
        place, start = state["place"], state["report"]
    for report in range(start, config.reports):
        run.beat()
        place += random.random() + np.random.normal() + torch.randn(1).item()
        run.save({"place": place, "report": report + 1})
        yield {"place": place}


CORE = Core(
    name="walk", version=1, config=Config, train=walk, metrics={"place": Metric()}, chosen_by="place", judged_by="place"
)


def trained(
    core: Core, folder: Path | None = None, seed: int = 0, stop_after: int = 99, attempt: int = 1
) -> list[Report]:
    states = None if folder is None else StateFolder(folder, attempt, least_seconds=0.0)
    with closing(train_core(core, core.config(), Place(seed), states)) as training:
        return list(islice(training, stop_after))


def numbers(reports: list[Report]) -> list[tuple[int, float]]:
    return [(report.number, report.metrics["place"]) for report in reports]


def test_a_seed_decides_all_numbers_and_another_gives_others() -> None:
    assert numbers(trained(CORE)) == numbers(trained(CORE))
    assert numbers(trained(CORE)) != numbers(trained(CORE, seed=1))
    # 与种子本身的含义无关：三个生成器各自的第一个数
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    first = random.random() + np.random.normal() + torch.randn(1).item()
    assert numbers(trained(CORE, seed=7))[0] == (1, first)


@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_stopped_after_any_report_and_gone_on_it_gives_the_same_numbers(tmp_path: Path, stop_after: int) -> None:
    straight = numbers(trained(CORE))
    before = trained(CORE, tmp_path, stop_after=stop_after)
    random.random(), np.random.normal(), torch.randn(3)
    after = trained(CORE, tmp_path, attempt=2)
    assert numbers(before) + numbers(after) == straight


def test_a_torn_state_is_passed_over_and_two_are_kept(tmp_path: Path) -> None:
    straight = numbers(trained(CORE))
    trained(CORE, tmp_path, stop_after=3)
    assert [path.name for path in states_in(tmp_path)] == ["0001-00000003.safetensors", "0001-00000002.safetensors"]
    newest = states_in(tmp_path)[0]
    newest.write_bytes(newest.read_bytes()[:200])
    assert numbers(trained(CORE, tmp_path, attempt=2)) == straight[2:]


def test_a_state_within_a_second_of_the_last_is_skipped_but_for_the_last_of_all(tmp_path: Path) -> None:
    now = [0.0]
    states = StateFolder(tmp_path, keep=99, clock=lambda: now[0])
    for report in train_core(CORE, Config(reports=6), Place(0), states):
        now[0] += 0.4 if report.number != 3 else 1.2
    numbers_written = [int(path.stem.split("-")[1]) for path in reversed(states_in(tmp_path))]
    assert numbers_written == [1, 4, 6]


def test_a_finished_training_gone_on_with_is_finished_still(tmp_path: Path) -> None:
    trained(CORE, tmp_path)
    assert trained(CORE, tmp_path, attempt=2) == []


def test_a_training_that_does_not_load_begins_at_report_one(tmp_path: Path) -> None:
    def deaf(config: Config, run: Run) -> Iterator[dict[str, Any]]:
        run.load = lambda: None  # type: ignore[method-assign]
        yield from walk(config, run)

    core = replace(CORE, train=deaf)
    straight = numbers(trained(CORE))
    trained(core, tmp_path, stop_after=2)
    assert numbers(trained(core, tmp_path, attempt=2)) == straight


def test_an_early_end_is_an_end_and_none_at_all_is_a_mistake() -> None:
    def early(config: Config, run: Run) -> Iterator[dict[str, Any]]:
        yield from islice(walk(config, run), config.reports // 2)

    assert len(trained(replace(CORE, train=early))) == 2

    def returning(value: object) -> Any:
        def train(config: Config, run: Run) -> Iterator[dict[str, Any]]:
            yield from early(config, run)
            return value

        return train

    for value, why in (("no gain\nin 2 reports", "no gain in 2 reports"), (None, ""), (walk, "")):
        facts = TrainingFacts()
        assert len(list(train_core(replace(CORE, train=returning(value)), Config(), Place(0), facts=facts))) == 2
        assert facts.ended_early == why

    def silent(config: Config, run: Run) -> Iterator[dict[str, Any]]:
        yield from ()

    with pytest.raises(ContractError, match="train has ended without a report"):
        trained(replace(CORE, train=silent))

    def no_generator(config: Config, run: Run) -> Any:
        return {"place": 1.0}

    with pytest.raises(ContractError, match="train is no generator: yield a mapping"):
        trained(replace(CORE, train=no_generator))


def test_a_number_that_is_not_finite_is_a_divergence_that_says_where() -> None:
    def exploding(config: Config, run: Run) -> Iterator[dict[str, Any]]:
        yield {"place": 1.0}
        yield {"place": float("nan")}

    training = train_core(replace(CORE, train=exploding), Config(), Place(0))
    assert next(training).number == 1
    with pytest.raises(Diverged, match="place is nan in report 2"):
        next(training)

    def soaring(config: Config, run: Run) -> Iterator[dict[str, Any]]:
        yield {"place": -1e200}

    # 有限也没有用：平方就溢出，均值和方差都没有
    with pytest.raises(Diverged, match=r"place is -1e\+200 in report 1"):
        next(train_core(replace(CORE, train=soaring), Config(), Place(0)))


def test_a_stop_reaches_the_training_at_its_next_beat_and_its_own_clean_up_runs() -> None:
    trail: list[str] = []

    def tidy(config: Config, run: Run) -> Iterator[dict[str, Any]]:
        try:
            yield from walk(config, run)
        finally:
            trail.append("tidied")

    facts = TrainingFacts()
    training = train_core(
        replace(CORE, train=tidy), Config(), Place(0), watcher=Watcher(goes_on=lambda: facts.beats < 2), facts=facts
    )
    with pytest.raises(Stopped):
        list(training)
    assert (facts.beats, facts.saves, trail) == (2, 2, ["tidied"])


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"parameters": -1}, "sizes: parameters is a number from 0 on, not -1"),
        ({"multiply_adds": float("nan")}, "sizes: multiply_adds is a number from 0 on, not nan"),
        ({"parameters": "12"}, "sizes: parameters is a number from 0 on, not '12'"),
        ({"flops": 3}, "sizes says 'flops'; it may say parameters and multiply_adds"),
        (7, "sizes returns a mapping of parameters and multiply_adds, not 7"),
    ],
)
def test_sizes_that_are_none_are_named(sizes: Any, complaint: str) -> None:
    with pytest.raises(ContractError) as error:
        checked_sizes(replace(CORE, sizes=lambda config: sizes), Config())
    assert str(error.value) == complaint


def test_sizes_are_plain_numbers_and_a_core_need_not_say_them() -> None:
    core = replace(CORE, sizes=lambda config: {"parameters": np.int64(3 * config.reports)})
    assert checked_sizes(core, Config()) == {"parameters": 15.0}
    assert checked_sizes(CORE, Config()) == {}


@pytest.mark.parametrize("what", ["sizes", "data"])
def test_what_a_function_of_a_core_prints_is_no_answer_and_what_it_raises_is_one_line(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(function: Callable[..., Any]) -> object:
        core = replace(CORE, **{what: function})
        return checked_sizes(core, Config()) if what == "sizes" else checked_data(core, Config(), None)

    def talks(*arguments: object) -> Any:
        print("counting")
        return {"parameters": 3} if what == "sizes" else "all of it"

    def refuses(*arguments: object) -> Any:
        raise ContractError("rate is too high")

    def leaves(*arguments: object) -> Any:
        sys.exit("enough")

    assert ask(talks) in ({"parameters": 3.0}, "all of it")
    assert capsys.readouterr() == ("", "counting\n")
    for function, line in ((refuses, "rate is too high"), (leaves, f"{what} raised SystemExit: enough (")):
        with pytest.raises(ContractError) as error:
            ask(function)
        assert str(error.value).startswith(line)
