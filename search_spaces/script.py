"""A script as a core: what a study file declares of it under `core:`."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from alexnet_core.configuration.frozen import Frozen
from search_spaces.core_config import CORE_NAME, METRIC_NAME, MetricDescription, metric_named, metrics_mistake

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
SWITCH = re.compile(r"\{(--?([A-Za-z][A-Za-z0-9_-]*))\}")
GIVEN = ("seed", "checkpoint", "data_root", "device")
Scalar = bool | int | float | str


def switch_name(part: str) -> str:
    """Returns the parameter that switches an argument on, such as `early_stopping` of `{--early-stopping}`, or ''."""
    match = SWITCH.fullmatch(part)
    return "" if match is None else match[2].replace("-", "_")


def names_in(part: str) -> list[str]:
    """Returns what an argument has a placeholder for."""
    if name := switch_name(part):
        return [name]
    return [match[1] for match in PLACEHOLDER.finditer(part) if match[1] is not None]


class Script(Frozen):
    """A script as a study file declares it, under `core:`.

    Attributes:
        name: Short name; part of every key.
        version: Part of every key; raise it when a change of the script moves numbers.
        command: The program and its arguments. `{learning_rate}` stands for a parameter, `{seed}` for the seed,
            `{checkpoint}` for a folder that is the trial's own, `{data_root}` and `{device}` for what they say;
            `{--early-stopping}`, an argument of its own, for that switch where `early_stopping` is true.
        parameters: What studies may set, with its defaults.
        metrics: What every report has, by name.
        chosen_by: See `CoreDescription`; may be left out where there is one metric.
        judged_by: See `CoreDescription`; may be left out where there is one metric.
        files: The script's own files, globs allowed, below the folder of the study file.
        data: The files that it trains on, globs allowed, absolute or below `--data-root`; their contents are in the
            key.
        gpus: See `CoreDescription`.
    """

    name: Annotated[str, Field(pattern=rf"^{CORE_NAME}$")] = "script"
    version: int = Field(default=1, ge=1)
    command: tuple[str, ...] = Field(min_length=1)
    parameters: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")], Scalar] = {}
    metrics: dict[Annotated[str, Field(pattern=rf"^{METRIC_NAME}$")], MetricDescription] = Field(min_length=1)
    chosen_by: str = ""
    judged_by: str = ""
    files: tuple[str, ...] = Field(min_length=1)
    data: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    gpus: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = {*GIVEN, *self.parameters}
        used = {name for part in self.command for name in names_in(part)}
        for name in map(switch_name, self.command):
            if name in self.parameters and not isinstance(self.parameters[name], bool):
                raise ValueError(f"parameters: {name} is a switch in the command; its default must be true or false")
        for name in sorted(used - known):
            raise ValueError(f"command: {{{name}}} is no parameter; there are: {', '.join(sorted(known))}")
        for name in sorted(set(self.parameters) - used):
            raise ValueError(f"parameters: {name} is nowhere in the command, so that setting it would change nothing")
        if "seed" not in used:
            raise ValueError("command: it lacks {seed}, without which all seeds are one run")
        clash = sorted(set(GIVEN) & set(self.parameters))
        if clash:
            raise ValueError(f"parameters: {clash[0]} is given by the orchestrator; call yours otherwise")
        names = tuple(self.metrics)
        chosen_by, judged_by = metric_named(names, self.chosen_by), metric_named(names, self.judged_by)
        if mistake := metrics_mistake(names, chosen_by, judged_by):
            raise ValueError(mistake)
        return self
