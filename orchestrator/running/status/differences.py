"""What a trial has otherwise than its study's baseline, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.records import layout
from orchestrator.records.checked_record import read_own_config
from search_spaces.core_config import TrialConfig, flattened

# 放在哪里、用哪个种子，都不是 arm 改的
NOT_OF_THE_ARM = ("seed", "data.cache", "data.root")
ABSENT = object()


def differences(config: TrialConfig, baseline: TrialConfig) -> Iterator[str]:
    """Says what a configuration has otherwise than the baseline's: `network.lrn1: left out`.

    Args:
        config: Of the trial.
        baseline: Of the baseline's trial.
    """
    ours, theirs = _fields(config), _fields(baseline)
    gone = {layer for layer in _layers(theirs) if layer not in _layers(ours)}
    yield from (f"{layer}: left out" for layer in sorted(gone))
    for name in dict.fromkeys([*theirs, *ours]):
        value, before = ours.get(name, ABSENT), theirs.get(name, ABSENT)
        if value == before or name in NOT_OF_THE_ARM or _layer_of(name) in gone:
            continue
        instead = "" if before is ABSENT else f" (the baseline has {_written(before)})"
        yield f"{name}: {'left out' if value is ABSENT else _written(value)}{instead}"


def baseline_of(results: Path, plan: Mapping[str, Any], seed: int) -> TrialConfig | None:
    """Returns the configuration of a study's baseline with a seed; None where that trial has not begun.

    Args:
        results: The results folder.
        plan: What `plan.json` says.
        seed: The seed; with another one only that differs.
    """
    arm = plan.get("baseline", plan["arms"][0] if plan["arms"] else None)
    rows = [row for row in plan["trials"] if row["arm"] == arm]
    for row in sorted(rows, key=lambda row: bool(row["seed"] != seed)):
        folder = layout.trial_folder(results, row["key"])
        if (folder / "config.json").is_file():
            return read_own_config(folder)
    return None


def _fields(config: TrialConfig) -> dict[str, Any]:
    """Dotted fields; a layer stands under its name."""
    plain = config.model_dump(mode="json")
    network = plain.get("network")
    if isinstance(network, dict) and isinstance(network.get("layers"), list):
        layers = {layer["name"]: layer for layer in network.pop("layers")}
        plain["network"] = {**network, **layers}
    return flattened(plain)


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0]


def _layers(fields: Mapping[str, Any]) -> set[str]:
    return {_layer_of(name) for name in fields if name.endswith(".kind") and name.startswith("network.")}


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
