"""`python -m orchestrator.check_core CORE`: whether a core keeps what records, pairing and resuming rely on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pydantic import BaseModel, JsonValue, ValidationError

from alexnet_core.configuration.frozen import first_mistake
from alexnet_core.process.command_line import CommandParser, pathname
from orchestrator.command import command, natural
from orchestrator.cores.checks import Rehearsal, check_core
from orchestrator.cores.contract import ContractError
from orchestrator.cores.loading import core_name, load_core
from orchestrator.errors import ExitCode, LabError
from orchestrator.output.console import make_console
from search_spaces.trial import parse_override

REPORTS = 3


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return _check(_parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m orchestrator.check_core",
        description="Check that a core repeats by seed, differs by seed, resumes, and reports what it declares. "
        "It is imported, and trained for a few reports some four times.",
    )
    parser.add_argument("core", metavar="CORE", help="its module, such as my_package.my_core, or its file, my_core.py")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of its configuration, such as width=8, to make the check short; may be repeated",
    )
    parser.add_argument(
        "--reports", type=natural, default=REPORTS, metavar="N", help=f"reports each time (default: {REPORTS})"
    )
    parser.add_argument("--data-root", type=pathname, metavar="DIR", help="folder of its data")
    return parser


def _check(options: argparse.Namespace) -> int:
    try:
        name = core_name(options.core)
        core = load_core(name)
    except ContractError as error:
        raise LabError(str(error), exit_code=ExitCode.WRONG_USE) from error
    fields = _fields(core.config, dict(map(parse_override, options.set)))
    root = options.data_root.resolve() if options.data_root is not None else None
    console, faults = make_console(), 0
    for finding in check_core(core, Rehearsal(name, fields, options.reports, root)):
        faults += finding.word == "fault"
        console.print(f"{finding.word:<6}{finding.text}", markup=False, highlight=False, soft_wrap=True)
    if not faults:
        console.print(f"core {core.name} keeps its word", markup=False, highlight=False)
        return ExitCode.DONE
    return ExitCode.SOME_FAILED


def _fields(config: type[BaseModel], overrides: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The fields that the user sets, as the configuration takes them."""
    try:
        config.model_validate(overrides)
    except ValidationError as error:
        raise LabError(f"--set: {first_mistake(error, config)}", exit_code=ExitCode.WRONG_USE) from error
    return overrides


if __name__ == "__main__":
    sys.exit(main())
