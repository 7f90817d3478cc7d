"""The answer on the terminal: the verdict table, what it says in a sentence per arm, and the notes to what is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.judging import numbers
from orchestrator.judging.answer import Answer, Compared, ContrastAnswer
from orchestrator.judging.notes import in_unit, kinds_of_seeds, on_seeds_needed, on_top5
from orchestrator.judging.scales import STATISTICS
from orchestrator.output.fitting import cards, fits, fitting, print_text
from orchestrator.reporting.text_tables import (
    TextTable,
    confirmation_table,
    contrast_table,
    contrasts_in_words,
    variance_table,
    verdict_table,
)
from orchestrator.statistics.verdict import DOES_NOT, REPRODUCES

WORD_STYLES = {
    "supports": "bold green",
    "contradicts": "bold red",
    "higher": "bold yellow",
    "lower": "bold yellow",
    "equivalent": "bold cyan",
    REPRODUCES: "bold green",
    DOES_NOT: "bold red",
    "inconclusive": "bold magenta",
}


def print_answer(answer: Answer, console: Console) -> None:
    """Prints an answer: its question, the table of verdicts, the notes to what is shown, and a sentence per arm.

    Args:
        answer: The answer.
        console: Where to print; a table that is too wide for it becomes cards.
    """
    print_text(console, f"{answer.study} on {answer.dataset}: {answer.question}", style="bold")
    if answer.variance:
        _print_variance(answer, console)
        return
    tables = (answer_table(answer), answer_table(answer, new_images=False), narrow_table(answer))
    table = next((table for table in tables if fits(table, console.width)), None)
    _print_fitting(table, verdict_table(answer), console)
    if answer.contrasts:
        print_text(console, contrasts_in_words(answer), style="bold")
        shown = ((True, True), (True, False), (False, False))
        contrasts = [_contrast_table(answer, whole=whole, new_images=images) for whole, images in shown]
        fitted = next((table for table in contrasts if fits(table, console.width)), None)
        _print_fitting(fitted, contrast_table(answer), console)
    if answer.claim:
        print_text(console, f"{answer.claim_source}: {answer.claim}")
    # 没有显示的列不必解释
    hidden = {*on_top5(answer), *(on_seeds_needed(answer) if table is not None and len(table.columns) < 8 else ())}
    for note in answer.notes:
        if note not in hidden:
            print_text(console, note, style="dim")
    _print_confirmation(answer, console)
    # 最后读到的是答案，不是注
    for line in arm_sentences(answer):
        print_text(console, line)


def _print_variance(answer: Answer, console: Console) -> None:
    """Prints how far seeds scatter, the notes, and last which seeds a margin needs."""
    shown = variance_table(answer)
    # 太宽时先舍“它是什么”：名字已经说了
    tables = (_variance_columns(shown, places) for places in (range(6), (0, 2, 3, 4, 5)))
    _print_fitting(next((table for table in tables if fits(table, console.width)), None), shown, console)
    conclusions = tuple(kinds_of_seeds(answer))
    hidden = {*conclusions, *on_top5(answer)}
    for note in answer.notes:
        if note not in hidden:
            print_text(console, note, style="dim")
    for line in conclusions:
        print_text(console, line)


def _variance_columns(shown: TextTable, places: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for place in places:
        heading = shown.headings[place].replace(", ", "\n").replace("needed for", "needed\nfor")
        table.add_column(heading, justify="right" if place > 1 else "left")
    for row in shown.rows:
        table.add_row(*(Text(row[place]) for place in places))
    return table


def _print_fitting(table: Table | None, as_text: TextTable, console: Console) -> None:
    """Prints the table that fits, or else its cards."""
    if table is not None:
        console.print(table)
        return
    for card in cards(as_text.headings, as_text.rows):
        console.print(card)


def _print_confirmation(answer: Answer, console: Console) -> None:
    if answer.confirmation is None:
        return
    confirmed = confirmation_table(answer.confirmation, answer.description, answer.unit)
    table = Table(title=Text(confirmed.caption), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in confirmed.headings:
        table.add_column(heading)
    for row in confirmed.rows:
        table.add_row(*map(Text, row))
    console.print(fitting(table, console.width))


def arm_sentences(answer: Answer) -> Iterator[str]:
    """Says of each arm or contrast what changed, by how much, how sure that is, and what follows."""
    for one in answer.judged:
        yield f"{one.name} ({one.title}): {_sentence(answer, one)}"


def _sentence(answer: Answer, arm: Compared) -> str:
    if arm.word == "same trials":
        return f"the same training as {_other(arm)}: there is nothing to compare."
    if arm.word.startswith("no verdict: "):
        return f"no answer yet: {arm.word.removeprefix('no verdict: ')}."
    if arm.word.startswith("identical"):
        return f"in each of {arm.n} seeds exactly {_other(arm)} {answer.metric}."
    if arm.interval is None:
        lost = " on " in arm.word
        return f"{arm.word}{': what is left would be a biased choice, and is not judged' if lost else ''}."
    return f"{_change(answer, arm)}, {_certainty(answer, arm)}: {_consequence(answer, arm)}."


def _change(answer: Answer, arm: Compared) -> str:
    """`the top-1 test error is 3.93 points higher than the baseline's`."""
    shown = numbers.difference_in_words(arm)
    # 交互作用说的是效应变了多少，不是错误率高了多少
    what = f"the effect on {answer.metric}" if _kind(arm) == "interaction" else answer.metric
    if arm.scale != "points":
        return f"{what} is {shown} {_other(arm)}"
    size, direction = shown.lstrip("+-"), "lower" if shown.startswith("-") else "higher"
    if isinstance(arm, ContrastAnswer) and arm.published is not None and arm.difference is not None:
        what = f"{what} is {in_unit(arm.published.value + arm.difference, arm.unit)} on average, which"
    return f"{what} is {size} {direction} than {_other(arm)}"


def _kind(one: Compared) -> str:
    return one.kind if isinstance(one, ContrastAnswer) else "arm"


def _other(one: Compared) -> str:
    """What something is compared with, as its owner: `the baseline's`."""
    if not isinstance(one, ContrastAnswer):
        return "the baseline's"
    if one.published is not None:
        return f"the published {in_unit(one.published.value, one.unit)}"
    if one.kind == "main":
        return "that of its factor's first level"
    if one.kind == "interaction":
        return "with the other factor's first level"
    return f"{min(one.weights, key=lambda arm: one.weights[arm])}'s"


def _certainty(answer: Answer, arm: Compared) -> str:
    if isinstance(arm, ContrastAnswer) and arm.published is not None:
        return _certainty_of_mean(answer, arm, arm.published.value)
    low, high = numbers.interval(arm).split(", ")
    beyond = f" (for new images {numbers.beyond(arm).replace(', ', ' and ')})" if arm.beyond is not None else ""
    return f"with {numbers.level_in_words(answer, arm)} confidence between {low} and {high}{beyond}"


def _certainty_of_mean(answer: Answer, arm: ContrastAnswer, published: float) -> str:
    """The same of the mean itself: it is in the unit of what is published."""

    def ends(interval: tuple[float, float]) -> str:
        return " and ".join(in_unit(published + end, arm.unit) for end in interval)

    assert arm.interval is not None
    level = numbers.beyond_level(arm)
    at = "" if level == numbers.level(arm) else f" at {level}"
    beyond = f" (for new images {ends(arm.beyond)}{at})" if arm.beyond is not None else ""
    return f"with {numbers.level_in_words(answer, arm)} confidence between {ends(arm.interval)}{beyond}"


def _consequence(answer: Answer, arm: Compared) -> str:
    margin = answer.scale.margin(answer.margin)
    where = f" on and beyond this {answer.judged_split} set" if arm.holds_beyond else ""
    return {
        "supports": f"not by chance{where}, and as claimed",
        "contradicts": f"not by chance{where}, and the opposite of what is claimed",
        "higher": f"not by chance{where}; nothing is claimed of it",
        "lower": f"not by chance{where}; nothing is claimed of it",
        "equivalent": f"no difference that matters{where}, all of that is {margin}",
        REPRODUCES: f"reproduced{where}, all of that is {margin} of it",
        DOES_NOT: f"not reproduced{where}, none of that is {margin} of it",
        "inconclusive": f"{arm.n} seeds cannot tell whether that is chance",
    }.get(arm.word, arm.word)


def answer_table(answer: Answer, *, new_images: bool = True) -> Table:
    """Returns the whole verdict table; errors in percent, differences in percentage points.

    Args:
        answer: The answer.
        new_images: With the intervals for new images, where there are any.
    """
    return _table(answer, whole=True, new_images=new_images)


def narrow_table(answer: Answer) -> Table:
    """Returns the table without the intervals' levels, the sign-flip p and the seeds needed."""
    return _table(answer, whole=False, new_images=False)


