"""How much each parameter of a sweep explains of the validation error: fANOVA, and its spread over seeds.

Hutter, Hoos, Leyton-Brown 2014, as in `optuna.importance`; the forests are scikit-learn's.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from orchestrator.judging.answer import ParameterImportance
from orchestrator.sweeps.samplers import distributions, quiet_optuna
from search_spaces.space import Sweep

ESTIMATOR_SEEDS = range(5)
TREES, DEPTH = 16, 64
FEWEST_POINTS = 10
# fANOVA 的代价随点数平方增长：100 点一次 1.1 秒，1000 点 51 秒（两核机上实测）
MOST_POINTS = 100


def importance(space: Sweep, points: Sequence[tuple[Mapping[str, Any], float]]) -> tuple[ParameterImportance, ...]:
    """Returns each parameter's share of the variance, the largest first; nothing below 10 points.

    Args:
        space: The sweep's parameters.
        points: (parameters, validation error) of the finished points, in a fixed order. Of more than 100 each seed of
            the estimator sees a sample of its own.
    """
    if len(points) < FEWEST_POINTS:
        return ()
    quiet_optuna()
    by_seed = [_shares(space, points, seed) for seed in ESTIMATOR_SEEDS]
    spread = [
        ParameterImportance(parameter=path, mean=fmean(shares), sd=stdev(shares), by_seed=shares)
        for path in space.parameters
        if (shares := tuple(float(seed_shares.get(path, 0.0)) for seed_shares in by_seed))
    ]
    return tuple(sorted(spread, key=lambda entry: (-entry.mean, entry.parameter)))


def _shares(space: Sweep, points: Sequence[tuple[Mapping[str, Any], float]], seed: int) -> Mapping[str, float]:
    shown = points if len(points) <= MOST_POINTS else random.Random(seed).sample(list(points), MOST_POINTS)
    study = optuna.create_study()
    ranges = distributions(space)
    for parameters, error in shown:
        study.add_trial(create_trial(params=dict(parameters), distributions=ranges, value=error))
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=seed))
