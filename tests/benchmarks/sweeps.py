"""How long a sampler takes for one ask, by how much it was told: why TPE and GP hand over to random points.

`python -m tests.benchmarks.sweeps [--told 100,1000]` prints a table of milliseconds per ask, in memory, beside a spin
loop's time.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence

import optuna
from optuna.trial import create_trial

from orchestrator.choices import SamplerName
from orchestrator.sweeps.samplers import MOST_TOLD, distributions, make_sampler
from orchestrator.sweeps.search import Search
from search_spaces.study import load_study
from tests.made_records import make_config

TOLD: dict[SamplerName, tuple[int, ...]] = {
    "tpe": (100, 1000, 3000, 10_000),
    "cmaes": (100, 1000, 3000, 10_000),
    "qmc": (100, 1000, 3000, 10_000),
    "gp": (20, 50, 100),
}
ASKS = 5


def milliseconds_per_ask(sampler: SamplerName, told: int) -> float:
    """The mean of five asks after `told` random points over the four constants of the response norm."""
    space = load_study("lrn").sweep
    assert space is not None
    search = Search("benchmark/sweep", space, make_config(), told + ASKS, sampler=sampler)
    study, ranges, generator = optuna.create_study(), distributions(space), random.Random(0)
    randomly = optuna.samplers.RandomSampler(seed=0)
    for _ in range(told):
        study.sampler = randomly
        point = {
            name: randomly.sample_independent(study, _blank(), name, distribution)
            for name, distribution in ranges.items()
        }
        study.add_trial(create_trial(params=point, distributions=ranges, value=generator.random()))
    started = time.perf_counter()
    for ask in range(ASKS):
        # 换手之前的采样器：位置取 0
        study.sampler = make_sampler(search, 0, ask)
        study.tell(study.ask(ranges), generator.random())
    return 1000 * (time.perf_counter() - started) / ASKS


def _blank() -> optuna.trial.FrozenTrial:
    return create_trial(state=optuna.trial.TrialState.RUNNING)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sweeps")
    parser.add_argument("--told", help="numbers of points for every sampler (default: up to 10,000, GP up to 100)")
    told = parser.parse_args(arguments).told
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    started = time.perf_counter()
    sum(range(10_000_000))
    print(f"spin loop: {time.perf_counter() - started:.2f} s; random from: {MOST_TOLD}")
    for sampler, usual in TOLD.items():
        sizes = usual if told is None else tuple(int(text) for text in told.split(","))
        line = ", ".join(f"{told}: {milliseconds_per_ask(sampler, told):.1f}" for told in sizes)
        print(f"{sampler}: ms per ask after so many points: {line}", flush=True)


if __name__ == "__main__":
    main()
