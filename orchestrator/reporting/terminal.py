"""The verdict table of the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from orchestrator.judging import numbers
from orchestrator.judging.answer import Answer, ArmAnswer
from orchestrator.judging.scales import STATISTICS

ROOMY = 100
WORD_STYLES = {
    "supports": "bold green",
    "contradicts": "bold red",
    "higher": "bold yellow",
    "lower": "bold yellow",
    "equivalent": "bold cyan",
    "inconclusive": "bold magenta",
}


def answer_table(answer: Answer, width: int = ROOMY) -> Table:
    """Returns the verdict table for the terminal; errors in percent, differences in percentage points.

    Args:
        answer: The answer.
        width: Columns of the terminal; below 100 the intervals' levels, the sign-flip p and the seeds needed are left
            to the report.
    """
    roomy = width >= ROOMY
    table = Table(
        title=Text(f"{answer.study} on {answer.dataset}: {answer.question}", style="bold"),
        caption=Text(f"{answer.claim_source}: {answer.claim}") if answer.claim else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("arm", min_width=8, overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column(_metric_heading(answer), justify="right", no_wrap=True)
    compared = "difference" if STATISTICS[answer.statistic].scale == "points" else "ratio"
    level = f"{compared}\nlevel: interval" if roomy else f"{compared}\ninterval"
    table.add_column(level, justify="right", no_wrap=True)
    table.add_column("adjusted p\nsign-flip p\n(floor)" if roomy else "adj. p", justify="right", no_wrap=True)
    table.add_column(numbers.source_heading(answer), justify="right", no_wrap=True)
    table.add_column(f"verdict\non this\n{answer.judged_split} set", min_width=12)
    if roomy:
        table.add_column("seeds\nneeded", justify="right", no_wrap=True)
    for arm in answer.arms:
        table.add_row(*_terminal_cells(arm, roomy))
    return table


def _metric_heading(answer: Answer) -> str:
    if STATISTICS[answer.statistic].by_signs:
        return f"{'epochs' if answer.core is None else 'reports'}\nmedian, there"
    if answer.core is not None:
        return f"{answer.metric} {answer.unit}".rstrip() + "\nmean ± sd"
    return f"{'gap' if answer.metric.startswith('gap') else 'error'} %\nmean ± sd"


def _terminal_cells(arm: ArmAnswer, roomy: bool) -> list[Text]:
    # 没有检验过的差只用灰色
    style = "" if arm.interval is not None else "dim"
    difference, p = numbers.difference(arm), numbers.p_value(arm.adjusted_p)
    if arm.interval is not None:
        difference += f"\n{numbers.level(arm) + ': ' if roomy else ''}{numbers.interval(arm)}"
    if roomy and arm.sign_flip_p is not None:
        p += f"\n{numbers.flips(arm)}"
    row = [
        Text(arm.name),
        Text(str(arm.n)),
        Text(numbers.metric(arm)),
        Text(difference, style=style),
        Text(p),
        Text(numbers.claimed(arm)),
        Text(arm.word, style=WORD_STYLES.get(arm.word, "")),
    ]
    return [*row, Text(numbers.needed(arm))] if roomy else row
