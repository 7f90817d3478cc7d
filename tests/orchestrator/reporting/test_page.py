"""The page in a real browser: nothing leaves it, everything has a name, it reads on any screen and on paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium
from tests.made_designs import make_judged, make_study
from tests.made_reports import make_answer, write

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.slow

WILD = "<script>document.title='stolen'</script><img src=x onerror=alert(1)> & \"quotes\" {{ 7*7 }} $x^2$"
POINTS = [
    {
        "position": place,
        "parameters": f'{{"network.lrn*.k": {1 + place / 3}, "training.learning_rate": {10**-place}}}',
        "state": "finished" if place else "diverged",
        "validation_error": 3.0 + place if place else None,
        "key": f"{place:020d}",
    }
    for place in range(5)
]
ANSWERS: dict[str, dict[str, Any]] = {
    "every word": {},
    "wild names": {"arms": 5, "question": WILD, "title": WILD},
    "40 arms": {"arms": 40, "seeds": 3},
    "one seed": {"seeds": 1},
    "nothing finished": {"finished": False},
}
DESIGNS = {"a ladder": "cumulative", "a factorial": "factorial"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        if started is None:
            pytest.skip("there is no chromium (apt-get install chromium)")
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, fields in ANSWERS.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        write(folder, make_answer(**fields), points=POINTS if name == "every word" else None)
        made[name] = folder / "report.html"
    for name, design in DESIGNS.items():
        study = make_study(design)
        errors = {
            arm.name: [60 + 9 * place + 3 * (seed % 3) for seed in range(8)] for place, arm in enumerate(study.arms)
        }
        errors[study.arms[1].name] = [64, 70, 58, 77, 61, 66, 59, 80]
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        write(folder, make_judged(study, errors))
        made[name] = folder / "report.html"
    return made


@contextmanager
def opened(browser: Any, path: Path, width: int = 1100, scheme: str = "light") -> Iterator[tuple[Any, list[str]]]:
    """A page, and all that it said to the console or asked of the network."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, heard = context.new_page(), []
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: heard.append(f"request: {request.url}"))
    try:
        page.goto(path.as_uri())
        yield page, heard
    finally:
        context.close()


@pytest.mark.parametrize("name", [*ANSWERS, *DESIGNS])
def test_no_request_leaves_the_page_and_no_console_line_is_written(
    browser: Any, pages: dict[str, Path], name: str
) -> None:
    with opened(browser, pages[name]) as (page, heard):
        assert [line for line in heard if not line.startswith("request: data:")] == [f"request: {pages[name].as_uri()}"]
        assert page.evaluate("document.scripts.length") == 0
        assert page.title() == ("parts on digits" if name in DESIGNS else "lrn on digits")


@pytest.mark.parametrize("name", [*ANSWERS, *DESIGNS])
def test_everything_on_the_page_has_a_name(browser: Any, pages: dict[str, Path], name: str) -> None:
    with opened(browser, pages[name]) as (page, _):
        assert page.locator("h1").count() == 1
        pictures = page.locator("figure svg, figure img")
        assert pictures.count() >= (2 if name != "nothing finished" else 1)
        unnamed = "all => all.filter(one => !(one.getAttribute('aria-label') || one.alt)).length"
        assert pictures.evaluate_all(unnamed) == 0
        assert page.locator("th:not([scope])").count() == 0
        assert page.locator("table").count() == page.locator("table:has(caption):has(thead th)").count() >= 4
        ids = page.locator("[id]").evaluate_all("all => all.map(one => one.id)")
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", [*ANSWERS, *DESIGNS])
def test_the_page_never_scrolls_sideways(browser: Any, pages: dict[str, Path], name: str) -> None:
    with opened(browser, pages[name]) as (page, _):
        for width in (320, 375, 768, 1600):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            # 说明文字本身要在屏内，不能靠横向滚动
            widest = "all => Math.max(...all.map(one => one.getBoundingClientRect().right))"
            assert page.locator("h1, p, .glance li, .notes li, summary").evaluate_all(widest) <= width


def test_names_are_shown_as_they_are_written(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["wild names"]) as (page, _):
        assert page.locator("h1").inner_text() == WILD
        assert page.locator(".glance .title").first.inner_text() == WILD
        assert WILD in page.locator("td").all_inner_texts()


