"""A fault at every file operation of a study: `python -m tests.fault_study DIR [--scenario NAME]`.

The real command runs in a process of its own, with made epochs in place of Ray's slots: plan, records, checkpoints,
tables, answer and report are the product's. After each fault the same command must end as an undisturbed one did, and
train no finished trial again. Prints one JSON line of counts, and a line for each fault that was not survived.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load

import alexnet_core.training.train as train_module
import orchestrator.ablate
import orchestrator.asking.ask
import orchestrator.best
import orchestrator.merge
import orchestrator.running.cluster.lifecycle
from alexnet_core.configuration.correct_images import CorrectImages
from alexnet_core.configuration.metrics import EpochReport, SplitMetrics
from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.loading import summarise_data
from alexnet_core.model.draws import permutation
from alexnet_core.training.checkpoint import Position, prune_checkpoints, read_position, write_checkpoint
from orchestrator.errors import LabError
from orchestrator.records.upgrades import upgrade_results
from orchestrator.reporting.figures import gallery as gallery_module
from orchestrator.reporting.figures.style import Picture
from orchestrator.reporting.material import Details, Material
from search_spaces.trial import trial_key
from tests.fault_injection import NEED_NO_ROOM, Fault, FaultKind, Operation, Outcome, run, unavailable
from tests.orchestrator.records.test_upgrades import GOLDEN, UPGRADE, older
from tests.without_ray import run_without_ray

STUDY = ("--study", "lrn", "--seeds", "1", "--epochs", "2")
# 时间、次数（也在权重的文件名里）、最后一次从哪一轮起与文件时间戳本来就不同
# 跑半小时的途中，仓库可能有新提交
VOLATILE = (
    "started_at",
    "finished_at",
    "attempts",
    "env_epochs_before",
    "weights",
    "record_stamp",
    "env_git_commit",
)


# ---- Ray's part, made ---------------------------------------------------------------------------


def made_training(log: Path) -> Callable[..., Iterator[EpochReport]]:
    """Returns a `train` whose numbers are drawn from (key, epoch), and which writes real checkpoints.

    Args:
        log: Takes a line `key epoch` per epoch that is trained; it lies outside the disturbed folder.
    """

    def train(
        config: TrainConfig, devices: Sequence[str], resume_from: Path | None, **place: Any
    ) -> Iterator[EpochReport]:
        key = trial_key(config)
        position = read_position(resume_from) if resume_from is not None else Position()
        while position.epoch < config.training.epochs:
            with log.open("a") as file:
                file.write(f"{key} {position.epoch}\n")
            last = position.epoch + 1 == config.training.epochs
            report = _made_report(key, position.epoch + 1, last)
            position = Position(epoch=report.epoch, complete=last, history=(*position.history, report))
            weights = {"fc8.0.weight": torch.full((3, 3), float(report.validation.top1_errors))}
            velocities = None if last else {name: tensor / 8 for name, tensor in weights.items()}
            how = place["checkpointing"]
            if last:
                place["on_correct"](_made_images(report))
            write_checkpoint(how.folder, how.attempt, position, weights, velocities)
            prune_checkpoints(how.folder, how.attempt, how.keep_last)
            yield report

    return train


def _made_images(report: EpochReport) -> list[CorrectImages]:
    """Images of which as many are wrong as a report counts, the first ones."""
    assert report.test is not None
    return [
        CorrectImages("validation", 1, np.arange(report.validation.count) >= report.validation.top1_errors),
        CorrectImages("test", 1, np.arange(report.test.count) >= report.test.top1_errors),
    ]


def _made_report(key: str, epoch: int, last: bool) -> EpochReport:
    def errors(split: str, count: int) -> SplitMetrics:
        wrong = int(permutation(count // 4, split, int(key[:8], 16), epoch)[0])
        return SplitMetrics(loss_sum=wrong * 1.5, top1_errors=wrong, top5_errors=wrong // 3, count=count)

    return EpochReport(
        epoch=epoch,
        learning_rate=0.01,
        train=errors("train", 1078),
        validation=errors("validation", 360),
        test=errors("test", 359) if last else None,
        train_final=errors("train_final", 1078) if last else None,
        seconds=0.5,
        images_per_second=2000.0,
    )


def drawn_once(memory: Path) -> Callable[[Material, Details], tuple[Picture, ...]]:
    """Returns the product's figures, drawn once per answer for all children: drawing takes most of the time."""
    draw = gallery_module.gallery

    def figures(material: Material, details: Details) -> tuple[Picture, ...]:
        path = memory / f"{hashlib.sha256(material.answer.model_dump_json().encode()).hexdigest()}.pickle"
        if not path.is_file():
            path.write_bytes(pickle.dumps(draw(material, details)))
        pictures: tuple[Picture, ...] = pickle.loads(path.read_bytes())
        return pictures

    return figures


