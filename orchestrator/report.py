"""`python -m orchestrator.report`: the report of a study, made again from the records; nothing is trained.

Reports lie in `results/studies/<study>/`: one HTML page, Markdown, LaTeX, figures, and tables for other programs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from alexnet_core.configuration.frozen import Frozen
from alexnet_core.process.command_line import CommandParser
from alexnet_core.process.interruption import say
from orchestrator.asking.answers import AnswersDocument, StudyAnswer, study_answer
from orchestrator.asking.images import ImagesDocument, show_images
from orchestrator.choices import DEFAULT_DATASET, DEFAULT_STUDY, PAPER
from orchestrator.command import (
    add_json_option,
    add_results_option,
    add_study_argument,
    check_has_results,
    command_for_programs,
    one_line_errors,
    print_error,
)
from orchestrator.errors import ExitCode, LabError
from orchestrator.judging.images.seen import SeenImages
from orchestrator.options import dataset_entries
from orchestrator.output.channel import Output
from orchestrator.output.console import printable
from orchestrator.output.document import Document
from orchestrator.output.fitting import fitting, print_text
from orchestrator.planning.plan_file import plan_on_record, read_plan, write_studies
from orchestrator.planning.variants.afterwards import chosen_afterwards
from orchestrator.records.layout import STUDY_FOLDER, is_joint, joint_folder, study_folder
from orchestrator.replication.before import before_asking
from orchestrator.replication.conclude import check_replication, judge_parts, print_replication
from orchestrator.replication.judge import Part, check_part
from orchestrator.replication.page import write_page
from orchestrator.reporting.check import Checked, check_report
from orchestrator.reporting.claims import summary_table, write_claims
from orchestrator.reporting.conclude import judged_material
from orchestrator.reporting.files import ANSWER, PAGE, write_report
from orchestrator.reporting.material import details
from orchestrator.reporting.terminal import print_answer
from orchestrator.request import check_distinct
from orchestrator.tables.tables import load_trials
from search_spaces.study import load_study, study_names


class CheckedReport(Frozen):
    """A report that was computed again.

    Attributes:
        study: Name of its folder.
        differences: What the records do not bear out, a line for each; none for an honest report.
        by_sums_alone: What cannot be made again here, so that of it only the sums were compared, a line for each.
    """

    study: str
    differences: tuple[str, ...]
    by_sums_alone: tuple[str, ...] = ()


class ChecksDocument(Document):
    """What `report --check` answers with `--json`.

    Attributes:
        checked: The reports.
    """

    checked: tuple[CheckedReport, ...]


@command_for_programs
def main(arguments: Sequence[str] | None, output: Output) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    return output.answer(_report(options, output.console()))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m orchestrator.report",
        description="Write the report of a study again from the records. Nothing is trained.",
        examples={
            "lrn": "the answer, and its page",
            "lrn --compare as_run no_lrn": "two arms against each other, chosen afterwards",
            "lrn --check": "do the records bear out every verdict?",
            "lrn --images": "the images that most arms' seeds disagree on",
            "--paper": "all studies on one page, the paper beside ours",
        },
    )
    add_study_argument(parser.add_argument_group("the study"), "a study on record, or its file (default: lrn)")
    add_results_option(parser)
    add_json_option(parser)
    parser.add_argument(
        "--dataset",
        help="data set of the study (default: digits, or its only one on record; of --paper: all on record), or "
        "several, judged together: digits,cifar10",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--paper", action="store_true", help="one page for all studies on record, the paper beside ours")
    what.add_argument("--compare", nargs=2, metavar="ARM", help="the second arm against the first, chosen afterwards")
    what.add_argument("--images", action="store_true", help="a picture of the images that most arms' seeds disagree on")
    what.add_argument("--baseline", metavar="ARM", help="all arms against this one, chosen afterwards")
    parser.add_argument(
        "--check", action="store_true", help="compute every verdict again from the records and name what differs"
    )
    return parser


def _report(options: argparse.Namespace, console: Console) -> Document:
    check_has_results(options.results)
    if options.check and (options.compare is not None or options.baseline is not None):
        raise LabError(
            "--check is of a study's own report; leave --compare and --baseline out", exit_code=ExitCode.WRONG_USE
        )
    options, datasets = _data_sets(options)
    several = len(datasets) > 1
    if options.images and (options.check or several):
        raise LabError(
            "--images is of one study's images; leave --check and further data sets out", exit_code=ExitCode.WRONG_USE
        )
    if options.paper and options.study is not None:
        raise LabError("--paper is of all studies on record; leave --study out", exit_code=ExitCode.WRONG_USE)
    if several:
        return _joint(options, datasets, console)
    if options.check:
        return _check(options, console)
    if options.paper:
        return _paper(options, console)
    images = SeenImages(options.results)
    return (_images if options.images else _one)(options, console, images)


def _data_sets(options: argparse.Namespace) -> tuple[argparse.Namespace, list[str]]:
    """The options with one data set at most, and all that are named, in order; `mine+digits+few` names its own."""
    study, text = options.study or "", options.dataset
    if is_joint(study) and not study.endswith((".yaml", ".yml")):
        if text is not None:
            raise LabError(f"{study} names its data sets itself; leave --dataset out", exit_code=ExitCode.WRONG_USE)
        study, _, text = study.partition("+")
        text = text.replace("+", ",")
    datasets = sorted(name for name, _ in dataset_entries(text)) if text is not None else []
    check_distinct(datasets)
    one = datasets[0] if datasets else None
    return argparse.Namespace(**{**vars(options), "study": study or None, "dataset": one}), datasets


def _images(options: argparse.Namespace, console: Console, images: SeenImages) -> ImagesDocument:
    """Draws the images of a study that seeds disagree on; no look is taken."""
    folder = _folder(options)
    plan, plan_file = plan_on_record(folder)
    tables = load_trials(options.results)
    material = judged_material(plan, plan_file, folder, options.results, tables, images=images)
    return show_images(material, folder, console)


def _one(options: argparse.Namespace, console: Console, images: SeenImages) -> AnswersDocument:
    """Answers one study, or a comparison of it that was chosen afterwards, and writes its report."""
    folder = _folder(options)
    plan, plan_file = plan_on_record(folder)
    tables = load_trials(options.results)
    target = folder
    if options.compare is not None or options.baseline is not None:
        first, others = options.baseline, None
        if options.compare is not None:
            first, others = options.compare[0], options.compare[1:]
        plan, plan_file = chosen_afterwards(plan, plan_file, first, others)
        target = folder / ("-".join(["compare", *options.compare]) if options.compare else f"baseline-{first}")
    is_writable = os.access(folder, os.W_OK)
    # 事后另选的比较不算这个研究的一次看
    notes_look = target == folder and is_writable
    material = judged_material(plan, plan_file, folder, options.results, tables, notes_look=notes_look, images=images)
    print_answer(material.answer, console)
    answered = AnswersDocument(answers=(study_answer(material, target),))
    if not is_writable:
        return _not_written(answered, folder, "its report and this look are" if target == folder else "its report is")
    write_report(target, material, lambda: details(material, options.results, folder), always=True)
    print_text(console, f"report: {target / PAGE}")
    return answered


def _not_written(answered: AnswersDocument, folder: Path, what: str) -> AnswersDocument:
    """The answers from somebody else's read-only folder: they are given, and what cannot be written is said."""
    trouble = (
        f"{folder} is read-only: the answer is above, {what} not written; "
        "copy the results folder to where you may write"
    )
    print_error(trouble)
    return answered.model_copy(update={"exit_code": ExitCode.ENVIRONMENT, "error": trouble})


