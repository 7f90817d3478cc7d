"""The files of a report: which there are, and writing them when something changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from orchestrator.records.files import write_atomically
from orchestrator.reporting import text_tables
from orchestrator.reporting.frames import answer_frames
from orchestrator.reporting.markup import latex_table
from orchestrator.reporting.material import Details, Material, sha256

if TYPE_CHECKING:
    from orchestrator.reporting.figures.style import Picture


ANSWER, PROVENANCE, PAGE, TEXT, SUMS = "answer.json", "provenance.json", "report.html", "report.md", "SHA256SUMS"


def write_report(
    folder: Path, material: Material, read_details: Callable[[], Details], *, always: bool = False
) -> list[Path]:
    """Writes the report of a study, if its answer or its records changed or one of its files is missing.

    Args:
        folder: Where to.
        material: What it is made of.
        read_details: Reads what only a new report needs.
        always: Write it anew even when nothing changed.

    Returns:
        The files written; none when everything is as it was.
    """
    if not always and _is_current(folder, material):
        return []
    # 答案最后写：有了它，其余的就都在
    data = data_files(material)
    files = shown_files(material, read_details())
    files = {**files, SUMS: sums(files | data), **data}
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def shown_files(material: Material, details: Details) -> dict[str, bytes]:
    """Returns the figures, the tables and the texts of a report."""
    # matplotlib 要 1.5 秒，只有变了才加载
    from orchestrator.reporting.figures.gallery import gallery

    pictures = gallery(material, details)
    texts = text_files(material, pictures, details.classes)
    return {**figure_files(pictures), **table_files(material, details), **texts}


def _is_current(folder: Path, material: Material) -> bool:
    data = data_files(material)
    figure = "variance" if material.answer.variance else "differences"
    names = (PAGE, TEXT, SUMS, f"figures/{figure}.svg", "tables/verdicts.csv")
    if not all((folder / name).is_file() for name in (*names, *data)):
        return False
    return all((folder / name).read_bytes() == content for name, content in data.items())


def data_files(material: Material) -> dict[str, bytes]:
    """Returns the answer and its provenance; `answer.json` is the last: where it is, the rest is complete."""
    return {PROVENANCE: _json(material.provenance.model_dump(mode="json")), ANSWER: answer_json(material)}


def answer_json(material: Material) -> bytes:
    """Returns the content of `answer.json`."""
    return _json(material.answer.model_dump(mode="json"))


def _json(content: object) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode()


def figure_files(pictures: Sequence[Picture]) -> dict[str, bytes]:
    """Returns the figures as PNG, and as SVG where they are drawn in lines."""
    files = {f"figures/{picture.name}.png": picture.png for picture in pictures}
    return files | {f"figures/{picture.name}.svg": picture.svg for picture in pictures if picture.svg}


def text_files(
    material: Material, pictures: Sequence[Picture], classes: pl.DataFrame | None = None
) -> dict[str, bytes]:
    """Returns the page and Markdown; `classes` as `story` has it."""
    from orchestrator.reporting.markup import study_markdown
    from orchestrator.reporting.page import study_page
    from orchestrator.reporting.story import story

    sections = story(material, pictures, classes)
    return {
        PAGE: study_page(material.answer, sections).encode(),
        TEXT: study_markdown(material.answer, sections).encode(),
    }


def table_files(material: Material, details: Details) -> dict[str, bytes]:
    """Returns the tables as LaTeX, CSV and Parquet."""
    answer = material.answer
    if answer.variance:
        tables = [text_tables.variance_table(answer)]
    else:
        tables = [text_tables.verdict_table(answer), text_tables.arm_table(answer), text_tables.cost_table(answer)]
    tables += [text_tables.contrast_table(answer)] if answer.contrasts else []
    tables += [text_tables.retuned_table(answer)] if answer.retuned is not None else []
    tables += [text_tables.tuning_table(answer)] if answer.tuning else []
    tables += [text_tables.sweep_table(answer)] if answer.sweep else []
    tables += (
        [text_tables.confirmation_table(answer.confirmation, answer.description, answer.unit)]
        if answer.confirmation is not None
        else []
    )
    files = {}
    for table in tables:
        label = f"{answer.study}-{answer.dataset}-{table.name}"
        files[f"tables/{table.name}.tex"] = latex_table(table, label).encode()
    for name, frame in answer_frames(material, details).items():
        buffer = BytesIO()
        frame.write_parquet(buffer)
        files[f"tables/{name}.csv"] = csv_of(frame)
        files[f"tables/{name}.parquet"] = buffer.getvalue()
    return files


def csv_of(frame: pl.DataFrame) -> bytes:
    """Returns a frame as CSV; a text that a spreadsheet would run as a formula gets an apostrophe before it."""
    # 表格软件会执行以这些符号开头的单元格
    return frame.with_columns(pl.col(pl.String).str.replace(r"^([=+\-@\t\r])", "'${1}")).write_csv().encode()


def sums(files: Mapping[str, bytes]) -> bytes:
    """Returns the content of `SHA256SUMS`, which `sha256sum --check` reads."""
    return "".join(f"{sha256(content)}  {name}\n" for name, content in sorted(files.items())).encode()
