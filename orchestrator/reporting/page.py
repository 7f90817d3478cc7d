"""The report as one HTML page: no script, no request, light and dark, for screens of any width and for paper."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from alexnet_core.configuration.wording import counted
from orchestrator.choices import DEFAULT_DATASET
from orchestrator.judging import numbers
from orchestrator.judging.answer import Answer, Compared
from orchestrator.reporting.figures.style import COLOURS, ROLES, Picture
from orchestrator.reporting.story import Section, meaning
from orchestrator.reporting.text_tables import TextTable, compared_in_words

_TEMPLATES = "templates"
# 纸上放不下时先舍这些列：正文已有结论，细节在网页与表格文件里
ASIDE = frozenset(
    {"level", "sign-flip p (floor)", "paper, top-5", "correlation with baseline", "seconds per trial", "memory, ratio"}
)
MOST_ON_PAPER = 10
_NUMERIC = re.compile(r"^[-+<]? ?[0-9][0-9.,+\-%() ±e<]*(to [0-9., ]+.*)?$")
# 数与百分号、区间两端不拆到两行
_TOGETHER = re.compile(r"(?<=[0-9]) (?=[%±])|(?<=±) (?=[0-9])|(?<=[0-9∞],) (?=[-+×∞][0-9]?)")


def study_page(answer: Answer, sections: Sequence[Section]) -> str:
    """Returns a study's page; every name is escaped.

    Args:
        answer: The answer.
        sections: Its story.
    """
    template = _environment().get_template("study.html.jinja")
    return template.render(title=f"{answer.study} on {answer.dataset}", answer=answer, sections=sections)


def claims_page(
    title: str,
    lead: str,
    sections: Sequence[Section],
    kicker: str,
    command: str = "python -m orchestrator.report --paper",
) -> str:
    """Returns a page of sections; the kicker stands above the title, and the command that writes it at the end."""
    template = _environment().get_template("claims.html.jinja")
    return template.render(title=title, lead=lead, sections=sections, kicker=kicker, command=command)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("orchestrator.reporting", _TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=held_together,
    )
    style = (resources.files("orchestrator.reporting") / _TEMPLATES / "style.css").read_text()
    environment.globals.update(
        style=Markup(style),
        default_dataset=DEFAULT_DATASET,
        known_words=tuple(COLOURS),
        numeric_columns=numeric_columns,
        left_out_on_paper=left_out_on_paper,
        counted=counted,
        meaning=meaning,
        level_in_words=numbers.level_in_words,
        inline_svg=inline_svg,
        data_uri=data_uri,
        difference=numbers.difference,
        unit=numbers.unit,
        deviation=numbers.deviation,
        seeds_range=numbers.seeds_range,
        interval=numbers.interval,
        beyond=numbers.beyond,
        claimed=numbers.claimed,
        rest_of=rest_of,
        compared_in_words=compared_in_words,
        source_heading=numbers.source_heading,
    )
    return environment


def held_together(value: Any) -> Any:
    """Returns a text whose percent signs stay with their numbers, and whose intervals stay on one line."""
    return _TOGETHER.sub("\N{NO-BREAK SPACE}", value) if type(value) is str else value


def rest_of(arm: Compared) -> str:
    """Returns the arm's sentence after its word, which is shown in its colour."""
    return arm.sentence.removeprefix(arm.word)


def numeric_columns(table: TextTable) -> set[int]:
    """Returns the places of columns whose cells are all numbers, which are set flush right."""
    return {
        place
        for place in range(1, len(table.headings))
        if any(row[place] for row in table.rows)
        and all(not row[place] or _NUMERIC.match(row[place]) for row in table.rows)
    }


def left_out_on_paper(table: TextTable) -> set[int]:
    """Returns the places of columns that a sheet of paper has no room for; the page and the other files have them.

    First go those of `ASIDE`, then the last parameters or arms, then the last results; the first column stays.
    """
    last_first = range(len(table.headings) - 1, 0, -1)
    words = [place for place in last_first if table.headings[place] not in table.names]
    aside = [place for place in words if table.headings[place] in ASIDE]
    names = [place for place in last_first if table.headings[place] in table.names]
    others = [place for place in words if place not in aside]
    return set([*aside, *names, *others][: max(0, len(table.headings) - MOST_ON_PAPER)])


def data_uri(picture: Picture) -> str:
    """Returns the picture's pixels as the address of an image."""
    return f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"


def inline_svg(picture: Picture, *, narrow: bool = False) -> Markup:
    """Returns an SVG to stand in a page: named, with ids of its own, in the page's light and dark colours.

    Args:
        picture: The picture.
        narrow: Its layout for a phone.
    """
    text = (picture.narrow if narrow else picture.svg).decode()
    text = text[text.index("<svg") :]
    # 图自带的 <style> 会管到整页
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    # 同一页上几张图的 id 不可相撞
    text = re.sub(r'\b(id="|xlink:href="#|href="#|url\(#)', rf"\g<1>{picture.name}-{'narrow-' * narrow}", text)
    for colour, role in ROLES.items():
        text = text.replace(colour, f"var(--{role})")
    text = re.sub(r'(<svg [^>]*?)\swidth="[^"]*" height="[^"]*"', r"\1", text, count=1)
    label = escape(picture.alt)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))