# ---- scenarios ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """A command, what it starts from, and what must be the same in the end."""

    command: Callable[[Path], int]
    start_from: Path | None
    facts: Callable[[Path], dict[str, Any]]


def ablate(results: Path) -> int:
    return orchestrator.ablate.main([*STUDY, "--results", str(results)])


def export(results: Path) -> int:
    return orchestrator.best.main(["--results", str(results), "--export", str(results / "exports" / "best"), "--force"])


def merge(results: Path) -> int:
    return orchestrator.merge.main([str(results.with_name("recorded")), "--results", str(results)])


def upgrade(results: Path) -> int:
    try:
        upgrade_results(results, (UPGRADE,))
    except LabError as error:
        print(error)
        return error.exit_code
    return 0


def table_facts(results: Path) -> dict[str, Any]:
    """Tables without times, and the weights' digests."""
    from orchestrator.tables.tables import load_tables

    tables = load_tables(results)
    weights = (_weights(path) for path in results.glob("trials/*/result.json") if (path.parent / "checkpoint").is_dir())
    return {
        "trials": tables.trials.drop(VOLATILE, strict=False).to_dicts(),
        "members": tables.members.to_dicts(),
        "epochs": tables.epochs.to_dicts(),
        "weights": sorted(weights),
        "correct": sorted(_correct(path) for path in results.glob("trials/*/result.json")),
        "left": leftovers(results),
    }


def study_facts(results: Path) -> dict[str, Any]:
    """The same, and the study's answer, plan and files."""
    study = results / "studies" / "lrn"
    return {
        **table_facts(results),
        "answer": json.loads((study / "answer.json").read_text()),
        "verdicts": (study / "tables" / "verdicts.csv").read_text(),
        "files": sorted(str(path.relative_to(study)) for path in study.rglob("*") if path.name != "optuna.db"),
        "looks": json.loads((study / "plan.json").read_text())["looks"],
    }


