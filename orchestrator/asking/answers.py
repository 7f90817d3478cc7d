"""What asking a study gives: its answer as data, and where it lies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_core.configuration.frozen import Frozen
from orchestrator.judging.answer import Answer, ArmAnswer
from orchestrator.judging.scales import STATISTICS
from orchestrator.output.document import Document
from orchestrator.replication.answer import Replication
from orchestrator.reporting.files import PAGE
from orchestrator.reporting.material import Material

if TYPE_CHECKING:
    import polars as pl


class StudyAnswer(Frozen):
    """The answer of one study.

    Attributes:
        folder: Where its report lies, beside `answer.json`, figures and tables.
        states: How many of the trials that it rests on ended how: finished, diverged, failed, stopped.
        some_failed: Whether one failed, or could not be evaluated as an arm asks: exit code 1 of the command.
        unit: What the values of the primary metric are in, empty for plain numbers; differences are on the arms'
            `scale`.
        answer: What the trials say.
    """

    folder: Path
    states: dict[str, int]
    some_failed: bool
    unit: str
    answer: Answer

    @property
    def study(self) -> str:
        """The study's name."""
        return self.answer.study

    @property
    def dataset(self) -> str:
        """The data set."""
        return self.answer.dataset

    @property
    def arms(self) -> tuple[ArmAnswer, ...]:
        """The arms with their verdicts, the baseline first."""
        return self.answer.arms

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.folder / PAGE

    @property
    def table(self) -> pl.DataFrame:
        """A row per arm, as in the report's table `verdicts`.

        Columns are arm, title, n (seeds), mean, difference, interval_low, interval_high, p, adjusted_p, word (the
        verdict), what the arm costs, and more. Numbers are in the units of the report: `mean` and `sd` in `unit`
        (percent; `median`, of times to a threshold, in epochs), `difference` and its interval in that unit (percentage
        points) where `scale` is `points`, as natural logarithms of ratios where it is `log_ratio`.
        """
        from orchestrator.reporting.frames import verdict_frame

        return verdict_frame(self.arms)


class AnswersDocument(Document):
    """What `ablate` and `report` answer with `--json`.

    Attributes:
        answers: One per study; none where a budget keeps from judging.
        page: The page of all claims, of studies that are asked together; of one study on several data sets its joint
            page.
        replication: What one study says on several data sets together; None for one.
        not_asked: Why other studies are not asked on this data set, by name.
        left_out: What a budget left out, in words.
    """

    answers: tuple[StudyAnswer, ...]
    page: Path | None = None
    replication: Replication | None = None
    not_asked: dict[str, str] = {}
    left_out: tuple[str, ...] = ()


def study_answer(material: Material, folder: Path, *, some_failed: bool | None = None) -> StudyAnswer:
    """Returns a study's answer with where it lies.

    Args:
        material: What its report is made of.
        folder: Where that lies.
        some_failed: See `StudyAnswer`; None for what the records say that it rests on.
    """
    states = {record.key: record.state for record in material.provenance.records}
    counts = dict(sorted(Counter(states.values()).items()))
    failed = "failed" in counts if some_failed is None else some_failed
    return StudyAnswer(
        folder=folder.resolve(),
        states=counts,
        some_failed=failed,
        unit=_unit(material.answer),
        answer=material.answer,
    )


def _unit(answer: Answer) -> str:
    if STATISTICS[answer.statistic].by_signs:
        return "epochs" if answer.core is None else "reports"
    return answer.unit