def _joint(options: argparse.Namespace, datasets: Sequence[str], console: Console) -> Document:
    """Answers a study on several data sets, each and together; or checks those reports."""
    if options.paper or options.compare is not None or options.baseline is not None:
        raise LabError(
            "--paper, --compare and --baseline take one data set at a time; name one --dataset",
            exit_code=ExitCode.WRONG_USE,
        )
    each = [argparse.Namespace(**{**vars(options), "dataset": dataset}) for dataset in datasets]
    # 有一个不在案，或不能合起来判，就什么也不写
    folders = [_folder(one) for one in each]
    for folder in folders:
        check_part(*plan_on_record(folder))
    target = joint_folder(options.results, plan_on_record(folders[0])[0].study.name, datasets)
    if options.check:
        checked = [_said(folder.name, _checked(folder, options), console) for folder in folders]
        return _checks([*checked, _said(target.name, _checked_together(target, folders, options), console)])
    names = [folder.name for folder in folders]
    # 各自的报告也算一次看：先问此前看过什么
    before = before_asking(target, names)
    images = SeenImages(options.results)
    answered = [_one(one, console, images) for one in each]
    replication = judge_parts(_parts(folders, options.results), options.results, before)
    print_replication(replication, console)
    document = AnswersDocument(
        answers=tuple(answer for one in answered for answer in one.answers), replication=replication
    )
    if any(one.error is not None for one in answered):
        return _not_written(document, target, "its joint page is")
    write_studies(target, ", ".join(datasets), names, before.fields)
    write_page(target, replication)
    print_text(console, f"all data sets: {target / PAGE}")
    return document.model_copy(update={"page": (target / PAGE).resolve()})


