"""Writing an answer: the record of it, the report, and (only when something changed) the figures."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.findings import Answer
from orchestrator.records import write_atomically
from orchestrator.reporting.markdown import FIGURE, answer_markdown


def write_answer(folder: Path, answer: Answer) -> list[Path]:
    """Writes `answer.json`, `report.md` and the figures, if the answer changed or one of them is missing.

    Args:
        folder: The study's folder.
        answer: The answer.

    Returns:
        The files written; none when everything is as it was.
    """
    content = json.dumps(answer.model_dump(mode="json"), indent=1, sort_keys=True).encode()
    report = answer_markdown(answer).encode()
    paths = [folder / name for name in ("answer.json", "report.md", f"{FIGURE}.png", f"{FIGURE}.svg")]
    same = all(path.is_file() for path in paths)
    if same and paths[0].read_bytes() == content and paths[1].read_bytes() == report:
        return []
    # matplotlib 要 1.5 秒，只有答案变了才加载
    from orchestrator.figures import differences_figure

    png, svg = differences_figure(answer)
    # answer.json 最后写：它在，其余才算齐
    for path, data in zip(reversed(paths), (svg, png, report, content), strict=True):
        write_atomically(path, data)
    return paths
