"""The options of `python -m orchestrator.ablate`, and how they become a request; past this file there are none."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_core.process.command_line import CommandParser, pathname
from orchestrator.choices import (
    AUTO,
    DEFAULT_DATASET,
    DEFAULT_SAMPLER,
    DEFAULT_STUDY,
    PAPER,
    PRUNERS,
    SAMPLERS,
    SECOND_OBJECTIVES,
)
from orchestrator.command import (
    add_json_option,
    add_results_option,
    add_study_argument,
    natural,
    natural_or_zero,
)
from orchestrator.errors import ExitCode, LabError
from orchestrator.output.channel import OPTION
from orchestrator.request import Limits, Placement, Question, Request, Store, SweepRequest
from search_spaces.space import Sweep
from search_spaces.study import load_study
from search_spaces.trial import parse_override
from search_spaces.yaml_file import parse_model

PROGRAM = "orchestrator.ablate"
EXAMPLES = {
    "--list": "the studies that come along",
    "lrn": "ask one: train what is missing, and answer",
    "lrn --dry-run": "what is on record, what would run, and how long that takes",
    "lrn --seeds auto --max-seeds 30": "seed by seed, until every arm is decided",
    "my_study.yaml --dataset imagefolder --data-root PHOTOS": "a study of yours on photos of yours",
}
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def parsed_request(arguments: Sequence[str]) -> Request:
    """Returns what a command line asks, for a program: a wrong option is an error like every other.

    Args:
        arguments: Of the command.

    Raises:
        LabError: An option is wrong, or does not go with another.
        StudyError: See `request_of`.
    """
    try:
        options = parser(exit_on_error=False).parse_args(arguments)
    except argparse.ArgumentError as error:
        raise LabError(str(error), exit_code=ExitCode.WRONG_USE) from error
    return request_of(options, arguments)


def request_of(options: argparse.Namespace, arguments: Sequence[str]) -> Request:
    """Returns what the options ask.

    Args:
        options: As parsed.
        arguments: What they were parsed from.

    Raises:
        LabError: Options do not go together.
        StudyError: No such study, or a wrong parameter, in `--sweep-over` or `--set`.
    """
    gpus = options.gpu_share if options.gpu_share is not None else options.gpus_per_worker
    (dataset, root), *also = _datasets(options.dataset, options.data_root, options.study)
    return Request(
        question=Question(
            study=options.study,
            dataset=dataset,
            data_root=root,
            also=tuple(also),
            network=options.network,
            epochs=options.epochs,
            overrides=dict(parse_override(text) for text in options.set),
            seeds=options.seeds,
            max_seeds=options.max_seeds,
            retune=options.retune,
            tuning_trials=options.tuning_trials,
            null=options.null,
            variance=options.variance,
            matched=options.matched,
            core=options.core,
        ),
        sweep=SweepRequest(
            points=options.sweep,
            over=_sweep_over(options.sweep_over),
            sampler=options.sampler,
            seed=options.sweep_seed,
            second=options.multi,
            pruner=options.pruner,
            confirm=options.confirm,
            confirm_seeds=options.confirm_seeds,
            only=options.sweep_only,
        ),
        placement=Placement(
            slots=options.slots,
            workers=options.workers,
            gpus_per_worker=gpus,
            device=options.device,
            address=options.address,
            dashboard=not options.no_dashboard,
            names_arms=options.dashboard,
            dashboard_host=options.dashboard_host,
            verbose=options.verbose,
        ),
        limits=Limits(options.max_gpu_hours, options.time_budget),
        store=Store(options.results, options.retry_failed, options.keep_weights),
        dry_run=options.dry_run,
        show=options.show,
        optuna_view=options.optuna_view,
        # 给人看还是给程序看，问的是同一件事
        command=(PROGRAM, *(word for word in arguments if word != OPTION)),
    )


def _datasets(text: str | None, data_root: Path | None, study: str) -> list[tuple[str, Path | None]]:
    """The data sets of `--dataset`, each with its folder: `digits,cifar10=DIR`; `--data-root` is for those without."""
    root = None if data_root is None else data_root.resolve()
    if text is None:
        return [(default_dataset(study), root)]
    own = [(name, pathname(folder).resolve() if folder else None) for name, folder in dataset_entries(text)]
    if len(own) == 1:
        return [(own[0][0], own[0][1] or root)]
    # 一个文件夹说给几个数据集：digits 用不着它
    return [(name, folder or (None if _needs_no_folder(study, name) else root)) for name, folder in own]


def dataset_entries(text: str) -> list[tuple[str, str]]:
    """Returns the data sets that `--dataset` names, each with its folder as written; empty where it has none.

    Raises:
        LabError: An entry is neither a data set nor `DATASET=DIR`.
    """
    entries = [entry.strip().partition("=") for entry in text.split(",")]
    if bad := [name + equals for name, equals, folder in entries if not name or (equals and not folder)]:
        raise LabError(
            f"--dataset {text}: {bad[0]!r} is neither a data set nor DATASET=DIR", exit_code=ExitCode.WRONG_USE
        )
    return [(name, folder) for name, _, folder in entries]


def _needs_no_folder(study: str, dataset: str) -> bool:
    recipe = None if study == PAPER else load_study(study).recipes.get(dataset)
    data = None if recipe is None else recipe.data
    return dataset == DEFAULT_DATASET if data is None else data.source == "digits"


def default_dataset(study: str) -> str:
    """Returns on which recipe a study is asked that is asked on none: its only one, else digits."""
    if study == PAPER:
        return DEFAULT_DATASET
    recipes = load_study(study).recipes
    return next(iter(recipes)) if len(recipes) == 1 else DEFAULT_DATASET


def _sweep_over(texts: list[str]) -> Sweep | None:
    """The space that `--sweep-over`, repeated, asks for; None where it is not given."""
    parameters: dict[str, Any] = {}
    for text in texts:
        parameters |= _space(text).parameters
    return Sweep(parameters=parameters) if parameters else None


def _space(text: str) -> Sweep:
    path, equals, parameter = text.partition("=")
    if equals:
        return parse_model(f"parameters:\n  {path.strip()}: {parameter}", Sweep, f"--sweep-over {path.strip()}")
    sweep = load_study(text).sweep
    if sweep is None:
        raise LabError(f"--sweep-over {text}: this study has no sweep", exit_code=ExitCode.WRONG_USE)
    return sweep


def parser(*, exit_on_error: bool = True) -> argparse.ArgumentParser:
    """Returns the command's parser.

    Args:
        exit_on_error: Whether a wrong option ends the command; else it is an `argparse.ArgumentError`.
    """
    made = CommandParser(
        prog=f"python -m {PROGRAM}",
        usage="%(prog)s STUDY [option ...]",
        exit_on_error=exit_on_error,
        description="Ask a study's question: train the missing trials on warm slots and answer with a verdict.",
        examples=EXAMPLES,
    )
    what = made.add_argument_group("the question")
    add_study_argument(
        what,
        "a study's name, the path of a study file, or paper for all (default beside other options: lrn)",
        DEFAULT_STUDY,
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
    what.add_argument(
        "--seeds",
        type=natural_or_auto,
        metavar="N",
        help="seeds per arm (default: the recipe's), or auto: seed by seed until every arm is decided",
    )
    what.add_argument("--max-seeds", type=natural, metavar="N", help="seeds per arm at most, with --seeds auto")
    what.add_argument("--epochs", type=natural, metavar="N", help="epochs per trial (default: the recipe's)")
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change the base of all arms, such as network.lrn1.alpha=2e-4; may be repeated",
    )
    what.add_argument(
        "--retune",
        metavar="FIELD",
        help="each arm tunes this number of the training, such as learning_rate, with the same budget on tuning seeds",
    )
    what.add_argument(
        "--tuning-trials",
        type=natural_or_zero,
        metavar="N",
        help="tuning trials of each arm (default: the study's, or 8); 0 re-tunes nothing",
    )
    what.add_argument(
        "--matched",
        action="store_true",
        help="add the controls of equal size that the study offers: was it the layer, or the parameters?",
    )
    what.add_argument(
        "--null",
        action="store_true",
        help="judge the baseline against itself on as many other seeds: what is taken for a difference by chance",
    )
    what.add_argument(
        "--variance",
        action="store_true",
        help="train the baseline with one source of randomness drawn anew at a time: which of them matters",
    )
    _add_sweep_options(made)
    data = made.add_argument_group("data and network")
    data.add_argument(
        "--dataset",
        metavar="NAME[=DIR][,...]",
        help="one of the study's recipes (default: its only one, or digits), or several, judged together: "
        "digits,cifar10=DIR",
    )
    data.add_argument(
        "--data-root", type=pathname, metavar="DIR", help="folder with train/ and val/ or test/, or a folder per class"
    )
    data.add_argument("--network", metavar="NAME", help="a named network (default: the recipe's)")
    data.add_argument(
        "--core",
        metavar="NAME",
        help="allow the code that the study names as its core to be run here; needed once, then remembered",
    )
    limits = made.add_argument_group("what it may spend (it stops at a complete seed; the same command goes on)")
    limits.add_argument(
        "--max-gpu-hours",
        type=hours,
        metavar="H",
        help="GPUs that slots reserve, times the hours they train, in this command; on the CPU slots times hours",
    )
    limits.add_argument(
        "--time-budget",
        type=duration,
        metavar="DURATION",
        help="such as 90m or 2h, from this command's start to the end of its last trial",
    )
    place = made.add_argument_group("where it runs")
    add_results_option(place)
    place.add_argument("--slots", type=natural, metavar="N", help="trials that train at once (default: all that fit)")
    place.add_argument(
        "--workers", type=natural, default=1, metavar="W", help="data-parallel workers per slot (default: 1)"
    )
    gpus = place.add_mutually_exclusive_group()
    gpus.add_argument("--gpus-per-worker", type=int, choices=(0, 1, 2), help="default: two, one or none as there are")
    gpus.add_argument(
        "--gpu-share", type=share, metavar="S", help="several small slots on one GPU: 0.25 puts four trials on each"
    )
    place.add_argument(
        "--device",
        choices=("auto", "cpu"),
        default="auto",
        help="cpu trains on the CPU whatever is reserved: a rehearsal of a placement (default: auto)",
    )
    place.add_argument("--address", help="join the Ray cluster at this address instead of starting a local Ray")
    dashboard = place.add_mutually_exclusive_group()
    dashboard.add_argument("--no-dashboard", action="store_true", help="start no dashboard")
    dashboard.add_argument(
        "--dashboard",
        action="store_true",
        help="name the arms in Ray's metrics, for Prometheus and Grafana; everybody on this machine can read those",
    )
    place.add_argument("--dashboard-host", default="127.0.0.1", help="interface of the dashboard (default: loopback)")
    place.add_argument("--retry-failed", action="store_true", help="train failed trials again")
    place.add_argument(
        "--keep-weights",
        choices=("all", "best", "none"),
        default="all",
        help="which final weights stay (default: all)",
    )
    add_json_option(made)
    made.add_argument(
        "--detach",
        action="store_true",
        help="go on without this terminal: once the study runs the command ends, and status --follow shows it",
    )
    made.add_argument(
        "--verbose", action="store_true", help="Ray's messages too; the workers' output is in the trial's log"
    )
    made.add_argument(
        "--notify",
        metavar="COMMAND",
        help="shell command that gets a JSON summary on its standard input at the end and on failure",
    )
    return made


def _add_sweep_options(made: argparse.ArgumentParser) -> None:
    sweep = made.add_argument_group("the sweep: points that Optuna chooses after the arms")
    sweep.add_argument(
        "--sweep",
        type=natural_or_zero,
        default=0,
        metavar="N",
        help="points in all, those on record included (default: 0)",
    )
    sweep.add_argument(
        "--sweep-only",
        action="store_true",
        help="train the points of --sweep N and no arm; what arms are on record is judged as it was",
    )
    sweep.add_argument(
        "--sweep-over",
        action="append",
        default=[],
        metavar="WHAT",
        help="the space instead of the study's own: the name of a study with a sweep, or FIELD=PARAMETER, such as "
        "'training.learning_rate={kind: float, low: 1e-4, high: 0.1, log: true}'; repeated, they are combined",
    )
    sweep.add_argument(
        "--sampler", choices=SAMPLERS, default=DEFAULT_SAMPLER, help="who chooses the points (default: tpe)"
    )
    sweep.add_argument(
        "--sweep-seed", type=natural_or_zero, default=0, metavar="N", help="seed of the sampler (default: 0)"
    )
    sweep.add_argument(
        "--multi",
        choices=SECOND_OBJECTIVES,
        help="a second objective beside the validation error: fewer multiply-adds, or more images per second",
    )
    sweep.add_argument(
        "--pruner",
        choices=PRUNERS,
        default="none",
        help="stop unpromising points of the sweep early; arms always train to their end (default: none)",
    )
    sweep.add_argument(
        "--confirm",
        type=natural_or_zero,
        default=0,
        metavar="K",
        help="train the K best points of the sweep and the baseline on fresh seeds, and judge those (default: 0)",
    )
    sweep.add_argument(
        "--confirm-seeds",
        type=natural,
        metavar="N",
        help="fresh seeds per point (default: the recipe's, at least as many as can reach a verdict)",
    )
    sweep.add_argument(
        "--optuna-view",
        action="store_true",
        help="write the study as an Optuna storage (optuna.db in its folder), also when nothing is left to train",
    )


def natural_or_auto(text: str) -> int | str:
    """Parses a whole number from 1 on, or the word auto."""
    return text if text == AUTO else natural(text)


def share(text: str) -> float:
    """Parses a share of a GPU: above 0, at most 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
    if not 0.01 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0.01 to 1, not {text}")
    return value


def duration(text: str) -> float:
    """Parses `90m`, `2h`, `1h30m` or `45s` into seconds."""
    parts = re.fullmatch(r"(?:\d+(?:\.\d+)?[dhms])+", text.strip())
    seconds = sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)) if parts else 0.0
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"must be a duration such as 90m, 2h or 1h30m, not {text!r}")
    return seconds


def hours(text: str) -> float:
    """Parses a number of hours above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number of hours, not {text!r}") from None
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 1000000 hours, not {text}")
    return value