def _parts(folders: Sequence[Path], results: Path) -> list[Part]:
    """The study on each data set, judged there from its records."""
    tables, parts = load_trials(results), []
    for folder in folders:
        plan, plan_file = plan_on_record(folder)
        answer = judged_material(plan, plan_file, folder, results, tables).answer
        parts.append(Part(plan, plan_file, answer, folder))
    return parts


def _check(options: argparse.Namespace, console: Console) -> ChecksDocument:
    folders = _folders_on_record(options) if options.paper else [_folder(options)]
    checked = [_said(folder.name, _checked(folder, options), console) for folder in folders]
    for target in _joint_pages(folders, options.results) if options.paper else ():
        study, *datasets = target.name.split("+")
        parts = [study_folder(options.results, study, dataset, DEFAULT_DATASET) for dataset in datasets]
        checked.append(_said(target.name, _checked_together(target, parts, options), console))
    return _checks(checked)


def _joint_pages(folders: Sequence[Path], results: Path) -> list[Path]:
    """The joint pages of which one of the folders is a part."""
    pages = sorted(page.parent for page in (results / "studies").glob(f"*+*/{ANSWER}"))
    of = {page: page.name.split("+") for page in pages}
    return [
        page
        for page, (study, *datasets) in of.items()
        if {study_folder(results, study, dataset, DEFAULT_DATASET) for dataset in datasets} & {*folders}
    ]


def _checked_together(target: Path, folders: Sequence[Path], options: argparse.Namespace) -> Checked:
    before = before_asking(target, [folder.name for folder in folders])
    try:
        with one_line_errors():
            parts = _parts(folders, options.results)
            return Checked(list(check_replication(target, parts, options.results, before)), [])
    except LabError as error:
        # 与各研究自己的报告一样：一页查不了，不挡住其余的
        if not options.paper:
            raise
        return Checked([str(error)], [])


def _said(name: str, found: Checked, console: Console) -> CheckedReport:
    """Says what a check has found; returns it."""
    differences, by_sums_alone = found
    verdict = "differs from its records" if differences else "every verdict is what the records say"
    notes = (f"note: {line}" for line in by_sums_alone)
    for line in (f"{name}: {verdict}", *(f"  {line}" for line in (*differences, *notes))):
        print_text(console, line)
    return CheckedReport(study=name, differences=tuple(differences), by_sums_alone=tuple(by_sums_alone))


def _checks(checked: Sequence[CheckedReport]) -> ChecksDocument:
    differs = any(report.differences for report in checked)
    return ChecksDocument(checked=tuple(checked), exit_code=ExitCode.SOME_FAILED if differs else ExitCode.DONE)


