"""What to ask next where a study is not decided yet, and how long that would take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.judging.answer import Answer, Compared
from orchestrator.planning.estimate import Price
from orchestrator.planning.plan import Plan
from orchestrator.planning.summary import time_with_start
from orchestrator.planning.unfolding import no_looks_at
from orchestrator.planning.work_left import Training
from orchestrator.statistics.alpha_spending import FIRST_LOOK
from orchestrator.statistics.verdict import TOO_FEW
from search_spaces.core_config import planned_parts

MOST_AT_ONCE = 4
USUAL_MOST = 30
# 再多的种子没有人会练：该换的是问题或训练的长短
MOST_OFFERED = 100


def next_step(answer: Answer, plan: Plan, price: Callable[[], Price], *, together: bool = False) -> str:
    """Returns one line on what could be asked next; nothing where every arm is decided, or more seeds change nothing.

    Args:
        answer: The study's.
        plan: What was trained for it.
        price: Prices trainings, reckoned only where something is to be priced.
        together: Whether several studies were asked with one command.
    """
    if answer.null or answer.chosen_afterwards or answer.missing or plan.max_seeds is not None:
        return ""
    undecided = [one for one in answer.judged if one.word in ("inconclusive", TOO_FEW)]
    if not undecided:
        return ""
    names = ", ".join(arm.name for arm in undecided)
    options, seeds = _options(answer, plan, undecided, together)
    if seeds <= answer.seeds:
        return (
            f"No answer on {names}, but a difference of {answer.scale.effect(answer.smallest_effect)} would probably "
            "have shown with so many seeds: what there may be is smaller."
        )
    if seeds > max(MOST_OFFERED, MOST_AT_ONCE * answer.seeds):
        return (
            f"No answer on {names}: seeds scatter so much that a difference of "
            f"{answer.scale.effect(answer.smallest_effect)} needs {seeds} of them or more; a longer training scatters "
            "less, and a recipe with a larger smallest_effect asks for less."
        )
    again = f"No answer yet on {names}: the same command with {options}"
    cost = price()(_further(plan, answer.seeds, seeds))
    if cost.unknown == cost.trials:
        return f"{again} goes on; how long such trials take was not measured here yet."
    most = "at most " if "auto" in options else ""
    return f"{again} would take {most}{time_with_start(cost)}."


def _options(answer: Answer, plan: Plan, undecided: Sequence[Compared], together: bool) -> tuple[str, int]:
    """The options that ask for more seeds, and how many those are at most."""
    # 逐个看种子的命令，不能同时扫描、再调参或问几个研究
    may_be_auto = not (together or plan.sweep_points or plan.retune or no_looks_at(plan.study, plan.recipe))
    if may_be_auto and answer.seeds < FIRST_LOOK - 1 and not answer.looks:
        # 看过一次固定的种子数之后，规则就不能再换成逐个看
        return f"--seeds auto --max-seeds {USUAL_MOST}", USUAL_MOST
    ranges = [arm.seeds_needed for arm in undecided if arm.seeds_needed is not None]
    if not ranges:
        seeds = max(plan.recipe.seeds, 2 * answer.seeds)
        return f"--seeds {seeds}", seeds
    fewest, most = (max(ends) for ends in zip(*ranges, strict=True))
    seeds = most if most <= MOST_AT_ONCE * answer.seeds else max(fewest, 2 * answer.seeds)
    return f"--seeds {seeds}", seeds


def _further(plan: Plan, done: int, seeds: int) -> list[Training]:
    """What so many seeds would train beside those that are done."""
    # 有的 arm 是同一批 trial，只是另看一遍：只练一次
    first = {trial.key: trial.config for trial in plan.trials if trial.seed == 0}.values()
    return [Training(config, planned_parts(config)) for _ in range(seeds - done) for config in first]
