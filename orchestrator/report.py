"""`python -m orchestrator.report`: the report of a study, made again from the records; nothing is trained.

Reports lie in `results/studies/<study>/`: one HTML page, Markdown, LaTeX, figures, and tables for other programs.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from alexnet_core.errors import CoreError
from orchestrator.conclusion import judged_material
from orchestrator.display import make_console
from orchestrator.errors import LabError
from orchestrator.options import DEFAULT_DATASET
from orchestrator.plan import plan_on_record, study_folder
from orchestrator.reporting.files import PAGE, write_report
from orchestrator.reporting.material import details
from orchestrator.reporting.terminal import answer_table
from orchestrator.tables import load_trials
from search_spaces.errors import StudyError

EXIT_DONE, EXIT_DIFFERS, EXIT_WRONG_USE, EXIT_NOTHING = 0, 1, 2, 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    options = _parser().parse_args(arguments)
    try:
        return _report(options, make_console())
    except (LabError, CoreError, StudyError) as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, LabError) else EXIT_WRONG_USE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.report",
        description="Write the report of a study again from the records. Nothing is trained.",
    )
    parser.add_argument("--study", default="lrn", help="a study on record (default: lrn)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: ./results)")
    parser.add_argument("--dataset", default=DEFAULT_DATASET, help="data set of the study (default: digits)")
    return parser


def _report(options: argparse.Namespace, console: Console) -> int:
    folder = _folder(options)
    plan, content = plan_on_record(folder)
    material = judged_material(plan, content, folder, options.results, load_trials(options.results))
    console.print(answer_table(material.answer, console.width))
    write_report(folder, material, lambda: details(material, options.results), always=True)
    console.print(f"report: {folder / PAGE}", markup=False, highlight=False, soft_wrap=True)
    return EXIT_DONE


def _folder(options: argparse.Namespace) -> Path:
    folder = study_folder(options.results, options.study, options.dataset, DEFAULT_DATASET)
    if (folder / "plan.json").is_file():
        return folder
    known = sorted(path.parent.name for path in (options.results / "studies").glob("*/plan.json"))
    raise LabError(
        f"study {options.study} on {options.dataset} is not on record in {options.results}; "
        f"on record: {', '.join(known) or 'none'}",
        exit_code=EXIT_NOTHING,
    )


if __name__ == "__main__":
    sys.exit(main())
