"""Optuna's samplers with every argument written out, each ask seeded by (search, position)."""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler

from orchestrator.choices import SamplerName
from orchestrator.sweeps.search import Search
from search_spaces.space import CategoricalParameter, FloatParameter, Sweep, grid_points

# 记录在案的采样器参数：Optuna 5 改过默认值，所以一个不漏地写出
SAMPLER_ARGUMENTS: dict[SamplerName, dict[str, Any]] = {
    "tpe": {
        "n_startup_trials": 10,
        "n_ei_candidates": 24,
        "multivariate": True,
        "group": False,
        "constant_liar": True,
    },
    "cmaes": {
        "n_startup_trials": 1,
        "popsize": None,
        "consider_pruned_trials": False,
        "use_separable_cma": False,
        "with_margin": False,
        "lr_adapt": False,
        "warn_independent_sampling": False,
    },
    "gp": {"n_startup_trials": 10, "deterministic_objective": False, "warn_independent_sampling": False},
    "random": {},
    "qmc": {
        "qmc_type": "sobol",
        "scramble": True,
        "warn_asynchronous_seeding": False,
        "warn_independent_sampling": False,
    },
    "grid": {},
    "nsga2": {"population_size": 20, "mutation_prob": None, "crossover_prob": 0.9, "swapping_prob": 0.5},
}
# 这些采样器的状态藏在 Optuna 的 trial 里：续跑时必须按原来的次序重新提问一遍
REPLAYED: frozenset[str] = frozenset({"cmaes", "qmc", "nsga2"})
# 历史再长，一次提问就比训练还慢（tests/benchmarks/sweeps.py 实测）；其后的点随机抽取
MOST_TOLD: dict[str, int] = {"tpe": 3000, "gp": 100}


def make_sampler(search: Search, position: int, attempt: int = 0, *, by_random: bool = False) -> BaseSampler:
    """Returns the sampler of one ask.

    Args:
        search: Whose sampler; its name and seed are hashed with the position, so that a resumed run goes on as an
            uninterrupted one would.
        position: Number of the ask, from 0.
        attempt: 1 and later where an earlier draw at this position was a point that is known already.
        by_random: Draw at random, because the sampler keeps to points that are known.
    """
    arguments = SAMPLER_ARGUMENTS[search.sampler]
    seed = _seed(search, f"{position}" if attempt == 0 else f"{position}\n{attempt}")
    # 网格的点由队列给出，采样器不起作用
    by_random |= search.sampler in ("random", "grid") or position >= MOST_TOLD.get(search.sampler, position + 1)
    if by_random:
        return optuna.samplers.RandomSampler(seed=seed)
    if search.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, **arguments)
    if search.sampler == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, **arguments)
    if search.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, **arguments)
    if search.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # 同一条序列要求每次提问都用同一个种子
        return optuna.samplers.QMCSampler(seed=_seed(search, "sequence"), **arguments)


def _seed(search: Search, what: str) -> int:
    digest = hashlib.sha256(f"{search.name}\n{search.seed}\n{what}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def grid_order(search: Search) -> list[dict[str, Any]]:
    """Returns the points of the grid in the order in which they are asked: shuffled by the search's seed."""
    points = grid_points(search.space)
    random.Random(_seed(search, "grid")).shuffle(points)
    return points


def distributions(space: Sweep) -> dict[str, BaseDistribution]:
    """Returns Optuna's distributions of a space's parameters."""
    made: dict[str, BaseDistribution] = {}
    for path, parameter in space.parameters.items():
        if isinstance(parameter, CategoricalParameter):
            made[path] = CategoricalDistribution(list(parameter.choices))
        elif isinstance(parameter, FloatParameter):
            made[path] = FloatDistribution(parameter.low, parameter.high, log=parameter.log)
        else:
            made[path] = IntDistribution(parameter.low, parameter.high, log=parameter.log)
    return made


def sampler_facts(search: Search) -> Mapping[str, Any]:
    """Returns what is recorded of a search: sampler, arguments, seed, space, objectives' versions."""
    return {
        "sampler": search.sampler,
        "arguments": SAMPLER_ARGUMENTS[search.sampler],
        "random_from_position": MOST_TOLD.get(search.sampler),
        "seed": search.seed,
        "second_objective": search.second,
        "trial_seed": search.trial_seed,
        "space": search.space.model_dump(mode="json"),
        "optuna": optuna.__version__,
    }


def quiet_optuna() -> None:
    """Leaves the terminal to the study's own table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