CONTRASTS = """() => {
  const light = c => c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = text => text.match(/[0-9.]+/g).map(Number);
  const behind = one => {
    for (; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const one of document.querySelectorAll('h1, h2, p, li, span, td, th, caption, summary, svg text')) {
    if (!one.textContent.trim()) continue;
    const style = getComputedStyle(one);
    const ink = light(numbers(one.closest('svg') ? style.fill : style.color)), paper = light(behind(one));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    found.push([ratio, one.tagName, one.textContent.slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_in_light_and_dark(browser: Any, pages: dict[str, Path], scheme: str) -> None:
    with opened(browser, pages["every word"], scheme=scheme) as (page, _):
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 100
        # WCAG AA
        assert contrasts[0][0] >= 4.5, contrasts[0]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_equivalent_and_inconclusive_share_neither_colour_nor_sentence(
    browser: Any, pages: dict[str, Path], scheme: str
) -> None:
    with opened(browser, pages["every word"], scheme=scheme) as (page, _):
        coloured = "all => all.map(one => [one.textContent, getComputedStyle(one).color])"
        colours = dict(page.locator(".badge").evaluate_all(coloured))
        assert {"supports", "contradicts", "equivalent", "inconclusive", "diverged on 1 of 8"} == set(colours)
        assert len(set(colours.values())) == 5
        drawn = page.locator("figure svg text").evaluate_all(
            "all => all.map(one => [one.textContent, getComputedStyle(one).fill])"
        )
        for word, colour in colours.items():
            assert colour in {fill for text, fill in drawn if text == word}
        for text in page.locator("li, td, p, figcaption").all_inner_texts():
            assert not {"equivalent", "inconclusive"} <= set(text.lower().replace(":", " ").split())


def test_paper_gets_everything_in_black_on_white(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["every word"], scheme="dark") as (page, _):
        assert not page.locator("details table").first.is_visible()
        page.emulate_media(media="print")
        assert page.locator("details table").first.is_visible()
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
        printed = page.pdf(format="A4")
        assert printed.startswith(b"%PDF")
        assert 2 <= len(re.findall(rb"/Type /Page\b", printed)) <= 12


SPLIT = """() => [...document.querySelectorAll('td.number, tbody th, .glance .number')].filter(one => {
  const range = document.createRange();
  range.selectNodeContents(one);
  const tops = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
  return one.checkVisibility() && tops.size > 1;
}).map(one => one.textContent)"""


def test_on_paper_no_number_and_no_name_breaks_and_no_table_is_wider_than_the_sheet(
    browser: Any, pages: dict[str, Path]
) -> None:
    # A4 除去两边各 14 毫米，每英寸 96 点
    sheet = int((210 - 28) / 25.4 * 96)
    with opened(browser, pages["every word"], sheet) as (page, _):
        page.emulate_media(media="print")
        assert page.evaluate(SPLIT) == []
        # 再长的区间也不挤掉左边的说明
        page.locator(".glance .interval").evaluate_all("all => all.forEach(one => one.append(' · and more'.repeat(9)))")
        narrowest = "all => Math.min(...all.map(one => one.getBoundingClientRect().width))"
        assert page.locator(".glance .title").evaluate_all(narrowest) >= 200
        widest = "all => Math.max(...all.map(one => one.getBoundingClientRect().right))"
        assert page.locator("table, figure svg:visible").evaluate_all(widest) <= sheet
        verdicts = page.locator("table").first
        assert verdicts.locator("thead th.aside").count() > 0
        assert not verdicts.locator("thead th.aside").first.is_visible()
        assert "(printed without 1 column)" in verdicts.locator("caption").inner_text()


def test_a_phone_gets_charts_of_its_own_width_with_text_that_can_be_read(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["every word"], 390) as (page, _):
        charts = page.locator("figure .narrow svg:visible")
        assert charts.count() >= 3
        boxes = charts.evaluate_all(
            "all => all.map(one => [one.getBoundingClientRect().right, one.parentElement.scrollWidth])"
        )
        assert all(right <= 390 and inner <= 390 for right, inner in boxes)
        # 放不下的表可以横着滚动，边上的阴影说明那里还有
        shadow_of = "getComputedStyle(one).backgroundImage"
        shadows = page.locator(".scroll").evaluate_all(
            f"all => all.filter(one => one.scrollWidth > one.clientWidth).map(one => {shadow_of})"
        )
        assert shadows
        assert all(shadow.count("linear-gradient") == 4 for shadow in shadows)
        heights = charts.locator("text").evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")
        assert min(heights) >= 8
        # 窄不下来的图仍可横着滚动，宽屏上每张只见一次
        pictures = page.locator("figure").count()
        assert page.locator("figure svg:visible, figure img:visible").count() == pictures
        page.set_viewport_size({"width": 1100, "height": 800})
        assert page.locator("figure svg:visible, figure img:visible").count() == pictures


def test_forty_arms_are_all_shown(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["40 arms"], 375) as (page, _):
        assert page.locator(".glance li").count() == 40
        assert page.locator("table").first.locator("tbody tr").count() == 41
    assert pages["40 arms"].stat().st_size < 1_000_000


def test_nothing_finished_is_said_so(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["nothing finished"]) as (page, _):
        assert "0 complete seeds of 8 planned" in page.locator(".kicker").inner_text()
        assert page.locator(".glance .number").all_inner_texts() == ["no difference measured"] * 5
