"""What `status` shows: a study with the state of every trial, all studies of one page, or one trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from alexnet_core.configuration.wording import counted
from orchestrator.output.fitting import fits, fitting
from orchestrator.records.layout import is_joint
from orchestrator.records.reports import CoreReport, Report
from orchestrator.running.progress import value_text
from orchestrator.running.status.facts import FURTHER, StudyStatus, TrialStatus, TrialStatusDocument
from search_spaces.core_config import ALEXNET, CoreDescription, description_of, readable

EPOCHS_SHOWN, SEEDS_SHOWN = 5, 10


def study_view(status: StudyStatus, width: int) -> Group:
    """Returns what is shown of a study, or of all that are asked together by `--study paper`.

    Args:
        status: What is known of it.
        width: Columns of the terminal.
    """
    nouns = ("data set", "data sets") if is_joint(status.study) else ("study", "studies")
    heading = _counts(status.states) if not status.together else counted(len(status.together), *nouns)
    parts: list[RenderableType] = [Text(f"{status.study} on {status.dataset}: {heading}", style="bold")]
    parts += _run_lines(status)
    parts += _parts_together(status) if status.together else _parts_alone(status, width)
    if status.report is not None:
        parts.append(_line(f"report: {status.report}"))
    return Group(*parts)


def _parts_together(status: StudyStatus) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for study in status.together:
        # 合问时重调的 trial 也算在一行里
        states = {trial.key: trial.state for trial in study.trials}
        parts.append(_line(f"{study.study}: {_counts(Counter(states.values()))}"))
    return parts


def _parts_alone(status: StudyStatus, width: int) -> list[RenderableType]:
    parts: list[RenderableType] = [_study_table(status, width)]
    if status.core != ALEXNET.name:
        parts.append(_line(f"shown: {status.metric} of core {status.core}"))
    further = {trial.key: trial for trial in status.trials if trial.phase in FURTHER}
    if further:
        ended = sum(trial.has_ended for trial in further.values())
        parts.append(_line(f"re-tuning: {ended} of {counted(len(further), 'trial')} ended"))
    if status.points:
        parts.append(_line(f"sweep: {status.points_ended} of {counted(status.points, 'asked point')} ended"))
    return parts


def _counts(states: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def _run_lines(status: StudyStatus) -> list[Text]:
    """Who runs a study now, a line or two for each."""
    lines = []
    for running in status.running:
        lines.append(_line(f"running: {running.where} since {running.started_at}"))
        if running.dashboard:
            lines.append(_line(f"dashboard: {running.dashboard} (token: ray get-auth-token)"))
    return lines


def _line(text: str) -> Text:
    return Text(text)


def _study_table(status: StudyStatus, width: int) -> Table:
    """As many seeds as fit."""
    tables = (_table_of_seeds(status, shown) for shown in range(SEEDS_SHOWN, 1, -1))
    return next((table for table in tables if fits(table, width)), _table_of_seeds(status, 1))


def _table_of_seeds(status: StudyStatus, shown: int) -> Table:
    trials = [trial for trial in status.trials if trial.phase not in FURTHER]
    seeds = sorted({trial.seed for trial in trials})
    table = Table()
    table.add_column("arm")
    for seed in seeds[:shown]:
        table.add_column(f"seed {seed}", justify="right")
    cells = {(trial.arm, trial.seed): trial for trial in trials}
    for arm in status.arms:
        table.add_row(Text(arm), *(_cell(cells.get((arm, seed)), status.unit) for seed in seeds[:shown]))
    if len(seeds) > shown:
        table.caption = f"{counted(len(seeds) - shown, 'more seed')} not shown"
    return table


def _cell(trial: TrialStatus | None, unit: str) -> Text:
    return Text("" if trial is None else value_text(trial.state, trial.value, trial.epoch, unit))


def trial_view(status: TrialStatusDocument, width: int) -> Group:
    """Returns what is shown of one trial: state, memberships, what is not as in the baseline, last epochs, log, repeat.

    Args:
        status: What is known of it.
        width: Columns of the terminal.
    """
    # core 的训练什么时候完由它自己定：几份报告，是结局的一部分
    ends_by_itself = status.state == "finished" and description_of(status.configuration) is not ALEXNET
    after = f" after {counted(len(status.reports), 'report')}" if ends_by_itself else ""
    parts: list[RenderableType] = [Text(f"trial {status.key}: {status.state}{after}", style="bold")]
    if status.message:
        parts.append(_line(status.message))
    names = sorted(f"{one.study}/{one.arm} seed {one.seed} ({one.phase})" for one in status.members)
    if names:
        parts.append(_line(f"member of {', '.join(names)}"))
    parts += _differences(status)
    parts.append(fitting(_reports_table(status.reports, description_of(status.configuration)), width))
    if status.log is not None:
        parts.append(_line(f"log ({status.log}):"))
        parts.append(_line("\n".join(status.log_lines)))
    parts.append(_line("repeat it outside Ray, same numbers:"))
    parts.append(_line(status.repeat))
    return Group(*parts)


def _differences(status: TrialStatusDocument) -> list[RenderableType]:
    whole = "the whole configuration: status KEY --json"
    if status.differences is None:
        return [_line(whole)]
    if not status.differences:
        return [_line(f"the baseline's own configuration ({whole})")]
    return [_line(f"otherwise than the baseline ({whole}):"), *(_line(f"    {line}") for line in status.differences)]


def _reports_table(reports: Sequence[Report], core: CoreDescription) -> Table:
    """The last epochs of AlexNet, or the last reports of another core with its metrics."""
    what = "epoch" if core is ALEXNET else "report"
    table = Table(title=f"last of {counted(len(reports), what)}", title_justify="left")
    headings: tuple[str, ...] = ("learning rate", "train loss", "train %", "validation %", "images/s")
    if core is not ALEXNET:
        headings = (*(f"{readable(name)} {metric.unit}".rstrip() for name, metric in core.metrics.items()), "seconds")
    for heading in (what, *headings):
        table.add_column(heading, justify="right")
    for report in reports[-EPOCHS_SHOWN:]:
        table.add_row(str(report.epoch), *_report_cells(report, core))
    return table


def _report_cells(report: Report, core: CoreDescription) -> list[str]:
    if isinstance(report, CoreReport):
        values = (report.metrics.get(name) for name in core.metrics)
        known = zip(values, core.metrics.values(), strict=True)
        return [*("" if value is None else metric.number(value) for value, metric in known), f"{report.seconds:.2f}"]
    return [
        f"{report.learning_rate:g}",
        f"{report.train.loss:.4f}",
        f"{100 * report.train.top1_error:.2f}",
        "" if report.validation_error is None else f"{100 * report.validation_error:.2f}",
        f"{report.images_per_second:.0f}",
    ]