def _checked(folder: Path, options: argparse.Namespace) -> Checked:
    try:
        with one_line_errors():
            return check_report(folder, options.results)
    except LabError as error:
        # 查多个研究时，一个查不了不挡住其余的
        if not options.paper:
            raise
        return Checked([str(error)], [])


def _paper(options: argparse.Namespace, console: Console) -> AnswersDocument:
    """Answers every study on record and writes one page."""
    tables, images = load_trials(options.results), SeenImages(options.results)
    studies: list[StudyAnswer] = []
    for folder in _folders_on_record(options):
        try:
            plan, plan_file = plan_on_record(folder)
        except LabError as error:
            # 一份损坏的计划不该挡住其余研究的页面
            say(f"warning: {printable(str(error))}; left out")
            continue
        # 噪声基线是拿基线比它自己，不是谁的主张
        if not plan.of_baseline_alone:
            notes_look = os.access(folder, os.W_OK)
            judged = judged_material(
                plan, plan_file, folder, options.results, tables, notes_look=notes_look, images=images
            )
            studies.append(study_answer(judged, folder))
    if not studies:
        raise LabError(f"no study is on record in {options.results}; run an ablation first", exit_code=ExitCode.NOTHING)
    target = study_folder(options.results, PAPER, options.dataset or DEFAULT_DATASET, DEFAULT_DATASET)
    known = [load_study(name) for name in study_names()]
    skipped = {
        dataset: {study.name: study.not_asked[dataset] for study in known if dataset in study.not_asked}
        for dataset in {study.dataset for study in studies}
    }
    answers = [study.answer for study in studies]
    console.print(fitting(summary_table(answers), console.width))
    if not os.access(target if target.is_dir() else target.parent, os.W_OK):
        return _not_written(AnswersDocument(answers=tuple(studies)), target, "its page is")
    write_claims(target, answers, skipped)
    print_text(console, f"all claims: {target / PAGE}")
    return AnswersDocument(answers=tuple(studies), page=(target / PAGE).resolve())


def _folders_on_record(options: argparse.Namespace) -> list[Path]:
    folders = sorted(path.parent for path in (options.results / "studies").glob("*/plan.json"))
    if options.dataset is not None:
        folders = [
            folder for folder in folders if (plan_file := read_plan(folder)) and plan_file.dataset == options.dataset
        ]
    if not folders:
        raise LabError(f"no study is on record in {options.results}; run an ablation first", exit_code=ExitCode.NOTHING)
    return folders


def _only_folder(results: Path, study: str) -> Path | None:
    """The folder of a study that is on record on one data set alone; None where there are several, or none."""
    # 名字是用户写的：不能当成模式，也不能当成路径
    folders = [path.parent for path in (results / "studies").glob("*/plan.json")]
    plans = [folder for folder in folders if folder.name.startswith(f"{study}-")]
    ours = [folder for folder in plans if (plan := read_plan(folder)) is not None and plan.study == study]
    return ours[0] if len(ours) == 1 else None


def _folder(options: argparse.Namespace) -> Path:
    dataset, name = options.dataset or DEFAULT_DATASET, options.study or DEFAULT_STUDY
    if name.endswith((".yaml", ".yml")):
        name = load_study(name).name
    folder = study_folder(options.results, name, dataset, DEFAULT_DATASET)
    if options.dataset is None and not (folder / "plan.json").is_file():
        folder = _only_folder(options.results, name) or folder
    # 名字里的 .. 或 / 不得把人带出 studies/
    is_inside = folder.parent == options.results / "studies" and STUDY_FOLDER.fullmatch(folder.name)
    if is_inside and (folder / "plan.json").is_file():
        return folder
    known = sorted(path.parent.name for path in (options.results / "studies").glob("*/plan.json"))
    raise LabError(
        f"study {name} on {dataset} is not on record in {options.results}; on record: {', '.join(known) or 'none'}",
        exit_code=ExitCode.NOTHING,
    )


if __name__ == "__main__":
    sys.exit(main())