def _weights(path: Path) -> str:
    result = json.loads(path.read_text())
    content = (path.parent / result["weights"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == result["weights_sha256"]
    assert len(list((path.parent / "checkpoint").iterdir())) == 1
    return hashlib.sha256(load(content)["weight/fc8.0.weight"].numpy().tobytes()).hexdigest()


def _correct(path: Path) -> str:
    """The hash of the images that a network got right, which is that of the file and of the result."""
    result, kept = json.loads(path.read_text()), path.with_name("correct.bin")
    recorded = result.get("correct_sha256")
    # 旧版的记录两样都没有
    assert recorded == (hashlib.sha256(kept.read_bytes()).hexdigest() if kept.exists() else None)
    return f"{result['key']} {recorded}"


def export_facts(results: Path) -> dict[str, Any]:
    folder = results / "exports" / "best"
    return {
        "files": {path.name: path.read_bytes().hex() for path in sorted(folder.iterdir())},
        "left": leftovers(results),
    }


def leftovers(results: Path) -> list[str]:
    """Temporary files that nobody will use again."""
    expected = (".locks", ".schema")
    return sorted(str(path.relative_to(results)) for path in results.rglob(".*") if path.name not in expected)


# ---- every fault --------------------------------------------------------------------------------


class Campaign:
    """Runs a scenario undisturbed, and then once for every fault."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self._folder, self._scenario = folder, scenario
        self._log, self._output = folder / "trained", folder / "output"
        self.counts: Counter[str] = Counter()
        self.troubles: list[str] = []

    def run(self, kinds: Sequence[FaultKind], every: int) -> None:
        """Lets every fault of these kinds happen, each at every `every`-th operation at which it can."""
        whole, expected = self._to_the_end(self._fresh())
        assert whole.code == 0, self._output.read_text()
        self.counts["operations"] = len(whole.operations)
        for kind in kinds:
            places = [at for at, operation in enumerate(whole.operations) if _can_happen(kind, at, operation)]
            for at in places[::every]:
                trouble = self._survives(Fault(kind, at), expected)
                self.counts[kind] += 1
                if trouble:
                    self.troubles.append(f"{kind} at {at}, {whole.operations[at]}: {trouble}")

    def _fresh(self) -> Path:
        results = self._folder / "results"
        shutil.rmtree(results, ignore_errors=True)
        if self._scenario.start_from is not None:
            shutil.copytree(self._scenario.start_from, results)
        self._log.unlink(missing_ok=True)
        return results

    def _to_the_end(self, results: Path) -> tuple[Outcome, dict[str, Any]]:
        """Runs the command undisturbed; returns how it ended and what came out."""
        path = self._folder / "facts.json"
        path.unlink(missing_ok=True)

        def command_and_facts() -> int:
            # 在子进程里读表：父进程一旦用过 Polars 的线程池就不能再 fork
            code = self._scenario.command(results)
            path.write_text(json.dumps(self._scenario.facts(results) if code == 0 else {}, sort_keys=True))
            return code

        outcome = run(command_and_facts, results, None, self._output)
        return outcome, json.loads(path.read_text()) if path.is_file() else {}

    def _survives(self, fault: Fault, expected: Mapping[str, Any]) -> str:
        """Lets a fault happen and the command run again; returns what went wrong."""
        results = self._fresh()
        code = run(lambda: self._scenario.command(results), results, fault, self._output).code
        output = self._output.read_text()
        if fault.kind == "full" and (code != 3 or "Traceback" in output):
            return f"exit {code}: {output[-600:]}"
        if fault.kind == "slow" and code != 0:
            return f"exit {code}: {output[-600:]}"
        if fault.kind in ("kill", "torn") and code is not None:
            return f"was not killed: exit {code}"
        finished = {path.parent.name for path in results.glob("trials/*/result.json")}
        before = self._trained()
        again, facts = self._to_the_end(results)
        if again.code != 0:
            return f"the same command again: exit {again.code}: {self._output.read_text()[-600:]}"
        twice = {key for key, _ in self._trained() - before} & finished
        if twice:
            return f"trained again: {twice}"
        repeated = [count for count in self._trained().values() if count > 1]
        self.counts["epochs trained twice"] += len(repeated)
        if len(repeated) > 1 or any(count > 2 for count in repeated):
            return f"{len(repeated)} epochs were trained more than once"
        unlike = [name for name in expected if facts.get(name) != expected[name]]
        return "; ".join(f"{name}: {_difference(facts.get(name), expected[name])}"[:400] for name in unlike)

    def _trained(self) -> Counter[tuple[str, str]]:
        lines = self._log.read_text().splitlines() if self._log.is_file() else []
        return Counter((key, epoch) for key, epoch in (line.split() for line in lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the faults; 1 when one was not survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_study")
    parser.add_argument("folder", type=Path, help="a scratch folder")
    parser.add_argument("--scenario", choices=("study", "export", "merge", "upgrade"), default="study")
    parser.add_argument(
        "--kinds", nargs="+", choices=("kill", "torn", "full", "slow"), default=["kill", "torn", "full", "slow"]
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th operation (default: each)")
    options = parser.parse_args(arguments)
    reason = unavailable()
    if reason:
        print(reason)
        return 2
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    summarise_data("digits")
    orchestrator.asking.ask.run_missing = run_without_ray
    orchestrator.running.cluster.lifecycle.check_process_is_ours = lambda: None
    train_module.train = made_training(folder / "trained")
    gallery_module.gallery = drawn_once(folder)
    scenario = _scenario(options.scenario, folder)
    started = time.monotonic()
    campaign = Campaign(folder, scenario)
    campaign.run(options.kinds, options.every)
    print(
        json.dumps(
            {**campaign.counts, "not survived": len(campaign.troubles), "seconds": round(time.monotonic() - started, 1)}
        )
    )
    for trouble in campaign.troubles:
        print(trouble)
    return int(bool(campaign.troubles))


def _can_happen(kind: FaultKind, at: int, operation: Operation) -> bool:
    if kind == "torn":
        return operation.call == "write"
    if kind == "full":
        return operation.call not in NEED_NO_ROOM
    # 慢的磁盘处处都慢，试一次就够
    return kind == "kill" or at == 0


def _difference(got: Any, expected: Any) -> str:
    if isinstance(got, list) and isinstance(expected, list):
        return f"{[x for x in got if x not in expected]} instead of {[x for x in expected if x not in got]}"
    return f"{got} instead of {expected}"


def _scenario(name: str, folder: Path) -> Scenario:
    recorded = folder / "recorded"
    if name == "study":
        return Scenario(ablate, None, study_facts)
    if name == "upgrade":
        shutil.copytree(GOLDEN, recorded)
        older(recorded)
        return Scenario(upgrade, recorded, table_facts)
    assert run(lambda: ablate(recorded), Path("/nowhere"), None, folder / "output").code == 0
    return Scenario(export, recorded, export_facts) if name == "export" else Scenario(merge, None, table_facts)


if __name__ == "__main__":
    sys.exit(main())
