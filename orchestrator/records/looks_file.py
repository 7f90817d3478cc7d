"""`looks.jsonl`: every look that was taken in a study's folder, whatever is asked there now; it only ever grows.

A look belongs to the comparisons it made, so that neither a detour to other epochs nor an arm left out gives back the
level that it spent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from alexnet_core.configuration.frozen import Frozen
from orchestrator.errors import ExitCode, LabError
from orchestrator.records.files import write_atomically
from search_spaces.arm import is_absent
from search_spaces.contrast import Contrast, weights_by_trial

FILE = "looks.jsonl"
Number = Annotated[int, Field(ge=0)]
# 一个 trial 的 key，和看测试图时用几个视图
Seen = tuple[str, int]
Weights = tuple[tuple[Seen, float], ...]


class Question(Frozen):
    """What is compared; arms that are the baseline's own trials are no comparison.

    Attributes:
        baseline: The baseline's first seed.
        arms: The first seed of each arm compared with it, sorted.
        contrasts: What else is compared: of each contrast the first seed of its arms with their weights, sorted.
    """

    baseline: Seen
    arms: tuple[Seen, ...]
    contrasts: tuple[Weights, ...] = Field(default=(), exclude_if=is_absent)

    def shares(self, other: Question) -> bool:
        """Says whether a comparison is made in both."""
        ours, theirs = self._comparisons, other._comparisons
        if not ours and not theirs:
            return self.baseline == other.baseline
        return not ours.isdisjoint(theirs)

    @property
    def _comparisons(self) -> set[Weights]:
        """All of them as weights: an arm against the baseline is the pair of the two, however it is asked."""
        against = {tuple(sorted(((arm, 1.0), (self.baseline, -1.0)))) for arm in self.arms}
        return {_either_way(weights) for weights in against | set(self.contrasts)}


def _either_way(weights: Weights) -> Weights:
    """The contrast or its reverse, which is the same test: the one whose first weight is positive."""
    return weights if not weights or weights[0][1] > 0 else tuple((seen, -weight) for seen, weight in weights)


class RecordedLook(Frozen):
    """One line of the file.

    Attributes:
        question: What was looked at.
        seeds: Complete seeds that were judged; 0 where a rule was planned and nothing judged yet.
        max_seeds: The maximum of `--seeds auto`; None for the fixed rule.
    """

    question: Question
    seeds: Number
    max_seeds: Number | None = None


def question_of(
    baseline: str, rows: Iterable[tuple[str, int, Seen]], contrasts: Sequence[Contrast] | None = None
) -> Question:
    """Returns what is compared.

    Args:
        baseline: Name of the baseline.
        rows: (arm, seed, what is seen) of every trial of the arms.
        contrasts: The study's; None for each arm against the baseline.
    """
    first = {arm: seen for arm, seed, seen in rows if seed == 0}
    baseline_side = first.get(baseline, ("", 0))
    against = first if contrasts is None else {one.name for one in contrasts if one.kind == "arm"}
    compared = {seen for arm, seen in first.items() if arm in against and seen != baseline_side}
    others = [_weights(one, first) for one in contrasts or () if one.kind != "arm"]
    return Question(
        baseline=baseline_side,
        arms=tuple(sorted(compared)),
        contrasts=tuple(sorted({weights for weights in others if weights})),
    )


def _weights(contrast: Contrast, first: Mapping[str, Seen]) -> Weights:
    seen = {arm: first.get(arm, ("", 0)) for arm in contrast.weights}
    return tuple(sorted(weights_by_trial(contrast, seen).items()))


def read_looks(folder: Path) -> list[RecordedLook] | None:
    """Returns the looks on record in their order, torn lines passed over; None where there is no file.

    Raises:
        LabError: The file cannot be read.
    """
    try:
        lines = (folder / FILE).read_bytes().split(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LabError(f"{folder / FILE} cannot be read: {error.strerror}", exit_code=ExitCode.ENVIRONMENT) from error
    return [look for line in lines if line.strip() and (look := _parsed(line)) is not None]


def _parsed(line: bytes) -> RecordedLook | None:
    try:
        return RecordedLook.model_validate_json(line)
    except ValidationError:
        return None


def sharing(looks: Sequence[RecordedLook], question: Question) -> list[RecordedLook]:
    """Returns the looks at a question, or at part of it."""
    return [look for look in looks if look.question.shares(question)]


def seeds_at(looks: Sequence[RecordedLook], question: Question) -> list[int]:
    """Returns at how many seeds a question was looked at, each number once, in their order."""
    return list(dict.fromkeys(look.seeds for look in sharing(looks, question) if look.seeds))


def append_looks(folder: Path, looks: Sequence[RecordedLook]) -> None:
    """Adds lines to the file; call it under `records.locked`."""
    if not looks:
        return
    path = folder / FILE
    before = path.read_bytes() if path.is_file() else b""
    # 上次没写完的半行自成一行，不吞掉后来的
    torn = b"" if before.endswith(b"\n") or not before else b"\n"
    lines = "".join(f"{json.dumps(look.model_dump(mode='json'), sort_keys=True)}\n" for look in looks)
    write_atomically(path, before + torn + lines.encode())
