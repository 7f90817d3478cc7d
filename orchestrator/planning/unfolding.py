"""From a study and a request to a plan: everything the user gave is validated here."""

from __future__ import annotations

import argparse
from dataclasses import replace

from alexnet_core.data.dataset import DataSummary
from alexnet_core.data.loading import summarise_data
from orchestrator.errors import LabError
from orchestrator.planning.more_epochs import find_extensions
from orchestrator.planning.plan import TUNING_SEED, Plan
from orchestrator.planning.retuning import retune_of, with_retuning
from orchestrator.records.evaluations import evaluations_on_record, lost_weights
from orchestrator.request import planned_seeds, with_sweep
from orchestrator.tables.tables import done_states
from search_spaces.study import Recipe, Study
from search_spaces.trial import base_config, check_images, parse_override, unfold


def data_source(study: Study, options: argparse.Namespace) -> str:
    """Returns where the images of a study's recipe come from."""
    return study.recipes[options.dataset].data.source


def plan_study(study: Study, options: argparse.Namespace, known: DataSummary | None = None) -> Plan:
    """Validates everything the user gave and unfolds the study; `known` is what is in its data, if that is known."""
    recipe = _recipe(study, options.dataset)
    study = with_sweep(study.on(options.dataset), options)
    number, max_seeds = planned_seeds(study, recipe, options)
    root = options.data_root.resolve() if options.data_root is not None else None
    if root is not None and recipe.data.source == "digits":
        raise LabError("--data-root: the digits come with scikit-learn; leave it out, or name a --dataset", exit_code=2)
    cache = (options.results / "cache").resolve()
    summary = known if known is not None else summarise_data(recipe.data.source, root, cache)
    base = base_config(
        study,
        options.dataset,
        summary=summary,
        data_root=str(root) if root is not None else None,
        cache=str(cache),
        network_name=options.network,
        epochs=options.epochs,
        overrides=dict(parse_override(text) for text in options.set),
    )
    if number > TUNING_SEED:
        raise LabError(f"{number} seeds: those from {TUNING_SEED} on are for tuning", exit_code=2)
    seeds = tuple(range(number))
    trials = unfold(study, base, seeds)
    check_images(study, base, trials, summary.train)
    done = done_states(options.results, [trial.key for trial in trials], options.retry_failed)
    plan = Plan(
        study=study,
        dataset=options.dataset,
        recipe=recipe,
        summary=summary,
        base=base,
        trials=trials,
        seeds=seeds,
        sweep_points=options.sweep,
        done=done,
        evaluated=evaluations_on_record(options.results, trials),
        lost_weights=lost_weights(options.results, trials),
        retune=retune_of(study, base, options.retune, options.tuning_trials),
        max_seeds=max_seeds,
    )
    plan = replace(plan, extensions=find_extensions(options.results, plan.missing))
    return with_retuning(plan, options.results, options.retry_failed)


def _recipe(study: Study, dataset: str) -> Recipe:
    if dataset in study.not_asked:
        raise LabError(
            f"study {study.name} is not asked on {dataset}: {study.not_asked[dataset]}; "
            f"choose --dataset {' or '.join(study.recipes)}",
            exit_code=2,
        )
    if dataset not in study.recipes:
        raise LabError(
            f"study {study.name} has no recipe for data set {dataset!r}; it has: {', '.join(study.recipes)}",
            exit_code=2,
        )
    return study.recipes[dataset]