def _table(answer: Answer, *, whole: bool, new_images: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("arm")
    table.add_column("n", justify="right")
    table.add_column(_metric_heading(answer), justify="right")
    if answer.reproduces:
        # 没有互相比较的差
        for arm in answer.arms:
            table.add_row(arm.name, str(arm.n), numbers.metric(arm))
        return table
    compared = "difference" if STATISTICS[answer.statistic].scale == "points" else "ratio"
    table.add_column(f"{compared}\nlevel: interval" if whole else f"{compared}\ninterval", justify="right")
    table.add_column("adjusted p\nsign-flip p\n(floor)" if whole else "adj. p", justify="right")
    table.add_column(numbers.source_heading(answer), justify="right")
    table.add_column(f"verdict\non this\n{answer.judged_split} set")
    if whole:
        table.add_column("seeds\nneeded", justify="right")
    for arm in answer.arms:
        table.add_row(*_terminal_cells(arm, Text(numbers.metric(arm)), whole=whole, new_images=new_images))
    return table


def _contrast_table(answer: Answer, *, whole: bool, new_images: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("contrast")
    table.add_column("n", justify="right")
    compared = "difference" if STATISTICS[answer.statistic].scale == "points" else "ratio"
    table.add_column(f"{compared}\nlevel: interval" if whole else f"{compared}\ninterval", justify="right")
    # 复现的词只看区间：没有 p，也没有要找的效应
    of_effects = not answer.reproduces
    if of_effects:
        table.add_column("adjusted p\nsign-flip p\n(floor)" if whole else "adj. p", justify="right")
    table.add_column(numbers.source_heading(answer), justify="right")
    table.add_column(f"verdict\non this\n{answer.judged_split} set")
    if whole and of_effects:
        table.add_column("seeds\nneeded", justify="right")
    for contrast in answer.contrasts:
        cells = _terminal_cells(contrast, None, whole=whole, new_images=new_images)
        table.add_row(*(cells if of_effects else [*cells[:3], *cells[4:6]]))
    return table


def _metric_heading(answer: Answer) -> str:
    if STATISTICS[answer.statistic].by_signs:
        return f"{'epochs' if answer.core is None else 'reports'}\nmedian, there"
    if answer.core is not None:
        return f"{answer.metric} {answer.unit}".rstrip() + "\nmean ± sd"
    return f"{'gap' if answer.metric.startswith('gap') else f'{answer.judged_split} error'} %\nmean ± sd"


def _terminal_cells(arm: Compared, metric: Text | None, *, whole: bool, new_images: bool) -> list[Text]:
    """The cells of a row; a contrast has no metric of its own."""
    # 没有检验过的差只用灰色
    style = "" if arm.interval is not None else "dim"
    difference, p = numbers.difference(arm), numbers.p_value(arm.adjusted_p)
    if arm.interval is not None:
        difference += f"\n{numbers.level(arm) + ': ' if whole else ''}{numbers.interval(arm)}"
    if new_images and arm.beyond is not None:
        difference += f"\nnew images: {numbers.beyond(arm)}"
    if whole and arm.sign_flip_p is not None:
        p += f"\n{numbers.flips(arm)}"
    row = [
        Text(arm.name),
        Text(str(arm.n)),
        *([metric] if metric is not None else []),
        Text(difference, style=style),
        Text(p),
        Text(numbers.claimed(arm)),
        Text(arm.word, style=WORD_STYLES.get(arm.word, "")),
    ]
    return [*row, Text(numbers.needed(arm))] if whole else row
