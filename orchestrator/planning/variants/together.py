"""Several plans run as one: all studies (`--study paper`), or one study on several data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, count

from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.configuration.wording import counted
from orchestrator.choices import PAPER
from orchestrator.planning.plan import Plan
from orchestrator.planning.variants.controls import size_of
from search_spaces.arm import LONGEST_NAME, Arm, Claim
from search_spaces.core_config import TrialConfig
from search_spaces.study import Recipe, Study


def combined_plan(plans: Sequence[Plan], recipe: Recipe, *, by_dataset: bool = False) -> Plan:
    """Returns one plan of the trials of all studies, seed by seed, each trial once.

    Args:
        plans: The studies' plans, on one data set; or those of one study on several.
        recipe: One of theirs, for what the display shows.
        by_dataset: Whether they are one study on several data sets, which its arms are called by.
    """
    labels = {id(plan): plan.dataset if by_dataset else plan.study.name for plan in plans}
    names = names_together([(labels[id(plan)], arm.name) for plan in plans for arm in plan.study.arms])
    baselines = {trial.key for plan in plans for trial in plan.trials if trial.arm == plan.study.compared_with}
    planned: set[tuple[str, int]] = set()
    arms: dict[str, Arm] = {}
    datasets: dict[str, str] = {}
    trials = []
    for seed in sorted({seed for plan in plans for seed in plan.seeds}):
        for plan in plans:
            for trial in (trial for trial in plan.trials if trial.seed == seed):
                if (trial.key, trial.views) in planned:
                    continue
                # 共享的 trial 挂在第一个想要它的研究名下
                name = names[labels[id(plan)], trial.arm]
                planned.add((trial.key, trial.views))
                datasets[name] = plan.dataset
                arms.setdefault(name, plan.study.arm(trial.arm).model_copy(update={"name": name}))
                trials.append(replace(trial, arm=name))
    first = plans[0]
    claims = {
        "name": PAPER,
        "question": f"What do {counted(len(plans), 'study', 'studies')} of the paper's claims say?",
        "source": "the paper",
        "claim": Claim(statement="All claims of the paper.", source="Krizhevsky, Sutskever, Hinton 2012"),
    }
    study = Study.model_construct(
        **(dict(first.study) if by_dataset else claims)
        | {"baseline": trials[0].arm, "arms": tuple(arms.values()), "recipes": {first.dataset: recipe}}
    )
    seeds = tuple(sorted({seed for plan in plans for seed in plan.seeds}))
    # 再调参各归各的研究：合起来的计划只有 arm
    # 磁盘够不够，看最大的网络
    base = max((plan.base for plan in plans), key=_parameters)
    return replace(
        first,
        study=study,
        base=base,
        trials=tuple(trials),
        seeds=seeds,
        sweep_points=0,
        retune=None,
        further=(),
        datasets=datasets if by_dataset else {},
        together=names,
        needed=tuple(dict.fromkeys(trial.arm for trial in trials if trial.key in baselines)),
    )


def _parameters(base: TrialConfig) -> int:
    return size_of(base, "parameters") if isinstance(base, TrainConfig) else 0


def names_together(arms: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Returns how arms are called where several studies, or several data sets, run together; no two alike.

    Args:
        arms: The study, or the data set, and the arm there.
    """
    names: dict[tuple[str, str], str] = {}
    for label, arm in arms:
        whole = f"{label}-{arm}"
        # 截短，或名字里本来的连字符，会让两个 arm 同名
        numbered = (f"{whole[: LONGEST_NAME - len(end)]}{end}" for end in chain([""], (f"-{n}" for n in count(2))))
        names[label, arm] = next(name for name in numbered if name not in names.values())
    return names
