"""`python -m orchestrator.ablate lrn`: plans a study, trains what is missing, and answers.

The story is in `asking/ask.py`, which `run_study` tells too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial

from rich.console import Console

from orchestrator.asking.ask import ask
from orchestrator.asking.detached import ask_detached
from orchestrator.asking.plans import StudiesDocument, listed_studies
from orchestrator.command import framed, run_beside
from orchestrator.errors import ExitCode, LabError
from orchestrator.options import EXAMPLES, PROGRAM, parser, request_of
from orchestrator.output.channel import OPTION, Output, asks_for_json
from orchestrator.output.fitting import print_text
from orchestrator.running.cluster import lifecycle
from orchestrator.running.notification import Notifier


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code. After Ray was used `python -m` ends here, with all that Ray started."""
    started, words = time.monotonic(), sys.argv[1:] if arguments is None else list(arguments)
    output = Output(as_json=asks_for_json(words))
    notifier = Notifier(output)
    again = "; finished trials are on record, go on with the same command"
    code = framed(partial(_main, words, started, output, notifier), output, notifier.send, again)
    if lifecycle.was_started():
        lifecycle.leave(code)
    return code


def _main(arguments: Sequence[str], started: float, output: Output, notifier: Notifier) -> int:
    if not [word for word in arguments if word != OPTION]:
        # 什么都没问就不该开始训练几分钟
        _say_what_it_can(output.console())
        raise LabError("name a study", exit_code=ExitCode.WRONG_USE)
    options = parser().parse_args(arguments)
    if not _only_says(options):
        facts = {"study": options.study, "dataset": options.dataset, "results": str(options.results.resolve())}
        notifier.tell(options.notify, facts)
    console = output.console(goes_on=not _only_says(options))
    if options.list:
        return output.answer(_listed(console))
    if options.detach and not _only_says(options):
        # 通知由留下来的那个进程来做
        notifier.tell(None, {})
        if output.as_json:
            raise LabError(
                "--detach ends before there is an answer, --json is the answer: leave one of them out",
                exit_code=ExitCode.WRONG_USE,
            )
        return output.answer(ask_detached(request_of(options, arguments), console))
    try:
        return output.answer(ask(request_of(options, arguments), console, started, notifier))
    except lifecycle.CallersProcess:
        # 别人的进程里不起 Ray：它的信号、子进程和退出都归调用者
        notifier.tell(None, {})
        return run_beside("orchestrator.ablate", arguments, output.pass_on).code


def _say_what_it_can(console: Console) -> None:
    lines = (f"  python -m {PROGRAM} {words}\n      {what}" for words, what in EXAMPLES.items())
    print_text(
        console, "ablate asks the question of a study: it trains the trials that are not on record yet, and answers."
    )
    print_text(console, "\n".join(lines))
    print_text(console, f"python -m {PROGRAM} --help lists all options.")


def _only_says(options: argparse.Namespace) -> bool:
    return options.list or options.dry_run or options.show is not None


def _listed(console: Console) -> StudiesDocument:
    document = listed_studies()
    for study in document.studies:
        print_text(console, f"{study.name}: {study.question}")
        print_text(console, f"    {len(study.arms)} arms; data sets: {', '.join(study.datasets)}")
    return document


if __name__ == "__main__":
    sys.exit(main())
