"""`python -m orchestrator.ablate --study lrn`: plans a study, trains what is missing, and answers.

Ray, torch and matplotlib are loaded only when something must be trained or drawn.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from alexnet_core.datasets import DataSummary, prepare_data, summarise_data
from alexnet_core.errors import CoreError
from orchestrator import cluster, preflight, records
from orchestrator.conclusion import conclude, resolution_outlook
from orchestrator.display import make_console
from orchestrator.errors import LabError
from orchestrator.paper import PAPER, combined_plan, refreshed, summary_markdown, summary_table
from orchestrator.plan import Plan, plan_line, readable_seconds, study_folder, write_plan
from orchestrator.records import TrialState
from orchestrator.slot import SlotPlan
from orchestrator.sweep import SweepHistory, plan_point, sweep_history
from orchestrator.tables import seconds_per_trial
from search_spaces.errors import StudyError
from search_spaces.study import Recipe, Study, load_study, study_names
from search_spaces.trial import base_config, parse_override, unfold

EXIT_DONE, EXIT_SOME_FAILED, EXIT_WRONG_USE, EXIT_INTERRUPTED = 0, 1, 2, 130
DEFAULT_DATASET = "digits"
SAY_EVERY_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    started = time.monotonic()
    options = _parser().parse_args(arguments)
    console = make_console()
    try:
        code = _list(console) if options.list else _ablate(options, console, started)
    except (LabError, StudyError, CoreError) as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code if isinstance(error, LabError) else EXIT_WRONG_USE
    if cluster.is_up():
        cluster.leave(code, options.results.resolve() / ".ray" / cluster.scratch_name())
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.ablate",
        description="Ask a study's question: train the missing trials on warm slots and answer with a verdict.",
    )
    what = parser.add_argument_group("the question")
    what.add_argument(
        "--study", default="lrn", help="a study's name, the path of a study file, or paper for all (default: lrn)"
    )
    what.add_argument("--list", action="store_true", help="list the studies and stop")
    what.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    what.add_argument(
        "--show",
        nargs="?",
        const="",
        metavar="ARM[:SEED]",
        help="print a trial's resolved configuration as JSON and stop (default: the baseline, seed 0)",
    )
    what.add_argument("--seeds", type=_natural, metavar="N", help="seeds per arm (default: the recipe's)")
    what.add_argument("--epochs", type=_natural, metavar="N", help="epochs per trial (default: the recipe's)")
    what.add_argument(
        "--sweep",
        type=_natural_or_zero,
        default=0,
        metavar="N",
        help="points that Optuna chooses after the arms, those on record included (default: 0)",
    )
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change the base of all arms, such as network.lrn1.alpha=2e-4; may be repeated",
    )
    data = parser.add_argument_group("data and network")
    data.add_argument("--dataset", default=DEFAULT_DATASET, help="one of the study's recipes (default: digits)")
    data.add_argument("--data-root", type=Path, metavar="DIR", help="folder with train/ and val/ or test/")
    data.add_argument("--network", metavar="NAME", help="a named network (default: the recipe's)")
    place = parser.add_argument_group("where it runs")
    place.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: ./results)")
    place.add_argument("--slots", type=_natural, metavar="N", help="trials that train at once (default: all that fit)")
    place.add_argument("--workers", type=_natural, default=1, metavar="W", help="data-parallel workers per slot")
    place.add_argument("--gpus-per-worker", type=int, choices=(0, 1, 2), help="default: two, one or none as there are")
    place.add_argument(
        "--device",
        choices=("auto", "cpu"),
        default="auto",
        help="cpu trains on the CPU whatever is reserved: a rehearsal of a placement",
    )
    place.add_argument("--address", help="join the Ray cluster at this address instead of starting a local Ray")
    place.add_argument("--no-dashboard", action="store_true", help="start no dashboard")
    place.add_argument("--dashboard-host", default="127.0.0.1", help="interface of the dashboard (default: loopback)")
    place.add_argument("--retry-failed", action="store_true", help="train failed trials again")
    place.add_argument(
        "--keep-weights",
        choices=("all", "best", "none"),
        default="all",
        help="which final weights stay (default: all)",
    )
    return parser


def _natural(text: str) -> int:
    value = _natural_or_zero(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be at least 1, not 0")
    return value


def _natural_or_zero(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
    if not 0 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1000000, not {value}")
    return value


def _list(console: Console) -> int:
    for name in study_names():
        study = load_study(name)
        console.print(f"{name}: {study.question}", markup=False, soft_wrap=True)
        console.print(
            f"    {len(study.arms)} arms; data sets: {', '.join(study.recipes)}", markup=False, soft_wrap=True
        )
    return EXIT_DONE


def _ablate(options: argparse.Namespace, console: Console, started: float) -> int:
    if options.study == PAPER:
        return _ablate_paper(options, console, started)
    plan = _plan(load_study(options.study), options)
    study = plan.study
    if options.show is not None:
        return _show(plan, options.show)
    folder = study_folder(options.results, study.name, plan.dataset, DEFAULT_DATASET)
    history = _history(plan, folder, options)
    sweep_left = len(history.unfinished) + max(0, plan.sweep_points - history.asked)
    slots = options.slots or _likely_slots(options)
    outlook = resolution_outlook(plan, folder)
    seconds = seconds_per_trial(options.results, plan.base)
    console.print(plan_line(plan, seconds, slots, outlook, sweep_left), markup=False, highlight=False, soft_wrap=True)
    if options.dry_run:
        return EXIT_DONE
    preflight.check_results(options.results)
    content = write_plan(folder, plan, sys.argv)
    states = dict(plan.done)
    if plan.missing or sweep_left:
        _prepare(plan, console)
        ended = _run(plan, folder, history, sweep_left, options, console, started)
        if ended is None:
            return EXIT_INTERRUPTED
        states = ended
    else:
        records.join_members(options.results, folder.name, plan.dataset, plan.trials)
    if options.keep_weights == "best":
        records.keep_best_weights(options.results, plan.trials)
    conclude(plan, options.results, folder, content, console)
    console.print(f"done in {readable_seconds(time.monotonic() - started)}", highlight=False)
    failed = [trial for trial in plan.trials if states.get(trial.key) is TrialState.FAILED]
    return EXIT_SOME_FAILED if failed else EXIT_DONE


def _ablate_paper(options: argparse.Namespace, console: Console, started: float) -> int:
    """Asks every study in one Ray session; each is planned, answered and reported as it would be alone."""
    if options.sweep or options.show is not None:
        raise LabError("--study paper takes neither --sweep nor --show; ask the study itself", exit_code=2)
    studies = [load_study(name) for name in study_names()]
    skipped = {study.name: study.not_asked[options.dataset] for study in studies if options.dataset in study.not_asked}
    plans: list[Plan] = []
    for study in studies:
        if options.dataset in study.recipes:
            # 同样的数据只清点、只算一次哈希
            known = next((plan.summary for plan in plans if plan.recipe.data.source == _source(study, options)), None)
            plans.append(_plan(study, options, known))
    if not plans:
        raise LabError(f"no study is asked on {options.dataset!r}", exit_code=2)
    folders = [study_folder(options.results, plan.study.name, plan.dataset, DEFAULT_DATASET) for plan in plans]
    seconds, slots = seconds_per_trial(options.results, plans[0].base), _likely_slots(options)
    for plan, folder in zip(plans, folders, strict=True):
        line = plan_line(plan, seconds, slots, resolution_outlook(plan, folder), 0)
        console.print(f"{plan.study.name}: {line}", markup=False, highlight=False, soft_wrap=True)
    for name, reason in skipped.items():
        console.print(f"{name}: not asked on {options.dataset}: {reason}", markup=False, soft_wrap=True)
    whole = combined_plan(plans, plans[0].recipe)
    line = plan_line(whole, seconds, slots, "shared trials once", 0)
    console.print(f"together: {line}", markup=False, highlight=False, soft_wrap=True)
    if options.dry_run:
        return EXIT_DONE
    preflight.check_results(options.results)
    contents = [write_plan(folder, plan, sys.argv) for plan, folder in zip(plans, folders, strict=True)]
    paper_folder = study_folder(options.results, PAPER, whole.dataset, DEFAULT_DATASET)
    states = dict(whole.done)
    if whole.missing:
        _prepare(whole, console)
        ended = _run(whole, paper_folder, SweepHistory((), (), 0), 0, options, console, started)
        if ended is None:
            return EXIT_INTERRUPTED
        states = ended
    answers = []
    for plan, folder, content in zip(plans, folders, contents, strict=True):
        records.join_members(options.results, folder.name, plan.dataset, plan.trials)
        answers.append(conclude(refreshed(plan, states), options.results, folder, content, console))
    console.print(summary_table(answers))
    records.write_atomically(paper_folder / "report.md", summary_markdown(answers, skipped).encode())
    took = readable_seconds(time.monotonic() - started)
    console.print(f"all claims: {paper_folder / 'report.md'}; done in {took}", highlight=False, soft_wrap=True)
    failed = any(state is TrialState.FAILED for state in states.values())
    return EXIT_SOME_FAILED if failed else EXIT_DONE


def _source(study: Study, options: argparse.Namespace) -> str:
    return study.recipes[options.dataset].data.source


def _plan(study: Study, options: argparse.Namespace, known: DataSummary | None = None) -> Plan:
    """Validates everything the user gave and unfolds the study; `known` is what is in its data, if that is known."""
    recipe = _recipe(study, options.dataset)
    study = study.on(options.dataset)
    root = options.data_root.resolve() if options.data_root is not None else None
    cache = (options.results / "cache").resolve()
    summary = known if known is not None else summarise_data(recipe.data.source, root, cache)
    base = base_config(
        study,
        options.dataset,
        summary=summary,
        data_root=str(root) if root is not None else None,
        cache=str(cache),
        network_name=options.network,
        epochs=options.epochs,
        overrides=dict(parse_override(text) for text in options.set),
    )
    seeds = tuple(range(options.seeds or recipe.seeds))
    trials = unfold(study, base, seeds)
    done = records.done_keys(options.results, [trial.key for trial in trials], options.retry_failed)
    if options.sweep and study.sweep is None:
        raise LabError(f"study {study.name} has no sweep; leave --sweep out", exit_code=2)
    return Plan(
        study=study,
        dataset=options.dataset,
        recipe=recipe,
        summary=summary,
        base=base,
        trials=trials,
        seeds=seeds,
        sweep_points=options.sweep,
        done=done,
    )


def _recipe(study: Study, dataset: str) -> Recipe:
    if dataset in study.not_asked:
        raise LabError(
            f"study {study.name} is not asked on {dataset}: {study.not_asked[dataset]}; "
            f"choose --dataset {' or '.join(study.recipes)}",
            exit_code=2,
        )
    if dataset not in study.recipes:
        raise LabError(
            f"study {study.name} has no recipe for data set {dataset!r}; it has: {', '.join(study.recipes)}",
            exit_code=2,
        )
    return study.recipes[dataset]


def _show(plan: Plan, which: str) -> int:
    arm, _, seed = which.partition(":")
    wanted_arm, wanted_seed = arm or plan.study.baseline, seed or "0"
    for trial in plan.trials:
        if trial.arm == wanted_arm and str(trial.seed) == wanted_seed:
            print(trial.config.model_dump_json(indent=2))
            return EXIT_DONE
    arms = ", ".join(arm.name for arm in plan.study.arms)
    raise LabError(f"--show {which}: no such trial; arms: {arms}; seeds: 0 to {len(plan.seeds) - 1}", exit_code=2)


def _history(plan: Plan, folder: Path, options: argparse.Namespace) -> SweepHistory:
    if not options.sweep:
        return SweepHistory((), (), 0)
    members = records.read_members(options.results, folder.name)
    return sweep_history(plan, members, lambda key: records.ended(options.results, key))


def _likely_slots(options: argparse.Namespace) -> int:
    """The slots of this machine, for the estimate of the time; a cluster's are known once it is joined."""
    gpus = preflight.visible_gpus()
    per_worker = options.gpus_per_worker if options.gpus_per_worker is not None else min(gpus, 2)
    places = gpus // per_worker if per_worker else preflight.cpu_cores()
    return max(1, int(places // options.workers))


def _prepare(plan: Plan, console: Console) -> None:
    """Decodes the images once, before Ray starts, so that a bad one is named at once and no slot has to."""
    data = plan.base.data
    last = time.monotonic()

    def say(done: int, images: int) -> None:
        nonlocal last
        if time.monotonic() - last > SAY_EVERY_SECONDS or done == images:
            last = time.monotonic()
            console.print(f"decoding images, once: {done} of {images}")

    prepare_data(data, say)


def _run(
    plan: Plan,
    folder: Path,
    history: SweepHistory,
    sweep_left: int,
    options: argparse.Namespace,
    console: Console,
    started: float,
) -> dict[str, TrialState] | None:
    """Starts Ray and runs what is missing; returns every trial's state, or None when the user stopped it."""
    cluster.check_dashboard_host(options.dashboard_host)
    slot_plan, facts = _start_ray(plan, options, console, sweep_left)
    from orchestrator.recorder import RecordSettings
    from orchestrator.run import Interrupted, RunSettings, StudyRun
    from orchestrator.searcher import ArmSearcher, SweepSearcher

    if facts.dashboard is not None:
        token = "; its token: ray get-auth-token" if facts.token_required else ""
        console.print(f"Ray dashboard: {facts.dashboard}{token}", markup=False, soft_wrap=True)
    settings = RunSettings(
        record=RecordSettings(
            results=options.results,
            folder=folder,
            retry_failed=options.retry_failed,
            keep_weights=options.keep_weights,
            started=started,
        ),
        scratch=cluster.scratch_folder(options.results),
        slot_plan=slot_plan,
        facts=facts,
        worker_environment=cluster.WORKER_ENVIRONMENT,
    )
    name = folder.name
    try:
        with StudyRun(plan, settings, console) as run:
            recorder = run.recorder
            recorder.begin(plan.trials)
            run.run_arms(plan.missing, lambda trials: ArmSearcher(name, trials, recorder.launch))
            if sweep_left and plan.study.sweep is not None:
                history = _history(plan, folder, options)
                searcher = SweepSearcher(
                    study_name=name,
                    sweep=plan.study.sweep,
                    points=plan.sweep_points,
                    launch=recorder.launch,
                    plan_point=lambda parameters: plan_point(plan, parameters),
                    lookup=recorder.lookup_point,
                    known=history.known,
                    unfinished=history.unfinished,
                    asked_before=history.asked,
                )
                run.run_sweep(searcher, len(history.unfinished) + plan.sweep_points - history.asked)
            return recorder.states
    except Interrupted:
        console.print(
            "interrupted; finished trials are on record and running ones keep their last checkpoint. "
            "Go on with the same command.",
            soft_wrap=True,
        )
        return None


def _start_ray(
    plan: Plan, options: argparse.Namespace, console: Console, sweep_left: int
) -> tuple[SlotPlan, cluster.ClusterFacts]:
    """Preflight, then Ray: GPUs, slots, disk, shared memory."""
    cluster.prepare_environment()
    gpus = preflight.visible_gpus()
    if options.address is None:
        per_worker = preflight.choose_gpus_per_worker(options.gpus_per_worker, gpus, "this machine")
        slots = options.slots or _likely_slots(options)
        _check_slots(slots, per_worker, gpus, options)
    else:
        per_worker, slots = 0, options.slots or 1
    trials = len(plan.missing) + sweep_left
    slots = min(slots, trials)
    preflight.check_disk(options.results, preflight.disk_need_bytes(plan.base.network, trials, slots))
    roomy = preflight.shared_memory_is_enough(cluster.OBJECT_STORE_BYTES)
    if not roomy and options.address is None:
        console.print("warning: /dev/shm is small, Ray's object store goes to the temporary folder", highlight=False)
    import ray  # noqa: F401

    # 这些导入要好几秒，与 Ray 的启动并行；同一批模块不能由两个线程同时导入，所以之后要等它
    imports = threading.Thread(target=_import_side_by_side, name="imports", daemon=True)
    imports.start()
    cpus = slots * options.workers + 1
    facts = cluster.start(options.address, cpus, gpus, not options.no_dashboard, options.dashboard_host, roomy)
    imports.join()
    if options.address is not None:
        present = cluster.gpus_on_cluster()
        per_worker = preflight.choose_gpus_per_worker(options.gpus_per_worker, present, "no node of the cluster")
        slots = min(trials, options.slots or cluster.slots_on_cluster(per_worker, options.workers, 1))
        cluster.probe_nodes(options.results)
        if slots == 0:
            raise LabError(
                f"the cluster at {options.address} cannot hold one slot of {options.workers} workers with "
                f"{per_worker} GPUs and 1 CPU each",
                exit_code=3,
            )
    return SlotPlan(slots, options.workers, per_worker, options.device), facts


def _check_slots(slots: int, per_worker: int, gpus: int, options: argparse.Namespace) -> None:
    need = slots * options.workers * per_worker
    if need > gpus:
        raise LabError(
            f"{slots} slots of {options.workers} workers with {per_worker} GPUs each need {need} GPUs, "
            f"this machine has {gpus}; use fewer --slots or --workers",
            exit_code=3,
        )


def _import_side_by_side() -> None:
    import ray.train.torch
    import ray.tune  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
