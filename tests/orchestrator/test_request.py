"""What the user asks is typed once, and what contradicts itself is no request at all."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import LabError
from orchestrator.options import parsed_request
from orchestrator.request import Limits, Placement, Question, Request, Store, SweepRequest

STORE = Store(Path("results"))


def requested(*arguments: str) -> Request:
    return parsed_request(arguments)


def test_a_command_without_options_asks_what_the_defaults_of_a_request_say() -> None:
    assert requested() == Request(Question("lrn"), STORE)


def test_every_option_of_the_question_and_its_place_is_in_the_request(tmp_path: Path) -> None:
    request = requested(
        *("--study", "towers", "--dataset", "cifar10", "--data-root", str(tmp_path), "--network", "cifar-11pct"),
        *("--epochs", "7", "--set", "training.momentum=0.5", "--set", "training.momentum=0.8", "--seeds", "4"),
        *("--retune", "learning_rate", "--tuning-trials", "5", "--slots", "3", "--workers", "2"),
        *("--gpus-per-worker", "1", "--device", "cpu", "--address", "auto", "--no-dashboard"),
        *("--dashboard-host", "::1", "--verbose", "--max-gpu-hours", "2.5", "--time-budget", "1h30m"),
        *("--results", "elsewhere", "--retry-failed", "--keep-weights", "best", "--dry-run", "--show", "a:1"),
        "--optuna-view",
    )
    assert request == Request(
        question=Question(
            study="towers",
            dataset="cifar10",
            data_root=tmp_path,
            network="cifar-11pct",
            epochs=7,
            overrides={"training.momentum": 0.8},
            seeds=4,
            retune="learning_rate",
            tuning_trials=5,
        ),
        store=Store(Path("elsewhere"), retry_failed=True, keep_weights="best"),
        placement=Placement(
            slots=3,
            workers=2,
            gpus_per_worker=1,
            device="cpu",
            address="auto",
            dashboard=False,
            dashboard_host="::1",
            verbose=True,
        ),
        limits=Limits(gpu_hours=2.5, seconds=5400),
        dry_run=True,
        show="a:1",
        optuna_view=True,
    )


def test_every_option_of_the_sweep_is_in_the_request() -> None:
    space = "training.momentum={kind: float, low: 0.5, high: 0.9}"
    options = ("--sampler", "random", "--sweep-seed", "4", "--pruner", "asha", "--confirm", "2", "--confirm-seeds", "9")
    sweep = requested("--sweep", "12", "--sweep-over", space, "--sweep-over", "dropout", *options).sweep
    assert sweep.over is not None
    assert "training.momentum" in sweep.over.parameters
    assert len(sweep.over.parameters) > 1
    assert sweep == SweepRequest(12, sweep.over, "random", 4, None, "asha", 2, 9)
    assert requested("--sweep", "3", "--multi", "images_per_second").sweep.second == "images_per_second"


def test_a_share_of_a_gpu_is_the_gpus_of_a_worker() -> None:
    assert requested("--gpu-share", "0.25").placement.gpus_per_worker == 0.25
    assert requested("--gpu-share", "1", "--workers", "2").placement.gpus_per_worker == 1
    assert requested("--gpus-per-worker", "0", "--workers", "2").placement.gpus_per_worker == 0
    with pytest.raises(LabError, match="--gpu-share is for slots of one worker; leave --workers out"):
        Placement(gpus_per_worker=0.25, workers=2)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (
            {"question": Question("paper", null=True)},
            "--study paper takes no --sweep, --show, --null, --variance or --retune",
        ),
        ({"question": Question("paper"), "show": ""}, "--study paper takes no"),
        ({"question": Question("paper"), "sweep": SweepRequest(points=1)}, "--study paper takes no"),
        ({"question": Question("lrn", null=True, retune="learning_rate")}, "--null takes neither"),
        ({"question": Question("lrn", null=True), "sweep": SweepRequest(points=1)}, "--null takes neither"),
        (
            {"question": Question("lrn", seeds="auto", max_seeds=9, null=True)},
            "study lrn cannot be asked with --seeds auto: --sweep, --retune, --null and --variance need whole arms",
        ),
        (
            {"question": Question("lrn", seeds="auto", max_seeds=9, tuning_trials=4)},
            "study lrn cannot be asked with --seeds auto: --sweep, --retune, --null and --variance need whole arms",
        ),
    ],
)
def test_objects_that_contradict_one_another_make_no_request(parts: dict[str, Any], reason: str) -> None:
    with pytest.raises(LabError, match=reason) as refusal:
        Request(store=STORE, **parts)
    assert refusal.value.exit_code == 2


def test_a_request_never_changes() -> None:
    request = requested()
    for part in (request, request.question, request.store, request.sweep, request.placement, request.limits):
        with pytest.raises(FrozenInstanceError):
            part.anything = 1  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_request_is_made_without_polars() -> None:
    program = "import orchestrator.options, sys; print([n for n in ('polars', 'ray', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
